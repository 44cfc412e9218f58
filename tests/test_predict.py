"""Masks for images without masks: same names, same size, the right scale."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tifffile
from skimage.io import imread, imsave

from synthseg.predict import predict
from synthseg.project import RunError
from synthseg.stacks import DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose segmenter calls dark pixels mitochondria; its pixels are 10 nm wide."""
    folder = tmp_path_factory.mktemp("runs") / "03_baseline_segmentation"
    folder.mkdir()
    image = keras.Input((32, 32, 1))
    negative = keras.layers.Rescaling(-10.0)(image)
    keras.Model(image, negative).save(folder / "segmenter-classical.keras")
    parameters = {"size": 32, "resize": "area"}
    (folder / "card.json").write_text(json.dumps({"parameters": parameters}))
    (folder / "metrics.json").write_text(json.dumps({"nm": 10.0}))
    return folder


def half_dark(height: int, width: int) -> np.ndarray:
    page = np.full((height, width), 250, np.uint8)
    page[:, : width // 2] = 5
    return page


@pytest.mark.parametrize("side", [20, 150])  # smaller than a tile, and larger
@pytest.mark.parametrize("nm", [5.0, 20.0])
def test_slices_keep_name_size_and_place(run: Path, tmp_path: Path, side: int, nm: float) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("s1.png", "s2.tif"):
        imsave(images / name, half_dark(side, side + 10), check_contrast=False)
    *written, picture = predict(run, images, tmp_path / "out", nm)
    assert [path.name for path in written] == ["s1.png", "s2.tif"]
    assert picture.is_file()
    for path in written:
        mask = imread(path)
        assert mask.dtype == np.uint8
        assert mask.shape == (side, side + 10)
        assert set(np.unique(mask)) == {0, 255}
        wrong = (mask > 0) != (half_dark(side, side + 10) < 128)
        assert wrong.any(axis=0).sum() <= 4  # columns at the edge, within a network's pixel or two


def test_a_stack_gives_a_stack_and_probabilities(run: Path, tmp_path: Path) -> None:
    pages = np.stack([half_dark(40, 40)] * 3).astype(np.uint16) * 200
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    written, _ = predict(run, tmp_path / "stack.tif", tmp_path / "out", 10.0, probability=True)
    values = tifffile.imread(written)
    assert values.shape == (3, 40, 40)
    assert values.dtype == np.float32
    assert values[:, :, :18].min() > 0.99
    assert values[:, :, 22:].max() < 0.01


def test_what_cannot_be_done_is_told(run: Path, tmp_path: Path) -> None:
    imsave(tmp_path / "one.png", half_dark(40, 40), check_contrast=False)
    with pytest.raises(RunError, match="holds no segmenter"):
        predict(tmp_path, tmp_path / "one.png", tmp_path / "out", 5.0)
    with pytest.raises(RunError, match="does not exist"):
        predict(run, tmp_path / "two.png", tmp_path / "out", 5.0)
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="exists already"):
        predict(run, tmp_path / "one.png", tmp_path / "out", 5.0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        predict(run, tmp_path / "bad", tmp_path / "new", 5.0)
