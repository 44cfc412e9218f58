"""Command line: ``python -m benchmarks [NAME…]``."""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import commands, composing, frechet, kernels, networks, pipeline, threads
from benchmarks.timing import Budget, Row, Worker
from synthseg.project import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("synthseg", "tensorflow", "keras", "numpy", "scipy", "torch", "torch-fidelity")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


class Workers:
    """The processes, each started when it is first needed."""

    def __init__(self) -> None:
        self._started: dict[str, Worker] = {}

    def _get(self, name: str, **environment: str) -> Worker:
        if name not in self._started:
            self._started[name] = Worker(TF_CPP_MIN_LOG_LEVEL="3", **environment)
        return self._started[name]

    @property
    def tensorflow(self) -> Worker:
        return self._get("tensorflow")

    @property
    def torch(self) -> networks.Torch | None:
        """None if PyTorch is not installed."""
        if util.find_spec("torch") is None:
            return None
        sleeping = self._get("torch", OMP_WAIT_POLICY="passive", KMP_BLOCKTIME="0")
        return networks.Torch(sleeping, self._get("torch, spinning"))

    def pair(self, **environment: str) -> threads.Pair:
        """Two processes for TensorFlow with the same environment."""
        names = (f"{environment} {number}" for number in (1, 2))
        return threads.Pair(*(self._get(name, **environment) for name in names))

    @property
    def plain(self) -> Worker:
        """For what needs neither."""
        return self._get("plain")

    def close(self) -> None:
        for worker in self._started.values():
            worker.close()


@dataclass(frozen=True)
class Setting:
    """What a topic is given."""

    workers: Workers
    budget: Budget
    progress: Callable[[str], None]
    data: str


def _networks(measure: Callable[..., list[Row]]) -> Callable[[Setting], list[Row]]:
    return lambda use: measure(use.workers.tensorflow, use.workers.torch, use.budget, use.progress)


TOPICS: dict[str, Callable[[Setting], list[Row]]] = {
    "segmenter": _networks(networks.segmenter),
    "gan": _networks(networks.gan),
    "joint": _networks(networks.joint),
    "kernels": lambda use: kernels.measure(use.workers.tensorflow, use.budget, use.progress),
    "fit": lambda use: networks.fit(use.workers.tensorflow, use.budget, use.progress),
    "threads": lambda use: threads.measure(
        use.workers.pair(TF_NUM_INTRAOP_THREADS="1"),
        use.workers.pair(),
        use.budget,
        use.progress,
    ),
    "pipeline": lambda use: pipeline.measure(use.workers.tensorflow, use.budget, use.progress),
    "composing": lambda use: composing.measure(use.workers.plain, use.budget, use.progress),
    "frechet": lambda use: frechet.measure(
        use.workers.tensorflow, use.workers.plain, use.workers.torch, use.budget, use.progress
    ),
    "startup": lambda use: commands.startup(use.budget, use.progress),
    "chapter": lambda use: commands.chapter(use.data, use.budget, use.progress),
    "smoke": lambda use: commands.smoke(use.progress),
    "cpu": lambda use: commands.cpu(use.data, use.progress),
}
LONG = ("chapter", "smoke")
"""Minutes each; with ``--quick`` only if they are named."""
LONGEST = ("cpu",)
"""An hour each; only if they are named."""


def _number(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}"


def show(rows: list[Row]) -> Table:
    """The table of some rows; marks targets as met or missed."""
    table = Table("", "median", "quartiles", "target", "met", "")
    topic = ""
    for row in rows:
        if row.topic != topic:
            topic = row.topic
            table.add_section()
            table.add_row(f"[bold]{topic}[/bold]")
        cells = ["–", ""]
        if row.summary is not None:
            low, high = (_number(value, row.unit) for value in (row.summary.low, row.summary.high))
            cells = [_number(row.summary.median, row.unit), f"{low} – {high}"]
        target = ""
        if row.at_least is not None:
            target = f"≥ {_number(row.at_least, row.unit)}"
        elif row.at_most is not None:
            target = f"≤ {_number(row.at_most, row.unit)}"
        met = {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[row.met]
        table.add_row(f"  {row.name}", *cells, target, met, row.note)
    return table


def _cpu() -> str:
    """Model of the processor, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def record(rows: list[Row], budget: Budget) -> dict[str, Any]:
    """What the results file holds for one topic."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "rounds": budget.rounds,
        "calls": budget.calls,
        "rows": [row.as_dict() for row in rows],
    }


def store(path: Path, name: str, measured: dict[str, Any]) -> None:
    """Put a topic into the results file, beside the other topics that were measured that day."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    write_json(path, {**before, name: measured})


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]…",
            help=f"Of: {', '.join(TOPICS)}. If none is given: all but {', '.join(LONGEST)}.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each contender.")] = 15,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough impression in two minutes; nothing is stored.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="Data of the whole chapter, as synthseg run takes them.")
    ] = "phantom",
    keep: Annotated[
        bool,
        typer.Option(
            "--store/--no-store", help="Write benchmarks/results/DATE.json (never with --quick)."
        ),
    ] = True,
) -> None:
    """Measure the module against its peers, and say which targets are met."""
    left_out = (*LONGEST, *LONG) if quick else LONGEST
    chosen = names or [name for name in TOPICS if name not in left_out]
    for name in chosen:
        if name not in TOPICS:
            raise typer.BadParameter(f"There is no '{name}': choose from {', '.join(TOPICS)}.")
    budget = Budget(rounds=3, calls=1, warm_up=2, quick=True) if quick else Budget(rounds=rounds)
    path = RESULTS / f"{date.today().isoformat()}.json"
    workers = Workers()
    try:
        with console.status("Starting …") as status:
            for name in chosen:

                def progress(text: str, name: str = name) -> None:
                    status.update(f"{name}: {text}")

                try:
                    measured = TOPICS[name](Setting(workers, budget, progress, data))
                except RuntimeError as error:  # the other topics still count
                    console.print(str(error), markup=False)
                    reason = str(error).strip().splitlines()[-1]
                    measured = [Row(name, "failed", None, "", note=reason)]
                console.print(show(measured))
                if keep and not quick:
                    store(path, name, record(measured, budget))
                    console.print(f"Stored in {os.path.relpath(path)}")
    finally:
        workers.close()


if __name__ == "__main__":
    typer.run(main)
