"""PNG, JPEG and TIFF slices and stacks, read with suspicion.

Pixels count once they are decoded whole; metadata that are damaged beside them are a warning. What
a decoder raises becomes a finding that names the file. No format that can carry code is opened.
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
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from natsort import natsorted
from numpy.typing import NDArray
from PIL import Image

from synthseg.stacks.findings import Finding, Severity, Stack, about, gather, show_path

TIFF = {".tif", ".tiff"}
SUFFIXES = {".png", ".jpg", ".jpeg", *TIFF}
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # and every name that begins with a dot
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEADS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (PNG_HEAD,),
    "TIFF": TIFF_HEADS,
    "web page (HTML or XML)": (b"<",),
}
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


class _Unreadable(Exception):
    """A file or page that can't be used: what is wrong, and what to do."""


class _Decoded(NamedTuple):
    """What one file holds: (pages, y, x) or (pages, y, x, channels), and remarks about it."""

    pages: NDArray
    remarks: list[tuple[Severity, str, str]]
    nm: float | None = None


def read_stack(path: Path, files: list[Path] | None = None, *, mask: bool = False) -> Stack:
    """Read a multi-page file, or a folder of slices: all of them, or `files` in their order.

    The stack holds the slices that are grey, finite and alike, of the type stored; its findings
    tell of all others. Of a mask, indices of a palette are its numbers, and 1-bit pixels become 0
    and 255, as other slices may have them.
    """
    findings: list[Finding] = []
    if files is None:
        files, findings = list_slices(path)
    folder = show_path(path)
    slices: list[tuple[Path, NDArray]] = []
    budget, nm = LARGEST_STACK, None
    for file in files:
        names = () if file == path else (show_path(Path(file.name)),)
        try:
            decoded = _decode(file, mask, budget)
            if len(decoded.pages) != 1 and len(files) > 1:
                what = f"holds {len(decoded.pages)} pages, but in a folder each file is one slice"
                raise _Unreadable(what, "give the multi-page file alone, or one file a slice")
            pages = [_grey(page) for page in decoded.pages]
        except _Unreadable as problem:
            findings.append(Finding("error", folder, *problem.args, names))
            continue
        findings += [Finding(*(kind, folder, *words), names) for kind, *words in decoded.remarks]
        budget -= decoded.pages.nbytes
        nm = nm or decoded.nm
        slices += [(file if len(files) > 1 else path, page) for page in pages]
    if mask:
        slices = [(f, p.view("u1") * np.uint8(255) if p.dtype == bool else p) for f, p in slices]
    kinds = [
        f"{'mask' if mask else p.dtype} of {' x '.join(map(str, p.shape))} px" for _, p in slices
    ]
    if not slices:
        return Stack(path, np.empty((0, 0, 0), np.uint8), (), gather(findings))
    findings += _odd_ones(folder, [f.name for f, _ in slices], kinds)
    usual = Counter(kinds).most_common(1)[0][0]
    alike = [item for item, kind in zip(slices, kinds, strict=True) if kind == usual]
    del slices
    kept, used = [page for _, page in alike], [file for file, _ in alike]
    whole = kept[0].base  # a multi-page file is one array already: a second copy costs memory
    if whole is None or whole.shape != (len(kept), *kept[0].shape):
        whole = np.stack(kept)
    return Stack(path, whole, used, gather(findings), nm)


def _odd_ones(folder: str, names: list[str], kinds: list[Any]) -> Iterator[Finding]:
    """Report slices that are not like most of the others."""
    (usual, count), *others = Counter(kinds).most_common()
    if others and count <= len(kinds) // 2:
        what = f"holds {len(kinds)} pictures of {len(others) + 1} sizes or types, and is no stack"
        remedy = "give slices of one block, all of one size; the chapters do not use single images"
        yield Finding("error", folder, what, remedy)
        return
    for kind, _ in others:
        odd = tuple(name for name, other in zip(names, kinds, strict=True) if other == kind)
        what = f"is {kind}, but {count} of {len(kinds)} slices are {usual}"
        yield Finding("error", folder, what, "export all slices alike", odd)


# --- Folders ----------------------------------------------------------------------------------


def list_slices(path: Path) -> tuple[list[Path], list[Finding]]:
    """List the slices in a folder in natural order, 9 before 10; report whatever else is there."""
    if not path.is_dir():
        return [path], []
    try:
        entries = [entry for entry in sorted(path.iterdir()) if not is_hidden(entry)]
    except OSError as error:
        what, remedy = f"cannot be read ({error})", "check its permissions"
        return [], [Finding("error", show_path(path), what, remedy)]
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    others = [entry for entry in entries if entry not in files]
    what, remedy = "is not used: no PNG, JPEG or TIFF file", "export what is a slice"
    findings = [*about(path, others, "warning", what, remedy)]
    if not files:
        what, remedy = "holds no PNG, JPEG or TIFF files", "export the slices as PNG or TIFF"
        findings.append(Finding("error", show_path(path), what, remedy))
    return natsorted(files, key=lambda file: (_stem(file), file.name)), findings


