"""Generator, discriminator and segmenter: sizes, receptive fields, and what training changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import gan, segmenter
from synthseg.gan import GANSettings
from synthseg.sampling import CropSettings
from synthseg.segmenter import SegmenterSettings
from synthseg.volumes import Volume

TINY = GANSettings(size=16, width=4)


def batches(size=16, batch=2):
    """Endless batches of squares: bright on dark, mask = square."""
    masks = np.zeros((8, size, size, 1), np.float32)
    masks[:, 4:10, 4:10] = 1
    images = masks - 0.5 + np.random.default_rng(0).normal(0, 0.1, masks.shape)
    data = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), masks))
    return data.repeat().batch(batch, drop_remainder=True)


def test_parameter_counts_of_the_original():
    settings = gan.original_settings()
    assert gan.build_generator(settings).count_params() == 35_127_489
    assert gan.build_discriminator(settings).count_params() == 6_964_161
    resize = GANSettings(width=64, decoder="resize", norm="batch", noise=False)
    assert gan.build_generator(resize).count_params() == 23_543_105


@pytest.mark.parametrize("field", [34, 70, 142])
def test_receptive_field_is_what_changes_one_output(field):
    settings = GANSettings(size=256, width=2, receptive_field=field, norm="batch")
    discriminator = gan.build_discriminator(settings)
    assert gan.receptive_field(discriminator) == field
    image = tf.Variable(np.random.default_rng(0).normal(size=(1, 256, 256, 1)).astype(np.float32))
    with tf.GradientTape() as tape:
        logits = discriminator([tf.zeros_like(image), image], training=False)
        middle = logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]
    touched = np.abs(tape.gradient(middle, image).numpy()[0, ..., 0]) > 0
    assert touched.any(axis=1).sum() == field
    assert touched.any(axis=0).sum() == field


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
@pytest.mark.parametrize("noise", [True, False])
def test_generator_gives_images_of_the_masks_size(decoder, noise):
    settings = GANSettings(size=16, width=4, decoder=decoder, noise=noise)
    generator = gan.build_generator(settings)
    masks = np.zeros((3, 16, 16, 1), np.float32)
    images = gan.generate(generator, settings, masks, seed=1)
    assert images.shape == masks.shape
    assert np.abs(images).max() <= 1
    np.testing.assert_array_equal(images, gan.generate(generator, settings, masks, seed=1))
    # Without noise all empty masks share one image; with it each has its own.
    assert np.array_equal(images[0], images[1]) is not noise
    assert np.array_equal(images, gan.generate(generator, settings, masks, seed=2)) is not noise


@pytest.mark.parametrize("adversarial", ["bce", "least-squares"])
def test_a_gan_step_trains_both_networks(adversarial):
    model = gan.Pix2Pix(GANSettings(size=16, width=4, adversarial=adversarial, average=0.9))
    before = [network.get_weights() for network in (model.generator, model.discriminator)]
    average = model.generator_average.get_weights()
    logs = model.fit(batches(), steps_per_epoch=2, epochs=1, verbose=0, shuffle=False).history
    assert all(np.isfinite(values).all() for values in logs.values())
    for network, old in zip((model.generator, model.discriminator), before, strict=True):
        assert not np.array_equal(old[0], network.get_weights()[0])
    assert not np.array_equal(average[0], model.generator_average.get_weights()[0])
    assert not np.array_equal(
        model.generator.get_weights()[0], model.generator_average.get_weights()[0]
    )


def test_adversarial_loss_has_known_values():
    zeros = tf.zeros((2, 4, 4, 1))
    least_squares = gan.Pix2Pix(TINY)
    assert float(least_squares.adversarial_loss(zeros, real=True)) == 1
    assert float(least_squares.adversarial_loss(zeros, real=False)) == 0
    entropy = gan.Pix2Pix(GANSettings(size=16, width=4, adversarial="bce"))
    assert float(entropy.adversarial_loss(zeros, real=True)) == pytest.approx(np.log(2))


def test_snapshots_restore_what_generates(tmp_path):
    keras.utils.set_random_seed(0)
    model = gan.Pix2Pix(TINY)
    callback = gan.Snapshots(tmp_path)
    model.fit(
        batches(), steps_per_epoch=1, epochs=2, verbose=0, shuffle=False, callbacks=[callback]
    )
    masks = np.ones((2, 16, 16, 1), np.float32)
    expected = gan.generate(model.generator_average, TINY, masks, seed=3)
    other = gan.Pix2Pix(TINY)
    gan.load_snapshot(other, tmp_path, 2)
    np.testing.assert_array_equal(
        gan.generate(other.generator_average, TINY, masks, seed=3), expected
    )
    gan.load_snapshot(other, tmp_path, 1)
    assert not np.array_equal(gan.generate(other.generator_average, TINY, masks, seed=3), expected)


def test_gan_settings_refuse_what_does_not_exist():
    with pytest.raises(ValueError, match="decoder is 'bilinear'; choose transposed or resize"):
        GANSettings(decoder="bilinear")
    with pytest.raises(ValueError, match="34 or 70 or 142"):
        GANSettings(receptive_field=64)
    with pytest.raises(ValueError, match="power of two"):
        GANSettings(size=100)


@pytest.mark.parametrize("variant", ["half", "full"])
def test_ritnet_has_the_published_size(variant):
    model = segmenter.build_ritnet(SegmenterSettings(variant=variant))
    assert model.count_params() == 249_121
    assert model(np.zeros((1, 64, 96, 1), np.float32)).shape == (1, 64, 96, 1)


def test_half_decides_at_half_resolution():
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype(np.float32)
    for variant, expected in (("half", True), ("full", False)):
        model = segmenter.build_ritnet(SegmenterSettings(variant=variant, channels=4))
        logits = model(image).numpy()[0, ..., 0].reshape(32, 2, 32, 2)
        assert (np.ptp(logits, axis=(1, 3)) == 0).all() == expected


def test_inference_ignores_dropout_and_other_images():
    model = segmenter.build_ritnet(SegmenterSettings(channels=4))
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
    counts = segmenter.evaluate(perfect, volume, CropSettings(crop=64, size=32))
    np.testing.assert_array_equal(counts.true_positive, [10 * 20] * 3)
    np.testing.assert_array_equal(counts.dice(), 1)


def test_clean_evaluation_adds_to_the_history():
    model = segmenter.compiled(SegmenterSettings(size=32, channels=4), steps=4)
    images, masks = next(batches(size=32, batch=4).as_numpy_iterator())
    clean = segmenter.CleanEvaluation(model, {"validation": (images, masks)})
    history = model.fit(
        batches(size=32), steps_per_epoch=2, epochs=1, verbose=0, shuffle=False, callbacks=[clean]
    ).history
    logits = model.predict(images, verbose=0)
    expected = np.mean(np.logaddexp(0, logits) - masks * logits)
    assert history["validation_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert "validation_dice" in history


def test_learning_rate_schedules():
    cosine = segmenter.optimizer(SegmenterSettings(lr=0.1, schedule="cosine"), steps=10)
    assert float(cosine.learning_rate) == pytest.approx(0.1)
    cosine.iterations.assign(10)
    assert float(cosine.learning_rate) == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="schedule"):
        SegmenterSettings(schedule="linear")


def test_a_saved_segmenter_can_be_loaded(tmp_path):
    model = segmenter.compiled(SegmenterSettings(size=32, channels=4), steps=4)
    model.optimizer.build(model.trainable_variables)  # as training does
    model.save(tmp_path / "segmenter.keras")
    loaded = keras.models.load_model(tmp_path / "segmenter.keras")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
