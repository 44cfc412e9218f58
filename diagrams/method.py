"""Diagrams of the method: the chain, two clouds, composed masks, and the ladder of arms."""

import math
from itertools import pairwise

import numpy as np

from diagrams.canvas import AMBER, BLUE, GREEN, INK, MUTED, PINK, RED, TWO, Canvas, Point, blob
from synthseg import arms, frechet, masks


def chain() -> Canvas:
    """From annotated slices to scores, and the way round through the generator."""
    c = Canvas("The chain: real images, generated images, a segmenter, and its score", 410)
    c.text(200, 18, "real images, and masks drawn by an expert", bold=True)
    c.micrograph(76, 30, 72, TWO)
    c.mask(222, 30, 72, TWO)
    c.note(112, 118, "image x")
    c.note(258, 118, "mask y")
    c.line([(150, 66), (220, 66)], MUTED, dashed=True)
    c.note(185, 60, "a pair")
    # The way round.
    c.box(206, 150, 104, 40, "generator G", GREEN)
    c.arrow((258, 124), (258, 148))
    c.note(320, 168, "learns from\nthe pairs", anchor="start")
    c.arrow((258, 190), (258, 212))
    turned = [[(1 - v, u) for u, v in one] for one in TWO]
    c.micrograph(222, 214, 72, turned)
    c.note(304, 246, "as many as\none likes", anchor="start")
    c.note(212, 232, "generated", anchor="end")
    c.note(212, 247, "image G(y)", anchor="end")
    # The segmenter.
    c.box(60, 304, 280, 36, "segmenter M: image in, mask out", BLUE)
    c.arrow((112, 124), (112, 302))
    c.arrow((258, 288), (258, 302))
    c.note(122, 172, "the usual way", anchor="start")
    c.arrow((200, 340), (200, 364))
    c.text(200, 384, "Dice on real slices that it has not seen", bold=True)
    c.text(200, 402, "is it higher with generated images?", size=13)
    return c


def yardsticks() -> Canvas:
    """Two ways to judge generated images."""
    c = Canvas(
        "Two yardsticks for generated images: how near to real ones, and what they teach", 300
    )
    for k in range(3):
        turned = [[(u * math.cos(k) + 0.2 * k, v) for u, v in one] for one in TWO[k % 2 :]]
        inside = [[(min(0.97, max(0.03, u)), v) for u, v in one] for one in turned]
        c.add("rect", x=152 + 14 * k, y=34 + 10 * k, width=66, height=66, fill="#ffffff")
        c.micrograph(152 + 14 * k, 34 + 10 * k, 66, inside)
    c.text(200, 20, "images of one generator, and their masks", bold=True)
    c.arrow((146, 92), (96, 138), colour=BLUE)
    c.arrow((254, 92), (306, 138), colour=GREEN)
    c.box(14, 142, 164, 50, "how near are they\nto real images?", BLUE)
    c.box(222, 142, 164, 50, "how well does a\nsegmenter learn?", GREEN)
    c.arrow((96, 192), (96, 214), colour=BLUE)
    c.arrow((304, 192), (304, 214), colour=GREEN)
    c.text(96, 234, "Fréchet distance, KID", bold=True)
    c.note(96, 251, "masks play no part")
    c.text(304, 234, "Dice on real slices", bold=True)
    c.note(304, 251, "one training run each")
    c.line([(96, 268), (96, 284), (304, 284), (304, 268)], MUTED)
    c.add("rect", x=120, y=272, width=160, height=24, fill="#ffffff")
    c.text(200, 289, "does one tell the other?", colour=RED, bold=True)
    return c


def _cloud(rng: np.random.Generator, centre: Point, spread: np.ndarray) -> np.ndarray:
    return np.array(centre) + rng.normal(size=(70, 2)) @ spread


def frechet_clouds() -> Canvas:
    """Fréchet distance: two clouds of features, each a mean and a covariance."""
    rng = np.random.default_rng(3)
    real = _cloud(rng, (128, 178), np.array([[44, 16], [-10, 30]]))
    generated = _cloud(rng, (282, 116), np.array([[18, 10], [-3, 11]]))
    c = Canvas("The Fréchet distance compares two clouds of features by mean and covariance", 346)
    c.text(112, 24, "real images", bold=True, colour="#a06c00")
    c.text(300, 24, "generated images", bold=True, colour=BLUE)
    means = []
    for points, colour in ((real, AMBER), (generated, BLUE)):
        for x, y in points:
            c.add("circle", cx=x, cy=y, r=2.6, fill=colour, fill_opacity="0.65")
        mean, covariance = points.mean(axis=0), np.cov(points.T)
        values, vectors = np.linalg.eigh(covariance)
        turn = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        c.add(
            "ellipse",
            rx=2 * math.sqrt(values[1]),
            ry=2 * math.sqrt(values[0]),
            transform=f"translate({mean[0]:.1f} {mean[1]:.1f}) rotate({turn:.0f})",
            fill="none",
            stroke=colour,
            stroke_width=2,
        )
        means.append(mean)
    (x1, y1), (x2, y2) = means
    c.arrow((x1, y1), (x2 - 6, y2 + 3), colour=RED)
    for x, y in means:
        c.add("circle", cx=x, cy=y, r=4.5, fill=INK)
    c.text(x1 - 8, y1 + 18, "m₁", bold=True)
    c.text(x2 + 14, y2 + 18, "m₂", bold=True)
    c.note(330, 176, "small cloud:\nlittle variety")
    c.text(200, 306, "d = how far the means are apart", colour=RED, bold=True)
    c.text(200, 324, "+ how much width and direction of the clouds differ", bold=True)
    c.note(200, 341, "a point: one image, as a network for photographs sees it")
    # The sketch has to say what the formula says.
    whole = frechet.frechet_distance(real, generated)
    assert 0 < (x1 - x2) ** 2 + (y1 - y2) ** 2 < whole
    return c


