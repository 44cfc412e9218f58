"""A short training run with pinned losses: it fails when a change alters published numbers.

If the change is meant, raise ``synthseg.METHOD_VERSION`` and pin the new values; published results
of the older version are then stale, and ``synthseg check`` says so.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest

from synthseg import gan, joint, masks, sampling, segmenter
from synthseg.volumes import Volume

CROPS = sampling.CropSettings(crop=80, size=32, batch=4, resize="area", augment="classical")
SEGMENTER = segmenter.SegmenterSettings(
    size=32, variant="half", channels=4, dropout=0.2, leak=0.3, lr=1e-3, schedule="cosine"
)
GAN = gan.GANSettings(
    size=32,
    width=4,
    decoder="resize",
    receptive_field=70,
    adversarial="least-squares",
    l1_weight=10.0,
    g_lr=2e-4,
    d_lr_ratio=1.0,
    beta1=0.5,
    norm="instance",
    noise="fresh",
    average=0.995,
)
GOLDEN = {
    "composed areas": [14276, 8965],
    "probability": [0.503284],
    "gan": [0.60093, 1.20426, 0.57608],
    "joint": [0.760152, 0.737028, 0.276366],
}


def check(name, values):
    # Other processors round differently.
    np.testing.assert_allclose(values, GOLDEN[name], rtol=2e-3, err_msg=name)


@pytest.fixture(scope="module")
def volume():
    z, y, x = np.mgrid[:8, :256, :320]
    mask = (y % 51 - 25) ** 2 + (x % 67 - 30) ** 2 < 60 + 40 * z
    noise = np.random.default_rng(0).integers(0, 60, mask.shape)
    return Volume.create((180 - 100 * mask + noise).astype(np.uint8), mask, 5.0, "disks")


def test_composing_and_tiled_prediction(volume):
    images, slices = sampling.at_network_scale(volume, CROPS)
    _, real = sampling.crop_arrays(volume, CROPS, 64, seed=0)
    bank = masks.component_bank(images, slices, every=1)
    composed = masks.compose(bank, masks.count_and_area(real), 32, 64, seed=0)
    by_original = masks.compose_original(real, seed=0)
    check("composed areas", [composed.masks.sum(), by_original.sum()])
    keras.utils.set_random_seed(0)
    ritnet = segmenter.build_ritnet(SEGMENTER)
    check("probability", [segmenter.predict_slices(ritnet, images, tile=32, overlap=8).mean()])


def test_gan(volume):
    keras.utils.set_random_seed(0)
    model = gan.Pix2Pix(GAN, seed=0)
    logs = [model.train_step(batch) for batch in sampling.crops(volume, CROPS, seed=0).take(3)][-1]
    check("gan", [float(logs[name]) for name in ("d_loss", "g_loss", "l1")])


def test_joint_training(volume):
    keras.utils.set_random_seed(0)
    arm = joint.ARMS["live"]
    model, network = gan.Pix2Pix(GAN, seed=0), segmenter.build_ritnet(SEGMENTER)
    trainer = joint.JointTrainer(network, SEGMENTER, arm, 3, 0.4, gan=model)
    images, slices = sampling.at_network_scale(volume, CROPS)
    bank = masks.component_bank(images, slices, every=1)
    prior = masks.count_and_area(slices[:, :32, :32])
    own = joint.GANBatches(replace(CROPS, batch=2, augment="dihedral"), seed=9, per_step=1)
    seeds = {"crops": 1, "compose": 2, "paste": 3}
    given = (volume, CROPS, bank, prior, images[:0], seeds.get)
    stream = joint.batches(arm, *given, gan_batch=own)
    logs = [trainer.train_step(batch) for batch in stream.take(3)][-1]
    check("joint", [float(logs[name]) for name in ("real_loss", "synthetic_loss", "score_spread")])
