"""Composed masks: new masks from the pieces of real ones.

`compose_original` follows the original study. `compose` places whole components anywhere, in all
eight orientations, drawn without replacement from all slices, and matches the number and area of
components in real crops. `copy_paste` and `erase` make images from real pixels alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border

EIGHT = 8
"""Orientations of the square: four rotations, each with and without a mirror."""

Seed = int | tuple[int, int]
"""A seed, or (seed, step) where every training step needs draws of its own."""


def components(mask: np.ndarray) -> np.ndarray:
    """Number the components (8 neighbours) of a mask, 0 for background: (height, width) int."""
    return label(mask.reshape(mask.shape[:2]) > 0, connectivity=2)


def count_and_area(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of components and foreground pixels of each mask (n, height, width, 1)."""
    counts = np.array([components(mask).max() for mask in masks], int)
    return counts, (masks > 0).sum(axis=(1, 2, 3))


def orient(planes: np.ndarray, orientation: int) -> np.ndarray:
    """Bring planes (…, height, width) into an orientation from 0 to 7.

    0 to 3 turn by 0, 90, 180 and 270 degrees, counter-clockwise; 4 to 7 mirror left and right, and
    then turn in the same way.
    """
    # By hand: np.rot90 does the same, and would take a third of the time of composing.
    if orientation & 4:
        planes = planes[..., ::-1]
    if orientation & 1:
        planes = planes.swapaxes(-2, -1)[..., ::-1, :]
    if orientation & 2:
        planes = planes[..., ::-1, ::-1]
    return planes


def compose_original(masks: np.ndarray, seed: Seed) -> np.ndarray:
    """Compose by the original study's rule, one mask (size, size, 1) from each given one.

    From n components (4 neighbours) as many are drawn, with replacement: n up to three, 3 to n - 1
    from four on. Each is turned by 90, 180 or 270 degrees, and then flipped up-down. Their union
    is the new mask.
    """
    rng = np.random.default_rng(seed)
    composed = np.zeros(masks.shape, np.float32)
    for mask, union in zip(masks[..., 0], composed[..., 0], strict=True):
        labels = label(mask > 0, connectivity=1)
        found = labels.max()
        draws = found if found <= 3 else rng.integers(3, found)  # the end is excluded: n - 1
        for _ in range(draws):
            component = labels == rng.integers(1, found + 1)
            turned = np.rot90(component, int(rng.integers(1, 4)))
            union[np.flipud(turned)] = 1
    return composed


@dataclass(frozen=True, eq=False)
class Component:
    """One component of a real mask, cut out along its box, and the real image in this box.

    Both (height, width); the mask bool, the pixels float32 in [-1, 1].
    """

    mask: np.ndarray
    pixels: np.ndarray


def component_bank(
    images: np.ndarray, masks: np.ndarray, least_area: int = 12, every: int = 5
) -> list[Component]:
    """Collect the components of each `every`-th of whole slices (z, height, width, 1).

    Left out are specks below `least_area` pixels, and components that the edge of a slice cuts:
    they would show a straight edge inside a new mask.
    """
    bank = []
    for image, mask in zip(images[::every, ..., 0], masks[::every], strict=True):
        for region in regionprops(clear_border(components(mask))):
            if region.area >= least_area:
                bank.append(Component(region.image, image[region.slice].astype(np.float32)))
    if not bank:
        raise ValueError(
            "The slices hold no whole component to compose from; use larger or more slices."
        )
    return bank


@dataclass(frozen=True)
class Composed:
    """Composed masks {0, 1}, and the real pixels of their components [-1, 1], 0 elsewhere.

    Both (n, size, size, 1) float32.
    """

    masks: np.ndarray
    pixels: np.ndarray


