"""Comparisons: masks with their images, and the parts of a data set with each other."""

from collections.abc import Callable, Iterator
from functools import partial
from operator import add

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from synthseg.stacks.check import CONTINUITY, grey_range, small_copies
from synthseg.stacks.findings import Finding, Stack, digest, show_path

SLICES = 8  # slices, spread over the stack, in which masks are held against images
WIDTH = 512  # px; larger slices are thinned to less than twice this
LONGEST_SHIFT = 64  # px; masks are tried at shifts up to this, or a quarter of the slice
SHIFT_TOLERANCE = 8  # px; annotators draw a membrane's middle, inside or outside
SHIFT_SCORE = 6.5  # least height of the correlation peak, in standard deviations of the rest
TURNED_SCORE = 5.5  # the same for a mask that is turned, which is tried at no shift alone
MOVED_SCORE = 10  # the same along z, where slices resemble those beside them
CLEARLY = 1.45  # times higher than as it is: then a mask is taken to be turned
CONTRAST = 0.2  # standard deviations of grey that objects differ by, to call them dark or bright
PIXEL_SIZE = 0.05  # relative difference between the pixel size given and that in the file

Turn = Callable[[NDArray], NDArray]
TURNS: dict[str, Turn] = {
    "mirrored from left to right": lambda page: page[:, ::-1],
    "mirrored from top to bottom": lambda page: page[::-1],
    "turned by 180°": lambda page: page[::-1, ::-1],
    "with rows and columns exchanged": lambda page: page.T,
    "turned by 90° to the left": lambda page: np.rot90(page),
    "turned by 90° to the right": lambda page: np.rot90(page, 3),
    "mirrored at the other diagonal": lambda page: np.rot90(page, 2).T,
}

# --- A mask and its image ---------------------------------------------------------------------


def check_pair(image: Stack, mask: Stack) -> Iterator[Finding]:
    """Warn if the outlines of the masks fit the edges in the images better elsewhere."""
    if better := _better_place(image.pixels, mask.pixels > 0):
        what = f"fits the edges in the images better when it is {better}"
        remedy = "look at the outlines in the picture, and export it again"
        yield mask.whole("warning", what, remedy)


