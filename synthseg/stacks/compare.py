"""Comparisons: masks with their images, and the parts of a data set with each other."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from synthseg.stacks.check import CONTINUITY, small_copies
from synthseg.stacks.findings import Finding, Stack, digest, show_path
from synthseg.stacks.grey import grey_range

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
        yield from mask.found("warning", what, remedy)


def _better_place(image: NDArray, mask: NDArray[np.bool_]) -> str | None:
    """How the masks should be moved or turned, if that is clear; in words."""
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    step = max(1, min(image.shape[1:]) // WIDTH)
    longest = min(LONGEST_SHIFT // step, min(image.shape[1:]) // step // 4)
    if len(filled) < 2 or longest <= SHIFT_TOLERANCE:
        return None
    image, mask, slices = image[:, ::step, ::step], mask[:, ::step, ::step], np.arange(len(image))
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, SLICES).astype(int))]
    details = {z: _detail(image[z]) for z in chosen}

    def maps(turn: Turn, masks: NDArray[np.intp]) -> NDArray[np.float32]:
        """Hold the turned mask of number ``masks[z]`` against slice z, where there is one."""
        pairs = [(z, masks[z]) for z in chosen if 0 <= masks[z] < len(image)]
        return np.array([_map(details[z], turn(mask[other]), longest) for z, other in pairs])

    as_it_is = maps(np.asarray, slices)
    if moved := _shift(as_it_is, step):
        return moved
    turns = {name: turn for name, turn in TURNS.items() if turn(mask[0]).shape == mask[0].shape}
    ways: dict[str, tuple[Turn, NDArray[np.intp]]] = {name: (turns[name], slices) for name in turns}
    ways["put in reverse order of z"] = (np.asarray, slices[::-1])
    for by in range(1, 1 + min(8, len(image) // 4)):
        ways[f"moved by {by} in z, to higher"] = (np.asarray, slices - by)
        ways[f"moved by {by} in z, to lower"] = (np.asarray, slices + by)
    scores = {name: _score(maps(*way)) for name, way in ways.items()}
    best = max(scores, key=lambda name: scores[name])
    # Masks that are drawn too thick along z fit better on both sides.
    swap = ("higher", "lower") if best.endswith("higher") else ("lower", "higher")
    rivals = [_score(as_it_is), scores[best.replace(*swap)] if best.startswith("moved") else 0]
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


def _score(maps: NDArray) -> float:
    """Height of the mean correlation near no shift, in standard deviations of it; 0 without any."""
    if not len(maps):
        return 0.0
    total, middle = maps.mean(axis=0), maps.shape[1] // 2
    near = np.s_[middle - SHIFT_TOLERANCE : middle + SHIFT_TOLERANCE + 1]
    heights = np.abs(total - np.median(total)) / max(float(total.std()), 1e-9)
    return float(heights[near, near].max())


def _shift(maps: NDArray, step: int) -> str | None:
    """Find how far the mask should be moved, if that is clear in both halves of the stack."""
    total, half = maps.mean(axis=0), len(maps) // 2
    sign = np.sign(total.flat[np.abs(total).argmax()])  # objects are darker, or brighter
    parts = [sign * part.mean(axis=0) for part in (maps, maps[:half], maps[half:])]
    peaks = np.array([np.unravel_index(part.argmax(), part.shape) for part in parts])
    by = (peaks[0] - len(total) // 2) * step
    score = (parts[0].max() - np.median(parts[0])) / max(float(total.std()), 1e-9)
    apart = np.abs(peaks - peaks[0]).max()
    if score < SHIFT_SCORE or apart > 6 or np.abs(by).max() <= SHIFT_TOLERANCE:
        return None
    ways = zip(by, ("down", "right"), ("up", "left"), strict=True)
    moves = [f"{abs(px)} px {ahead if px > 0 else back}" for px, ahead, back in ways if px]
    return f"moved {' and '.join(moves)}"


# --- Parts of a data set ----------------------------------------------------------------------


def check_parts(train: Stack, other: Stack) -> Iterator[Finding]:
    """Look for images of another part that are training images, or lie between them."""
    known = {digest(page) for page in train.pixels if page.min() < page.max()}
    same = [index for index, page in enumerate(other.pixels) if digest(page) in known]
    what = f"is a training image, too ({show_path(train.path)})"
    remedy = "move it elsewhere, or scores would be of training"
    yield from other.found("error", what, remedy, same)
    low, high, _ = grey_range(train.pixels)
    least, most, _ = grey_range(other.pixels)
    if min(high, most) - max(low, least) < 0.5 * (max(high, most) - min(low, least)):
        what = f"has greys from {least:g} to {most:g}, the training part {low:g} to {high:g}"
        remedy = "export both in the same way, or expect low scores"
        yield from other.found("warning", what, remedy)
    if same or train.pixels.shape[1:] != other.pixels.shape[1:] or len(train.pixels) < 3:
        return
    depth = len(train.pixels)
    copies = small_copies(np.concatenate([train.pixels, other.pixels]), low, high)
    alike = copies @ copies.T
    neighbours = float(np.median(np.diagonal(alike[:depth, :depth], 1)))
    between = np.flatnonzero(alike[depth:, :depth].max(axis=1) > 0.8 * neighbours).tolist()
    if neighbours > CONTINUITY and len(between) > max(2, len(other.pixels) / 2):
        what = "lies beside training slices, so that scores would be of training data nearly"
        remedy = "give a block of its own, or one block alone, which is split with gaps"
        yield from other.found("warning", what, remedy, between)


def check_contrast(*parts: tuple[Stack, Stack]) -> list[Finding]:
    """Warn if objects are darker than the rest in one part, and brighter in another."""
    contrasts = []
    for image, mask in parts:
        pixels, marked = image.pixels[:, ::4, ::4], mask.pixels[:, ::4, ::4] > 0
        if marked.any() and not marked.all():
            difference = float(pixels[marked].mean() - pixels[~marked].mean())
            contrasts.append(difference / max(float(pixels.std()), 1e-9))
    if not contrasts or max(contrasts) <= CONTRAST or min(contrasts) >= -CONTRAST:
        return []
    what = "has objects and background exchanged in grey, compared with the training part"
    return parts[-1][0].found("warning", what, "invert the greys of one of the two")


def check_sizes(stacks: list[Stack], nm: float | None, distance: float | None) -> Iterator[Finding]:
    """Compare pixels and the distance of slices, in nm as given, with files and with each other."""
    told = next((stack for stack in stacks if stack.nm), stacks[0])
    if nm is None:
        remedy = "give it in nanometres: --nm-per-pixel 5"
        if told.nm:
            remedy = (
                f"give --nm-per-pixel {told.nm:.4g}, as {told.path.name} says, if that is right"
            )
        yield from stacks[0].found("error", "comes without the size of its pixels", remedy)
        return
    for says, given, what, option in (
        (told.nm, nm, "a pixel is {:.4g} nm wide, not {:g}", "--nm-per-pixel"),
        (told.nm_per_slice, distance, "slices are {:.4g} nm apart, not {:g}", ":nm_per_slice"),
    ):
        if says and given and abs(says / given - 1) > PIXEL_SIZE:
            remedy = f"give {option} as it is, or correct the file"
            yield from told.found("warning", f"says that {what.format(says, given)}", remedy)
    apart = distance or told.nm_per_slice or nm
    if abs(apart / nm - 1) > PIXEL_SIZE:
        what = f"has slices {apart:.4g} nm apart, {apart / nm:.2g} times the width of a pixel"
        remedy = "chapter 1 draws them so; the networks see slices one by one"
        yield from stacks[0].found("note", what, remedy)
