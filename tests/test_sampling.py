"""Crops are keyed by (seed, step); masks follow their images and stay masks."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from synthseg import sampling
from synthseg.sampling import CropSettings
from synthseg.volumes import DataError, Volume

PLAIN = CropSettings(crop=32, size=32, batch=4, resize="area", augment="none")


@pytest.fixture(scope="module")
def volume():
    """Grey values tell where a pixel is: image = 3 z + y / 2 + x / 4; mask = right half."""
    z, y, x = np.mgrid[:6, :96, :128]
    image = (3 * z + y / 2 + x / 4).astype(np.uint8)
    return Volume.create(image, (x > 60).astype(np.uint8), 5.0, "ramp")


def test_image_and_mask_come_from_the_same_place(volume):
    images, masks = sampling.crop_arrays(volume, PLAIN, 16, seed=0)
    grey = np.rint((images + 1) * 127.5)
    # Rows run along y and columns along x, so the mask (x > 60) fixes where a crop was cut.
    for image, mask in zip(grey[..., 0], masks[..., 0], strict=True):
        assert np.all(np.diff(image.mean(axis=1)) > 0)
        boundary = np.flatnonzero(np.diff(mask[0]) > 0)
        if boundary.size:
            assert np.all(mask == mask[0])
            assert image[0, boundary[0] + 1] >= image[0, boundary[0]]


def test_seeds_and_steps_differ_and_the_first_crops_do_not(volume):
    few, more = (sampling.crop_arrays(volume, PLAIN, count, seed=7)[0] for count in (5, 10))
    assert len(few) == 5
    np.testing.assert_array_equal(few, more[:5])
    assert not np.array_equal(more[:4], more[4:8])
    assert not np.array_equal(few, sampling.crop_arrays(volume, PLAIN, 5, seed=8)[0])


def test_area_averages_and_nearest_picks():
    checkerboard = (np.indices((8, 8)).sum(axis=0) % 2 * 200).astype(np.uint8)[None, ..., None]
    np.testing.assert_allclose(sampling.resize_images(checkerboard, 4, 4, "area"), 100)
    nearest = sampling.resize_images(checkerboard, 4, 4, "nearest")
    assert set(np.unique(nearest)) <= {0.0, 200.0}


def test_eight_distinct_orientations():
    plane = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    turned = sampling.dihedral(tf.repeat(plane, 8, axis=0), tf.range(8)).numpy()
    by_hand = [np.rot90(base, k) for base in (plane[0], plane[0][:, ::-1]) for k in range(4)]
    assert {image.tobytes() for image in turned} == {image.tobytes() for image in by_hand}
    assert len({image.tobytes() for image in turned}) == 8


def test_masks_follow_their_images():
    masks = np.random.default_rng(0).integers(0, 2, (64, 5, 5, 1)).astype(np.float32)
    images, turned = sampling.augment_batch(
        tf.constant(2 * masks - 1), tf.constant(masks), tf.constant([3, 4], tf.int64), "dihedral"
    )
    np.testing.assert_array_equal(images, 2 * turned - 1)
    assert not np.array_equal(turned, masks)


def test_intensities_vary_from_image_to_image_in_order_and_in_range():
    ramps = np.tile(np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1), (8, 1, 1, 1))
    varied = sampling.vary_intensity(tf.constant(ramps), tf.constant([1, 2], tf.int64)).numpy()
    assert (np.abs(varied) <= 1).all()
    assert (np.diff(varied.reshape(8, 16)) >= 0).all()
    assert len({image.tobytes() for image in varied}) == 8


def test_pool_draws_matching_pairs():
    images = np.linspace(-1, 1, 10, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 1))
    images = images.astype(np.float32)
    stream = sampling.pool(images, (images > 0).astype(np.float32), batch=6, seed=3)
    for drawn, masks in stream.take(3).as_numpy_iterator():
        np.testing.assert_array_equal(masks, drawn > 0)
    with pytest.raises(ValueError, match="no pair"):
        sampling.pool(images[:0], images[:0], batch=6, seed=3)


def test_whole_slices_at_network_scale(volume):
    images, masks = sampling.at_network_scale(volume, replace(PLAIN, crop=40, size=20))
    assert images.shape == masks.shape == (6, 48, 64, 1)
    expected = volume.image[2].reshape(48, 2, 64, 2).mean(axis=(1, 3)) / 127.5 - 1
    np.testing.assert_allclose(images[2, ..., 0], expected, atol=1e-6)


def test_errors_name_the_parameter(volume):
    with pytest.raises(DataError, match="crop=96"):
        sampling.crops(volume, replace(PLAIN, crop=120), seed=0)
    with pytest.raises(ValueError, match=r"resize is 'cubic'; choose .*area.* or .*nearest"):
        replace(PLAIN, resize="cubic")
    with pytest.raises(ValueError, match="larger than crop"):
        replace(PLAIN, size=64)
    with pytest.raises(ValueError, match="batch is 0"):
        replace(PLAIN, batch=0)