def scatter(
    bank: list[Component], number: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Place `number` different components at random, in random orientations, in a square.

    Gives how many components cover each pixel, and their grey values, both (size, size). Their
    centres lie in the square; what reaches beyond it is cut off.
    """
    layers = np.zeros((size, size), np.int8)
    pixels = np.zeros((size, size), np.float32)
    chosen = rng.choice(len(bank), number, replace=False)
    draws = np.column_stack([chosen, rng.integers((EIGHT, size, size), size=(number, 3))])
    for index, orientation, row, column in draws.tolist():
        mask = orient(bank[index].mask, orientation)
        height, width = mask.shape
        top, left = row - height // 2, column - width // 2
        seen = np.s_[max(0, -top) : size - top, max(0, -left) : size - left]  # of the component
        place = np.s_[max(0, top) : top + height, max(0, left) : left + width]  # in the square
        layers[place] += mask[seen]
        np.copyto(pixels[place], orient(bank[index].pixels, orientation)[seen], where=mask[seen])
    return layers, pixels


def mismatch(layers: np.ndarray, area: int) -> int:
    """How far placed components are from an area, and from leaving each other free."""
    covered = int(np.count_nonzero(layers))
    overlap = int(layers.sum(dtype=int)) - covered
    return abs(covered - area) + 10 * overlap


def compose(
    bank: list[Component],
    prior: tuple[np.ndarray, np.ndarray],
    size: int,
    count: int,
    seed: Seed,
    candidates: int = 12,
) -> Composed:
    """Compose masks whose number and area of components follow those of real crops.

    For each new mask, one real crop of `prior` (:func:`count_and_area`) gives the number of
    components and the area to aim at. Of several random candidates, the one is kept that comes
    closest to this area without components that overlap.
    """
    counts, areas = prior
    if len(counts) == 0:
        raise ValueError("Composing needs real crops for number and area, and there is none.")
    rng = np.random.default_rng(seed)
    composed = Composed(*np.zeros((2, count, size, size, 1), np.float32))
    for mask, pixels in zip(composed.masks, composed.pixels, strict=True):
        crop = rng.integers(len(counts))
        number, area = min(counts[crop], len(bank)), int(areas[crop])
        tried = [scatter(bank, number, size, rng) for _ in range(candidates)]
        layers, greys = min(tried, key=lambda candidate: mismatch(candidate[0], area))
        mask[..., 0], pixels[..., 0] = layers > 0, greys
    return composed


def erase(images: np.ndarray, masks: np.ndarray, seed: Seed) -> np.ndarray:
    """Paint over the mitochondria of crops with other tissue of the same crop.

    Backgrounds for :func:`copy_paste` where hardly a crop is free of mitochondria. Each, with a
    rim of 2 px, is filled with what the crop shows there after it was turned, mirrored and moved at
    random, until nothing is left. Crops that are mitochondria by more than half are left out.
    """
    rng = np.random.default_rng(seed)
    holes = [binary_dilation(mask > 0, iterations=2) for mask in masks[..., 0]]
    erased = []
    for image, hole in zip(images[..., 0], holes, strict=True):
        if hole.mean() > 0.5:
            continue
        painted, left = image.copy(), hole
        while left.any():
            orientation, move = int(rng.integers(EIGHT)), rng.integers(len(image), size=2)
            pixels, unusable = (
                np.roll(orient(plane, orientation), move, axis=(0, 1)) for plane in (image, hole)
            )
            np.copyto(painted, pixels, where=left & ~unusable)
            left = left & unusable
        erased.append(painted)
    return np.array(erased, np.float32).reshape(-1, *images.shape[1:])


def copy_paste(composed: Composed, backgrounds: np.ndarray, seed: Seed) -> np.ndarray:
    """The control that needs no generator: real pixels of components on real backgrounds.

    Of the backgrounds, (m, size, size, 1) in [-1, 1], each mask gets one in a random orientation.
    """
    if len(backgrounds) == 0:
        raise ValueError(
            "Copy-paste needs crops without mitochondria as backgrounds, and there is none; "
            "draw more crops, or paint over their mitochondria with masks.erase."
        )
    rng = np.random.default_rng(seed)
    chosen = [
        orient(backgrounds[rng.integers(len(backgrounds)), ..., 0], int(rng.integers(EIGHT)))
        for _ in composed.masks
    ]
    tissue = np.reshape(chosen, composed.masks.shape)
    return np.where(composed.masks > 0, composed.pixels, tissue).astype(np.float32)
