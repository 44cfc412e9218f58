"""Which files hold images and masks: found by the words in the names of files and folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from natsort import natsorted

from synthseg.stacks.findings import DataError, Finding, about, show_path, some
from synthseg.stacks.read import FOREIGN, SUFFIXES, TIFF, foreign, is_hidden

# Words in the names of files and folders, whatever their case.
IMAGES = {"image", "images", "img", "imgs", "raw", "em", "volume", "volumes", "x"}
MASKS = {"mask", "masks", "label", "labels", "gt", "groundtruth", "truth", "y", "seg"}
MASKS |= {"segmentation", "segmentations", "annotation", "annotations"}
PARTS = {
    "train": {"train", "training"},
    "validation": {"val", "valid", "validation"},
    "test": {"test", "testing"},
}
Paths = tuple[Path, Path]  # of image and mask


def find_pairs(paths: list[Path], structure: str) -> tuple[dict[str, Paths], list[Finding]]:
    """Find what holds images and masks: one pair of paths, or those of the parts of a folder."""
    remedy = "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK"
    if missing := [show_path(path) for path in paths if not path.exists()]:
        raise DataError([Finding("error", path, "does not exist", remedy) for path in missing])
    if others := [*foreign(paths)]:
        raise DataError(others)
    if len(paths) == 2:
        return {"": (paths[0], paths[1])}, []
    if not paths[0].is_dir():
        raise DataError(f"{paths[0]} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    return _find_in_folder(paths[0], structure)


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


def _find_in_folder(folder: Path, structure: str) -> tuple[dict[str, Paths], list[Finding]]:
    """Find image and mask in a folder, or in each of its parts, by the words in their names."""
    here, entries = show_path(folder), [*_entries(folder)]
    findings: list[Finding] = []
    left: list[Path] = []
    groups: dict[str, dict[str, list[Path]]] = {}
    for entry in entries:
        inner = entry.relative_to(folder)
        words = _words(inner)
        part = next((part for part, names in PARTS.items() if words & names), "")
        group = groups.setdefault(part, {"image": [], "mask": [], "other": []})
        roles = ("mask", MASKS), ("image", IMAGES), ("mask", _words(Path(structure)))
        role = next((role for role, names in roles if words & names), "other")
        suffix = entry.suffix.lower()
        if suffix in TIFF or (entry.is_dir() and suffix not in FOREIGN):
            group[role].append(entry)
        else:
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
    if not blocks:
        shown = [f"{entry.relative_to(folder)}{'/' * entry.is_dir()}" for entry in left]
        two = shown[:2] if 1 < len(shown) < 5 else ("IMAGE", "MASK")
        what = f"holds {some(shown, 6) or 'nothing'}: which are image and mask is not plain"
        remedy = f"name the two: --data {','.join(f'{here}/{name}'.rstrip('/') for name in two)}"
        remedy += "; or put slices into images/ and masks/"
        return {}, [*foreign(left)] or [Finding("error", here, what, remedy)]
    remedy = "fine, unless these are images or masks: then name the two, IMAGE,MASK"
    findings += about(folder, left, "warning", "is not used", remedy)
    return {part: blocks[part] for part in order}, findings
