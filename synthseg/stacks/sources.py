"""What a person names, as arrays: the phantom, the EPFL files, or data of one's own."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthseg.stacks import phantom
from synthseg.stacks.check import Ranges, check_image, check_mask, leave_out, read_mask
from synthseg.stacks.compare import check_contrast, check_pair, check_parts, check_sizes
from synthseg.stacks.epfl import FILES, load_epfl, read_epfl
from synthseg.stacks.findings import (
    IGNORED,
    DataError,
    Finding,
    Source,
    Stack,
    errors,
    found,
    gather,
    show_path,
)
from synthseg.stacks.grey import to_uint8, unsigned
from synthseg.stacks.layout import find_pairs
from synthseg.stacks.read import Paths, list_slices, read_pair, read_stack

PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one
LEAST = {1: 6, 2: 4, 3: 2}
"""Slices that the first block needs, by the number of blocks, to leave two for training."""
STRIPS, STRIP = 12, 320
"""Strips into which slices too few are cut, and their least width in pixels.

Of twelve or more, the gaps between the parts of :func:`synthseg.volumes.split_by_z` are as wide as
a strip, however many slices there are.
"""


def open_source(data: str, nm_per_pixel: float | None = None, *, check: bool = False) -> Source:
    """Read what `data` names; if that fails, the `DataError` has all findings.

    One's own data are always checked, the pixels of others if `check` says so.
    """
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
    for pixels, marked, name in source.blocks if check else ():
        image, mask = Stack.of(pixels, name), Stack.of(marked, name)
        source.findings.extend((*check_image(image), *check_mask(mask), *check_pair(image, mask)))
    return source


def open_images(path: Path) -> Stack:
    """Read images that have no masks: slices of 8 bit, with what was noticed about their files."""
    if not path.exists():
        raise DataError(found(path, "error", "does not exist", "check the name"))
    files, noticed = list_slices(path)
    path = files[0] if len(files) == 1 else path
    stack = unsigned(read_stack(path, files, noticed), mask=False)
    if not stack.complete:
        raise DataError(errors(stack.findings)[:1])
    if stack.pixels.min() == stack.pixels.max():
        remedy = "check that these are the images, and their export"
        raise DataError(stack.found("error", "is of one grey value everywhere", remedy))
    return replace(stack, pixels=to_uint8(stack.pixels), findings=gather(stack.findings))


# --- Names ------------------------------------------------------------------------------------


class Said(NamedTuple):
    """What is said of data at the end of their name, such as ``:mask=1,3-5:ignore=255``."""

    mask: Ranges
    ignore: Ranges
    structure: str
    nm_per_slice: float | None


def split_said(data: str) -> tuple[str, str]:
    """Take off the name of data what is said of them."""
    name = re.sub(rf"(:({'|'.join(Said._fields)})=[^:]*)*$", "", data, count=1)
    return name, data[len(name) :]


def _said(text: str) -> Said:
    given = dict(part.split("=", 1) for part in text.split(":")[1:])
    mask, ignore, distance = (
        _ranges(name, given.get(name, "")) for name in ("mask", "ignore", "nm_per_slice")
    )
    if distance and not distance[0][0] > 0:
        raise DataError(f":nm_per_slice={distance[0][0]:g} must be above 0: give nanometres.")
    structure = given.get("structure", "").strip()
    return Said(mask, ignore, structure, distance[0][0] if distance else None)


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
    name, said = split_said(data)
    paths = [
        os.path.relpath(base / path, root)
        if root and not path.is_absolute()
        else os.path.normpath(base / path)
        for path in find_paths(name, base)
    ]
    return ",".join(paths) + said


def _ranges(name: str, values: str) -> Ranges:
    number = r"\s*(-?[\d.]+)\s*"
    spans = [re.fullmatch(f"{number}(?:-{number})?", span) for span in values.split(",") if values]
    try:
        return [(float(span[1]), float(span[2] or span[1])) for span in spans]  # type: ignore[index]
    except (TypeError, ValueError):
        example = ":nm_per_slice=50" if name == "nm_per_slice" else f":{name}=1,3-5"
        raise DataError(f":{name}={values} must be in numbers, as in {example}.") from None


# --- One's own data ---------------------------------------------------------------------------


def _open_own(data: str, nm_per_pixel: float | None) -> Source:
    """Read a person's own folder, or pair of files."""
    name, text = split_said(data)
    said, paths = _said(text), find_paths(name, Path())
    pairs, findings = find_pairs(paths, said.structure or "mitochondria")
    if nm_per_pixel is not None and not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        what = f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual"
        remedy = "give nanometres, not micrometres or ångströms"
        findings += found(paths[0], "warning", what, remedy)
    parts, noticed = _read_parts(pairs, said)
    findings += noticed
    if stacks := [stack for pair in parts.values() for stack in pair]:
        findings += check_sizes(stacks, nm_per_pixel, said.nm_per_slice)
        findings += _check_depth(stacks[0], len(pairs))
    findings = [_speaking_of(said.structure, finding) for finding in gather(findings)]
    if nm_per_pixel is None or errors(findings):
        raise DataError(findings)
    title = paths[0].resolve().name if len(paths) == 1 else paths[0].stem
    blocks = []
    for part, (image, mask) in parts.items():
        arrays = [image.pixels, mask.pixels]
        if mask.ignored is not None:
            arrays[1] = np.where(mask.ignored, IGNORED, mask.pixels)
        if len(stacks[0].pixels) < LEAST[len(parts)]:
            arrays = [_strips(pixels) for pixels in arrays]
        whose = f"{title}-{part}" if len(parts) > 1 else title
        blocks.append((to_uint8(arrays[0]), arrays[1], whose))
    how = "with a test volume of their own"
    if len(parts) == 1:
        how = "one volume, split by z with gaps, so that test and training are the same block"
    what = f"{said.structure}, " if said.structure else ""
    provenance = f"Own data {title}, {what}{nm_per_pixel:g} nm per pixel, {how}."
    for finding in findings:
        provenance += f" {finding.severity.capitalize()}: {finding}"
    for path in paths:  # cards and pages are for others, too
        provenance = provenance.replace(f"{show_path(path.parent)}{os.sep}", "")
    told = [stack.nm_per_slice for stack in stacks if stack.nm_per_slice]
    distance = said.nm_per_slice or next(iter(told), None)
    return Source(blocks, nm_per_pixel, title, provenance, findings, distance)


