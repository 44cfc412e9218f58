"""The browser's arithmetic equals that of Keras, for all kinds of layers that a run may have."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from synthseg import gan, segmenter
from synthseg.project import RunError, project_root

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))

import export

PROGRAM = project_root() / "book" / "_extra" / "live" / "network.js"
COMPUTE = """([saved, inputs, side]) => {
    const { load, run } = synthsegNetworks();
    const images = inputs.map((values) => ({
        height: side, width: side, channels: values.length / side ** 2,
        data: Float32Array.from(values),
    }));
    const output = run(load(saved), images);
    return [output.height, output.width, output.channels, Array.from(output.data)];
}"""


def computed(page: Any, model: keras.Model, inputs: list[np.ndarray]) -> np.ndarray:
    """What the browser makes of inputs (1, side, side, channels)."""
    if not page.evaluate("typeof synthsegNetworks !== 'undefined'"):
        page.add_script_tag(path=str(PROGRAM))
    given = [export.browser_network(model), [x.ravel().tolist() for x in inputs], len(inputs[0][0])]
    *shape, values = page.evaluate(COMPUTE, given)
    return np.reshape(values, (1, *shape))


def randomized(model: keras.Model, seed: int) -> keras.Model:
    """The model with random weights everywhere, normalization and its statistics included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        spread = rng.normal(0, 1 / np.sqrt(max(1, np.prod(weight.shape[:-1]))), weight.shape)
        one = any(word in weight.path for word in ("gamma", "variance"))
        weight.assign(1 + 0.3 * np.tanh(spread) if one else spread)
    return model


def settings(**changes: Any) -> gan.GANSettings:
    values = {**vars(gan.original_settings(4, 32)), "receptive_field": 34}
    return gan.GANSettings(**{**values, **changes})


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("noise", ["fresh", "none"])
def test_generators(page: Any, decoder: str, norm: str, noise: str) -> None:
    model = randomized(gan.build_generator(settings(decoder=decoder, norm=norm, noise=noise)), 1)
    given = np.random.default_rng(2).normal(size=(1, *model.input_shape[1:])).astype("f4")
    expected = np.asarray(model(given, training=False))
    assert expected.std() > 0.02  # not saturated
    np.testing.assert_allclose(computed(page, model, [given]), expected, atol=1e-3)


@pytest.mark.parametrize("field", [34, 70, 142])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_discriminators(page: Any, field: int, norm: str) -> None:
    model = randomized(gan.build_discriminator(settings(receptive_field=field, norm=norm)), 1)
    given = [
        np.random.default_rng(seed).normal(size=(1, 32, 32, 1)).astype("f4") for seed in (2, 3)
    ]
    expected = np.asarray(model(given, training=False))
    np.testing.assert_allclose(computed(page, model, given), expected, atol=1e-3)


@pytest.mark.parametrize("variant", ["half", "full"])
def test_segmenters(page: Any, variant: str) -> None:
    chosen = segmenter.SegmenterSettings(32, variant, 5, 0.2, 0.3, 1e-3, "constant")
    model = randomized(segmenter.build_ritnet(chosen), 1)
    given = np.random.default_rng(2).normal(size=(1, 64, 64, 1)).astype("f4")
    expected = np.asarray(model(given, training=False))
    np.testing.assert_allclose(computed(page, model, [given]), expected, atol=1e-3)


def test_a_layer_that_the_browser_does_not_know_is_refused() -> None:
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.MaxPooling2D()(inputs))
    with pytest.raises(RunError, match="MaxPooling2D"):
        export.browser_network(model)
