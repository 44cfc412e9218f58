"""A short training with pinned losses: it fails when a change alters published numbers.

If the change is meant, raise ``synthseg.METHOD_VERSION`` and pin the new values; published results
of the older version are then stale, and ``synthseg check`` says so.
"""

import keras
import numpy as np
import pytest

from synthseg import METHOD_VERSION, gan, joint, masks, sampling, segmenter
from synthseg.sampling import CropSettings
from synthseg.stacks import phantom
from synthseg.volumes import Volume

CROPS = CropSettings(crop=80, size=32, batch=4, augment="classical")
TOLERANCE = 2e-3  # other processors round differently


@pytest.fixture(scope="module")
def volume():
    return Volume.create(*phantom.make(1, (8, 128, 160)), phantom.VOXEL, "golden")


def test_method_version():
    assert METHOD_VERSION == 4


def test_gan(volume):
    keras.utils.set_random_seed(0)
    model = gan.Pix2Pix(gan.GANSettings(size=32, width=4), seed=0)
    batches = sampling.crops(volume, CROPS, seed=0).take(3)
    logs = [model.train_step(batch) for batch in batches][-1]  # means over the steps
    values = [float(logs[name]) for name in ("d_loss", "g_loss", "l1")]
    np.testing.assert_allclose(values, GOLDEN["gan"], rtol=TOLERANCE)


def test_joint_training(volume):
    keras.utils.set_random_seed(0)
    model = gan.Pix2Pix(gan.GANSettings(size=32, width=4), seed=0)
    settings = joint.JointSettings(steps=3, schedule="ramp", score="image", live=True)
    trainer = joint.new_trainer(
        segmenter.SegmenterSettings(size=32, channels=4), settings, model, seed=0
    )
    real = sampling.crops(volume, CROPS, seed=0)
    other = sampling.crops(volume, CROPS, seed=1)
    logs = [trainer.train_step(batch) for batch in joint.pairs(real, other).take(3)][-1]
    values = [float(logs[name]) for name in ("real_loss", "synthetic_loss", "score_spread")]
    np.testing.assert_allclose(values, GOLDEN["joint"], rtol=TOLERANCE)


def test_composing_and_tiled_prediction():
    volume = Volume.create(*phantom.make(1, (8, 256, 320)), phantom.VOXEL, "golden")
    images, slices = sampling.at_network_scale(volume, CROPS)
    _, crop_masks = sampling.crop_arrays(volume, CROPS, 64, seed=0)
    bank = masks.component_bank(images, slices, size=32, every=1)
    composed = masks.compose(bank, masks.count_and_area(crop_masks), 64, seed=0)
    by_original = masks.compose_original(crop_masks, seed=0)
    areas = [composed.masks.sum(), by_original.sum()]
    np.testing.assert_allclose(areas, GOLDEN["composed areas"], rtol=TOLERANCE)
    keras.utils.set_random_seed(0)
    ritnet = segmenter.build_ritnet(segmenter.SegmenterSettings(size=32, channels=4))
    probability = segmenter.predict_slices(ritnet, images, tile=32, overlap=8)
    np.testing.assert_allclose(probability.mean(), GOLDEN["mean probability"], rtol=TOLERANCE)


GOLDEN = {
    "composed areas": [5012, 9356],
    "mean probability": 0.502283,
    "gan": [0.593203, 1.090022, 0.216420],
    "joint": [0.829493, 0.794534, 0.347548],
}
