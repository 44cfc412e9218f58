"""One PNG, JPEG or TIFF file, decoded with suspicion.

Pixels count once they are decoded whole; metadata that are damaged beside them are a warning. No
format that can carry code is opened.
"""

import io
import logging
import math
import re
import string
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from synthseg.stacks.findings import Severity

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
HEADS = {b"\xff\xd8\xff": "a JPEG file", PNG_HEAD: "a PNG file", b"<": "a web page"}
HEADS |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "a TIFF file")
LARGEST_STACK = 2**32  # bytes of pixels; a file that claims more is refused unread
LARGEST_EXPANSION = 20_000  # times the size of the file; LZMA packs an empty mask 7000-fold
LARGEST_GREY = 1e15  # of floating type; sums of squares of larger numbers would overflow
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PALETTE, WHITE_IS_ZERO = 3, 0  # PhotometricInterpretation of TIFF; also PNG's colour type 3
# Tags of TIFF that say nothing of its pixels: description, maker, resolution, software, date, ...
HARMLESS_TAGS = {269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316}
IN_NM = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3}
IN_NM |= {"microns": 1e3, "micrometer": 1e3, "\\u00b5m": 1e3, "mm": 1e6, "cm": 1e7, "a": 0.1}
EXPORT_AGAIN = "export it again, as PNG or as TIFF"
MAKE_GREY = "convert it to grey (or to label numbers)"

Image.MAX_IMAGE_PIXELS = None  # mosaics are large; `_refuse_bomb` knows the limit


class Unreadable(Exception):
    """A file or page that can't be used: what is wrong, and what to do."""


Sizes = tuple[float | None, float | None]  # width of a pixel and distance of slices, in nm


class Decoded(NamedTuple):
    """What one file holds: (pages, y, x) or (pages, y, x, channels), and remarks about it."""

    pages: NDArray
    remarks: list[tuple[Severity, str, str]]
    sizes: Sizes = (None, None)


def describe(head: bytes) -> str:
    """Say what a file seems to be, by its first bytes."""
    if not head:
        return "empty"
    known = [kind for start, kind in HEADS.items() if head.lstrip().startswith(start)]
    text = all(chr(byte) in string.printable for byte in head)
    return known[0] if known else "a text file" if text else "of no known kind"


def decode(file: Path, mask: bool, budget: int) -> Decoded:
    """Decode a file by what it is, whatever its name says."""
    decoders = {"a TIFF file": _tiff, "a PNG file": _png, "a JPEG file": _jpeg}
    try:
        with file.open("rb") as opened:
            kind = describe(opened.read(200))
        if kind not in decoders:
            raise Unreadable(f"cannot be read as a picture: it is {kind}", EXPORT_AGAIN)
        with warnings.catch_warnings(), _logged() as logged:
            for doubt in (UserWarning, RuntimeWarning):  # a decoder that doubts is not trusted
                warnings.simplefilter("error", doubt)
            decoded = decoders[kind](file, mask, budget)
    except Unreadable:
        raise
    except Exception as error:  # decoders meet damage with errors of any kind
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        what = f"cannot be read ({reason}); it may be cut short or damaged"
        raise Unreadable(what, EXPORT_AGAIN) from error
    for message in logged:
        tag = re.search(r"TiffTag (\d+)", message)
        sound = int(tag[1]) in HARMLESS_TAGS or int(tag[1]) > 340 if tag else "series" in message
        if not (sound or message.startswith("PNG warning")):
            raise Unreadable(f"is damaged: {message[:200]}", EXPORT_AGAIN)
    if logged:
        what = "has damaged metadata, but sound pixels"
        decoded.remarks.append(("warning", what, "look at the picture"))
    return decoded


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect what decoders would only log: tifffile returns fewer pages of a file cut short."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or record.name == "imagecodecs":
            messages.append(record.getMessage())
        return False

    loggers = [logging.getLogger(name) for name in ("tifffile", "imagecodecs")]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def _refuse_bomb(claimed: int, stored: int, budget: int) -> None:
    if claimed > budget:
        size, most = f"{claimed / 2**30:,.1f} GiB", f"{LARGEST_STACK >> 30} GiB"
        raise Unreadable(
            f"claims {size} of pixels, more than the {most} that are accepted for one stack",
            "cut the stack into smaller blocks, or export the file again if it is damaged",
        )
    if claimed > LARGEST_EXPANSION * stored:
        what = f"claims {claimed:,} bytes of pixels in a file of {stored:,} bytes"
        raise Unreadable(f"{what}, so its header is damaged", EXPORT_AGAIN)


