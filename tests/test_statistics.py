"""Tests and intervals against values known in closed form, by enumeration or by simulation."""

import itertools

import numpy as np
import pytest
import scipy.stats

from synthseg import statistics

SPEARMAN = statistics.spearman_interval


def test_t_interval_by_hand():
    interval = statistics.t_interval([1.0, 2.0, 3.0])  # mean 2, standard error 1 / sqrt(3)
    half = 4.302653 / np.sqrt(3)  # the tabulated quantile for 2 degrees of freedom
    assert (interval.estimate, interval.low, interval.high) == pytest.approx(
        (2, 2 - half, 2 + half), rel=1e-6
    )
    assert statistics.t_interval([0.5] * 6) == statistics.Interval(0.5, 0.5, 0.5)


@pytest.mark.long
def test_t_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [statistics.t_interval(rng.normal(0.3, 1, 10), 0.9) for _ in range(4000)]
    assert np.mean([each.low < 0.3 < each.high for each in intervals]) == pytest.approx(
        0.9, abs=0.015
    )


@pytest.mark.parametrize("count", [2, 5, 6, 10, 16])
def test_sign_flip_smallest_p_value(count):
    differences = np.linspace(0.01, 0.02, count)
    assert statistics.sign_flip_test(differences) == pytest.approx(2 / 2**count)
    assert statistics.sign_flip_test(-differences) == pytest.approx(2 / 2**count)


def test_sign_flip_by_enumeration():
    differences = np.array([0.03, -0.01, 0.02, 0.05, -0.02, 0.01, 0.04])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    means = (signs * differences).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert statistics.sign_flip_test(differences) == pytest.approx(expected)
    assert statistics.sign_flip_test(np.zeros(6)) == 1


