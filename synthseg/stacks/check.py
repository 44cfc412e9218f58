"""What images and masks hold: the grey range, the pixels that count, and what looks odd.

Each function looks at one stack, by itself; `compare` sets stacks beside each other.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthseg.stacks.findings import Finding, Stack, digest, some

SCALE_PERCENTILES = (0.1, 99.9)  # a few hot pixels must not decide the contrast
SAMPLE = 1_000_000  # pixels from which percentiles are taken, spread evenly
PADDING = 0.0005  # least part of all pixels, of one value far from all others, to be padding
LOW_CONTRAST = 10  # grey values of 255 that hold the middle nine tenths of the pixels
HARDLY_ANY = 0.01  # part of the foreground; fewer soft pixels than this are rounded
CONTINUITY = 0.5  # least correlation of a slice with the most similar one, to judge the order
LEAST_ORDER = 6  # slices, to judge it: of few, the mean slice holds much of each
OWN_PART = 0.12  # a slice that differs less than this from the mean slice says nothing of order
OUT_OF_ORDER = 0.03  # least gain in the correlations of neighbours if one slice is moved

Ranges = list[tuple[float, float]]

# --- Images -----------------------------------------------------------------------------------


def grey_range(image: NDArray) -> tuple[float, float, list[float]]:
    """The range that holds nearly all grey values, and the values of padding, which don't count."""
    step = max(1, int((image.size / SAMPLE) ** 0.5))
    greys = image[:, ::step, ::step].ravel()
    ends = float(greys.min()), float(greys.max())
    between = greys[(greys != ends[0]) & (greys != ends[1])]
    low, high = map(float, np.percentile(between if between.size else greys, SCALE_PERCENTILES))
    padding = [
        end
        for end in dict.fromkeys(ends if high > low else ())
        if (greys == end).mean() > PADDING and max(low - end, end - high) > 0.25 * (high - low)
    ]
    low, high = map(float, np.percentile(greys[~np.isin(greys, padding)], SCALE_PERCENTILES))
    return low, high, padding


def check_image(stack: Stack) -> Iterator[Finding]:
    """Look for a mask in place of an image, odd ranges, and blank, repeated or misplaced slices."""
    image = stack.pixels
    if all(len(np.unique(page)) <= 2 for page in image):
        what = "holds no more than two grey values in any slice, so it looks like a mask"
        yield stack.whole("error", what, "the image comes first, the mask second")
        return
    low, high, padding = grey_range(image)
    # Grey values are scaled as float32, which must tell 256 of them apart.
    finest = float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    if not high - low > max(256 * finest, 1e-30):
        remedy = "check that it is the image, and its export"
        yield stack.whole("error", f"is {low:g} almost everywhere", remedy)
        return
    yield from _check_range(stack, low, high, padding)
    spans = [np.ptp(np.percentile(page[::2, ::2], (1, 99))) for page in image]
    blank = [index for index, span in enumerate(spans) if span < LOW_CONTRAST / 255 * (high - low)]
    yield from stack.at(blank, "warning", "is blank", "if it was lost, leave out image and mask")
    kept = [index for index in range(len(image)) if index not in blank]
    first: dict[str, int] = {}
    same = [index for index in kept if first.setdefault(digest(image[index]), index) != index]
    what = "is the same picture as an earlier one"
    yield from stack.at(same, "warning", what, "if one was lost, leave out image and mask")
    yield from _check_order(stack, [index for index in kept if index not in same], low, high)


def _check_range(stack: Stack, low: float, high: float, padding: list[float]) -> Iterator[Finding]:
    image = stack.pixels
    scaled = image.dtype != np.uint8
    if padding and scaled:
        what = (
            f"holds padding ({', '.join(f'{value:g}' for value in padding)}), apart from all else"
        )
        yield stack.whole("warning", what, "it does not count for the contrast; better cut it off")
    if scaled:
        what = (
            f"is {image.dtype} from {image.min():g} to {image.max():g} and was scaled to 8 bit, "
            f"with {low:g} and below as 0, {high:g} and above as 255 (percentiles 0.1 and 99.9)"
        )
        yield stack.whole("note", what, "give 8-bit images if you want another range")
    dark, bright = np.percentile(image[:, ::4, ::4], (5, 95)).tolist()
    unit = (high - low) / 255 if scaled else 1
    if bright - dark < LOW_CONTRAST * unit:
        what = (
            f"has little contrast: nine tenths of its grey values are from {dark:g} to {bright:g}"
        )
        remedy = "export the original range again, or stretch the contrast of the whole stack"
        yield stack.whole("warning", what, remedy)


