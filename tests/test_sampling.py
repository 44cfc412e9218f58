"""Crops are keyed by (seed, step); tiles cover each pixel once; masks stay masks."""

import numpy as np
import pytest
import tensorflow as tf

from synthseg import sampling
from synthseg.sampling import CropSettings
from synthseg.volumes import DataError, Volume


@pytest.fixture(scope="module")
def volume():
    """Grey values tell where a pixel is: image = 3 z + y / 2 + x / 4; mask = bright half."""
    z, y, x = np.mgrid[:6, :96, :128]
    image = (3 * z + y / 2 + x / 4).astype(np.uint8)
    return Volume.create(image, (x > 60).astype(np.uint8), 5.0, "ramp")


def first(dataset):
    return next(dataset.as_numpy_iterator())


def test_a_batch_depends_on_seed_and_step_alone(volume):
    settings = CropSettings(crop=40, size=16, batch=4, augment="classical")
    stream = sampling.crops(volume, settings, seed=7)
    batches = [batch for batch, _ in zip(stream.as_numpy_iterator(), range(4), strict=False)]
    resumed = first(sampling.crops(volume, settings, seed=7, first_step=3))
    np.testing.assert_array_equal(batches[3][0], resumed[0])
    np.testing.assert_array_equal(batches[3][1], resumed[1])
    assert not np.array_equal(batches[0][0], batches[1][0])
    assert not np.array_equal(batches[0][0], first(sampling.crops(volume, settings, seed=8))[0])


def test_image_and_mask_come_from_the_same_place(volume):
    images, masks = first(sampling.crops(volume, CropSettings(crop=32, size=32, batch=16), seed=0))
    grey = np.rint((images + 1) * 127.5)
    # Rows run along y and columns along x, so the mask (x > 60) fixes where a crop was cut.
    for image, mask in zip(grey[..., 0], masks[..., 0], strict=True):
        assert np.all(np.diff(image.mean(axis=1)) > 0)
        boundary = np.flatnonzero(np.diff(mask[0]) > 0)
        if boundary.size:
            assert np.all(mask == mask[0])
            assert image[0, boundary[0] + 1] >= image[0, boundary[0]]


def test_ranges_and_shapes(volume):
    settings = CropSettings(crop=40, size=16, batch=3, augment="classical")
    images, masks = first(sampling.crops(volume, settings, seed=1))
    assert images.shape == masks.shape == (3, 16, 16, 1)
    assert images.dtype == masks.dtype == np.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert set(np.unique(masks)) <= {0.0, 1.0}


def test_area_averages_and_nearest_picks():
    checkerboard = (np.indices((8, 8)).sum(axis=0) % 2 * 200).astype(np.uint8)[None, ..., None]
    area = sampling.resize_images(checkerboard, 4, 4, "area").numpy()
    nearest = sampling.resize_images(checkerboard, 4, 4, "nearest").numpy()
    np.testing.assert_allclose(area, 100)
    assert set(np.unique(nearest)) <= {0.0, 200.0}


def test_eight_distinct_orientations():
    plane = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    turned = sampling.dihedral(tf.repeat(plane, 8, axis=0), tf.range(8)).numpy()
    assert len({image.tobytes() for image in turned}) == 8
    by_hand = [np.rot90(base, k) for base in (plane[0], plane[0][:, ::-1]) for k in range(4)]
    assert {image.tobytes() for image in turned} == {image.tobytes() for image in by_hand}


def test_pool_draws_matching_pairs():
    images = np.linspace(-1, 1, 10, dtype=np.float32)[:, None, None, None] * np.ones((10, 4, 4, 1))
    masks = (images > 0).astype(np.float32)
    stream = sampling.pool(images.astype(np.float32), masks, batch=6, seed=3)
    drawn_images, drawn_masks = first(stream)
    np.testing.assert_array_equal(drawn_masks, drawn_images > 0)
    again = first(sampling.pool(images.astype(np.float32), masks, 6, 3, first_step=0))
    np.testing.assert_array_equal(drawn_images, again[0])


@pytest.mark.parametrize(("height", "width"), [(128, 128), (307, 410), (129, 200), (500, 128)])
@pytest.mark.parametrize("overlap", [0, 32])
def test_tiles_own_every_pixel_once(height, width, overlap):
    owners = np.zeros((height, width), int)
    for tile in sampling.tiles(height, width, 128, overlap):
        owners[tile.owned] += 1
        window = np.zeros((height, width), bool)
        window[tile.window] = True
        assert window.sum() == 128 * 128
        assert window[tile.owned].all()
        inner = np.zeros((128, 128), bool)
        inner[tile.inner] = True
        owned = np.zeros((height, width), bool)
        owned[tile.owned] = True
        np.testing.assert_array_equal(owned[tile.window], inner)
    assert (owners == 1).all()


def test_errors_name_the_parameter(volume):
    with pytest.raises(DataError, match="crop=96"):
        sampling.crops(volume, CropSettings(crop=120, size=16), seed=0)
    with pytest.raises(ValueError, match="augment"):
        CropSettings(augment="strong")
    with pytest.raises(ValueError, match="resize"):
        CropSettings(resize="cubic")
    with pytest.raises(ValueError, match="larger than crop"):
        CropSettings(crop=64, size=128)
    with pytest.raises(ValueError, match="Cannot tile"):
        sampling.tiles(100, 100, 128, 32)


def test_whole_slices_at_network_scale(volume):
    images, masks = sampling.at_network_scale(volume, CropSettings(crop=40, size=20))
    assert images.shape == masks.shape == (6, 48, 64, 1)
    expected = volume.image[2].reshape(48, 2, 64, 2).mean(axis=(1, 3)) / 127.5 - 1
    np.testing.assert_allclose(images[2, ..., 0], expected, atol=1e-6)
