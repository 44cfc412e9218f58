"""Checks of pixels: what is wrong or noteworthy in images, in masks, and between them.

Each check yields findings; none of them changes a pixel.
"""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from synthseg.stacks.findings import Finding, Stack

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


def digest(page: NDArray) -> bytes:
    """Return the sha256 of the pixels of a slice."""
    return sha256(np.ascontiguousarray(page).data).digest()


# --- Images -----------------------------------------------------------------------------------


def check_image(stack: Stack) -> Iterator[Finding]:
    """Look for a mask in place of an image, odd ranges, and blank, repeated or misplaced slices."""
    image = stack.pixels
    if all(len(np.unique(page)) <= 2 for page in image):
        yield stack.whole(
            "error",
            "holds no more than two grey values in any slice, so it looks like a mask",
            "the image comes first, the mask second",
        )
        return
    low, high = np.percentile(image[:, ::2, ::2] if image.dtype == np.uint8 else image,
                              SCALE_PERCENTILES)  # fmt: skip
    # Grey values are scaled as float32, which must tell 256 of them apart.
    finest = np.finfo(np.float32).eps * max(abs(low), abs(high))
    if not high - low > max(256 * finest, 1e-30):
        yield stack.whole(
            "error", f"is {low:g} almost everywhere", "check that it is the image, and its export"
        )
        return
    if image.dtype != np.uint8:
        yield stack.whole(
            "note",
            f"is {image.dtype} from {image.min():g} to {image.max():g} and was scaled to 8 bit, "
            f"with {low:g} and below as 0, {high:g} and above as 255 (percentiles 0.1 and 99.9)",
            "give 8-bit images if you want another range",
        )
    elif high - low < LOW_CONTRAST:
        yield stack.whole(
            "warning",
            f"has little contrast: all but 0.2 % of its grey values are from {low:g} to {high:g}",
            "export the original range again, or stretch the contrast of the whole stack",
        )
    blank = {index for index, page in enumerate(image) if page.min() == page.max()}
    yield from stack.at(
        blank,
        "warning",
        "is blank: all its pixels are of one value",
        "leave the slice out, image and mask, if it was lost",
    )
    first: dict[bytes, int] = {}
    for index, page in enumerate(image):
        earlier = first.setdefault(digest(page), index)
        if earlier != index and index not in blank:
            yield from stack.at(
                [index],
                "error",
                f"is the same picture as {stack.label(earlier)}",
                "remove one of the two, image and mask",
            )
    if misplaced := _misplaced(image):
        yield stack.whole(
            "error",
            f"is not in the order of z: {len(misplaced)} of {len(image)} slices look more like "
            f"slices elsewhere than like their neighbours ({stack.labels(misplaced, 5)})",
            "number the slices in the order of the stack; images and masks alike",
        )