def small_copies(image: NDArray, low: float, high: float) -> NDArray[np.float32]:
    """Small copies of slices as unit vectors (depth, n), without what all slices share."""
    step = max(1, min(image.shape[1:]) // 64)
    grid = np.s_[step // 2 :: step, step // 2 :: step]
    clipped = (page.astype(np.float32).clip(low, high) for page in image)
    small = (ndimage.uniform_filter(page, step)[grid] for page in clipped)
    flat = np.stack([page.ravel() for page in small])
    whole = np.linalg.norm(flat - flat.mean(axis=1, keepdims=True), axis=1)
    flat -= flat.mean(axis=0)  # what all slices share, such as shading, says nothing of order
    flat -= flat.mean(axis=1, keepdims=True)
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
        yield stack.whole("note", what, remedy)
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
    yield from stack.at(misplaced, "warning", what, "check the order of z, of images and masks")


# --- Masks ------------------------------------------------------------------------------------


def read_mask(
    stack: Stack, chosen: Ranges | None = None
) -> tuple[NDArray[np.bool_], list[Finding]]:
    """Decide which pixels count as the structure: those of the `chosen` values, or all above 0."""
    pixels = stack.pixels
    if chosen:
        marked, spans = _within(pixels, chosen)
        what = f"counts where it is {spans}, as you say"
        return marked, [stack.whole("note", what, "all else is background")]
    if pixels.dtype.kind == "f" and any((page % 1).any() for page in pixels):
        remedy = "if they are probabilities, say which count, at the end of the name: :mask=0.5-1"
        return pixels > 0, [stack.whole("error", "holds fractions", remedy)]
    counts: Counter[float] = Counter()
    single = True
    for page in pixels:
        found, numbers = np.unique(page, return_counts=True)
        single &= len(found) < 3
        counts.update(dict(zip(found.tolist(), numbers.tolist(), strict=True)))
    values = sorted(value for value in counts if value > 0)
    notes = []
    if min(counts) < 0:
        what = "holds values below 0, which count as background"
        remedy = f"if they mean 'not annotated', end the name in :ignore={min(counts):g}"
        notes.append(stack.whole("warning", what, remedy))
    if len(values) < 2 or (single and {*values} <= {1, 255, 65535}):  # slices of several depths
        return pixels > 0, notes
    top, inner = values[-1], sum(counts[value] for value in values[:-1])
    shown = some([f"{value:g}" for value in values], 4)
    if _flat(pixels, top) < 0.5:
        if inner < HARDLY_ANY * (inner + counts[top]):
            what = f"holds {inner} grey pixels between 0 and {top:g}, which were rounded"
            notes.append(stack.whole("warning", what, "export it as 0 and 255"))
            return pixels > top / 2, notes
        what = (
            f"has soft edges: {len(values) + 1} values up to {top:g}, with steps in between, as "
            "after smoothing, resizing or JPEG"
        )
        remedy = (
            f"say which values count, at the end of the name, as in :mask={top // 2 + 1:g}-{top:g}"
        )
        return pixels > 0, [*notes, stack.whole("error", what, remedy)]
    if top in (255, 65535) and values[-2] < min(128, 2 * len(values)):
        part = counts[top] / pixels.size
        what = (
            f"holds {top:g} beside {some(values[:-1], 4)}, which looks like 'ignore'; it counts as "
            f"background ({part:.1%} of all pixels)"
        )
        remedy = (
            f"to leave such pixels out of training and scores, end the name in :ignore={top:g}; if "
            f"they are the structure, too, in :mask=1-{top:g}"
        )
        notes.append(stack.whole("warning", what, remedy))
        return (pixels > 0) & (pixels < top), notes
    notes.append(_number(stack, values, shown))
    return pixels > 0, notes


def leave_out(stack: Stack, chosen: Ranges) -> Stack:
    """Set pixels of the `chosen` values apart: background that counts in no loss and no score."""
    ignored, spans = _within(stack.pixels, chosen)
    what = f"is left out of training and scores where it is {spans} ({ignored.mean():.1%})"
    found = stack.whole("note", what, "synthetic images take such pixels for background")
    if not ignored.any():
        found = stack.whole("warning", f"is nowhere {spans}, to be ignored", "check :ignore=")
    pixels, findings = np.where(ignored, 0, stack.pixels), [*stack.findings, found]
    return replace(stack, pixels=pixels, ignored=ignored, findings=findings)


def _within(pixels: NDArray, chosen: Ranges) -> tuple[NDArray[np.bool_], str]:
    found = np.zeros(pixels.shape, bool)
    for low, high in chosen:
        found |= (pixels >= low) & (pixels <= high)
    return found, ", ".join(f"{a:g}" if a == b else f"{a:g}-{b:g}" for a, b in chosen)


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


def _number(stack: Stack, values: list[float], shown: str) -> Finding:
    """Say how several values were understood: classes, or numbers of objects."""
    what = f"holds {len(values)} values above 0 ({shown})"
    thin = stack.pixels[:, ::2, ::2]
    pieces = [ndimage.label(thin == value)[1] for value in values] if len(values) <= 10 else [0]
    if np.median(pieces) > 3:
        what += ", each in many places, like classes; all of them count"
        remedy = f"if only some do, name them at the end of the name, as in :mask={values[-1]:g}"
        return stack.whole("warning", what, remedy)
    if values[-1] == 255 and stack.pixels.dtype == np.uint8 and len(values) > 10:
        what += ", up to the highest that 8 bit hold; of more objects some may be missing"
        return stack.whole("warning", what, "export the numbers with 16 bit, or as 0 and 255")
    what += ", taken as numbers of single objects: all of them count"
    return stack.whole("note", what, "if a value means something else, set it to 0")


def check_mask(stack: Stack) -> Iterator[Finding]:
    """Look for inverted and empty masks, and for parts that were not annotated."""
    mask = stack.pixels.astype(bool, copy=False)
    part = float(mask.mean())
    if part in (0, 1):
        what = f"marks {'every' if part else 'no'} pixel of the whole volume"
        yield stack.whole("error", what, "masks are 0 for background and above 0 for objects")
        return
    if part > 0.5:
        what = f"marks {part:.1%} of all pixels, as if inverted"
        yield stack.whole("warning", what, "exchange 0 and 255, unless the objects fill so much")
    else:
        what, remedy = "is inverted compared with slices beside", "exchange 0 and 255 there"
        yield from stack.at(_inverted(mask), "error", what, remedy)
    if stack.ignored is not None:
        mask = mask | stack.ignored  # somebody has looked there
    empty = np.flatnonzero(~mask.any(axis=(1, 2))).tolist()
    often = len(empty) >= max(2, len(mask) / 4)
    what, remedy = "marks nothing", "check that there are no objects, or leave out image and mask"
    yield from stack.at(empty, "warning" if often else "note", what, remedy)
    thin = mask[:, ::2, ::2]
    rows, columns = (np.flatnonzero(thin.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    spans = [
        (ends[-1] - ends[0] + 1) / size
        for ends, size in zip((rows, columns), thin.shape[1:], strict=True)
    ]
    objects = ndimage.label(thin)[1]
    if spans[0] * spans[1] < 0.75 and (spans[0] * spans[1]) ** objects < 1e-4:
        box = f"{2 * rows[0]}:{2 * rows[-1] + 2}, columns {2 * columns[0]}:{2 * columns[-1] + 2}"
        what = f"marks objects in the rows {box} alone; all else counts as background"
        yield stack.whole("warning", what, "cut image and mask to what was annotated")


def _inverted(mask: NDArray[np.bool_]) -> list[int]:
    """List slices that mark more than half, and agree with the next by less than 3 pixels in 10."""
    differ = [(page == following).mean() < 0.3 for page, following in pairwise(mask)]
    beside = np.pad(differ, 1, constant_values=True).astype(bool)  # before each, and after the last
    large = mask.mean(axis=(1, 2)) > 0.5
    return np.flatnonzero(large & beside[:-1] & beside[1:]).tolist()
