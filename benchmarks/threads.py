"""Two trainings on one machine: one after the other, or side by side."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Budget, Row, Summary, Worker

STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "segmenter step, batch 8": ("ours:segmenter_step", {"batch": 8}),
    "GAN step, resize decoder": ("ours:gan_step", {"batch": 8, "width": 32, "decoder": "resize"}),
}
CALLS = 8
"""Steps in a turn: enough that two turns side by side overlap nearly all the time."""


class Pair(NamedTuple):
    """Two workers with the same number of threads."""

    first: Worker
    second: Worker


def _turn(workers: tuple[Worker, ...]) -> float:
    """Seconds for one step of each worker, all at work at the same time."""
    with ThreadPoolExecutor(len(workers)) as pool:
        times = pool.map(lambda worker: worker.time("step", CALLS), workers)
        return float(np.mean([np.median(seconds) for seconds in times]))


def measure(
    single: Pair, every: Pair, budget: Budget, progress: Callable[[str], None]
) -> list[Row]:
    """Rows of the table: one or two processes, each with one thread or with one for each core."""
    ways: dict[str, tuple[Worker, ...]] = {
        "one, all cores": every[:1],
        "one, one thread": single[:1],
        "two side by side, one thread each": single,
        "two side by side, all cores each": every,
    }
    rng = np.random.default_rng(budget.seed)
    rows = []
    for topic, (maker, options) in STEPS.items():
        for worker in (*single, *every):
            worker.prepare("step", maker, **options)
            worker.time("step", budget.warm_up)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(budget.rounds):
            for name in rng.permutation(list(ways)).tolist():
                progress(f"{topic}: round {number + 1} of {budget.rounds}: {name}")
                times[name].append(_turn(ways[name]))
        for worker in (*single, *every):
            worker.forget()
        seconds = {name: np.array(values) for name, values in times.items()}
        rows += [Row(topic, name, Summary.of(value), "s") for name, value in seconds.items()]
        one_after_the_other = 2 * seconds["one, all cores"]
        for name in list(ways)[2:]:
            ratio = Summary.of(one_after_the_other / seconds[name])
            rows.append(Row(topic, f"one after the other / {name}", ratio, "x"))
    return rows
