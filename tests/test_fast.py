"""The fast twin of a network computes what the network computes, with the same variables."""

from functools import lru_cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from synthseg import fast, gan, segmenter
from synthseg.gan import GANSettings
from synthseg.segmenter import SegmenterSettings


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def gradients(model, run, inputs):
    """Outputs, and gradients by inputs and weights; each output is weighted differently."""
    given = tf.Variable(inputs)
    with tf.GradientTape() as tape:
        outputs = run(given)
        total = tf.reduce_sum(outputs * tf.constant(normal(*outputs.shape)))
    sources = [given, *(variable.value for variable in model.trainable_variables)]
    return [outputs.numpy(), *(each.numpy() for each in tape.gradient(total, sources))]


@lru_cache
def network(name):
    """Without dropout, so that training mode can be compared, too."""
    if name == "half":
        return segmenter.build_ritnet(SegmenterSettings(32, name, 6, 0.0, 0.3, 1e-3, "constant"))
    plain = {"l1_weight": 1.0, "g_lr": 1e-3, "d_lr_ratio": 1.0, "beta1": 0.5, "average": 0.0}
    settings = GANSettings(16, 4, name, 70, "bce", norm="instance", noise="fresh", **plain)
    generator = gan.build_generator(settings)
    for layer in generator.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    return generator


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["half", "resize", "transposed"])
def test_a_twin_gives_the_same_outputs_and_gradients(name, training):
    model = network(name)
    inputs = normal(2, *(side or 64 for side in model.input_shape[1:3]), model.input_shape[-1])
    state = model.get_weights()
    stock = gradients(model, lambda given: model(given, training=training), inputs)
    moved = model.get_weights()  # BatchNorm's statistics
    model.set_weights(state)
    twin = fast.twin(model)
    quick = gradients(model, lambda given: twin(given, training=training), inputs)
    np.testing.assert_allclose(quick[0], stock[0], atol=1e-5)
    for one, other in zip(quick, stock, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 + 1e-4 * np.abs(other).max())
    for one, other in zip(model.get_weights(), moved, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_cannot_be_fused_is_left_as_it_is():
    """Activations, strides, other kernels, and tensors that two layers or the outside read."""
    image = keras.Input((8, 8, 3))
    both = layers.Concatenate()([image, layers.Conv2D(2, 1, activation="relu")(image)])
    double = layers.UpSampling2D(2)(layers.Conv2D(4, 1, strides=2)(both))
    odd = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(2, 1)(both))
    odd = layers.Conv2D(4, 3, padding="same", strides=2)(odd)
    wide = layers.Conv2D(4, 5, padding="same")(double)
    small = layers.Conv2D(4, 3, padding="same")(double)
    model = keras.Model(image, layers.Concatenate()([odd, wide, small]))
    inputs = normal(2, 8, 8, 3)
    np.testing.assert_allclose(fast.twin(model)(inputs), model(inputs), atol=1e-5)


def dropout_model(rate, channels):
    image = keras.Input((64, 64, channels))
    return keras.Model(image, layers.Dropout(rate, seed=1)(image))


@pytest.mark.parametrize(("rate", "dropped"), [(0.2, 51 / 256), (0.5, 0.5), (0.3, 77 / 256)])
@pytest.mark.parametrize("channels", [16, 5])
def test_dropout_drops_the_rate_and_keeps_the_mean(rate, dropped, channels):
    model = dropout_model(rate, channels)
    twin = fast.twin(model)
    ones = tf.Variable(np.ones((4, 64, 64, channels), np.float32))
    with tf.GradientTape() as tape:
        result = twin(ones)
    # The gradient passes where the value passed.
    np.testing.assert_array_equal(tape.gradient(result, ones), result)
    result = result.numpy()
    np.testing.assert_allclose(np.unique(result), [0, 1 / (1 - dropped)], rtol=1e-6)
    spread = (dropped * (1 - dropped) / result.size) ** 0.5
    assert abs((result == 0).mean() - dropped) < 4 * spread
    by_channel = (result == 0).mean(axis=(0, 1, 2))
    assert np.abs(by_channel - dropped).max() < 5 * spread * channels**0.5
    np.testing.assert_array_equal(twin(ones, training=False), ones)


def test_decisions_of_one_random_number_are_independent():
    kept = fast.twin(dropout_model(0.5, 4))(np.ones((8, 64, 64, 4), np.float32)).numpy() > 0
    correlations = np.corrcoef(kept.reshape(-1, 4).T)
    np.testing.assert_allclose(correlations, np.eye(4), atol=4 / (8 * 64 * 64) ** 0.5)


def test_dropout_goes_on_where_its_stored_state_says():
    model = dropout_model(0.5, 4)
    twin, ones = fast.twin(model), np.ones((1, 64, 64, 4), np.float32)
    (state,) = model.variables
    before = state.numpy()
    first, second = twin(ones), twin(ones)
    assert not np.array_equal(first, second)
    state.assign(before)
    np.testing.assert_array_equal(twin(ones), first)
