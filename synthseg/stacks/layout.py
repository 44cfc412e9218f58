"""Which files hold images and masks: found by the words in the names of files and folders."""

import re
from collections.abc import Iterator
from pathlib import Path

from natsort import natsorted

from synthseg.stacks.findings import DataError, Finding, found, show_path, some
from synthseg.stacks.read import FOREIGN, SUFFIXES, TIFF, Paths, foreign, is_hidden

# Words in the names of files and folders, whatever their case.
IMAGES = {"image", "images", "img", "imgs", "raw", "em", "volume", "volumes", "x"}
MASKS = {"mask", "masks", "label", "labels", "gt", "groundtruth", "truth", "y", "seg"}
MASKS |= {"segmentation", "segmentations", "annotation", "annotations"}
PARTS = {
    "train": {"train", "training"},
    "validation": {"val", "valid", "validation"},
    "test": {"test", "testing"},
}


def find_pairs(paths: list[Path], structure: str) -> tuple[dict[str, Paths], list[Finding]]:
    """Find what holds images and masks: one pair of paths, or those of the parts of a folder."""
    remedy = "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK"
    missing = [path for path in paths if not path.exists()]
    wrong = [error for path in missing for error in found(path, "error", "does not exist", remedy)]
    if wrong := wrong or foreign(paths):
        raise DataError(wrong)
    if len(paths) == 2:
        return {"": (paths[0], paths[1])}, []
    if not paths[0].is_dir():
        raise DataError(f"{paths[0]} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    return _find_in_folder(paths[0], structure)


def _words(name: object) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(name))}


def _entries(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Files and folders of slices, also those in train/ and the like."""
    for entry in natsorted(folder.iterdir()):
        if is_hidden(entry):
            continue
        inner = [*entry.iterdir()] if entry.is_dir() and entry.suffix not in FOREIGN else []
        slices = any(file.suffix.lower() in SUFFIXES for file in inner)
        part = bool(inner) and _words(entry.name) <= set().union(*PARTS.values())
        if deep and (part or (any(file.is_dir() for file in inner) and not slices)):
            yield from _entries(entry, deep=False)
        else:
            yield entry


def _find_in_folder(folder: Path, structure: str) -> tuple[dict[str, Paths], list[Finding]]:
    """Find image and mask in a folder, or in each of its parts, by the words in their names."""
    findings: list[Finding] = []
    left: list[Path] = []
    groups: dict[str, dict[str, list[Path]]] = {}
    roles = ("mask", MASKS), ("image", IMAGES), ("mask", _words(structure))
    for entry in _entries(folder):
        words = _words(entry.relative_to(folder))
        part = next((part for part, names in PARTS.items() if words & names), "")
        role = next((role for role, names in roles if words & names), "other")
        group = groups.setdefault(part, {"image": [], "mask": [], "other": []})
        suffix = entry.suffix.lower()
        usable = suffix in TIFF or (entry.is_dir() and suffix not in FOREIGN)
        (group[role] if usable else left).append(entry)
    blocks: dict[str, Paths] = {}
    for part, group in groups.items():
        vacant = [role for role in ("image", "mask") if not group[role]]
        if len(vacant) == 1 and len(group["other"]) == 1:
            taken = group[vacant[0]] = [group["other"].pop()]
            what = f"is taken for the {vacant[0]}s, as it lies beside the other"
            findings += found(folder, "note", what, "name IMAGE,MASK if it is not so", taken)
        if len(group["image"]) == len(group["mask"]) == 1:
            blocks[part] = group["image"].pop(), group["mask"].pop()
        left += [entry for entries in group.values() for entry in entries]
    if "train" in blocks or "test" in blocks:
        left += blocks.pop("", ())
    order = [part for part in ("", *PARTS) if part in blocks]
    if order == ["train", "validation"]:
        what = "holds no test part: the validation part is used for it"
        findings += found(folder, "warning", what, "add test/")
    if not blocks:
        shown = [f"{entry.relative_to(folder)}{'/' * entry.is_dir()}" for entry in left]
        two = shown[:2] if 1 < len(shown) < 5 else ("IMAGE", "MASK")
        named = ",".join(f"{show_path(folder)}/{name}".rstrip("/") for name in two)
        what = f"holds {some(shown, 6) or 'nothing'}: which are image and mask is not plain"
        remedy = f"name the two: --data {named}; or put slices into images/ and masks/"
        return {}, foreign(left) or found(folder, "error", what, remedy)
    remedy = "fine, unless these are images or masks: then name the two, IMAGE,MASK"
    findings += found(folder, "warning", "is not used", remedy, left)
    return {part: blocks[part] for part in order}, findings
