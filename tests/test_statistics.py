"""Tests and intervals against values known in closed form or by enumeration."""

import itertools

import numpy as np
import pytest
import scipy.stats

from synthseg import statistics


@pytest.mark.parametrize("count", [2, 5, 6, 10])
def test_permutation_smallest_p_value(count):
    differences = np.linspace(0.01, 0.02, count)
    assert statistics.paired_permutation_test(differences) == pytest.approx(2 / 2**count)
    assert statistics.paired_permutation_test(-differences) == pytest.approx(2 / 2**count)


def test_permutation_by_enumeration():
    differences = np.array([0.03, -0.01, 0.02, 0.05, -0.02, 0.01, 0.04])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    means = (signs * differences).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert statistics.paired_permutation_test(differences) == pytest.approx(expected)


def test_permutation_without_difference():
    assert statistics.paired_permutation_test(np.zeros(6)) == 1
    assert statistics.paired_permutation_test([1.0, -1.0, 2.0, -2.0]) == 1


def test_permutation_resampled_for_many_runs():
    differences = np.random.default_rng(0).normal(0.4, 1, size=30)
    p_value = statistics.paired_permutation_test(differences, seed=1)
    assert p_value == statistics.paired_permutation_test(differences, seed=1)
    assert p_value == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_bca_interval_of_symmetric_values_and_its_coverage():
    values = np.random.default_rng(0).normal(3, 1, size=400)
    interval = statistics.bca_interval(values, seed=0)
    half_width = 1.96 * values.std(ddof=1) / 20
    assert interval.estimate == interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.02)
    assert interval == statistics.bca_interval(values, seed=0)
    narrower = statistics.bca_interval(values, seed=0, confidence=0.5)
    assert interval.low < narrower.low < narrower.high < interval.high


@pytest.mark.parametrize("values", [[0.1, 0.3], [0.1, 0.1, 0.4]])
def test_bca_interval_of_few_values_is_finite(values):
    interval = statistics.bca_interval(values, seed=0)
    assert interval.low <= interval.estimate <= interval.high
    rounding = 1e-12
    assert min(values) - rounding <= interval.low
    assert interval.high <= max(values) + rounding


def test_bca_interval_of_equal_values():
    assert statistics.bca_interval([0.5] * 6, seed=0) == statistics.Interval(0.5, 0.5, 0.5)


def test_equivalence_by_hand():
    differences = np.array([-1.0, 0.0, 1.0])  # mean 0, standard error 1 / sqrt(3)
    margin = 2.0
    expected = scipy.stats.t.sf(margin * np.sqrt(3), df=2)
    assert statistics.equivalence_test(differences, margin) == pytest.approx(expected)
    assert statistics.equivalence_test(differences + 2, margin) == pytest.approx(0.5)
    assert statistics.equivalence_test(differences + 5, margin) > 0.9


def test_equivalence_without_spread():
    assert statistics.equivalence_test([0.001] * 6, 0.01) == 0
    assert statistics.equivalence_test([0.02] * 6, 0.01) == 1


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone
    adjusted = statistics.holm([0.04, 0.01, 0.03, 0.02])
    np.testing.assert_allclose(adjusted, [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(statistics.holm([0.9, 0.8]), [1, 1])
    assert statistics.holm([]).size == 0


@pytest.mark.parametrize("p_values", [[0.1, np.nan], [1.2], [-0.1]])
def test_holm_refuses_what_is_no_probability(p_values):
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm(p_values)


def test_interquartile_mean_ignores_the_outer_quarters():
    assert statistics.interquartile_mean([-100, 1, 2, 3, 4, 5, 6, 900]) == pytest.approx(3.5)
    assert statistics.interquartile_mean([[5, 1], [2, 6]]) == pytest.approx(3.5)


def test_interquartile_mean_interval():
    values = np.random.default_rng(0).normal(size=(12, 3)) * 0.01 + [0.5, 0.6, 0.7]
    interval = statistics.interquartile_mean_interval(values, seed=0)
    assert interval.estimate == statistics.interquartile_mean(values)
    assert interval.low < interval.estimate < interval.high
    # Stratified: the spread between conditions does not widen the interval.
    assert interval.high - interval.low < 0.03
    constant = statistics.interquartile_mean_interval(np.full(5, 0.4), seed=0)
    assert (constant.low, constant.high) == pytest.approx((0.4, 0.4))


def test_spearman_matches_scipy_and_is_seeded():
    rng = np.random.default_rng(0)
    first = rng.normal(size=40)
    second = first + rng.normal(size=40)
    cluster = np.arange(40)  # every point its own cluster: the usual bootstrap
    interval = statistics.cluster_bootstrap_spearman(first, second, cluster, seed=3)
    assert interval.estimate == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert interval.low < interval.estimate < interval.high
    assert interval == statistics.cluster_bootstrap_spearman(first, second, cluster, seed=3)


def test_spearman_of_monotone_quantities():
    first = np.arange(1, 13)
    cluster = np.repeat(["a", "b", "c"], 4)
    interval = statistics.cluster_bootstrap_spearman(first, -(first**3), cluster, seed=0)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((-1, -1, -1))


def test_spearman_copies_of_a_cluster_add_no_certainty():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 10))
    plain = statistics.cluster_bootstrap_spearman(first, second, np.arange(10), seed=0)
    copied = statistics.cluster_bootstrap_spearman(
        np.repeat(first, 5), np.repeat(second, 5), np.repeat(np.arange(10), 5), seed=0
    )
    assert copied.estimate == pytest.approx(plain.estimate)
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))


def test_spearman_refuses_what_has_no_interval():
    spearman = statistics.cluster_bootstrap_spearman
    with pytest.raises(ValueError, match="one cluster"):
        spearman([1, 2, 3], [1, 3, 2], ["run"] * 3, seed=0)
    with pytest.raises(ValueError, match="constant"):
        spearman([1, 1, 1], [1, 3, 2], [0, 1, 2], seed=0)
    with pytest.raises(ValueError, match="like its partner"):
        spearman([1, 2, 3], [1, 3], [0, 1, 2], seed=0)
    with pytest.raises(ValueError, match="one label per point"):
        spearman([1, 2, 3], [1, 3, 2], [0, 1], seed=0)


@pytest.mark.parametrize(
    "function",
    [
        statistics.paired_permutation_test,
        statistics.interquartile_mean,
        lambda values: statistics.bca_interval(values, seed=0),
        lambda values: statistics.equivalence_test(values, 0.01),
        lambda values: statistics.interquartile_mean_interval(values, seed=0),
    ],
)
def test_single_runs_and_failed_runs_are_refused(function):
    with pytest.raises(ValueError, match="more seeds"):
        function([0.8])
    with pytest.raises(ValueError, match="NaN"):
        function([0.8, np.nan])


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="margin"):
        statistics.equivalence_test([0.1, 0.2], 0)
    with pytest.raises(ValueError, match="confidence"):
        statistics.bca_interval([0.1, 0.2], seed=0, confidence=95)
    with pytest.raises(ValueError, match="list of numbers"):
        statistics.paired_permutation_test([[0.1, 0.2]])
    with pytest.raises(ValueError, match="conditions"):
        statistics.interquartile_mean_interval(np.zeros((2, 2, 2)), seed=0)
