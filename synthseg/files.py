"""Files: PNG and TIFF slices and stacks, read with suspicion.

Nothing that a file claims is believed before it is checked, and whatever a decoder raises becomes a
finding that names the file. No format that can carry code is opened.
"""

import io
import logging
import math
import re
import struct
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.io import imread

from synthseg.findings import Finding, Stack, show_path

SUFFIXES = {".png", ".tif", ".tiff"}
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # and every name that begins with a dot
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST_STACK = 2**32  # bytes of pixels; a file that claims more is refused unread
LARGEST_EXPANSION = 20_000  # times the size of the file; LZMA packs an empty mask 7000-fold
LARGEST_GREY = 1e15  # of floating type; sums of squares of larger numbers would overflow
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type
PALETTE, WHITE_IS_ZERO = 3, 0  # PhotometricInterpretation of TIFF

EXPORT_AGAIN = "export it again, as PNG or as TIFF without compression"


class _Unreadable(Exception):
    """A file that can't be used: what is wrong, and what to do."""

    def __init__(self, what: str, remedy: str = EXPORT_AGAIN) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


# --- Folders ----------------------------------------------------------------------------------


def list_slices(folder: Path, found: list[Finding]) -> list[Path]:
    """List the slices in a folder in natural order, 9 before 10; report whatever else is there.

    Parameters
    ----------
    folder : Path
    found : list of Finding
        Gets an error for each thing in the folder that is not a PNG or TIFF file.

    Returns
    -------
    list of Path
    """
    name = show_path(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        found.append(Finding("error", name, f"cannot be read ({error})", "check its permissions"))
        return []
    entries = [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name.lower() not in LEFT_BY_SYSTEMS
    ]
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    for entry in entries:
        if entry not in files:
            found.append(
                Finding(
                    "error",
                    show_path(entry),
                    "is not a PNG or TIFF file, but lies among the slices",
                    "move it elsewhere, or export it as PNG or TIFF if it is a slice",
                )
            )
    if not files:
        found.append(
            Finding("error", name, "holds no PNG or TIFF files", "export the slices as PNG or TIFF")
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", file.stem)
    return [int(part) if part.isdecimal() else part for part in parts], file.name


def check_names(images: list[Path], masks: list[Path]) -> Iterator[Finding]:
    """Report slices without a partner of the same name, and gaps in their numbers.

    Parameters
    ----------
    images, masks : list of Path
        In natural order.

    Yields
    ------
    Finding
    """
    stems = [
        Counter(unicodedata.normalize("NFC", file.stem) for file in files)
        for files in (images, masks)
    ]
    if images and masks and not stems[0].keys() & stems[1].keys():
        yield Finding(
            "error",
            show_path(masks[0]),
            f"and the other masks have no name in common with the images ({images[0].name}, …)",
            "each image needs a mask file of the same name: rename them",
        )
        return
    for files, own, other, partner in (
        (images, stems[0], stems[1], "mask"),
        (masks, stems[1], stems[0], "image"),
    ):
        for file in files:
            stem = unicodedata.normalize("NFC", file.stem)
            if stem not in other:
                yield Finding(
                    "error",
                    show_path(file),
                    f"has no {partner} of the same name",
                    f"each image needs a mask file: add the {partner} or remove this file",
                )
            if own[stem] > 1:
                yield Finding(
                    "error",
                    show_path(file),
                    f"is one of {own[stem]} files of the name {stem}",
                    "keep one of them",
                )
    yield from _check_numbers(images)


def _check_numbers(files: list[Path]) -> Iterator[Finding]:
    """Warn of slices that seem to be missing: names count 1, 2, 3, 5."""
    parts = [re.findall(r"[0-9]+", file.stem) for file in files]
    if len(files) < 3 or not all(parts) or len({len(numbers) for numbers in parts}) > 1:
        return
    numbers = np.array([int(part[-1][-15:]) for part in parts])
    steps = np.diff(numbers)
    usual, _ = Counter(steps.tolist()).most_common(1)[0]
    for index in np.flatnonzero(steps > usual):
        if usual > 0:
            yield Finding(
                "warning",
                show_path(files[index + 1]),
                f"follows {files[index].name}: slices seem to be missing between them",
                "add the missing slices, image and mask, or use the longest part without a gap",
            )


# --- Files to arrays --------------------------------------------------------------------------


def read_stack(path: Path, files: list[Path], found: list[Finding]) -> Stack | None:
    """Read a multi-page file, or a folder of slices, of the type stored.

    Parameters
    ----------
    path : Path
        The file or folder.
    files : list of Path
        The slices in the folder in order, or the file alone.
    found : list of Finding
        Gets an error for each slice that can't be read, is in colour, not finite, or unlike most
        others in size or type.

    Returns
    -------
    Stack or None
        The slices that are grey, finite and alike; None if there are none.
    """
    budget, pages, before = LARGEST_STACK, [], len(found)
    for file in files:
        try:
            decoded, remarks = _decode(file, budget)
            if path.is_dir() and len(decoded) != 1:
                raise _Unreadable(
                    f"holds {len(decoded)} pages, but in a folder each file is one slice",
                    "give the multi-page file itself, or one file a slice",
                )
        except _Unreadable as problem:
            found.append(Finding("error", show_path(file), problem.what, problem.remedy))
            continue
        found += remarks
        for number, page in enumerate(decoded):
            budget -= page.nbytes
            try:
                pages.append((file, number, _grey(page)))
            except _Unreadable as problem:
                place = () if path.is_dir() else (number,)
                found.append(Finding("error", show_path(file), problem.what, problem.remedy, place))
    if not pages:
        return None
    kinds = Counter((page.shape, page.dtype) for _, _, page in pages)
    (shape, dtype), count = kinds.most_common(1)[0]
    for file, number, page in pages:
        if (page.shape, page.dtype) != (shape, dtype):
            found.append(
                Finding(
                    "error",
                    show_path(file),
                    f"is {_kind(page.dtype)} of {_size(page.shape)} px, but {count} of "
                    f"{len(pages)} slices are {_kind(dtype)} of {_size(shape)} px",
                    "export all slices alike",
                    () if path.is_dir() else (number,),
                )
            )
    alike = [item for item in pages if (item[2].shape, item[2].dtype) == (shape, dtype)]
    return Stack(
        path,
        np.stack([page for _, _, page in alike]),
        tuple(file for file, _, _ in alike),
        tuple(number for _, number, _ in alike),
        complete=all(finding.severity != "error" for finding in found[before:]),
    )


def _kind(dtype: np.dtype) -> str:
    return "1-bit" if dtype == np.bool_ else str(dtype)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)


def describe(head: bytes) -> str:
    """Say what a file seems to be, by its first bytes."""
    start = head.lstrip()[:200].lower()
    if not head:
        return "is empty"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "is a web page (HTML or XML)"
    if head.startswith(b"\xff\xd8\xff"):
        return "is a JPEG picture"
    if head.startswith(PNG_HEAD):
        return "is a PNG picture"
    if head.startswith(TIFF_HEADS):
        return "is a TIFF file"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head[:200]):
        return "is a text file"
    return "begins with other bytes"


