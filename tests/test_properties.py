"""What must hold for every input, tried on many that Hypothesis makes up, the same in every run."""

import math

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from synthseg import frechet, masks, metrics, sampling
from synthseg.sampling import CropSettings
from synthseg.volumes import Volume


def examples(number, /, **strategies):
    """Try a property on so many examples."""
    # Looking for a simpler failure takes minutes, and most of these are simple already.
    phases = (Phase.explicit, Phase.generate)
    chosen = settings(
        max_examples=number, derandomize=True, deadline=None, database=None, phases=phases
    )
    return lambda function: chosen(given(**strategies)(function))


def planes(side, count=(1, 4)):
    """Masks (n, side, side, 1), float32 in {0, 1}."""
    shape = st.integers(*count).map(lambda n: (n, side, side, 1))
    return arrays(np.float32, shape, elements=st.sampled_from([np.float32(0), np.float32(1)]))


SEEDS = st.integers(0, 2**32 - 1)
PAIRS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(planes(5, (n, n)), planes(5, (n, n)), st.permutations(range(n)))
)


@examples(
    4,
    shape=st.tuples(st.integers(1, 4), st.integers(16, 30), st.integers(16, 30)),
    sides=st.tuples(st.integers(1, 16), st.integers(1, 16)).map(sorted),
    batch=st.integers(1, 3),
    resize=st.sampled_from(["area", "nearest"]),
    augment=st.sampled_from(["none", "dihedral", "classical"]),
    seed=st.integers(0, 4_000_000_000),
    first_step=st.integers(0, 3),
)
def test_crops_follow_from_seed_and_step(shape, sides, batch, resize, augment, seed, first_step):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    volume = Volume.create(noise, noise > 128, 5, "noise")
    size, crop = sides
    chosen = CropSettings(crop, size, batch, resize, augment)
    stream = list(sampling.crops(volume, chosen, seed).take(4).as_numpy_iterator())
    for images, foreground in stream:
        assert images.shape == foreground.shape == (batch, size, size, 1)
        assert images.dtype == foreground.dtype == np.float32
        assert (np.abs(images) <= 1).all()
        assert np.isin(foreground, (0, 1)).all()
    resumed = next(sampling.crops(volume, chosen, seed, first_step).as_numpy_iterator())
    np.testing.assert_array_equal(resumed, stream[first_step])


@examples(40, pairs=PAIRS)
def test_counts_add_up_and_scores_are_symmetric(pairs):
    prediction, target, order = pairs
    counts = metrics.count(prediction, target)
    dice, iou = counts.dice(), counts.iou()
    scored = ~np.isnan(dice)
    np.testing.assert_array_equal(scored, (prediction + target).any(axis=(1, 2, 3)))
    assert ((dice[scored] >= 0) & (dice[scored] <= 1)).all()
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou))
    np.testing.assert_array_equal(metrics.count(target, prediction).dice(), dice)
    np.testing.assert_array_equal(
        metrics.count(prediction[order], target[order]).dice(), dice[order]
    )
    # One image of all slices side by side has the pooled score.
    side_by_side = metrics.count(prediction.reshape(1, -1, 5), target.reshape(1, -1, 5))
    np.testing.assert_array_equal(counts.pooled().dice(), side_by_side.dice())
    perfect = metrics.count(target, target).dice()
    assert (perfect[target.any(axis=(1, 2, 3))] == 1).all()


@examples(
    30,
    areas=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    real=planes(16, (1, 3)),
    count=st.integers(0, 4),
    seed=SEEDS,
)
def test_composed_masks_add_nothing(areas, real, count, seed):
    greys = np.linspace(-1, -0.5, len(areas), dtype=np.float32)
    bank = [
        masks.Component(np.ones((1, area), bool), np.full((1, area), grey))
        for area, grey in zip(areas, greys, strict=True)
    ]
    composed = masks.compose(bank, masks.count_and_area(real), 16, count, seed)
    assert composed.masks.shape == composed.pixels.shape == (count, 16, 16, 1)
    assert np.isin(composed.masks, (0, 1)).all()
    assert (composed.pixels[composed.masks == 0] == 0).all()
    assert np.isin(composed.pixels[composed.masks == 1], greys).all()
    asked = min(len(bank), int(masks.count_and_area(real)[0].max()))
    assert (masks.count_and_area(composed.masks)[0] <= asked).all()
    assert (composed.masks.sum(axis=(1, 2, 3)) <= sum(sorted(areas)[len(areas) - asked :])).all()


def test_composing_from_nothing_is_refused():
    component = masks.Component(np.ones((1, 1), bool), np.ones((1, 1)))
    with pytest.raises(ValueError, match="there is none"):
        masks.compose([component], masks.count_and_area(np.zeros((0, 16, 16, 1))), 16, 1, 0)


@examples(40, sizes=st.tuples(st.integers(2, 8), st.integers(2, 8), st.integers(1, 6), SEEDS))
def test_distances_are_symmetric(sizes):
    count, other_count, length, seed = sizes
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(count, length)), 3 * rng.normal(size=(other_count, length)) + 1
    for distance in (frechet.frechet_distance, frechet.kernel_distance):
        forward = distance(first, second)
        assert math.isfinite(forward)
        assert forward == pytest.approx(distance(second, first), rel=1e-9, abs=1e-9)
    assert frechet.frechet_distance(first, rng.permutation(first)) == pytest.approx(0, abs=1e-7)
    assert frechet.frechet_distance(first, first + 2) == pytest.approx(4 * length)
