"""Simulated electron microscopy of neuropil, with exact mitochondria masks.

The phantom stands in for a real focused-ion-beam stack where none can be downloaded: it looks
like hippocampal neuropil imaged at 5 nm isotropic voxels, it is made in seconds, and the mask is
known exactly because the mitochondria were drawn from it. It is a model of appearance, not of
anatomy: scores reached on it say nothing about scores on tissue.

How a volume is made
--------------------
1. *Cells.* Winding tubes (dendrites, axons with varicosities, spines and boutons) are laid in
   space until it is crowded. Each voxel goes to the nearest tube, in the sense of a power diagram
   (a Voronoi diagram whose sites have sizes) in warped coordinates. This happens on a grid of
   20 nm; Gaussian interpolation of the cells' indicator functions then gives smooth outlines and
   the depth below the membrane on the 5 nm grid.
2. *Mitochondria.* Curved, tapering tubes that keep clear of the cell's membrane, until they fill
   the wanted fraction of the volume.
3. *Inclusions.* Vesicle clusters, each facing a postsynaptic density, scattered vesicles,
   endoplasmic reticulum and endosomes.
4. *Image.* Grey values, granular texture, blur and shot noise.

Parameters (lengths in nm, grey values of 0 to 255)
---------------------------------------------------
=============================== =========================================================
voxel                           5, isotropic
dendrite / axon / bouton radius 240-400 / 70-150 / 150-250
membrane pair                   about 22 wide, with a faint cleft where it is cut at right angles
mitochondrion                   170-310 wide, up to 1000 long; outer membrane, lighter
                                intermembrane space, inner membrane; cristae every 60-95
distance mitochondrion-membrane at least 15
mitochondria                    5.2-6.6 % of the voxels, each within one cell
synaptic vesicle                32-42 across; up to 140 in a cluster 520 across, as room allows
postsynaptic density            200-400 across, about 25 deep
endoplasmic reticulum           tubules 20-80 across, flattened, 100-700 long
other vesicles / endosomes      25-50 / 70-110 across
texture                         grains of 8, 17 and 90 (standard deviations of Gaussians)
point spread                    Gaussian, standard deviation 5
shot noise                      variance 0.56 x grey value
=============================== =========================================================
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.special import ndtri

from synthseg.stacks.findings import Pair, Source

VOXEL = 5.0
"""Voxel size in nm."""
STEP = 4
"""Edge of a coarse voxel in voxels: geometry is made on a grid of 20 nm and interpolated."""
COARSE = VOXEL * STEP
PAD = (12, 8, 8)
"""Coarse voxels added on each side (z, y, x), so that cells and mitochondria are cut, not end."""
SMOOTHING = 0.9
"""Standard deviation, in coarse voxels, of the smoothing of cell outlines (18 nm)."""
FRACTION = (0.052, 0.066)
"""Mitochondria are added until they fill the first (0.8 of it where places are hard to find),
and never beyond the second."""
SMALLEST = (8, 128, 128)
"""A smaller volume could not hold the wanted fraction in whole mitochondria."""

Float = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass
class _Tissue:
    """Geometry on two grids: `owner` and `room` are coarse and padded, the others full size."""

    shape: tuple[int, int, int]
    owner: NDArray[np.intp]  # coarse: which cell
    room: Float  # coarse: nm to the nearest cell border
    cell: NDArray[np.int16]  # which cell
    depth: Float  # voxels below the border, saturating near 10
    large: NDArray[np.bool_]  # per cell: is a dendrite


# --- interpolation -------------------------------------------------------------------------------


def _interpolate(field: NDArray, matrices: list[NDArray[np.float64]]) -> Float:
    """Apply one interpolation matrix (fine, coarse) along each axis of `field`.

    Far faster than spline interpolation. The products are sparse rather than BLAS's, whose last
    digit depends on the number of threads: the same seed must give the same voxels everywhere.
    """
    result = np.asarray(field, np.float32)
    for axis, matrix in enumerate(matrices):
        front = np.moveaxis(result, axis, 0)
        product = csr_array(matrix.astype(np.float32)) @ front.reshape(len(front), -1)
        result = np.moveaxis(product.reshape(-1, *front.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def _upsample(
    field: NDArray, box: tuple[slice, ...], fine: tuple[slice, ...], sigma: float
) -> Float:
    """Interpolate the coarse `field`, which covers `box`, onto `fine`, by Gaussians of `sigma`."""
    matrices = []
    for axis, (held, wanted) in enumerate(zip(box, fine, strict=True)):
        centre = (np.arange(wanted.start, wanted.stop) + 0.5) / STEP + PAD[axis] - 0.5
        distance = np.abs(centre[:, None] - np.arange(held.start, held.stop))
        weight = np.where(distance < 4.0, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
        matrices.append(weight / weight.sum(axis=1, keepdims=True))
    return _interpolate(field, matrices)


def _boxes(
    found: tuple[slice, ...], coarse_shape: tuple[int, ...], shape: tuple[int, int, int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Coarse box with a margin, and the voxels it holds; None when it lies in the padding."""
    margin = 4
    box, fine = [], []
    for axis, part in enumerate(found):
        start = max(part.start - margin, 0)
        stop = min(part.stop + margin, coarse_shape[axis])
        first = max((part.start - margin // 2 - PAD[axis]) * STEP, 0)
        last = min((part.stop + margin // 2 - PAD[axis]) * STEP, shape[axis])
        if first >= last:
            return None
        box.append(slice(start, stop))
        fine.append(slice(first, last))
    return tuple(box), tuple(fine)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float, step: int) -> Float:
    """Smooth noise of unit variance: white noise blurred by `grain` voxels on a grid of `step`."""
    small = tuple(-(-size // step) + 4 for size in shape)
    white = rng.standard_normal(small, dtype=np.float32)
    result = ndimage.gaussian_filter(white, grain / step, mode="wrap", truncate=3.0)
    result /= result.std() + 1e-6
    if step > 1:
        matrices = []
        for held, wanted in zip(small, shape, strict=True):
            position = (np.arange(wanted) + 0.5) / step + 1.0
            distance = np.abs(position[:, None] - np.arange(held))
            matrices.append(np.clip(1.0 - distance, 0.0, None))
        result = _interpolate(result, matrices)
    return result[tuple(slice(size) for size in shape)]


# --- cells ---------------------------------------------------------------------------------------


def _walk(
    rng: np.random.Generator, start: Points, heading: Points, pace: float, steps: int, bend: float
) -> Points:
    """Walk a winding path (steps, 3): each step turns the heading by about `bend` radians."""
    path = np.empty((steps, 3))
    position = start
    for index in range(steps):
        path[index] = position
        heading = heading + bend * rng.standard_normal(3)
        heading = heading / np.linalg.norm(heading)
        position = position + pace * heading
    return path


def _tubes(
    rng: np.random.Generator, extent: Points
) -> tuple[Points, Points, NDArray[np.intp], NDArray[np.bool_]]:
    """Sites of the power diagram: positions (n, 3), radii (n,), cell (n,), large (cells,)."""
    plan = [
        # kind's radii, share of the space that is tried, most steps, turn, variation of the radius
        ((240.0, 400.0), 0.6, 14, 0.12, 0.20),
        ((150.0, 250.0), 2.5, 5, 0.35, 0.25),
        ((70.0, 150.0), 12.0, 30, 0.16, 0.35),
    ]
    positions = np.empty((0, 3))
    radii = np.empty(0)
    owners = np.empty(0, dtype=np.intp)
    large: list[bool] = []
    for kind, ((low, high), share, most, bend, variation) in enumerate(plan):
        typical = 4.0 * ((low + high) / 2) ** 3
        for _ in range(max(4, round(share * float(np.prod(extent)) / typical / (1 + 2 * kind)))):
            radius = rng.uniform(low, high)
            pace = 0.6 * radius
            start = rng.uniform(0.0, 1.0, 3) * extent
            room = np.linalg.norm(positions - start, axis=1) - 0.8 * radii
            if len(room) and room.min() < 0.8 * radius:
                continue
            heading = rng.standard_normal(3)
            heading /= np.linalg.norm(heading)
            forward = _walk(rng, start, heading, pace, most, bend)
            backward = _walk(rng, start, -heading, pace, most, bend)[1:]
            swing = np.cumsum(rng.standard_normal(2 * most - 1)) * 0.6 + rng.uniform(0, 6.3)
            path = np.concatenate([backward[::-1], forward])
            widths = radius * (1.0 + variation * np.sin(swing))
            if len(positions):
                # A tube ends where it meets another one.
                gap = np.linalg.norm(path[:, None] - positions[None], axis=2)
                free = (gap > 0.8 * (widths[:, None] + radii[None])).all(axis=1)
                labels, _ = ndimage.label(free)
                if not labels[len(backward)]:
                    continue
                keep = labels == labels[len(backward)]
                path, widths = path[keep], widths[keep]
            positions = np.concatenate([positions, path])
            radii = np.concatenate([radii, widths])
            owners = np.concatenate([owners, np.full(len(path), len(large))])
            large.append(kind == 0)
    return positions, radii, owners, np.array(large)


def _tissue(rng: np.random.Generator, shape: tuple[int, int, int]) -> _Tissue:
    """Lay the cells, first on the coarse grid, then on the voxels."""
    coarse_shape = tuple(-(-size // STEP) + 2 * pad for size, pad in zip(shape, PAD, strict=True))
    positions, radii, owners, large = _tubes(rng, np.array(coarse_shape) * COARSE)

    grid = np.stack(list(np.indices(coarse_shape)), axis=-1).astype(np.float32) * COARSE
    for amplitude, grain in ((80.0, 12.0), (34.0, 4.5), (7.0, 1.5)):
        for axis in range(3):
            grid[..., axis] += amplitude * _noise(rng, coarse_shape, grain, 2 if grain > 4 else 1)
    # |x - p|^2 - r^2 differs by a constant from the squared distance to a point lifted into a
    # fourth dimension, so that an ordinary nearest-neighbour search gives the power diagram.
    lift = np.sqrt(radii.max() ** 2 - radii**2)
    tree = cKDTree(np.column_stack([positions, lift]))
    query = np.concatenate([grid.reshape(-1, 3), np.zeros((grid[..., 0].size, 1))], axis=1)
    owner = owners[tree.query(query, eps=0.03)[1]].reshape(coarse_shape)

    border = np.zeros(coarse_shape, dtype=bool)
    for axis in range(3):
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differs = owner[tuple(ahead)] != owner[tuple(behind)]
        border[tuple(ahead)] |= differs
        border[tuple(behind)] |= differs
    room = (ndimage.distance_transform_edt(~border) * COARSE).astype(np.float32)

    best = np.zeros(shape, np.float32)
    second = np.zeros(shape, np.float32)
    cell = np.zeros(shape, np.int16)
    for index, found in enumerate(ndimage.find_objects(owner + 1)):
        boxes = _boxes(found, coarse_shape, shape) if found else None
        if boxes is None:
            continue
        box, fine = boxes
        value = _upsample(owner[box] == index, box, fine, SMOOTHING)
        first = best[fine]
        wins = value > first
        second[fine] = np.maximum(second[fine], np.minimum(first, value))
        best[fine] = np.maximum(first, value)
        cell[fine][wins] = index
    # Near a flat border, a smoothed indicator is the normal distribution function of the depth.
    ratio = np.clip(best / (best + second + 1e-9), 0.5, 0.9975)
    table = ndtri(np.linspace(0.5, 0.9975, 2048)).astype(np.float32) * SMOOTHING * STEP
    depth = table[((ratio - 0.5) * (2047 / 0.4975)).astype(np.int32)]
    return _Tissue(shape, owner, room, cell, depth, large)


# --- mitochondria --------------------------------------------------------------------------------


@dataclass
class _Mitochondrion:
    field: Float  # coarse: nm inside the surface
    box: tuple[slice, ...]
    fine: tuple[slice, ...]
    axis: Points  # unit vector (z, y, x)


def _propose(
    rng: np.random.Generator, tissue: _Tissue, slope: list[Float], width: float
) -> _Mitochondrion | None:
    """One mitochondrion of about `width` nm in a cell that has the room; None if it has not."""
    inside = tuple(slice(pad, -pad) for pad in PAD)
    roomy = np.argwhere(tissue.room[inside] > 0.5 * width + 10.0)
    if not len(roomy):
        return None
    # A cell first, then a place in it: axons and boutons get their share, not dendrites alone.
    owners = tissue.owner[inside][tuple(roomy.T)]
    cell = rng.choice(np.unique(owners))
    roomy = roomy[owners == cell]
    seat = roomy[rng.integers(len(roomy))] + np.array(PAD)
    length = rng.uniform(300.0, 1000.0)
    # The cell's long axis guides the heading: mitochondria lie along processes.
    around = tuple(slice(max(at - 20, 0), at + 21) for at in seat)
    near = np.argwhere(tissue.owner[around] == cell) - (seat - [part.start for part in around])
    heading = np.linalg.eigh(near.T @ near)[1][:, -1] + 0.25 * rng.standard_normal(3)
    heading /= np.linalg.norm(heading)
    limit = np.array(tissue.owner.shape) - 1

    halves = []
    for sign in (-1.0, 1.0):
        position, direction, half = seat.astype(float), sign * heading, []
        for _ in range(int(0.5 * max(length - width, 0.0) / 30.0)):
            direction = direction + 0.10 * rng.standard_normal(3)
            place = tuple(np.clip(np.rint(position).astype(int), 0, limit))
            lack = np.clip(1.0 - tissue.room[place] / (0.5 * width + 15.0), 0.0, 1.0)
            direction = direction + lack * np.array([part[place] for part in slope])
            direction /= np.linalg.norm(direction)
            position = position + direction * (30.0 / COARSE)
            place = tuple(np.clip(np.rint(position).astype(int), 0, limit))
            if tissue.owner[place] != cell or tissue.room[place] < 0.3 * width:
                break
            half.append(position)
        halves.append(half)
    path = np.array(halves[0][::-1] + [seat.astype(float)] + halves[1])

    reach = int(width / COARSE) + 2
    low = np.clip(np.floor(path.min(axis=0)).astype(int) - reach, 0, limit)
    high = np.clip(np.ceil(path.max(axis=0)).astype(int) + reach, 0, limit) + 1
    found = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    boxes = _boxes(found, tissue.owner.shape, tissue.shape)
    if boxes is None:
        return None
    box, fine = boxes
    origin = [part.start for part in box]
    grid = np.stack(list(np.indices([part.stop - part.start for part in box])), axis=-1) + origin
    distance, nearest = cKDTree(path).query(grid)
    along = np.linspace(0.0, 2 * np.pi, len(path))
    swell = 1.0 + 0.10 * np.sin(rng.uniform(0.7, 1.6) * along + rng.uniform(0, 6.3))
    flatten = 1.0 + 0.12 * _noise(rng, distance.shape, 4.0, 1)
    own = np.where(tissue.owner[box] == cell, tissue.room[box], -COARSE)
    field = np.minimum(0.5 * width * swell[nearest] - distance * COARSE * flatten, own - 5.0)
    axis = path[-1] - path[0] + heading
    return _Mitochondrion(field.astype(np.float32), box, fine, axis / np.linalg.norm(axis))


def _mitochondria(
    rng: np.random.Generator, tissue: _Tissue
) -> tuple[NDArray[np.uint8], Float, Float]:
    """Mask (0/1), signed distance to the surface in voxels (inside positive), cristae (0 to 1)."""
    mask = np.zeros(tissue.shape, np.uint8)
    distance = np.full(tissue.shape, -20.0, np.float32)
    cristae = np.zeros(tissue.shape, np.float32)
    slope = list(np.asarray(np.gradient(tissue.room), np.float32) / COARSE)
    ripple = _noise(rng, tissue.shape, 9.0, 3)
    total = 0
    fits = 1.0
    for attempt in range(150):
        if total >= FRACTION[0] * mask.size * (1.0 if attempt < 50 else 0.8):
            break
        width = max(fits * rng.uniform(180.0, 310.0), 170.0)
        fits = max(fits * 0.98, 0.5)
        candidate = _propose(rng, tissue, slope, width)
        if candidate is None:
            continue
        fine = candidate.fine
        field = _upsample(candidate.field, candidate.box, fine, 0.8) / VOXEL
        shallow = tissue.depth[fine] < 9.0  # the depth saturates further in
        field = np.where(shallow, np.minimum(field, tissue.depth[fine] - 3.0), field)
        # Keep the largest piece: clipping by the cell can cut a thin end off.
        labels, count = ndimage.label(field > 0)
        if not count:
            continue
        piece = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        size = int(piece.sum())
        deepest = float(field[piece].max())
        crowded = (distance[fine][piece] > -8.0).any()
        small = size < 60 * tissue.shape[0] or deepest < 13.0
        # Several of moderate size teach a segmenter more than one that fills the fraction.
        large = size > 4500 * tissue.shape[0]
        if crowded or small or large or total + size > FRACTION[1] * mask.size:
            continue
        total += size
        fits = 1.0
        mask[fine][piece] = 1
        field = np.where(piece, field, np.minimum(field, 0.0))
        distance[fine] = np.maximum(distance[fine], field)

        normal = candidate.axis + rng.uniform(0.3, 0.9) * rng.standard_normal(3)
        if rng.random() < 0.4:  # cristae along the mitochondrion rather than across it
            normal = np.cross(normal, rng.standard_normal(3))
        normal /= np.linalg.norm(normal)
        position = sum(
            part * along for part, along in zip(normal, np.ogrid[fine], strict=True)
        ).astype(np.float32)
        period = rng.uniform(60.0, 95.0) / VOXEL
        wave = np.cos(2 * np.pi * position / period + 2.2 * ripple[fine])
        lamella = np.clip((wave - 0.2) / 0.6, 0.0, 1.0) * rng.uniform(0.7, 1.0)
        cristae[fine][piece] = lamella[piece]
    return mask, distance, cristae


# --- inclusions ----------------------------------------------------------------------------------


def _stamp(surface: Float, centre: Points, radius: float, squeeze: Points | None = None) -> None:
    """Lower `surface` (signed distance in voxels) to that of a ball; `squeeze` (3,) flattens it."""
    reach = int(radius + 5.0)
    middle = np.rint(centre).astype(int)
    window, parts = [], []
    for axis in range(3):
        start = max(middle[axis] - reach, 0)
        stop = min(middle[axis] + reach + 1, surface.shape[axis])
        if start >= stop:
            return
        window.append(slice(start, stop))
        parts.append(np.arange(start, stop, dtype=np.float32) - np.float32(centre[axis]))
    depth, height, width = parts[0][:, None, None], parts[1][None, :, None], parts[2][None, None]
    square = depth**2 + height**2 + width**2
    if squeeze is not None:
        across = depth * squeeze[0] + height * squeeze[1] + width * squeeze[2]
        square = square + 2.0 * across**2
    place = surface[tuple(window)]
    np.minimum(place, np.sqrt(square).astype(np.float32) - np.float32(radius), out=place)


def _free(
    tissue: _Tissue, distance: Float, centres: Points, cell: int, clearance: float
) -> NDArray[np.bool_]:
    """Which `centres` (n, 3) lie in `cell`, clear of its membrane and of mitochondria."""
    index = np.rint(centres).astype(int)
    good = ((index >= 0) & (index < np.array(tissue.shape))).all(axis=1)
    place = tuple(np.clip(index, 0, np.array(tissue.shape) - 1).T)
    good &= tissue.cell[place] == cell
    good &= tissue.depth[place] > min(clearance, 9.0)
    return good & (distance[place] < -clearance)


def _spread(centres: Points, least: float) -> Iterator[Points]:
    """Yield the points of `centres` that keep at least this distance to those already chosen."""
    chosen: list[Points] = []
    for point in centres:
        if all(((point - other) ** 2).sum() > least**2 for other in chosen):
            chosen.append(point)
            yield point


def _synapses(rng: np.random.Generator, tissue: _Tissue, distance: Float, surface: Float) -> Float:
    """Vesicle clusters (into `surface`), each opposite a density; returns its weight (0 to 1)."""
    density = np.zeros(tissue.shape, np.float32)
    shape = np.array(tissue.shape)
    area = shape[1] * shape[2] * VOXEL**2 / 1e6
    # Thick slabs hold more synapses: about one per cubic micrometre, and some that are cut.
    wanted = max(1, round(float(area) * (2.2 + 0.6 * shape[0] * VOXEL / 1000)))
    made = 0
    for _ in range(40 * wanted):
        point = rng.uniform(0.0, 1.0, 3) * (shape - 1)
        place = tuple(np.rint(point).astype(int))
        if tissue.depth[place] > 1.5 or made == wanted:
            continue
        low = np.clip(np.rint(point).astype(int) - 56, 0, shape)
        high = np.clip(np.rint(point).astype(int) + 57, 0, shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        cells = tissue.cell[box]
        near = np.bincount(cells.ravel(), minlength=len(tissue.large))
        here = tissue.cell[
            tuple(slice(max(at - 3, 0), at + 4) for at in np.rint(point).astype(int))
        ]
        pair = np.unique(here)
        pair = pair[np.argsort(-near[pair])]
        axons = [int(index) for index in pair if not tissue.large[index]]
        if len(pair) != 2 or not axons or near[pair].min() < 0.12 * cells.size:
            continue
        before = axons[0]
        after = int(pair[0] if pair[1] == before else pair[1])
        offset = rng.standard_normal((1500, 3)) * 26.0
        centres = point + offset[(offset**2).sum(axis=1) < 52**2]
        centres = centres[_free(tissue, distance, centres, before, 6.0)]
        if len(centres) < 25:
            continue
        for centre in list(_spread(centres, 8.2))[: rng.integers(25, 140)]:
            _stamp(surface, centre, rng.uniform(3.2, 4.2))
        radius = rng.uniform(20.0, 40.0)
        axes = np.ogrid[box]
        away = np.sqrt(
            sum((part - at).astype(np.float32) ** 2 for part, at in zip(axes, point, strict=True))
        )
        disk = np.clip((radius - away) / 6.0, 0.0, 1.0)
        touches = ndimage.binary_dilation(cells == before, iterations=9)
        thick = np.exp(-((tissue.depth[box] / 5.0) ** 2)) * (cells == after) * touches
        thin = np.exp(-((tissue.depth[box] / 3.0) ** 2)) * (cells == before)
        density[box] = np.maximum(density[box], disk * np.maximum(thick, 0.8 * thin))
        made += 1
    return density


def _reticulum(rng: np.random.Generator, tissue: _Tissue, distance: Float, surface: Float) -> None:
    """Reticulum, endosomes and single vesicles of all cells, into `surface`."""
    shape = np.array(tissue.shape)
    cubic = float(np.prod(shape + 20)) * VOXEL**3 / 1e9
    for _ in range(round(55 * cubic)):  # tubules and sheets of reticulum
        start = rng.uniform(0.0, 1.0, 3) * (shape - 1)
        cell = int(tissue.cell[tuple(start.astype(int))])
        heading = rng.standard_normal(3)
        steps = int(rng.uniform(200.0, 700.0) / VOXEL / 2.5)
        path = _walk(rng, start, heading / np.linalg.norm(heading), 2.5, steps, 0.16)
        good = _free(tissue, distance, path, cell, 8.0)
        stop = len(path) if good.all() else int(np.argmin(good))
        if stop < 8:
            continue
        squeeze = rng.standard_normal(3)
        squeeze /= np.linalg.norm(squeeze)
        widths = rng.uniform(3.0, 6.0) * (1.0 + 0.3 * np.sin(np.arange(stop) * 0.25))
        for point, radius in zip(path[:stop], widths, strict=True):
            _stamp(surface, point, radius, squeeze)
    singles = rng.uniform(0.0, 1.0, (round(320 * cubic), 3)) * (shape - 1)
    for point in singles:  # vesicles and endosomes
        cell = int(tissue.cell[tuple(np.rint(point).astype(int))])
        radius = rng.uniform(7.0, 11.0) if rng.random() < 0.06 else rng.uniform(2.5, 5.0)
        if _free(tissue, distance, point[None], cell, radius + 3.0)[0]:
            _stamp(surface, point, radius, rng.standard_normal(3) * 0.5)


# --- image ---------------------------------------------------------------------------------------


def _bump(distance: Float, width: float) -> Float:
    """Gaussian profile exp(-(distance / width)^2)."""
    return np.exp(-((distance * np.float32(1.0 / width)) ** 2))


def _render(
    rng: np.random.Generator,
    tissue: _Tissue,
    mito: tuple[NDArray[np.uint8], Float, Float],
    surface: Float,
    density: Float,
) -> NDArray[np.uint8]:
    """Grey values from the geometry: staining, texture, blur, shot noise."""
    mask, distance, cristae = mito
    shape = tissue.shape
    greys = rng.normal(172.0, 6.0, len(tissue.large))
    dark = rng.random(len(greys)) < 0.10
    greys[dark & ~tissue.large] -= rng.uniform(15.0, 35.0)
    image = greys.astype(np.float32)[tissue.cell]
    fine = _noise(rng, shape, 1.6, 1)
    middle = _noise(rng, shape, 3.4, 2)
    image += 4.0 * _noise(rng, shape, 18.0, 6)
    # Cytosol is granular: mostly light, with dark clumps of ribosomes and filaments.
    image += 8.0 * fine + 9.0 * middle
    image -= 28.0 * np.clip(middle + 0.6 * fine - 0.8, 0.0, 1.4)

    # Inclusions: a dark membrane on the surface, the lumen a little darker than the cytosol.
    image -= 52.0 * _bump(surface + 0.6, 1.9)
    image -= 14.0 * (surface < 0)

    matrix = 126.0 + 5.0 * fine + 4.0 * middle + 5.0 * _noise(rng, shape, 25.0, 8)
    matrix -= 36.0 * cristae * np.clip((distance - 5.0) / 3.0, 0.0, 1.0)
    matrix -= 46.0 * _bump(distance - 1.4, 1.6) + 34.0 * _bump(distance - 6.2, 1.4)
    np.copyto(image, matrix, where=mask.astype(bool))

    # Cell membranes; the cleft shows here and there, as staining varies.
    stain = 76.0 + 7.0 * _noise(rng, shape, 14.0, 6)
    cleft = np.clip(10.0 + 14.0 * _noise(rng, shape, 20.0, 8), 0.0, 30.0)
    image -= stain * _bump(np.clip(tissue.depth - 1.0, 0.0, None), 1.9)
    image += cleft * _bump(tissue.depth, 1.0)
    image -= 62.0 * density

    image = ndimage.gaussian_filter(np.clip(image, 78.0, 215.0), 1.0, truncate=3.0)
    # Shot noise: variance proportional to the signal.
    image += np.sqrt(image) * (0.75 * rng.standard_normal(shape, dtype=np.float32))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- public --------------------------------------------------------------------------------------


def make(
    seed: int, shape: tuple[int, int, int] = (40, 384, 512)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Simulate a volume of neuropil.

    Parameters
    ----------
    seed : int
        Not negative. The same seed and shape give the same volume.
    shape : tuple of int
        Voxels (z, y, x), at least (8, 128, 128); below (16, 192, 256), the fraction is less sure.

    Returns
    -------
    image, mask : uint8 arrays (z, y, x)
        The mask is 1 on mitochondria, outer membrane included. Voxels are `VOXEL` nm wide.

    Raises
    ------
    ValueError
        If the seed is negative or the shape too small.
    """
    if seed < 0:
        raise ValueError(f"phantom: the seed must not be negative, but is {seed}.")
    if any(size < least for size, least in zip(shape, SMALLEST, strict=True)):
        raise ValueError(
            f"phantom: the shape (z, y, x) must be at least {SMALLEST} voxels, but is {shape}."
        )
    rng = np.random.default_rng(seed)
    tissue = _tissue(rng, shape)
    mito = _mitochondria(rng, tissue)
    surface = np.full(shape, 20.0, np.float32)
    density = _synapses(rng, tissue, mito[1], surface)
    _reticulum(rng, tissue, mito[1], surface)
    return _render(rng, tissue, mito, surface, density), mito[0]


def source() -> Source:
    """Two simulated volumes: one for training and validation, another one for the test."""
    return Source(
        development=Pair(*make(0), "phantom-0"),
        test=Pair(*make(1, (12, 384, 512)), "phantom-1"),
        nm_per_pixel=VOXEL,
        name="phantom",
        provenance=(
            "Simulated electron microscopy of neuropil at 5 nm per pixel, made by "
            "synthseg.stacks.phantom. Not tissue: scores on it test the software and "
            "say nothing about real data."
        ),
    )
