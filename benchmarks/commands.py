"""Whole commands, as a user gives them: how long they take, and how much memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.timing import Budget, Row, Summary
from synthseg.project import CHAPTERS, project_root

GOAL = 0.75
"""Validation Dice to reach."""

SYNTHSEG = str(Path(sys.executable).parent / "synthseg")


def _single(value: float) -> Summary:
    return Summary(value, value, value)


def startup(budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """How long the help of the command line takes, and imports for comparison."""
    commands = {
        "synthseg --help": [SYNTHSEG, "--help"],
        "python": [sys.executable, "-c", ""],
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(2 if budget.quick else 10):
        progress(f"round {number + 1}")
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begun)
    topic = "start of a command"
    return [
        Row(
            topic,
            name,
            Summary.of(np.array(values)),
            "s",
            at_most=0.5 if name == "synthseg --help" else None,
        )
        for name, values in seconds.items()
    ]


@contextmanager
def _project_copy() -> Iterator[Path]:
    """A folder that looks like the project but has runs of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entry in project_root().iterdir():
            if entry.name not in ("runs", "_build") and not entry.name.startswith("."):
                (folder / entry.name).symlink_to(entry)
        yield folder


class Watched:
    """Runs a command and notes peak memory and when files change.

    Parameters
    ----------
    arguments : list of str
        Arguments of ``synthseg``.
    root : Path
        The project's folder, as the command is to see it.
    progress : callable
        Shown what goes on.

    Attributes
    ----------
    seconds : float
        Duration.
    peak_gib : float
        Largest sum of the resident memory of the command and its child processes, sampled four
        times a second. Pages that processes share count for each.
    stored : dict of str to list of float
        By the beginning of a training's name: when it stored each epoch, in seconds from the
        start.
    """

    def __init__(self, arguments: list[str], root: Path, progress: Callable[[str], None]) -> None:
        import psutil

        environment = {**os.environ, "SYNTHSEG_ROOT": str(root)}
        started, begun = time.time(), time.perf_counter()
        self.peak_gib, self.stored = 0.0, {}
        process = subprocess.Popen(
            [SYNTHSEG, *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                resident = 0
                try:
                    for each in (watched, *watched.children(recursive=True)):
                        resident += each.memory_info().rss
                except psutil.Error:  # a process that ended meanwhile
                    continue
                self.peak_gib = max(self.peak_gib, resident / 2**30)
                self._note_stored(root, started)
                spent = time.perf_counter() - begun
                progress(f"{spent:.0f} s, {resident / 2**30:.1f} GiB")
                time.sleep(0.25)
        finally:
            process.kill()
        self.seconds = time.perf_counter() - begun
        assert process.stderr is not None
        if process.returncode:
            raise RuntimeError(process.stderr.read().strip())

    def _note_stored(self, root: Path, started: float) -> None:
        for path in root.glob("runs/*/*/*/resume/*.weights.h5"):
            if path.name.startswith("."):
                continue
            try:
                moment = path.stat().st_mtime - started
            except FileNotFoundError:
                continue
            times = self.stored.setdefault(path.name.rpartition("-")[0], [])
            if not times or moment > times[-1]:
                times.append(moment)


def chapter(data: str, budget: Budget, progress: Callable[[str], None]) -> list[Row]:
    """Chapter 3: time until its segmenter is useful, whole time, and memory."""
    profile = "smoke" if budget.quick else "cpu"
    topic = f"chapter 3, profile {profile}, data {data}"
    with _project_copy() as root:
        run = Watched(["run", "3", "--profile", profile, "--data", data], root, progress)
        rows = []
        for path in sorted(root.glob("runs/*/*/*/*.history.csv")):
            history = pd.read_csv(path)
            name = path.name.removesuffix(".history.csv")
            reached = history.index[history["validation_dice"] >= GOAL]
            title = f"{name}: command to validation Dice {GOAL}"
            best = f"best {history['validation_dice'].max():.3f}"
            if len(reached) == 0:
                rows.append(Row(topic, title, None, "s", note=f"not reached, {best}"))
                continue
            moments = run.stored.get(name, [])
            # An epoch that is stored as the last one of all leaves no file to be seen.
            seconds = moments[reached[0]] if reached[0] < len(moments) else run.seconds
            step = history["step"][reached[0]]
            rows.append(Row(topic, title, _single(seconds), "s", note=f"step {step}, {best}"))
    rows.append(Row(topic, "whole command", _single(run.seconds), "s"))
    rows.append(Row(topic, "peak memory", _single(run.peak_gib), "GiB", at_most=4.0))
    return rows


def smoke(progress: Callable[[str], None]) -> list[Row]:
    """What ``make run`` does once ``.venv`` is there: all chapters, small, and their book."""
    with _project_copy() as root:
        run = Watched(["run", "--profile", "smoke", "--data", "phantom"], root, progress)
        book = Watched(["book", "--profile", "smoke"], root, progress)
    topic = "make run, profile smoke"
    return [
        Row(topic, "seven chapters", _single(run.seconds / 60), "min"),
        Row(topic, "book", _single(book.seconds / 60), "min"),
        Row(topic, "both", _single((run.seconds + book.seconds) / 60), "min", at_most=8.0),
        Row(topic, "peak memory", _single(max(run.peak_gib, book.peak_gib)), "GiB", at_most=4.0),
    ]


def cpu(data: str, progress: Callable[[str], None]) -> list[Row]:
    """All chapters at the size of the published book: duration, and memory of each."""
    topic, rows, seconds = f"profile cpu, data {data}", [], 0.0
    with _project_copy() as root:
        for number, name in CHAPTERS.items():
            run = Watched(["run", str(number), "--profile", "cpu", "--data", data], root, progress)
            seconds += run.seconds
            rows += [
                Row(topic, name, _single(run.seconds / 60), "min"),
                Row(topic, f"{name}: peak memory", _single(run.peak_gib), "GiB", at_most=4.0),
            ]
    return [*rows, Row(topic, "all chapters", _single(seconds / 60), "min")]