def _reduced(pages: NDArray, side: int) -> NDArray[np.float32]:
    """Average blocks of pixels, so that the shorter side is `side` to twice that."""
    step = max(1, min(pages.shape[1:]) // side)
    height, width = (length // step for length in pages.shape[1:])
    blocks = pages[:, : height * step, : width * step].astype(np.float32)
    return blocks.reshape(len(pages), height, step, width, step).mean(axis=(2, 4))


def _misplaced(image: NDArray) -> list[int]:
    """List slices that would fit clearly better between two others than where they are.

    Neighbours in a stack resemble each other. For every slice the gain is computed in the sum of
    correlations of neighbours, if that slice alone were moved to the best other place.
    """
    depth = len(image)
    if depth < 5:
        return []
    flat = np.stack([_reduced(page[None], 64).ravel() for page in image])
    whole = np.linalg.norm(flat - flat.mean(axis=1, keepdims=True), axis=1)
    flat -= flat.mean(axis=0)  # what all slices share, such as shading, says nothing of order
    flat -= flat.mean(axis=1, keepdims=True)
    own = np.linalg.norm(flat, axis=1)
    flat[own <= OWN_PART * whole] = 0
    flat /= np.maximum(own, 1e-6)[:, None]
    alike = (flat @ flat.T).astype(np.float64)  # (depth, depth)
    place = np.arange(depth)
    if np.median((alike - 2 * np.eye(depth)).max(axis=1)) < CONTINUITY:
        return []
    links = np.diagonal(alike, 1)
    # Taken out: the links to both neighbours are lost, the neighbours become linked.
    before, after = np.append(0, links), np.append(links, 0)
    bridge = np.zeros(depth)
    bridge[1:-1] = np.diagonal(alike, 2)
    loss = before + after - bridge
    present = (before + after) / np.where((place == 0) | (place == depth - 1), 1, 2)
    # Put in before `target`: (slice, target), target = depth is the end.
    left = np.concatenate([np.zeros((depth, 1)), alike], axis=1)
    right = np.concatenate([alike, np.zeros((depth, 1))], axis=1)
    broken = np.concatenate([[0], links, [0]])
    gain = left + right - broken - loss[:, None]
    new = (left + right) / np.where((np.arange(depth + 1) % depth) == 0, 1, 2)
    away = place[:, None] - np.arange(depth + 1)
    gain[(away == 0) | (away == -1) | (new < np.maximum(present, CONTINUITY)[:, None])] = 0
    return [int(index) for index in np.flatnonzero(gain.max(axis=1) > OUT_OF_ORDER)]


# --- Masks ------------------------------------------------------------------------------------


def check_mask(stack: Stack) -> Iterator[Finding]:
    """Look for fractions, soft edges, labels, inverted and empty masks."""
    pixels = stack.pixels
    if pixels.dtype.kind == "f" and (pixels % 1).any():
        yield stack.whole(
            "error",
            "holds fractions",
            "turn probabilities into 0 and 1 first: you know the threshold, the program doesn't",
        )
        return
    mask = pixels > 0
    part = float(mask.mean())
    if part in (0, 1):
        yield stack.whole(
            "error",
            f"marks {'every' if part else 'no'} pixel of the whole volume as mitochondrion",
            "masks are 0 for background and above 0 for mitochondria",
        )
        return
    if pixels.dtype.kind in "if" and pixels.min() < 0:
        yield stack.whole(
            "warning",
            "holds values below 0, which count as background",
            "if they mean 'not annotated', cut those parts out of image and mask",
        )
    values = sorted({value for page in pixels for value in np.unique(page[page > 0]).tolist()})
    if len(values) > 1:
        if _slopes(pixels) >= SOFT_EDGE:
            yield stack.whole(
                "error",
                f"has soft edges: {len(values) + 1} values up to {values[-1]:g}, with steps in "
                "between along the outlines, as after smoothing, resizing or JPEG",
                "turn it into 0 and 255 at a threshold you choose; resize masks with 'nearest'",
            )
        else:
            yield stack.whole(
                "note",
                f"holds {len(values)} values above 0 ({_listed(values)}), taken as numbers of "
                "single objects: all of them count as mitochondrion",
                "if a value means something else, set it to 0",
            )
    if part > MOST_FOREGROUND:
        yield stack.whole(
            "error",
            f"marks {part:.1%} of all pixels as mitochondrion, so it looks inverted",
            "exchange 0 and 255; if your structure does fill more than half of the volume, mark "
            "what lies around it instead",
        )
    else:
        what = "is inverted compared with its neighbours"
        yield from stack.at(_inverted_slices(mask), "error", what, "exchange its 0 and 255")
    empty = [index for index, page in enumerate(mask) if not page.any()]
    if empty:
        yield stack.whole(
            "note",
            f"marks nothing in {len(empty)} of {len(mask)} slices ({stack.labels(empty, 3)})",
            "check that these slices hold no mitochondria, or annotate them",
        )


def _listed(values: list[float]) -> str:
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])


