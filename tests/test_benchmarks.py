"""The peers in the benchmarks compute what the module computes; nothing is timed here."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import examples
from benchmarks.timing import Row, Summary, Times
from synthseg import gan, segmenter

SIZE, WIDTH = 64, 8


@pytest.mark.parametrize("network", ["segmenter", "resize", "transposed", "discriminator"])
def test_peers_are_the_same_networks(network):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from benchmarks import steps, torch_peers

    def to_torch(array, mirrored):
        tensor = torch.from_numpy(array.transpose(0, 3, 1, 2).copy())
        return tensor.flip(2, 3) if mirrored else tensor

    images, masks = examples.pair(2, SIZE)
    inputs, mirrored = [images], network in ("resize", "transposed")
    if network == "segmenter":
        ours, peer = segmenter.build_ritnet(steps.SEGMENTER), torch_peers.RITnet()
    elif network == "discriminator":
        ours = gan.build_discriminator(steps.gan_settings(WIDTH, "resize", SIZE))
        peer, inputs = torch_peers.Discriminator(WIDTH), [masks, images]
    else:
        ours = gan.build_generator(steps.gan_settings(WIDTH, network, SIZE))
        peer = torch_peers.Generator(WIDTH, network, SIZE)
        inputs = [np.concatenate([masks, images], -1)]
    # Weights none of which is 0 or 1, so that none can be mistaken for another
    rng = np.random.default_rng(0)
    ours.set_weights([value + rng.normal(0, 0.05, value.shape) for value in ours.get_weights()])
    torch_peers.copy_weights(ours.get_weights(), peer)
    found = peer.eval()(*(to_torch(each, mirrored) for each in inputs)).detach()
    expected = ours(inputs if len(inputs) > 1 else inputs[0], training=False)
    found = (found.flip(2, 3) if mirrored else found).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("piece", command.PIECES)
def test_stock_layers_take_the_place_of_fast_ones(piece, monkeypatch):
    """Without dropout, a step has the same loss with each piece and without it."""
    from benchmarks import steps

    settings = replace(steps.SEGMENTER, size=32, channels=4, dropout=0.0)
    monkeypatch.setattr(steps, "SEGMENTER", settings)
    losses = []
    for stock in ("", piece):
        keras.utils.set_random_seed(0)
        step = steps.segmenter_step(1, stock=stock)
        losses.append([step(), step()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_ratios_come_from_within_rounds():
    """A machine that becomes ten times slower half-way changes the times, not the ratio."""
    slowness = np.array([1.0, 1.0, 1.0, 10.0, 10.0])
    times = Times({"ours": slowness, "peer": 3 * slowness}, {"gone": "no memory"})
    assert times.ratio("peer", "ours") == Summary(3.0, 3.0, 3.0)
    assert [row.name for row in times.rows("step", "ours")] == [
        "ours",
        "peer",
        "gone",
        "peer / ours",
    ]


def test_a_topic_measured_later_leaves_the_others(tmp_path):
    path = tmp_path / "results" / "2026-01-01.json"
    for name, median in (("gan", 1.0), ("joint", 2.0), ("gan", 3.0)):
        command.store(path, name, [Row(name, "ours", Summary(median, median, median), "s")], 2)
    stored = json.loads(path.read_text())
    medians = {name: topic["rows"][0]["summary"]["median"] for name, topic in stored.items()}
    assert medians == {"gan": 3.0, "joint": 2.0}