def is_hidden(path: Path) -> bool:
    """Whether a system, not a person, put a file there."""
    return path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS


def _stem(file: Path) -> str:
    return unicodedata.normalize("NFC", file.stem).removesuffix(".ome")


def _numbers(file: Path) -> tuple[int, ...] | None:
    return tuple(int(digits[-15:]) for digits in re.findall(r"[0-9]+", _stem(file))) or None


def _last_number(file: Path) -> int | None:
    numbers = _numbers(file)
    return numbers[-1] if numbers else None


def pair_names(
    images: list[Path], masks: list[Path]
) -> tuple[list[Path], list[Path], list[Finding]]:
    """Find the mask of each image: by equal names or, failing that, by numbers that are unique."""
    if len(images) == len(masks) == 1:  # multi-page files, of whatever name
        return images, masks, []
    pairs: dict[Path, Path] = {}
    for key in (_stem, _last_number, _numbers):
        left, right = ({key(file): file for file in files} for files in (images, masks))
        common = [name for name in left if name is not None and name in right]
        unique = len(left) == len(images) and len(right) == len(masks)
        if len(common) > len(pairs) and (unique or key is _stem):
            pairs, by_name = {left[name]: right[name] for name in common}, key is _stem
    folder = masks[0].parent
    if not pairs:
        what = f"holds no file whose name or number is that of an image ({images[0].name}, …)"
        remedy = "give image and mask of a slice one name"
        return [], [], [Finding("error", show_path(folder), what, remedy)]
    findings = []
    sides = ((images, set(pairs), "mask"), (masks, set(pairs.values()), "image"))
    for files, matched, partner in sides:
        lonely = [file for file in files if file not in matched]
        what, remedy = f"has no {partner} of its own", f"add the {partner}, or move this elsewhere"
        findings += about(files[0].parent, lonely, "error", what, remedy)
    if not by_name:
        names = " with ".join(file.name for file in next(iter(pairs.items())))
        what, remedy = f"was paired with the images by numbers: {names}", "check this first pair"
        findings.append(Finding("note", show_path(folder), what, remedy))
    return [*pairs], [*pairs.values()], [*findings, *_gaps([*pairs])]


def _gaps(files: list[Path]) -> Iterator[Finding]:
    """Warn of slices that seem to be missing: names count 1, 2, 3, 5."""
    last = [_last_number(file) for file in files]
    if len(files) < 3 or None in last:
        return
    steps = np.diff(last)
    usual, _ = Counter(steps.tolist()).most_common(1)[0]
    behind = [files[index + 1] for index in np.flatnonzero(steps > usual)] if usual > 0 else []
    remedy = "add what is missing, image and mask, or use a part without a gap"
    what = "follows a gap in the numbers"
    yield from about(files[0].parent, behind, "warning", what, remedy)


# --- One file ---------------------------------------------------------------------------------


def describe(head: bytes) -> str:
    """Say what a file seems to be, by its first bytes."""
    for kind, heads in HEADS.items():
        if head.lstrip().startswith(heads):
            return f"is a {kind}" if " " in kind else f"is a {kind} file"
    if not head:
        return "is empty"
    text = all(chr(byte) in string.printable for byte in head)
    return "is a text file" if text else "begins with other bytes"


def _decode(file: Path, mask: bool, budget: int) -> _Decoded:
    """Decode a file by what it is, whatever its name says."""
    try:
        with file.open("rb") as opened:
            head = opened.read(200)
        known = [kind for kind in ("JPEG", "PNG", "TIFF") if head.startswith(HEADS[kind])]
        if not known:
            what = f"cannot be read as a picture: it {describe(head)}"
            raise _Unreadable(what, EXPORT_AGAIN)
        with warnings.catch_warnings(), _logged() as logged:
            for doubt in (UserWarning, RuntimeWarning):  # a decoder that doubts is not trusted
                warnings.simplefilter("error", doubt)
            decoded = {"TIFF": _tiff, "PNG": _png, "JPEG": _jpeg}[known[0]](file, mask, budget)
    except _Unreadable:
        raise
    except Exception as error:  # decoders meet damage with errors of any kind
        reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        what = f"cannot be read ({reason}); it may be cut short or damaged"
        raise _Unreadable(what, EXPORT_AGAIN) from error
    for message in logged:
        tag = re.search(r"TiffTag (\d+)", message)
        sound = int(tag[1]) in HARMLESS_TAGS or int(tag[1]) > 340 if tag else "series" in message
        if not (sound or message.startswith("PNG warning")):
            raise _Unreadable(f"is damaged: {message[:200]}", EXPORT_AGAIN)
    if logged:
        what = "has damaged metadata; its pixels could be read"
        decoded.remarks.append(("warning", what, "look at them"))
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
        raise _Unreadable(
            f"claims {size} of pixels, more than the {most} that are accepted for one stack",
            "cut the stack into smaller blocks, or export the file again if it is damaged",
        )
    if claimed > LARGEST_EXPANSION * stored:
        what = f"claims {claimed:,} bytes of pixels in a file of {stored:,} bytes"
        raise _Unreadable(f"{what}, so its header is damaged", EXPORT_AGAIN)


