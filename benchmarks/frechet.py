"""Fréchet distance: the module, the textbook formula with SciPy, and torch-fidelity."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np

from benchmarks import examples
from benchmarks.networks import Torch
from benchmarks.timing import Budget, Contender, Prepared, Row, Summary, Worker, interleave


def _two_sets(count: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    return examples.features(count, dimensions, 0), examples.features(count, dimensions, 1)


def ours(count: int, dimensions: int) -> Prepared:
    from synthseg.frechet import frechet_distance

    sets = _two_sets(count, dimensions)
    return Prepared(lambda: frechet_distance(*sets))


def with_sqrtm(count: int, dimensions: int) -> Prepared:
    """Means, covariances, and the square root of their product."""
    from scipy.linalg import sqrtm

    first, second = _two_sets(count, dimensions)

    def call() -> float:
        difference = first.mean(axis=0) - second.mean(axis=0)
        covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # singular where there are fewer vectors than values
            root = sqrtm(covariances[0] @ covariances[1])
        traces = sum(float(np.trace(covariance)) for covariance in covariances)
        return float(difference @ difference + traces - 2 * np.trace(root).real)

    return Prepared(call)


def torch_fidelity(count: int, dimensions: int) -> Prepared:
    """The distance of torch-fidelity from features, as its users get it.

    The package imports torchvision for its networks; the distance needs nothing of it.
    """
    parts = ("", ".datasets", ".models", ".transforms", ".transforms.functional")
    stand_ins = {f"torchvision{part}": MagicMock() for part in parts}
    sys.modules.update(stand_ins)
    from torch_fidelity import metric_fid

    for name in stand_ins:
        del sys.modules[name]
    import torch

    first, second = (torch.from_numpy(each) for each in _two_sets(count, dimensions))

    def call() -> float:
        statistics = [metric_fid.fid_features_to_statistics(each) for each in (first, second)]
        result = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        return float(result[metric_fid.KEY_METRIC_FID])

    return Prepared(call)


def _case(
    tensorflow: Worker,
    plain: Worker,
    torch: Torch | None,
    count: int,
    dimensions: int,
    budget: Budget,
    progress: Callable[[str], None],
) -> list[Row]:
    topic = f"Fréchet distance, d = {dimensions}, n = {count}"
    options = {"count": count, "dimensions": dimensions}
    contenders = {
        "ours": Contender(tensorflow, "frechet:ours", options, calls=1),
        "sqrtm": Contender(plain, "frechet:with_sqrtm", options, heavy=True),
    }
    if torch is not None:
        name = "torch-fidelity"
        contenders[name] = Contender(torch.sleeping, "frechet:torch_fidelity", options, heavy=True)
    times = interleave(contenders, budget, lambda text: progress(f"{topic}: {text}"))
    rows = [Row(topic, name, times.summary(name), "s") for name in times.seconds]
    rows += [Row(topic, name, None, "s", note=why) for name, why in times.failed.items()]
    for name in contenders:
        if name == "ours" or name not in times.seconds:
            continue
        target = 10.0 if name == "sqrtm" and count < dimensions else None
        rows.append(Row(topic, f"{name} / ours", times.ratio(name, "ours"), "x", target))
        difference = abs(times.results["ours"] / times.results[name] - 1)
        rows.append(
            Row(
                topic,
                f"relative difference from {name}",
                Summary(difference, difference, difference),
                "",
                at_most=1e-6,
                note=f"value {times.results['ours']:.6g}",
            )
        )
    return rows


def measure(
    tensorflow: Worker,
    plain: Worker,
    torch: Torch | None,
    budget: Budget,
    progress: Callable[[str], None],
) -> list[Row]:
    """Rows of the table, for the feature lengths of EfficientNet-lite0 and InceptionV3."""
    budget = replace(budget, rounds=min(budget.rounds, 2 if budget.quick else 5), warm_up=1)
    rows = []
    for dimensions in (1280,) if budget.quick else (1280, 2048):
        for count in (512,) if budget.quick else (512, 5000):
            rows += _case(tensorflow, plain, torch, count, dimensions, budget, progress)
    return rows
