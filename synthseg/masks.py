"""Composed masks: new masks from the pieces of real ones.

`compose_original` follows the original study, whose rule loses foreground and only ever mirrors.
`compose` places whole components anywhere, in all eight orientations, drawn without replacement
from all slices, and matches the number and area of components in real crops.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border

EIGHT = 8
"""Orientations of the square: four rotations, each with and without a mirror."""


def components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components (8 neighbours) of a mask.

    Parameters
    ----------
    mask : numpy.ndarray
        Shape (height, width) or (height, width, 1), values {0, 1}.

    Returns
    -------
    numpy.ndarray
        Shape (height, width), int: 0 for background, 1 to n for the components.
    """
    plane = mask[..., 0] if mask.ndim == 3 else mask
    return label(plane > 0, connectivity=2)


def count_and_area(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of components and foreground pixels of each mask.

    Parameters
    ----------
    masks : numpy.ndarray
        Shape (n, height, width, 1), values {0, 1}.

    Returns
    -------
    counts, areas : numpy.ndarray
        Shape (n,), int.
    """
    counts = np.array([components(mask).max() for mask in masks])
    return counts, (masks > 0).sum(axis=(1, 2, 3))


def orient(planes: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Bring each plane (n, size, size) into the given orientation, 0 to 7: turns, plus 4 = mirror.

    The first four are rotations by 0, 90, 180 and 270 degrees; the others the same after a mirror.
    """
    result = np.empty_like(planes)
    for value in range(EIGHT):
        chosen = orientation == value
        mirrored = planes[chosen][:, :, ::-1] if value >= 4 else planes[chosen]
        result[chosen] = np.rot90(mirrored, value % 4, axes=(1, 2))
    return result


def compose_original(masks: np.ndarray, seed: int) -> np.ndarray:
    """Compose by the original study's rule, one mask from each given one.

    From the n components of a mask, 3 to n - 1 are drawn with replacement (3 where n is smaller
    than 5, none where there are none); each is turned by 90, 180 or 270 degrees and flipped
    about the same axis; their union is the new mask.

    Parameters
    ----------
    masks : numpy.ndarray
        Shape (count, size, size, 1), values {0, 1}.
    seed : int
        Seed of the draws.

    Returns
    -------
    numpy.ndarray
        Same shape, float32 in {0, 1}.
    """
    rng = np.random.default_rng(seed)
    composed = np.zeros(masks.shape, np.float32)
    for index, mask in enumerate(masks):
        labels = components(mask)
        found = labels.max()
        if found == 0:
            continue
        drawn = rng.integers(1, found + 1, size=rng.integers(3, max(4, found)))
        planes = labels == drawn[:, None, None]  # (drawn, size, size)
        turned = orient(planes[:, :, ::-1], rng.integers(1, 4, size=len(drawn)))
        composed[index, ..., 0] = turned.any(axis=0)
    return composed


@dataclass(frozen=True, eq=False)
class Bank:
    """Single components of real masks with their pixels, each in the centre of its own frame.

    Attributes
    ----------
    masks : numpy.ndarray
        Shape (n, size, size) bool.
    pixels : numpy.ndarray
        Shape (n, size, size) float32 in [-1, 1]: the real image around each component.
    """

    masks: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    @cached_property
    def foreground(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The foreground pixels of all components, listed one component after the other.

        Returns
        -------
        rows, columns : numpy.ndarray
            Shape (8, pixels): in each orientation of the frame.
        greys : numpy.ndarray
            Shape (8, pixels) float32 in [-1, 1].
        begin : numpy.ndarray
            Shape (n + 1,): where each component begins in the lists.
        """
        listed = []
        for value in range(EIGHT):
            orientation = np.full(len(self), value)
            turned = orient(self.masks, orientation)
            component, *place = np.nonzero(turned)
            listed.append((*place, orient(self.pixels, orientation)[turned]))
        rows, columns, greys = (np.stack(parts) for parts in zip(*listed, strict=True))
        return rows, columns, greys, np.searchsorted(component, np.arange(len(self) + 1))

    @cached_property
    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """The boxes around the components.

        Returns
        -------
        low, high : numpy.ndarray
            Shape (2, 8, n): first row and column in each orientation, and those after the last.
        """
        rows, columns, _, begin = self.foreground
        places = np.stack([rows, columns])
        low = np.minimum.reduceat(places, begin[:-1], axis=-1)
        return low, np.maximum.reduceat(places, begin[:-1], axis=-1) + 1

    def place(
        self, chosen: np.ndarray, orientation: np.ndarray, down: np.ndarray, right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Turn components and move them, each by its own whole number of pixels.

        Parameters
        ----------
        chosen, orientation, down, right : numpy.ndarray
            Shape (m,) int: components, 0 to 7 as in :func:`orient`, and pixels.

        Returns
        -------
        item, position, greys : numpy.ndarray
            Of each pixel that remains in the frame: its number in `chosen`, its position in the
            flattened frame, and its grey value.
        """
        size, (rows, columns, greys, begin) = self.masks.shape[1], self.foreground
        length = begin[chosen + 1] - begin[chosen]
        item = np.repeat(np.arange(len(chosen)), length)
        first = orientation * begin[-1] + begin[chosen] - (length.cumsum() - length)
        pixel = first[item] + np.arange(len(item))
        row, column = rows.take(pixel) + down[item], columns.take(pixel) + right[item]
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        return item[inside], (row * size + column)[inside], greys.take(pixel)[inside]


def component_bank(
    images: np.ndarray, masks: np.ndarray, size: int, every: int = 5, least_area: int = 12
) -> Bank:
    """Collect the components of whole slices, except those that the slice's edge cuts.

    Parameters
    ----------
    images, masks : numpy.ndarray
        Slices at network scale, (z, height, width, 1), images in [-1, 1] and masks in {0, 1}.
    size : int
        Side of the frames in pixels. What reaches beyond a frame is cut off.
    every : int
        Use each `every`-th slice: neighbours show nearly the same components.
    least_area : int
        Components with fewer pixels are left out as specks.

    Raises
    ------
    ValueError
        If no whole component is found.
    """
    half = size // 2
    margins = ((half, half), (half, half))
    bank_masks, bank_pixels = [], []
    for image, mask in zip(images[::every, ..., 0], masks[::every], strict=True):
        # A component cut by the edge of its slice would show a straight edge inside a new mask.
        labels = np.pad(clear_border(components(mask)), margins)
        pixels = np.pad(image, margins, mode="reflect")
        for region in regionprops(labels):
            if region.area < least_area:
                continue
            row, column = (round(centre) for centre in region.centroid)
            row = int(np.clip(row, half, labels.shape[0] - half))
            column = int(np.clip(column, half, labels.shape[1] - half))
            frame = np.s_[row - half : row + half, column - half : column + half]
            bank_masks.append(labels[frame] == region.label)
            bank_pixels.append(pixels[frame])
    if not bank_masks:
        raise ValueError(
            "The slices hold no whole component to compose from; use larger or more slices."
        )
    return Bank(np.stack(bank_masks), np.stack(bank_pixels).astype(np.float32))


@dataclass(frozen=True)
class Composed:
    """Composed masks, and the real pixels of the components that they are made of.

    Attributes
    ----------
    masks : numpy.ndarray
        Shape (n, size, size, 1) float32 in {0, 1}.
    pixels : numpy.ndarray
        Shape (n, size, size, 1) float32 in [-1, 1]; 0 outside the masks.
    """

    masks: np.ndarray
    pixels: np.ndarray


def draw_without_replacement(
    rng: np.random.Generator, population: int, rows: int, count: int
) -> np.ndarray:
    """Draw `count` different numbers below `population` in each of many rows, in random order.

    Returns
    -------
    numpy.ndarray
        Shape (rows, count), int.
    """
    # The rank of each among those that are left, and then the number with that rank.
    drawn = rng.integers(0, population - np.arange(count), (rows, count))
    for later in range(1, count):
        for earlier in np.sort(drawn[:, :later]).T:
            drawn[:, later] += drawn[:, later] >= earlier
    return drawn


def compose(
    bank: Bank, prior: tuple[np.ndarray, np.ndarray], count: int, seed: int, candidates: int = 12
) -> Composed:
    """Compose masks whose number and area of components follow those of real crops.

    For each new mask, one real crop gives the number of components and the foreground area to
    aim at. Of several random candidates with that many components, drawn without replacement
    from the bank, turned, mirrored and placed at random, the one is kept that comes closest to
    the area without components that overlap. Candidates are judged by the boxes around their
    components, all at once; only the pixels of those that are kept are drawn.

    Parameters
    ----------
    bank : Bank
        Components to draw from.
    prior : (counts, areas)
        Of real crops, as :func:`count_and_area` gives them.
    count : int
        Masks to make.
    seed : int
        Seed of every draw.
    candidates : int
        Candidates for each mask; more match the area better and take longer.

    Returns
    -------
    Composed
        `count` masks and the pixels of their components.

    Raises
    ------
    ValueError
        If there is no real crop.
    """
    counts, areas = prior
    if len(counts) == 0:
        raise ValueError("Composing needs real crops for number and area, and there is none.")
    rng = np.random.default_rng(seed)
    size = bank.masks.shape[1]
    source = rng.integers(0, len(counts), count)
    number = np.minimum(counts[source], len(bank))
    shape = (count, candidates, number.max(initial=0))
    drawn = draw_without_replacement(rng, len(bank), count * candidates, shape[2]).reshape(shape)
    orientation = rng.integers(0, EIGHT, shape)
    moves = rng.integers(-size // 2, size // 2 + 1, (2, *shape))
    used = np.arange(shape[2]) < number[:, np.newaxis]  # (count, most components)

    low, high = (box[:, orientation, drawn] for box in bank.boxes)
    whole = np.prod(high - low, axis=0)
    # Both (2, count, candidates, most components): what remains in the frame.
    low, high = (np.clip(box + moves, 0, size) * used[:, np.newaxis] for box in (low, high))
    inside = np.prod(high - low, axis=0)
    foreground = np.diff(bank.foreground[-1])[drawn] * inside / whole
    lost = (inside == 0).sum(axis=-1)  # and those that are not used, as many in all candidates
    overlap = np.zeros(shape[:2])
    for index in range(1, shape[2]):
        ends = np.minimum(high[..., index, np.newaxis], high[..., :index])
        begins = np.maximum(low[..., index, np.newaxis], low[..., :index])
        overlap += np.prod(np.maximum(ends - begins, 0), axis=0).sum(axis=-1)
    mismatch = np.abs(foreground.sum(axis=-1) - areas[source, np.newaxis])
    mismatch += 5 * overlap + size * lost

    mask, component = np.nonzero(used)
    kept = mask, mismatch.argmin(axis=1)[mask], component
    item, position, greys = bank.place(drawn[kept], orientation[kept], *moves[:, *kept])
    masks, pixels = np.zeros((2, count, size * size), np.float32)
    masks[mask[item], position] = 1
    pixels[mask[item], position] = greys
    frames = (count, size, size, 1)
    return Composed(masks.reshape(frames), pixels.reshape(frames))


def copy_paste(composed: Composed, backgrounds: np.ndarray, seed: int) -> np.ndarray:
    """Real pixels on real backgrounds: the control that needs no generator.

    Parameters
    ----------
    composed : Composed
        Masks and the pixels of their components.
    backgrounds : numpy.ndarray
        Real crops without mitochondria, (m, size, size, 1) in [-1, 1].
    seed : int
        Seed of the choice and orientation of the backgrounds.

    Returns
    -------
    numpy.ndarray
        Images for `composed.masks`, same shape, float32 in [-1, 1].

    Raises
    ------
    ValueError
        If there is no background.
    """
    if len(backgrounds) == 0:
        raise ValueError(
            "Copy-paste needs crops without mitochondria as backgrounds, and there is none; "
            "draw more crops or choose a smaller crop size."
        )
    rng = np.random.default_rng(seed)
    count = len(composed.masks)
    chosen = backgrounds[rng.integers(0, len(backgrounds), count)][..., 0]
    turned = orient(chosen, rng.integers(0, EIGHT, count))[..., None]
    return np.where(composed.masks > 0, composed.pixels, turned).astype(np.float32)
