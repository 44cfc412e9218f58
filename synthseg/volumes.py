"""Volumes: electron microscopy stacks with masks of a structure, loaded, checked and split.

A volume is an image and its mask on the same (z, y, x) grid. `load` turns what a person names
(``phantom``, ``epfl``, a folder, a pair of files) into three of them: train, validation, test.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synthseg.stacks import IGNORED, DataError, Finding, Source, open_source

__all__ = ["IGNORED", "DataError", "Dataset", "Finding", "Volume", "check", "load", "split_by_z"]


@dataclass(frozen=True, eq=False)
class Volume:
    """An image stack with its mask. Build it with `Volume.create`, which checks it."""

    image: NDArray[np.uint8]  # (z, y, x), read-only
    mask: NDArray[np.uint8]  # (z, y, x), read-only: 1 inside the structure, 0 elsewhere
    labels: NDArray[np.uint8]  # the mask, with `IGNORED` where losses and scores leave pixels out
    nm_per_pixel: float  # width of a pixel within a slice, in nanometres
    name: str
    fingerprint: str  # first 16 digits of a sha256 over shape, pixel size, image and labels
    stack: str  # name of the stack that this is a part of, or its own name
    first: int = 0  # where the part begins in that stack

    @classmethod
    def create(cls, image: ArrayLike, mask: ArrayLike, nm_per_pixel: float, name: str) -> "Volume":
        """Check the arrays and take their fingerprint.

        Parameters
        ----------
        image : uint8 (z, y, x)
        mask : bool or uint8 (z, y, x), values 0 and 1, and `IGNORED`
        nm_per_pixel : float, above 0
        name : str

        Examples
        --------
        >>> dark = np.zeros((4, 8, 8), np.uint8)
        >>> volume = Volume.create(dark, dark == 0, nm_per_pixel=5, name="dark")
        >>> volume.shape, volume.fingerprint
        ((4, 8, 8), 'e3946f5d4fa44de0')
        """
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        if image.ndim != 3 or image.dtype != np.uint8 or not image.size:
            raise DataError(
                f"The image of {name} must be uint8 (z, y, x), but is {image.dtype} {image.shape}."
            )
        if mask.shape != image.shape:
            raise DataError(
                f"Image and mask of {name} differ in shape: {image.shape} and {mask.shape}; "
                "each image slice needs its mask of the same size."
            )
        if mask.dtype not in (np.uint8, np.bool_) or (highest := mask.max()) > IGNORED:
            raise DataError(f"The mask of {name} must be bool, or uint8 of 0, 1 and {IGNORED}.")
        if not 0 < nm_per_pixel < np.inf:
            raise DataError(
                f"nm_per_pixel={nm_per_pixel} of {name} must be a number above 0; give nanometres."
            )
        image, labels = image.view(), mask.astype(np.uint8, copy=False).view()
        mask = labels if highest < IGNORED else (labels == 1).view(np.uint8)
        for pixels in (image, labels, mask):
            pixels.flags.writeable = False  # or the fingerprint would lie
        digest = hashlib.sha256(f"{image.shape} {float(nm_per_pixel)}".encode())
        digest.update(image.data)
        digest.update(labels.data)
        nm, fingerprint = float(nm_per_pixel), digest.hexdigest()[:16]
        return cls(image, mask, labels, nm, name, fingerprint, stack=name)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height, width."""
        depth, height, width = self.image.shape
        return depth, height, width

    def slices(self, start: int | None, stop: int | None) -> "Volume":
        """Return the slices ``start:stop`` as a volume, counted as Python does."""
        chosen = range(len(self))[start:stop]
        if not chosen:
            raise DataError(f"{self.name} has {len(self)} slices, none of them in {start}:{stop}.")
        window, first = slice(chosen.start, chosen.stop), self.first + chosen.start
        name = f"{self.stack}[{first}:{first + len(chosen)}]"
        part = Volume.create(self.image[window], self.labels[window], self.nm_per_pixel, name)
        return replace(part, stack=self.stack, first=first)

    def cut(self, part: str) -> "Volume":
        """Return a box of the volume, such as ``"0:30"`` or ``"0:30,100:420,0:320"``.

        First and last-but-one index along z, or along z, y and x, from 0; all, if `part` is empty.
        """
        if not part:
            return self
        span = r"(\d+):(\d+)"
        found = re.fullmatch(f"{span}(?:,{span},{span})?", part.replace(" ", ""))
        if not found:
            raise DataError(f"part={part!r} must be z0:z1 or z0:z1,y0:y1,x0:x1, or empty for all.")
        ends = [int(end) for end in found.groups() if end]
        spans = list(zip(ends[::2], ends[1::2], strict=True))
        for axis, (start, stop), length in zip("zyx", spans, self.shape, strict=False):
            if not start < stop <= length:
                raise DataError(
                    f"part={part!r}: {start}:{stop} along {axis} must lie within 0:{length}, the "
                    f"size of {self.name}, and hold at least one."
                )
        chosen = self.slices(*spans[0])
        if len(spans) == 1:
            return chosen
        (top, bottom), (left, right) = spans[1:]
        name = f"{chosen.name}[{top}:{bottom},{left}:{right}]"
        box = np.s_[:, top:bottom, left:right]
        window = Volume.create(chosen.image[box], chosen.labels[box], self.nm_per_pixel, name)
        return replace(window, stack=self.stack, first=chosen.first)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three volumes of a study. `test` is looked at only for final numbers.

    A part without objects is refused: its score would not exist.
    """

    train: Volume
    validation: Volume
    test: Volume
    name: str
    provenance: str  # to print beside results: origin, citation, how files were understood
    nm_per_slice: float  # distance of the slices; that of pixels, if nobody says another

    def __post_init__(self) -> None:
        for role in ("train", "validation", "test"):
            part: Volume = getattr(self, role)
            if not part.mask.any():
                raise DataError(
                    f"The {role} part, {part.name}, holds no object, so it gives no score: give "
                    "more slices, or separate train/ and test/ folders."
                )

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of a sha256 over the fingerprints, and voxels not cubic."""
        parts = self.train.fingerprint + self.validation.fingerprint + self.test.fingerprint
        if self.nm_per_slice != self.train.nm_per_pixel:
            parts += f" {self.nm_per_slice}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def split_by_z(
    volume: Volume, *, validation: int | None = None, gap: int | None = None
) -> tuple[Volume, Volume]:
    """Split a volume into train (low z) and validation (high z), a gap between them unused.

    Neighbouring slices are nearly the same picture, so slices drawn at random would put
    training images into validation. The gap lets the two parts drift apart.

    Parameters
    ----------
    volume : Volume
    validation : int, optional
        Slices kept for validation; default 30 of every 165.
    gap : int, optional
        Slices left out between the parts; default an eighth of the volume, 20 at most.

    Examples
    --------
    >>> stack = np.zeros((165, 2, 2), np.uint8)
    >>> [part.name for part in split_by_z(Volume.create(stack, stack, 5, "em"))]
    ['em[0:115]', 'em[135:165]']
    """
    depth = len(volume)
    gap = min(20, max(1, depth // 8)) if gap is None else gap
    validation = max(1, round(depth * 30 / 165)) if validation is None else validation
    train = depth - gap - validation
    if min(train, gap, validation) < 1:
        raise DataError(
            f"{volume.name} has {depth} slices, too few for {validation} for validation, a gap of "
            f"{gap} and the rest for training, each at least 1; give more slices."
        )
    return volume.slices(0, train), volume.slices(depth - validation, depth)


def load(data: str, nm_per_pixel: float | None = None) -> Dataset:
    """Load, check and split the data a person names; raise `DataError` if they cannot be used.

    Parameters
    ----------
    data : str
        ``phantom``, ``epfl``, a folder, or ``IMAGE,MASK``. Images may be of 8 bit (used as they
        are), 16 bit or float (scaled to 8 bit between the percentiles 0.1 and 99.9 of the volume,
        padding apart), grey or RGB that is grey. Masks: 0 is background, all else the structure;
        or what the end of the name says, such as ``:mask=1,3-5:ignore=255``.
    nm_per_pixel : float, optional
        Width of a pixel in nanometres. Needed for one's own data only.
    """
    source = open_source(data, nm_per_pixel)
    dataset = _split(source)
    for finding in source.findings:
        if finding.severity == "warning":
            warnings.warn(str(finding), stacklevel=2)
    return dataset


def check(
    data: str, nm_per_pixel: float | None = None, crop: int | None = None
) -> tuple[list[Finding], Dataset | None]:
    """Look at everything in the data a person names, and say all that is wrong or noteworthy.

    Windows of `crop` pixels must fit. The dataset is None if an error keeps it from being loaded.

    Examples
    --------
    >>> findings, dataset = check("no_such_folder", nm_per_pixel=5)
    >>> print(findings[0].severity, findings[0].file, findings[0].what)
    error no_such_folder does not exist
    """
    found: list[Finding] = []
    try:
        source = open_source(data, nm_per_pixel, check=True)
        found = [*source.findings]
        dataset = _split(source)
    except DataError as error:
        return [*found, *(replace(it, file=it.file or data) for it in error.findings)], None
    for part in {part.stack: part for part in (dataset.train, dataset.test)}.values():
        height, width = part.shape[1:]
        if crop is not None and crop > min(height, width):
            what = f"has slices of {height} x {width} px, smaller than the window of crop={crop}"
            remedy = f"give --set crop={min(height, width)} or less"
            found.append(Finding("error", part.stack, what, remedy))
    return found, dataset


def _split(source: Source) -> Dataset:
    """Make volumes of arrays; of one block alone, the test part is split off first."""
    parts = [
        Volume.create(image, mask, source.nm_per_pixel, name) for image, mask, name in source.blocks
    ]
    if len(parts) == 1:
        parts = [*split_by_z(parts[0])]
    if len(parts) == 2:
        parts = [*split_by_z(parts[0]), parts[1]]
    train, validation, test = parts
    distance = source.nm_per_slice or source.nm_per_pixel
    return Dataset(train, validation, test, source.name, source.provenance, distance)
