"""Grey values as the networks take them: 8 bit, from whatever a file holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthseg.stacks.check import grey_range
from synthseg.stacks.findings import DataError, Finding, Stack, show_path
from synthseg.stacks.read import list_slices, read_stack


def open_images(path: Path) -> Stack:
    """Read images that have no masks: slices of 8 bit, with what was noticed about their files."""
    if not path.exists():
        raise DataError([Finding("error", show_path(path), "does not exist", "check the name")])
    files, found = list_slices(path)
    stack = read_stack(files[0] if len(files) == 1 else path, files)
    stack = unsigned(replace(stack, findings=[*found, *stack.findings]), mask=False)
    if not stack.complete or not len(stack.pixels):
        raise DataError([f for f in stack.findings if f.severity == "error"][:1])
    if stack.pixels.min() == stack.pixels.max():
        remedy = "check that these are the images, and their export"
        raise DataError([stack.whole("error", "is of one grey value everywhere", remedy)])
    return replace(stack, pixels=to_uint8(stack.pixels))


def unsigned(stack: Stack, *, mask: bool) -> Stack:
    """Read signed bytes as 0 to 255 where they were that: -1 is 255, and a slope goes on there."""
    pixels = stack.pixels
    if pixels.dtype != np.int8 or pixels.min(initial=0) >= 0:
        return stack
    bytes_, thin = pixels.view(np.uint8), np.s_[:, ::4]
    if mask:
        wrapped = pixels.max() <= 0 or pixels.min() < -1
    else:
        steps = [np.abs(np.diff(each[thin].astype("i2"))).mean() for each in (bytes_, pixels)]
        wrapped = steps[0] < steps[1]
    if not wrapped:
        return stack
    what, remedy = "holds signed bytes, which were read as 0 to 255", "export it without signs"
    found = [*stack.findings, stack.whole("warning", what, remedy)]
    return replace(stack, pixels=bytes_, findings=found)


def to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Keep 8-bit images; scale others to the range of the whole volume, slice by slice."""
    if image.dtype == np.uint8:
        return image
    low, high, _ = grey_range(image)
    result = np.empty(image.shape, np.uint8)
    for grey, page in zip(result, image, strict=True):
        scaled = (page.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        grey[:] = np.rint(scaled.clip(0, 255))
    return result
