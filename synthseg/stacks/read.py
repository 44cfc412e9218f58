"""Stacks of slices: multi-page files and folders, listed, paired by name, and read.

What a file cannot give becomes a finding that names it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from natsort import natsorted
from numpy.typing import NDArray

from synthseg.stacks.decode import LARGEST_STACK, Sizes, Unreadable, decode, grey
from synthseg.stacks.findings import Finding, Stack, about, gather, show_path

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


def read_stack(path: Path, files: list[Path] | None = None, *, mask: bool = False) -> Stack:
    """Read a multi-page file, or a folder of slices: all of them, or `files` in their order.

    The stack holds the slices that are grey, finite and alike, of the type stored; its findings
    tell of all others. Of a mask, indices of a palette are its numbers, and 1-bit pixels become 0
    and 255, as other slices may have them.
    """
    findings: list[Finding] = []
    if files is None:
        files, findings = list_slices(path)
    slices: list[tuple[Path, NDArray]] = []
    budget = LARGEST_STACK
    sizes: Sizes = (None, None)
    for file in files:
        names = () if file == path else (show_path(Path(file.name)),)
        try:
            decoded = decode(file, mask, budget)
            if len(decoded.pages) != 1 and len(files) > 1:
                what = f"holds {len(decoded.pages)} pages, but in a folder each file is one slice"
                raise Unreadable(what, "give the multi-page file alone, or one file a slice")
            pages = [grey(page) for page in decoded.pages]
        except Unreadable as problem:
            what, remedy = problem.args
            findings.append(Finding("error", show_path(path), what, remedy, names))
            continue
        for severity, what, remedy in decoded.remarks:
            findings.append(Finding(severity, show_path(path), what, remedy, names))
        budget -= decoded.pages.nbytes
        sizes = decoded.sizes if sizes[0] is None else sizes
        slices += [(file if len(files) > 1 else path, page) for page in pages]
    if mask:
        slices = [(f, p.view("u1") * np.uint8(255) if p.dtype == bool else p) for f, p in slices]
    kinds = [
        f"{'mask' if mask else p.dtype} of {' x '.join(map(str, p.shape))} px" for _, p in slices
    ]
    if not slices:
        return Stack(path, np.empty((0, 0, 0), np.uint8), (), gather(findings))
    findings += _odd_ones(show_path(path), [f.name for f, _ in slices], kinds)
    usual = Counter(kinds).most_common(1)[0][0]
    alike = [item for item, kind in zip(slices, kinds, strict=True) if kind == usual]
    del slices
    kept, used = [page for _, page in alike], [file for file, _ in alike]
    whole = kept[0].base  # a multi-page file is one array already: a second copy costs memory
    if whole is None or whole.shape != (len(kept), *kept[0].shape):
        whole = np.stack(kept)
    return Stack(path, whole, used, gather(findings), *sizes)


def _odd_ones(folder: str, names: list[str], kinds: list[str]) -> Iterator[Finding]:
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
        nothing = Finding("error", show_path(path), what, remedy)
        findings = [*foreign(natsorted(others))] or [*findings, nothing]
    return natsorted(files, key=lambda file: (_stem(file), file.name)), findings


def foreign(paths: list[Path]) -> Iterator[Finding]:
    """Name files of other formats, with the line that converts them."""
    for suffix, reading in FOREIGN.items():
        if found := [path for path in paths if path.suffix.lower() == suffix]:
            new, old = f"{found[0].name.split('.')[0]}.tif", found[0].name
            what = f"is of a format that is not read ({suffix})"
            remedy = f"convert it in Python: tifffile.imwrite({new!r}, {reading.format(old)})"
            yield from about(found[0].parent, found, "error", what, remedy)


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
    findings: list[Finding] = []
    sides = ((images, set(pairs), "mask"), (masks, set(pairs.values()), "image"))
    for files, matched, partner in sides:
        lonely = [file for file in files if file not in matched]
        what, remedy = f"has no {partner}", f"add the {partner}, or move this elsewhere"
        findings += about(files[0].parent, lonely, "error", what, remedy)
    if not by_name:
        first = next(pair for pair in pairs.items() if _stem(pair[0]) != _stem(pair[1]))
        names = " with ".join(show_path(Path(file.name)) for file in first)
        what, remedy = f"was paired with the images by numbers: {names}", "check this first pair"
        findings.append(Finding("note", show_path(folder), what, remedy))
    return [*pairs], [*pairs.values()], [*findings, *_gaps([*pairs])]


def _gaps(files: list[Path]) -> Iterator[Finding]:
    """Warn of slices that seem to be missing: names count 1, 2, 3, 5."""
    last = [number for file in files if (number := _last_number(file)) is not None]
    steps = [following - number for number, following in pairwise(last)]
    if len(steps) < 2 or len(last) < len(files):
        return
    usual, _ = Counter(steps).most_common(1)[0]
    behind = [file for step, file in zip(steps, files[1:], strict=True) if step > usual > 0]
    remedy = "add what is missing, image and mask, or use a part without a gap"
    what = "follows a gap in the numbers"
    yield from about(files[0].parent, behind, "warning", what, remedy)
