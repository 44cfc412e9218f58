"""Figures that several chapters share; tables and source code, too, are shown through here.

Each plotting function returns the Matplotlib figure, closed for pyplot: as the last expression of a
notebook cell it is shown once, and not a second time at the end of the cell.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_scalebar.scalebar import ScaleBar
from skimage.measure import find_contours

from synthseg.notebook import show_source, store_pictures, table

__all__ = ["PALETTE", "curves", "image_grid", "show_source", "spectrum_plot", "style", "table"]

#: Colours that people with a colour vision deficiency can tell apart (Okabe and Ito 2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines also differ in their dashes, for greyscale print.
_DASHES = ("-", "--", "-.", ":")
_MASK, _PREDICTION = PALETTE[4], PALETTE[5]

_WIDTH = 6.5  # inches of a figure: text of 12 points is then 9 pixels high on a phone
_DPI = 200  # of pictures, at least; pages show them at half their size or less
_GAP = 6  # pixels between the panels of a grid


def style() -> None:
    """Set Matplotlib's defaults for all figures of a chapter, and how a notebook stores them."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.dpi": _DPI,
            "figure.figsize": (_WIDTH, 3.8),
            "font.size": 12,
            "image.cmap": "gray",
            "image.interpolation": "antialiased",  # else images made smaller would alias
            "legend.frameon": False,
            "savefig.dpi": _DPI,
            "svg.fonttype": "path",  # looks the same where a font is missing
            "svg.hashsalt": "synthseg",  # the same data gives the same SVG file
        }
    )
    store_pictures()


def _subplots() -> tuple[Figure, Axes]:
    """`pyplot.subplots` without overlapping labels, closed for pyplot (see the module's text)."""
    figure, axes = plt.subplots(layout="constrained")
    plt.close(figure)  # can still be drawn into and shown
    return figure, axes


Rows = Sequence[Sequence[np.ndarray] | np.ndarray]
Outlines = Sequence[Sequence[np.ndarray] | np.ndarray | None]


def image_grid(
    rows: Rows,
    masks: Outlines | None = None,
    predictions: Outlines | None = None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    nm_per_pixel: float | None = None,
) -> Figure:
    """Rows of grey images, with the outlines of masks and predictions, and a scale bar.

    The grey scale is fixed, so that images can be compared: 0 to 255 for integers, -1 to 1 for
    floats; an image that holds nothing but 0 and 1 is a mask and is shown black and white. Each
    pixel of the widest image is drawn equally large; wider images than fit on a page are smoothed.

    Parameters
    ----------
    rows : sequence of rows, each a sequence of ndarray, shape (height, width) or (height, width, 1)
        Images; an array of shape (n, height, width, 1) is a row too. Rows may differ in length.
    masks, predictions : sequence of rows, each like the row of images, or None for none
        Of the same shapes as the images; everything above 0.5 is foreground. Masks are outlined
        in orange, predictions in blue over them, and a legend says so where there are both.
    titles, row_labels : sequence of str
        Titles of the columns, and labels at the left of the rows.
    nm_per_pixel : float
        Pixel size of the images in nanometres; draws a scale bar in the first image of each row.

    Raises
    ------
    ValueError
        If there is no image, or the numbers or shapes of masks, titles or labels do not match.
    """
    if len(rows) == 0 or any(len(row) == 0 for row in rows):
        raise ValueError("image_grid needs at least one row, and one image in each row.")
    columns = max(len(row) for row in rows)
    for name, given, expected in (
        ("masks", masks, len(rows)),
        ("predictions", predictions, len(rows)),
        ("titles", titles, columns),
        ("row_labels", row_labels, len(rows)),
    ):
        if given is not None and len(given) != expected:
            raise ValueError(f"{name} has {len(given)} entries, but the grid needs {expected}.")
    planes = [[_plane(image) for image in row] for row in rows]
    figure, axes = _panels(planes, columns, titles or (), row_labels or ())
    for row, row_axes in zip(planes, axes, strict=True):
        for image, axis in zip(row, row_axes, strict=False):
            _show_grey(axis, image)
        if nm_per_pixel is not None:
            row_axes[0].add_artist(_scale_bar(nm_per_pixel))
    for outlines, colour in ((masks, _MASK), (predictions, _PREDICTION)):
        for row, row_axes, drawn in zip(planes, axes, outlines or (), strict=False):
            if drawn is None:
                continue
            if len(drawn) != len(row):
                raise ValueError(f"A row has {len(row)} images, but {len(drawn)} masks.")
            for image, axis, mask in zip(row, row_axes, drawn, strict=False):
                _draw_outlines(axis, _plane(mask), image.shape, colour)
    if masks is not None and predictions is not None:
        handles = [plt.Line2D([], [], color=colour) for colour in (_MASK, _PREDICTION)]
        figure.legend(
            handles, ["mask", "prediction"], loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2
        )
    return figure