def _slopes(pixels: NDArray) -> float:
    """Part of the values between 0 and the maximum that have a lower and a higher neighbour.

    Along a soft edge nearly all have both; a number that labels an object has 0 beside it and
    itself, and a higher number only where two objects touch.
    """
    top, between, sloping = pixels.max(), 0, 0
    for page in pixels:
        chosen = (page > 0) & (page < top)
        if not chosen.any():
            continue
        cross = ndimage.generate_binary_structure(2, 1)
        lower = ndimage.minimum_filter(page, footprint=cross) < page
        higher = ndimage.maximum_filter(page, footprint=cross) > page
        between += int(chosen.sum())
        sloping += int((chosen & lower & higher).sum())
    return sloping / between if between else 0.0


def _inverted_slices(mask: NDArray[np.bool_]) -> list[int]:
    """List slices that mark more than half, and agree with the next by less than 3 pixels in 10."""
    found = []
    for index in np.flatnonzero(mask.mean(axis=(1, 2)) > MOST_FOREGROUND):
        beside = [near for near in (index - 1, index + 1) if 0 <= near < len(mask)]
        if all((mask[index] == mask[near]).mean() < 0.3 for near in beside):
            found.append(int(index))
    return found


# --- Images and masks together ----------------------------------------------------------------


def check_pair(image: Stack, mask: Stack) -> Iterator[Finding]:
    """Warn if the outlines of the masks fit the edges in the images better at a distance."""
    if shift := _shift(image.pixels, mask.pixels > 0):
        down, right = shift
        ways = [(down, "down", "up"), (right, "right", "left")]
        moves = [f"{abs(by)} px {ahead if by > 0 else back}" for by, ahead, back in ways if by]
        yield mask.whole(
            "warning",
            f"fits the edges in the images better when it is moved {' and '.join(moves)}",
            "check in a viewer that images and masks lie on each other",
        )


def _match(image: NDArray, mask: NDArray[np.bool_], longest: int) -> NDArray[np.float32]:
    """Correlate each image with its mask, moved by every (y, x) up to `longest` pixels.

    Both lose what is smooth, and all frequencies of the image get nearly the same weight: what
    remains is outlines, and the correlation of those has a narrow peak.
    """
    maps = []
    near = np.arange(-longest, longest + 1)
    for page, marked in zip(image, mask, strict=True):
        detail, outlines = (
            fft.rfft2(part - ndimage.gaussian_filter(part, 10))
            for part in (
                ndimage.gaussian_filter(page.astype(np.float32), 1),
                marked.astype(np.float32),
            )
        )
        strength = np.abs(detail)
        detail /= strength + 0.3 * strength.mean() + 1e-9
        maps.append(fft.irfft2(detail * np.conj(outlines), s=page.shape)[near][:, near])
    return np.stack(maps).astype(np.float32)


def _shift(image: NDArray, mask: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Find how far (y, x) the mask should be moved, if that is clear in both halves of the stack.

    Returns
    -------
    tuple of int, or None
        None where the mask lies well, or where edges and outlines have too little in common.
    """
    marked = np.flatnonzero(mask.any(axis=(1, 2)))
    step = max(1, min(image.shape[1:]) // 1024)
    longest = min(LONGEST_SHIFT // step, min(image.shape[1:]) // step // 4)
    if len(marked) < 2 or longest <= SHIFT_TOLERANCE:
        return None
    chosen = marked[np.unique(np.linspace(0, len(marked) - 1, 16).astype(int))]
    maps = _match(image[chosen][:, ::step, ::step], mask[chosen][:, ::step, ::step], longest)
    total = maps.mean(axis=0)
    sign = np.sign(total.flat[np.abs(total).argmax()])  # mitochondria are darker, or brighter
    peaks = [
        np.array(np.unravel_index((sign * part.mean(axis=0)).argmax(), total.shape)) - longest
        for part in (maps, maps[: len(maps) // 2], maps[len(maps) // 2 :])
    ]
    total = sign * total
    score = (total.max() - np.median(total)) / max(float(total.std()), 1e-9)
    apart = max(int(np.abs(peaks[0] - peak).max()) for peak in peaks)
    if score < SHIFT_SCORE or apart > 6 or np.abs(peaks[0] * step).max() <= SHIFT_TOLERANCE:
        return None
    down, right = (int(length) * step for length in peaks[0])
    return down, right
