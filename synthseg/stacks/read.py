"""Stacks of slices: multi-page files and folders, listed, paired by name, and read.

What a file cannot give becomes a finding that names it.
"""

import re
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from natsort import natsorted
from numpy.typing import NDArray

from synthseg.stacks.decode import LARGEST_STACK, Sizes, Unreadable, decode, grey
from synthseg.stacks.findings import Finding, Stack, found, show_path

TIFF = {".tif", ".tiff"}
SUFFIXES = {".png", ".jpg", ".jpeg", *TIFF}
FOREIGN = {
    ".npy": "numpy.load({!r})",
    **dict.fromkeys((".mrc", ".rec"), "mrcfile.read({!r})"),
    **dict.fromkeys((".nii", ".gz"), "nibabel.load({!r}).get_fdata().T"),
    **dict.fromkeys((".h5", ".hdf", ".hdf5"), "h5py.File({!r})['NAME'][:]"),
    **dict.fromkeys((".zarr", ".n5"), "zarr.open({!r})[:]"),
}
"""Formats that are not read: how Python reads them."""
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # and every name that begins with a dot
Paths = tuple[Path, Path]  # of image and mask


def read_pair(paths: Paths) -> tuple[Stack, Stack]:
    """Read an image and its mask, two files or two folders whose files are paired by name."""
    (images, noticed), (masks, more) = map(list_slices, paths)
    if all(path.is_dir() for path in paths) and images and masks:
        pairs, unpaired = pair_names(images, masks)
        images, masks, noticed = [*pairs], [*pairs.values()], [*noticed, *unpaired]
    return read_stack(paths[0], images, noticed), read_stack(paths[1], masks, more, mask=True)


def read_stack(
    path: Path, files: list[Path], noticed: list[Finding] | None = None, *, mask: bool = False
) -> Stack:
    """Read a multi-page file, or these files of a folder in their order.

    The stack holds the slices that are grey, finite and alike, of the type stored; its findings
    tell of all others, after what was `noticed` before. Of a mask, indices of a palette are its
    numbers, and 1-bit pixels become 0 and 255, as other slices may have them.
    """
    findings = [*(noticed or [])]
    blocks: dict[Path, NDArray] = {}
    budget = LARGEST_STACK
    sizes: Sizes = (None, None)
    for file in files:
        slices = None if file == path else [file]
        try:
            decoded = decode(file, mask, budget)
            if len(decoded.pages) != 1 and len(files) > 1:
                what = f"holds {len(decoded.pages)} pages, but in a folder each file is one slice"
                raise Unreadable(what, "give the multi-page file alone, or one file a slice")
            pages = grey(decoded.pages)
        except Unreadable as problem:
            what, remedy = problem.args
            findings += found(path, "error", what, remedy, slices)
            continue
        for severity, what, remedy in decoded.remarks:
            findings += found(path, severity, what, remedy, slices)
        budget -= decoded.pages.nbytes
        sizes = decoded.sizes if sizes[0] is None else sizes
        blocks[file] = pages.view("u1") * np.uint8(255) if mask and pages.dtype == bool else pages
    kinds = {
        file: f"{'mask' if mask else pages.dtype} of {' x '.join(map(str, pages.shape[1:]))} px"
        for file, pages in blocks.items()
    }
    if not kinds:
        return Stack(path, np.empty((0, 0, 0), np.uint8), (), findings)
    (usual, count), *others = Counter(kinds.values()).most_common()
    if count <= len(kinds) // 2:
        what = f"holds {len(kinds)} pictures of {len(others) + 1} sizes or types, and is no stack"
        remedy = "give slices of one block, all of one size; the chapters do not use single images"
        findings += found(path, "error", what, remedy)
        others = []
    for kind, _ in others:
        odd = [file for file in kinds if kinds[file] == kind]
        what = f"is {kind}, but {count} of {len(kinds)} slices are {usual}"
        findings += found(path, "error", what, "export all slices alike", odd)
    used = [file for file in kinds if kinds[file] == usual]
    alike = [blocks.pop(file) for file in used]
    # The array of a multi-page file is used as it is: a second copy costs memory.
    whole = alike[0] if len(files) == 1 else np.concatenate(alike)
    return Stack(path, whole, used if len(files) > 1 else [path] * len(whole), findings, *sizes)