def _png(file: Path, mask: bool, budget: int) -> Decoded:
    data = file.read_bytes()
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS.get(colour, 4)
    _refuse_bomb(width * height * channels * max(1, bits // 8), len(data), budget)
    if colour != PALETTE:
        return Decoded(imagecodecs.png_decode(data)[None], [])
    with Image.open(io.BytesIO(data)) as picture:
        indices, table = np.asarray(picture), np.array(picture.getpalette("RGB"), np.uint8)
    return Decoded(_look_up(indices[None], table.reshape(-1, 3), mask), [])


def _jpeg(file: Path, mask: bool, budget: int) -> Decoded:
    with Image.open(file) as picture:
        claimed = math.prod(picture.size) * len(picture.getbands())
        _refuse_bomb(claimed, file.stat().st_size, budget)
        pages = np.asarray(picture)[None]
    what = "was saved as JPEG, which changes grey values"
    return Decoded(pages, [("note", what, "save images as PNG or TIFF where you can")])


def _look_up(indices: NDArray, table: NDArray[np.uint8], mask: bool) -> NDArray:
    """Colours of a palette: grey values if all are grey, else the indices, but in masks only."""
    if (table == table[:, :1]).all() and indices.max() < len(table):
        return table[indices, 0]
    if mask:
        return indices
    raise Unreadable("has a table of colours", MAKE_GREY)


def _tiff(file: Path, mask: bool, budget: int) -> Decoded:
    """Read the series of most pixels: what else there is are thumbnails or smaller copies."""
    remarks: list[tuple[Severity, str, str]] = []
    with tifffile.TiffFile(file) as tiff:
        series = [each for each in tiff.series if each.size]
        if not series:
            raise Unreadable("holds no picture; it may be cut short", EXPORT_AGAIN)
        main = max(series, key=lambda each: each.size)
        first = main.keyframe
        kind = first.shape, first.dtype
        alike = [each for each in series if (each.keyframe.shape, each.keyframe.dtype) == kind]
        claimed = sum(each.size * np.dtype(each.dtype).itemsize for each in alike)
        _refuse_bomb(claimed, file.stat().st_size, budget)
        if left := sum(len(each.pages) for each in series if each not in alike):
            what = f"also holds pictures of other sizes ({left}), which are not used"
            remarks.append(("warning", what, "export them alone if they are slices"))
        found = [page for each in alike for page in each.pages]
        pages = [page for page in found if page and page.dataoffsets]
        if len(pages) < len(found) or any(0 in (*p.dataoffsets, *p.databytecounts) for p in pages):
            what = "lacks the pixels of some slices; it may be cut short or damaged"
            raise Unreadable(what, EXPORT_AGAIN)
        if len(alike) == 1:
            array, axes = main.asarray(), main.axes
        else:  # saved in several ways: the order is that of the file
            pages.sort(key=lambda page: page.index)
            array, axes = np.stack([page.asarray() for page in pages]), f"I{first.axes}"
        sizes = dict(zip(axes, array.shape, strict=True))
        through = [axis for axis, size in sizes.items() if axis not in "YXS" and size > 1]
        if len(through) > 1 or not {"Y", "X"} <= sizes.keys():
            what = f"has the axes {axes}, but only slices (z, y, x) are expected"
            raise Unreadable(what, "export one channel of one time point")
        if through and through[0] in "CT":
            what = f"calls its slices {'channels' if through == ['C'] else 'time points'}"
            remarks.append(("warning", f"{what}; they are taken for z", "check that they are z"))
        if "S" in sizes:
            array = np.moveaxis(array, axes.index("S"), -1)
        array = array.reshape(-1, *[sizes[axis] for axis in "YXS" if axis in sizes])
        if first.photometric == PALETTE and first.colormap is not None:
            array = _look_up(array, (first.colormap >> 8).T.astype(np.uint8), mask)
        if first.photometric == WHITE_IS_ZERO:
            what = "says that 0 is white; the numbers are used as they are stored"
            remarks.append(("warning", what, "export 0 as black if it comes out inverted"))
        return Decoded(array, remarks, _sizes(tiff))


def _sizes(tiff: tifffile.TiffFile) -> Sizes:
    """Width and distance by the words of ImageJ, OME or TIFF; None if nobody set them."""
    first, known, ome = tiff.pages.first, tiff.imagej_metadata or {}, tiff.ome_metadata
    if ome:  # where it describes several pictures, the first one counts
        sizes = dict(reversed(re.findall(r'PhysicalSize([XZ])="([\d.eE+-]+)"', ome)))
        units = dict(reversed(re.findall(r'PhysicalSize([XZ])Unit="(.*?)"', ome)))
        given = [(float(sizes.get(axis, 0)), units.get(axis, "µm")) for axis in "XZ"]
    else:
        centimetres = first.resolutionunit == tifffile.RESUNIT.CENTIMETER
        unit = str(known.get("unit", "cm" if centimetres else ""))
        width = 1 / first.resolution[0] if first.resolution[0] > 0 else 0.0
        given = [(width, unit), (float(known.get("spacing", 0)), unit)]
    nm, nm_per_slice = (number * IN_NM.get(unit.strip().lower(), 0.0) for number, unit in given)
    if not 0.01 < nm < 10_000:  # beyond it are defaults for printing
        return None, None
    return nm, nm_per_slice if 0.1 < nm_per_slice / nm < 50 else None  # else a default, too


def grey(pages: NDArray) -> NDArray:
    """Return pages as (z, y, x): of grey RGB one channel is kept, opacity is dropped."""
    if pages.ndim == 4 and pages.shape[-1] in (1, 2, 3, 4):
        colours = pages[..., : 1 if pages.shape[-1] < 3 else 3]
        if (colours != colours[..., :1]).any():
            raise Unreadable("is in colour", MAKE_GREY)
        pages = np.ascontiguousarray(pages[..., 0])
    if pages.ndim != 3 or not pages.size or pages.dtype.kind not in "buif":
        what = f"is {pages.dtype} of shape {pages.shape[1:]}, but a slice is (y, x), of numbers"
        raise Unreadable(what, "export it as one grey picture")
    if pages.dtype.kind == "f" and not np.maximum(pages.max(), -pages.min()) <= LARGEST_GREY:
        finite = np.isfinite(pages).all()
        what = f"numbers above {LARGEST_GREY:g}" if finite else "NaN or infinite values"
        raise Unreadable(f"holds {what}", "replace them by numbers, or cut those parts out")
    return pages
