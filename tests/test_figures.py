"""What the figures show: outlines, scale bars, grey scales, lines; tables; source."""

import io
import re
from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import PNGFormatter, SVGFormatter
from matplotlib_scalebar.scalebar import ScaleBar
from PIL import Image

from synthseg import figures, notebook


@pytest.fixture(autouse=True)
def default_settings():
    with matplotlib.rc_context():
        figures.style()
        yield
    assert plt.get_fignums() == []  # else a notebook would show the figure twice


@pytest.fixture
def formatters(monkeypatch):
    """What a notebook would use to store figures."""
    found = {"image/png": PNGFormatter(), "image/svg+xml": SVGFormatter()}
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters=found))
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    figures.style()
    return found


def picture_of(figure, formatters):
    """RGB values of the picture that a notebook shows of a figure, and its shown width."""
    content, shown = formatters["image/png"](figure)
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == "P"  # a byte for each pixel
    return np.asarray(picture.convert("RGB")).astype(int), shown["width"]


def lines_of(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def test_outlines_follow_mask_and_prediction():
    image = np.full((20, 30, 1), 128, dtype=np.uint8)
    mask = np.zeros((20, 30, 1), dtype=np.uint8)
    mask[5:10, 8:20] = 1
    figure = figures.image_grid([[image]], masks=[[mask]], predictions=[[mask[::-1]]])
    outline, predicted = figure.axes[0].lines
    points = outline.get_xydata()
    np.testing.assert_allclose(points.min(axis=0), [7.5, 4.5])
    np.testing.assert_allclose(points.max(axis=0), [19.5, 9.5])
    np.testing.assert_array_equal(points[0], points[-1])
    np.testing.assert_allclose(predicted.get_xydata().min(axis=0), [7.5, 9.5])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["mask", "prediction"]
    colours = [line.get_color() for line in legend.legend_handles]
    assert colours == [outline.get_color(), predicted.get_color()]


@pytest.mark.parametrize(("side", "count", "zoom"), [(128, 7, 2), (64, 5, 4)])
def test_picture_draws_each_pixel_of_a_crop_equally_large(side, count, zoom, formatters):
    crops = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    figure = figures.image_grid(
        [crops, crops[::-1]], titles=list("abcdefg")[:count], row_labels=["a\nb", "c"]
    )
    picture, width = picture_of(figure, formatters)
    assert picture.shape[1] > 1.98 * width  # sharp on dense screens
    assert width < 700
    grey = picture.mean(axis=2)
    expected = crops[2].repeat(zoom, axis=0).repeat(zoom, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(grey, expected[:2].shape)
    errors = [np.abs(row - expected[:2]).mean(axis=(1, 2)).min() for row in windows]
    top = int(np.argmin(errors))
    assert errors[top] < 4  # of 256; a shift by one pixel has 85
    for row in range(0, side * zoom - 1, 14):
        at_row = np.abs(windows[top + row] - expected[row : row + 2])
        assert at_row.mean(axis=(1, 2)).min() < 4


def test_picture_keeps_the_colour_of_thin_outlines(formatters):
    crops = np.random.default_rng(0).normal(0, 0.3, (7, 128, 128)).clip(-1, 1)
    masks = np.zeros((7, 128, 128))
    masks[3, 40:60, 40:60] = 1
    picture, _ = picture_of(figures.image_grid([crops], masks=[masks]), formatters)
    orange = picture[..., 0] - picture[..., 2] > 60
    assert orange.sum() >= 4 * 20


def test_wide_images_are_made_smaller_without_aliasing(formatters):
    stripes = np.zeros((300, 1024), np.uint8)
    stripes[:, ::2] = 255  # far too fine for a panel of a third of the page
    picture, _ = picture_of(figures.image_grid([[stripes] * 3]), formatters)
    assert picture.shape[1] <= 1320
    middle = picture[picture.shape[0] // 2, 40:300]
    assert np.abs(middle - 127.5).max() < 30


def test_plots_are_stored_as_the_same_svg_each_time_and_micrographs_are_not(formatters):
    def stored():
        figure, axes = figures._subplots()
        axes.plot([1, 2], label="a line")
        axes.legend()
        return formatters["image/svg+xml"](figure)

    (first, shown), second = stored(), stored()
    assert (first, shown) == second
    assert 500 < shown["width"] < 700
    assert "<dc:date>" not in first
    assert formatters["image/svg+xml"](figures.image_grid([[np.zeros((8, 8))]])) is None


def test_grid_titles_and_labels():
    batch = np.zeros((3, 8, 8, 1), dtype=np.float32)
    figure = figures.image_grid(
        [batch, batch[:2]],
        masks=[None, batch[:2]],
        titles=["a", "b", "c"],
        row_labels=["real", "generated"],
    )
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert [figure.axes[index].get_ylabel() for index in (0, 3)] == ["real", "generated"]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert not any(axes.lines for axes in figure.axes)  # empty masks have no outline


@pytest.mark.parametrize(
    ("image", "limits"),
    [
        (np.array([[10, 200]], dtype=np.uint8), (0, 255)),
        (np.array([[-0.2, 0.1]], dtype=np.float32), (-1, 1)),
        (np.array([[0, 1]], dtype=np.float32), (0, 1)),
        (np.array([[False, True]]), (0, 1)),
    ],
)
def test_grey_scale_is_fixed(image, limits):
    (axes,) = figures.image_grid([[image]]).axes
    assert axes.images[0].get_clim() == limits


def test_scale_bar_in_the_first_image_of_each_row():
    image = np.zeros((64, 128), dtype=np.float32)
    figure = figures.image_grid([[image, image], [image, image]], nm_per_pixel=12.5)
    figure.draw_without_rendering()
    bars = [
        [artist for artist in axes.artists if isinstance(artist, ScaleBar)] for axes in figure.axes
    ]
    assert [len(found) for found in bars] == [1, 0, 1, 0]
    assert bars[0][0].info.scale_text.replace("\u2009", " ") == "500 nm"
    assert bars[0][0].info.length_px == pytest.approx(40)


def test_grid_refuses_what_does_not_match():
    image = np.zeros((8, 8), dtype=np.float32)
    for arguments, message in (
        (([],), "at least one row"),
        (([[image, image]], None, None, ["a"]), "titles has 1 entries, but the grid needs 2"),
        (([[image]], [[image[:4]]]), "mask has the shape"),
        (([[image]], [[image, image]]), "2 masks"),
        (([[image[np.newaxis]]],), "An image must have"),
    ):
        with pytest.raises(ValueError, match=message):
            figures.image_grid(*arguments)


def test_curves():
    history = pd.DataFrame({"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "val_loss": [3, 2.5, 2]})
    figure = figures.curves(history, {"loss": "training", "val_loss": "validation"}, ylabel="BCE")
    lines = lines_of(figure)
    assert set(lines) == {"training", "validation"}
    np.testing.assert_array_equal(lines["training"].get_xydata(), [[0, 3], [1, 2], [2, 1]])
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 2
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].get_ylabel() == "BCE"
    with pytest.raises(ValueError, match="no column dice; it has epoch, loss, val_loss"):
        figures.curves(history, {"dice": "Dice"})


def test_spectrum_plot():
    power = np.array([100.0, 5, 4, 3, 2, 1])
    spectra = {"real": power, "generated": 2 * power}
    figure = figures.spectrum_plot(np.linspace(0, 0.5, 6), spectra, nm_per_pixel=12.5)
    np.testing.assert_array_equal(lines_of(figure)["generated"].get_ydata(), 2 * power[1:])
    (period_axis,) = figure.axes[0].child_axes
    np.testing.assert_allclose(period_axis.get_xticks(), [0.5, 0.25, 0.125])
    assert [label.get_text() for label in period_axis.get_xticklabels()] == ["25", "50", "100"]


FRAME = pd.DataFrame(
    {
        "arm": ["A0", "A1 & <more>, " + "a long text " * 20],
        "test_dice": [0.78123, np.nan],
        "difference": [-0.0002, -0.0312],
        "frechet": [238.817264, 12.34],
        "steps": [3200, 250],
        "settings": [0.0003, True],
    }
)


def test_table_cells():
    shown = figures.table(FRAME, {"arm": "Arm", "test_dice": "Test Dice"})
    assert shown.heads == ["Arm", "Test Dice", "difference", "frechet", "steps", "settings"]
    assert shown.rows[0] == ("A0", "0.781", "0.000", "238.8", "3200", "0.0003")
    assert shown.rows[1][1:] == ("–", "−0.031", "12.3", "250", "yes")
    assert shown.rows[1][0] == FRAME["arm"][1]
    digits = figures.table(FRAME, digits={"frechet": 0, "difference": 4})
    assert digits.rows[0][1:4] == ("0.781", "−0.0002", "239")


def test_table_as_html_markdown_and_text():
    shown = figures.table(FRAME, caption="Arms")
    page = shown._repr_html_()
    assert "<caption>Arms</caption>" in page
    assert "A1 &amp; &lt;more&gt;" in page
    assert page.count('scope="col"') == 6
    assert page.count('scope="row"') == 2
    assert '<td style="text-align: right">238.8</td>' in page
    assert len({line.count("|") for line in shown._repr_markdown_().splitlines()}) == 1
    head, first, *_ = repr(shown).splitlines()[1:]
    assert re.search(r"A0 +0\.781 +0\.000 +238\.8 +3200 +0\.0003$", first)
    assert head.index("test_dice") + len("test_dice") == first.index("0.781") + len("0.781")


class Documented:
    """A class.

    Its second paragraph is left out.
    """

    def double(self, number):
        """Twice the number.

        Parameters
        ----------
        number : float
        """
        # A comment stays.
        return 2 * number


def test_source_is_shown_with_the_first_lines_of_docstrings(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", shown.append)
    figures.show_source(Documented, Documented.double)
    whole, method = (markdown.data for markdown in shown)
    assert method == (
        '```python\ndef double(self, number):\n    """Twice the number."""\n'
        "    # A comment stays.\n    return 2 * number\n```"
    )
    assert '    """A class."""\n\n    def double' in whole
    assert "paragraph" not in whole
    assert "Parameters" not in whole