SCENE = [
    blob(0.3, 0.25, 0.2, 0.1, 20),
    blob(0.76, 0.36, 0.14, 0.09, 80),
    blob(0.28, 0.74, 0.17, 0.08, -35),
    blob(0.72, 0.78, 0.1, 0.09, 0),
]


def turned(points: list[Point], orientation: int, centre: Point = (0.5, 0.5)) -> list[Point]:
    """Points of the unit square in one of its eight orientations, as `masks.orient` turns."""
    moved = []
    for u, v in points:
        u, v = u - centre[0], v - centre[1]
        if orientation & 4:
            u = -u
        for _ in range(orientation & 3):
            u, v = v, -u
        moved.append((u + centre[0], v + centre[1]))
    return moved


def composing() -> Canvas:
    """The original rule for new masks, and the corrected one."""
    c = Canvas(
        "New masks from the components of old ones: the original rule and the corrected one", 384
    )
    c.text(200, 18, "the original rule: one mask, its own pieces", bold=True)
    c.mask(14, 30, 92, SCENE)
    c.note(60, 138, "a real mask")
    c.arrow((110, 76), (148, 76))
    c.text(196, 54, "draw pieces,\nsome twice;\nturn, flip each\nabout the centre", size=12)
    c.arrow((244, 76), (286, 76))
    drawn = [turned(SCENE[0], 5), turned(SCENE[0], 7), turned(SCENE[2], 6)]
    c.mask(292, 30, 92, drawn)
    c.note(338, 138, "the new mask")
    c.line([(14, 156), (386, 156)], MUTED, width=0.7)

    c.text(200, 178, "the corrected rule: pieces of all slices", bold=True)
    pieces = [SCENE[0], SCENE[1], SCENE[3], SCENE[2], blob(0.5, 0.5, 0.22, 0.07, 60), SCENE[1]]
    for k, piece in enumerate(pieces):
        u = sum(x for x, _ in piece) / len(piece)
        v = sum(y for _, y in piece) / len(piece)
        x, y = 30 + 32 * (k % 3), 214 + 44 * (k // 3)
        c.shape([(x + 70 * (p - u), y + 70 * (q - v)) for p, q in piece], AMBER)
    c.add(
        "rect", x=8, y=188, width=110, height=98, fill="none", stroke=MUTED, stroke_dasharray="4 3"
    )
    c.note(63, 304, "bank of whole pieces")
    c.arrow((122, 236), (146, 236))
    c.text(
        202,
        210,
        f"as many as a\nreal crop has,\nno piece twice;\nany of {masks.EIGHT} turns,\nany place",
        size=12,
    )
    c.arrow((254, 236), (272, 236))
    candidates = [
        [turned(SCENE[1], 1), turned(SCENE[2], 4)],
        [turned(SCENE[0], 1), turned(SCENE[3], 0)],
        [turned(SCENE[3], 2)],
    ]
    for k, candidate in enumerate(candidates):
        c.mask(278, 190 + 40 * k, 34, candidate)
    c.arrow((316, 247), (334, 247), colour=GREEN)
    c.mask(338, 222, 50, candidates[1])
    c.note(
        330,
        322,
        "candidates; the one kept has the\nforeground that is nearest to a real crop's",
        anchor="end",
    )
    c.text(200, 362, "Every new mask is also a label that nobody had to draw.", size=12)
    return c


RUNGS = ["A0", "A1", "A4", "A5", "A6", "A7", "A8"]
"""The ladder, from below: each arm is the one before with a change."""
BESIDE = {"A1x2": "A1", "A3": "A4", "A2": "A5", "A9": "A8"}
"""Controls and rivals, each drawn above a rung."""


def ladder() -> Canvas:
    """The arms as a ladder, with the claims that differences of arms test."""
    c = Canvas("The ladder of arms: from each rung to the next one thing is added", 488)
    step, low = 64, 428
    heights = {name: low - step * k for k, name in enumerate(RUNGS)}
    tested = [contrast for contrast in arms.CONTRASTS if contrast.claim]

    def number(x: float, y: float, pair: set[str]) -> None:
        """The claim that a pair of arms tests, if there is one."""
        for contrast in tested:
            if pair == {contrast.first, contrast.second} and contrast.measure == "dice":
                c.add("circle", cx=x, cy=y, r=11, fill="#ffffff", stroke=RED)
                c.text(x, y + 4.5, str(contrast.claim), size=12, colour=RED, bold=True)

    for x in (40, 84):
        c.line([(x, low + 16), (x, low - 6 * step - 20)], MUTED, width=3)
    for name, y in heights.items():
        c.add("rect", x=36, y=y - 15, width=52, height=30, rx=4, fill="#ffffff")
        c.box(36, y - 15, 52, 30, name, BLUE, size=14, strength=0.25)
        c.text(98, y + 5, arms.ARMS[name].what, anchor="start")
    for first, second in pairwise(RUNGS):
        number(62, heights[first] - step / 2, {first, second})
    for name, rung in BESIDE.items():
        y = heights[rung] - step / 2 + 2
        colour = PINK if name == "A9" else GREEN
        c.box(296, y - 13, 50, 26, name, colour, strength=0.25)
        c.note(290, y + 4, arms.ARMS[name].what, anchor="end")
        for other in RUNGS:
            number(364, y, {name, other})
    c.note(200, 463, "red: the claim that a step tests, or an arm at the right")
    c.note(200, 480, "beside one of the ladder    green: controls")
    return c


def halves() -> Canvas:
    """Seen and unseen: two networks, each trained on one half of the same tissue."""
    c = Canvas("Seen minus unseen: two networks, each trained on one half of the same tissue", 300)
    c.text(200, 18, "the training volume, cut along z", bold=True)
    c.box(30, 30, 150, 34, "half 1", BLUE, strength=0.3)
    c.box(220, 30, 150, 34, "half 2", AMBER, strength=0.3)
    c.box(180, 30, 40, 34, "", MUTED, strength=0.05, dashed=True)
    c.note(200, 82, "left out")
    c.arrow((105, 64), (105, 104))
    c.arrow((295, 64), (295, 104))
    c.box(50, 106, 110, 34, "network 1", BLUE)
    c.box(240, 106, 110, 34, "network 2", AMBER)
    c.text(200, 166, "and both are scored on both", bold=True)
    words = {(0, 0): "d₁₁", (0, 1): "d₁₂", (1, 0): "d₂₁", (1, 1): "d₂₂"}
    for (network, half), name in words.items():
        seen = network == half
        x, y = 130 + 120 * half, 200 + 40 * network
        c.box(x, y, 110, 34, f"{name}  {'seen' if seen else 'unseen'}", GREEN if seen else PINK)
    for k in range(2):
        c.note(185 + 120 * k, 192, f"on half {k + 1}")
        c.note(120, 221 + 40 * k, f"network {k + 1}", anchor="end")
    c.text(200, 294, "down a column the tissue is the same: only the knowing differs", size=12)
    return c


def joint() -> Canvas:
    """Joint training: two losses of one segmenter, and a generator that learns by itself."""
    c = Canvas("Joint training: the segmenter learns from real and from generated images", 400)
    c.box(20, 16, 140, 36, "real image x, mask y", AMBER)
    c.box(240, 16, 140, 36, "composed mask s", AMBER)
    c.box(262, 84, 96, 38, "generator G", GREEN)
    c.arrow((310, 52), (310, 82))
    c.box(262, 152, 96, 32, "image G(s)", INK, strength=0.05)
    c.arrow((310, 122), (310, 150))
    c.box(14, 226, 372, 36, "segmenter M: the same for both", BLUE)
    c.arrow((70, 52), (70, 224))
    c.arrow((330, 184), (330, 224))
    c.box(130, 152, 106, 32, "discriminator D", PINK)
    c.arrow((262, 168), (238, 168))
    c.box(14, 312, 140, 42, "loss on real\nimages", BLUE)
    c.box(246, 312, 140, 42, "loss on generated\nimages", BLUE)
    c.arrow((70, 262), (70, 310))
    c.arrow((330, 262), (330, 310))
    c.line([(168, 184), (168, 216)], PINK)
    c.line([(168, 270), (168, 336)], PINK)
    c.arrow((168, 336), (244, 336), colour=PINK)
    c.text(178, 298, "r(t) · q", bold=True, anchor="start")
    c.note(178, 352, "weight", anchor="start")
    c.arrow((100, 310), (100, 265), colour=RED, dashed=True)
    c.arrow((364, 310), (364, 265), colour=RED, dashed=True)
    c.arrow((352, 224), (352, 211), colour=RED, dashed=True)
    c.line([(316, 206), (366, 206)], RED, width=4)
    c.text(200, 378, "red, dashed: gradients. They change M alone,", size=12)
    c.text(200, 394, "and stop before they reach the generator.", size=12)
    return c
