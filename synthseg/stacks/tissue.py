"""Cells and mitochondria of the phantom: where they lie, at every voxel."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.special import ndtri

VOXEL = 5.0  # width of a pixel in nm
COARSE = 20.0  # distance of the slices, and edge of the voxels in which geometry is made, in nm
STEP = (1, 4, 4)  # voxels (z, y, x) in a coarse one
ASPECT = np.array([4.0, 1.0, 1.0])  # edges (z, y, x) of a voxel in pixels
PAD = 7  # coarse voxels added on each side, so that cells and mitochondria are cut, not end
SMOOTHING = 0.9  # standard deviation of the smoothing of cell outlines, in coarse voxels (18 nm)
FRACTION = 0.08  # mitochondria are added until they fill this part of the volume

Float = NDArray[np.float32]
Points = NDArray[np.float64]
Box = tuple[slice, ...]


@dataclass
class Tissue:
    """Cells on two grids: `owner` and `room` are coarse and padded, the others full size."""

    owner: NDArray[np.intp]  # coarse: which cell
    room: Float  # coarse: nm to the nearest cell border
    cell: NDArray[np.int16]  # which cell
    depth: Float  # pixels below the border, saturating near 10
    large: NDArray[np.bool_]  # for each cell: is it a dendrite


# --- Boxes and interpolation ------------------------------------------------------------------


def clip(low: Iterable[float], high: Iterable[float], shape: Sequence[int]) -> Box:
    """The voxels from `low` to before `high`, as far as they lie within `shape`."""
    edges = zip(low, high, shape, strict=True)
    return tuple(slice(max(int(a), 0), max(min(int(b), size), 0)) for a, b, size in edges)


def _boxes(low: NDArray, high: NDArray, coarse: Sequence[int], shape: Sequence[int]) -> list[Box]:
    """Coarse box with a margin, and the voxels it holds, which may be none."""
    inner = ((low - 2 - PAD) * STEP, (high + 2 - PAD) * STEP)
    return [clip(low - 4, high + 4, coarse), clip(*inner, shape)]


def _interpolate(field: NDArray, places: list[Points], weigh: Callable[[Points], Points]) -> Float:
    """Interpolate at `places` along each axis; `weigh` gives weights for distances to the grid.

    The products are sparse rather than BLAS's, whose last digit depends on the number of threads:
    the same seed must give the same voxels everywhere.
    """
    result = np.asarray(field, np.float32)
    for axis, place in enumerate(places):
        front = np.moveaxis(result, axis, 0)
        matrix = weigh(np.abs(place[:, None] - np.arange(len(front)))).astype(np.float32)
        product = csr_array(matrix) @ front.reshape(len(front), -1)
        result = np.moveaxis(product.reshape(-1, *front.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def _upsample(field: NDArray, box: Box, fine: Box, sigma: float) -> Float:
    """Interpolate the coarse `field`, which covers `box`, onto `fine`, by Gaussians of `sigma`."""

    def gaussian(distance: Points) -> Points:
        weight = np.where(distance < 4.0, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
        return weight / weight.sum(axis=1, keepdims=True)

    places = [
        (np.arange(wanted.start, wanted.stop) + 0.5) / step + PAD - 0.5 - held.start
        for step, held, wanted in zip(STEP, box, fine, strict=True)
    ]
    return _interpolate(field, places, gaussian)


def noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float, step: int = 1) -> Float:
    """Smooth noise of unit variance: white noise blurred by `grain` pixels on a grid of `step`."""
    steps = (max(step // 4, 1), step, step)
    small = tuple(-(-size // each) + 4 for size, each in zip(shape, steps, strict=True))
    white = rng.standard_normal(small, dtype=np.float32)
    result = ndimage.gaussian_filter(white, grain / ASPECT / steps, mode="wrap", truncate=3.0)
    result /= result.std()
    if step == 1:
        return result[tuple(slice(size) for size in shape)]
    places = [(np.arange(n) + 0.5) / each + 1.0 for n, each in zip(shape, steps, strict=True)]
    return _interpolate(result, places, lambda distance: np.clip(1.0 - distance, 0.0, None))


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
    positions, radii, owners = np.empty((0, 3)), np.empty(0), np.empty(0, np.intp)
    large: list[bool] = []
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
            # A tube ends where it meets another one.
            near = (np.abs(positions - start) < np.abs(path - start).max(axis=0) + 500.0).all(1)
            gap = np.linalg.norm(path[:, None] - positions[near], axis=2)
            free = (gap > 0.8 * (widths[:, None] + radii[near])).all(axis=1)
            free[len(backward)] = True
            labels, _ = ndimage.label(free)
            keep = labels == labels[len(backward)]
            positions = np.concatenate([positions, path[keep]])
            radii = np.concatenate([radii, widths[keep]])
            owners = np.concatenate([owners, np.full(keep.sum(), len(large))])
            large.append(low > 200)
    return positions, radii, owners, np.array(large)


def lay_cells(rng: np.random.Generator, shape: tuple[int, int, int]) -> Tissue:
    """Lay the cells, first on the coarse grid, then on the voxels."""
    coarse = tuple(-(-size // step) + 2 * PAD for size, step in zip(shape, STEP, strict=True))
    positions, radii, owners, large = _tubes(rng, np.array(coarse) * COARSE)
    grid = np.stack(list(np.indices(coarse)), axis=-1).astype(np.float32) * COARSE
    for amplitude, grain in ((80.0, 12.0), (34.0, 4.5), (7.0, 1.5)):
        for axis in range(3):
            white = rng.standard_normal(coarse, dtype=np.float32)
            warp = ndimage.gaussian_filter(white, grain, mode="wrap", truncate=2.5)
            grid[..., axis] += amplitude / warp.std() * warp
    # |x - p|^2 - r^2 differs by a constant from the squared distance to a point lifted into a
    # fourth dimension, so that an ordinary nearest-neighbour search gives the power diagram.
    tree = cKDTree(np.column_stack([positions, np.sqrt(radii.max() ** 2 - radii**2)]))
    query = np.pad(grid.reshape(-1, 3), ((0, 0), (0, 1)))
    owner = owners[tree.query(query, eps=0.3)[1]].reshape(coarse)
    border = ndimage.grey_dilation(owner, 3) != ndimage.grey_erosion(owner, 3)
    room = (ndimage.distance_transform_edt(~border) * COARSE).astype(np.float32)
    best, second = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    cell = np.zeros(shape, np.int16)
    for index, found in enumerate(ndimage.find_objects(owner + 1)):
        if found is None:
            continue
        low, high = np.transpose([(part.start, part.stop) for part in found])
        box, fine = _boxes(low, high, coarse, shape)
        if not best[fine].size:
            continue
        value = _upsample(owner[box] == index, box, fine, SMOOTHING)
        first = best[fine]
        wins = value > first
        second[fine] = np.maximum(second[fine], np.minimum(first, value))
        best[fine] = np.maximum(first, value)
        cell[fine][wins] = index
    # Near a flat border, a smoothed indicator is the normal distribution function of the depth.
    ratio = np.clip(best / (best + second + 1e-9), 0.5, 0.9975)
    table = ndtri(np.linspace(0.5, 0.9975, 2048)).astype(np.float32) * (SMOOTHING * COARSE / VOXEL)
    depth = table[((ratio - 0.5) * (2047 / 0.4975)).astype(np.int32)]
    return Tissue(owner, room, cell, depth, large)


# --- Mitochondria -----------------------------------------------------------------------------


def _axis(
    rng: np.random.Generator, tissue: Tissue, slope: Points, seat: NDArray[np.intp], width: float
) -> Points:
    """Walk both ways from `seat` along the middle of its cell: a path (n, 3) on the coarse grid."""
    cell, shape = tissue.owner[tuple(seat)], tissue.owner.shape
    around = clip(seat - 15, seat + 16, shape)
    near = np.argwhere(tissue.owner[around] == cell) - np.minimum(seat, 15)
    # Mitochondria lie along processes: the cell's long axis is the heading.
    heading = np.linalg.eigh(near.T @ near)[1][:, -1] + 0.25 * rng.standard_normal(3)
    steps = int(0.5 * (rng.uniform(250.0, 700.0) - width) / COARSE)
    halves: list[list[Points]] = []
    for sign in (-1.0, 1.0):
        position, direction, half = seat.astype(float), sign * _unit(heading), []
        for _ in range(steps):
            place = tuple(np.rint(position).astype(int))
            lack = np.clip(1.0 - tissue.room[place] / (0.5 * width + 15.0), 0.0, 1.0)
            direction = _unit(direction + 0.1 * rng.standard_normal(3) + lack * slope[:, *place])
            position = np.clip(position + direction, 0, np.array(shape) - 1)
            place = tuple(np.rint(position).astype(int))
            if tissue.owner[place] != cell or tissue.room[place] < 0.25 * width:
                break
            half.append(position)
        halves.append(half)
    return np.array([*halves[0][::-1], seat, *halves[1]], float)


def _field(rng: np.random.Generator, tissue: Tissue, path: Points, box: Box, width: float) -> Float:
    """Nm inside the surface of a tube around `path` that keeps off the membrane, in `box`."""
    away, nearest = cKDTree(path).query(np.moveaxis(np.mgrid[box], 0, -1))
    along = np.linspace(0.0, 2 * np.pi, len(path))
    swell = 1.0 + 0.1 * np.sin(rng.uniform(0.7, 1.6) * along + rng.uniform(0, 6.3))
    cell = tissue.owner[tuple(np.rint(path[len(path) // 2]).astype(int))]
    own = np.where(tissue.owner[box] == cell, tissue.room[box], -COARSE)
    return np.minimum(0.5 * width * swell[nearest] - COARSE * away, own).astype(np.float32)


def _cristae(rng: np.random.Generator, path: Points, fine: Box, ripple: Float) -> Float:
    """Folds (0 to 1) across a mitochondrion, or along it, in `fine`."""
    along = _unit(path[-1] - path[0] + rng.standard_normal(3))
    normal = along if rng.random() < 0.6 else _unit(np.cross(along, rng.standard_normal(3)))
    planes = zip(normal * ASPECT, np.ogrid[fine], strict=True)
    position = sum((part * at for part, at in planes), np.float64(0)).astype(np.float32)
    wave = np.cos(position * (2 * np.pi * VOXEL / rng.uniform(50.0, 80.0)) + 2 * ripple[fine])
    return np.clip((wave - 0.2) / 0.6, 0, 1) * rng.uniform(0.7, 1.0)


def lay_mitochondria(
    rng: np.random.Generator, tissue: Tissue
) -> tuple[NDArray[np.uint8], Float, Float]:
    """Mask (0/1), signed distance to the surface in pixels (inside positive), cristae (0 to 1)."""
    shape, coarse = tissue.cell.shape, tissue.owner.shape
    mask, cristae = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    distance = np.full(shape, -20.0, np.float32)
    slope = np.stack(list(np.gradient(tissue.room))) / COARSE
    ripple = noise(rng, shape, 9.0, 3)
    inner = tuple(slice(PAD - 2, size - PAD + 2) for size in coarse)
    roomy = np.argwhere(tissue.room[inner] > 50.0) + PAD - 2
    taken, total = np.zeros(coarse, bool), 0
    for _ in range(max(60, mask.size // 3_000)):
        if total >= FRACTION * mask.size:
            break
        width, seat = rng.uniform(100.0, 190.0), roomy[rng.integers(len(roomy))]
        if tissue.room[tuple(seat)] < 0.5 * width or taken[tuple(seat)]:
            continue
        path = _axis(rng, tissue, slope, seat, width)
        if taken[tuple(np.rint(path).astype(int).T)].any():
            continue
        box, fine = _boxes(np.floor(path.min(0)) - 4, np.ceil(path.max(0)) + 5, coarse, shape)
        if not mask[fine].size:
            continue
        field = _field(rng, tissue, path, box, width)
        inside = _upsample(field, box, fine, 0.8) / VOXEL
        shallow = tissue.depth[fine] < 9.0  # the depth saturates further in
        inside = np.where(shallow, np.minimum(inside, tissue.depth[fine] - 3.0), inside)
        # Slices that only graze the end of a tube are left out.
        deep = inside.max(axis=(1, 2)) > 4.0
        labels, count = ndimage.label((inside > 0) & deep[:, None, None])
        if not count:
            continue
        # The largest piece: clipping by the cell can cut a thin end off.
        piece = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        if (distance[fine][piece] > -8.0).any() or inside[piece].max() < 8.0:
            continue  # crowded, or a crumb
        total += int(piece.sum())
        taken[box] |= field > -80.0
        mask[fine][piece] = 1
        inside = np.where(piece, inside, np.minimum(inside, 0.0))
        distance[fine] = np.maximum(distance[fine], inside)
        cristae[fine][piece] = _cristae(rng, path, fine, ripple)[piece]
    return mask, distance, cristae