def _better_place(image: NDArray, mask: NDArray[np.bool_]) -> str | None:
    """How the masks should be moved or turned, if that is clear; in words."""
    marked = np.flatnonzero(mask.any(axis=(1, 2)))
    step = max(1, min(image.shape[1:]) // WIDTH)
    longest = min(LONGEST_SHIFT // step, min(image.shape[1:]) // step // 4)
    if len(marked) < 2 or longest <= SHIFT_TOLERANCE:
        return None
    thin, last = np.s_[::step, ::step], len(image) - 1
    chosen = marked[np.unique(np.linspace(0, len(marked) - 1, SLICES).astype(int))]
    details = {index: _detail(image[index][thin]) for index in chosen}

    def mean_map(turn: Turn, other: Callable[[int], int]) -> NDArray[np.float32]:
        pairs = [(index, other(index)) for index in chosen if 0 <= other(index) <= last]
        return np.mean([_map(details[i], turn(mask[j][thin]), longest) for i, j in pairs], axis=0)

    as_it_is = [_map(details[index], mask[index][thin], longest) for index in chosen]
    if moved := _shift(np.array(as_it_is), step):
        return moved
    ways: dict[str, tuple[Turn, Callable[[int], int]]] = {
        name: (turn, lambda index: index)
        for name, turn in TURNS.items()
        if turn(mask[0]).shape == mask[0].shape
    }
    ways["put in reverse order of z"] = (lambda page: page, lambda index: last - index)
    for by in range(-8, 9):
        if by and abs(by) <= len(image) // 4:
            name = f"moved by {abs(by)} in z, to {'higher' if by > 0 else 'lower'}"
            ways[name] = (lambda page: page, partial(add, -by))
    scores = {name: _score(mean_map(*way)) for name, way in ways.items()}
    best = max(scores, key=lambda name: scores[name])
    # Masks that are drawn too thick along z fit better on both sides.
    swap = {"higher": "lower", "lower": "higher"}
    opposite = " ".join(swap.get(word, word) for word in best.split(" "))
    rivals = [_score(np.mean(as_it_is, axis=0)), scores[opposite] if opposite != best else 0]
    least = MOVED_SCORE if best.startswith("moved") else TURNED_SCORE
    return best if scores[best] > max(least, CLEARLY * max(rivals)) else None


def _detail(page: NDArray) -> NDArray[np.complex64]:
    """Spectrum of an image without what is smooth, all other frequencies nearly of one weight."""
    page = ndimage.gaussian_filter(page.astype("f4"), 1)
    spectrum = fft.rfft2(page - ndimage.gaussian_filter(page, 10))
    strength = np.abs(spectrum)
    return spectrum / (strength + 0.3 * strength.mean() + 1e-9)


def _map(detail: NDArray, marked: NDArray[np.bool_], longest: int) -> NDArray[np.float32]:
    """Correlate an image with its mask, moved by every (y, x) up to `longest` pixels.

    Both lack what is smooth: what remains is outlines, and their correlation has a narrow peak.
    """
    marks = marked.astype("f4")
    outlines = fft.rfft2(marks - ndimage.uniform_filter(marks, 25))
    near = np.arange(-longest, longest + 1)
    return fft.irfft2(detail * np.conj(outlines), s=marked.shape)[near][:, near]


def _score(total: NDArray) -> float:
    """Height of the correlation near no shift, in standard deviations of the map."""
    middle = len(total) // 2
    near = np.s_[middle - SHIFT_TOLERANCE : middle + SHIFT_TOLERANCE + 1]
    heights = np.abs(total - np.median(total)) / max(float(total.std()), 1e-9)
    return float(heights[near, near].max())


def _shift(maps: NDArray, step: int) -> str | None:
    """Find how far the mask should be moved, if that is clear in both halves of the stack."""
    total, longest = maps.mean(axis=0), maps.shape[1] // 2
    sign = np.sign(total.flat[np.abs(total).argmax()])  # objects are darker, or brighter
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
    ways = zip(peaks[0] * step, ("down", "right"), ("up", "left"), strict=True)
    moves = [f"{abs(by)} px {ahead if by > 0 else back}" for by, ahead, back in ways if by]
    return f"moved {' and '.join(moves)}"


# --- Parts of a data set ----------------------------------------------------------------------


def check_parts(train: Stack, other: Stack) -> Iterator[Finding]:
    """Look for images of another part that are training images, or lie between them."""
    known = {digest(page) for page in train.pixels if page.min() < page.max()}
    same = [index for index, page in enumerate(other.pixels) if digest(page) in known]
    what = f"is a training image, too ({show_path(train.path)})"
    yield from other.at(same, "error", what, "move it elsewhere, or scores would be of training")
    low, high, _ = grey_range(train.pixels)
    other_low, other_high, _ = grey_range(other.pixels)
    shared = min(high, other_high) - max(low, other_low)
    if shared < 0.5 * (max(high, other_high) - min(low, other_low)):
        what = (
            f"has greys from {other_low:g} to {other_high:g}, the training part {low:g} to {high:g}"
        )
        yield other.whole("warning", what, "export both in the same way, or expect low scores")
    if same or train.pixels.shape[1:] != other.pixels.shape[1:] or len(train.pixels) < 3:
        return
    copies = small_copies(np.concatenate([train.pixels, other.pixels]), low, high)
    alike = copies @ copies.T
    depth = len(train.pixels)
    neighbours = float(np.median(np.diagonal(alike[:depth, :depth], 1)))
    between = np.flatnonzero(alike[depth:, :depth].max(axis=1) > 0.8 * neighbours)
    if neighbours > CONTINUITY and len(between) > max(2, len(other.pixels) / 2):
        what = "lies beside training slices, so that scores would be of training data nearly"
        remedy = "give a block of its own, or one block alone, which is split with gaps"
        yield from other.at(between.tolist(), "warning", what, remedy)


def check_contrast(*parts: tuple[Stack, Stack]) -> Iterator[Finding]:
    """Warn if objects are darker than the rest in one part, and brighter in another."""
    contrasts = []
    for image, mask in parts:
        pixels, marked = image.pixels[:, ::4, ::4], mask.pixels[:, ::4, ::4] > 0
        inside, outside = pixels[marked], pixels[~marked]
        if inside.size and outside.size:
            difference = float(inside.mean() - outside.mean())
            contrasts.append(difference / max(float(pixels.std()), 1e-9))
    if contrasts and max(contrasts) > CONTRAST and min(contrasts) < -CONTRAST:
        what = "has objects and background exchanged in grey, compared with the training part"
        yield parts[-1][0].whole("warning", what, "invert the greys of one of the two")


def check_sizes(stacks: list[Stack], nm: float | None, distance: float | None) -> Iterator[Finding]:
    """Compare pixels and the distance of slices, in nm as given, with files and with each other."""
    told = next((stack for stack in stacks if stack.nm), stacks[0])
    if nm is None:
        remedy = "give it in nanometres: --nm-per-pixel 5"
        if told.nm:
            remedy = (
                f"give --nm-per-pixel {told.nm:.4g} if that is right, which {told.path.name} says"
            )
        yield stacks[0].whole("error", "comes without the size of its pixels", remedy)
        return
    for says, given, what, option in (
        (told.nm, nm, "a pixel is {:.4g} nm wide, not {:g}", "--nm-per-pixel"),
        (told.nm_per_slice, distance, "slices are {:.4g} nm apart, not {:g}", ":nm_per_slice"),
    ):
        if says and given and abs(says / given - 1) > PIXEL_SIZE:
            remedy = f"give {option} as it is, or correct the file"
            yield told.whole("warning", f"says that {what.format(says, given)}", remedy)
    apart = distance or told.nm_per_slice or nm
    if abs(apart / nm - 1) > PIXEL_SIZE:
        what = f"has slices {apart:.4g} nm apart, {apart / nm:.2g} times the width of a pixel"
        remedy = "chapter 1 draws them so; the networks see slices one by one"
        yield stacks[0].whole("note", what, remedy)
