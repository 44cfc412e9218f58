"""Generator and discriminator: sizes, receptive fields, noise, training, snapshots."""

import re
from dataclasses import replace
from zipfile import ZipFile

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import gan
from synthseg.gan import GANSettings

TINY = GANSettings(
    size=16,
    width=4,
    decoder="resize",
    receptive_field=70,
    adversarial="least-squares",
    l1_weight=10.0,
    g_lr=1e-3,
    d_lr_ratio=1.0,
    beta1=0.5,
    norm="instance",
    noise="fresh",
    average=0.9,
)
EMPTY = np.zeros((3, 16, 16, 1), np.float32)

pytestmark = pytest.mark.usefixtures("eagerly")


def train(model, epochs=1, callbacks=()):
    """Two steps an epoch on squares: bright on dark, mask = square."""
    masks = np.zeros((8, 16, 16, 1), np.float32)
    masks[:, 4:10, 4:10] = 1
    images = masks - 0.5 + np.random.default_rng(0).normal(0, 0.1, masks.shape)
    data = tf.data.Dataset.from_tensor_slices((images.astype(np.float32), masks))
    return model.fit(
        data.repeat().batch(2),
        steps_per_epoch=2,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    ).history


def test_parameter_counts_of_the_original():
    settings = gan.original_settings(width=64, size=128)
    assert gan.build_generator(settings).count_params() == 35_127_489
    assert gan.build_discriminator(settings).count_params() == 6_964_161
    resize = gan.build_generator(replace(settings, decoder="resize"))
    assert resize.count_params() == 23_543_105


@pytest.mark.parametrize("field", [34, 70, 142])
def test_receptive_field_is_what_changes_one_output(field):
    settings = replace(TINY, size=256, width=2, receptive_field=field, norm="batch")
    discriminator = gan.build_discriminator(settings)
    assert gan.field_of_view(discriminator) == field
    image = tf.Variable(np.random.default_rng(0).normal(size=(1, 256, 256, 1)).astype(np.float32))
    with tf.GradientTape() as tape:
        outputs = discriminator([tf.zeros_like(image), image], training=False)
        middle = outputs[0, outputs.shape[1] // 2, outputs.shape[2] // 2, 0]
    touched = np.abs(tape.gradient(middle, image).numpy()[0, ..., 0]) > 0
    assert touched.any(axis=1).sum() == field
    assert touched.any(axis=0).sum() == field


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
def test_fresh_noise_gives_each_mask_its_own_image(decoder):
    generator = gan.build_generator(replace(TINY, decoder=decoder))
    images = gan.generate(generator, EMPTY, seed=1)
    assert images.shape == EMPTY.shape
    assert np.abs(images).max() <= 1
    np.testing.assert_array_equal(images, gan.generate(generator, EMPTY, seed=1))
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images, gan.generate(generator, EMPTY, seed=2))
    same = gan.generate(generator, EMPTY, seed=1, same_noise=True)
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    other = gan.generate(generator, EMPTY, seed=2, same_noise=True)
    assert not np.allclose(same, other, atol=1e-4)


@pytest.mark.parametrize("noise", ["constant", "none"])
def test_without_fresh_noise_a_mask_has_one_image(noise):
    generator = gan.build_generator(replace(TINY, noise=noise))
    images = gan.generate(generator, EMPTY, seed=1)
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)
    np.testing.assert_array_equal(images, gan.generate(generator, EMPTY, seed=2))
    assert not np.allclose(gan.generate(generator, 1 - EMPTY, seed=1), images, atol=1e-4)


def test_constant_noise_differs_from_fresh_noise_in_nothing_but_the_noise():
    fresh, constant = (
        gan.build_generator(replace(TINY, noise=noise)) for noise in ("fresh", "constant")
    )
    constant.set_weights(fresh.get_weights())
    inputs = np.random.default_rng(0).normal(size=(2, 16, 16, 2)).astype(np.float32)
    np.testing.assert_array_equal(fresh(inputs), constant(inputs))
    # Training and generation feed the same noise image, whatever the step and the seed.
    seeds = [tf.constant(seed, tf.int64) for seed in ([0, 5], [7, 0])]
    one, other = (gan.generator_input(constant, tf.constant(EMPTY), seed) for seed in seeds)
    np.testing.assert_array_equal(one, other)
    assert np.std(one[..., 1]) > 0.5


