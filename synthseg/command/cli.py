"""The command line: synthseg run, predict, book, student, publish, rerun, check, data."""

import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from synthseg import parameters
from synthseg.command import terminal
from synthseg.command.terminal import console, errors
from synthseg.project import CHAPTERS, plural, project_root, read_json, show_duration, show_path

# What takes long to import (pandas, SciPy, Jupyter) is imported by the command that needs it.
app = typer.Typer(
    cls=terminal.PlainErrors,
    help="Execute, build and check the book on synthetic images for electron microscopy.\n\n"
    "Start with  [bold]synthseg run 1[/bold]  (the first chapter, on built-in data), then  "
    "[bold]synthseg book[/bold]  to read it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)

DATA_HELP = (
    "phantom (simulated, built in), epfl (real; taken from the folder that the environment "
    "variable SYNTHSEG_DATA names, else downloaded once), a FOLDER of your own, or a pair "
    "IMAGE,MASK of files or folders."
)
LAYOUT = (
    "A folder of your own holds images/ and masks/ (PNG or TIFF slices), or image.tif and "
    "mask.tif; or such a pair in each of train/, test/ and perhaps val/. What files don't say "
    "ends the name, as in FOLDER:mask=1,3-5:ignore=255:structure=nuclei:nm_per_slice=50."
)
data_app = typer.Typer(
    help=f"Check your own data. There are {DATA_HELP}\n\n{LAYOUT}", no_args_is_help=True
)
app.add_typer(data_app, name="data")
Scale = Annotated[
    float | None,
    typer.Option("--nm-per-pixel", help="Width of a pixel in nanometres; for your own data only."),
]
Profile = Annotated[
    str,
    typer.Option(
        help="Size of the work, a file in params/: smoke (minutes), cpu (an hour and more), pages "
        "(small networks), gpu (the original study's size) or original (its behaviour, too)."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Start anew, even where a run is finished; it is kept.")
]


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
    nm_per_pixel: Scale = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one parameter, in the chosen chapters that have it. May be repeated.",
        ),
    ] = None,
    force: Force = False,
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

    Results go to runs/PROFILE/seed-SEED/CHAPTER/, or to runs/PROFILE-NAME/… if --data names other
    data than the profile. A chapter that was finished with the same parameters, data and code is
    skipped, and an interrupted one goes on after its last finished epoch.

    Example:  synthseg run 1 3 --data epfl --set steps=200
    """
    begun = time.monotonic()
    changes = list(settings or ())
    if nm_per_pixel is not None:
        changes.append(f"nm_per_pixel={nm_per_pixel}")
    if data is not None:  # relative paths count from the root of the project, where chapters run
        from synthseg import stacks

        data = stacks.locate(data, Path.cwd(), project_root())
    chosen = parameters.plan(chapters or CHAPTERS, profile, data, seed, changes)
    planned = terminal.make_plan(chosen)
    if dry_run:
        terminal.show_plan(planned, force=force)
        return
    terminal.execute(planned, side_by_side=side_by_side, force=force, executor=executor)
    took = show_duration(time.monotonic() - begun)
    name = shlex.quote(planned[0].folder.parents[1].name)
    console.print(
        f"{plural(len(planned), 'chapter')} in {took}. "
        f"To read:  synthseg book --profile {escape(name)}"
    )
    terminal.show_scores(planned)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run of chapter 3.", show_default=False)],
    images: Annotated[
        Path, typer.Argument(help="A folder of slices, or one file.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(help="New folder for the masks, 0 and 255.", show_default=False)
    ],
    nm_per_pixel: Annotated[
        float | None,
        typer.Option(help="Size of a pixel in nanometres. If not given: that of the run's data."),
    ] = None,
    probability: Annotated[
        bool, typer.Option("--probability", help="Write probabilities, as TIFF of floats.")
    ] = False,
) -> None:
    """Make masks for images that nobody has annotated, and a picture of a few of them.

    Masks have the names and the size of the images. No existing file is overwritten.

    Example:  synthseg predict runs/cpu/seed-0/03_baseline_segmentation new_slices new_masks
    """
    with console.status("Reading the run …"):
        terminal.load_tensorflow()
        from synthseg.command import predict as masks

    trained = masks.open_run(run)
    console.print(escape(trained.text))
    if nm_per_pixel is None:
        nm = f"{trained.nm_per_pixel:.4g}"
        console.print(f"A pixel of the images is taken to be {nm} nm wide (else: --nm-per-pixel).")
    with terminal.bar("slices") as show:
        written = masks.predict(
            trained, images, out, nm_per_pixel, probability=probability, progress=show
        )
    for remark in written.remarks:
        console.print(escape(remark))
    files, where = plural(len(written.files), "file"), show_path(written.files[0].parent)
    console.print(
        f"{files} in {escape(where)}: {written.foreground:.2%} of the pixels are marked, "
        f"{trained.foreground:.2%} were in training. "
        f"Look at {escape(show_path(written.picture))} before you use them."
    )


@app.command()
def rerun(
    card: Annotated[
        Path,
        typer.Argument(
            help="Run card: card.json in the folder of a run, or results/CHAPTER.card.json.",
            show_default=False,
        ),
    ],
    force: Force = False,
) -> None:
    """Repeat a run from its card, and compare the numbers.

    The earlier chapters whose files it used are repeated first, from their cards. All goes to
    runs/rerun-KEY/. Numbers may differ by 1e-6 of their size; on another processor or with other
    versions than the card's, scores (Dice and IoU) by 0.02, and other numbers are not judged. The
    exit status is 1 if a number differs by more.

    Example:  synthseg rerun results/03_baseline_segmentation.card.json
    """
    from synthseg.command import reruns

    cards = reruns.read_cards(card)
    planned = terminal.make_plan({item.chapter: item.parameters for item in cards})
    terminal.execute(planned, force=force)
    before, folder = cards[-1].content, planned[-1].folder
    again, numbers = read_json(folder / "card.json"), read_json(folder / "metrics.json")
    same = all(before[name] == again[name] for name in ("device", "versions"))
    compared = reruns.compare(before["metrics"], numbers, same_machine=same)
    agreed = terminal.show_comparison(compared)
    for difference in reruns.differences(before, again):
        console.print(escape(difference))
    if not agreed:
        raise typer.Exit(1)


@app.command()
def book(
    profile: Annotated[
        str | None,
        typer.Option(
            help="Folder of the runs below runs/, such as smoke; the latest run's if not given."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Build the published book to _build/html instead.")
    ] = False,
) -> None:
    """Build the book of your own run, as web pages; nothing is executed.

    The first page is book/index.html beside the runs. Chapters that were not executed say so.
    """
    from synthseg.command import publishing

    with console.status("Building the book, about a minute …"):
        if published:
            index = publishing.build_published()
        else:
            terminal.load_tensorflow()  # for the networks of the interactive pages
            index, executed = publishing.build_run(profile)
            console.print(f"Executed chapters: {', '.join(executed) or 'none'}")
        console.print(f"The book is at {show_path(index)}")


@app.command()
def student(
    folder: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
) -> None:
    """Write the exercises without their solutions, as notebooks to answer in, into a folder."""
    from synthseg import exercises

    written = exercises.write_for_students(folder)
    console.print(f"{plural(len(written), 'notebook')} in {escape(show_path(folder))}")


@app.command()
def publish(profile: Profile = "cpu") -> None:
    """Put the outputs of a profile's latest run into book/, and its numbers into results/.

    Refused if a chapter was changed after its run.
    """
    from synthseg.command import publishing

    listed = ", ".join(publishing.publish(profile))
    console.print(f"Published chapters: {listed}. To read:  synthseg book --published")


@app.command()
def check() -> None:
    """Say whether each published chapter is still what its run gave, and fail if one is not."""
    from synthseg.command import publishing

    if not terminal.show_checked(publishing.check()):
        raise typer.Exit(1)
    if not publishing.answer_is_current():
        errors.print(
            "Chapter 8 says something else than the study's tables: run "
            " python workflow/study.py --publish"
        )
        raise typer.Exit(1)


@data_app.command("check")
def check_data(
    source: Annotated[str, typer.Argument(help=DATA_HELP, show_default=False)],
    nm_per_pixel: Scale = None,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Width in pixels of the windows that the chapters will cut."),
    ] = None,
) -> None:
    """Look at all of the data, list every problem with its remedy, and draw what was read.

    The picture shows slices of each part with the outlines of their masks: only you can tell
    whether these belong to the images. epfl is downloaded if need be. The exit status is 2 if there
    is an error, else 0.

    Example:  synthseg data check my_folder --nm-per-pixel 8
    """
    from synthseg import volumes

    found, dataset = volumes.check(source, nm_per_pixel, crop)
    terminal.show_findings(found)
    if dataset:
        terminal.show_dataset(dataset)
        from synthseg.command import contact

        with console.status("Drawing …"):
            picture = contact.save(dataset, project_root() / "runs" / "checks")
    counts = Counter(finding.severity for finding in found)
    listed = ", ".join(plural(counts[kind], kind) for kind in ("error", "warning", "note"))
    console.print(f"{listed}: the data {'cannot' if counts['error'] else 'can'} be used.")
    if counts["error"]:
        raise typer.Exit(2)
    console.print(f"Look at it:  {escape(show_path(picture))}")


if __name__ == "__main__":
    app()
