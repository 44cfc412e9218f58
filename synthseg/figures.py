"""Figures that several chapters share.

Each function returns the Matplotlib figure, closed for pyplot: as the last expression of a
notebook cell it is shown once, and not a second time at the end of the cell.
"""

import inspect
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from PIL import Image
from skimage.measure import find_contours

#: Colours that people with a colour vision deficiency can tell apart (Okabe and Ito 2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines also differ in their dashes, for greyscale print.
_DASHES = ("-", "--", "-.", ":")
_CONTOUR_COLOUR = PALETTE[4]

# Pixels of a page across, room for eight crops of 128 pixels; a browser makes wider pictures fit.
_PAGE = 1080
_GAP = 6  # pixels between the panels of a grid
_GREYS = 32  # levels of grey in the pictures of a notebook
_COLOURS = 128  # further colours in them, at most


def style() -> None:
    """Set Matplotlib's defaults for all figures of a chapter: palette, sizes, resolution.

    In a notebook, figures become PNG pictures of few colours: electron micrographs are full of
    noise, and its last bits would make the greater part of a notebook's size.
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.dpi": 100,
            "figure.figsize": (7, 4),
            "font.size": 10,
            "image.cmap": "gray",
            "image.interpolation": "antialiased",  # else images made smaller would alias
            "legend.frameon": False,
            "savefig.dpi": 150,
            # The same data gives the same SVG file.
            "svg.hashsalt": "synthseg",
        }
    )
    shell = get_ipython()
    if shell is not None:
        # Loads the notebook's backend, which sets a formatter of its own; the later one counts.
        plt.switch_backend(plt.get_backend())
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


def image_grid(
    rows: Sequence[Sequence[np.ndarray] | np.ndarray],
    masks: Sequence[Sequence[np.ndarray] | np.ndarray | None] | None = None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    nm_per_pixel: float | None = None,
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
        left=0 if row_labels is None else 20 * _lines(row_labels),
        top=0 if titles is None else 20 * _lines(titles),
    )
    for row_index, row in enumerate(rows):
        row_masks = None if masks is None else masks[row_index]
        if row_masks is not None and len(row_masks) != len(row):
            raise ValueError(f"Row {row_index} has {len(row)} images, but {len(row_masks)} masks.")
        for column, axis in enumerate(axes[row_index]):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if column >= len(row):
                continue
            image = _plane(row[column])
            _show_grey(axis, image, panel)
            if row_masks is not None:
                _draw_contours(axis, _plane(row_masks[column]), image.shape)
            if column == 0 and nm_per_pixel is not None:
                _draw_scale_bar(axis, image.shape, nm_per_pixel)
    for axis, title in zip(axes[0], titles or (), strict=False):
        axis.set_title(title, fontsize="medium")
    for axis, label in zip(axes[:, 0], row_labels or (), strict=False):
        axis.set_ylabel(label)
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

    What a chapter prints is thereby the code that ran, never a copy.

    Parameters
    ----------
    *functions : function or class
        What to show, in this order.
    """
    from IPython.display import Code, display  # only needed, and only there, in a notebook

    for function in functions:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        display(Code(source, language="python"))


def _subplots(*grid: int, **settings: Any) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(*grid, layout="constrained", **settings)
    plt.close(figure)  # can still be drawn into and shown
    return figure, axes


def _lines(labels: Sequence[str]) -> int:
    """Lines of the longest label."""
    return max(label.count("\n") + 1 for label in labels)


def _panel_width(width: int, columns: int) -> int:
    """Width of the panels of a grid for images `width` pixels wide, in pixels."""
    room = min(_PAGE // columns - _GAP, 440 if columns <= 3 else 200)
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


def _png(figure: Figure) -> bytes:
    """PNG picture of a figure for a notebook, with few colours and as large as needed."""
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


def _draw_contours(panel: Axes, mask: np.ndarray, shape: tuple[int, ...]) -> None:
    if mask.shape != shape:
        raise ValueError(f"The mask has the shape {mask.shape}, but its image {shape}.")
    # With a border of background, outlines of objects that touch the image border are closed.
    for contour in find_contours(np.pad(mask > 0.5, 1).astype(float), 0.5):
        panel.plot(
            contour[:, 1] - 1, contour[:, 0] - 1, color=_CONTOUR_COLOUR, linewidth=1, zorder=2
        )
    height, width = shape
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _scale_bar_length(width_nm: float) -> float:
    """Longest round length (1, 2 or 5 times a power of ten) of at most a third of the width."""
    power = 10.0 ** math.floor(math.log10(width_nm / 3))
    # The tolerance keeps a third that is round itself, such as 300 / 3.
    return max(factor * power for factor in (1, 2, 5) if factor * power <= width_nm / 3 * 1.0001)


def _draw_scale_bar(panel: Axes, shape: tuple[int, ...], nm_per_pixel: float) -> None:
    height, width = shape
    length = _scale_bar_length(width * nm_per_pixel)
    label = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    left, bottom = 0.05 * width - 0.5, 0.93 * height - 0.5
    outline = [withStroke(linewidth=2.5, foreground="black")]
    panel.plot(
        [left, left + length / nm_per_pixel],
        [bottom, bottom],
        color="white",
        linewidth=3,
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=5, foreground="black")],
        label=label,
        zorder=3,
    )
    panel.annotate(
        label,
        (left, bottom),
        xytext=(0, 4),
        textcoords="offset points",
        color="white",
        fontsize="small",
        path_effects=outline,
        zorder=3,
    )
