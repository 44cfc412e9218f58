"""Layers and Adam compute what Keras' own compute, with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg.layers import Adam, Dropout, PointwiseConv2D, UpConv2D

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def gradients(function: object, *tensors: np.ndarray) -> list[np.ndarray]:
    """The result, and its gradients by the tensors, each output weighted differently."""
    variables = [tf.Variable(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        result = function(*variables)  # type: ignore[operator]
        total = tf.reduce_sum(result * tf.reshape(tf.range(float(tf.size(result))), result.shape))
    return [result.numpy(), *(each.numpy() for each in tape.gradient(total, variables))]


@pytest.mark.parametrize("channels", [(5,), (3, 4), (1, 2, 3)])
def test_pointwise_is_a_convolution_of_the_stack(channels: tuple[int, ...]) -> None:
    tensors = [normal(2, 4, 6, count) for count in channels]
    layer, expected = PointwiseConv2D(7), keras.layers.Conv2D(7, 1)
    layer(tensors)
    expected.build((2, 4, 6, sum(channels)))
    assert layer.kernel.shape == expected.kernel.shape
    weights = [normal(*weight.shape) for weight in layer.weights]
    layer.set_weights(weights)
    expected.set_weights(weights)
    one = gradients(lambda *parts: layer(list(parts)), *tensors)
    other = gradients(lambda *parts: expected(tf.concat(parts, axis=-1)), *tensors)
    for value, wanted in zip(one, other, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-3)
    if len(tensors) == 1:
        np.testing.assert_array_equal(layer(tensors[0]), layer(tensors))


def test_up_convolution_is_doubling_and_convolution() -> None:
    tensor, layer = normal(2, 4, 6, 5), UpConv2D(3)
    layer(tensor)
    kernel, bias = normal(3, 3, 3, 5), normal(3)
    layer.set_weights([kernel, bias])
    double, convolve = keras.layers.UpSampling2D(), keras.layers.Conv2D(3, 3, padding="same")
    convolve.build((2, 8, 12, 5))
    convolve.set_weights([kernel[::-1, ::-1].transpose(0, 1, 3, 2), bias])
    one = gradients(layer, tensor)
    other = gradients(lambda each: convolve(double(each)), tensor)
    for value, wanted in zip(one, other, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-2)


def test_up_convolution_keeps_what_is_uniform() -> None:
    layer = UpConv2D(2)
    inner = layer(np.ones((1, 6, 6, 3), np.float32))[0, 1:-1, 1:-1].numpy()
    np.testing.assert_allclose(inner, np.broadcast_to(inner[:1, :1], inner.shape), rtol=1e-5)


@pytest.mark.parametrize(("rate", "dropped"), [(0.2, 51 / 256), (0.5, 0.5), (0.3, 77 / 256)])
@pytest.mark.parametrize("channels", [16, 5])
def test_dropout_drops_the_rate_and_keeps_the_mean(
    rate: float, dropped: float, channels: int
) -> None:
    layer = Dropout(rate, seed=1)
    ones = np.ones((4, 64, 64, channels), np.float32)
    result = layer(ones, training=True).numpy()
    values = np.unique(result)
    np.testing.assert_allclose(values, [0, 1 / (1 - dropped)], rtol=1e-6)
    spread = (dropped * (1 - dropped) / ones.size) ** 0.5
    assert abs((result == 0).mean() - dropped) < 4 * spread
    by_channel = (result == 0).mean(axis=(0, 1, 2))
    assert np.abs(by_channel - dropped).max() < 5 * spread * channels**0.5
    assert not np.array_equal(result, layer(ones, training=True))
    np.testing.assert_array_equal(layer(ones, training=False), ones)


def test_decisions_of_one_random_number_are_independent() -> None:
    kept = Dropout(0.5, seed=1)(np.ones((8, 64, 64, 4), np.float32), training=True).numpy() > 0
    correlations = np.corrcoef(kept.reshape(-1, 4).T)
    np.testing.assert_allclose(correlations, np.eye(4), atol=4 / (8 * 64 * 64) ** 0.5)


def test_no_dropout_changes_nothing() -> None:
    tensor = normal(1, 4, 4, 3)
    np.testing.assert_array_equal(Dropout(0.0)(tensor, training=True), tensor)


@pytest.mark.parametrize(
    "rate", [0.01, keras.optimizers.schedules.CosineDecay(0.01, 10)], ids=["constant", "cosine"]
)
def test_adam_moves_as_keras_adam(rate: object) -> None:
    first, steps = [normal(3, 4), normal(4)], [(normal(3, 4), normal(4)) for _ in range(6)]
    results = []
    for kind in (Adam, keras.optimizers.Adam):
        variables = [keras.Variable(value) for value in first]
        optimizer = kind(rate, beta_1=0.5)
        optimizer.build(variables)
        for step in steps:
            optimizer.apply([tf.constant(gradient) for gradient in step], variables)
        assert int(optimizer.iterations) == len(steps)
        results.append([*variables, *optimizer.variables[2:]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-7)


def test_layers_are_stored_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inputs = keras.Input((8, 8, 3))
    up = UpConv2D(4)(Dropout(0.2)(inputs))
    other = keras.layers.UpSampling2D()(inputs)
    model = keras.Model(inputs, PointwiseConv2D(2)(PointwiseConv2D(3)([up, other])))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    tensor = normal(2, 8, 8, 3)
    np.testing.assert_array_equal(model(tensor), again(tensor))
    assert model.output_shape == again.output_shape == (None, 16, 16, 2)
