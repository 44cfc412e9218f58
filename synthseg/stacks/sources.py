"""What a person names, as arrays: the phantom, the EPFL files, or data of one's own."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthseg.stacks import phantom
from synthseg.stacks.check import SCALE_PERCENTILES, check_image, check_mask, check_pair
from synthseg.stacks.epfl import FILES, load_epfl, read_epfl
from synthseg.stacks.findings import DataError, Finding, Pair, Source, Stack, digest, show_path
from synthseg.stacks.read import check_names, list_slices, read_stack

SOURCES = """\
phantom      simulated electron microscopy, made on the spot; needs no download
epfl         the EPFL CA1 hippocampus stacks: the folder in SYNTHSEG_DATA, or a 520 MB download
FOLDER       the four EPFL files; or train/ and test/, each with images/ and masks/ (folders of
             PNG or TIFF slices) or image.tif and mask.tif; or one such pair, split by z
IMAGE,MASK   two multi-page TIFF files, or two folders of PNG or TIFF slices, split by z
Your own data also needs the size of a pixel: --set nm_per_pixel=..."""

PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one


def open_source(data: str, nm_per_pixel: float | None = None) -> Source:
    """Read what `data` names, one of `SOURCES`; if that fails, the `DataError` has all findings."""
    folder = Path(data).expanduser()
    if data == "phantom":
        source = phantom.source()
    elif data == "epfl":
        source = load_epfl()
    elif any((folder / name).exists() for name in FILES):
        source = read_epfl(folder, "read from a local folder")
    else:
        return _open_own(data, nm_per_pixel)
    if nm_per_pixel not in (None, source.nm_per_pixel):
        raise DataError(
            f"nm_per_pixel={nm_per_pixel} was given, but a pixel of {source.name} is "
            f"{source.nm_per_pixel:g} nm wide; leave nm_per_pixel out."
        )
    return source


def check_source(source: Source) -> Iterator[Finding]:
    """Check the pixels of a source, where that was not done when it was read."""
    for pair in [] if source.checked else source.pairs:
        image, mask = Stack.of(pair.image, pair.name), Stack.of(pair.mask, pair.name)
        yield from (*check_image(image), *check_mask(mask), *check_pair(image, mask))


# --- One's own data ---------------------------------------------------------------------------


def _open_own(data: str, nm_per_pixel: float | None) -> Source:
    """Read a person's own folder, or pair of files."""
    path = Path(data).expanduser()
    pairs, findings = _find_pairs(data)
    here = show_path(path)
    if nm_per_pixel is None:
        remedy = (
            "give it in nanometres: synthseg run … --set nm_per_pixel=5, or "
            "synthseg data check … --nm-per-pixel 5"
        )
        findings.append(Finding("error", here, "does not tell the size of its pixels", remedy))
    elif not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        what = f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual"
        remedy = "give nanometres, not micrometres or ångströms"
        findings.append(Finding("warning", here, what, remedy))
    read = []
    for pair in pairs:
        image, mask = map(read_stack, pair)
        findings += _check_stacks(image, mask)
        read.append((image, mask))
    if len(read) == 2:
        findings += _shared(read[0][0], read[1][0])
    if nm_per_pixel is None or any(finding.severity == "error" for finding in findings):
        raise DataError(findings)
    name = path.resolve().name if path.is_dir() else pairs[0][0].stem
    if len(read) == 2:
        how, names = "with a test volume of their own", [f"{name}-train", f"{name}-test"]
    else:
        names = [name]
        how = "one volume, split by z with gaps, so that test and training are the same block"
    blocks = [
        Pair(_to_uint8(image.pixels), mask.pixels > 0, part)
        for part, (image, mask) in zip(names, read, strict=True)
    ]
    provenance = f"Own data {name}, {nm_per_pixel:g} nm per pixel, {how}."
    for finding in findings:
        provenance += f" {finding.severity.capitalize()}: {finding}"
    for root in [path] if path.is_dir() else pairs[0]:  # cards and pages are for others, too
        provenance = provenance.replace(f"{show_path(root.parent)}{os.sep}", "")
    return Source(blocks, nm_per_pixel, name, provenance, findings, checked=True)


