"""What a person names, as arrays: the phantom, the EPFL files, or data of one's own."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from natsort import natsorted

from synthseg.stacks import phantom
from synthseg.stacks.check import Ranges, check_image, check_mask, read_mask
from synthseg.stacks.compare import check_pair, check_parts, check_pixel_size
from synthseg.stacks.epfl import FILES, load_epfl, read_epfl
from synthseg.stacks.findings import (
    DataError,
    Finding,
    Pair,
    Source,
    Stack,
    about,
    gather,
    show_path,
    some,
)
from synthseg.stacks.grey import to_uint8, unsigned
from synthseg.stacks.read import SUFFIXES, TIFF, is_hidden, list_slices, pair_names, read_stack

SOURCES = """\
phantom      simulated electron microscopy, made on the spot; needs no download
epfl         the EPFL CA1 hippocampus stacks: the folder in SYNTHSEG_DATA, or a 520 MB download
FOLDER       images/ and masks/ (folders of PNG or TIFF slices), or image.tif and mask.tif, split by
             z; or such a pair in each of train/, test/ and perhaps val/; or the four EPFL files
IMAGE,MASK   two multi-page TIFF files, or two folders of slices, of any names, split by z
Your own data also need the size of a pixel: --nm-per-pixel 5. What is above 0 in a mask counts as
the structure; if only some values do, name them at the end: FOLDER:mask=1 or FOLDER:mask=1,3-5"""

PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one
# Words in the names of files and folders, whatever their case.
IMAGES = {"image", "images", "img", "imgs", "raw", "em", "volume", "volumes", "x"}
MASKS = {"mask", "masks", "label", "labels", "gt", "groundtruth", "truth", "y", "seg"}
MASKS |= {"segmentation", "segmentations", "annotation", "annotations"}
PARTS = {
    "train": {"train", "training"},
    "validation": {"val", "valid", "validation"},
    "test": {"test", "testing"},
}
FOREIGN = {
    ".npy": "numpy.load({!r})",
    ".mrc": "mrcfile.read({!r})",
    ".rec": "mrcfile.read({!r})",
    ".nii": "nibabel.load({!r}).get_fdata().T",
    ".gz": "nibabel.load({!r}).get_fdata().T",
    ".h5": "h5py.File({!r})['NAME'][:]",
    ".hdf5": "h5py.File({!r})['NAME'][:]",
    ".zarr": "zarr.open({!r})[:]",
    ".n5": "zarr.open({!r})[:]",
}
"""Formats that are not read: how Python reads them."""
LEAST = {1: 6, 2: 4, 3: 2}
"""Slices that the first block needs, by the number of blocks, to leave two for training."""

Paths = tuple[Path, Path]  # of image and mask


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


# --- Names ------------------------------------------------------------------------------------


def split_values(data: str) -> tuple[str, str]:
    """Take the values of the mask that count, such as ``:mask=1,3-5``, off the name of data."""
    name, mark, values = data.rpartition(":mask=")
    return (name, mark + values) if mark else (data, "")


def find_paths(name: str, base: Path) -> list[Path]:
    """One path, or those of image and mask; a name may hold commas itself, if it exists."""
    commas = [place for place, letter in enumerate(name) if letter == ","]
    ways = [[name], *([name[:at], name[at + 1 :].strip()] for at in commas)]
    found = [[Path(part).expanduser() for part in way] for way in ways]
    for paths in found:
        if all((base / path).exists() for path in paths):
            return paths
    return found[1] if len(commas) == 1 else found[0]


def locate(data: str, base: Path, root: Path | None = None) -> str:
    """Make the paths that `data` names absolute, from `base`; or those that aren't, from `root`."""
    if data in ("phantom", "epfl"):
        return data
    name, values = split_values(data)
    paths = [
        os.path.relpath(base / path, root) if root and not path.is_absolute() else str(base / path)
        for path in find_paths(name, base)
    ]
    return ",".join(paths) + values


def _ranges(values: str) -> Ranges | None:
    if not values:
        return None
    try:
        spans = [span.split("-") for span in values.removeprefix(":mask=").split(",")]
        return [(float(span[0]), float(span[-1])) for span in spans]
    except ValueError:
        raise DataError(
            f"{values} must be numbers and ranges of them, as in :mask=1,3-5."
        ) from None


