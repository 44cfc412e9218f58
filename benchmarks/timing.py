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
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import numpy as np

SETTLE = 0.02
"""Seconds between two contenders, after which the threads of the former sleep."""


@dataclass(frozen=True)
class Summary:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Summary":
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))


@dataclass
class Row:
    """One line of the table: a quantity, or the ratio of two, and what it should reach.

    Attributes
    ----------
    topic, name : str
        What was measured.
    summary : Summary or None
        The values; None if it could not be measured, and `note` says why.
    unit : str
        ``s``, ``x`` (a ratio), ``%``, ``GFLOP/s`` and so on.
    at_least, at_most : float or None
        The target.
    """

    topic: str
    name: str
    summary: Summary | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without a target or a value."""
        if self.summary is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.summary.median >= self.at_least
        return low and (self.at_most is None or self.summary.median <= self.at_most)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Prepared:
    """A contender inside its worker.

    Attributes
    ----------
    call : callable
        Does the work once, completely (returns when the result is there).
    units : int
        Units of work, for instance training steps, that one call does.
    """

    call: Callable[[], Any]
    units: int = 1


def _quiet() -> None:
    """Send what libraries report while they start, below Python's own streams, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _resolve(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), name)


def _serve(pipe: Connection) -> None:
    """Loop of a worker process."""
    _quiet()
    contenders: dict[str, Prepared] = {}
    results: dict[str, Any] = {}
    while True:
        try:
            request, name, argument = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer: Any = None
            if request == "prepare":
                contenders[name] = _resolve(argument[0])(**argument[1])
            elif request == "time":
                prepared = contenders[name]
                answer = []
                for _ in range(argument):
                    begun = time.perf_counter()
                    results[name] = prepared.call()
                    answer.append((time.perf_counter() - begun) / prepared.units)
            elif request == "ask":
                answer = _resolve(name)(**argument)
            elif request == "result":
                answer = results[name]
            elif request == "forget":
                contenders.clear()
                results.clear()
            pipe.send((True, answer))
        except BaseException:  # whatever happened belongs into the parent's message
            pipe.send((False, traceback.format_exc()))


class WorkerError(RuntimeError):
    """Something failed in a worker; the message holds its traceback."""


class Worker:
    """A process that holds contenders and runs them on demand.

    Parameters
    ----------
    **environment : str
        Environment variables of the process.
    """

    def __init__(self, **environment: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        with patch.dict(os.environ, environment):
            self._process.start()
        other.close()

    def _request(self, *message: Any) -> Any:
        self._pipe.send(message)
        try:
            good, answer = self._pipe.recv()
        except EOFError:
            raise WorkerError("The worker process died, mostly for lack of memory.") from None
        if not good:
            raise WorkerError(answer)
        return answer

    def prepare(self, name: str, maker: str, **options: Any) -> None:
        """Build a contender: `maker` is ``module:function`` and returns a :class:`Prepared`."""
        self._request("prepare", name, (maker, options))

    def time(self, name: str, calls: int) -> list[float]:
        """Seconds per unit of work, for each of `calls` calls."""
        return self._request("time", name, calls)

    def result(self, name: str) -> Any:
        """What the contender's last call returned."""
        return self._request("result", name, None)

    def ask(self, function: str, **options: Any) -> Any:
        """The result of ``module:function``, called in the worker."""
        return self._request("ask", function, options)

    def forget(self) -> None:
        """Drop all contenders, with their memory."""
        self._request("forget", "", None)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


@dataclass(frozen=True)
class Contender:
    """What is to be timed: a maker in a worker, with its options.

    Attributes
    ----------
    worker : Worker
    maker : str
        ``module:function``, see :meth:`Worker.prepare`.
    options : mapping
    calls : int or None
        Timed calls a turn, where it is not the number of the whole measurement.
    heavy : bool
        A call takes many seconds: no warm-up, and one call a turn.
    """

    worker: Worker
    maker: str
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: int | None = None
    heavy: bool = False


@dataclass
class Times:
    """Outcome of :func:`interleave`.

    Attributes
    ----------
    seconds : dict of str to numpy.ndarray
        Seconds per unit of work of each contender, (rounds,), in the same order of rounds.
    results : dict
        What the last call of each returned.
    failed : dict of str to str
        Contenders that could not be measured, and why.
    """

    seconds: dict[str, np.ndarray]
    results: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self, name: str) -> Summary:
        return Summary.of(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> Summary:
        """How many times longer one takes than the other, from the ratios within the rounds."""
        return Summary.of(self.seconds[slower] / self.seconds[faster])

    def best(self, names: list[str]) -> str | None:
        """The contender with the shortest median, of those that could be measured."""
        measured = [name for name in names if name in self.seconds]
        return min(measured, key=lambda name: float(np.median(self.seconds[name])), default=None)


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes
    ----------
    rounds : int
        Rounds, in each of which every contender has a turn.
    calls : int
        Timed calls in a turn; the value of the turn is their median.
    warm_up : int
        Untimed calls of each contender at the beginning.
    seed : int
        Seed of the order.
    quick : bool
        Whether only a rough impression is wanted: expensive contenders are left out.
    """

    rounds: int = 15
    calls: int = 3
    warm_up: int = 3
    seed: int = 0
    quick: bool = False


def interleave(
    contenders: Mapping[str, Contender],
    budget: Budget,
    progress: Callable[[str], None] = lambda text: None,
) -> Times:
    """Time the contenders in alternation.

    Contenders that fail while they are built are reported in :attr:`Times.failed`.
    """
    failed: dict[str, str] = {}
    for name, contender in contenders.items():
        progress(f"preparing {name}")
        try:
            contender.worker.prepare(name, contender.maker, **contender.options)
            if not contender.heavy:
                contender.worker.time(name, budget.warm_up)
        except WorkerError as error:
            failed[name] = str(error).strip().splitlines()[-1]
    ready = [name for name in contenders if name not in failed]
    values: dict[str, list[float]] = {name: [] for name in ready}
    rng = np.random.default_rng(budget.seed)
    for number in range(budget.rounds):
        for name in rng.permutation(ready).tolist():
            progress(f"round {number + 1} of {budget.rounds}: {name}")
            contender = contenders[name]
            time.sleep(SETTLE)
            if contender.heavy:
                seconds = contender.worker.time(name, 1)
            else:
                # The first call of a turn finds the caches full of what another left there.
                calls = contender.calls or budget.calls
                _, *seconds = contender.worker.time(name, calls + 1)
            values[name].append(float(np.median(seconds)))
    results = {name: contenders[name].worker.result(name) for name in ready}
    for worker in {id(each.worker): each.worker for each in contenders.values()}.values():
        worker.forget()
    return Times({name: np.array(each) for name, each in values.items()}, results, failed)
