"""The command line: ``synthseg run | rerun | book | publish | data | check``."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn
from rich.progress import Progress as Bars
from rich.table import Table

from synthseg import parameters

# What takes long to import (pandas, SciPy, Jupyter) is imported by the command that needs it.
if TYPE_CHECKING:
    from synthseg import jobs

app = typer.Typer(
    help="Execute, build and check the book on synthetic images for electron microscopy.\n\n"
    "Start with  [bold]synthseg run 1[/bold]  (the first chapter, on built-in data), then  "
    "[bold]synthseg book[/bold]  to read it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

DATA_HELP = (
    "phantom (simulated, built in), epfl (real; taken from the folder that the environment "
    "variable SYNTHSEG_DATA names, else downloaded once), a FOLDER of your own, or a pair "
    "IMAGE,MASK of files or folders."
)

Profile = Annotated[
    str,
    typer.Option(
        help="Size of the work, a file in params/: smoke (minutes), cpu (an hour and more), gpu "
        "(the original study's size) or original (its behaviour, too)."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the run; the latest run's if not given."),
]


_shown = {"tracebacks": False}


@app.callback()
def _main(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came up.")
    ] = False,
) -> None:
    _shown["tracebacks"] = debug


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Say in one sentence what is wrong with a request, without a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        if _shown["tracebacks"]:
            raise
        from synthseg.volumes import DataError

        text = str(error)
        if not isinstance(error, (parameters.RunError, DataError, OSError)):
            text = f"{type(error).__name__}: {text} (not foreseen; synthseg --debug shows where)"
        errors.print(f"[red]Error:[/red] {escape(text)}")
        raise typer.Exit(1 if isinstance(error, parameters.ChapterError) else 2) from error


@contextmanager
def _resumable() -> Iterator[None]:
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


class _Lines:
    """One line a job: a bar while it runs, then its time; without a terminal, one a change."""

    def __init__(self, planned: list["jobs.Job"]) -> None:
        columns = "{task.description}", BarColumn(24), "{task.fields[note]}"
        self.bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self.planned = planned
        self.tasks = {
            job.folder: self.bars.add_task(job.folder.name, total=1.0, note="") for job in planned
        }
        self.states: dict[Path, str] = {}

    def __call__(self, job: "jobs.Job", progress: "jobs.Progress") -> None:
        """Show where a job stands."""
        time = parameters.show_duration(progress.seconds)
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


def _execute(planned: list["jobs.Job"], **how: Any) -> None:
    """Execute a plan of runs that lie in one folder, and show it."""
    from synthseg import jobs

    lines = _Lines(planned)
    with lines.bars:
        jobs.execute(planned, planned[0].folder.parent, lines, **how)


@app.command()
def run(
    chapters: Annotated[
        list[int] | None,
        typer.Argument(help="Chapter numbers, 1 to 7; all if none is given.", show_default=False),
    ] = None,
    profile: Profile = "smoke",
    data: Annotated[
        str | None, typer.Option(help=DATA_HELP + " If not given: what the profile names.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of every random number.", show_default="0")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one parameter, in the chosen chapters that have it. May be repeated.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start anew, even where a run is finished; it is kept."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would run, and how long it took last.")
    ] = False,
    side_by_side: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            help="Chapters side by side. They share the cores, so that last digits may differ.",
        ),
    ] = 1,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Snakemake's executor plugin for a cluster, for instance slurm, in place of this "
            "machine: pip install 'synthseg\\[cluster]'. It needs a shared file system."
        ),
    ] = None,
) -> None:
    """Execute chapters, each in a fresh kernel, after those that they build upon.

    Results go to runs/PROFILE/seed-SEED/CHAPTER/. A chapter that was finished with the same
    parameters, data and code is skipped, and an interrupted one goes on after its last finished
    epoch.

    Example:  synthseg run 1 3 --data epfl --set steps=200
    """
    with _resumable(), _plain_errors():
        numbers = sorted(set(chapters or parameters.CHAPTERS))
        chosen = parameters.plan(numbers, profile, data and _from_root(data), seed, settings or ())
        planned = _planned(chosen)
        if dry_run:
            for job in planned:
                took = job.last_time
                last = f" (last time: {parameters.show_duration(took)})" if took else ""
                skipped = job.finished and not force
                console.print(f"{job.folder.name}  {'unchanged' if skipped else 'would run'}{last}")
            return
        begun = time.monotonic()
        _execute(planned, side_by_side=side_by_side, force=force, executor=executor)
        console.print(
            f"{parameters.plural(len(planned), 'chapter')} in "
            f"{parameters.show_duration(time.monotonic() - begun)}. "
            f"To read:  synthseg book --profile {profile}"
        )


def _planned(chosen: dict[int, dict[str, parameters.Scalar]]) -> list["jobs.Job"]:
    """The jobs for some chapters: before any starts, the data are loaded."""
    if next(iter(chosen.values()))["data"] == "epfl":  # a download shows its own progress
        from synthseg import jobs

        return jobs.make_plan(chosen.items())
    with console.status("Reading the data …"):
        from synthseg import jobs

        return jobs.make_plan(chosen.items())


@app.command()
def rerun(
    card: Annotated[
        Path,
        typer.Argument(
            help="Run card: card.json in the folder of a run, or results/CHAPTER.card.json.",
            show_default=False,
        ),
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Difference that counts as none. If not given: 1e-6 of the number's size on the "
            "processor and versions of the card; elsewhere 0.02 for scores (Dice and IoU), and "
            "other numbers are not judged.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew, even where the rerun is finished already.")
    ] = False,
) -> None:
    """Repeat a run from its card, and compare the numbers.

    The earlier chapters whose files it used are repeated first, from the cards beside it. All goes
    to runs/rerun-KEY/. What is not as it was then is said before anything starts. The exit status
    is 1 if a number differs by more than the tolerance.

    Example:  synthseg rerun results/03_baseline_segmentation.card.json
    """
    from synthseg import reruns

    with _resumable(), _plain_errors():
        cards = reruns.read_cards(card)
        planned = _planned({item.chapter: item.parameters for item in cards})
        fingerprint = planned[-1].fingerprint
        for item in cards:
            for difference in reruns.differences(item, fingerprint):
                console.print(escape(f"{parameters.CHAPTERS[item.chapter]}: {difference}"))
        _execute(planned, force=force)
        again = parameters.read_json(planned[-1].folder / "card.json")
        numbers = parameters.read_json(planned[-1].folder / "metrics.json")
        same = reruns.same_machine(cards[-1], again)
        compared = reruns.compare(cards[-1], numbers, same=same, tolerance=tolerance)
        table = Table("number", "on the card", "rerun", "")
        for row in compared:
            verdict = {True: "equal", False: "[red]off[/red]", None: "not judged"}[row.agrees]
            values = _shown_number(row.published), _shown_number(row.rerun)
            table.add_row(escape(row.name), *values, verdict)
        console.print(table)
        if not same:
            console.print(
                "Another processor, version or number of threads than the card's: scores are "
                "judged by their absolute difference, other numbers are not judged."
            )
        judged = [row for row in compared if row.agrees is not None]
        off = sum(not row.agrees for row in judged)
        if off or not judged:
            errors.print(f"{off} of {parameters.plural(len(judged), 'judged number')} differ.")
            raise typer.Exit(1)
        console.print(f"All {parameters.plural(len(judged), 'judged number')} agree.")


def _shown_number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else "–" if value is None else str(value)


def _from_root(data: str) -> str:
    """Make relative paths count from the root of the project, where the chapters run."""
    if data in ("phantom", "epfl"):
        return data
    root = parameters.project_root()
    return ",".join(
        str(path) if path.is_absolute() else os.path.relpath(Path.cwd() / path, root)
        for path in (Path(part.strip()).expanduser() for part in data.split(","))
    )


@app.command()
def book(
    profile: Profile = "smoke",
    seed: Seed = None,
    published: Annotated[
        bool, typer.Option("--published", help="Build the published book to _build/html instead.")
    ] = False,
) -> None:
    """Build the book of your own run, as web pages; nothing is executed.

    The first page is runs/PROFILE/book/index.html. Chapters that were not executed say so.
    """
    from synthseg import publishing

    with _plain_errors(), console.status("Building the book, about a minute …"):
        if published:
            index = publishing.build_published()
        else:
            index, executed = publishing.build_run(profile, seed)
            listed = ", ".join(str(chapter) for chapter in executed) or "none"
            console.print(f"Executed chapters: {listed}")
        console.print(f"The book is at {parameters.show_path(index)}")


@app.command()
def publish(profile: Profile = "cpu", seed: Seed = None) -> None:
    """Put the outputs of a run into the notebooks in book/, and its numbers into results/.

    Refused if a chapter was changed after its run.
    """
    from synthseg import publishing

    with _plain_errors():
        chapters = publishing.publish(profile, seed)
        listed = ", ".join(str(chapter) for chapter in chapters)
        console.print(f"Published chapters: {listed}. To read:  synthseg book --published")


data_app = typer.Typer(help="Say which data can be used; check your own.", rich_markup_mode="rich")
app.add_typer(data_app, name="data")


@data_app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Say which data can be used; check your own.

    A folder of your own holds images/ and masks/ (PNG or TIFF slices), or image.tif and mask.tif;
    or train/ and test/, each with such a pair.
    """
    if context.invoked_subcommand is None:
        from synthseg import volumes

        console.print(escape(volumes.SOURCES))
        console.print("Check yours with  synthseg data check FOLDER --nm-per-pixel 5")


