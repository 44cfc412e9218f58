"""What a person names, as arrays: the phantom, the EPFL files, or data of one's own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthseg.stacks import phantom
from synthseg.stacks.check import SCALE_PERCENTILES, check_image, check_mask, check_pair, digest
from synthseg.stacks.epfl import holds_epfl, load_epfl, read_epfl
from synthseg.stacks.findings import DataError, Finding, Pair, Source, Stack, show_path
from synthseg.stacks.read import check_names, read_stack

SOURCES = """\
phantom      simulated electron microscopy, made on the spot; needs no download
epfl         the EPFL CA1 hippocampus stacks: the folder in SYNTHSEG_DATA, or a 520 MB download
FOLDER       the four EPFL files; or train/ and test/, each with images/ and masks/ (folders of
             PNG or TIFF slices) or image.tif and mask.tif; or one such pair, split by z
IMAGE,MASK   two multi-page TIFF files, or two folders of PNG or TIFF slices, split by z
Your own data also needs the size of a pixel: --set nm_per_pixel=..."""

PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one


def open_source(data: str, nm_per_pixel: float | None = None) -> Source:
    """Read what `data` names, one of `SOURCES`.

    Raises
    ------
    DataError
        With all findings, if there is an error among them.
    """
    folder = Path(data).expanduser()
    if data == "phantom":
        source = phantom.source()
    elif data == "epfl":
        source = load_epfl()
    elif holds_epfl(folder):
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
    if source.checked:
        return
    for pair in (source.development, source.test):
        if pair:
            image, mask = Stack.of(pair.image, pair.name), Stack.of(pair.mask, pair.name)
            yield from (*check_image(image), *check_mask(mask), *check_pair(image, mask))


# --- One's own data ---------------------------------------------------------------------------


def _open_own(data: str, nm_per_pixel: float | None) -> Source:
    """Read a person's own folder, or pair of files."""
    path = Path(data).expanduser()
    pairs, findings = _find_pairs(data)
    read = []
    if not any(finding.what == NOT_THERE for finding in findings):
        findings += _check_pixel_size(show_path(path), nm_per_pixel)
    for image_path, mask_path in pairs:
        if image_path.exists() and mask_path.exists():
            image, mask = read_stack(image_path), read_stack(mask_path)
            findings += _check_stacks(image, mask)
            read.append((image, mask))
    if len(read) == 2:
        findings += _shared(read[0][0], read[1][0])
    if any(finding.severity == "error" for finding in findings):
        raise DataError(findings)
    assert nm_per_pixel is not None  # see above
    name = pairs[0][0].stem if "," in data and not path.is_dir() else path.resolve().name
    how = "one volume, split by z with gaps, so that test and training are the same block"
    names = [name]
    if len(read) == 2:
        how, names = "with a test volume of their own", [f"{name}-train", f"{name}-test"]
    development, *others = (
        Pair(_to_uint8(image.pixels), mask.pixels > 0, part)
        for part, (image, mask) in zip(names, read, strict=True)
    )
    provenance = f"Own data {name}, {nm_per_pixel:g} nm per pixel, {how}."
    for finding in findings:
        provenance += f" {finding.severity.capitalize()}: {finding}"
    test = others[0] if others else None
    return Source(development, test, nm_per_pixel, name, provenance, findings, checked=True)


NOT_THERE = "does not exist"


