"""Interleaved timing of contenders that live in worker processes.

TensorFlow and PyTorch each get a process of their own, because their thread pools get into each
other's way inside one. The parent drives the workers alternately over pipes: only one computes at
a time, with all cores, and the order is shuffled anew in each round. A machine that becomes slower
for a while then slows all contenders, so ratios within a round are steadier than the times.
"""

import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np


class Summary(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Summary":
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


class Row(NamedTuple):
    """One line of the table: a time (unit ``s``), the ratio of two (``x``), or why none."""

    topic: str
    name: str
    summary: Summary | None
    unit: str
    note: str = ""


def _serve(pipe: Connection) -> None:
    """Loop of a worker process: build a contender, or time one."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries report while they start
    contenders: dict[str, Callable[[], Any]] = {}
    while True:
        try:
            name, work = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            if isinstance(work, int):
                seconds = []
                for _ in range(work):
                    begun = time.perf_counter()
                    contenders[name]()
                    seconds.append(time.perf_counter() - begun)
                pipe.send(seconds)
            elif work is None:
                contenders.clear()
                pipe.send([])
            else:
                module, maker, options = work
                made = importlib.import_module(f"benchmarks.{module}")
                contenders[name] = getattr(made, maker)(**options)
                pipe.send([])
        except Exception:
            pipe.send(traceback.format_exc())


class Worker:
    """A process that holds contenders and runs them on demand."""

    def __init__(self, **environment: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,), daemon=True)
        with patch.dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", **environment):
            process.start()
        other.close()

    def ask(self, name: str, work: Any) -> list[float]:
        """Let it build (module, maker, options), time a number of calls, or forget all (None)."""
        self._pipe.send((name, work))
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("The worker process died, mostly for lack of memory.") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


class Contender(NamedTuple):
    """What is to be timed: a maker (``module:function``), whose result is called, in a worker."""

    worker: Worker
    maker: str
    options: Mapping[str, Any] = {}


class Times(NamedTuple):
    """Seconds a call of each contender, (rounds,) in the order of rounds; and what failed."""

    seconds: dict[str, np.ndarray]
    failed: dict[str, str]

    def ratio(self, slower: str, faster: str) -> Summary:
        """How many times longer one takes than the other, from the ratios within the rounds."""
        return Summary.of(self.seconds[slower] / self.seconds[faster])

    def rows(self, topic: str, reference: str) -> list[Row]:
        """The time of each, and how many times longer than the reference it takes."""
        rows = [Row(topic, name, Summary.of(each), "s") for name, each in self.seconds.items()]
        rows += [Row(topic, name, None, "s", why) for name, why in self.failed.items()]
        others = [name for name in self.seconds if name != reference]
        if reference in self.seconds:
            rows += [
                Row(topic, f"{name} / {reference}", self.ratio(name, reference), "x")
                for name in others
            ]
        return rows


def interleave(
    contenders: Mapping[str, Contender],
    rounds: int,
    progress: Callable[[str], None],
    calls: int = 3,
) -> Times:
    """Time the contenders in alternation; the value of a turn is the median of its calls."""
    failed: dict[str, str] = {}
    for name, (worker, maker, options) in contenders.items():
        progress(f"preparing {name}")
        try:
            worker.ask(name, (*maker.split(":"), dict(options)))
            worker.ask(name, calls)  # warm-up
        except RuntimeError as error:
            failed[name] = str(error).strip().splitlines()[-1]
    ready = [name for name in contenders if name not in failed]
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    rng = np.random.default_rng(0)
    for number in range(rounds):
        for name in rng.permutation(ready).tolist():
            progress(f"round {number + 1} of {rounds}: {name}")
            time.sleep(0.02)  # until the threads of the one before sleep
            # The first call of a turn finds the caches full of what another left there.
            _, *measured = contenders[name].worker.ask(name, calls + 1)
            seconds[name].append(float(np.median(measured)))
    for worker in {contender.worker for contender in contenders.values()}:
        worker.ask("", None)
    return Times({name: np.array(each) for name, each in seconds.items()}, failed)
