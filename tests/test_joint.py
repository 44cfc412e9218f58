"""The joint loss, term by term, and the arms' settings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import gan, joint
from synthseg.joint import JointSettings
from synthseg.segmenter import SegmenterSettings

SEGMENTER = SegmenterSettings(size=32, channels=4, dropout=0.0)
GAN = gan.GANSettings(size=32, width=4)


def data(seed=0, count=4):
    rng = np.random.default_rng(seed)
    masks = (rng.random((count, 32, 32, 1)) < 0.3).astype(np.float32)
    images = (masks - 0.5 + rng.normal(0, 0.2, masks.shape)).astype(np.float32)
    return images, masks


def trained(settings, model=None, steps=1):
    """A trainer after some steps, and what it logged; eagerly, since tracing takes longer."""
    trainer = joint.new_trainer(SEGMENTER, settings, model)
    for _ in range(steps):
        logs = trainer.train_step(tf.nest.map_structure(tf.constant, (data(0), data(1))))
    return trainer, {name: float(value) for name, value in logs.items()}


def test_constant_and_ramp_spend_the_same_total_weight():
    fractions = np.linspace(0, 1, 100_001)
    assert np.mean(np.log1p(20 * fractions)) == pytest.approx(joint.MEAN_RAMP, abs=1e-4)
    assert float(joint.ramp(0.0)) == 0
    assert float(joint.ramp(1.0)) == pytest.approx(np.log(21))


def test_the_ramp_starts_without_synthetic_images():
    _, first = trained(JointSettings(steps=10, schedule="ramp"))
    assert first["weight"] == 0
    assert first["loss"] == pytest.approx(first["real_loss"])
    _, constant = trained(JointSettings(steps=10, schedule="constant"))
    assert constant["weight"] == pytest.approx(0.4 * joint.MEAN_RAMP)
    total = constant["real_loss"] + constant["weight"] * constant["synthetic_loss"]
    assert constant["loss"] == pytest.approx(total, rel=1e-5)


def test_original_score_of_known_discriminators():
    assert float(joint.batch_score(tf.fill((2, 4, 4, 1), 20.0))) == pytest.approx(1, abs=1e-6)
    assert float(joint.batch_score(tf.fill((2, 4, 4, 1), -20.0))) == 0
    undecided = float(joint.batch_score(tf.zeros((2, 4, 4, 1))))
    assert undecided == pytest.approx(1 - np.log(2))  # the constant of about 0.3 of defect 21


def test_image_scores_have_mean_one_and_keep_the_order():
    probabilities = np.array([0.1, 0.2, 0.6], np.float32)[:, None, None, None] * np.ones(
        (3, 2, 2, 1)
    )
    scores = joint.image_scores(tf.constant(probabilities, tf.float32)).numpy()
    assert scores.mean() == pytest.approx(1)
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(joint.image_scores(tf.zeros((4, 2, 2, 1))), 1)


def test_only_real_images_move_the_statistics_unless_mixed():
    def statistics(**settings):
        keras.utils.set_random_seed(3)
        trainer, _ = trained(JointSettings(steps=4, **settings))
        return trainer.moving[0].numpy()

    alone = statistics(synthetic_weight=0.0)
    np.testing.assert_allclose(statistics(), alone, rtol=1e-5)
    assert not np.allclose(statistics(batch_statistics="mixed"), alone, rtol=1e-3)
    assert not np.allclose(statistics(real_weight=0.0), alone, rtol=1e-3)


def test_without_a_gan_the_given_images_are_used():
    _, logs = trained(JointSettings(steps=4, real_weight=0.0))
    assert logs["real_loss"] == 0
    assert logs["synthetic_loss"] > 0
    with pytest.raises(ValueError, match="needs a GAN"):
        joint.new_trainer(SEGMENTER, JointSettings(steps=4, score="image"))


def test_the_segmenter_never_changes_the_gan_and_live_training_does():
    for live in (False, True):
        keras.utils.set_random_seed(0)
        model = gan.Pix2Pix(GAN)
        before = [weight.numpy() for weight in model.generator.trainable_variables]
        trained(JointSettings(steps=2, score="image", schedule="ramp", live=live), model, steps=2)
        same = [
            np.array_equal(old, new.numpy())
            for old, new in zip(before, model.generator.trainable_variables, strict=True)
        ]
        assert all(same) is not live


def test_what_the_discriminator_sees_changes_the_score():
    def score(**settings):
        keras.utils.set_random_seed(0)
        model = gan.Pix2Pix(GAN)
        _, logs = trained(JointSettings(steps=2, score="image", **settings), model)
        return logs["score_spread"]

    assert score() != score(discriminator_sees="real")


def test_replay_loads_the_snapshots_in_order(tmp_path):
    keras.utils.set_random_seed(0)
    model = gan.Pix2Pix(GAN)
    for number in (1, 2):
        for weight in model.generator_average.trainable_variables:
            weight.assign(tf.fill(weight.shape, float(number)))
        gan.save_snapshot(model, tmp_path, number)
    replay = joint.Replay(model, tmp_path, [1, 2], epochs=4)
    seen = []
    for epoch in range(4):
        replay.on_epoch_begin(epoch)
        seen.append(float(model.generator_average.trainable_variables[0].numpy().flat[0]))
    assert seen == [1, 1, 2, 2]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="schedule is 'linear'; choose constant or ramp"):
        JointSettings(steps=1, schedule="linear")
    with pytest.raises(ValueError, match="nothing to learn"):
        JointSettings(steps=1, real_weight=0.0, synthetic_weight=0.0)
