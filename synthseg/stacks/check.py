"""What images and masks hold: the pixels that count, and what looks odd.

Each function looks at one stack, by itself; `compare` sets stacks beside each other.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthseg.stacks.findings import Finding, Severity, Stack, digest, some
from synthseg.stacks.grey import grey_range

LOW_CONTRAST = 10  # grey values of 255 that hold the middle nine tenths of the pixels
HARDLY_ANY = 0.01  # part of the foreground; fewer soft pixels than this are rounded
CONTINUITY = 0.5  # least correlation of a slice with the most similar one, to judge the order
LEAST_ORDER = 6  # slices, to judge it: of few, the mean slice holds much of each
OWN_PART = 0.12  # a slice that differs less than this from the mean slice says nothing of order
OUT_OF_ORDER = 0.03  # least gain in the correlations of neighbours if one slice is moved

Ranges = list[tuple[float, float]]

# --- Images -----------------------------------------------------------------------------------


def check_image(stack: Stack) -> Iterator[Finding]:
    """Look for a mask in place of an image, odd ranges, and blank, repeated or misplaced slices."""
    image = stack.pixels
    if all(len(np.unique(page)) <= 2 for page in image):
        what = "holds no more than two grey values in any slice, so it looks like a mask"
        yield from stack.found("error", what, "the image comes first, the mask second")
        return
    low, high, padding = grey_range(image)
    # Grey values are scaled as float32, which must tell 256 of them apart.
    finest = float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    if not high - low > max(256 * finest, 1e-30):
        remedy = "check that it is the image, and its export"
        yield from stack.found("error", f"is {low:g} almost everywhere", remedy)
        return
    scaled = image.dtype != np.uint8
    if padding and scaled:
        what = f"holds padding ({some([f'{value:g}' for value in padding])}), apart from all else"
        remedy = "it does not count for the contrast; better cut it off"
        yield from stack.found("warning", what, remedy)
    if scaled:
        what = f"is {image.dtype} from {image.min():g} to {image.max():g} and was scaled to 8 bit, "
        what += f"with {low:g} and below as 0, {high:g} and above as 255 (percentiles 0.1 and 99.9)"
        yield from stack.found("note", what, "give 8-bit images if you want another range")
    dark, bright = np.percentile(image[:, ::4, ::4], (5, 95)).tolist()
    if bright - dark < LOW_CONTRAST * ((high - low) / 255 if scaled else 1):
        what = f"has little contrast: nine tenths of its greys are from {dark:g} to {bright:g}"
        remedy = "export the original range again, or stretch the contrast of the whole stack"
        yield from stack.found("warning", what, remedy)
    spans = [np.ptp(np.percentile(page[::2, ::2], (1, 99))) for page in image]
    blank = [index for index, span in enumerate(spans) if span < LOW_CONTRAST / 255 * (high - low)]
    remedy = "if it was lost, leave out image and mask"
    yield from stack.found("warning", "is blank", remedy, blank)
    first: dict[str, int] = {}
    kept = [index for index in range(len(image)) if index not in blank]
    same = [index for index in kept if first.setdefault(digest(image[index]), index) != index]
    what = "is the same picture as an earlier one"
    yield from stack.found("warning", what, remedy, same)
    yield from _check_order(stack, [*first.values()], low, high)


def small_copies(image: NDArray, low: float, high: float) -> NDArray[np.float32]:
    """Small copies of slices as unit vectors (depth, n), without what all slices share."""
    step = max(1, min(image.shape[1:]) // 64)
    grid = np.s_[step // 2 :: step, step // 2 :: step]
    clipped = (page.astype(np.float32).clip(low, high) for page in image)
    flat = np.stack([ndimage.uniform_filter(page, step)[grid].ravel() for page in clipped])
    # Shading says nothing of the order: neither that of a slice, a surface of second degree ...
    y, x = np.indices(image[0][grid].shape, np.float32)
    surface, _ = np.linalg.qr(np.stack([x**0, y, x, y * y, y * x, x * x]).reshape(6, -1).T)
    whole = np.linalg.norm(flat - flat.mean(axis=1, keepdims=True), axis=1)
    flat -= (flat @ surface) @ surface.T
    flat -= flat.mean(axis=0)  # ... nor what all slices share.
    own = np.linalg.norm(flat, axis=1)
    flat[own <= OWN_PART * whole] = 0
    flat /= np.maximum(own, 1e-6)[:, None]
    return flat


def _check_order(stack: Stack, kept: list[int], low: float, high: float) -> Iterator[Finding]:
    """Warn of slices that would fit clearly better between two others than where they are.

    For every slice the gain is computed in the sum of correlations of neighbours, if that slice
    alone were moved to the best other place.
    """
    depth = len(kept)
    if depth < LEAST_ORDER:
        return
    copies = small_copies(stack.pixels, low, high)[kept]
    alike = (copies @ copies.T).astype(np.float64)
    nearest = float(np.median((alike - 2 * np.eye(depth)).max(axis=1)))
    if nearest < CONTINUITY:
        what = f"holds slices that resemble each other little (correlation {nearest:.2f})"
        remedy = "their order cannot be judged; if they are single images, they are no stack"
        yield from stack.found("note", what, remedy)
        return
    # Taken out: the links to both neighbours are lost, the neighbours become linked.
    links = np.pad(np.diagonal(alike, 1), 1)  # before each slice, and after the last one
    present, bridge = links[:-1] + links[1:], np.pad(np.diagonal(alike, 2), 1)
    # Put in before `target`: (slice, target); target = depth is the end.
    new = np.pad(alike, ((0, 0), (1, 0))) + np.pad(alike, ((0, 0), (0, 1)))
    gain = new - links - (present - bridge)[:, None]
    neighbours = np.full(depth + 1, 2)
    neighbours[[0, -1]] = 1
    present /= np.where(np.arange(depth) % (depth - 1) == 0, 1, 2)
    fits = new / neighbours >= np.maximum(present, CONTINUITY)[:, None]
    away = np.arange(depth + 1) - np.arange(depth)[:, None]
    gain[~fits | (away == 0) | (away == 1)] = 0
    misplaced = [kept[index] for index in np.flatnonzero(gain.max(axis=1) > OUT_OF_ORDER)]
    what = "looks more like slices elsewhere than like those beside it"
    remedy = "check the order of z, of images and masks"
    yield from stack.found("warning", what, remedy, misplaced)


# --- Masks ------------------------------------------------------------------------------------


def read_mask(
    stack: Stack, chosen: Ranges | None = None
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Decide which pixels count as the structure: those of the `chosen` values, or all above 0."""
    pixels = stack.pixels
    if chosen:
        marked, spans = _within(pixels, chosen)
        what = f"counts where it is {spans}, as you say"
        return marked, stack.found("note", what, "all else is background")
    if pixels.dtype.kind == "f" and any((page % 1).any() for page in pixels):
        remedy = "if they are probabilities, say which count, at the end of the name: :mask=0.5-1"
        return pixels > 0, stack.found("error", "holds fractions", remedy)
    counts: Counter[float] = Counter()
    single = True
    for page in pixels:
        values_here, numbers = np.unique(page, return_counts=True)
        single &= len(values_here) < 3
        counts.update(dict(zip(values_here.tolist(), numbers.tolist(), strict=True)))
    notes: list[Finding] = []
    if min(counts) < 0:
        what = "holds values below 0, which count as background"
        remedy = f"if they mean 'not annotated', end the name in :ignore={min(counts):g}"
        notes = stack.found("warning", what, remedy)
    values = sorted(value for value in counts if value > 0)
    if len(values) < 2 or (single and {*values} <= {1, 255, 65535}):  # slices of several depths
        return pixels > 0, notes
    *lower, top = values
    if _flat(pixels, top) < 0.5:
        inner = sum(counts[value] for value in lower)
        if inner < HARDLY_ANY * (inner + counts[top]):
            what = f"holds {inner} grey pixels between 0 and {top:g}, which were rounded"
            return pixels > top / 2, notes + stack.found("warning", what, "export it as 0 and 255")
        what = f"has soft edges: {len(values) + 1} values up to {top:g}, with steps in between, as "
        what += "after smoothing, resizing or JPEG"
        remedy = f"say which values count, at the end of the name: :mask={top // 2 + 1:g}-{top:g}"
        return pixels > 0, notes + stack.found("error", what, remedy)
    if top in (255, 65535) and lower[-1] < min(128, 2 * len(values)):
        what = f"holds {top:g} beside {some(lower, 4)}, which looks like 'ignore'; it counts as "
        what += f"background ({counts[top] / pixels.size:.1%} of all pixels)"
        remedy = f"to leave it out of training and scores, end the name in :ignore={top:g}; if it "
        remedy += f"is the structure, too, in :mask=1-{top:g}"
        return (pixels > 0) & (pixels < top), notes + stack.found("warning", what, remedy)
    return pixels > 0, notes + _number(stack, values)