@pytest.mark.parametrize("adversarial", ["bce", "least-squares"])
def test_a_gan_step_trains_both_networks_and_the_average(adversarial):
    model = gan.Pix2Pix(replace(TINY, adversarial=adversarial), seed=0)
    if adversarial == "least-squares":  # ours, as a graph
        tf.config.run_functions_eagerly(False)
    trained = (model.generator, model.discriminator, model.generator_average)
    before = [network.get_weights()[0] for network in trained]
    logs = train(model)
    assert all(np.isfinite(values).all() for values in logs.values())
    after = [network.get_weights()[0] for network in trained]
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old, new)
    assert not np.array_equal(after[0], after[2])


def test_adversarial_loss_and_probability_have_known_values():
    zeros, outputs = tf.zeros((2, 4, 4, 1)), tf.constant([-1.0, 0.0, 0.25, 3.0])
    least_squares = gan.Pix2Pix(TINY, seed=0)
    assert float(least_squares.adversarial_loss(zeros, real=True)) == 1
    assert float(least_squares.adversarial_loss(zeros, real=False)) == 0
    clipped = gan.probability(least_squares.discriminator, outputs)
    np.testing.assert_array_equal(clipped, [0, 0, 0.25, 1])
    entropy = gan.Pix2Pix(replace(TINY, adversarial="bce"), seed=0)
    assert float(entropy.adversarial_loss(zeros, real=True)) == pytest.approx(np.log(2))
    sigmoid = gan.probability(entropy.discriminator, outputs)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-outputs)), rtol=1e-6)


def test_snapshots_hold_the_networks_and_need_no_module_of_ours(tmp_path):
    model = gan.Pix2Pix(TINY, seed=0)
    train(model, epochs=2, callbacks=[gan.Snapshots(tmp_path)])
    assert gan.snapshot_numbers(tmp_path) == [1, 2]
    assert len(list(tmp_path.iterdir())) == 4  # nothing half-written is left
    expected = gan.generate(model.generator_average, EMPTY, seed=3)
    generator, discriminator = gan.load_snapshot(tmp_path)
    np.testing.assert_array_equal(gan.generate(generator, EMPTY, seed=3), expected)
    judged = [network([EMPTY, EMPTY]) for network in (discriminator, model.discriminator)]
    np.testing.assert_array_equal(*judged)
    assert gan.probability(discriminator, tf.constant([2.0]))[0] == 1
    first, _ = gan.load_snapshot(tmp_path, 1)
    assert not np.array_equal(gan.generate(first, EMPTY, seed=3), expected)
    # Every class that Keras would have to know is one of its own, and none was registered by us.
    for path in tmp_path.iterdir():
        with ZipFile(path) as stored:
            config = stored.read("config.json").decode()
        assert {*re.findall(r'"module": "(\w+)', config)} == {"keras"}
        assert {*re.findall(r'"registered_name": ([^,}]+)', config)} <= {"null", '"Functional"'}


def test_a_missing_snapshot_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshot of a GAN"):
        gan.load_snapshot(tmp_path)
    with pytest.raises(FileNotFoundError, match="no snapshot 3 of a GAN"):
        gan.load_snapshot(tmp_path, 3)


def test_networks_are_of_stock_layers():
    for network in (gan.build_generator(TINY), gan.build_discriminator(TINY)):
        for layer in network.layers:
            assert type(layer).__module__.startswith("keras."), layer
    assert isinstance(gan.build_generator(TINY), keras.Model)


def test_gan_settings_refuse_what_does_not_exist():
    with pytest.raises(ValueError, match="decoder is 'bilinear'; choose transposed or resize"):
        replace(TINY, decoder="bilinear")
    with pytest.raises(ValueError, match="34 or 70 or 142"):
        replace(TINY, receptive_field=64)
    with pytest.raises(ValueError, match="power of two"):
        replace(TINY, size=100)