def _png(file: Path, mask: bool, budget: int) -> _Decoded:
    data = file.read_bytes()
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS.get(colour, 4)
    _refuse_bomb(width * height * channels * max(1, bits // 8), len(data), budget)
    if colour != PALETTE:
        return _Decoded(imagecodecs.png_decode(data)[None], [])
    with Image.open(io.BytesIO(data)) as picture:
        indices, table = np.asarray(picture), np.array(picture.getpalette("RGB"), np.uint8)
    return _Decoded(_look_up(indices, table.reshape(-1, 3), mask)[None], [])


def _jpeg(file: Path, mask: bool, budget: int) -> _Decoded:
    with Image.open(file) as picture:
        claimed = math.prod(picture.size) * len(picture.getbands())
        _refuse_bomb(claimed, file.stat().st_size, budget)
        page = np.asarray(picture)
    what = "was saved as JPEG, which changes grey values"
    return _Decoded(page[None], [("note", what, "save images as PNG or TIFF where you can")])


def _look_up(indices: NDArray, table: NDArray[np.uint8], mask: bool) -> NDArray:
    """Colours of a palette: grey values if all are grey, else the indices, but in masks only."""
    if (table == table[:, :1]).all() and indices.max() < len(table):
        return table[indices, 0]
    if mask:
        return indices
    raise _Unreadable("has a table of colours", MAKE_GREY)


def _tiff(file: Path, mask: bool, budget: int) -> _Decoded:
    """Read the series of most pixels: what else there is are thumbnails or smaller copies."""
    remarks: list[tuple[Severity, str, str]] = []
    with tifffile.TiffFile(file) as tiff:
        series = [each for each in tiff.series if each.size]
        if not series:
            raise _Unreadable("holds no picture; it may be cut short", EXPORT_AGAIN)
        main = max(series, key=lambda each: each.size)
        first = main.keyframe
        alike = [each for each in series if each.keyframe.shape == first.shape]
        claimed = sum(each.size * np.dtype(each.dtype).itemsize for each in alike)
        _refuse_bomb(claimed, file.stat().st_size, budget)
        if left := sum(len(each.pages) for each in series if each not in alike):
            what = f"also holds {left} pictures of other sizes, which are not used"
            remarks.append(("warning", what, "export them alone if they are slices"))
        pages = [page for each in alike for page in each.pages]
        for page in pages:
            if page is None or 0 in page.dataoffsets or 0 in page.databytecounts:
                what = "lacks the pixels of some slices; it may be cut short or damaged"
                raise _Unreadable(what, EXPORT_AGAIN)
        if len(alike) == 1:
            array, axes = main.asarray(), main.axes
        else:  # saved in several ways: the order is that of the file
            pages.sort(key=lambda page: page.index)
            array, axes = np.stack([page.asarray() for page in pages]), f"I{first.axes}"
        sizes = dict(zip(axes, array.shape, strict=True))
        through = [axis for axis, size in sizes.items() if axis not in "YXS" and size > 1]
        if len(through) > 1 or not {"Y", "X"} <= sizes.keys():
            what = f"has the axes {axes}, but only slices (z, y, x) are expected"
            raise _Unreadable(what, "export one channel of one time point")
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
            remedy = "export it with 0 as black if it comes out inverted"
            remarks.append(("warning", what, remedy))
        return _Decoded(array, remarks, _pixel_size(tiff))


def _pixel_size(tiff: tifffile.TiffFile) -> float | None:
    """Width of a pixel in nm by the words of ImageJ, OME or TIFF; None if nobody set it."""
    number, unit = 0.0, ""
    resolution = tiff.pages.first.resolution[0]
    if tiff.ome_metadata:
        found = re.search(r'PhysicalSizeX="([\d.eE+-]+)"', tiff.ome_metadata)
        named = re.search(r'PhysicalSizeXUnit="(.*?)"', tiff.ome_metadata)
        number, unit = float(found[1]) if found else 0.0, named[1] if named else "µm"
    elif resolution > 0:
        centimetres = tiff.pages.first.resolutionunit == tifffile.RESUNIT.CENTIMETER
        given = (tiff.imagej_metadata or {}).get("unit", "cm" if centimetres else "")
        number, unit = 1 / resolution, str(given)
    width = number * IN_NM.get(unit.strip().lower(), 0.0)
    return width if 0.01 < width < 10_000 else None  # beyond it are defaults for printing


def _grey(page: NDArray) -> NDArray:
    """Return one slice as (y, x): of grey RGB one channel is kept, opacity is dropped."""
    if page.ndim == 3 and page.shape[-1] in (1, 2, 3, 4):
        colours = page[..., : 1 if page.shape[-1] < 3 else 3]
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