@data_app.command("check")
def check_data(
    source: Annotated[str, typer.Argument(help=DATA_HELP, show_default=False)],
    nm_per_pixel: Annotated[
        float | None, typer.Option(help="Size of a pixel in nanometres; needed for own data.")
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Width in pixels of the windows that the chapters will cut."),
    ] = None,
) -> None:
    """Look at all of the data, list every problem with its remedy, and describe what was read.

    epfl is downloaded if need be. The exit status is 2 if there is an error, else 0.

    Example:  synthseg data check my_folder --nm-per-pixel 8
    """
    from synthseg import volumes

    with _plain_errors():
        found, dataset = volumes.check(source, nm_per_pixel, crop)
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for file in dict.fromkeys(finding.file for finding in found):
        console.print(f"[bold]{escape(file)}[/bold]")
        for finding in found:
            if finding.file != file:
                continue
            colour = colours[finding.severity]
            place = f"{finding.place}: " if finding.place else ""
            console.print(
                f"  [{colour}]{finding.severity:7}[/{colour}]  {escape(place + finding.what)}"
            )
            if finding.remedy:
                console.print(f"           → {escape(finding.remedy)}")
    if dataset:
        table = Table(
            "part", "slices", "height", "width", "nm per pixel", "foreground", "mean grey"
        )
        parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        for name, volume in parts.items():
            shape = (str(length) for length in volume.image.shape)
            table.add_row(
                name,
                *shape,
                f"{volume.nm_per_pixel:g}",
                f"{volume.mask.mean():.2%}",
                f"{volume.image.mean():.0f}",
            )
        console.print(f"{escape(dataset.name)}, fingerprint {dataset.fingerprint}")
        console.print(table)
        console.print(escape(dataset.provenance))
    counts = {kind: sum(finding.severity == kind for finding in found) for kind in colours}
    listed = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items())
    console.print(f"{listed}: the data can{'not' * bool(counts['error'])} be used.")
    if counts["error"]:
        raise typer.Exit(2)


@app.command()
def check() -> None:
    """Say what made each published chapter, and fail if its code has changed since."""
    from synthseg import publishing

    with _plain_errors():
        checked = publishing.check()
    for item in checked:
        card, name = item.card, parameters.CHAPTERS[item.chapter]
        mark = "[red]stale[/red]" if item.problems else "[green]good[/green]"
        console.print(f"{name}  {mark}")
        if card:
            made = card["data"] or {}
            listed = ", ".join(f"{key}={value}" for key, value in card["parameters"].items())
            console.print(
                escape(
                    f"  commit {card['commit'] or 'unknown'}, data {made.get('name')} "
                    f"{made.get('fingerprint')}, method version {card['method_version']}, "
                    f"finished {card['finished']}\n  {listed}"
                )
            )
        for problem in item.problems:
            console.print(f"  [red]{escape(problem)}[/red]")
    stale = sum(1 for item in checked if item.problems)
    if stale:
        errors.print(
            f"{stale} of {len(checked)} chapters are not as published: run them again "
            "(synthseg run --profile cpu), then  synthseg publish"
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
