"""The simulated volume: reproducible, and like neuropil in the numbers that matter."""

import numpy as np
import pytest
from scipy import ndimage

from synthseg import volumes as loading
from synthseg.stacks import phantom
from synthseg.volumes import Volume

SHAPE = (16, 192, 256)


def made(seed: int, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume.create(*phantom.make(seed, shape), phantom.VOXEL, f"phantom-{seed}")


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    return [made(seed) for seed in range(4)]


def test_shape_type_and_name(volumes: list[Volume]) -> None:
    for seed, volume in enumerate(volumes):
        assert volume.image.shape == volume.mask.shape == SHAPE
        assert volume.image.dtype == volume.mask.dtype == np.uint8
        assert set(np.unique(volume.mask)) == {0, 1}
        assert volume.nm_per_pixel == 5
        assert volume.name == f"phantom-{seed}"


def test_same_seed_same_volume_and_other_seed_another(volumes: list[Volume]) -> None:
    again = made(1)
    np.testing.assert_array_equal(again.image, volumes[1].image)
    np.testing.assert_array_equal(again.mask, volumes[1].mask)
    assert len({volume.fingerprint for volume in volumes}) == len(volumes)
    overlap = (volumes[0].mask & volumes[1].mask).sum() / volumes[0].mask.sum()
    assert overlap < 0.5


def test_mitochondria_fill_the_stated_fraction(volumes: list[Volume]) -> None:
    for volume in volumes:
        assert 0.04 <= volume.mask.mean() <= 0.07


def test_mitochondria_are_whole_thick_and_few(volumes: list[Volume]) -> None:
    widest = []
    for volume in volumes:
        labels, count = ndimage.label(volume.mask)
        assert 1 <= count <= 8
        # Nothing smaller than 0.3 x 0.2 x 0.08 um: no crumbs left by clipping at a membrane.
        assert np.bincount(labels.ravel())[1:].min() >= 60 * SHAPE[0]
        # In-plane distance to the outline: widths of 0.13 to 0.4 um.
        widest += [
            2 * phantom.VOXEL * ndimage.distance_transform_edt(part).max()
            for part in volume.mask
            if part.any()
        ]
    assert 130 < np.median(widest) < 400


def test_grey_values_of_structures(volumes: list[Volume]) -> None:
    for volume in volumes:
        image = volume.image.astype(float)
        inside = volume.mask.astype(bool)
        assert image[inside].mean() < image[~inside].mean() - 20
        assert 130 < image.mean() < 160
        assert 24 < image.std() < 34
        # The outer membrane is darker than the cytoplasm just outside of it.
        rim = inside & ~ndimage.binary_erosion(inside, iterations=3)
        outside = ndimage.binary_dilation(inside, iterations=7)
        outside &= ~ndimage.binary_dilation(inside, iterations=3)
        assert image[rim].mean() < image[outside].mean() - 20


def test_a_threshold_does_not_find_mitochondria(volumes: list[Volume]) -> None:
    """Membranes, vesicles and dark cells share their grey values, sharp or blurred."""
    for blur in (0.0, 3.0):
        best = 0.0
        for threshold in range(90, 150, 4):
            hit = size = 0
            for volume in volumes:
                image = ndimage.gaussian_filter(volume.image.astype(np.float32), (0, blur, blur))
                found = image < threshold
                hit += 2 * int((found & (volume.mask == 1)).sum())
                size += int(found.sum()) + int(volume.mask.sum())
            best = max(best, hit / size)
        assert best < 0.7


def test_slices_are_continuous(volumes: list[Volume]) -> None:
    mask = volumes[0].mask.astype(bool)
    overlap = 2 * (mask[1:] & mask[:-1]).sum() / (mask[1:].sum() + mask[:-1].sum())
    assert overlap > 0.9
    smooth = ndimage.gaussian_filter(volumes[0].image.astype(np.float32), (0, 2, 2))
    near = np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1]
    far = np.corrcoef(smooth[0].ravel(), smooth[-1].ravel())[0, 1]
    assert near > 0.9
    assert far < near


def test_a_thick_slab_of_any_size_works() -> None:
    volume = made(5, (30, 131, 150))
    assert volume.image.shape == (30, 131, 150)
    assert 0.02 <= volume.mask.mean() <= 0.07


def test_dataset_has_train_and_test_of_different_seeds() -> None:
    data = loading.load("phantom")
    assert data.name == "phantom"
    assert "Simulated" in data.provenance
    assert data.train.stack == data.validation.stack == "phantom-0"
    assert data.test.stack == "phantom-1"
    parts = (data.train, data.validation, data.test)
    assert len({part.fingerprint for part in parts}) == 3
    assert data.validation.first > len(data.train)  # a gap lies between them
    assert not np.array_equal(data.test.image[0], data.train.image[0])


@pytest.mark.parametrize(
    ("seed", "shape", "said"),
    [(-1, SHAPE, "seed"), (0, (4, 192, 256), "shape"), (0, (16, 64, 256), "shape")],
)
def test_wrong_requests_are_explained(seed: int, shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        phantom.make(seed, shape)
