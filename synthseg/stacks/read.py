"""PNG and TIFF slices and stacks, read with suspicion.

Nothing that a file claims is believed before it is checked, and whatever a decoder raises becomes a
finding that names the file. No format that can carry code is opened.
"""

import io
import logging
import math
import re
import string
import struct
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from natsort import natsorted
from numpy.typing import NDArray
from skimage.io import imread

from synthseg.stacks.findings import Finding, Stack, show_path

SUFFIXES = {".png", ".tif", ".tiff"}
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # and every name that begins with a dot
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = {
    (b"\xff\xd8\xff",): "is a JPEG picture",
    (PNG_HEAD,): "is a PNG picture",
    TIFF_HEADS: "is a TIFF file",
    (b"<",): "is a web page (HTML or XML)",
}
LARGEST_STACK = 2**32  # bytes of pixels; a file that claims more is refused unread
LARGEST_EXPANSION = 20_000  # times the size of the file; LZMA packs an empty mask 7000-fold
LARGEST_GREY = 1e15  # of floating type; sums of squares of larger numbers would overflow
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type
PALETTE, WHITE_IS_ZERO = 3, 0  # PhotometricInterpretation of TIFF
EXPORT_AGAIN = "export it again, as PNG or as TIFF without compression"
MAKE_GREY = "convert it to grey (or to label numbers)"


class _Unreadable(Exception):
    """A file or page that can't be used: what is wrong, and what to do."""


def read_stack(path: Path) -> Stack:
    """Read a multi-page file, or a folder of slices, of the type stored.

    The stack holds the slices that are grey, finite and alike; its findings tell of all others,
    and of what else lies in the folder.
    """
    files, findings = list_slices(path) if path.is_dir() else ([path], [])
    budget, pages = LARGEST_STACK, []

    def refuse(file: Path, number: int, what: str, remedy: str) -> None:
        place = () if path.is_dir() else (number,)
        findings.append(Finding("error", show_path(file), what, remedy, place))

    for file in files:
        try:
            decoded, remarks = _decode(file, budget)
            if path.is_dir() and len(decoded) != 1:
                what = f"holds {len(decoded)} pages, but in a folder each file is one slice"
                raise _Unreadable(what, "give the multi-page file itself, or one file a slice")
        except _Unreadable as problem:
            findings.append(Finding("error", show_path(file), *problem.args))
            continue
        findings += remarks
        for number, page in enumerate(decoded):
            budget -= page.nbytes
            try:
                pages.append((file, number, _grey(page)))
            except _Unreadable as problem:
                refuse(file, number, *problem.args)
    if not pages:
        return Stack(path, np.empty((0, 0, 0), np.uint8), (), (), findings, files)
    usual, count = Counter(_kind(page) for _, _, page in pages).most_common(1)[0]
    for file, number, page in pages:
        if _kind(page) != usual:
            what = f"is {_kind(page)}, but {count} of {len(pages)} slices are {usual}"
            refuse(file, number, what, "export all slices alike")
    alike = [item for item in pages if _kind(item[2]) == usual]
    kept_files, numbers, kept = zip(*alike, strict=True)
    return Stack(path, np.stack(kept), kept_files, numbers, findings, files)


def _kind(page: NDArray) -> str:
    dtype = "1-bit" if page.dtype == np.bool_ else page.dtype
    return f"{dtype} of {page.shape[0]} x {page.shape[1]} px"


# --- Folders ----------------------------------------------------------------------------------


