"""RITnet, its training, tiles, and the prediction and evaluation of whole slices."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import metrics, sampling, segmenter
from synthseg.sampling import CropSettings
from synthseg.segmenter import SegmenterSettings
from synthseg.volumes import IGNORED, Volume

TINY = SegmenterSettings(
    size=32, variant="half", channels=4, dropout=0.5, leak=0.3, lr=1e-3, schedule="constant"
)
CROPS = CropSettings(crop=64, size=32, batch=1, resize="area", augment="none")


def squares(count=8, size=32):
    masks = np.zeros((count, size, size, 1), np.float32)
    masks[:, 4:20, 4:20] = 1
    images = masks - 0.5 + np.random.default_rng(0).normal(0, 0.1, masks.shape)
    return images.astype(np.float32), masks


def train(model, steps=2, callbacks=()):
    data = tf.data.Dataset.from_tensor_slices(squares()).repeat().batch(4)
    options = {"verbose": 0, "shuffle": False, "callbacks": list(callbacks)}
    return model.fit(data, steps_per_epoch=steps, epochs=1, **options).history


@pytest.mark.parametrize("variant", ["half", "full"])
def test_ritnet_has_the_published_size(variant):
    model = segmenter.build_ritnet(replace(TINY, variant=variant, channels=32))
    assert model.count_params() == 249_121
    assert model(np.zeros((1, 64, 96, 1), np.float32)).shape == (1, 64, 96, 1)


def test_half_decides_at_half_resolution():
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype(np.float32)
    for variant, expected in (("half", True), ("full", False)):
        model = segmenter.build_ritnet(replace(TINY, variant=variant))
        logits = model(image).numpy()[0, ..., 0].reshape(32, 2, 32, 2)
        assert (np.ptp(logits, axis=(1, 3)) == 0).all() == expected


@pytest.mark.usefixtures("eagerly")
def test_inference_ignores_dropout_and_other_images():
    model = segmenter.build_ritnet(TINY)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype(np.float32)
    together = model.predict(images, verbose=0)
    np.testing.assert_array_equal(together, model.predict(images, verbose=0))
    alone = model.predict(images[:1], verbose=0)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)  # BatchNorm uses moving statistics
    training = model(images, training=True).numpy()
    assert not np.allclose(training, together, atol=1e-3)


def test_slices_are_predicted_as_if_tiles_did_not_exist():
    """A network that looks at single pixels must give the same with and without tiles."""
    pixelwise = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Rescaling(3.0)])
    images = np.random.default_rng(0).normal(size=(2, 77, 150, 1)).astype(np.float32)
    probability = segmenter.predict_slices(pixelwise, images, tile=64, overlap=16)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-3 * images)), atol=1e-6)


def test_evaluation_counts_each_pixel_of_each_slice_once():
    image = np.zeros((3, 80, 96), np.uint8)
    image[:, 20:40, 20:60] = 255
    volume = Volume.create(image, (image > 0).astype(np.uint8), 5.0, "squares")
    perfect = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Rescaling(10.0)])
    counts = segmenter.evaluate(perfect, volume, CROPS)
    np.testing.assert_array_equal(counts.true_positive, [10 * 20] * 3)
    np.testing.assert_array_equal(counts.dice(), 1)


@pytest.mark.usefixtures("eagerly")
def test_clean_evaluation_adds_to_the_history():
    model = segmenter.compiled(TINY, steps=4)
    images, masks = squares(4)
    clean = segmenter.CleanEvaluation(model, {"validation": (images, masks)})
    history = train(model, callbacks=[clean])
    logits = model.predict(images, verbose=0)
    expected = np.mean(np.logaddexp(0, logits) - masks * logits)
    assert history["validation_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert "validation_dice" in history


def test_learning_rate_schedules():
    cosine = segmenter.optimizer(replace(TINY, lr=0.1, schedule="cosine"), steps=10)
    assert float(cosine.learning_rate) == pytest.approx(0.1)
    cosine.iterations.assign(10)
    assert float(cosine.learning_rate) == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="schedule is 'linear'; choose constant or cosine"):
        replace(TINY, schedule="linear")


@pytest.mark.usefixtures("eagerly")
def test_a_trained_segmenter_is_stored_as_a_stock_model(tmp_path):
    model = segmenter.compiled(TINY, steps=4)
    before = model.get_weights()
    train(model)
    assert not np.array_equal(before[0], model.get_weights()[0])
    model.save(tmp_path / "segmenter.keras")
    loaded = keras.models.load_model(tmp_path / "segmenter.keras", compile=False)
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
    images = squares()[0]
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


@pytest.mark.parametrize(("height", "width"), [(128, 128), (307, 410), (129, 200), (500, 128)])
@pytest.mark.parametrize("overlap", [0, 32])
def test_tiles_own_every_pixel_once(height, width, overlap):
    owners, pixels = np.zeros((height, width), int), np.arange(height * width)
    pixels = pixels.reshape(height, width)
    for tile in segmenter.tiles(height, width, 128, overlap):
        owners[tile.owned] += 1
        window = pixels[tile.window]
        assert window.shape == (128, 128)
        np.testing.assert_array_equal(window[tile.inner], pixels[tile.owned])
    assert (owners == 1).all()


def test_a_slice_smaller_than_a_tile_is_refused():
    with pytest.raises(ValueError, match="Cannot tile"):
        segmenter.tiles(100, 100, 128, 32)


def test_what_nobody_annotated_counts_in_no_loss_and_no_score():
    random = np.random.default_rng(0)
    shape = (6, 32, 32)
    labels = random.integers(0, 3, shape, np.uint8)
    volume = Volume.create(random.integers(0, 256, shape, np.uint8), labels, 5, "partly")
    crops = sampling.CropSettings(32, 32, batch=4, resize="area", augment="none")
    tf.where([True], 0.0, [1.0])  # TensorFlow keeps this 0.0, and gives it for a plain -0.0, too
    _, masks = sampling.at_network_scale(volume, crops)
    left = metrics.left_out(masks).numpy()
    np.testing.assert_array_equal(left[..., 0], labels == IGNORED)
    np.testing.assert_array_equal(masks[..., 0] == 1, labels == 1)
    turned = sampling.crop_arrays(volume, replace(crops, augment="classical"), 32, seed=0)[1]
    assert np.isin(metrics.left_out(turned).numpy().sum((1, 2, 3)), left.sum((1, 2, 3))).all()
    logits = random.normal(size=masks.shape).astype(np.float32)
    loss = segmenter.pixel_loss(masks, logits).numpy()
    np.testing.assert_array_equal(loss == 0, left[..., 0])
    found, known = logits > 0, ~left
    counts = metrics.count(found, masks).pooled()
    assert counts.true_positive == (found & (masks == 1)).sum()
    assert counts.false_positive == (found & (masks == 0) & known).sum()
    assert counts.false_negative == (~found & (masks == 1)).sum()
    metric = metrics.PooledDice()
    metric.update_state(masks, logits)
    assert float(metric.result()) == counts.dice()[0]