# --- One's own data ---------------------------------------------------------------------------


def _open_own(data: str, nm_per_pixel: float | None) -> Source:
    """Read a person's own folder, or pair of files."""
    name, values = split_values(data)
    chosen, paths = _ranges(values), find_paths(name, Path())
    blocks, findings = _find_pairs(paths)
    if nm_per_pixel is not None and not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        what = f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual"
        remedy = "give nanometres, not micrometres or ångströms"
        findings.append(Finding("warning", show_path(paths[0]), what, remedy))
    read: dict[str, tuple[Stack, Stack]] = {}
    for part, pair in blocks.items():
        image, mask, found = _read_pair(pair, chosen)
        findings += found
        if len(image.pixels) and image.complete:
            for _, (earlier, _) in list(read.items())[:1]:
                findings += check_parts(earlier, image)
            read[part] = image, mask
    if stacks := [stack for pair in read.values() for stack in pair]:
        findings += check_pixel_size(stacks, nm_per_pixel)
        if len(stacks[0].pixels) < (least := LEAST[len(blocks)]):
            what = f"holds {len(stacks[0].pixels)} slices, but at least {least} are needed"
            remedy = (
                "give more, better 20: two are for training, one each for validation and test, and "
                "one between is unused; cut a mosaic into tiles of one size"
            )
            findings.append(stacks[0].whole("error", what, remedy))
    findings = gather(findings)
    if nm_per_pixel is None or any(finding.severity == "error" for finding in findings):
        raise DataError(findings)
    title = paths[0].resolve().name if len(paths) == 1 else paths[0].stem
    how = "with a test volume of their own"
    if len(read) == 1:
        how = "one volume, split by z with gaps, so that test and training are the same block"
    pairs = [
        Pair(to_uint8(image.pixels), mask.pixels, f"{title}-{part}" if len(read) > 1 else title)
        for part, (image, mask) in read.items()
    ]
    provenance = f"Own data {title}, {nm_per_pixel:g} nm per pixel, {how}."
    for finding in findings:
        provenance += f" {finding.severity.capitalize()}: {finding}"
    for path in paths:  # cards and pages are for others, too
        provenance = provenance.replace(f"{show_path(path.parent)}{os.sep}", "")
    return Source(pairs, nm_per_pixel, title, provenance, findings, checked=True)


def _read_pair(paths: Paths, chosen: Ranges | None) -> tuple[Stack, Stack, list[Finding]]:
    """Read an image and its mask, and check them; the pixels of the mask are bool then."""
    (images, found), (masks, more) = map(list_slices, paths)
    findings = [*found, *more]
    for path, files in zip(paths, (images, masks), strict=True):
        findings += [] if files else _foreign([*path.iterdir()])
    if all(path.is_dir() for path in paths) and images and masks:
        images, masks, more = pair_names(images, masks)
        findings += more
    image = unsigned(read_stack(paths[0], images), mask=False)
    mask = unsigned(read_stack(paths[1], masks, mask=True), mask=True)
    findings += [*image.findings, *mask.findings]
    if len(image.pixels):
        findings += check_image(image)
    if len(mask.pixels):
        marked, more = read_mask(mask, chosen)
        mask = replace(mask, pixels=marked)
        findings += more
        if all(finding.severity != "error" for finding in more):
            findings += check_mask(mask)
    if not (len(image.pixels) and len(mask.pixels) and image.complete and mask.complete):
        return image, mask, findings
    if image.pixels.shape != mask.pixels.shape:
        count, other = (
            f"{z} slices of {y} x {x} px" for z, y, x in (image.pixels.shape, mask.pixels.shape)
        )
        what = f"holds {count}, but {show_path(mask.path)} holds {other}"
        remedy = "each image slice needs its mask of the same size"
        return image, mask, [*findings, image.whole("error", what, remedy)]
    return image, mask, [*findings, *check_pair(image, mask)]


