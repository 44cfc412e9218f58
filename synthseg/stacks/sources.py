"""What a person names, as arrays: the phantom, the EPFL files, or data of one's own."""

import os
import re
from collections.abc import Iterator
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
    Pair,
    Source,
    Stack,
    gather,
    show_path,
)
from synthseg.stacks.grey import to_uint8, unsigned
from synthseg.stacks.layout import Paths, find_pairs
from synthseg.stacks.read import list_slices, pair_names, read_stack

PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one
LEAST = {1: 6, 2: 4, 3: 2}
"""Slices that the first block needs, by the number of blocks, to leave two for training."""
STRIPS, STRIP = 12, 320
"""Strips into which slices too few are cut, and their least width in pixels.

Of twelve or more, the gaps between the parts of :func:`synthseg.volumes.split_by_z` are as wide as
a strip, however many slices there are.
"""


def open_source(data: str, nm_per_pixel: float | None = None) -> Source:
    """Read what `data` names; if that fails, the `DataError` has all findings."""
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


class Said(NamedTuple):
    """What is said of data at the end of their name, such as ``:mask=1,3-5:ignore=255``."""

    mask: Ranges
    ignore: Ranges
    structure: str
    nm_per_slice: float | None


def split_said(data: str) -> tuple[str, str]:
    """Take off the name of data what is said of them."""
    end = re.search(rf"(:({'|'.join(Said._fields)})=[^:]*)*$", data)
    at = end.start() if end else len(data)
    return data[:at], data[at:]


def _said(text: str) -> Said:
    given = dict(part.split("=", 1) for part in text.split(":")[1:])
    distance = _ranges("nm_per_slice", given.get("nm_per_slice", ""))
    if distance and not distance[0][0] > 0:
        raise DataError(f":nm_per_slice={distance[0][0]:g} must be above 0: give nanometres.")
    return Said(
        mask=_ranges("mask", given.get("mask", "")),
        ignore=_ranges("ignore", given.get("ignore", "")),
        structure=given.get("structure", "").strip(),
        nm_per_slice=distance[0][0] if distance else None,
    )


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
    blocks, findings = find_pairs(paths, said.structure or "mitochondria")
    if nm_per_pixel is not None and not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        what = f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual"
        remedy = "give nanometres, not micrometres or ångströms"
        findings.append(Finding("warning", show_path(paths[0]), what, remedy))
    read: dict[str, tuple[Stack, Stack]] = {}
    for part, pair in blocks.items():
        image, mask, found = _read_pair(pair, said)
        findings += found
        if len(image.pixels) and image.complete:
            for earlier in list(read.values())[:1]:
                findings += check_parts(earlier[0], image)
                if all(finding.severity != "error" for finding in findings):
                    findings += check_contrast(earlier, (image, mask))
            read[part] = image, mask
    if stacks := [stack for pair in read.values() for stack in pair]:
        findings += check_sizes(stacks, nm_per_pixel, said.nm_per_slice)
        findings += _check_depth(stacks[0], len(blocks))
    findings = [_speaking_of(said.structure, finding) for finding in gather(findings)]
    if nm_per_pixel is None or any(finding.severity == "error" for finding in findings):
        raise DataError(findings)
    if len(stacks[0].pixels) < LEAST[len(blocks)]:
        read = {part: (_strips(image), _strips(mask)) for part, (image, mask) in read.items()}
    title = paths[0].resolve().name if len(paths) == 1 else paths[0].stem
    how = "with a test volume of their own"
    if len(read) == 1:
        how = "one volume, split by z with gaps, so that test and training are the same block"
    pairs = [
        Pair(to_uint8(image.pixels), _labels(mask), f"{title}-{part}" if len(read) > 1 else title)
        for part, (image, mask) in read.items()
    ]
    what = f"{said.structure}, " if said.structure else ""
    provenance = f"Own data {title}, {what}{nm_per_pixel:g} nm per pixel, {how}."
    for finding in findings:
        provenance += f" {finding.severity.capitalize()}: {finding}"
    for path in paths:  # cards and pages are for others, too
        provenance = provenance.replace(f"{show_path(path.parent)}{os.sep}", "")
    told = [stack.nm_per_slice for stack in stacks if stack.nm_per_slice]
    distance = said.nm_per_slice or next(iter(told), None)
    return Source(pairs, nm_per_pixel, title, provenance, findings, True, distance)


def _labels(mask: Stack) -> NDArray:
    """A mask as that of a pair."""
    return mask.pixels if mask.ignored is None else np.where(mask.ignored, IGNORED, mask.pixels)


def _check_depth(stack: Stack, blocks: int) -> Iterator[Finding]:
    """Look for slices too few, of which only those of a mosaic can be used."""
    count, least, widest = len(stack.pixels), LEAST[blocks], STRIPS * STRIP
    if count >= least:
        return
    what = f"holds {count} slice{'s' * (count != 1)}, but at least {least} are needed"
    if blocks == 1 and stack.pixels.shape[2] >= widest:
        what += f", so each is cut into {STRIPS} strips, from left to right, in place of slices"
        yield stack.whole("note", what, "pictures along z mean nothing")
        return
    remedy = (
        "give more, better 20: two are for training, one each for validation and test, and one "
        f"between is unused; or one pair of pictures at least {widest} px wide"
    )
    yield stack.whole("error", what, remedy)


def _strips(stack: Stack) -> Stack:
    """Cut the slices of a mosaic into strips from left to right, in the place of slices."""

    def cut(pixels: NDArray) -> NDArray:
        depth, height, width = pixels.shape
        whole = pixels[:, :, : width // STRIPS * STRIPS]
        strips = whole.reshape(depth, height, STRIPS, -1).transpose(2, 0, 1, 3)
        return strips.reshape(STRIPS * depth, height, -1)

    ignored = None if stack.ignored is None else cut(stack.ignored)
    files = [*stack.files] * STRIPS
    return replace(stack, pixels=cut(stack.pixels), ignored=ignored, files=files)


def _speaking_of(structure: str, finding: Finding) -> Finding:
    """Name the objects as a person does."""
    what, remedy = (
        text.replace("objects", structure or "objects") for text in (finding.what, finding.remedy)
    )
    return replace(finding, what=what, remedy=remedy)


def _read_pair(paths: Paths, said: Said) -> tuple[Stack, Stack, list[Finding]]:
    """Read an image and its mask, and check them; the pixels of the mask are bool then."""
    (images, found), (masks, more) = map(list_slices, paths)
    findings = [*found, *more]
    if all(path.is_dir() for path in paths) and images and masks:
        images, masks, more = pair_names(images, masks)
        findings += more
    image = unsigned(read_stack(paths[0], images), mask=False)
    mask = unsigned(read_stack(paths[1], masks, mask=True), mask=True)
    mask = leave_out(mask, said.ignore) if said.ignore else mask
    findings += [*image.findings, *mask.findings]
    if len(image.pixels):
        findings += check_image(image)
    if len(mask.pixels):
        marked, more = read_mask(mask, said.mask)
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