def _read_parts(
    pairs: dict[str, Paths], said: Said
) -> tuple[dict[str, tuple[Stack, Stack]], list[Finding]]:
    """Read and check the image and mask of each part; the pixels of masks are bool then.

    Parts whose image lacks slices are left out.
    """
    parts: dict[str, tuple[Stack, Stack]] = {}
    findings: list[Finding] = []
    for part, paths in pairs.items():
        image, mask = read_pair(paths)
        image, mask = unsigned(image, mask=False), unsigned(mask, mask=True)
        if said.ignore and len(mask.pixels):
            mask = leave_out(mask, said.ignore)
        findings += [*image.findings, *mask.findings]
        if len(image.pixels):
            findings += check_image(image)
        if len(mask.pixels):
            marked, noticed = read_mask(mask, said.mask)
            mask = replace(mask, pixels=marked)
            findings += [*noticed, *([] if errors(noticed) else check_mask(mask))]
        if not image.complete:
            continue
        if mask.complete and mask.pixels.shape != image.pixels.shape:
            shapes = image.pixels.shape, marked.shape
            count, other = (f"{z} slices of {y} x {x} px" for z, y, x in shapes)
            what = f"holds {count}, but {show_path(mask.path)} holds {other}"
            remedy = "each image slice needs its mask of the same size"
            findings += image.found("error", what, remedy)
        elif mask.complete:
            findings += check_pair(image, mask)
        for first in [*parts.values()][:1]:
            findings += check_parts(first[0], image)
            findings += [] if errors(findings) else check_contrast(first, (image, mask))
        parts[part] = image, mask
    return parts, findings


def _check_depth(stack: Stack, blocks: int) -> list[Finding]:
    """Look for slices too few, of which only those of a mosaic can be used."""
    count, least, widest = len(stack.pixels), LEAST[blocks], STRIPS * STRIP
    if count >= least:
        return []
    what = f"holds {count} slice{'s' * (count != 1)}, but at least {least} are needed"
    if blocks == 1 and stack.pixels.shape[2] >= widest:
        what += f", so each is cut into {STRIPS} strips, from left to right, in place of slices"
        return stack.found("note", what, "pictures along z mean nothing")
    remedy = "give more, better 20: two are for training, one each for validation and test, "
    remedy += f"and one between is unused; or one pair of pictures at least {widest} px wide"
    return stack.found("error", what, remedy)


def _strips(pixels: NDArray) -> NDArray:
    """Cut the slices of a mosaic into strips from left to right, in the place of slices."""
    whole = pixels[:, :, : pixels.shape[2] // STRIPS * STRIPS]
    return np.concatenate(np.split(whole, STRIPS, axis=2))


def _speaking_of(structure: str, finding: Finding) -> Finding:
    """Name the objects as a person does."""
    what, remedy = (
        text.replace("objects", structure or "objects") for text in (finding.what, finding.remedy)
    )
    return replace(finding, what=what, remedy=remedy)