def _find_pairs(paths: list[Path]) -> tuple[dict[str, Paths], list[Finding]]:
    """Find what holds images and masks: one pair of paths, or those of the parts of a folder."""
    remedy = "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK"
    if missing := [show_path(path) for path in paths if not path.exists()]:
        raise DataError([Finding("error", path, "does not exist", remedy) for path in missing])
    if foreign := [*_foreign(paths)]:
        raise DataError(foreign)
    if len(paths) == 2:
        return {"": (paths[0], paths[1])}, []
    if not paths[0].is_dir():
        raise DataError(f"{paths[0]} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    return _find_in_folder(paths[0])


def _foreign(paths: list[Path]) -> Iterator[Finding]:
    """Name files of other formats, with the line that converts them."""
    for suffix, reading in FOREIGN.items():
        if found := [path for path in paths if path.suffix.lower() == suffix]:
            new, old = f"{found[0].name.split('.')[0]}.tif", found[0].name
            what = f"is of a format that is not read ({suffix})"
            remedy = f"convert it in Python: tifffile.imwrite({new!r}, {reading.format(old)})"
            yield from about(found[0].parent, found, "error", what, remedy)


def _words(path: Path) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(path))}


def _entries(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Files and folders of slices, also those in train/ and the like."""
    for entry in natsorted(folder.iterdir()):
        if is_hidden(entry):
            continue
        inner = [*entry.iterdir()] if entry.is_dir() and entry.suffix not in FOREIGN else []
        slices = any(file.suffix.lower() in SUFFIXES for file in inner)
        part = bool(inner) and _words(Path(entry.name)) <= set().union(*PARTS.values())
        if deep and (part or (any(file.is_dir() for file in inner) and not slices)):
            yield from _entries(entry, deep=False)
        else:
            yield entry


def _find_in_folder(folder: Path) -> tuple[dict[str, Paths], list[Finding]]:
    """Find image and mask in a folder, or in each of its parts, by the words in their names."""
    here, entries = show_path(folder), [*_entries(folder)]
    findings, left = [*_foreign(entries)], []
    groups: dict[str, dict[str, list[Path]]] = {}
    for entry in entries:
        inner = entry.relative_to(folder)
        words = _words(inner)
        part = next((part for part, names in PARTS.items() if words & names), "")
        group = groups.setdefault(part, {"image": [], "mask": [], "other": []})
        role = "mask" if words & MASKS else "image" if words & IMAGES else "other"
        if entry.is_dir() or entry.suffix.lower() in TIFF:
            group[role].append(entry)
        elif entry.suffix.lower() not in FOREIGN:
            left.append(entry)
    blocks: dict[str, Paths] = {}
    for part, group in groups.items():
        vacant = [role for role in ("image", "mask") if not group[role]]
        if len(vacant) == 1 and len(group["other"]) == 1:
            taken = group[vacant[0]] = [group["other"].pop()]
            what = f"is taken for the {vacant[0]}s, as it lies beside the other"
            findings.extend(about(folder, taken, "note", what, "name IMAGE,MASK if it is not so"))
        if len(group["image"]) == len(group["mask"]) == 1:
            blocks[part] = group["image"][0], group["mask"][0]
        else:
            left += [*group["image"], *group["mask"]]
        left += group["other"]
    if "train" in blocks or "test" in blocks:
        left += blocks.pop("", ())
    order = [part for part in ("", *PARTS) if part in blocks]
    if order == ["train", "validation"]:
        what, remedy = "holds no test part: the validation part is used for it", "add test/"
        findings.append(Finding("warning", here, what, remedy))
    if not blocks and not findings:
        shown = [f"{entry.relative_to(folder)}{'/' * entry.is_dir()}" for entry in left]
        two = shown[:2] if len(shown) > 1 else ("IMAGE", "MASK")
        what = f"holds {some(shown, 6) or 'nothing'}: which are image and mask is not plain"
        remedy = f"name the two: --data {','.join(f'{here}/{name}'.rstrip('/') for name in two)}"
        findings.append(Finding("error", here, what, f"{remedy}; or call them images and masks"))
        left = []
    findings += about(
        folder, left, "warning", "is not used", "move it elsewhere, or name IMAGE,MASK"
    )
    return {part: blocks[part] for part in order}, findings
