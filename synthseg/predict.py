"""Masks for images that nobody has annotated, by the segmenter of a run of chapter 3."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tifffile
from skimage.io import imsave

from synthseg import figures, sampling, segmenter
from synthseg.project import RunError, read_json, show_path
from synthseg.stacks import DataError
from synthseg.stacks.read import read_stack
from synthseg.stacks.sources import to_uint8

SHOWN = 3  # slices in the picture


def predict(
    run: Path,
    images: Path,
    out: Path,
    nm_per_pixel: float,
    probability: bool = False,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> list[Path]:
    """Write a mask for each slice, of the size of the slice and with the same file name.

    Slices are brought to the pixel size that the segmenter has learned from, predicted tile by
    tile, and enlarged again.

    Parameters
    ----------
    run : Path
        Folder of a run of chapter 3.
    images : Path
        A folder of PNG or TIFF slices, or one file; grey, alike, of any size. Slices of 16 bit or
        float are scaled to 8 bit as a whole, as they are for training.
    out : Path
        Gets the masks, 0 and 255; and beside it, as ``OUT.png``, a picture of a few of them.
    nm_per_pixel : float
        Width of a pixel of these images in nanometres.
    probability : bool
        Write probabilities from 0 to 1 instead, as TIFF of 32-bit floats.
    progress : callable
        Is told the number of finished slices, and of all.

    Returns
    -------
    list of Path
        The files written, the picture last.

    Raises
    ------
    RunError
        If `run` holds no segmenter, or `out` exists.
    DataError
        If the images cannot be read.
    """
    card, numbers = read_json(run / "card.json"), read_json(run / "metrics.json")
    model_file = run / "segmenter-classical.keras"
    if not card or "nm" not in numbers or not model_file.is_file():
        raise RunError(
            f"{show_path(run)} holds no segmenter: name the folder of a run of chapter 3, such as "
            "runs/smoke/seed-0/03_baseline_segmentation."
        )
    if out.exists() or out.with_suffix(".png").exists():
        raise RunError(f"{show_path(out)} exists already: name another folder for the masks.")
    if not images.exists():
        raise RunError(f"{show_path(images)} does not exist.")
    stack = read_stack(images)
    if wrong := [finding for finding in stack.findings if finding.severity == "error"]:
        raise DataError(wrong)
    model = keras.models.load_model(model_file, compile=False)
    pixels, size = to_uint8(stack.pixels), int(card["parameters"]["size"])
    predicted = np.empty(pixels.shape, np.float32)
    for number, page in enumerate(pixels):
        resize = str(card["parameters"]["resize"])
        predicted[number] = _one(model, page, nm_per_pixel / numbers["nm"], size, resize)
        progress(number + 1, len(pixels))
    out.mkdir(parents=True)
    written = []
    for file in dict.fromkeys(stack.files):
        chosen = [number for number, of in enumerate(stack.files) if of == file]
        written.append(_write(out / file.name, predicted[chosen], probability))
    shown = np.unique(np.linspace(0, len(pixels) - 1, SHOWN).astype(int))
    figures.style()
    picture = figures.image_grid(
        [pixels[shown]], [predicted[shown] > 0.5], nm_per_pixel=nm_per_pixel
    )
    picture.savefig(out.with_suffix(".png"))
    return [*written, out.with_suffix(".png")]


def _one(model: keras.Model, page: np.ndarray, scale: float, size: int, resize: str) -> np.ndarray:
    """Probabilities (height, width) of one slice of bytes."""
    height, width = (max(1, round(side * scale)) for side in page.shape)
    seen = sampling.resize_images(page[np.newaxis, ..., np.newaxis], height, width, resize)
    image = sampling.to_network_image(seen).numpy()
    missing = [max(0, size - side) for side in (height, width)]  # smaller than a tile
    padded = np.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    found = segmenter.predict_slices(model, padded, size, size // 4)[:, :height, :width]
    return tf.image.resize(found, page.shape)[0, ..., 0].numpy()


def _write(path: Path, predicted: np.ndarray, probability: bool) -> Path:
    """Write the slices of one file: PNG or TIFF as it was, probabilities always as TIFF."""
    values = predicted if probability else np.where(predicted > 0.5, 255, 0).astype(np.uint8)
    if path.suffix.lower() == ".png" and not probability:
        imsave(path, values[0], check_contrast=False)
        return path
    path = path.with_suffix(".tif") if probability else path
    values = values[0] if len(values) == 1 else values
    tifffile.imwrite(path, values, photometric="minisblack", compression="zlib")
    return path
