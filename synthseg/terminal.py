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


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say in one sentence why a command ended: a faulty request, Ctrl-C, a batch system's SIGTERM.

    It stands as a decorator above each command.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        # With --force the begun run would be set aside, too.
        again = ["synthseg", *(word for word in sys.argv[1:] if word != "--force")]
        errors.print("Stopped; finished epochs are kept. To go on:  " + escape(shlex.join(again)))
        raise typer.Exit(130) from error
    except Exception as error:
        from synthseg.volumes import DataError

        if not isinstance(error, (RunError, DataError, OSError)):
            raise  # a command's own end, or a fault of the program
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
            number = list(self.tasks).index(job.folder) + 1
            console.print(f"{number} of {len(self.tasks)}  {job.folder.name}  {note}")
        self.states[job.folder] = progress.state