def test_sign_flip_drawn_for_many_runs():
    differences = np.random.default_rng(0).normal(0.4, 1, size=30)
    p_value = statistics.sign_flip_test(differences, seed=1)
    assert p_value == statistics.sign_flip_test(differences, seed=1)
    assert p_value == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_equivalence_by_hand():
    differences = np.array([-1.0, 0.0, 1.0])  # mean 0, standard error 1 / sqrt(3)
    expected = scipy.stats.t.sf(2 * np.sqrt(3), df=2)
    assert statistics.equivalence_test(differences, 2.0) == pytest.approx(expected)
    assert statistics.equivalence_test(differences + 2, 2.0) == pytest.approx(0.5)
    assert statistics.equivalence_test(differences + 5, 2.0) > 0.9


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone
    adjusted = statistics.holm([0.04, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(adjusted, [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(statistics.holm([0.5, 0.6]), [1, 1])


def dice(counts: np.ndarray) -> np.ndarray:
    hits, false_positives, false_negatives = np.moveaxis(counts, -1, 0)
    return 2 * hits / (2 * hits + false_positives + false_negatives)


def test_tissue_interval_by_enumeration():
    """All 27 draws of three blocks, and all four of two seeds."""
    first, second = np.random.default_rng(0).integers(1, 40, (2, 2, 3, 3))
    differences = [
        np.mean([dice(first[i, blocks].sum(0)) - dice(second[i, blocks].sum(0)) for i in seeds])
        for blocks in map(list, itertools.product(range(3), repeat=3))
        for seeds in itertools.product(range(2), repeat=2)
    ]
    interval = statistics.tissue_interval(first, second, seed=0)
    assert interval.estimate == pytest.approx((dice(first.sum(1)) - dice(second.sum(1))).mean())
    # Two seeds: t = 12.7 reaches beyond all resamples.
    assert (interval.low, interval.high) == pytest.approx((min(differences), max(differences)))
    half = statistics.tissue_interval(first, second, seed=0, confidence=0.5)  # t = 1 at a half
    share = scipy.stats.norm.cdf(np.sqrt(2))
    expected = np.quantile(differences, [1 - share, share], method="inverted_cdf")
    assert (half.low, half.high) == pytest.approx(expected, abs=1e-3)


def test_tissue_interval_of_equal_seeds_does_not_shrink():
    """Copies of a seed bring no tissue, so the interval stays that of the blocks."""
    one = np.random.default_rng(1).integers(1, 40, (2, 1, 8, 3))
    few, many = (statistics.tissue_interval(*one.repeat(n, axis=1), seed=0) for n in (8, 40))
    assert few.estimate == pytest.approx(many.estimate)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=0.01)
    assert few.high - few.low > 0.1


def test_tissue_interval_of_equal_blocks_is_that_of_seeds():
    rng = np.random.default_rng(2)
    hits = rng.integers(500, 600, (2, 12, 1))
    counts = np.stack([hits, 1000 - hits, 1000 - hits], axis=-1).repeat(12, axis=2)
    interval = statistics.tissue_interval(*counts, seed=0)
    expected = statistics.t_interval((hits[0] - hits[1]).ravel() / 1000)
    assert interval.estimate == pytest.approx(expected.estimate)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.005)


@pytest.mark.long
@pytest.mark.parametrize(("tissue", "chance"), [(0.1, 0.01), (0.03, 0.03), (0.01, 0.05)])
def test_tissue_interval_covers_as_often_as_it_says(tissue, chance):
    """Blocks of unlike size and difficulty; the gain varies over blocks, seeds and both."""

    def volume(rng: np.random.Generator, seeds: int, blocks: int) -> np.ndarray:
        size = rng.lognormal(5, 0.5, (1, 1, blocks))
        difficulty = rng.normal(0, 0.1, (1, 1, blocks))
        gain = 0.05 + rng.normal(0, tissue, (1, 1, blocks)) + rng.normal(0, chance, (1, seeds, 1))
        recall = 0.7 + difficulty + np.concatenate([gain, 0 * gain])
        recall = np.clip(recall + rng.normal(0, 0.03, (2, seeds, blocks)), 0.05, 0.95)
        return np.stack([size * recall, size * (1 - recall), size * (1 - recall)], axis=-1)

    first, second = volume(np.random.default_rng(1), 1000, 3000)
    truth = (dice(first.sum(1)) - dice(second.sum(1))).mean()
    rng = np.random.default_rng(0)
    intervals = [
        statistics.tissue_interval(*volume(rng, 10, 30), seed=0, resamples=500) for _ in range(400)
    ]
    assert np.mean([each.low < truth < each.high for each in intervals]) > 0.92


def test_spearman_matches_scipy_and_is_seeded():
    rng = np.random.default_rng(0)
    first = rng.normal(size=40)
    second = first + rng.normal(size=40)
    interval = SPEARMAN(first, second, np.arange(40), seed=3)  # every point its own cluster
    assert interval.estimate == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert interval.low < interval.estimate < interval.high
    assert interval == SPEARMAN(first, second, np.arange(40), seed=3)
    monotone = SPEARMAN(np.arange(12), -(np.arange(12) ** 3), np.repeat(["a", "b", "c"], 4), seed=0)
    assert (monotone.estimate, monotone.low, monotone.high) == pytest.approx((-1, -1, -1))


def test_spearman_copies_of_a_point_add_no_certainty():
    first, second = np.random.default_rng(1).normal(size=(2, 10))
    plain = SPEARMAN(first, second, np.arange(10), seed=0)
    copied = SPEARMAN(first.repeat(5), second.repeat(5), np.arange(10).repeat(5), seed=0)
    assert copied.estimate == pytest.approx(plain.estimate)
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))


@pytest.mark.parametrize(
    "function",
    [
        statistics.t_interval,
        statistics.sign_flip_test,
        lambda values: statistics.equivalence_test(values, 0.01),
        lambda values: SPEARMAN(values, values, [0] * len(values), seed=0),
    ],
)
def test_single_runs_and_failed_runs_are_refused(function):
    with pytest.raises(ValueError, match="more seeds"):
        function([0.8])
    with pytest.raises(ValueError, match="NaN"):
        function([0.8, np.nan])


def test_what_has_no_interval_is_refused():
    with pytest.raises(ValueError, match="one cluster"):
        SPEARMAN([1, 2, 3], [1, 3, 2], ["run"] * 3, seed=0)
    with pytest.raises(ValueError, match="constant"):
        SPEARMAN([1, 1, 1], [1, 3, 2], [0, 1, 2], seed=0)
    with pytest.raises(ValueError, match="two seeds and two blocks"):
        statistics.tissue_interval(np.ones((1, 5, 3)), np.ones((1, 5, 3)), seed=0)
