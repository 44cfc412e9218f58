"""Masks for images that nobody has annotated, by the segmenter of a run of chapter 3."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tifffile
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.io import imsave

from synthseg import figures, sampling, segmenter
from synthseg.project import RunError, read_json, show_path
from synthseg.stacks import Stack, open_images

CHAPTER = "03_baseline_segmentation"
SEGMENTER = "segmenter-classical.keras"  # that of arm A1
SHOWN = 3  # slices in the picture
COARSEST = 4.0  # largest pixel of images, in pixels of the network; coarser ones show too little
TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class Trained:
    """The segmenter with augmentation, arm A1, of a finished run of chapter 3."""

    folder: Path
    text: str  # what it has learned from, and how well
    nm: float  # width of a pixel in nanometres as the network sees it
    nm_per_pixel: float  # and in the data
    size: int  # side of a tile in pixels of the network
    resize: str  # how images are made smaller
    foreground: float  # part of the pixels of its training masks


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict` has written: a file of masks for each of images, and a picture."""

    files: list[Path]
    picture: Path
    foreground: float  # part of all pixels
    remarks: list[str]  # about the files that were read


def open_run(folder: Path) -> Trained:
    """Read what the segmenter of a run has learned from; RunError if there is none."""
    card, numbers = read_json(folder / "card.json"), read_json(folder / "metrics.json")
    if card.get("chapter") != CHAPTER or not card["finished"]:
        raise RunError(
            f"{show_path(folder)} is not the folder of a finished run of chapter 3: name one, such "
            f"as runs/smoke/seed-0/{CHAPTER}; synthseg run 3  makes it."
        )
    how, nm = card["parameters"], numbers["nm"]
    return Trained(
        folder=folder,
        text=f"The segmenter has learned from {card['data']['name']}: test Dice "
        f"{numbers['test_classical_dice']:.3f} at {nm:.4g} nm per pixel.",
        nm=nm,
        nm_per_pixel=nm * how["size"] / how["crop"],
        size=how["size"],
        resize=how["resize"],
        foreground=numbers["foreground_train"],
    )


def predict(
    trained: Trained,
    images: Path,
    out: Path,
    nm_per_pixel: float | None = None,
    *,
    probability: bool = False,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Predicted:
    """Write a mask for each slice, of the size of the slice and under the same file name.

    Slices are brought to the pixel size that the network has learned from, predicted tile by tile
    as in chapter 3, and enlarged again.

    Parameters
    ----------
    trained : Trained
    images : Path
        A folder of slices, or one file of one or more: grey, all of one size, however small.
        Slices of 16 bit or float are scaled to 8 bit all together, as they are for training.
    out : Path
        A new folder for the masks (0 and 255); beside it, ``OUT.png`` is a picture of a few. Both
        appear when all is done. TIFF stays TIFF; of other files the masks are PNG.
    nm_per_pixel : float, optional
        Width of a pixel of these images in nanometres; if not given, that of the run's data.
    probability : bool
        Write the probability of mitochondrion instead, 0 to 1: TIFF of 32-bit floats.
    progress : callable
        Is told the number of finished slices, and of all.

    Raises
    ------
    RunError
        If `out` exists, or the network can't see anything at this pixel size.
    DataError
        If the images cannot be used.
    """
    picture = out.with_name(f"{out.name}.png")
    for path in (out, picture):
        if path.exists():
            raise RunError(f"{show_path(path)} exists already: name another folder for the masks.")
    nm = trained.nm_per_pixel if nm_per_pixel is None else nm_per_pixel
    if not 0 < nm <= COARSEST * trained.nm:
        raise RunError(
            f"nm_per_pixel={nm:g} must be above 0, and no more than {COARSEST * trained.nm:.4g}: "
            f"the network has learned from pixels of {trained.nm:.4g} nm, and coarser images hide "
            "what it looks for. Give nanometres."
        )
    stack = open_images(images)
    ending = ".tif" if probability else ".png"
    names = {
        file: file.name if file.suffix.lower() in TIFF else f"{file.stem}{ending}"
        for file in stack.files
    }
    if len(set(names.values())) < len(names):
        raise RunError(f"Files in {show_path(images)} differ in their endings alone: move some.")
    model = keras.models.load_model(trained.folder / SEGMENTER, compile=False)
    count = len(stack.pixels)
    drawn: set[int] = set(np.linspace(0, count - 1, SHOWN).astype(int).tolist())
    shown: dict[int, NDArray] = {}
    marked = 0

    def pages(chosen: list[int]) -> Iterator[NDArray]:
        nonlocal marked
        for index in chosen:
            found = _probability(model, stack.pixels[index], nm / trained.nm, trained)
            mask = found > 0.5
            marked += int(mask.sum())
            if index in drawn:
                shown[index] = mask
            progress(index + 1, count)
            yield found if probability else mask * np.uint8(255)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        folder = Path(beside) / out.name
        folder.mkdir()
        for file, group in itertools.groupby(range(count), key=lambda index: stack.files[index]):
            chosen = list(group)
            _write(folder / names[file], pages(chosen), (len(chosen), *stack.pixels.shape[1:]))
        unfinished = Path(beside) / picture.name
        _draw(stack, shown, nm).savefig(unfinished)
        folder.rename(out)
        unfinished.rename(picture)
    return Predicted(
        files=[out / name for name in names.values()],
        picture=picture,
        foreground=marked / stack.pixels.size,
        remarks=[str(finding) for finding in stack.findings],
    )


def _probability(
    model: keras.Model, page: NDArray[np.uint8], scale: float, trained: Trained
) -> NDArray[np.float32]:
    """Probabilities (height, width) of a slice whose pixels are `scale` pixels of the network."""
    height, width = (max(1, round(side * scale)) for side in page.shape)
    how = trained.resize if scale < 1 else "bilinear"
    image = sampling.resize_images(page[np.newaxis, ..., np.newaxis], height, width, how)
    missing = [(0, max(0, trained.size - side)) for side in (height, width)]
    padded = np.pad(sampling.to_network_image(image), [(0, 0), *missing, (0, 0)], mode="symmetric")
    found = segmenter.predict_slices(model, padded, trained.size, trained.size // 4)
    return tf.image.resize(found[:, :height, :width], page.shape)[0, ..., 0].numpy()


def _write(path: Path, pages: Iterator[NDArray], shape: tuple[int, int, int]) -> None:
    """Write the slices of one file, one by one as they come."""
    if path.suffix.lower() not in TIFF:
        imsave(path, next(pages), check_contrast=False)
        return
    first, size = next(pages), shape if shape[0] > 1 else shape[1:]
    tifffile.imwrite(
        path,
        itertools.chain([first], pages),
        shape=size,
        dtype=first.dtype,
        photometric="minisblack",
        compression="zlib",
        metadata={"axes": "ZYX"[-len(size) :]},
    )


def _draw(stack: Stack, masks: dict[int, NDArray], nm: float) -> Figure:
    """Draw some slices, without and with the outlines of their masks."""
    figures.style()
    return figures.image_grid(
        [[stack.pixels[index]] * 2 for index in masks],
        predictions=[[np.zeros_like(mask), mask] for mask in masks.values()],
        titles=["image", "outlines of the masks"],
        row_labels=[
            f"slice {index}" if len(set(stack.files)) == 1 else stack.files[index].name[-30:]
            for index in masks
        ],
        nm_per_pixel=nm,
    )