def _find_pairs(data: str) -> tuple[list[tuple[Path, Path]], list[Finding]]:
    """Find what holds images and masks: one pair of paths, or those of train/ and test/."""
    path, findings = Path(data).expanduser(), []
    pairs: list[tuple[Path, Path]] = []
    if path.is_dir():
        present = [path / half for half in ("train", "test") if (path / half).is_dir()]
        if len(present) == 1:
            what = f"holds {present[0].name}/ alone"
            remedy = (
                "add the other of train/ and test/, or put one images/ and masks/ pair directly "
                "into the folder, to be split by z"
            )
            findings.append(Finding("error", show_path(path), what, remedy))
        unused = [*_candidates(path, "image"), *_candidates(path, "mask")] if present else []
        for beside in unused:
            what = "is not used: train/ and test/ beside it are"
            remedy = "move it elsewhere, or remove train/ and test/"
            findings.append(Finding("warning", show_path(beside), what, remedy))
        for folder in present or [path]:
            try:
                pairs.append(_find_pair(folder))
            except DataError as error:
                findings += error.findings
        return pairs, findings
    if data.count(",") == 1:
        image, mask = (Path(part.strip()).expanduser() for part in data.split(","))
        pairs = [(image, mask)]
    elif path.exists():
        raise DataError(f"{path} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    remedy = "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK"
    for half in pairs[0] if pairs else [path]:
        if not half.exists():
            findings.append(Finding("error", show_path(half), NOT_THERE, remedy))
    return pairs, findings


def _candidates(folder: Path, stem: str) -> list[Path]:
    names = [f"{stem}s", f"{stem}s.tif", f"{stem}s.tiff", f"{stem}.tif", f"{stem}.tiff"]
    return [folder / name for name in names if (folder / name).exists()]


def _find_pair(folder: Path) -> tuple[Path, Path]:
    """Find images and masks in a folder: two folders of slices, or two TIFF files."""
    pair, findings = [], []
    for stem in ("image", "mask"):
        paths = _candidates(folder, stem)
        if len(paths) != 1:
            what = f"holds {' and '.join(path.name for path in paths) or f'no {stem}s'}"
            remedy = (
                f"it must hold exactly one of {stem}s/ (a folder of slices) and {stem}.tif (a "
                "multi-page file)"
            )
            findings.append(Finding("error", show_path(folder), what, remedy))
        pair += paths
    if findings:
        raise DataError(findings)
    return pair[0], pair[1]


def _check_pixel_size(here: str, nm_per_pixel: float | None) -> Iterator[Finding]:
    if nm_per_pixel is None:
        yield Finding(
            "error",
            here,
            "does not tell the size of its pixels",
            "give it in nanometres: synthseg run … --set nm_per_pixel=5, or "
            "synthseg data check … --nm-per-pixel 5",
        )
    elif not 0 < nm_per_pixel < np.inf:
        raise DataError(f"nm_per_pixel={nm_per_pixel} must be a number above 0; give nanometres.")
    elif not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        what = f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual"
        yield Finding("warning", here, what, "give nanometres, not micrometres or ångströms")


def _check_stacks(image: Stack, mask: Stack) -> Iterator[Finding]:
    """Check an image and its mask, each a multi-page file or a folder of slices."""
    if image.path.is_dir() and mask.path.is_dir():
        yield from check_names(image.listed, mask.listed)
    yield from image.findings
    if len(image.pixels):
        yield from check_image(image)
    yield from mask.findings
    if len(mask.pixels):
        yield from check_mask(mask)
    if not (len(image.pixels) and len(mask.pixels)):
        return
    sizes, both = (image.pixels.shape, mask.pixels.shape), image.complete and mask.complete
    if sizes[0][1:] != sizes[1][1:] or (both and sizes[0] != sizes[1]):
        count, other = (
            f"{depth} slices of {height} x {width} px" for depth, height, width in sizes
        )
        yield image.whole(
            "error",
            f"holds {count}, but {show_path(mask.path)} holds {other}",
            "each image slice needs its mask of the same size",
        )
    elif sizes[0][0] == 1 and image.complete:
        yield image.whole("error", "holds a single slice", "give a stack of slices, a volume")
    elif both and mask.pixels.any():
        yield from check_pair(image, mask)


def _shared(train: Stack, test: Stack) -> Iterator[Finding]:
    """Report slices of the test stack that are in the training stack, too."""
    known = {digest(page): index for index, page in enumerate(train.pixels)}
    for index, page in enumerate(test.pixels):
        same = known.get(digest(page))
        if same is not None and page.min() < page.max():
            where, label = show_path(train.files[same]), train.label(same)
            where += f", {label}" if label.startswith("slice ") else ""
            yield from test.at(
                [index],
                "error",
                f"is a training image, too ({where})",
                "test on slices that are not in train/, or scores would be taken on training data",
            )


def _to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Keep 8-bit images; scale others between two percentiles of the whole volume."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, SCALE_PERCENTILES)
    grey = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(grey.clip(0, 255)).astype(np.uint8)
