"""The joint loss term by term, the arms' data, and the GAN beside the segmenter."""

from dataclasses import asdict, replace
from functools import lru_cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import gan, joint, masks, sampling
from synthseg.joint import ARMS, CONTRASTS
from synthseg.sampling import CropSettings
from synthseg.segmenter import SegmenterSettings, build_ritnet
from synthseg.volumes import Volume

SEGMENTER = SegmenterSettings(
    size=32, variant="half", channels=4, dropout=0.0, leak=0.3, lr=1e-3, schedule="cosine"
)
GAN = replace(gan.original_settings(width=4, size=32), norm="instance", noise="fresh")
CROPS = CropSettings(crop=40, size=32, batch=3, resize="area", augment="classical")
GAN_BATCH = joint.GANBatches(replace(CROPS, batch=2, augment="dihedral"), seed=50, per_step=2)
SEEDS = {"crops": 1, "other": 2, "compose": 3, "paste": 4}


@pytest.fixture(scope="module")
def volume():
    z, y, x = np.mgrid[:4, :96, :96]
    mask = ((y % 24 - 12) ** 2 + (x % 24 - 12) ** 2 < 30 + 10 * z).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 60, mask.shape)
    return Volume.create((180 - 100 * mask + noise).astype(np.uint8), mask, 5.0, "disks")


@pytest.fixture(scope="module")
def stream_of(volume):
    images, its_masks = sampling.at_network_scale(volume, CROPS)
    bank = masks.component_bank(images, its_masks, every=1)
    prior = masks.count_and_area(sampling.crop_arrays(volume, CROPS, 8, seed=9)[1])
    backgrounds = np.zeros((2, 32, 32, 1), np.float32)

    def stream(arm, first_step=0, gan_batch=None):
        given = (volume, CROPS, bank, prior, backgrounds, SEEDS.get)
        return joint.batches(arm, *given, first_step, gan_batch)

    return stream


def new_gan():
    keras.utils.set_random_seed(0)
    return gan.Pix2Pix(GAN, seed=5)


@lru_cache
def finished_gan():
    return new_gan()


@lru_cache
def segmenter():
    """One network for all trainers, since building takes longer than a step; its first weights."""
    keras.utils.set_random_seed(3)
    model = build_ritnet(SEGMENTER)
    return model, model.get_weights()


def new_trainer(arm, steps=4, model=None):
    """A trainer of an arm; the first weights are the same in all."""
    model = model or (finished_gan() if arm.generated else None)
    networks = (model.generator_average, model.discriminator) if model else None
    network, first_weights = segmenter()
    network.set_weights(first_weights)
    return joint.JointTrainer(network, SEGMENTER, arm, steps, 0.4, model, networks)


def after(trainer, stream, steps=1):
    """What was logged over some steps; eagerly, since tracing takes longer."""
    for batch in stream.take(steps):
        logs = trainer.train_step(batch)
    return {name: float(value) for name, value in logs.items()}


# The rule ------------------------------------------------------------------------------------


def test_ramp_and_constant_move_the_segmenter_equally():
    assert joint.mean_ramp("constant") == pytest.approx(1.05 * np.log(21) - 1, abs=1e-4)
    assert joint.mean_ramp("constant") == pytest.approx(2.197, abs=5e-4)
    assert joint.mean_ramp("cosine") == pytest.approx(1.730, abs=5e-4)
    moved = []
    for name in ("A6", "A7"):
        trainer = new_trainer(replace(ARMS[name], images="copy-paste"), steps=200)
        total = 0.0
        for step in range(200):
            trainer.optimizer.iterations.assign(step)
            total += float(trainer.optimizer.learning_rate * trainer.weight())
        moved.append(total)
    assert moved[1] == pytest.approx(moved[0], rel=0.01)


