"""Checks of pixels: what is wrong or noteworthy in images, in masks, and between them.

Each check yields findings; none of them changes a pixel.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from synthseg.stacks.findings import Finding, Stack, digest

SCALE_PERCENTILES = (0.1, 99.9)  # a few hot pixels must not decide the contrast
LOW_CONTRAST = 16  # grey values between those percentiles, of 8-bit images
MOST_FOREGROUND = 0.5  # a mask that marks more is taken for an inverted one
SOFT_EDGE = 0.5  # least part of the in-between values that lie on a slope, in a soft mask
CONTINUITY = 0.5  # least correlation of a slice with the most similar one, to judge the order
OWN_PART = 0.12  # a slice that differs less than this from the mean slice says nothing of order
OUT_OF_ORDER = 0.03  # least gain in the correlations of neighbours if one slice is moved
LONGEST_SHIFT = 64  # px; masks are tried at shifts up to this, or a quarter of the slice
SHIFT_TOLERANCE = 8  # px; annotators draw a membrane's middle, inside or outside
SHIFT_SCORE = 6.5  # least height of the correlation peak, in standard deviations of the rest

# --- Images -----------------------------------------------------------------------------------


def check_image(stack: Stack) -> Iterator[Finding]:
    """Look for a mask in place of an image, odd ranges, and blank, repeated or misplaced slices."""
    image = stack.pixels
    if all(len(np.unique(page)) <= 2 for page in image):
        what = "holds no more than two grey values in any slice, so it looks like a mask"
        yield stack.whole("error", what, "the image comes first, the mask second")
        return
    sample = image[:, ::2, ::2] if image.dtype == np.uint8 else image
    low, high = np.percentile(sample, SCALE_PERCENTILES)
    # Grey values are scaled as float32, which must tell 256 of them apart.
    finest = np.finfo(np.float32).eps * max(abs(low), abs(high))
    if not high - low > max(256 * finest, 1e-30):
        remedy = "check that it is the image, and its export"
        yield stack.whole("error", f"is {low:g} almost everywhere", remedy)
        return
    if image.dtype != np.uint8:
        what = (
            f"is {image.dtype} from {image.min():g} to {image.max():g} and was scaled to 8 bit, "
            f"with {low:g} and below as 0, {high:g} and above as 255 (percentiles 0.1 and 99.9)"
        )
        yield stack.whole("note", what, "give 8-bit images if you want another range")
    elif high - low < LOW_CONTRAST:
        what = f"has little contrast: all but 0.2 % of its grey values are from {low:g} to {high:g}"
        remedy = "export the original range again, or stretch the contrast of the whole stack"
        yield stack.whole("warning", what, remedy)
    blank = {index for index, page in enumerate(image) if page.min() == page.max()}
    remedy = "leave the slice out, image and mask, if it was lost"
    yield from stack.at(blank, "warning", "is blank: all its pixels are of one value", remedy)
    first: dict[str, int] = {}
    for index, page in enumerate(image):
        earlier = first.setdefault(digest(page), index)
        if earlier != index and index not in blank:
            what = f"is the same picture as {stack.label(earlier)}"
            yield from stack.at([index], "error", what, "remove one of the two, image and mask")
    if misplaced := _misplaced(image):
        what = (
            f"is not in the order of z: {len(misplaced)} of {len(image)} slices look more like "
            f"slices elsewhere than like their neighbours ({stack.labels(misplaced, 5)})"
        )
        remedy = "number the slices in the order of the stack; images and masks alike"
        yield stack.whole("error", what, remedy)


def _similarity(image: NDArray) -> NDArray[np.float64]:
    """Correlate the slices with each other (depth, depth), by what is their own in small copies."""
    step = max(1, min(image.shape[1:]) // 64)
    grid = np.s_[step // 2 :: step, step // 2 :: step]
    small = (ndimage.uniform_filter(page.astype(np.float32), step)[grid] for page in image)
    flat = np.stack([page.ravel() for page in small])
    whole = np.linalg.norm(flat - flat.mean(axis=1, keepdims=True), axis=1)
    flat -= flat.mean(axis=0)  # what all slices share, such as shading, says nothing of order
    flat -= flat.mean(axis=1, keepdims=True)
    own = np.linalg.norm(flat, axis=1)
    flat[own <= OWN_PART * whole] = 0
    flat /= np.maximum(own, 1e-6)[:, None]
    return (flat @ flat.T).astype(np.float64)


def _misplaced(image: NDArray) -> list[int]:
    """List slices that would fit clearly better between two others than where they are.

    For every slice the gain is computed in the sum of correlations of neighbours, if that slice
    alone were moved to the best other place.
    """
    depth = len(image)
    if depth < 5:
        return []
    alike = _similarity(image)
    if np.median((alike - 2 * np.eye(depth)).max(axis=1)) < CONTINUITY:
        return []
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
    return np.flatnonzero(gain.max(axis=1) > OUT_OF_ORDER).tolist()


# --- Masks ------------------------------------------------------------------------------------


def check_mask(stack: Stack) -> Iterator[Finding]:
    """Look for fractions, soft edges, labels, inverted and empty masks."""
    pixels = stack.pixels
    if pixels.dtype.kind == "f" and (pixels % 1).any():
        remedy = "turn probabilities into 0 and 1 first: you know the threshold, not the program"
        yield stack.whole("error", "holds fractions", remedy)
        return
    mask = pixels > 0
    part = float(mask.mean())
    if part in (0, 1):
        what = f"marks {'every' if part else 'no'} pixel of the whole volume as mitochondrion"
        yield stack.whole("error", what, "masks are 0 for background and above 0 for mitochondria")
        return
    if pixels.min() < 0:
        remedy = "if they mean 'not annotated', cut those parts out of image and mask"
        yield stack.whole("warning", "holds values below 0, which count as background", remedy)
    yield from _check_values(stack)
    if part > MOST_FOREGROUND:
        what = f"marks {part:.1%} of all pixels as mitochondrion, so it looks inverted"
        remedy = (
            "exchange 0 and 255; if your structure does fill more than half of the volume, mark "
            "what lies around it instead"
        )
        yield stack.whole("error", what, remedy)
    else:
        what = "is inverted compared with its neighbours"
        yield from stack.at(_inverted_slices(mask), "error", what, "exchange its 0 and 255")
    empty = [index for index, page in enumerate(mask) if not page.any()]
    if empty:
        what = f"marks nothing in {len(empty)} of {len(mask)} slices ({stack.labels(empty, 3)})"
        remedy = "check that these slices hold no mitochondria, or annotate them"
        yield stack.whole("note", what, remedy)


def _check_values(stack: Stack) -> Iterator[Finding]:
    """Tell soft edges from numbers of objects, where there is more than one value above 0."""
    pages = (np.unique(page[page > 0]) for page in stack.pixels)
    values = sorted({value for found in pages for value in found.tolist()})
    if len(values) < 2:
        return
    if _slopes(stack.pixels) >= SOFT_EDGE:
        what = (
            f"has soft edges: {len(values) + 1} values up to {values[-1]:g}, with steps in "
            "between along the outlines, as after smoothing, resizing or JPEG"
        )
        remedy = "turn it into 0 and 255 at a threshold you choose; resize masks with 'nearest'"
        yield stack.whole("error", what, remedy)
        return
    shown = [f"{value:g}" for value in values]
    listed = ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])
    what = (
        f"holds {len(values)} values above 0 ({listed}), taken as numbers of single objects: all "
        "of them count as mitochondrion"
    )
    yield stack.whole("note", what, "if a value means something else, set it to 0")


def _slopes(pixels: NDArray) -> float:
    """Part of the values between 0 and the maximum that have a lower and a higher neighbour.

    Along a soft edge nearly all have both; a number that labels an object has 0 beside it and
    itself, and a higher number only where two objects touch.
    """
    cross = ndimage.generate_binary_structure(2, 1)
    between = sloping = 0
    for page in pixels:
        chosen = (page > 0) & (page < pixels.max())
        lower = ndimage.minimum_filter(page, footprint=cross) < page
        higher = ndimage.maximum_filter(page, footprint=cross) > page
        between += int(chosen.sum())
        sloping += int((chosen & lower & higher).sum())
    return sloping / max(between, 1)


def _inverted_slices(mask: NDArray[np.bool_]) -> list[int]:
    """List slices that mark more than half, and agree with the next by less than 3 pixels in 10."""
    differ = [(page == following).mean() < 0.3 for page, following in pairwise(mask)]
    beside = np.pad(differ, 1, constant_values=True).astype(bool)  # before each, and after the last
    large = mask.mean(axis=(1, 2)) > MOST_FOREGROUND
    return np.flatnonzero(large & beside[:-1] & beside[1:]).tolist()


# --- Images and masks together ----------------------------------------------------------------


def check_pair(image: Stack, mask: Stack) -> Iterator[Finding]:
    """Warn if the outlines of the masks fit the edges in the images better at a distance."""
    if shift := _shift(image.pixels, mask.pixels > 0):
        ways = zip(shift, ("down", "right"), ("up", "left"), strict=True)
        moves = [f"{abs(by)} px {ahead if by > 0 else back}" for by, ahead, back in ways if by]
        what = f"fits the edges in the images better when it is moved {' and '.join(moves)}"
        remedy = "check in a viewer that images and masks lie on each other"
        yield mask.whole("warning", what, remedy)


def _match(page: NDArray, marked: NDArray[np.bool_], longest: int) -> NDArray[np.float32]:
    """Correlate an image with its mask, moved by every (y, x) up to `longest` pixels.

    Both lose what is smooth, and all frequencies of the image get nearly the same weight: what
    remains is outlines, and the correlation of those has a narrow peak.
    """
    detail, outlines = (
        fft.rfft2(part - ndimage.gaussian_filter(part, 10))
        for part in (ndimage.gaussian_filter(page.astype("f4"), 1), marked.astype("f4"))
    )
    strength = np.abs(detail)
    detail /= strength + 0.3 * strength.mean() + 1e-9
    near = np.arange(-longest, longest + 1)
    return fft.irfft2(detail * np.conj(outlines), s=page.shape)[near][:, near]


def _shift(image: NDArray, mask: NDArray[np.bool_]) -> tuple[int, ...] | None:
    """Find how far (y, x) the mask should be moved, if that is clear in both halves of the stack.

    None where the mask lies well, or where edges and outlines have too little in common.
    """
    marked = np.flatnonzero(mask.any(axis=(1, 2)))
    step = max(1, min(image.shape[1:]) // 1024)
    longest = min(LONGEST_SHIFT // step, min(image.shape[1:]) // step // 4)
    if len(marked) < 2 or longest <= SHIFT_TOLERANCE:
        return None
    chosen = marked[np.unique(np.linspace(0, len(marked) - 1, 16).astype(int))]
    thin = np.s_[::step, ::step]
    maps = np.stack([_match(image[index][thin], mask[index][thin], longest) for index in chosen])
    total = maps.mean(axis=0)
    sign = np.sign(total.flat[np.abs(total).argmax()])  # mitochondria are darker, or brighter
    total *= sign
    half = len(maps) // 2
    peaks = [
        np.array(np.unravel_index(part.argmax(), total.shape)) - longest
        for part in (total, sign * maps[:half].mean(axis=0), sign * maps[half:].mean(axis=0))
    ]
    score = (total.max() - np.median(total)) / max(float(total.std()), 1e-9)
    apart = max(np.abs(peaks[0] - peak).max() for peak in peaks)
    if score < SHIFT_SCORE or apart > 6 or np.abs(peaks[0] * step).max() <= SHIFT_TOLERANCE:
        return None
    return tuple(int(length) * step for length in peaks[0])
