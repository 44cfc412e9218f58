"""Figures that several chapters share.

Each function returns the Matplotlib figure, closed for pyplot: as the last expression of a
notebook cell it is shown once, and not a second time at the end of the cell.
"""

import ast
import html
import inspect
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from matplotlib_scalebar.scalebar import ScaleBar
from PIL import Image
from skimage.measure import find_contours

#: Colours that people with a colour vision deficiency can tell apart (Okabe and Ito 2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines also differ in their dashes, for greyscale print.
_DASHES = ("-", "--", "-.", ":")
_MASK_COLOUR, _PREDICTION_COLOUR = PALETTE[4], PALETTE[5]

# Pixels of a picture across: twice those of a page, so that it is sharp on a fine screen, too.
_PAGE = 1600
_GAP = 10  # pixels between the panels of a grid
_FONT = 17  # points, on such a picture
_GREYS = 32  # levels of grey in the pictures of a notebook
_COLOURS = 128  # further colours in them, at most
_MICROGRAPHS = "micrographs"  # mark of figures that become PNG rather than SVG


def style() -> None:
    """Set Matplotlib's defaults for all figures of a chapter: palette, sizes, resolution.

    In a notebook, plots become SVG, which is sharp at any size, and grids of micrographs PNG
    pictures of few colours: micrographs are full of noise, and its last bits would make the
    greater part of a notebook's size.
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.dpi": 100,
            "figure.figsize": (6.5, 3.8),
            "font.size": 11,
            "image.cmap": "gray",
            "image.interpolation": "antialiased",  # else images made smaller would alias
            "legend.frameon": False,
            # The same data gives the same SVG file.
            "svg.hashsalt": "synthseg",
        }
    )
    shell = get_ipython()
    if shell is not None:
        # Loads the notebook's backend, which sets a formatter of its own; the later one counts.
        plt.switch_backend(plt.get_backend())
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, _svg)


def image_grid(
    rows: Sequence[Sequence[np.ndarray] | np.ndarray],
    masks: Sequence[Sequence[np.ndarray] | np.ndarray | None] | None = None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    nm_per_pixel: float | None = None,
    predictions: Sequence[Sequence[np.ndarray] | np.ndarray | None] | None = None,
) -> Figure:
    """Rows of grey images, with the outlines of their masks and a scale bar.

    The grey scale is fixed, so that images can be compared: 0 to 255 for integers, -1 to 1 for
    floats. An image that holds nothing but 0 and 1 is a mask and is shown black and white.

    All panels have the width of a whole multiple of the widest image's pixels, so that each of
    these pixels is drawn equally large. Wider images than fit on a page are made smaller, with
    smoothing.

    Parameters
    ----------
    rows : sequence of rows, each a sequence of ndarray, shape (height, width) or (height, width, 1)
        Images; an array of shape (n, height, width, 1) is a row too. Rows may differ in length.
    masks : sequence of rows, each like the row of images, or None for a row without outlines
        Masks of the same shapes as the images; everything above 0.5 is foreground.
    titles : sequence of str
        Titles of the columns.
    row_labels : sequence of str
        Labels at the left of the rows.
    nm_per_pixel : float
        Pixel size of the images as given, in nanometres; draws a scale bar in the first image of
        each row.
    predictions : sequence of rows
        Like `masks`; outlined in blue, where masks are orange.

    Returns
    -------
    matplotlib.figure.Figure

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
    if nm_per_pixel is not None and not nm_per_pixel > 0:
        raise ValueError(f"nm_per_pixel must be above 0, not {nm_per_pixel}.")

    shapes = [_plane(image).shape for row in rows for image in row]
    panel = _panel_width(max(width for _, width in shapes), columns)  # pixels
    figure, axes = _panels(
        [round(panel * height / width) for height, width in (_plane(row[0]).shape for row in rows)],
        panel,
        columns,
        left=0 if row_labels is None else 2 * _FONT * _lines(row_labels),
        top=0 if titles is None else 2 * _FONT * _lines(titles),
    )
    for row, row_axes in zip(rows, axes, strict=True):
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, image in zip(row_axes, row, strict=False):
            _show_grey(axis, _plane(image), panel)
        if nm_per_pixel is not None:
            _draw_scale_bar(row_axes[0], nm_per_pixel)
    for outlined, colour in ((masks, _MASK_COLOUR), (predictions, _PREDICTION_COLOUR)):
        for index, row_masks in enumerate(outlined or ()):
            if row_masks is None:
                continue
            if len(row_masks) != len(rows[index]):
                raise ValueError(
                    f"Row {index} has {len(rows[index])} images, but {len(row_masks)} masks."
                )
            for axis, mask, image in zip(axes[index], row_masks, rows[index], strict=False):
                _draw_contours(axis, _plane(mask), _plane(image).shape, colour)
    for axis, title in zip(axes[0], titles or (), strict=False):
        axis.set_title(title, fontsize=_FONT)
    for axis, label in zip(axes[:, 0], row_labels or (), strict=False):
        axis.set_ylabel(label, fontsize=_FONT)
    figure.set_gid(_MICROGRAPHS)
    return figure


