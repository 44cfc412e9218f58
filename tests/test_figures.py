"""What the figures show: outlines, scale bars, grey scales, lines."""

import io
from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import PNGFormatter
from PIL import Image

from synthseg import figures


@pytest.fixture(autouse=True)
def default_settings():
    with matplotlib.rc_context():
        figures.style()
        yield
    assert plt.get_fignums() == []  # else a notebook would show the figure twice


def lines_of(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def test_grid_outlines_follow_the_mask():
    image = np.full((20, 30, 1), 128, dtype=np.uint8)
    mask = np.zeros((20, 30, 1), dtype=np.uint8)
    mask[5:10, 8:20] = 1
    figure = figures.image_grid([[image]], masks=[[mask]])
    figure.canvas.draw()
    (axes,) = figure.axes
    (outline,) = axes.lines
    points = outline.get_xydata()
    np.testing.assert_allclose(points.min(axis=0), [7.5, 4.5])
    np.testing.assert_allclose(points.max(axis=0), [19.5, 9.5])
    np.testing.assert_array_equal(points[0], points[-1])


def test_grid_outline_of_an_object_at_the_border_is_closed():
    image = np.zeros((10, 10), dtype=np.float32)
    mask = np.zeros((10, 10))
    mask[:3, :3] = 1
    (axes,) = figures.image_grid([[image]], masks=[[mask]]).axes
    (outline,) = axes.lines
    np.testing.assert_array_equal(*outline.get_xydata()[[0, -1]])
    assert axes.get_xlim() == (-0.5, 9.5)
    assert axes.get_ylim() == (9.5, -0.5)


def picture_of(figure, monkeypatch):
    """RGB values of the picture that a notebook shows of a figure."""
    formatter = PNGFormatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": formatter}))
    monkeypatch.setattr(figures, "get_ipython", lambda: shell)
    figures.style()
    picture = Image.open(io.BytesIO(formatter(figure)))
    assert picture.mode == "P"  # a byte for each pixel
    return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize(("side", "zoom"), [(128, 1), (64, 3)])
def test_notebook_picture_draws_each_pixel_of_a_crop_once_and_equally_large(
    side, zoom, monkeypatch
):
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, side, side), dtype=np.uint8)
    figure = figures.image_grid(
        [crops, crops[::-1]], titles=list("abcde"), row_labels=["a\nb", "c"]
    )
    grey = picture_of(figure, monkeypatch).mean(axis=2)
    expected = crops[2].repeat(zoom, axis=0).repeat(zoom, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(grey, expected[:2].shape)
    errors = [np.abs(row - expected[:2]).mean(axis=(1, 2)).min() for row in windows]
    top = int(np.argmin(errors))
    assert errors[top] < 4  # of 256; a shift by one pixel has 85
    for row in range(0, side * zoom, 7):
        at_row = np.abs(windows[top + row - row % 2] - expected[row - row % 2 :][:2])
        assert at_row.mean(axis=(1, 2)).min() < 4


def test_notebook_picture_keeps_the_colour_of_thin_outlines(monkeypatch):
    rng = np.random.default_rng(0)
    crops = rng.normal(0, 0.3, (7, 128, 128)).clip(-1, 1)
    masks = np.zeros((7, 128, 128))
    masks[3, 40:60, 40:60] = 1
    picture = picture_of(figures.image_grid([crops], masks=[masks]), monkeypatch)
    orange = picture[..., 0] - picture[..., 2] > 60
    assert orange.sum() >= 4 * 20  # an outline is wider than a pixel, hence mixed with grey


def test_grid_makes_wide_images_smaller_without_aliasing(monkeypatch):
    stripes = np.zeros((300, 1024), np.uint8)
    stripes[:, ::2] = 255  # far too fine for a panel of a third of the page
    figure = figures.image_grid([[stripes] * 3])
    picture = picture_of(figure, monkeypatch)
    assert picture.shape[1] <= 1100
    middle = picture[picture.shape[0] // 2, 40:300]
    assert np.abs(middle - 127.5).max() < 30


def test_grid_layout_titles_and_labels():
    batch = np.zeros((3, 8, 8, 1), dtype=np.float32)
    figure = figures.image_grid(
        [batch, batch[:2]],
        masks=[None, batch[:2]],
        titles=["a", "b", "c"],
        row_labels=["real", "generated"],
    )
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert [figure.axes[index].get_ylabel() for index in (0, 3)] == ["real", "generated"]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 1, 0]
    assert not any(axes.lines for axes in figure.axes)  # empty masks have no outline


@pytest.mark.parametrize(
    ("image", "limits"),
    [
        (np.array([[10, 200]], dtype=np.uint8), (0, 255)),
        (np.array([[-0.2, 0.1]], dtype=np.float32), (-1, 1)),
        (np.array([[0, 1]], dtype=np.uint8), (0, 1)),
        (np.array([[0, 1]], dtype=np.float32), (0, 1)),
        (np.array([[False, True]]), (0, 1)),
    ],
)
def test_grid_grey_scale_is_fixed(image, limits):
    (axes,) = figures.image_grid([[image]]).axes
    assert axes.images[0].get_clim() == limits


@pytest.mark.parametrize(
    ("width", "nm_per_pixel", "label", "pixels"),
    [(128, 12.5, "500 nm", 40), (1024, 5, "1 µm", 200), (300, 1, "100 nm", 100)],
)
def test_grid_scale_bar(width, nm_per_pixel, label, pixels):
    image = np.zeros((64, width), dtype=np.float32)
    figure = figures.image_grid([[image, image], [image, image]], nm_per_pixel=nm_per_pixel)
    figure.canvas.draw()
    assert [len(axes.lines) for axes in figure.axes] == [1, 0, 1, 0]
    (bar,) = figure.axes[0].lines
    assert bar.get_label() == label == figure.axes[0].texts[0].get_text()
    assert np.ptp(bar.get_xdata()) == pytest.approx(pixels)


def test_grid_refuses_what_does_not_match():
    image = np.zeros((8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="at least one row"):
        figures.image_grid([])
    with pytest.raises(ValueError, match="titles has 1 entries, but the grid needs 2"):
        figures.image_grid([[image, image]], titles=["a"])
    with pytest.raises(ValueError, match="nm_per_pixel"):
        figures.image_grid([[image]], nm_per_pixel=0)
    for arguments, message in (
        (([[image]], [[image[:4]]]), "mask has the shape"),
        (([[image]], [[image, image]]), "2 masks"),
        (([[image[np.newaxis]]],), "An image must have"),
    ):
        with pytest.raises(ValueError, match=message):
            figures.image_grid(*arguments)


def test_curves_of_one_run():
    history = pd.DataFrame({"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "val_loss": [3, 2.5, 2]})
    figure = figures.curves(history, {"loss": "training", "val_loss": "validation"}, ylabel="BCE")
    lines = lines_of(figure)
    assert set(lines) == {"training", "validation"}
    np.testing.assert_array_equal(lines["training"].get_xydata(), [[0, 3], [1, 2], [2, 1]])
    styles = {(line.get_color(), line.get_linestyle()) for line in lines.values()}
    assert len(styles) == 2
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.axes[0].get_ylabel() == "BCE"


def test_curves_of_several_runs_show_their_mean():
    runs = [pd.DataFrame({"step": [0, 100], "dice": [0.1 * seed, 0.5]}) for seed in (1, 3)]
    figure = figures.curves(runs, ["dice"], step="step", xlabel="steps", log=True)
    (axes,) = figure.axes
    assert len(axes.lines) == 3
    np.testing.assert_allclose(lines_of(figure)["dice"].get_ydata(), [0.2, 0.5])
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "steps"


def test_curves_refuse_a_missing_column():
    with pytest.raises(ValueError, match="no column dice; it has epoch, loss"):
        figures.curves(pd.DataFrame({"epoch": [0], "loss": [1]}), ["dice"])
    with pytest.raises(ValueError, match="at least one"):
        figures.curves([], ["dice"])


def test_spectrum_plot():
    frequencies = np.linspace(0, 0.5, 6)
    power = np.array([100.0, 5, 4, 3, 2, 1])
    figure = figures.spectrum_plot(
        frequencies, {"real": power, "generated": 2 * power}, nm_per_pixel=12.5, periods=(2, 4)
    )
    figure.canvas.draw()
    lines = lines_of(figure)
    np.testing.assert_array_equal(lines["generated"].get_ydata(), 2 * power[1:])
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 px", "4 px"]
    (period_axis,) = figure.axes[0].child_axes
    assert period_axis.get_xlabel() == "period (nm)"
    np.testing.assert_allclose(period_axis.get_xticks(), [0.5, 0.25])
    assert [label.get_text() for label in period_axis.get_xticklabels()] == ["25", "50"]


def test_spectrum_plot_refuses_other_lengths():
    with pytest.raises(ValueError, match="'real' has the shape"):
        figures.spectrum_plot(np.arange(4), {"real": np.ones(5)})
    with pytest.raises(ValueError, match="at least one"):
        figures.spectrum_plot(np.arange(4), {})


def test_palette_differs_in_hue_and_in_grey():
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in figures.PALETTE])
    assert len(set(figures.PALETTE)) == len(figures.PALETTE)
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(figures.PALETTE)
    assert (colours.mean(axis=1) < 0.75).all()  # all visible on white


def test_show_source_shows_the_code_that_runs(monkeypatch):
    pytest.importorskip("IPython")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figures.show_source(figures._subplots, figures._plane)
    assert [code.data.splitlines()[0].split("(")[0] for code in shown] == [
        "def _subplots",
        "def _plane",
    ]
    assert shown[0].data.endswith("\n    return figure, axes\n")
    assert shown[0].language == "python"
    assert "highlight" in shown[0]._repr_html_()