def _decode(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    """Return the pages of a TIFF file, or the one picture of a PNG file, as stored."""
    suffix = file.suffix.lower()
    heads = (PNG_HEAD,) if suffix == ".png" else TIFF_HEADS
    kind = "PNG" if suffix == ".png" else "TIFF"
    try:
        with file.open("rb") as opened:
            head = opened.read(200)
        if not head.startswith(heads):
            raise _Unreadable(f"cannot be read as {kind}: it {describe(head)}")
        with warnings.catch_warnings(), _tifffile_errors() as logged:
            for doubt in (UserWarning, RuntimeWarning):  # a decoder that doubts is not trusted
                warnings.simplefilter("error", doubt)
            pages, remarks = (_png if suffix == ".png" else _tiff)(file, budget)
        if logged:
            raise _Unreadable(f"is damaged: {logged[0]}")
    except _Unreadable:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise _Unreadable(f"cannot be read ({reason}); it may be cut short or damaged") from error
    except Exception as error:  # decoders meet damage with errors of any kind
        raise _Unreadable(
            f"cannot be read as {kind} ({type(error).__name__}: {str(error)[:200]}); it may be cut "
            "short, damaged or compressed in an unusual way"
        ) from error
    if not pages:
        raise _Unreadable("holds no picture; it may be cut short")
    return pages, remarks


@contextmanager
def _tifffile_errors() -> Iterator[list[str]]:
    """Collect what tifffile would only log: it returns fewer pages of a file that was cut short."""
    logged: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage()[:200])

    logger, handler = logging.getLogger("tifffile"), Collect(logging.ERROR)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield logged
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _refuse_bomb(claimed: int, stored: int, budget: int) -> None:
    if claimed > budget:
        raise _Unreadable(
            f"claims {claimed / 2**30:,.1f} GiB of pixels, more than the {LARGEST_STACK >> 30} GiB "
            "that are accepted for one stack",
            "cut the stack into smaller blocks, or export the file again if it is damaged",
        )
    if claimed > LARGEST_EXPANSION * stored:
        raise _Unreadable(
            f"claims {claimed:,} bytes of pixels in a file of {stored:,} bytes, so its header is "
            "damaged"
        )


