"""Diagrams of the data: the microscope, the score, sampling, and the split."""

import math

import numpy as np

from diagrams.canvas import AMBER, BLUE, GREEN, INK, MUTED, PINK, RED, Canvas, blob
from synthseg import metrics


def fibsem() -> Canvas:
    """How a focused ion beam and an electron beam make a volume."""
    c = Canvas("How FIB-SEM makes a volume: mill, scan, repeat", 300)
    # A block of tissue in oblique projection; its front is the face that is scanned.
    x, y, w, h, dx, dy = 24, 120, 104, 104, 46, -34
    c.shape([(x, y), (x + dx, y + dy), (x + w + dx, y + dy), (x + w, y)], INK, 0.06, INK)
    side = [(x + w, y), (x + w + dx, y + dy), (x + w + dx, y + h + dy), (x + w, y + h)]
    c.shape(side, INK, 0.16, INK)
    c.micrograph(x, y, w, [blob(0.35, 0.4, 0.24, 0.13, 30), blob(0.7, 0.75, 0.2, 0.1, -25)])
    # The layer that goes next: a strip along the front of the top and of the side.
    u, v = 0.16 * dx, 0.16 * dy
    c.shape([(x, y), (x + u, y + v), (x + w + u, y + v), (x + w, y)], RED, 0.55)
    c.shape([(x + w, y), (x + w + u, y + v), (x + w + u, y + h + v), (x + w, y + h)], RED, 0.55)
    c.arrow((x + 62, 40), (x + 62, y - 6), colour=RED)
    c.text(x + 70, 34, "ion beam", colour=RED, bold=True)
    c.arrow((x + 16, 272), (x + 40, y + h - 26), colour=BLUE)
    c.text(x - 10, 287, "electron beam", colour=BLUE, bold=True, anchor="start")
    c.text(196, 56, "1  mills a thin layer away", anchor="start")
    c.text(196, 76, "2  scans the fresh face", anchor="start")
    c.text(196, 96, "3  and again, layer by layer", anchor="start")
    # The stack of faces.
    for k in reversed(range(4)):
        left, top = 232 + 20 * k, 176 - 14 * k
        c.add("rect", x=left, y=top, width=78, height=78, fill="#ffffff")
        c.micrograph(left, top, 78, [blob(0.33 + 0.03 * k, 0.4, 0.24 - 0.02 * k, 0.13, 30)])
    c.arrow((316, 262), (384, 214), colour=MUTED)
    c.text(368, 248, "z", italic=True, colour=MUTED)
    c.text(272, 274, "x", italic=True, colour=MUTED)
    c.text(222, 220, "y", italic=True, colour=MUTED)
    c.arrow((186, 190), (222, 190))
    c.note(300, 293, "a volume: one slice a layer")
    return c


def dice() -> Canvas:
    """The Dice score of a prediction, counted on a grid of pixels."""
    rows, columns, side = 8, 10, 21
    y, x = np.mgrid[:rows, :columns]
    mask = ((x - 4) / 3.3) ** 2 + ((y - 3.5) / 2.6) ** 2 <= 1
    found = ((x - 5.6) / 2.9) ** 2 + ((y - 4.2) / 2.3) ** 2 <= 1
    counts = metrics.count(found[None, ..., None], mask[None, ..., None])
    tp, fp = int(counts.true_positive[0]), int(counts.false_positive[0])
    fn = int(counts.false_negative[0])
    c = Canvas("The Dice score of one prediction, counted in pixels", 285)
    left, top = 12, 34
    kinds = {"both": GREEN, "prediction": BLUE, "mask": AMBER, "neither": "none"}
    for row in range(rows):
        for column in range(columns):
            pair = bool(mask[row, column]), bool(found[row, column])
            kind = {(True, True): "both", (False, True): "prediction", (True, False): "mask"}
            c.add(
                "rect",
                x=left + column * side,
                y=top + row * side,
                width=side,
                height=side,
                fill=kinds[kind.get(pair, "neither")],
                fill_opacity="0.55",
                stroke=MUTED,
                stroke_width=0.5,
            )
    c.text(left + columns * side / 2, 22, "mask and prediction, overlaid", bold=True)
    legend = [
        (GREEN, f"TP = {tp}", "in both"),
        (BLUE, f"FP = {fp}", "predicted only"),
        (AMBER, f"FN = {fn}", "in the mask only"),
        ("none", "TN", "in neither: not counted"),
    ]
    for k, (colour, name, meaning) in enumerate(legend):
        high = 46 + 41 * k
        c.add(
            "rect", x=236, y=high, width=16, height=16, fill=colour, fill_opacity="0.55", stroke=INK
        )
        c.text(260, high + 13, name, bold=True, anchor="start")
        c.note(260, high + 29, meaning, anchor="start")
    score = counts.dice()[0]
    c.text(200, 236, "Dice = 2 TP / (2 TP + FP + FN)", size=14)
    total = 2 * tp + fp + fn
    c.text(200, 262, f"= {2 * tp} / {total} = {score:.2f}", size=14, bold=True)
    return c


