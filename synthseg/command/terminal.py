"""What the command line shows: errors in one sentence, and a line for each job."""

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn
from rich.progress import Progress as Bars
from tabulate import tabulate
from typer.core import TyperGroup

from synthseg import keys
from synthseg.command import jobs
from synthseg.command.jobs import Job, Progress
from synthseg.parameters import Scalar
from synthseg.project import (
    ChapterError,
    RunError,
    plural,
    read_json,
    show_duration,
    show_path,
)

if TYPE_CHECKING:
    from synthseg.volumes import Dataset, Finding

SCORE, LEARNED = "test_classical_dice", "curves_classical_train"
LEAST_LEARNED = 0.8
"""Dice on training crops below which a training of chapter 3 is called too short.

On the phantom a training of 300 steps passed it before step 100 and ended at 0.89; those published
on EPFL ended at 0.86 (400 steps) to 0.91 (800).
"""

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class PlainErrors(TyperGroup):
    """Commands that say in one sentence why they ended.

    For instance for a faulty request, Ctrl-C, or a batch system's SIGTERM.
    """

    def invoke(self, ctx: Any) -> Any:
        """Carry out a command."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # With --force the begun run would be set aside, too.
            again = shlex.join(["synthseg", *(word for word in sys.argv[1:] if word != "--force")])
            errors.print(f"Stopped; finished epochs are kept. To go on:  {escape(again)}")
            raise typer.Exit(130) from error
        except (ValueError, OSError) as error:
            from synthseg.volumes import DataError

            if not isinstance(error, (RunError, DataError, OSError)):
                raise  # a fault of the program
            errors.print(f"[red]Error:[/red] {escape(str(error))}")
            raise typer.Exit(1 if isinstance(error, ChapterError) else 2) from error
        finally:
            signal.signal(signal.SIGTERM, before)


class Lines:
    """One line a job: a bar while it runs, then its time; without a terminal, one a change."""

    def __init__(self, planned: list[Job]) -> None:
        columns = "{task.description}", BarColumn(24), "{task.fields[note]}"
        self.bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self.tasks = {
            job.folder: self.bars.add_task(job.folder.name, total=1.0, note="") for job in planned
        }
        self.states: dict[Path, str] = {}

    def __call__(self, job: Job, progress: Progress) -> None:
        """Show where a job stands."""
        time = show_duration(progress.seconds)
        note = {
            "runs": time if console.is_terminal else "…",
            "done": f"[green]done[/green] ({time})",
            "failed": f"[red]stopped[/red] ({time})",
            "unchanged": "[green]unchanged[/green], skipped",
        }[progress.state]
        self.bars.update(self.tasks[job.folder], completed=progress.part, note=note)
        if not console.is_terminal and self.states.get(job.folder) != progress.state:
            place = f"{self.tasks[job.folder] + 1} of {len(self.tasks)}"
            console.print(f"{place}  {job.folder.name}  {note}")
        self.states[job.folder] = progress.state


def load_tensorflow() -> None:
    """Load TensorFlow, and keep off the terminal what it writes meanwhile at any log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_logical_devices()  # the search for a GPU is loud where there is none
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, and give the function that moves it: of how many, so many are done."""
    bars = Bars(console=console, transient=True, disable=not console.is_terminal)
    task = bars.add_task(what, total=None)
    with bars:
        yield lambda done, count: bars.update(task, completed=done, total=count)


def make_plan(chosen: dict[int, dict[str, Scalar]]) -> list[Job]:
    """Settle the runs of chapters with their parameters, which takes a while."""
    with console.status("Reading the data …"), warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        planned = jobs.make_plan(chosen.items())
    for text in dict.fromkeys(str(warning.message) for warning in noticed):
        console.print(f"[yellow]Warning:[/yellow] {escape(text)}")
    return planned


def show_plan(planned: list[Job], *, force: bool) -> None:
    """Say which runs would be executed, and how long they took last."""
    for job in planned:
        last = f" (last time: {show_duration(job.last_time)})" if job.last_time else ""
        skipped = job.finished and not force
        console.print(f"{job.folder.name}  {'unchanged' if skipped else 'would run'}{last}")


def execute(planned: list[Job], *, force: bool, **how: Any) -> None:
    """Execute a plan of runs that lie in one folder, and show it."""
    for job in planned:
        if kept := keys.aside(job.folder, None if force else job.key):
            console.print(f"An earlier run is kept as {escape(show_path(kept))}")
    lines = Lines(planned)
    with lines.bars:
        jobs.execute(planned, planned[0].folder.parent, lines, force=force, **how)


def show_scores(planned: list[Job]) -> None:
    """Say what runs of chapter 3 came to, whether they were long enough, and what to do next."""
    for job in planned:
        numbers = read_json(job.folder / "metrics.json")
        if SCORE not in numbers:
            continue
        console.print(
            f"Test Dice {numbers[SCORE]:.3f} at {numbers['nm']:.4g} nm per pixel (segmenter "
            "trained with augmentation, A1)."
        )
        if numbers[LEARNED] < LEAST_LEARNED:
            longer = 4 * int(str(job.parameters["steps"]))
            console.print(
                f"[yellow]Its Dice on training images is only {numbers[LEARNED]:.3f}:[/yellow] "
                f"train longer, for instance with --set steps={longer}; if that does not help, "
                "look at masks and pixel size."
            )
        command = shlex.join(["synthseg", "predict", show_path(job.folder)])
        console.print(escape(f"Masks for other images:  {command} IMAGES OUT"))


def show_comparison(compared: dict[str, tuple[Any, Any, bool | None]]) -> bool:
    """Show the numbers of a card beside those of its rerun; whether all that are judged agree."""
    words = {True: "equal", False: "off", None: "not judged"}
    rows = [(name, *values, words[agrees]) for name, (*values, agrees) in compared.items()]
    heads = ["number", "on the card", "rerun", ""]
    console.print(escape(tabulate(rows, heads, floatfmt=".10g", missingval="–")))
    judged = [agrees for *_, agrees in compared.values() if agrees is not None]
    if not all(judged) or not judged:
        off = judged.count(False)
        errors.print(f"{off} of {plural(len(judged), 'judged number')} differ.")
        return False
    console.print(f"All {plural(len(judged), 'judged number')} agree.")
    return True


def show_checked(checked: dict[str, list[str]]) -> bool:
    """Show what is wrong with each published chapter; whether nothing is."""
    for name, problems in checked.items():
        console.print(f"{name}  {'[red]stale[/red]' if problems else '[green]good[/green]'}")
        for problem in problems:
            console.print(f"  [red]{escape(problem)}[/red]")
    stale = sum(map(bool, checked.values()))
    if stale:
        errors.print(
            f"{stale} of {len(checked)} chapters are not as published: run them again "
            "(synthseg run --profile cpu), then  synthseg publish"
        )
    return not stale


def show_findings(found: "list[Finding]") -> None:
    """Show what was noticed in data, file by file, each with its remedy."""
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for file in dict.fromkeys(finding.file for finding in found):
        console.print(f"[bold]{escape(file)}[/bold]")
        for finding in (finding for finding in found if finding.file == file):
            kind = f"[{colours[finding.severity]}]{finding.severity:7}[/]"
            console.print(f"  {kind}  {escape(finding.sentence)}")
            if finding.remedy:
                console.print(f"           → {escape(finding.remedy)}")


def show_dataset(dataset: "Dataset") -> None:
    """Show the three volumes of a dataset as a table, and where they come from."""
    heads = "part", "slices", "height", "width", "nm (x, z)", "foreground", "mean grey"
    rows = []
    for name in ("train", "validation", "test"):
        part = getattr(dataset, name)
        voxel = f"{part.nm_per_pixel:g}, {dataset.nm_per_slice:g}"
        foreground, grey = f"{part.mask.mean():.2%}", round(part.image.mean())
        rows.append((name, *part.image.shape, voxel, foreground, grey))
    console.print(f"{escape(dataset.name)}, fingerprint {dataset.fingerprint}")
    console.print(tabulate(rows, heads))
    console.print(escape(dataset.provenance))
