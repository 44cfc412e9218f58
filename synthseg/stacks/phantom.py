"""Simulated electron microscopy of neuropil, with exact mitochondria masks.

The phantom stands in for a real stack where none can be downloaded: it looks like hippocampal
neuropil, it is made in seconds, and the mask is known exactly because the mitochondria were drawn
from it. It is a model of appearance, not of anatomy: scores on it say nothing about tissue.

Pixels are 5 nm wide and slices lie 20 nm apart, so that few slices reach through many
mitochondria. Lengths are in nm:

1. *Cells.* Winding tubes (dendrites of radius 230-360, axons of 90-170); each point goes to the
   nearest tube in the sense of a power diagram (a Voronoi diagram whose sites have sizes).
2. *Mitochondria.* Curved tubes, 100-190 wide and up to 700 long, within one cell each, until they
   fill 8 % of the voxels. Two membranes, and cristae every 50-80.
3. *Inclusions.* Clusters of vesicles (32-42 across), each facing a postsynaptic density; single
   vesicles, endosomes and reticulum.
4. *Image.* Grey values from 0 to 255, grains of 8, 17 and 90, a blur of 5, shot noise.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from synthseg.stacks import tissue as tissues
from synthseg.stacks.findings import Source
from synthseg.stacks.tissue import ASPECT, COARSE, VOXEL, Box, Float, Points, Tissue, clip, noise

SMALLEST = (4, 128, 128)

# --- Inclusions -------------------------------------------------------------------------------


def _offsets(window: Box, centre: Points) -> list[Points]:
    """Pixels from `centre` along z, y and x, at every voxel of a window."""
    places = zip(np.ogrid[window], centre, ASPECT, strict=True)
    return [(at - middle) * edge for at, middle, edge in places]


def _stamp(surface: Float, centre: Points, radius: float, squeeze: Points | None = None) -> None:
    """Lower `surface` (signed distance in pixels) to that of a ball; `squeeze` (3,) flattens it."""
    reach = np.ceil((radius + 5.0) / ASPECT)
    window = clip(np.rint(centre - reach), np.rint(centre + reach) + 1, surface.shape)
    depth, height, width = (each.astype(np.float32) for each in _offsets(window, centre))
    square = depth**2 + height**2 + width**2
    if squeeze is not None:
        square = square + 2 * (depth * squeeze[0] + height * squeeze[1] + width * squeeze[2]) ** 2
    ball = np.sqrt(square).astype(np.float32) - np.float32(radius)
    surface[window] = np.minimum(surface[window], ball)


def _free(
    tissue: Tissue, distance: Float, centres: Points, cell: int, clearance: float
) -> NDArray[np.bool_]:
    """Which `centres` (n, 3) lie in `cell`, clear of its membrane and of mitochondria."""
    last = np.array(tissue.cell.shape) - 1
    index = np.rint(centres).astype(int)
    place = tuple(np.clip(index, 0, last).T)
    good = ((index >= 0) & (index <= last)).all(axis=1) & (tissue.cell[place] == cell)
    return good & (tissue.depth[place] > min(clearance, 9.0)) & (distance[place] < -clearance)


def _synapses(rng: np.random.Generator, tissue: Tissue, distance: Float, surface: Float) -> Float:
    """Vesicle clusters (into `surface`), each opposite a density; returns its weight (0 to 1)."""
    density = np.zeros(tissue.cell.shape, np.float32)
    wanted = round(density.size * COARSE * VOXEL**2 / 1e9 * 2.5) + 1  # in a cubic micrometre
    reach = np.array([14, 56, 56])
    places = np.argwhere(tissue.depth < 1.5)
    for point in places[rng.choice(len(places), 30 * wanted)]:
        box = clip(point - reach, point + reach + 1, density.shape)
        cells = tissue.cell[box]
        near = np.bincount(cells.ravel(), minlength=len(tissue.large))
        pair = np.unique(tissue.cell[clip(point - 2, point + 3, density.shape)])
        axons = pair[~tissue.large[pair]]
        if len(pair) != 2 or not len(axons) or near[pair].min() < 0.1 * cells.size:
            continue
        before = int(axons[0])
        after = pair[0] if pair[1] == before else pair[1]
        offset = rng.standard_normal((1500, 3)) * 24.0
        centres = point + offset[(offset**2).sum(axis=1) < 50**2] / ASPECT
        centres = centres[_free(tissue, distance, centres, before, 6.0)]
        if len(centres) < 25:
            continue
        centres = centres[: rng.integers(60, 250)]
        close = cKDTree(centres * ASPECT).query_pairs(8.2, output_type="ndarray")
        for centre in np.delete(centres, close.max(axis=1, initial=0), axis=0):
            _stamp(surface, centre, rng.uniform(3.2, 4.2))
        away = np.sqrt(sum(each**2 for each in _offsets(box, point)))
        disk = np.clip((rng.uniform(20.0, 40.0) - away) / 6.0, 0.0, 1.0)
        facing = ndimage.maximum_filter(cells == before, (3, 19, 19))
        thick = np.exp(-((tissue.depth[box] / 5.0) ** 2)) * ((cells == after) & facing)
        thin = 0.8 * np.exp(-((tissue.depth[box] / 3.0) ** 2)) * (cells == before)
        density[box] = np.maximum(density[box], disk * np.maximum(thick, thin))
        wanted -= 1
        if not wanted:
            break
    return density


def _vesicles(rng: np.random.Generator, tissue: Tissue, distance: Float, surface: Float) -> None:
    """Reticulum, endosomes and single vesicles of all cells, into `surface`."""
    count = round(450 * surface.size * COARSE * VOXEL**2 / 1e9)
    for point in rng.uniform(0.0, 1.0, (count, 3)) * (np.array(surface.shape) - 1):
        cell = int(tissue.cell[tuple(np.rint(point).astype(int))])
        radius = rng.uniform(7.0, 11.0) if rng.random() < 0.1 else rng.uniform(2.5, 5.0)
        if _free(tissue, distance, point[None], cell, radius + 3.0)[0]:
            _stamp(surface, point, radius, rng.standard_normal(3) * 0.7)


# --- Image ------------------------------------------------------------------------------------


def _bump(distance: Float, width: float) -> Float:
    """Gaussian profile exp(-(distance / width)^2)."""
    return np.exp(-((distance * np.float32(1.0 / width)) ** 2))


def make(
    seed: int, shape: tuple[int, int, int] = (48, 384, 512)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Simulate a volume of neuropil; the same seed and shape give the same volume.

    `shape` counts voxels (z, y, x), at least (4, 128, 128). Image and mask are uint8; the mask is
    1 on mitochondria, outer membrane included.
    """
    if seed < 0:
        raise ValueError(f"phantom: the seed must not be negative, but is {seed}.")
    if any(size < least for size, least in zip(shape, SMALLEST, strict=True)):
        raise ValueError(
            f"phantom: the shape (z, y, x) must be at least {SMALLEST} voxels, but is {shape}."
        )
    rng = np.random.default_rng(seed)
    tissue = tissues.lay_cells(rng, shape)
    mask, distance, cristae = tissues.lay_mitochondria(rng, tissue)
    surface = np.full(shape, 20.0, np.float32)
    density = _synapses(rng, tissue, distance, surface)
    _vesicles(rng, tissue, distance, surface)

    greys = rng.normal(172.0, 6.0, len(tissue.large))
    dark = (rng.random(len(greys)) < 0.10) & ~tissue.large
    greys[dark] -= rng.uniform(15.0, 35.0, int(dark.sum()))
    image = greys.astype(np.float32)[tissue.cell]
    # Cytosol is granular: mostly light, with dark clumps of ribosomes and filaments.
    fine, middle = noise(rng, shape, 1.6), noise(rng, shape, 3.4, 2)
    image += 4.0 * noise(rng, shape, 18.0, 6) + 8.0 * fine + 9.0 * middle
    image -= 28.0 * np.clip(middle + 0.6 * fine - 0.8, 0.0, 1.4)
    # Inclusions: a dark membrane on the surface, the lumen a little darker than the cytosol.
    image -= 52.0 * _bump(surface + 0.6, 1.9) + 14.0 * (surface < 0)
    # Mitochondria: matrix, cristae, and two membranes.
    matrix = 126.0 + 5.0 * fine + 4.0 * middle + 5.0 * noise(rng, shape, 25.0, 8)
    matrix -= 36.0 * cristae * np.clip((distance - 5.0) / 3.0, 0.0, 1.0)
    matrix -= 46.0 * _bump(distance - 1.4, 1.6) + 34.0 * _bump(distance - 6.2, 1.4)
    np.copyto(image, matrix, where=mask.astype(bool))
    # Cell membranes; the cleft between two shows here and there, as staining varies.
    image -= (76.0 + 7.0 * noise(rng, shape, 14.0, 6)) * _bump(np.maximum(tissue.depth - 1, 0), 1.9)
    cleft = np.clip(10.0 + 14.0 * noise(rng, shape, 20.0, 8), 0.0, 30.0)
    image += cleft * _bump(tissue.depth, 1.0) - 62.0 * density
    sharp = np.clip(image, 78.0, 215.0)
    image = ndimage.gaussian_filter(sharp, (0.25, 1.0, 1.0), truncate=3.0)
    image += np.sqrt(image) * (0.75 * rng.standard_normal(shape, dtype=np.float32))  # shot noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def source() -> Source:
    """Two simulated volumes: one for training and validation, another one for the test."""
    return Source(
        blocks=[(*make(0), "phantom-0"), (*make(1, (12, 384, 512)), "phantom-1")],
        nm_per_pixel=VOXEL,
        name="phantom",
        provenance=(
            "Simulated electron microscopy of neuropil, pixels of 5 nm, slices 20 nm apart, made "
            "by synthseg.stacks.phantom. Not tissue: scores on it test the software and say "
            "nothing about real data."
        ),
    )
