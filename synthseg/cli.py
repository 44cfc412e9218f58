"""The command line: ``synthseg run | rerun | book | publish | data | check``."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from synthseg import cli_data, jobs, parameters, terminal
from synthseg.cli_data import DATA_HELP
from synthseg.project import (
    CHAPTERS,
    plural,
    project_root,
    read_json,
    show_duration,
    show_path,
)
from synthseg.terminal import console, errors, plain_errors, resumable

# What takes long to import (pandas, SciPy, Jupyter) is imported by the command that needs it.
app = typer.Typer(
    help="Execute, build and check the book on synthetic images for electron microscopy.\n\n"
    "Start with  [bold]synthseg run 1[/bold]  (the first chapter, on built-in data), then  "
    "[bold]synthseg book[/bold]  to read it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app, name="data")
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


@app.callback()
def _main(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came up.")
    ] = False,
) -> None:
    terminal.shown["tracebacks"] = debug


def _execute(planned: list[jobs.Job], **how: Any) -> None:
    """Execute a plan of runs that lie in one folder, and show it."""
    lines = terminal.Lines(planned)
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
    with resumable(), plain_errors():
        chosen = parameters.plan(
            chapters or CHAPTERS, profile, data and _from_root(data), seed, settings or ()
        )
        planned = _planned(chosen)
        if dry_run:
            _say_what_would_run(planned, force)
            return
        begun = time.monotonic()
        _execute(planned, side_by_side=side_by_side, force=force, executor=executor)
        console.print(
            f"{plural(len(planned), 'chapter')} in "
            f"{show_duration(time.monotonic() - begun)}. "
            f"To read:  synthseg book --profile {profile}"
        )


def _say_what_would_run(planned: list[jobs.Job], force: bool) -> None:
    for job in planned:
        took = job.last_time
        last = f" (last time: {show_duration(took)})" if took else ""
        skipped = job.finished and not force
        console.print(f"{job.folder.name}  {'unchanged' if skipped else 'would run'}{last}")


def _planned(chosen: dict[int, dict[str, parameters.Scalar]]) -> list[jobs.Job]:
    """The jobs for some chapters: before any starts, the data are loaded."""
    if console.is_terminal:
        console.print("Reading the data …", end="\r")
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

    with resumable(), plain_errors():
        cards = reruns.read_cards(card)
        planned = _planned({item.chapter: item.parameters for item in cards})
        fingerprint = planned[-1].fingerprint
        for item in cards:
            for difference in reruns.differences(item, fingerprint):
                console.print(escape(f"{CHAPTERS[item.chapter]}: {difference}"))
        _execute(planned, force=force)
        again = read_json(planned[-1].folder / "card.json")
        numbers = read_json(planned[-1].folder / "metrics.json")
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
            errors.print(f"{off} of {plural(len(judged), 'judged number')} differ.")
            raise typer.Exit(1)
        console.print(f"All {plural(len(judged), 'judged number')} agree.")


def _shown_number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else "–" if value is None else str(value)


def _from_root(data: str) -> str:
    """Make relative paths count from the root of the project, where the chapters run."""
    if data in ("phantom", "epfl"):
        return data
    root = project_root()
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

    with plain_errors(), console.status("Building the book, about a minute …"):
        if published:
            index = publishing.build_published()
        else:
            index, executed = publishing.build_run(profile, seed)
            listed = ", ".join(str(chapter) for chapter in executed) or "none"
            console.print(f"Executed chapters: {listed}")
        console.print(f"The book is at {show_path(index)}")


@app.command()
def publish(profile: Profile = "cpu", seed: Seed = None) -> None:
    """Put the outputs of a run into the notebooks in book/, and its numbers into results/.

    Refused if a chapter was changed after its run.
    """
    from synthseg import publishing

    with plain_errors():
        chapters = publishing.publish(profile, seed)
        listed = ", ".join(str(chapter) for chapter in chapters)
        console.print(f"Published chapters: {listed}. To read:  synthseg book --published")


@app.command()
def check() -> None:
    """Say what made each published chapter, and fail if its code has changed since."""
    from synthseg import publishing

    with plain_errors():
        checked = publishing.check()
    for item in checked:
        card, name = item.card, CHAPTERS[item.chapter]
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