# --- Folders ----------------------------------------------------------------------------------


def list_slices(path: Path) -> tuple[list[Path], list[Finding]]:
    """List the slices in a folder in natural order, 9 before 10; report whatever else is there."""
    if not path.is_dir():
        return [path], []
    try:
        entries = [entry for entry in path.iterdir() if not is_hidden(entry)]
    except OSError as error:
        return [], found(path, "error", f"cannot be read ({error})", "check its permissions")
    entries = natsorted(entries, key=lambda entry: (_stem(entry), entry.name))
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    others = [entry for entry in entries if entry not in files]
    what, remedy = "is not used: no PNG, JPEG or TIFF file", "export what is a slice"
    findings = found(path, "warning", what, remedy, others)
    if not files:
        what, remedy = "holds no PNG, JPEG or TIFF files", "export the slices as PNG or TIFF"
        findings = foreign(others) or [*findings, *found(path, "error", what, remedy)]
    return files, findings


def foreign(paths: list[Path]) -> list[Finding]:
    """Name files of other formats, with the line that converts them."""
    findings: list[Finding] = []
    for suffix, reading in FOREIGN.items():
        if files := [path for path in paths if path.suffix.lower() == suffix]:
            new, old = f"{files[0].name.split('.')[0]}.tif", files[0].name
            what = f"is of a format that is not read ({suffix})"
            remedy = f"convert it in Python: tifffile.imwrite({new!r}, {reading.format(old)})"
            findings += found(files[0].parent, "error", what, remedy, files)
    return findings


def is_hidden(path: Path) -> bool:
    """Whether a system, not a person, put a file there."""
    return path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS


def _stem(file: Path) -> str:
    return unicodedata.normalize("NFC", file.stem).removesuffix(".ome")


def _numbers(file: Path) -> tuple[int, ...]:
    return tuple(int(digits[-15:]) for digits in re.findall(r"[0-9]+", _stem(file)))


def pair_names(images: list[Path], masks: list[Path]) -> tuple[dict[Path, Path], list[Finding]]:
    """Find the mask of each image: by equal names or, failing that, by numbers that are unique."""
    if len(images) == len(masks) == 1:  # multi-page files, of whatever name
        return {images[0]: masks[0]}, []
    pairs: dict[Path, Path] = {}
    for key in (_stem, lambda file: _numbers(file)[-1:], _numbers):
        left, right = ({key(file): file for file in files} for files in (images, masks))
        common = [name for name in left if name and name in right]
        unique = len(left) == len(images) and len(right) == len(masks)
        if len(common) > len(pairs) and (unique or key is _stem):
            pairs, by_name = {left[name]: right[name] for name in common}, key is _stem
    folder = masks[0].parent
    if not pairs:
        what = f"holds no file whose name or number is that of an image ({images[0].name}, …)"
        return {}, found(folder, "error", what, "give image and mask of a slice one name")
    findings: list[Finding] = []
    for files, matched, partner in (
        (images, {*pairs}, "mask"),
        (masks, {*pairs.values()}, "image"),
    ):
        lonely = [file for file in files if file not in matched]
        what, remedy = f"has no {partner}", f"add the {partner}, or move this elsewhere"
        findings += found(files[0].parent, "error", what, remedy, lonely)
    if not by_name:
        first = next(pair for pair in pairs.items() if _stem(pair[0]) != _stem(pair[1]))
        names = " with ".join(show_path(Path(file.name)) for file in first)
        what = f"was paired with the images by numbers: {names}"
        findings += found(folder, "note", what, "check this first pair")
    numbers = [number for file in pairs for number in _numbers(file)[-1:]]
    steps = [following - number for number, following in pairwise(numbers)]
    if len(steps) == len(pairs) - 1 > 1:  # names may count 1, 2, 3, 5
        usual, _ = Counter(steps).most_common(1)[0]
        behind = [file for file, step in zip([*pairs][1:], steps, strict=True) if step > usual > 0]
        remedy = "add what is missing, image and mask, or use a part without a gap"
        what = "follows a gap in the numbers"
        findings += found(images[0].parent, "warning", what, remedy, behind)
    return pairs, findings