def leave_out(stack: Stack, chosen: Ranges) -> Stack:
    """Set pixels of the `chosen` values apart: background that counts in no loss and no score."""
    ignored, spans = _within(stack.pixels, chosen)
    what = f"is left out of training and scores where it is {spans} ({ignored.mean():.1%})"
    notes = stack.found("note", what, "synthetic images take such pixels for background")
    if not ignored.any():
        notes = stack.found("warning", f"is nowhere {spans}, to be ignored", "check :ignore=")
    pixels, findings = np.where(ignored, 0, stack.pixels), [*stack.findings, *notes]
    return replace(stack, pixels=pixels, ignored=ignored, findings=findings)


def _within(pixels: NDArray, chosen: Ranges) -> tuple[NDArray[np.bool_], str]:
    inside = np.zeros(pixels.shape, bool)
    for low, high in chosen:
        inside |= (pixels >= low) & (pixels <= high)
    return inside, ", ".join(f"{a:g}" if a == b else f"{a:g}-{b:g}" for a, b in chosen)


def _flat(pixels: NDArray, top: float) -> float:
    """Part of the values between 0 and the highest that equal at least 3 of their 4 neighbours.

    Numbers of objects and classes do, soft edges don't.
    """
    between = flat = 0
    for page in pixels:
        chosen = (page > 0) & (page < top)
        wide = np.pad(page, 1, mode="edge")
        sides = (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:])
        equal = sum((side == page).astype(np.uint8) for side in sides)
        between += int(chosen.sum())
        flat += int((chosen & (equal >= 3)).sum())
    return flat / max(between, 1)