def curves(
    history: pd.DataFrame | Sequence[pd.DataFrame],
    columns: Sequence[str] | Mapping[str, str],
    *,
    step: str = "epoch",
    xlabel: str | None = None,
    ylabel: str = "",
    log: bool = False,
) -> Figure:
    """Training curves of one run, or of several runs with their mean.

    Parameters
    ----------
    history : DataFrame or sequence of DataFrame
        One row per epoch; one table per run (seed). Several runs are drawn as thin lines, and
        their mean as a thick one.
    columns : sequence of str, or mapping from column to label
        Columns to draw.
    step : str
        Column of the horizontal axis.
    xlabel, ylabel : str
        Labels of the axes; `xlabel` is `step` if not given.
    log : bool
        Logarithmic vertical axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no history, or a column is missing in one.
    """
    runs = [history] if isinstance(history, pd.DataFrame) else list(history)
    if not runs:
        raise ValueError("curves needs at least one history.")
    labels = columns if isinstance(columns, Mapping) else {column: column for column in columns}
    for run in runs:
        missing = [column for column in (step, *labels) if column not in run]
        if missing:
            raise ValueError(
                f"The history has no column {', '.join(missing)}; it has {', '.join(run.columns)}."
            )
    figure, axes = _subplots()
    for index, (column, label) in enumerate(labels.items()):
        line: dict[str, Any] = {
            "color": PALETTE[index % len(PALETTE)],
            "linestyle": _DASHES[index % len(_DASHES)],
        }
        if len(runs) > 1:
            for run in runs:
                axes.plot(run[step], run[column], **line, linewidth=0.8, alpha=0.35)
        mean = pd.concat(runs).groupby(step)[column].mean()
        axes.plot(mean.index, mean, **line, linewidth=2, label=label)
    axes.set(xlabel=xlabel or step, ylabel=ylabel, yscale="log" if log else "linear")
    axes.legend()
    return figure