def aliasing() -> Canvas:
    """Sampling too sparsely: a false wave, and the folding of the spectrum."""
    c = Canvas("Aliasing: sampled too sparsely, fine detail folds back to a false frequency", 390)
    left, step, middle, height = 24, 27.0, 84, 34
    c.text(200, 20, "a fine wave, kept at one pixel of many", bold=True)
    period = step * 1.25  # too short for the samples: it shows as five steps long

    def wave(x: float, length: float) -> float:
        return middle - height * math.sin(2 * math.pi * x / length)

    xs = np.arange(0, 13 * step + 1, 1.5)
    c.line([(left + x, wave(x, period)) for x in xs], MUTED, width=1.2)
    c.line(
        [(left + x, middle + height * math.sin(2 * math.pi * x / step / 5)) for x in xs],
        RED,
        width=2,
    )
    for k in range(14):
        x = k * step
        c.add("circle", cx=left + x, cy=wave(x, period), r=4, fill=RED)
    c.note(200, 146, "grey: what is there    red: what the kept pixels show")

    base, top, origin, nyquist = 340, 190, 46, 206
    c.text(200, 184, "the same in the spectrum: it folds", bold=True)
    c.arrow((origin, base), (392, base))
    c.arrow((origin, base), (origin, top + 6))

    def power(x: float) -> float:
        return 128 * math.exp(-(x - origin) / 118)

    xs = np.arange(origin, 367, 4.0)
    beyond = [x for x in xs if x >= nyquist]
    folded = [(2 * nyquist - x, power(x)) for x in beyond]
    shown = [(x, power(x) + power(2 * nyquist - x)) for x, _ in reversed(folded)]
    c.shape(
        [(x, base - p) for x, p in shown] + [(x, base - power(x)) for x, _ in folded], RED, 0.35
    )
    tail = [(x, base - power(x)) for x in beyond]
    c.shape([(nyquist, base), *tail, (beyond[-1], base)], MUTED, 0.25)
    c.line([(x, base - power(x)) for x in xs], INK, width=1.8)
    c.line([(x, base - p) for x, p in shown], RED, width=2)
    c.line([(nyquist, base + 6), (nyquist, top + 14)], MUTED, dashed=True)
    c.text(nyquist, base + 21, "1 / (2 Δ)", size=13)
    c.text(origin, base + 21, "0", size=13)
    c.note(384, base + 21, "frequency", anchor="end")
    c.note(origin + 8, top + 16, "power", anchor="start")
    c.add(
        "path",
        d="M 300,304 Q 262,226 158,246",
        fill="none",
        stroke=RED,
        stroke_width=1.5,
        marker_end="url(#tip)",
    )
    c.text(
        264, 232, "too fine for the grid:\nturns up over there", size=12, anchor="start", colour=RED
    )
    c.note(200, 383, "red: nearest neighbour keeps it    black: what is truly there")
    return c


def _block(c: Canvas, x: float, y: float, length: float, colour: str, face: str) -> None:
    """A part of a stack: `length` is its depth along z, drawn to the right."""
    w, dx, dy, high = length, 34, -26, 78
    c.shape([(x, y), (x + dx, y + dy), (x + w + dx, y + dy), (x + w, y)], colour, 0.3, INK)
    c.shape([(x, y), (x + w, y), (x + w, y + high), (x, y + high)], colour, 0.5, INK)
    c.text(x + w / 2, y + high / 2 + 5, face, bold=True)


def _end(c: Canvas, x: float, y: float, colour: str) -> None:
    """The face at the far end of a stack."""
    c.shape([(x, y), (x + 34, y - 26), (x + 34, y + 52), (x, y + 78)], colour, 0.18, INK)


def split() -> Canvas:
    """The parts of the data in three dimensions."""
    c = Canvas(
        "The split: training part, gap and validation part of one stack; a test part apart", 338
    )
    c.text(200, 20, "one stack, cut along z", bold=True)
    y = 96
    _block(c, 14, y, 196, BLUE, "train")
    _block(c, 210, y, 48, INK, "")
    _block(c, 258, y, 90, AMBER, "validation")
    _end(c, 348, y, AMBER)
    c.text(234, y + 96, "gap", bold=True)
    c.note(112, y + 96, "the network learns here")
    c.note(322, y + 96, "choices are made here")
    c.arrow((14, y + 112), (348, y + 112), colour=MUTED)
    c.text(360, y + 116, "z", italic=True, colour=MUTED)
    # A mitochondrion that is longer than a slice is thick, and ends within the gap.
    c.shape([(176, 124), (186, 114), (230, 116), (244, 124), (232, 134), (184, 133)], PINK, 1, INK)
    c.arrow((176, 56), (202, 112))
    c.text(170, 50, "one mitochondrion, many slices", size=12)
    _block(c, 90, 250, 130, GREEN, "test")
    _end(c, 220, 250, GREEN)
    c.note(266, 280, "another stack:\nfor the final score", anchor="start")
    return c
