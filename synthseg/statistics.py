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


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def t_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of paired differences, one per seed, with Student's t interval.

    It covers the mean over *seeds*: what another training run would give on the same tissue.
    """
    values = _seeds(differences)
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def sign_flip_test(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the mean paired difference, by flipping signs.

    If the two arms did not differ, each difference could as well have had the other sign. All
    2^n patterns of signs are tried for up to 16 differences, so p is exact and at least 2 / 2^n
    (0.0625 for 5 seeds, 0.002 for 10); for more, 9999 patterns are drawn by `seed`.
    """
    values = _seeds(differences)
    result = scipy.stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf if len(values) <= 16 else 9999,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def equivalence_test(differences: ArrayLike, margin: float) -> float:
    """p-value of two one-sided t-tests (TOST) that the mean difference is within +-margin.

    A small value supports *equivalence*. That is another statement than a large p-value of a test
    for a difference, which may only mean too few seeds.
    """
    values = _seeds(differences)
    above = scipy.stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment of the p-values of several claims, in the same order.

    Comparing the adjusted values with a level keeps the probability of *any* false claim below it:
    the smallest p-value is multiplied by the number of claims n, the next one by n - 1, and so on.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    factors = np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return adjusted


def tissue_interval(
    first: ArrayLike,
    second: ArrayLike,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Difference of pooled Dice, with a bootstrap interval over seeds and blocks of tissue.

    The t interval takes the test volume as it is. This one asks as well how the difference would
    vary in other tissue *of the same specimen*: it says nothing about another animal.

    All runs are tested on the same volume, so a hard block is hard for every seed: seeds and blocks
    are crossed, not nested. Each resample therefore draws the blocks once, and uses them for all
    seeds and both arms. Drawn anew for each seed, the blocks would average out, as if more seeds
    had brought more tissue. Seeds are drawn independently of the blocks; a seed brings both of its
    arms, for they are paired. The interval is slightly wide where seeds differ on which blocks
    they fail (Owen 2007, the pigeonhole bootstrap).

    Parameters
    ----------
    first, second : array_like, shape (seeds, blocks, 3)
        True positives, false positives and false negatives of the two arms. A block should be as
        large as tissue is correlated (a mitochondrion, or more), or the interval is too narrow.
    seed : int
        Seed of the resampling.
    confidence : float
        Confidence level.
    resamples : int
        Number of resamples.

    Returns
    -------
    Interval
        The estimate is the mean over seeds of the Dice pooled over all blocks, first minus second.
        The ends are percentiles of the resamples, expanded as few seeds or blocks need it, by what
        a t interval of so many values is wider than a normal one (Hesterberg 2015).
    """
    counts = np.stack([np.asarray(arm, dtype=np.float64) for arm in (first, second)])
    if counts.ndim != 4 or counts.shape[-1] != 3 or min(counts.shape[1:3]) < 2:
        raise ValueError(
            f"The counts have the shape {counts.shape[1:]}: it must be (seeds, blocks, 3), with at "
            "least two seeds and two blocks."
        )
    rng = np.random.default_rng(seed)
    seeds, blocks = counts.shape[1:3]
    times = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    differences = _dice_differences(np.einsum("asbc,rb->arsc", counts, times))
    chosen = rng.integers(seeds, size=(resamples, seeds))
    drawn = np.take_along_axis(differences, chosen, axis=1).mean(axis=1)
    fewer = min(seeds, blocks)
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, fewer - 1) * np.sqrt(fewer / (fewer - 1))
    low, high = _percentiles(drawn, 2 * scipy.stats.norm.cdf(quantile) - 1)
    estimate = _dice_differences(counts.sum(axis=2)).mean()
    return Interval(float(estimate), float(low), float(high))


def spearman_interval(
    first: ArrayLike,
    second: ArrayLike,
    cluster: Sequence | np.ndarray,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Spearman's rank correlation with a bootstrap interval that respects clusters of points.

    Points of one cluster (snapshots of one GAN, say) resemble each other, so whole clusters are
    resampled, not points. A resample in which one quantity is constant has no correlation and is
    left out.
    """
    pair, labels = np.stack([_seeds(first), _seeds(second)]), np.asarray(cluster)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(members) < 2:
        raise ValueError("All points are of one cluster: an interval needs at least two.")
    if (np.ptp(pair, axis=1) == 0).any():
        raise ValueError("A constant quantity has no rank correlation.")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(9999):
        picked = rng.integers(len(members), size=len(members))
        resampled = pair[:, np.concatenate([members[index] for index in picked])]
        if (np.ptp(resampled, axis=1) > 0).all():
            drawn.append(_spearman(resampled))
    low, high = _percentiles(drawn, confidence)
    return Interval(_spearman(pair), float(low), float(high))


def _dice_differences(counts: np.ndarray) -> np.ndarray:
    """Dice of the first arm minus that of the second, (..., seeds), from (2, ..., seeds, 3)."""
    hits, false_positives, false_negatives = np.moveaxis(counts, -1, 0)
    first, second = 2 * hits / (2 * hits + false_positives + false_negatives)
    return first - second


def _spearman(pair: np.ndarray) -> float:
    return float(np.corrcoef(scipy.stats.rankdata(pair, axis=1))[0, 1])


def _percentiles(values: Sequence[float] | np.ndarray, confidence: float) -> np.ndarray:
    """The two ends between which this share of the values lies."""
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])


def _seeds(values: ArrayLike) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(
            f"Values of shape {sample.shape}: a test or an interval needs a list of at least two. "
            "Repeat the run with more seeds."
        )
    if not np.isfinite(sample).all():
        raise ValueError("A value is NaN or infinite: repeat that run.")
    return sample