def list_slices(folder: Path) -> tuple[list[Path], list[Finding]]:
    """List the slices in a folder in natural order, 9 before 10; report whatever else is there."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        what, remedy = f"cannot be read ({error})", "check its permissions"
        return [], [Finding("error", show_path(folder), what, remedy)]
    files, findings = [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LEFT_BY_SYSTEMS:
            continue
        if entry.suffix.lower() in SUFFIXES and entry.is_file():
            files.append(entry)
            continue
        what = "is not a PNG or TIFF file, but lies among the slices"
        remedy = "move it elsewhere, or export it as PNG or TIFF if it is a slice"
        findings.append(Finding("error", show_path(entry), what, remedy))
    if not files:
        what, remedy = "holds no PNG or TIFF files", "export the slices as PNG or TIFF"
        findings.append(Finding("error", show_path(folder), what, remedy))
    return natsorted(files, key=lambda file: (_stem(file), file.name)), findings


def _stem(file: Path) -> str:
    return unicodedata.normalize("NFC", file.stem)


def check_names(images: list[Path], masks: list[Path]) -> Iterator[Finding]:
    """Report slices without a partner of the same name, and gaps in their numbers."""
    image_names, mask_names = (Counter(map(_stem, files)) for files in (images, masks))
    if not (images and masks):
        return  # that one is empty was said already
    if not image_names.keys() & mask_names.keys():
        what = f"and the other masks have no name in common with the images ({images[0].name}, …)"
        remedy = "each image needs a mask file of the same name: rename them"
        yield Finding("error", show_path(masks[0]), what, remedy)
        return
    sides = ((images, image_names, mask_names, "mask"), (masks, mask_names, image_names, "image"))
    for files, own, other, partner in sides:
        for file in files:
            if _stem(file) not in other:
                what = f"has no {partner} of the same name"
                remedy = f"each image needs a mask file: add the {partner} or remove this file"
                yield Finding("error", show_path(file), what, remedy)
            if own[_stem(file)] > 1:
                what = f"is one of {own[_stem(file)]} files of the name {_stem(file)}"
                yield Finding("error", show_path(file), what, "keep one of them")
    yield from _check_numbers(images)


def _check_numbers(files: list[Path]) -> Iterator[Finding]:
    """Warn of slices that seem to be missing: names count 1, 2, 3, 5."""
    parts = [re.findall(r"[0-9]+", file.stem) for file in files]
    if len(files) < 3 or not all(parts) or len({len(numbers) for numbers in parts}) > 1:
        return
    steps = np.diff([int(part[-1][-15:]) for part in parts])
    usual, _ = Counter(steps.tolist()).most_common(1)[0]
    for index in np.flatnonzero(steps > usual) if usual > 0 else ():
        what = f"follows {files[index].name}: slices seem to be missing between them"
        remedy = "add the missing slices, image and mask, or use the longest part without a gap"
        yield Finding("warning", show_path(files[index + 1]), what, remedy)


# --- One file ---------------------------------------------------------------------------------


def describe(head: bytes) -> str:
    """Say what a file seems to be, by its first bytes."""
    for heads, kind in KINDS.items():
        if head.lstrip().startswith(heads):
            return kind
    if not head:
        return "is empty"
    text = all(chr(byte) in string.printable for byte in head)
    return "is a text file" if text else "begins with other bytes"


def _decode(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    """Return the pages of a TIFF file, or the one picture of a PNG file, as stored."""
    png = file.suffix.lower() == ".png"
    try:
        with file.open("rb") as opened:
            head = opened.read(200)
        if not head.startswith((PNG_HEAD,) if png else TIFF_HEADS):
            kind = "PNG" if png else "TIFF"
            raise _Unreadable(f"cannot be read as {kind}: it {describe(head)}", EXPORT_AGAIN)
        with warnings.catch_warnings(), _tifffile_errors() as logged:
            for doubt in (UserWarning, RuntimeWarning):  # a decoder that doubts is not trusted
                warnings.simplefilter("error", doubt)
            pages, remarks = (_png if png else _tiff)(file, budget)
    except _Unreadable:
        raise
    except Exception as error:  # decoders meet damage with errors of any kind
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        what = f"cannot be read ({reason}); it may be cut short or damaged"
        raise _Unreadable(what, EXPORT_AGAIN) from error
    if logged:
        raise _Unreadable(f"is damaged: {logged[0][:200]}", EXPORT_AGAIN)
    return pages, remarks


@contextmanager
def _tifffile_errors() -> Iterator[list[str]]:
    """Collect what tifffile would only log: it returns fewer pages of a file that was cut short."""
    errors: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            errors.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(keep)
    try:
        yield errors
    finally:
        logger.removeFilter(keep)


def _refuse_bomb(claimed: int, stored: int, budget: int) -> None:
    if claimed > budget:
        size, most = f"{claimed / 2**30:,.1f} GiB", f"{LARGEST_STACK >> 30} GiB"
        raise _Unreadable(
            f"claims {size} of pixels, more than the {most} that are accepted for one stack",
            "cut the stack into smaller blocks, or export the file again if it is damaged",
        )
    if claimed > LARGEST_EXPANSION * stored:
        what = f"claims {claimed:,} bytes of pixels in a file of {stored:,} bytes"
        raise _Unreadable(f"{what}, so its header is damaged", EXPORT_AGAIN)


def _png(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    data = file.read_bytes()
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS.get(colour, 4)
    _refuse_bomb(width * height * channels * max(1, bits // 8), len(data), budget)
    if bits == 16 and channels > 1:  # the decoder would cut them to 8 bit in silence
        raise _Unreadable("has colours of 16 bit", "convert it to 16-bit or 8-bit grey")
    return [imread(io.BytesIO(data))], []


def _tiff(file: Path, budget: int) -> tuple[list[NDArray], list[Finding]]:
    with tifffile.TiffFile(file) as tiff:
        pages = list(tiff.pages)
        if not pages:
            raise _Unreadable("holds no picture; it may be cut short", EXPORT_AGAIN)
        claimed = sum(math.prod(page.shape) * np.dtype(page.dtype).itemsize for page in pages)
        _refuse_bomb(claimed, file.stat().st_size, budget)
        for number, page in enumerate(pages):
            if 0 in page.dataoffsets or 0 in page.databytecounts:
                what = f"lacks pixels of page {number}; it may be cut short or damaged"
                raise _Unreadable(what, EXPORT_AGAIN)
        axes, first, remarks = tiff.series[0].axes, tiff.pages.first, []
        if len(axes.strip("YXS")) > 1:
            what = f"has the axes {axes}, but only slices (z, y, x) are expected"
            raise _Unreadable(what, "export one channel of one time point")
        table = first.colormap
        if first.photometric == PALETTE and (table is None or (table != table[:1]).any()):
            raise _Unreadable("has a table of colours", MAKE_GREY)
        if first.photometric == WHITE_IS_ZERO:
            what = "says that 0 is white; the numbers are used as they are stored"
            remedy = "export it with 0 as black if it comes out inverted"
            remarks.append(Finding("warning", show_path(file), what, remedy))
        return [page.asarray() for page in pages], remarks


def _grey(page: NDArray) -> NDArray:
    """Return one slice as (y, x): of grey RGB one channel is kept, opacity is dropped."""
    if page.ndim == 3 and page.shape[-1] in (2, 3, 4):
        colours = page[..., : 1 if page.shape[-1] == 2 else 3]
        if (colours != colours[..., :1]).any():
            raise _Unreadable("is in colour", MAKE_GREY)
        page = page[..., 0]
    if page.ndim != 2 or not page.size or page.dtype.kind not in "buif":
        what = f"is {page.dtype} of shape {page.shape}, but a slice is (y, x), integers or floats"
        raise _Unreadable(what, "export it as one grey picture")
    if page.dtype.kind == "f" and not float(np.abs(page).max()) <= LARGEST_GREY:
        finite = np.isfinite(page).all()
        what = f"numbers above {LARGEST_GREY:g}" if finite else "NaN or infinite values"
        raise _Unreadable(f"holds {what}", "replace them by numbers, or cut those parts out")
    return page