def _find_pairs(data: str) -> tuple[list[tuple[Path, Path]], list[Finding]]:
    """Find what holds images and masks: one pair of paths, or those of train/ and test/."""
    path = Path(data).expanduser()
    if path.is_dir():
        return _find_in_folder(path)
    halves = [path]
    if data.count(",") == 1:
        halves = [Path(half.strip()).expanduser() for half in data.split(",")]
    elif path.exists():
        raise DataError(f"{path} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    remedy = "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK"
    missing = [show_path(half) for half in halves if not half.exists()]
    if missing:
        raise DataError([Finding("error", half, "does not exist", remedy) for half in missing])
    return [(halves[0], halves[1])], []


def _find_in_folder(path: Path) -> tuple[list[tuple[Path, Path]], list[Finding]]:
    """Find one pair in a folder, or one in each of train/ and test/."""
    pairs, findings = [], []
    present = [path / half for half in ("train", "test") if (path / half).is_dir()]
    if len(present) == 1:
        remedy = (
            "add the other of train/ and test/, or put one images/ and masks/ pair directly "
            "into the folder, to be split by z"
        )
        what = f"holds {present[0].name}/ alone"
        findings.append(Finding("error", show_path(path), what, remedy))
    for beside in [*_candidates(path, "image"), *_candidates(path, "mask")] if present else []:
        what, remedy = "is not used: train/ and test/ beside it are", "move it elsewhere, or remove"
        findings.append(Finding("warning", show_path(beside), what, f"{remedy} train/ and test/"))
    for folder in present or [path]:
        halves = {stem: _candidates(folder, stem) for stem in ("image", "mask")}
        for stem, paths in halves.items():
            if len(paths) != 1:
                names = " and ".join(found.name for found in paths) or f"no {stem}s"
                remedy = (
                    f"it must hold exactly one of {stem}s/ (a folder of slices) and {stem}.tif (a "
                    "multi-page file)"
                )
                findings.append(Finding("error", show_path(folder), f"holds {names}", remedy))
        if all(len(paths) == 1 for paths in halves.values()):
            pairs.append((halves["image"][0], halves["mask"][0]))
    return pairs, findings


def _candidates(folder: Path, stem: str) -> list[Path]:
    names = [f"{stem}s", f"{stem}s.tif", f"{stem}s.tiff", f"{stem}.tif", f"{stem}.tiff"]
    return [folder / name for name in names if (folder / name).exists()]


def _check_stacks(image: Stack, mask: Stack) -> Iterator[Finding]:
    """Check an image and its mask, each a multi-page file or a folder of slices."""
    if image.path.is_dir() and mask.path.is_dir():
        yield from check_names(image.listed, mask.listed)
    for stack, check in ((image, check_image), (mask, check_mask)):
        yield from stack.findings
        if len(stack.pixels):
            yield from check(stack)
    if not (len(image.pixels) and len(mask.pixels)):
        return
    sizes, both = (image.pixels.shape, mask.pixels.shape), image.complete and mask.complete
    if sizes[0][1:] != sizes[1][1:] or (both and sizes[0] != sizes[1]):
        count, other = (f"{z} slices of {y} x {x} px" for z, y, x in sizes)
        what = f"holds {count}, but {show_path(mask.path)} holds {other}"
        yield image.whole("error", what, "each image slice needs its mask of the same size")
    elif sizes[0][0] == 1 and image.complete:
        yield image.whole("error", "holds a single slice", "give a stack of slices, a volume")
    elif both:
        yield from check_pair(image, mask)


def _shared(train: Stack, test: Stack) -> Iterator[Finding]:
    """Report slices of the test stack that are in the training stack, too."""
    known = {digest(page): index for index, page in enumerate(train.pixels)}
    for index, page in enumerate(test.pixels):
        same = known.get(digest(page))
        if same is not None and page.min() < page.max():
            where = show_path(train.files[same])
            if train.files[same] == train.path:
                where += f", {train.label(same)}"
            remedy = "test on slices that are not in train/, or scores would be taken on training"
            what = f"is a training image, too ({where})"
            yield from test.at([index], "error", what, f"{remedy} data")


def open_images(path: Path) -> Stack:
    """Read images that have no masks: slices of 8 bit, with what was noticed about their files."""
    if not path.exists():
        raise DataError([Finding("error", show_path(path), "does not exist", "check the name")])
    files = list_slices(path)[0] if path.is_dir() else [path]
    stack = read_stack(files[0] if len(files) == 1 else path)
    if errors := [finding for finding in stack.findings if finding.severity == "error"]:
        raise DataError(errors[:1])
    if stack.pixels.min() == stack.pixels.max():
        remedy = "check that these are the images, and their export"
        raise DataError([stack.whole("error", "is of one grey value everywhere", remedy)])
    return replace(stack, pixels=_to_uint8(stack.pixels))


def _to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Keep 8-bit images; scale others between two percentiles of the whole volume."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, SCALE_PERCENTILES)
    grey = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(grey.clip(0, 255)).astype(np.uint8)