def test_the_loss_is_the_sum_of_its_terms(stream_of):
    logs = after(new_trainer(ARMS["A2"]), stream_of(ARMS["A2"]))
    assert logs["weight"] == pytest.approx(0.4 * joint.mean_ramp("cosine"))
    total = logs["real_loss"] + logs["weight"] * logs["synthetic_loss"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    ramped = after(new_trainer(ARMS["A7"]), stream_of(ARMS["A7"]))
    assert ramped["weight"] == 0  # at the first step
    assert ramped["loss"] == pytest.approx(ramped["real_loss"])
    alone = after(new_trainer(ARMS["A3"]), stream_of(ARMS["A3"]))  # synthetic images alone
    assert alone["real_loss"] == 0
    assert alone["synthetic_loss"] > 0
    assert "dice" not in alone


def test_scores_of_known_discriminators():
    def score(value):
        return float(joint.batch_score(tf.fill((2, 4, 4, 1), value)))

    assert score(1.0) == pytest.approx(1, abs=1e-6)
    assert score(0.0) == 0
    assert score(0.5) == pytest.approx(1 - np.log(2))  # the constant of about 0.3 of row 21
    probabilities = tf.constant([0.1, 0.2, 0.6])[:, None, None, None] * tf.ones((3, 2, 2, 1))
    scores = joint.image_scores(probabilities).numpy()
    assert scores.mean() == pytest.approx(1)
    np.testing.assert_allclose(scores / scores.sum(), [1 / 9, 2 / 9, 6 / 9], rtol=0.01)
    np.testing.assert_allclose(joint.image_scores(tf.zeros((4, 2, 2, 1))), 1)


def test_shuffled_scores_are_the_same_scores(stream_of):
    (_, mask), _ = next(iter(stream_of(ARMS["A8"])))
    mask = tf.concat([mask] * 4, axis=0)
    images = mask * tf.random.stateless_uniform((12, 1, 1, 1), (0, 1))
    scores = [new_trainer(ARMS[name]).score(mask, images).numpy() for name in ("A8", "A8shuffled")]
    assert not np.array_equal(*scores)
    np.testing.assert_array_equal(*map(np.sort, scores))


def test_the_mask_beside_an_image_changes_its_score(stream_of):
    own, other = (replace(ARMS["A8"], judged_beside=beside) for beside in ("composed", "real"))
    spreads = [after(new_trainer(arm), stream_of(arm))["score_spread"] for arm in (own, other)]
    assert spreads[0] != spreads[1]


def test_only_real_images_move_the_statistics_unless_mixed(stream_of):
    def statistics(arm):
        trainer = new_trainer(arm)
        after(trainer, stream_of(arm))
        return trainer.moving[0].numpy()

    alone = statistics(ARMS["A1"])
    np.testing.assert_allclose(statistics(ARMS["A2"]), alone, rtol=1e-5)
    assert not np.allclose(statistics(replace(ARMS["A2"], statistics="mixed")), alone, rtol=1e-3)
    assert not np.allclose(statistics(ARMS["A3"]), alone, rtol=1e-3)


# Arms and their data -------------------------------------------------------------------------


def changes(first, second):
    one, other = asdict(ARMS[first]), asdict(ARMS[second])
    return {name for name in one if name != "what" and one[name] != other[name]}


def test_arms_differ_in_one_thing_at_a_time():
    assert changes("A1", "A2") == {"images", "masks"}  # a second batch
    assert changes("A1", "A4real") == {"images", "masks"}
    whole = {("A1", "A3"), ("A8", "A1x2"), ("A1x2", "A8"), ("A8", "A9")}  # one thing for another
    for contrast in CONTRASTS:
        pair = (contrast.first, contrast.second)
        assert (len(changes(*pair)) == 1) is (pair not in whole), pair
    assert {contrast.claim for contrast in CONTRASTS} == {0, 2, 3, 7, 8, 9, 10}


def test_all_arms_see_the_same_real_crops_and_resume_in_the_same_place(stream_of):
    plain = list(stream_of(ARMS["A0"]).take(3).as_numpy_iterator())
    augmented = list(stream_of(ARMS["A1"]).take(3).as_numpy_iterator())
    # Data depend on these alone, so that one arm of each kind is enough.
    kinds = {(a.real, a.augment, a.images[:4], a.masks): name for name, a in ARMS.items()}
    for name in kinds.values():
        arm = ARMS[name]
        expected = plain if arm.augment == "none" else augmented
        gan_batch = GAN_BATCH if name == "live" else None
        stream = list(stream_of(arm, 0, gan_batch).take(3).as_numpy_iterator())
        image, mask = stream[2][0]
        np.testing.assert_array_equal(image[:3], expected[2][0][0])
        np.testing.assert_array_equal(mask[:3], expected[2][0][1])
        assert len(image) == (6 if name == "A1x2" else 3)
        resumed = next(stream_of(arm, 2, gan_batch).as_numpy_iterator())
        assert [len(part) for part in resumed] == [len(part) for part in stream[2]]
        for part, again in zip(tf.nest.flatten(stream[2]), tf.nest.flatten(resumed), strict=True):
            np.testing.assert_array_equal(part, again)
        if arm.images != "none":
            assert not np.array_equal(stream[0][1][1], stream[1][1][1])  # other masks each step


def test_second_batches_of_arms_are_matched(stream_of):
    names = ("A2", "A4", "A4real", "A5", "A8")
    second = {name: next(stream_of(ARMS[name]).as_numpy_iterator())[1] for name in names}
    np.testing.assert_array_equal(second["A2"][1], second["A5"][1])
    np.testing.assert_array_equal(second["A5"][1], second["A8"][1])
    np.testing.assert_array_equal(second["A4"][1], second["A4real"][1])
    images, its_masks = second["A2"]
    assert (images[its_masks == 0] == 0).all()  # the backgrounds
    assert (images[its_masks == 1] != 0).all()


def test_the_originals_masks_come_from_the_batch_itself(stream_of):
    for step, ((_, mask), (_, composed)) in enumerate(
        stream_of(ARMS["A9"]).take(2).as_numpy_iterator()
    ):
        expected = masks.compose_original(mask, (SEEDS["compose"], step))
        np.testing.assert_array_equal(composed, expected)


# The GAN -------------------------------------------------------------------------------------


def test_a_live_gan_learns_as_it_would_alone_whatever_the_segmenter_does(stream_of, volume):
    """Not one gradient of the segmenter reaches it, and it takes `per_step` steps a step."""
    live, alone = new_gan(), new_gan()
    arm = ARMS["live"]
    after(new_trainer(arm, model=live), stream_of(arm, 0, GAN_BATCH), steps=2)
    for batch in sampling.crops(volume, GAN_BATCH.cropping, GAN_BATCH.seed).take(4):
        alone.train_step(batch)
    assert int(live.g_optimizer.iterations) == 4
    for one, other in zip(live.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_batches_of_its_own_a_live_gan_learns_from_the_segmenters(stream_of):
    model = new_gan()
    after(new_trainer(ARMS["A9"], model=model), stream_of(ARMS["A9"]), steps=2)
    assert int(model.g_optimizer.iterations) == 2


def test_a_finished_gan_stays_as_it_is(stream_of):
    model = finished_gan()
    before = model.get_weights()
    trainer = new_trainer(ARMS["A8"], model=model)
    after(trainer, stream_of(ARMS["A8"]), steps=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    gan_variables = {id(variable) for variable in model.variables}
    assert not gan_variables & {id(variable) for variable in trainer.variables}


def test_replay_grows_the_gan_at_the_pace_of_a_live_one(tmp_path):
    model = new_gan()
    store = gan.Snapshots(tmp_path)
    store.set_model(model)
    first = model.generator_average.trainable_variables[0]
    for epoch in range(4):
        first.assign(tf.fill(first.shape, float(epoch + 1)))
        store.on_epoch_end(epoch)
    trainer = new_trainer(ARMS["A6"], model=model)
    for epochs, expected in ((2, [2, 4]), (4, [1, 2, 3, 4]), (8, [1, 1, 2, 2, 3, 3, 4, 4])):
        replay, seen = joint.Replay(trainer, tmp_path, epochs), []
        for epoch in range(epochs):
            replay.on_epoch_begin(epoch)
            seen.append(trainer.networks[0].trainable_variables[0].numpy().flat[0])
        assert seen == expected


def test_a_missing_gan_is_asked_for():
    with pytest.raises(ValueError, match="pass gan="):
        joint.JointTrainer(segmenter()[0], SEGMENTER, ARMS["live"], 4, 0.4)
    with pytest.raises(ValueError, match="needs networks="):
        joint.JointTrainer(segmenter()[0], SEGMENTER, ARMS["A5"], 4, 0.4)
