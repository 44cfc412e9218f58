"""The simulated volume: reproducible, and like neuropil in the numbers that matter."""

import numpy as np
import pytest
from scipy import ndimage

from synthseg.stacks import phantom
from synthseg.volumes import check

SHAPE = (16, 192, 256)


@pytest.fixture(scope="module")
def volumes():
    return [phantom.make(seed, SHAPE) for seed in range(4)]


@pytest.fixture(scope="module")
def dataset():
    findings, dataset = check("phantom")
    assert findings == []
    return dataset


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_shape_and_type(volumes):
    for image, mask in volumes:
        assert image.shape == mask.shape == SHAPE
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}


def test_same_seed_same_volume_and_other_seed_another(volumes):
    for again, before in zip(phantom.make(1, SHAPE), volumes[1], strict=True):
        np.testing.assert_array_equal(again, before)
    assert dice(volumes[0][1], volumes[1][1]) < 0.3


def test_mitochondria_fill_the_stated_fraction(volumes):
    assert 0.05 < np.mean([mask.mean() for _, mask in volumes]) < 0.1


def test_mitochondria_are_thick_and_leave_no_crumbs(volumes):
    widest = []
    for _, mask in volumes:
        for page in mask:
            labels, count = ndimage.label(page)
            depth = ndimage.distance_transform_edt(page)
            widest += list(ndimage.maximum(depth, labels, range(1, count + 1)))
    widest = 2 * 5.0 * np.array(widest)  # nm
    assert 80 < np.median(widest) < 200
    assert (widest < 40).mean() < 0.02


def test_grey_values_of_structures(volumes):
    for image, mask in volumes:
        inside = mask.astype(bool)
        assert image[inside].mean() < image[~inside].mean() - 20
        assert 125 < image.mean() < 165
        assert 22 < image.std() < 36
        # The outer membrane is darker than the cytoplasm just outside of it.
        disk = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 3)[None]
        rim = inside & ~ndimage.binary_erosion(inside, disk)
        near = ndimage.binary_dilation(inside, disk)
        beside = ndimage.binary_dilation(near, disk) & ~near
        assert image[rim].mean() < image[beside].mean() - 20


def test_a_threshold_does_not_find_mitochondria(volumes):
    """Membranes, vesicles and dark cells share their grey values, sharp or blurred."""
    mask = np.stack([mask for _, mask in volumes]).astype(bool)
    for blur in (0.0, 3.0):
        image = np.stack(
            [
                ndimage.gaussian_filter(image.astype(np.float32), (0, blur, blur))
                for image, _ in volumes
            ]
        )
        assert max(dice(image < threshold, mask) for threshold in range(90, 150, 4)) < 0.75


def test_neighbouring_slices_resemble_each_other(volumes):
    for image, mask in volumes:
        assert dice(mask[1:], mask[:-1]) > 0.7
        smooth = ndimage.gaussian_filter(image.astype(np.float32), (0, 2, 2)).reshape(
            len(image), -1
        )
        near = np.corrcoef(smooth[0], smooth[1])[0, 1]
        assert near > 0.5
        assert near > np.corrcoef(smooth[0], smooth[-1])[0, 1] + 0.1


def test_the_gap_of_the_split_parts_training_and_validation(dataset):
    """Copying the last training mask across the gap is no segmentation."""
    copied = np.broadcast_to(dataset.train.mask[-1], dataset.validation.shape)
    assert dice(copied, dataset.validation.mask) < 0.4


def test_a_crop_holds_several_mitochondria(dataset):
    random = np.random.default_rng(0)
    for part in (dataset.train, dataset.validation, dataset.test):
        counts = []
        for _ in range(200):
            z, y, x = random.integers(0, np.array(part.shape) - (0, 159, 159))
            counts.append(ndimage.label(part.mask[z, y : y + 160, x : x + 160])[1])
        assert 2.5 < np.mean(counts) < 5


def test_the_dataset_is_of_two_volumes(dataset):
    assert dataset.name == "phantom"
    assert "Simulated" in dataset.provenance
    names = [part.name for part in (dataset.train, dataset.validation, dataset.test)]
    assert names == ["phantom-0[0:33]", "phantom-0[39:48]", "phantom-1"]
    assert dataset.train.nm_per_pixel == 5


@pytest.mark.parametrize(
    ("seed", "shape", "said"),
    [(-1, SHAPE, "seed"), (0, (3, 192, 256), "shape"), (0, (16, 64, 256), "shape")],
)
def test_wrong_requests_are_explained(seed, shape, said):
    with pytest.raises(ValueError, match=said):
        phantom.make(seed, shape)


def test_the_smallest_and_odd_sizes_work():
    for shape in (phantom.SMALLEST, (9, 131, 150)):
        image, mask = phantom.make(5, shape)
        assert image.shape == mask.shape == shape
        assert mask.any()
