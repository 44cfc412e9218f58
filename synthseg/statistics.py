"""Tests and intervals for scores of repeated runs.

A run is repeated with several seeds, and the arms of a comparison share their seeds, so what is
tested is the difference of two arms, seed by seed. Chance in a single run (initialisation, crops,
GAN) is as large as many claimed improvements: a single run has no interval, and every function
here refuses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

_EXACT_UP_TO = 16  # 2**16 sign patterns are enumerated in well under a second
_RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes
    ----------
    estimate : float
        Mean, interquartile mean or correlation, according to the function that made it.
    low, high : float
        Ends of the confidence interval.
    """

    estimate: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The estimate, where it is a mean."""
        return self.estimate


def paired_permutation_test(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the mean paired difference, by flipping signs.

    If the two arms did not differ, each difference could as well have had the other sign. All sign
    patterns are enumerated for up to 16 differences (the p-value is then exact and `seed` is not
    used), and 9999 are drawn for more.

    Parameters
    ----------
    differences : array_like, shape (n,)
        Score of one arm minus score of the other, one value per seed.
    seed : int
        Seed of the drawn sign patterns.

    Returns
    -------
    float
        p-value, never below ``2 / 2**n``: with 5 seeds it cannot fall below 0.0625.

    Raises
    ------
    ValueError
        If there are fewer than two differences, or one is not finite.

    Examples
    --------
    >>> paired_permutation_test([0.02, 0.01, 0.03, 0.02, 0.04, 0.01])
    0.03125
    """
    values = _checked(differences, "differences")
    result = scipy.stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        alternative="two-sided",
        n_resamples=np.inf if len(values) <= _EXACT_UP_TO else _RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def bca_interval(values: ArrayLike, seed: int, confidence: float = 0.95) -> Interval:
    """Mean with its bias-corrected and accelerated (BCa) bootstrap interval.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value per seed, for example paired differences. With few seeds (below about 10) a
        bootstrap interval is somewhat too narrow.
    seed : int
        Seed of the resampling.
    confidence : float
        Confidence level, between 0 and 1.

    Returns
    -------
    Interval
        Of no width if all values are equal.

    Raises
    ------
    ValueError
        If there are fewer than two values, one is not finite, or the level is not in (0, 1).
    """
    sample = _checked(values, "values")
    _check_confidence(confidence)
    mean = float(sample.mean())
    if _constant(sample):  # the acceleration is 0 / 0
        return Interval(mean, mean, mean)
    result = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        method="BCa",
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, *(float(end) for end in result.confidence_interval))


def equivalence_test(differences: ArrayLike, margin: float) -> float:
    """p-value of two one-sided t-tests (TOST) that the mean difference is within the margin.

    A small value supports *equivalence*, ``-margin < mean < margin``. That is another statement
    than a large p-value of a test for a difference, which may only mean too few seeds.

    Parameters
    ----------
    differences : array_like, shape (n,)
        Paired differences, one per seed.
    margin : float
        Largest difference that does not matter, in the unit of the differences; above 0.

    Returns
    -------
    float
        The larger of the two one-sided p-values.

    Raises
    ------
    ValueError
        If there are fewer than two differences, one is not finite, or the margin is not above 0.
    """
    values = _checked(differences, "differences")
    if not margin > 0:
        raise ValueError(f"margin must be above 0, not {margin}.")
    if _constant(values):  # no spread: the t statistic is infinite
        return 0.0 if abs(values[0]) < margin else 1.0
    above = scipy.stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment of p-values for testing several claims.

    Parameters
    ----------
    p_values : array_like, shape (n,)
        p-values of all claims of the family, in any order.

    Returns
    -------
    ndarray, shape (n,), float64
        Adjusted p-values in the same order; comparing them with a level keeps the probability of
        any false claim below that level.

    Raises
    ------
    ValueError
        If a value is not between 0 and 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must be a list of numbers between 0 and 1, not {values}.")
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return adjusted


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of all values: a quarter is cut off at each end.

    Less swayed by a failed run than the mean, and less wasteful than the median.

    Parameters
    ----------
    values : array_like
        Scores, of any shape; all are pooled.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there are fewer than two values, or one is not finite.
    """
    return float(scipy.stats.trim_mean(_checked(np.ravel(values), "values"), 0.25))


def interquartile_mean_interval(values: ArrayLike, seed: int, confidence: float = 0.95) -> Interval:
    """Interquartile mean with its stratified percentile bootstrap interval.

    Parameters
    ----------
    values : array_like, shape (n,) or (n, conditions)
        One row per seed. With several conditions (such as amounts of labelled data), seeds are
        resampled within each, so that every resample holds all conditions equally often.
    seed : int
        Seed of the resampling.
    confidence : float
        Confidence level, between 0 and 1.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If there are fewer than two rows, a value is not finite, or the level is not in (0, 1).
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    if table.ndim != 2:
        raise ValueError(f"values must have the shape (n,) or (n, conditions), not {table.shape}.")
    for condition in table.T:
        _checked(condition, "values")
    _check_confidence(confidence)
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(table), size=(_RESAMPLES, *table.shape))
    resampled = table[picked, np.arange(table.shape[1])].reshape(_RESAMPLES, -1)
    means = scipy.stats.trim_mean(resampled, 0.25, axis=1)
    return Interval(interquartile_mean(table), *_percentile_ends(means, confidence))