def spectrum_plot(
    frequencies: np.ndarray,
    spectra: Mapping[str, np.ndarray],
    *,
    nm_per_pixel: float | None = None,
    periods: Sequence[float] = (2, 4, 8),
) -> Figure:
    """Radial power spectra of sets of images, on a logarithmic scale.

    Parameters
    ----------
    frequencies : ndarray, shape (n,)
        Spatial frequencies in cycles per pixel.
    spectra : mapping from label to ndarray, shape (n,)
        Power at these frequencies.
    nm_per_pixel : float
        Pixel size in nanometres; adds an axis of periods in nanometres.
    periods : sequence of float
        Periods in pixels to mark by vertical lines. A network that up-samples by 2 leaves its
        checkerboard at 2, 4, 8... pixels.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no spectrum, or the length of one is not that of the frequencies.
    """
    if not spectra:
        raise ValueError("spectrum_plot needs at least one spectrum.")
    frequencies = np.asarray(frequencies)
    figure, axes = _subplots()
    for index, (label, power) in enumerate(spectra.items()):
        if np.shape(power) != frequencies.shape:
            raise ValueError(
                f"Spectrum {label!r} has the shape {np.shape(power)}, but the frequencies "
                f"{frequencies.shape}."
            )
        # The mean grey (frequency 0) would only stretch the axis.
        axes.plot(
            frequencies[frequencies > 0],
            np.asarray(power)[frequencies > 0],
            color=PALETTE[index % len(PALETTE)],
            linestyle=_DASHES[index % len(_DASHES)],
            label=label,
        )
    for period in periods:
        axes.axvline(1 / period, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            f"{period:g} px",
            (1 / period, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            fontsize="small",
            color="0.4",
        )
    axes.set(
        xlabel="spatial frequency (cycles per pixel)",
        ylabel="power (squared grey values)",
        yscale="log",
    )
    if nm_per_pixel is not None:
        period_axis = axes.secondary_xaxis("top")
        period_axis.set_xticks(
            [1 / period for period in periods],
            [f"{period * nm_per_pixel:g}" for period in periods],
        )
        period_axis.set_xlabel("period (nm)")
    axes.legend()
    return figure


def show_source(*functions: Callable | type) -> None:
    """Show the source of functions or classes of the module, highlighted, below a notebook cell.

    What a chapter prints is thereby the code that ran, never a copy; of docstrings the first line
    is shown.
    """
    from IPython.display import Code, display  # only needed, and only there, in a notebook

    for function in functions:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        display(Code(_with_short_docstrings(source) + "\n", language="python"))


def _with_short_docstrings(source: str) -> str:
    """The same source with only the first line of each docstring."""
    lines = source.splitlines()
    for node in reversed(list(ast.walk(ast.parse(source)))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            text = node.body[0]
            assert text.end_lineno is not None  # it was just parsed
            if text.end_lineno > text.lineno:
                lines[text.lineno - 1] += '"""'
                del lines[text.lineno : text.end_lineno]
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table as a cell shows it; made by :func:`table`."""

    heads: list[str]
    rows: list[list[str]]
    numeric: list[bool]

    def __repr__(self) -> str:
        """The table as plain text."""
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self.numeric, strict=True)
            ).rstrip()
            for row in (self.heads, *self.rows)
        )

    def _repr_html_(self) -> str:
        def line(tag: str, cells: list[str]) -> str:
            made = (
                f'<{tag} style="text-align: {"right" if right else "left"}">{html.escape(cell)}</'
                f"{tag.split()[0]}>"
                for cell, right in zip(cells, self.numeric, strict=True)
            )
            return f"<tr>{''.join(made)}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        head = line('th scope="col"', self.heads)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def table(
    frame: pd.DataFrame,
    names: Mapping[str, str] | None = None,
    digits: int | Mapping[str, int] = 3,
) -> Table:
    """A table for a page: human heads, sensible digits, no index column, no text cut off.

    Parameters
    ----------
    frame : DataFrame
        One row a row.
    names : mapping from column to head
        Columns to show, in this order, with their heads; by default all, by their names.
    digits : int, or mapping from column to int
        Decimal places of numbers that are not whole (3 for columns that are not named).
    """
    chosen = dict(names or {column: str(column) for column in frame})

    def shown(value: Any, places: int) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float):
            text = f"{value:,.{places}f}"
            return text.lstrip("-") if float(text.replace(",", "")) == 0 else text
        return str(value)

    columns = []
    for column in chosen:
        places = digits if isinstance(digits, int) else digits.get(column, 3)
        columns.append([shown(value, places) for value in frame[column].tolist()])
    numeric = [
        pd.api.types.is_numeric_dtype(frame[column]) and frame[column].dtype != bool
        for column in chosen
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(list(chosen.values()), rows, numeric)


def _subplots(*grid: int, **settings: Any) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(*grid, layout="constrained", **settings)
    plt.close(figure)  # can still be drawn into and shown
    return figure, axes


def _lines(labels: Sequence[str]) -> int:
    """Lines of the longest label."""
    return max(label.count("\n") + 1 for label in labels)


def _panel_width(width: int, columns: int) -> int:
    """Width of the panels of a grid for images `width` pixels wide, in pixels."""
    room = min(_PAGE // columns - _GAP, 640 if columns <= 3 else 300)
    return width * (room // width) if width <= room else room


def _panels(
    heights: Sequence[int], width: int, columns: int, left: int, top: int
) -> tuple[Figure, np.ndarray]:
    """Empty figure with rows of panels of exactly these sizes; all lengths in pixels."""
    total_width = left + columns * (width + _GAP)
    total_height = top + sum(heights) + _GAP * len(heights)
    dpi = plt.rcParams["figure.dpi"]
    figure = plt.figure(figsize=(total_width / dpi, total_height / dpi))
    plt.close(figure)  # can still be drawn into and shown
    axes = np.empty((len(heights), columns), dtype=object)
    upper = total_height - top
    for row, height in enumerate(heights):
        upper -= height
        for column in range(columns):
            corner = left + column * (width + _GAP), upper
            axes[row, column] = figure.add_axes(
                (
                    corner[0] / total_width,
                    corner[1] / total_height,
                    width / total_width,
                    height / total_height,
                )
            )
        upper -= _GAP
    return figure, axes


def _svg(figure: Figure) -> str | None:
    """SVG picture of a plot; None for a grid of micrographs."""
    if figure.get_gid() == _MICROGRAPHS:
        return None
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def _png(figure: Figure) -> bytes | None:
    """PNG picture of a grid of micrographs, with few colours; None for a plot."""
    if figure.get_gid() != _MICROGRAPHS:
        return None
    figure.draw_without_rendering()  # now labels have their places
    dpi, margin = figure.dpi, 4
    box = figure.get_tightbbox()
    # Whole pixels, else those of the images would be shifted or doubled.
    low = np.floor(np.multiply(box.min, dpi)) - margin
    high = np.ceil(np.multiply(box.max, dpi)) + margin
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches=Bbox([low / dpi, high / dpi]))
    picture = Image.open(stream).convert("RGB")
    # An octree keeps rare colours, such as those of outlines, but few greys: these are rounded.
    octree = picture.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    values, full = np.array(octree.convert("RGB")), np.asarray(picture)
    is_grey = np.ptp(full, axis=2) < 8
    step = 255 / (_GREYS - 1)
    values[is_grey] = (full[is_grey].mean(axis=1, keepdims=True) / step).round() * step
    codes, index = np.unique(values @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    indexed = Image.fromarray(index.reshape(values.shape[:2]).astype(np.uint8)).convert("P")
    indexed.putpalette(b"".join(int(code).to_bytes(3, "big") for code in codes))
    smaller = io.BytesIO()
    indexed.save(smaller, "png", optimize=True)
    return smaller.getvalue()


def _plane(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2 or image.size == 0:
        raise ValueError(
            f"An image must have the shape (height, width) or (height, width, 1), not "
            f"{image.shape}."
        )
    return image


def _show_grey(axis: Axes, image: np.ndarray, panel: int) -> None:
    """Show an image in a panel of so many pixels across."""
    if np.isin(image, (0, 1)).all():
        low, high = 0, 1
    elif np.issubdtype(image.dtype, np.integer):
        low, high = 0, 255
    else:
        low, high = -1, 1
    # Picking pixels of an image that is made smaller would alias.
    interpolation = "nearest" if panel >= image.shape[1] else "hanning"
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation=interpolation)


def _draw_contours(panel: Axes, mask: np.ndarray, shape: tuple[int, ...], colour: str) -> None:
    if mask.shape != shape:
        raise ValueError(f"The mask has the shape {mask.shape}, but its image {shape}.")
    # With a border of background, outlines of objects that touch the image border are closed.
    for contour in find_contours(np.pad(mask > 0.5, 1).astype(float), 0.5):
        panel.plot(contour[:, 1] - 1, contour[:, 0] - 1, color=colour, linewidth=1.5, zorder=2)
    height, width = shape
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _draw_scale_bar(panel: Axes, nm_per_pixel: float) -> None:
    bar = ScaleBar(
        nm_per_pixel,
        "nm",
        length_fraction=0.33,
        location="lower left",
        color="white",
        box_color="black",
        box_alpha=0.6,
        font_properties={"size": _FONT - 4},
    )
    panel.add_artist(bar)
