"""Masks for images without masks: same names, same size, the right scale."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tifffile
from skimage.io import imread, imsave

from synthseg import segmenter
from synthseg.command.predict import CHAPTER, Trained, open_run, predict
from synthseg.project import RunError, write_json
from synthseg.sampling import to_network_image
from synthseg.stacks import DataError

CARD = {
    "chapter": CHAPTER,
    "finished": "now",
    "data": {"name": "mine"},
    "parameters": {"size": 32, "crop": 64, "resize": "area"},
}
NUMBERS = {"nm": 10.0, "test_classical_dice": 0.8125, "foreground_train": 0.06}


def make_run(folder: Path, **changes: object) -> Path:
    """A run whose segmenter takes what is dark for mitochondria, as seen through a blur."""
    image = keras.Input((32, 32, 1))
    mean = keras.layers.AveragePooling2D(3, strides=1, padding="same")(image)
    model = keras.Model(image, keras.layers.Rescaling(-10.0)(mean))
    folder.mkdir(parents=True)
    model.save(folder / "segmenter-classical.keras")
    write_json(folder / "card.json", CARD | changes)
    write_json(folder / "metrics.json", NUMBERS)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return open_run(make_run(tmp_path_factory.mktemp("runs") / CHAPTER))


def half_dark(height: int, width: int) -> np.ndarray:
    page = np.full((height, width), 250, np.uint8)
    page[:, : width // 2] = 5
    return page


def save(path: Path, page: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    imsave(path, page, check_contrast=False)
    return path


def test_a_run_says_what_its_segmenter_has_seen(trained: Trained) -> None:
    assert (trained.nm, trained.nm_per_pixel) == (10.0, 5.0)
    for part in ("mine", "0.812", "10 nm"):
        assert part in trained.text


@pytest.mark.parametrize("side", [7, 20, 150])  # smaller than a tile, and larger
@pytest.mark.parametrize("nm", [5.0, 20.0])
def test_slices_keep_name_size_and_place(
    trained: Trained, tmp_path: Path, side: int, nm: float
) -> None:
    names = ["s1.png", "s2.tif", "s10.TIF"]
    for name in names:
        save(tmp_path / "images" / name, half_dark(side, side + 10))
    done = predict(trained, tmp_path / "images", tmp_path / "out.v1", nm)
    assert [path.name for path in done.files] == names
    assert done.picture == tmp_path / "out.v1.png"
    assert done.picture.is_file()
    for path in done.files:
        mask = imread(path)
        assert mask.dtype == np.uint8
        assert mask.shape == (side, side + 10)
        assert set(np.unique(mask)) == {0, 255}
        wrong = (mask > 0) != (half_dark(side, side + 10) < 128)
        assert wrong.any(axis=0).sum() <= 4  # columns at the edge, within a network's pixel or two
    assert done.foreground == pytest.approx(0.5, abs=2 / side)


@pytest.mark.parametrize("name", ["stack.tif", "stack.ome.tif"])
def test_a_stack_gives_a_stack_and_probabilities(
    trained: Trained, tmp_path: Path, name: str
) -> None:
    pages = np.stack([half_dark(40, 50)] * 3).astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / name, pages, photometric="minisblack")
    told = []
    done = predict(
        trained,
        tmp_path / name,
        tmp_path / "new" / "out",
        10.0,
        probability=True,
        progress=lambda *place: told.append(place),
    )
    assert done.files == [tmp_path / "new" / "out" / name]
    assert told == [(1, 3), (2, 3), (3, 3)]
    with tifffile.TiffFile(done.files[0]) as written:
        assert written.series[0].axes == "ZYX"
        values = written.asarray()
    assert values.shape == (3, 40, 50)
    assert values.dtype == np.float32
    assert values[:, :, :23].min() > 0.99
    assert values[:, :, 27:].max() < 0.01


def test_a_folder_may_hold_one_file(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    pages = np.stack([half_dark(40, 50)] * 2)
    tifffile.imwrite(tmp_path / "new" / "stack.tif", pages, photometric="minisblack")
    done = predict(trained, tmp_path / "new", tmp_path / "out")
    assert done.files == [tmp_path / "out" / "stack.tif"]
    assert tifffile.imread(done.files[0]).shape == pages.shape


def test_at_the_scale_of_the_network_it_is_chapter_3s_prediction(
    trained: Trained, tmp_path: Path
) -> None:
    page = np.random.default_rng(0).integers(0, 256, (70, 90), np.uint8)
    save(tmp_path / "a.png", page)
    done = predict(trained, tmp_path / "a.png", tmp_path / "out", 10.0, probability=True)
    model = keras.models.load_model(trained.folder / "segmenter-classical.keras")
    images = to_network_image(page[np.newaxis, ..., np.newaxis]).numpy()
    expected = segmenter.predict_slices(model, images, 32, 8)
    assert done.files == [tmp_path / "out" / "a.tif"]
    np.testing.assert_array_equal(imread(done.files[0]), expected[0, ..., 0])


def test_the_pixel_size_is_that_of_the_run_if_not_given(trained: Trained, tmp_path: Path) -> None:
    page = np.random.default_rng(0).integers(0, 256, (70, 90), np.uint8)
    save(tmp_path / "a.png", page)
    masks = [
        imread(predict(trained, tmp_path / "a.png", tmp_path / f"{nm}", nm).files[0])
        for nm in (None, 5.0, 10.0)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_nothing_is_overwritten_and_nothing_left_half_done(
    trained: Trained, tmp_path: Path
) -> None:
    image = save(tmp_path / "one.png", half_dark(40, 40))

    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(trained, image, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == [image]
    predict(trained, image, tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for name in ("out", "one"):  # a folder, and the place of the picture
        with pytest.raises(RunError, match="exists already"):
            predict(trained, image, tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


def test_a_folder_without_a_finished_run_is_told(tmp_path: Path) -> None:
    for folder in (
        tmp_path,
        make_run(tmp_path / "begun", finished=None),
        make_run(tmp_path / "gan", chapter="02_gan"),
    ):
        with pytest.raises(RunError, match="not the folder of a finished run of chapter 3"):
            open_run(folder)


@pytest.mark.parametrize("nm", [0.0, -5.0, 41.0, float("nan"), float("inf")])
def test_a_pixel_size_that_hides_everything_is_refused(
    trained: Trained, tmp_path: Path, nm: float
) -> None:
    image = save(tmp_path / "one.png", half_dark(40, 40))
    with pytest.raises(RunError, match=r"above 0, and no more than 40"):
        predict(trained, image, tmp_path / "out", nm)


def test_images_that_cannot_be_used_are_told(trained: Trained, tmp_path: Path) -> None:
    def refused(images: Path, message: str, error: type[Exception] = DataError) -> None:
        with pytest.raises(error, match=message):
            predict(trained, images, tmp_path / "out", probability=True)
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "none", "does not exist")
    refused(save(tmp_path / "blank.png", np.full((40, 40), 7, np.uint8)), "one grey value")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"no picture")
    refused(tmp_path / "damaged", "cannot be read")
    for name in ("a.png", "a.tif"):
        save(tmp_path / "alike" / name, half_dark(40, 40))
    refused(tmp_path / "alike", "differ in their endings alone", RunError)
