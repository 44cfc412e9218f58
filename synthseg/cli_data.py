"""The commands ``synthseg data`` and ``synthseg data check``."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from synthseg.project import plural
from synthseg.terminal import console, plain_errors

DATA_HELP = (
    "phantom (simulated, built in), epfl (real; taken from the folder that the environment "
    "variable SYNTHSEG_DATA names, else downloaded once), a FOLDER of your own, or a pair "
    "IMAGE,MASK of files or folders."
)

app = typer.Typer(help="Say which data can be used; check your own.", rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Say which data can be used; check your own.

    A folder of your own holds images/ and masks/ (PNG or TIFF slices), or image.tif and mask.tif;
    or train/ and test/, each with such a pair.
    """
    if context.invoked_subcommand is None:
        from synthseg import volumes

        console.print(escape(volumes.SOURCES))
        console.print("Check yours with  synthseg data check FOLDER --nm-per-pixel 5")


@app.command("check")
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

    with plain_errors():
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
    listed = ", ".join(plural(count, kind) for kind, count in counts.items())
    console.print(f"{listed}: the data {'cannot' if counts['error'] else 'can'} be used.")
    if counts["error"]:
        raise typer.Exit(2)