def _number(stack: Stack, values: list[float]) -> list[Finding]:
    """Say how several values were understood: classes, or numbers of objects."""
    what = f"holds {len(values)} values above 0 ({some([f'{value:g}' for value in values], 4)})"
    thin = stack.pixels[:, ::2, ::2]
    pieces = [ndimage.label(thin == value)[1] for value in values] if len(values) <= 10 else [0]
    if np.median(pieces) > 3:
        what += ", each in many places, like classes; all of them count"
        remedy = f"if only some do, name them at the end of the name, as in :mask={values[-1]:g}"
        return stack.found("warning", what, remedy)
    if values[-1] == 255 and stack.pixels.dtype == np.uint8 and len(values) > 10:
        what += ", up to the highest that 8 bit hold; of more objects some may be missing"
        return stack.found("warning", what, "export the numbers with 16 bit, or as 0 and 255")
    what += ", taken as numbers of single objects: all of them count"
    return stack.found("note", what, "if a value means something else, set it to 0")


def check_mask(stack: Stack) -> Iterator[Finding]:
    """Look for inverted and empty masks, and for parts that were not annotated."""
    mask = stack.pixels.astype(bool, copy=False)
    part = float(mask.mean())
    if part in (0, 1):
        what = f"marks {'every' if part else 'no'} pixel of the whole volume"
        yield from stack.found("error", what, "masks are 0 for background and above 0 for objects")
        return
    if part > 0.5:
        what = f"marks {part:.1%} of all pixels, as if inverted"
        remedy = "exchange 0 and 255, unless the objects fill so much"
        yield from stack.found("warning", what, remedy)
    else:
        # Slices that mark more than half, and agree with the next by less than 3 pixels in 10.
        differ = [True, *((page == after).mean() < 0.3 for page, after in pairwise(mask)), True]
        sizes = mask.mean(axis=(1, 2))
        inverted = [z for z, size in enumerate(sizes) if size > 0.5 and differ[z] and differ[z + 1]]
        what = "is inverted compared with slices beside"
        yield from stack.found("error", what, "exchange 0 and 255 there", inverted)
    if stack.ignored is not None:
        mask = mask | stack.ignored  # somebody has looked there
    empty = np.flatnonzero(~mask.any(axis=(1, 2))).tolist()
    severity: Severity = "warning" if len(empty) >= max(2, len(mask) / 4) else "note"
    remedy = "check that there are no objects, or leave out image and mask"
    yield from stack.found(severity, "marks nothing", remedy, empty)
    (top, bottom), (left, right) = (
        np.flatnonzero(mask.any(axis=axes))[[0, -1]] for axes in ((0, 2), (0, 1))
    )
    part = float((bottom + 1 - top) * (right + 1 - left) / mask[0].size)
    if part < 0.75 and part ** ndimage.label(mask[:, ::2, ::2])[1] < 1e-4:
        what = f"marks objects in the rows {top}:{bottom + 1}, columns {left}:{right + 1} alone; "
        what += "all else counts as background"
        yield from stack.found("warning", what, "cut image and mask to what was annotated")
