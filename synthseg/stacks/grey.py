"""Grey values as the networks take them: 8 bit, from whatever a file holds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synthseg.stacks.findings import Stack

SCALE_PERCENTILES = (0.1, 99.9)  # a few hot pixels must not decide the contrast
SAMPLE = 1_000_000  # pixels from which percentiles are taken, spread evenly
PADDING = 0.0005  # least part of all pixels, of one value far from all others, to be padding


def grey_range(image: NDArray) -> tuple[float, float, list[float]]:
    """The range that holds nearly all grey values, and the values of padding, which don't count."""
    step = max(1, int((image.size / SAMPLE) ** 0.5))
    greys = image[:, ::step, ::step].ravel()
    ends = float(greys.min()), float(greys.max())
    between = greys[(greys != ends[0]) & (greys != ends[1])]
    low, high = map(float, np.percentile(between if between.size else greys, SCALE_PERCENTILES))
    padding = [
        end
        for end in dict.fromkeys(ends if high > low else ())
        if (greys == end).mean() > PADDING and max(low - end, end - high) > 0.25 * (high - low)
    ]
    low, high = map(float, np.percentile(greys[~np.isin(greys, padding)], SCALE_PERCENTILES))
    return low, high, padding


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
    what = "holds signed bytes, which were read as 0 to 255"
    warning = stack.found("warning", what, "export it without signs")
    return replace(stack, pixels=bytes_, findings=[*stack.findings, *warning])
