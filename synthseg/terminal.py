"""What the command line shows: errors in one sentence, and a line for each job."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn
from rich.progress import Progress as Bars

from synthseg.jobs import Job, Progress
from synthseg.project import ChapterError, RunError, show_duration

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

shown = {"tracebacks": False}


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say in one sentence what is wrong with a request, without a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        if shown["tracebacks"]:
            raise
        from synthseg.volumes import DataError

        text = str(error)
        if not isinstance(error, (RunError, DataError, OSError)):
            text = f"{type(error).__name__}: {text} (not foreseen; synthseg --debug shows where)"
        errors.print(f"[red]Error:[/red] {escape(text)}")
        raise typer.Exit(1 if isinstance(error, ChapterError) else 2) from error


@contextmanager
def resumable() -> Iterator[None]:
    """Say how to go on when Ctrl-C, or a batch system's SIGTERM, ends a command."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        # With --force the begun run would be set aside, too.
        again = [argument for argument in sys.argv[1:] if argument != "--force"]
        errors.print(
            "Stopped. To go on after the last finished epoch:  "
            + escape(shlex.join(["synthseg", *again]))
        )
        raise typer.Exit(130) from error
    finally:
        signal.signal(signal.SIGTERM, before)


class Lines:
    """One line a job: a bar while it runs, then its time; without a terminal, one a change."""

    def __init__(self, planned: list[Job]) -> None:
        columns = "{task.description}", BarColumn(24), "{task.fields[note]}"
        self.bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self.planned = planned
        self.tasks = {
            job.folder: self.bars.add_task(job.folder.name, total=1.0, note="") for job in planned
        }
        self.states: dict[Path, str] = {}

    def __call__(self, job: Job, progress: Progress) -> None:
        """Show where a job stands."""
        time = show_duration(progress.seconds)
        note = {
            "waits": "",
            "runs": time,
            "done": f"[green]done[/green] ({time})",
            "failed": f"[red]stopped[/red] ({time})",
            "unchanged": "[green]unchanged[/green], skipped",
        }[progress.state]
        part = 1.0 if progress.state == "unchanged" else progress.part
        self.bars.update(self.tasks[job.folder], completed=part, note=note)
        if not console.is_terminal and self.states.get(job.folder, "waits") != progress.state:
            number = self.planned.index(job) + 1
            note = "…" if progress.state == "runs" else note
            console.print(f"{number} of {len(self.planned)}  {job.folder.name}  {note}")
        self.states[job.folder] = progress.state