def _png(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    data = file.read_bytes()
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS.get(colour, 4)
    _refuse_bomb(width * height * channels * max(1, bits // 8), len(data), budget)
    if bits == 16 and channels > 1:
        raise _Unreadable("has colours of 16 bit", "convert it to 16-bit or 8-bit grey")
    if b"acTL" in data[:200]:
        raise _Unreadable("is an animation", "export one file a slice")
    return [imread(io.BytesIO(data))], []


def _tiff(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    name, remarks = show_path(file), []
    with tifffile.TiffFile(file) as tiff:
        pages = list(tiff.pages)
        claimed = [math.prod(page.shape) * np.dtype(page.dtype).itemsize for page in pages]
        _refuse_bomb(sum(claimed), file.stat().st_size, budget)
        axes = tiff.series[0].axes if pages else ""
        for number, page in enumerate(pages):
            if 0 in page.dataoffsets or 0 in page.databytecounts:
                raise _Unreadable(f"lacks pixels of page {number}; it may be cut short or damaged")
        if len(axes.strip("YXS")) > 1:
            raise _Unreadable(
                f"has the axes {axes}, but only slices (z, y, x) are expected",
                "export one channel of one time point",
            )
        first = pages[0].keyframe if pages else None
        if first is not None and first.photometric == WHITE_IS_ZERO:
            remarks.append(
                Finding(
                    "warning",
                    name,
                    "says that 0 is white; the numbers are used as they are stored",
                    "export it with 0 as black if it comes out inverted",
                )
            )
        if first is not None and first.photometric == PALETTE:
            table = first.colormap
            if table is None or (table != table[:1]).any():
                raise _Unreadable(
                    "has a table of colours", "convert it to grey (or to label numbers)"
                )
        return [page.asarray() for page in pages], remarks


def _grey(page: NDArray) -> NDArray:
    """Return one slice as (y, x): of grey RGB one channel is kept, opacity is dropped."""
    if page.ndim == 3 and page.shape[-1] in (2, 3, 4):
        colours = page[..., : 1 if page.shape[-1] == 2 else 3]
        if (colours != colours[..., :1]).any():
            raise _Unreadable("is in colour", "convert it to grey (or to label numbers)")
        page = page[..., 0]
    if page.ndim != 2 or not page.size:
        raise _Unreadable(
            f"has shape {page.shape}, but a slice is (y, x)", "export it as one grey picture"
        )
    if page.dtype.kind not in "buif":
        raise _Unreadable(f"holds numbers of type {page.dtype}", "export integers or floats")
    if page.dtype.kind == "f" and not np.isfinite(page).all():
        raise _Unreadable(
            "holds NaN or infinite values", "replace them by numbers, or cut those parts out"
        )
    if page.dtype.kind == "f" and np.abs(page).max() > LARGEST_GREY:
        raise _Unreadable(f"holds numbers as large as {np.abs(page).max():g}")
    return page