def curves(
    history: pd.DataFrame,
    names: Mapping[str, str],
    *,
    step: str = "epoch",
    xlabel: str = "epoch",
    ylabel: str = "",
) -> Figure:
    """Training curves: `names` maps the columns that are drawn to labels.

    `step` is the column of the horizontal axis. A missing column is a ValueError.
    """
    missing = [column for column in (step, *names) if column not in history]
    if missing:
        raise ValueError(
            f"The history has no column {', '.join(missing)}; it has {', '.join(history.columns)}."
        )
    figure, axes = _subplots()
    for index, (column, label) in enumerate(names.items()):
        axes.plot(history[step], history[column], **_line(index), linewidth=2, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside upper left", ncols=2)  # never on top of a line
    return figure


def spectrum_plot(
    frequencies: np.ndarray, spectra: Mapping[str, np.ndarray], nm_per_pixel: float
) -> Figure:
    """Radial power spectra of sets of images, on a logarithmic scale.

    `frequencies` are in cycles per pixel; `spectra` maps labels to the power at these. An upper
    axis has the periods in nanometres. Periods of 2, 4 and 8 pixels are marked: there a network
    that up-samples by 2 leaves its checkerboard.
    """
    figure, axes = _subplots()
    frequencies, periods = np.asarray(frequencies), (2, 4, 8)
    shown = frequencies > 0  # the mean grey would only stretch the axis
    for index, (label, power) in enumerate(spectra.items()):
        axes.plot(frequencies[shown], np.asarray(power)[shown], **_line(index), label=label)
    for period in periods:
        axes.axvline(1 / period, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"{period} px ",
            (1 / period, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="right",
            fontsize="small",
            color="0.35",
        )
    axes.set(
        xlabel="spatial frequency (cycles per pixel)",
        ylabel="power (squared grey values)",
        yscale="log",
    )
    upper = axes.secondary_xaxis("top")
    labels = [f"{period * nm_per_pixel:.3g}" for period in periods]
    upper.set_xticks([1 / period for period in periods], labels)
    upper.set_xlabel("period (nm)")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _line(index: int) -> dict[str, Any]:
    colour, dashes = PALETTE[index % len(PALETTE)], _DASHES[index % len(_DASHES)]
    return {"color": colour, "linestyle": dashes}


def _panels(
    rows: Sequence[Sequence[np.ndarray]],
    columns: int,
    titles: Sequence[str],
    row_labels: Sequence[str],
) -> tuple[Figure, np.ndarray]:
    """Figure with empty panels: rows of exactly as many pixels as the images need."""
    left, top = (
        0.22 * max((1 + t.count("\n") for t in texts), default=0) for texts in (row_labels, titles)
    )  # inches
    widest = max(image.shape[1] for row in rows for image in row)
    inches = min((_WIDTH - left) / columns, _WIDTH / 2)
    room = int(inches * _DPI) - _GAP
    width = widest * int(np.ceil(room / widest)) if widest <= room else room
    dpi = (width + _GAP) / inches
    heights = [round(width * row[0].shape[0] / row[0].shape[1]) for row in rows]
    left, upper = round(left * dpi), sum(heights) + _GAP * len(rows)
    size = left + columns * (width + _GAP), upper + round(top * dpi)
    figure = plt.figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    plt.close(figure)
    axes = np.empty((len(rows), columns), dtype=object)
    for row, height in enumerate(heights):
        upper -= height
        for column in range(columns):
            box = left + column * (width + _GAP), upper, width, height
            axis = axes[row, column] = figure.add_axes(tuple(np.divide(box, (*size, *size))))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        upper -= _GAP
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize="medium")
    for axis, label in zip(axes[:, 0], row_labels, strict=False):
        axis.set_ylabel(label)
    return figure, axes


def _plane(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2 or image.size == 0:
        raise ValueError(
            "An image must have the shape (height, width) or (height, width, 1), not "
            f"{image.shape}."
        )
    return image


def _show_grey(axis: Axes, image: np.ndarray) -> None:
    if np.isin(image, (0, 1)).all():
        low, high = 0, 1
    else:
        low, high = (0, 255) if np.issubdtype(image.dtype, np.integer) else (-1, 1)
    # Picking pixels of an image that is made smaller would alias.
    smaller = axis.get_window_extent().width < image.shape[1] - 0.5
    interpolation = "hanning" if smaller else "nearest"
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=interpolation)


def _draw_outlines(axis: Axes, mask: np.ndarray, shape: tuple[int, ...], colour: str) -> None:
    if mask.shape != shape:
        raise ValueError(f"The mask has the shape {mask.shape}, but its image {shape}.")
    # With a border of background, outlines of objects that touch the image border are closed.
    for outline in find_contours(np.pad(mask > 0.5, 1).astype(float), 0.5):
        axis.plot(outline[:, 1] - 1, outline[:, 0] - 1, color=colour, linewidth=1)
    height, width = shape
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _scale_bar(nm_per_pixel: float) -> ScaleBar:
    return ScaleBar(
        nm_per_pixel,
        "nm",
        length_fraction=1 / 3,
        location="lower left",
        color="white",
        box_color="black",
        box_alpha=0.5,
        font_properties={"size": "x-small"},
    )
