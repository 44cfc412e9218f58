"""The command line: ``synthseg run | book | publish | data | check``."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from synthseg import parameters, publishing, runs, volumes

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


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Say in one sentence what is wrong with a request, without a traceback."""
    try:
        yield
    except parameters.ChapterError as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}")
        raise typer.Exit(1) from error
    except (parameters.RunError, volumes.DataError, OSError) as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        errors.print("Stopped. The same command goes on after the last finished epoch.")
        raise typer.Exit(130) from error


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
        typer.Option(help="Start anew, even where a run is finished; the earlier one is kept."),
    ] = False,
) -> None:
    """Execute chapters, one after the other, each in a fresh kernel.

    Results go to runs/PROFILE/seed-SEED/CHAPTER/. A chapter that was finished with the same
    parameters is skipped, and an interrupted one goes on after its last finished epoch.

    Example:  synthseg run 1 3 --data epfl --set steps=200
    """
    with _plain_errors():
        numbers = sorted(set(chapters or parameters.CHAPTERS))
        plan = parameters.plan(numbers, profile, data and _from_root(data), seed, settings or ())
        chosen, fingerprint = next(iter(plan.values())), None
        if chosen["data"] != "phantom":
            # Before any chapter starts: downloads show their progress, and mistakes come at once.
            fingerprint = runs.load_data(chosen).fingerprint
        begun = time.monotonic()
        for count, (chapter, values) in enumerate(plan.items(), start=1):
            label = f"{count} of {len(plan)}  {parameters.CHAPTERS[chapter]}"
            console.print(f"{label} …")
            done = runs.execute(chapter, values, fingerprint=fingerprint, force=force)
            took = parameters.show_duration(done.duration_s)
            spent = "unchanged, skipped" if done.skipped else took
            console.print(f"{label}  [green]done[/green] ({spent})")
        console.print(
            f"{len(plan)} chapter{'s' * (len(plan) > 1)} in "
            f"{parameters.show_duration(time.monotonic() - begun)}. "
            f"To read:  synthseg book --profile {profile}"
        )


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
    with _plain_errors():
        chapters = publishing.publish(profile, seed)
        listed = ", ".join(str(chapter) for chapter in chapters)
        console.print(f"Published chapters: {listed}. To read:  synthseg book --published")


@app.command()
def data(
    source: Annotated[str | None, typer.Argument(help=DATA_HELP, show_default=False)] = None,
    nm_per_pixel: Annotated[
        float | None, typer.Option(help="Size of a pixel in nanometres; needed for own data.")
    ] = None,
) -> None:
    """Say which data can be used, or load, check and describe some (epfl: download it).

    A folder of your own holds images/ and masks/ (PNG or TIFF slices), or image.tif and mask.tif;
    or train/ and test/, each with such a pair.
    """
    if source is None:
        console.print(escape(f"Data can be {DATA_HELP}"))
        console.print("Check yours with  synthseg data FOLDER --nm-per-pixel 5")
        return
    with _plain_errors():
        try:
            dataset = volumes.load(source, nm_per_pixel)
        except volumes.DataError as error:
            raise parameters.RunError(str(error)) from error
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


@app.command()
def check() -> None:
    """Say what made each published chapter, and fail if its code has changed since."""
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
