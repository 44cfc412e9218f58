"""The peers in the benchmarks compute what the module computes; nothing is timed here."""

import json
import math

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import composing, examples
from benchmarks.timing import Budget, Row, Summary, Times
from synthseg import gan, masks, segmenter
from synthseg.frechet import frechet_distance
from synthseg.gan import GANSettings
from synthseg.segmenter import SegmenterSettings

SIZE, WIDTH = 64, 8


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("torch", reason="PyTorch is not installed; make bench installs it")
    from benchmarks import torch_peers

    return torch_peers


def randomised(model: keras.Model) -> keras.Model:
    """The model with weights none of which is 0 or 1, so that none can be mistaken for another."""
    rng = np.random.default_rng(0)
    weights = [value + rng.normal(0, 0.05, value.shape) for value in model.get_weights()]
    model.set_weights(weights)
    return model


def to_torch(array: np.ndarray):
    import torch

    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def to_numpy(tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def count(module) -> int:
    """Parameters and running statistics, as ``count_params`` counts them."""
    running = [value for name, value in module.named_buffers() if "running" in name]
    return sum(value.numel() for value in [*module.parameters(), *running])


def test_segmenter_is_the_same_network(peers):
    ours = randomised(segmenter.build_ritnet(SegmenterSettings()))
    peer = peers.RITnet().eval()
    peers.copy_weights(ours.get_weights(), peer)
    assert count(peer) == ours.count_params() == 249_121
    images, _ = examples.pair(2, SIZE)
    expected = ours(images, training=False).numpy()
    np.testing.assert_allclose(to_numpy(peer(to_torch(images))), expected, atol=1e-4)


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
def test_generator_is_the_same_network_mirrored(peers, decoder):
    settings = GANSettings(size=SIZE, width=WIDTH, decoder=decoder)
    ours = randomised(gan.build_generator(settings))
    peer = peers.Generator(WIDTH, decoder, SIZE).eval()
    peers.copy_weights(ours.get_weights(), peer)
    assert count(peer) == ours.count_params()
    images, some_masks = examples.pair(2, SIZE)
    source = np.concatenate([some_masks, images], axis=-1)
    expected = ours(source, training=False).numpy()
    found = to_numpy(peer(to_torch(source).flip(2, 3)).flip(2, 3))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_discriminator_is_the_same_network(peers):
    ours = randomised(gan.build_discriminator(GANSettings(size=SIZE, width=WIDTH)))
    peer = peers.Discriminator(WIDTH)
    peers.copy_weights(ours.get_weights(), peer)
    assert count(peer) == ours.count_params()
    images, some_masks = examples.pair(2, SIZE)
    expected = ours([some_masks, images], training=False).numpy()
    found = to_numpy(peer(to_torch(some_masks), to_torch(images)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_of_another_network_are_refused(peers):
    ours = segmenter.build_ritnet(SegmenterSettings())
    with pytest.raises(ValueError, match="more weights"):
        peers.copy_weights([*ours.get_weights(), np.zeros(1, np.float32)], peers.RITnet())


def test_floating_point_operations_are_those_of_the_layers(peers):
    """Twice forward, and twice that backward, but for the gradient of the image."""
    forward = {}

    def note(module, inputs, output):
        channels, kernel = module.in_channels, math.prod(module.kernel_size)
        forward[module] = 2 * kernel * channels * output.numel()

    network = peers.RITnet()
    for part in network.modules():
        if hasattr(part, "kernel_size"):
            part.register_forward_hook(note)
    network(to_torch(examples.pair(1)[0]))
    expected = 3 * sum(forward.values()) - forward[network.down[0].first]
    assert peers.flops("segmenter_step", batch=1) == expected


def test_profile_names_what_a_step_does():
    from benchmarks import kernels

    seconds, whole = kernels.profile(batch=1, steps=1)
    assert whole > 0
    assert seconds["ResourceApplyAdam"] > 0
    assert all(kind.isidentifier() for kind in seconds)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("part", ["forward", "filter", "input"])
def test_kernels_can_be_called(kernel, part):
    from benchmarks import kernels

    prepared = kernels.convolution(side=4, kernel=kernel, inputs=8, part=part)
    prepared.call()
    assert prepared.units == 10


def test_segmenters_original_style_follows_the_same_path():
    """Without dropout, two steps of the loop give the weights that two of ``fit`` give."""
    tf = pytest.importorskip("tensorflow")
    from benchmarks import original_style, ours

    settings = SegmenterSettings(size=32, channels=4, dropout=0.0)
    keras.utils.set_random_seed(0)
    compiled = segmenter.compiled(settings, ours.STEPS)
    loop = original_style.SegmenterLoop(settings)
    loop.network.set_weights(compiled.get_weights())
    images, some_masks = examples.pair(2, 32)
    for _ in range(2):
        compiled.train_on_batch(tf.constant(images), tf.constant(some_masks))
        loop.step(images, some_masks)
    for value, expected in zip(loop.network.weights, compiled.weights, strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_composing_one_by_one_agrees():
    some = examples.masks(16)
    some[3] = 0
    composed = composing.compose_one_by_one(some, seed=5)
    np.testing.assert_array_equal(composed, masks.compose_original(some, seed=5))
    assert not composed[3].any()
    assert composed[:3].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("count", [20, 60])
def test_distance_by_matrix_square_root_agrees(count):
    from benchmarks import frechet

    sets = examples.features(count, 30, 0), examples.features(count, 30, 1)
    assert frechet.with_sqrtm(count, 30).call() == pytest.approx(frechet_distance(*sets), rel=1e-6)


def test_ratios_come_from_within_rounds():
    """A machine that becomes ten times slower half-way changes the times, not the ratio."""
    slowness = np.array([1.0, 1.0, 1.0, 10.0, 10.0])
    times = Times({"ours": slowness, "peer": 3 * slowness})
    assert times.ratio("peer", "ours") == Summary(3.0, 3.0, 3.0)
    assert times.best(["peer", "ours", "absent"]) == "ours"
    assert times.best(["absent"]) is None


def test_targets_and_what_is_stored():
    value = Summary(2.0, 1.0, 3.0)
    rows = [
        Row("topic", "fast enough", value, "x", at_least=1.5),
        Row("topic", "too much", value, "GiB", at_most=1.9),
        Row("topic", "no target", value, "s"),
        Row("topic", "not measured", None, "x", at_least=1.0, note="not installed"),
    ]
    assert [row.met for row in rows] == [True, False, None, None]
    stored = json.loads(json.dumps(command.record(rows, Budget())))
    assert stored["rows"][1]["summary"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert stored["versions"]["tensorflow"]
    assert command.show(rows).row_count == 5


def test_a_topic_measured_later_leaves_the_others(tmp_path):
    path = tmp_path / "results" / "2026-01-01.json"
    for name, median in (("gan", 1.0), ("joint", 2.0), ("gan", 3.0)):
        row = Row(name, "ours", Summary(median, median, median), "s")
        command.store(path, name, command.record([row], Budget()))
    stored = json.loads(path.read_text())
    medians = {name: topic["rows"][0]["summary"]["median"] for name, topic in stored.items()}
    assert medians == {"gan": 3.0, "joint": 2.0}
