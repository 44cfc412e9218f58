"""Simulated electron microscopy of neuropil, with exact mitochondria masks.

The phantom stands in for a real stack where none can be downloaded: it looks like hippocampal
neuropil, it is made in seconds, and the mask is known exactly because the mitochondria were drawn
from it. It is a model of appearance, not of anatomy: scores on it say nothing about tissue.

Pixels are 5 nm wide and slices lie 20 nm apart, so that few slices reach through many
mitochondria. Lengths below are in nm, grey values from 0 to 255.

1. *Cells.* Winding tubes (dendrites of radius 230-360, axons of 90-170) are laid in space until it
   is crowded. Each point goes to the nearest tube, in the sense of a power diagram (a Voronoi
   diagram whose sites have sizes) in warped coordinates. This happens on a grid of 20 nm; Gaussian
   interpolation of the cells' indicator functions then gives smooth outlines, and the depth below
   the membrane, at every pixel.
2. *Mitochondria.* Curved tubes, 110-200 wide and up to 700 long, within one cell each, until they
   fill 8 % of the voxels. Two membranes, and cristae every 50-80.
3. *Inclusions.* Clusters of vesicles (32-42 across), each facing a postsynaptic density; single
   vesicles, endosomes and tubules of reticulum.
4. *Image.* Grey values, grains of 8, 17 and 90, a blur of 5, shot noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.special import ndtri

from synthseg.stacks.findings import Pair, Source

VOXEL = 5.0
"""Width of a pixel in nm."""
COARSE = 20.0
"""Distance of the slices, and edge of the voxels in which geometry is made, in nm."""
STEP = (1, 4, 4)
"""Voxels (z, y, x) in a coarse one."""
ASPECT = np.array([4.0, 1.0, 1.0])
"""Edges (z, y, x) of a voxel in pixels."""
PAD = 7
"""Coarse voxels added on each side, so that cells and mitochondria are cut, not end."""
SMOOTHING = 0.9
"""Standard deviation, in coarse voxels, of the smoothing of cell outlines (18 nm)."""
FRACTION = 0.08
"""Mitochondria are added until they fill this part of the volume."""
SMALLEST = (4, 128, 128)

Float = NDArray[np.float32]
Points = NDArray[np.float64]
Box = tuple[slice, ...]


@dataclass
class _Tissue:
    """Cells on two grids: `owner` and `room` are coarse and padded, the others full size."""

    owner: NDArray[np.intp]  # coarse: which cell
    room: Float  # coarse: nm to the nearest cell border
    cell: NDArray[np.int16]  # which cell
    depth: Float  # pixels below the border, saturating near 10
    large: NDArray[np.bool_]  # for each cell: is it a dendrite


# --- Interpolation ----------------------------------------------------------------------------


def _interpolate(field: NDArray, matrices: list[NDArray[np.float64]]) -> Float:
    """Apply one matrix (fine, coarse) along each axis of `field`.

    The products are sparse rather than BLAS's, whose last digit depends on the number of threads:
    the same seed must give the same voxels everywhere.
    """
    result = np.asarray(field, np.float32)
    for axis, matrix in enumerate(matrices):
        front = np.moveaxis(result, axis, 0)
        product = csr_array(matrix.astype(np.float32)) @ front.reshape(len(front), -1)
        result = np.moveaxis(product.reshape(-1, *front.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def _upsample(field: NDArray, box: Box, fine: Box, sigma: float) -> Float:
    """Interpolate the coarse `field`, which covers `box`, onto `fine`, by Gaussians of `sigma`."""
    matrices = []
    for step, held, wanted in zip(STEP, box, fine, strict=True):
        centre = (np.arange(wanted.start, wanted.stop) + 0.5) / step + PAD - 0.5
        distance = np.abs(centre[:, None] - np.arange(held.start, held.stop))
        weight = np.where(distance < 4.0, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
        matrices.append(weight / weight.sum(axis=1, keepdims=True))
    return _interpolate(field, matrices)


def _boxes(found: Box, coarse: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Box, Box]:
    """Coarse box with a margin, and the voxels it holds, which may be none."""
    box, fine = [], []
    for part, limit, size, step in zip(found, coarse, shape, STEP, strict=True):
        box.append(slice(max(part.start - 4, 0), min(part.stop + 4, limit)))
        first, last = (part.start - 2 - PAD) * step, (part.stop + 2 - PAD) * step
        fine.append(slice(max(first, 0), max(min(last, size), 0)))
    return tuple(box), tuple(fine)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float, step: int = 1) -> Float:
    """Smooth noise of unit variance: white noise blurred by `grain` pixels on a grid of `step`."""
    steps = (max(step // 4, 1), step, step)
    small = tuple(-(-size // each) + 4 for size, each in zip(shape, steps, strict=True))
    sigma = grain / ASPECT / steps
    result = ndimage.gaussian_filter(
        rng.standard_normal(small, dtype=np.float32), sigma, mode="wrap", truncate=3.0
    )
    result /= result.std()
    if step > 1:
        matrices = []
        for held, wanted, each in zip(small, shape, steps, strict=True):
            position = (np.arange(wanted) + 0.5) / each + 1.0
            distance = np.abs(position[:, None] - np.arange(held))
            matrices.append(np.clip(1.0 - distance, 0.0, None))
        result = _interpolate(result, matrices)
    return result[tuple(slice(size) for size in shape)]


# --- Cells ------------------------------------------------------------------------------------


def _unit(vector: Points) -> Points:
    return vector / np.linalg.norm(vector)


def _walk(
    rng: np.random.Generator, start: Points, heading: Points, pace: float, steps: int, bend: float
) -> Points:
    """Walk a winding path (steps, 3): each step turns the heading by about `bend` radians."""
    path = np.empty((steps, 3))
    for index in range(steps):
        path[index] = start
        heading = _unit(heading + bend * rng.standard_normal(3))
        start = start + pace * heading
    return path


def _tubes(
    rng: np.random.Generator, extent: Points
) -> tuple[Points, Points, NDArray[np.intp], NDArray[np.bool_]]:
    """Sites of the power diagram: positions (n, 3), radii (n,), cell (n,), large (cells,)."""
    positions, radii, owners, large = np.empty((0, 3)), np.empty(0), np.empty(0, np.intp), []
    # radii, tubes tried in a cubic micrometre, steps each way, bend, variation of the radius
    for low, high, tried, most, bend, variation in (
        (230.0, 360.0, 8, 14, 0.12, 0.20),
        (90.0, 170.0, 260, 24, 0.16, 0.30),
    ):
        for _ in range(round(tried * float(np.prod(extent)) / 1e9)):
            radius = rng.uniform(low, high)
            start = rng.uniform(0.0, 1.0, 3) * extent
            gap = np.linalg.norm(positions - start, axis=1)
            if (gap < 0.8 * (radius + radii)).any():
                continue
            heading = _unit(rng.standard_normal(3))
            forward = _walk(rng, start, heading, 0.6 * radius, most, bend)
            backward = _walk(rng, start, -heading, 0.6 * radius, most, bend)[1:]
            path = np.concatenate([backward[::-1], forward])
            swing = np.cumsum(rng.standard_normal(len(path))) * 0.6 + rng.uniform(0, 6.3)
            widths = radius * (1.0 + variation * np.sin(swing))
            if len(positions):  # a tube ends where it meets another one
                gap = cKDTree(positions).query(path)[0] if low > 200 else _gap(path, positions)
                free = gap > 0.8 * (widths + low)
                free[len(backward)] = True
                labels, _ = ndimage.label(free)
                keep = labels == labels[len(backward)]
                path, widths = path[keep], widths[keep]
            positions = np.concatenate([positions, path])
            radii = np.concatenate([radii, widths])
            owners = np.concatenate([owners, np.full(len(path), len(large))])
            large.append(low > 200)
    return positions, radii, owners, np.array(large)