def cluster_bootstrap_spearman(
    first: ArrayLike,
    second: ArrayLike,
    cluster: Sequence | np.ndarray,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Spearman's rank correlation with an interval that respects clusters of points.

    Points of one cluster (checkpoints of one GAN run, say) resemble each other, so that whole
    clusters are resampled, not points. The interval is that of percentiles.

    Parameters
    ----------
    first, second : array_like, shape (n,)
        The two quantities, such as Fréchet distance and Dice.
    cluster : sequence, shape (n,)
        Label of the cluster of each point.
    seed : int
        Seed of the resampling.
    confidence : float
        Confidence level, between 0 and 1.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If the lengths differ, there are fewer than two clusters, a value is not finite, one
        quantity is constant, or the level is not in (0, 1).
    """
    pair = np.stack([_checked(first, "first"), _checked(second, "second", len(np.ravel(first)))])
    labels = np.asarray(cluster)
    if labels.shape != pair[0].shape:
        raise ValueError(f"cluster needs one label per point: {pair.shape[1]}, not {labels.shape}.")
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(members) < 2:
        raise ValueError("All points are of one cluster: an interval needs at least two.")
    if (np.ptp(pair, axis=1) == 0).any():
        raise ValueError("A constant quantity has no rank correlation.")
    _check_confidence(confidence)
    rng = np.random.default_rng(seed)
    correlations = []
    for _ in range(_RESAMPLES):
        picked = rng.integers(len(members), size=len(members))
        resampled = pair[:, np.concatenate([members[index] for index in picked])]
        # A resample in which one quantity is constant has no correlation and is left out.
        if (np.ptp(resampled, axis=1) > 0).all():
            correlations.append(_spearman(resampled))
    if not correlations:
        raise ValueError("The clusters do not vary enough within or between them to resample.")
    return Interval(_spearman(pair), *_percentile_ends(np.array(correlations), confidence))


def _spearman(pair: np.ndarray) -> float:
    return float(np.corrcoef(scipy.stats.rankdata(pair, axis=1))[0, 1])


def _percentile_ends(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _checked(values: ArrayLike, name: str, length: int | None = None) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, not an array of shape {sample.shape}.")
    if length is not None and len(sample) != length:
        raise ValueError(f"{name} must have {length} values like its partner, not {len(sample)}.")
    if len(sample) < 2:
        raise ValueError(
            f"{name} has {len(sample)} value(s), but a test or interval needs at least two: "
            "repeat the run with more seeds."
        )
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} holds NaN or infinite values: leave out or repeat those runs.")
    return sample


def _constant(sample: np.ndarray) -> bool:
    """Whether the values differ by no more than rounding, so that their spread says nothing."""
    return bool(np.ptp(sample) <= 1e-12 * np.abs(sample).max())


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}.")
