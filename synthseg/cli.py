"""The command line: ``synthseg run | rerun | book | publish | data | check``."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from synthseg import jobs, parameters, terminal
from synthseg.project import CHAPTERS, plural, project_root, read_json, show_duration, show_path
from synthseg.terminal import console, errors, plain_errors

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
data_app = typer.Typer(help="Say which data can be used; check your own.", rich_markup_mode="rich")
app.add_typer(data_app, name="data")

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
    int | None, typer.Option(min=0, help="Seed of the run; the latest run's if not given.")
]


@app.command()
@plain_errors()
def run(
    chapters: Annotated[
        list[int] | None,
        typer.Argument(help="Chapter numbers, 1 to 7; all if none is given.", show_default=False),
    ] = None,
    profile: Profile = "smoke",
    data: Annotated[
        str | None, typer.Option(help=DATA_HELP + " If not given: what the profile names.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one parameter, in the chosen chapters that have it. May be repeated.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew, even where a run is finished; it is kept.")
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
            help="A cluster in place of this machine: slurm or kubernetes, the profiles in "
            "workflow/profiles/. See workflow/README.md."
        ),
    ] = None,
) -> None:
    """Execute chapters, each in a fresh kernel, after those that they build upon.

    Results go to runs/PROFILE/seed-SEED/CHAPTER/. A chapter that was finished with the same
    parameters, data and code is skipped, and an interrupted one goes on after its last finished
    epoch.

    Example:  synthseg run 1 3 --data epfl --set steps=200
    """
    begun = time.monotonic()
    source = data and _from_root(data)
    planned = _plan(parameters.plan(chapters or CHAPTERS, profile, source, seed, settings or ()))
    if not dry_run:
        _execute(planned, side_by_side=side_by_side, force=force, executor=executor)
        took = show_duration(time.monotonic() - begun)
        console.print(
            f"{plural(len(planned), 'chapter')} in {took}. "
            f"To read:  synthseg book --profile {profile}"
        )
        return
    for job in planned:
        last = f" (last time: {show_duration(job.last_time)})" if job.last_time else ""
        skipped = job.finished and not force
        console.print(f"{job.folder.name}  {'unchanged' if skipped else 'would run'}{last}")


def _from_root(data: str) -> str:
    """Make relative paths count from the root of the project, where the chapters run."""
    if data in ("phantom", "epfl"):
        return data
    paths = [Path(part.strip()).expanduser() for part in data.split(",")]
    return ",".join(
        str(path) if path.is_absolute() else os.path.relpath(Path.cwd() / path, project_root())
        for path in paths
    )


def _plan(chosen: dict[int, dict[str, parameters.Scalar]]) -> list[jobs.Job]:
    with console.status("Reading the data …"):
        return jobs.make_plan(chosen.items())


def _execute(planned: list[jobs.Job], **how: Any) -> None:
    """Execute a plan of runs that lie in one folder, and show it."""
    lines = terminal.Lines(planned)
    with lines.bars:
        jobs.execute(planned, planned[0].folder.parent, lines, **how)


@app.command()
@plain_errors()
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

    cards = reruns.read_cards(card)
    planned = _plan({item.chapter: item.parameters for item in cards})
    for item in cards:
        for difference in reruns.differences(item, planned[-1].fingerprint):
            console.print(escape(f"{CHAPTERS[item.chapter]}: {difference}"))
    _execute(planned, force=force)
    same = reruns.same_machine(cards[-1], read_json(planned[-1].folder / "card.json"))
    numbers = read_json(planned[-1].folder / "metrics.json")
    compared = reruns.compare(cards[-1], numbers, same=same, tolerance=tolerance)
    table = Table("number", "on the card", "rerun", "")
    for row in compared:
        verdict = {True: "equal", False: "[red]off[/red]", None: "not judged"}[row.agrees]
        values = [
            f"{value:.10g}" if isinstance(value, float) else "–" if value is None else str(value)
            for value in (row.published, row.rerun)
        ]
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


@app.command()
@plain_errors()
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

    with console.status("Building the book, about a minute …"):
        if published:
            index = publishing.build_published()
        else:
            index, executed = publishing.build_run(profile, seed)
            console.print(f"Executed chapters: {', '.join(map(str, executed)) or 'none'}")
        console.print(f"The book is at {show_path(index)}")


@app.command()
@plain_errors()
def publish(profile: Profile = "cpu", seed: Seed = None) -> None:
    """Put the outputs of a run into the notebooks in book/, and its numbers into results/.

    Refused if a chapter was changed after its run.
    """
    from synthseg import publishing

    listed = ", ".join(map(str, publishing.publish(profile, seed)))
    console.print(f"Published chapters: {listed}. To read:  synthseg book --published")


@app.command()
@plain_errors()
def check() -> None:
    """Say what made each published chapter, and fail if its code has changed since."""
    from synthseg import publishing

    checked = publishing.check()
    for item in checked:
        mark = "[red]stale[/red]" if item.problems else "[green]good[/green]"
        console.print(f"{CHAPTERS[item.chapter]}  {mark}")
        if card := item.card:
            listed = ", ".join(f"{key}={value}" for key, value in card["parameters"].items())
            text = (
                f"  commit {card['commit'] or 'unknown'}, data {card['data']['name']} "
                f"{card['data']['fingerprint']}, method version {card['method_version']}, "
                f"finished {card['finished']}\n  {listed}"
            )
            console.print(escape(text))
        for problem in item.problems:
            console.print(f"  [red]{escape(problem)}[/red]")
    stale = sum(bool(item.problems) for item in checked)
    if stale:
        errors.print(
            f"{stale} of {len(checked)} chapters are not as published: run them again "
            "(synthseg run --profile cpu), then  synthseg publish"
        )
        raise typer.Exit(1)
    if not publishing.answer_is_current():
        errors.print(
            "Chapter 8 says something else than the study's tables: run "
            " python workflow/study.py --publish"
        )
        raise typer.Exit(1)


@data_app.callback(invoke_without_command=True)
def _data(context: typer.Context) -> None:
    """Say which data can be used; check your own.

    A folder of your own holds images/ and masks/ (PNG or TIFF slices), or image.tif and mask.tif;
    or train/ and test/, each with such a pair.
    """
    if context.invoked_subcommand is None:
        from synthseg import volumes

        console.print(escape(volumes.SOURCES))
        console.print("Check yours with  synthseg data check FOLDER --nm-per-pixel 5")


@data_app.command("check")
@plain_errors()
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

    found, dataset = volumes.check(source, nm_per_pixel, crop)
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for file in dict.fromkeys(finding.file for finding in found):
        console.print(f"[bold]{escape(file)}[/bold]")
        for finding in (finding for finding in found if finding.file == file):
            kind = f"[{colours[finding.severity]}]{finding.severity:7}[/]"
            place = f"{finding.place}: " if finding.place else ""
            console.print(f"  {kind}  {escape(place + finding.what)}")
            if finding.remedy:
                console.print(f"           → {escape(finding.remedy)}")
    if dataset:
        table = Table(
            "part", "slices", "height", "width", "nm per pixel", "foreground", "mean grey"
        )
        for part in ("train", "validation", "test"):
            volume = getattr(dataset, part)
            shape = map(str, volume.image.shape)
            scale, mean = f"{volume.nm_per_pixel:g}", f"{volume.image.mean():.0f}"
            table.add_row(part, *shape, scale, f"{volume.mask.mean():.2%}", mean)
        console.print(f"{escape(dataset.name)}, fingerprint {dataset.fingerprint}")
        console.print(table)
        console.print(escape(dataset.provenance))
    counts = {kind: sum(finding.severity == kind for finding in found) for kind in colours}
    listed = ", ".join(plural(count, kind) for kind, count in counts.items())
    console.print(f"{listed}: the data {'cannot' if counts['error'] else 'can'} be used.")
    if counts["error"]:
        raise typer.Exit(2)


if __name__ == "__main__":
    app()
