"""Volumes: electron microscopy stacks with mitochondria masks, loaded, checked and split.

A volume is an image and its mask on the same (z, y, x) grid. `load` turns what a person names
(``phantom``, ``epfl``, a folder, a pair of files) into three of them: train, validation, test.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import ArrayLike, NDArray

from synthseg import files
from synthseg.findings import (
    SCALE_PERCENTILES,
    DataError,
    Finding,
    Stack,
    check_image,
    check_mask,
    check_pair,
    show_path,
)

__all__ = ["SOURCES", "DataError", "Dataset", "Finding", "Volume", "check", "load", "split_by_z"]

SOURCES = """\
phantom      simulated electron microscopy, made on the spot; needs no download
epfl         the EPFL CA1 hippocampus stacks: the folder in SYNTHSEG_DATA, or a 520 MB download
FOLDER       the four EPFL files; or train/ and test/, each with images/ and masks/ (folders of
             PNG or TIFF slices) or image.tif and mask.tif; or one such pair, split by z
IMAGE,MASK   two multi-page TIFF files, or two folders of PNG or TIFF slices, split by z
Your own data also needs the size of a pixel: --set nm_per_pixel=..."""

EPFL_PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"
# The %20 is part of the official address.
EPFL_URL = (
    "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus/"
)
EPFL_FILES = (
    "training.tif",
    "training_groundtruth.tif",
    "testing.tif",
    "testing_groundtruth.tif",
)
EPFL_BYTES = 129_919_357  # of each official file
EPFL_SHAPE = (165, 768, 1024)  # (z, y, x)
EPFL_TEST_STEP = 5  # scored test slices are z = 0, 5, 10, ...
EPFL_NM_PER_PIXEL = 5.0
# sha256 of the pixels of slice z = 0. They tell the two halves apart, whatever the file's name...
EPFL_FIRST_MASK = {
    "training_groundtruth.tif": "8352fd9a591f4e1ffe226ff1a186a5f45c9c59d573efa9afbae9be9635ce392f",
    "testing_groundtruth.tif": "ff36289cd54d2ddf190cefc4edbb982d2b73b9054a6623e570cc4bbf294a13fd",
}
# ... and recognise a copy whose grey values were recovered from a public mirror.
EPFL_RECOVERED_FIRST_IMAGE = "ea02210f98301f18405a58c7385618b682d1e198f13f14d5658f4be9f13462f2"

DOWNLOAD_RETRIES = 2
PLAUSIBLE_NM = (0.5, 200.0)  # per pixel; outside of it, the unit is probably another one


# --- What a volume is -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Volume:
    """An image stack with its mask. Build it with `Volume.create`, which checks it.

    Attributes
    ----------
    image : uint8 array (z, y, x), read-only
    mask : uint8 array (z, y, x), read-only
        1 inside mitochondria, 0 elsewhere.
    nm_per_pixel : float
        Width of a pixel within a slice, in nanometres.
    name : str
    fingerprint : str
        First 16 hexadecimal digits of a sha256 over shape, pixel size, image and mask.
    stack : str
        Name of the stack that this is a part of, or its own name.
    first : int
        Where the part begins in that stack.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    nm_per_pixel: float
    name: str
    fingerprint: str
    stack: str
    first: int = 0

    @classmethod
    def create(cls, image: ArrayLike, mask: ArrayLike, nm_per_pixel: float, name: str) -> "Volume":
        """Check the arrays and take their fingerprint.

        Parameters
        ----------
        image : uint8 (z, y, x)
        mask : bool or uint8 (z, y, x), values 0 and 1
        nm_per_pixel : float, above 0
        name : str

        Raises
        ------
        DataError
            If shapes, types or values are not as above.

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
        if mask.dtype not in (np.uint8, np.bool_) or mask.max() > 1:
            raise DataError(f"The mask of {name} must be bool, or uint8 of 0 and 1.")
        if not 0 < nm_per_pixel < np.inf:
            raise DataError(f"nm_per_pixel={nm_per_pixel} of {name} must be a number above 0.")
        image, mask = image.view(), mask.astype(np.uint8, copy=False).view()
        image.flags.writeable = mask.flags.writeable = False  # or the fingerprint would lie
        digest = hashlib.sha256(f"{image.shape} {float(nm_per_pixel)}".encode())
        digest.update(image.data)
        digest.update(mask.data)
        return cls(image, mask, float(nm_per_pixel), name, digest.hexdigest()[:16], stack=name)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height, width."""
        depth, height, width = self.image.shape
        return depth, height, width

    def slices(self, start: int | None, stop: int | None) -> "Volume":
        """Return the slices ``start:stop`` as a volume, counted as Python does.

        Raises
        ------
        DataError
            If that leaves no slice.
        """
        chosen = range(len(self))[start:stop]
        if not chosen:
            raise DataError(f"{self.name} has {len(self)} slices, none of them in {start}:{stop}.")
        window, first = slice(chosen.start, chosen.stop), self.first + chosen.start
        name = f"{self.stack}[{first}:{first + len(chosen)}]"
        part = Volume.create(self.image[window], self.mask[window], self.nm_per_pixel, name)
        return replace(part, stack=self.stack, first=first)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three volumes of a study. `test` is looked at only for final numbers.

    Attributes
    ----------
    train, validation, test : Volume
    name : str
    provenance : str
        Sentences to print beside results: origin, citation, what was left out, and how one's own
        files were understood.

    Raises
    ------
    DataError
        If a part holds no mitochondria: its score would not exist.
    """

    train: Volume
    validation: Volume
    test: Volume
    name: str
    provenance: str

    def __post_init__(self) -> None:
        for role in ("train", "validation", "test"):
            part: Volume = getattr(self, role)
            if not part.mask.any():
                raise DataError(
                    f"The {role} part, {part.name}, holds no mitochondria, so no score can be "
                    "taken; give more slices, or separate train/ and test/ folders."
                )

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of a sha256 over the three fingerprints."""
        parts = self.train.fingerprint + self.validation.fingerprint + self.test.fingerprint
        return _sha256(parts.encode())[:16]


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

    Returns
    -------
    train, validation : Volume

    Raises
    ------
    DataError
        If a part would be empty, or the gap less than one slice.

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


# --- Where volumes come from ------------------------------------------------------------------


def load(data: str, nm_per_pixel: float | None = None) -> Dataset:
    """Load, check and split the data a person names.

    Parameters
    ----------
    data : str
        ``phantom``, ``epfl``, a folder, or ``IMAGE,MASK``; `SOURCES` explains each. Images may be
        of 8 bit (used as they are), 16 bit or float (scaled to 8 bit between the percentiles 0.1
        and 99.9 of the volume), grey or RGB that is grey. Masks: 0 is background, all else
        mitochondrion.
    nm_per_pixel : float, optional
        Width of a pixel in nanometres. Needed for one's own data only.

    Returns
    -------
    Dataset
        Its provenance holds what `check` finds, too; warnings are given as Python's as well.

    Raises
    ------
    DataError
        If the data are missing, damaged, mismatched or not what they should be.
    """
    found: list[Finding] = []
    dataset = _inspect(data, nm_per_pixel, found)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        scale = "" if nm_per_pixel is None else f" --nm-per-pixel {nm_per_pixel:g}"
        lists = f"`synthseg data check '{data}'{scale}` lists all."
        raise DataError(f"{errors[0]}{f' And {len(errors) - 1} more: {lists}' * bool(errors[1:])}")
    assert dataset is not None  # or there would be an error among the findings
    for finding in found:
        if finding.severity == "warning":
            warnings.warn(str(finding), stacklevel=2)
    return dataset


def check(
    data: str, nm_per_pixel: float | None = None, crop: int | None = None
) -> tuple[list[Finding], Dataset | None]:
    """Look at everything in the data a person names, and say all that is wrong or noteworthy.

    Parameters
    ----------
    data, nm_per_pixel
        As for `load`.
    crop : int, optional
        Width in pixels of the windows that a chapter would cut.

    Returns
    -------
    findings : list of Finding
        Errors, warnings and notes, in the order of the files.
    dataset : Dataset or None
        None if there is an error that keeps the data from being loaded.

    Examples
    --------
    >>> findings, dataset = check("no_such_folder", nm_per_pixel=5)
    >>> print(findings[0].severity, findings[0].file, findings[0].what)
    error no_such_folder does not exist
    """
    found: list[Finding] = []
    dataset = _inspect(data, nm_per_pixel, found)
    if dataset and (data in ("phantom", "epfl") or _holds_epfl(data)):
        for part in (dataset.train, dataset.validation, dataset.test):
            image, mask = (
                Stack(Path(part.name), pixels, (Path(part.name),) * len(part), (*range(len(part)),))
                for pixels in (part.image, part.mask)
            )
            found += [*check_image(image), *check_mask(mask), *check_pair(image, mask)]
    if dataset and crop is not None:
        for part in {part.stack: part for part in (dataset.train, dataset.test)}.values():
            smaller = min(part.shape[1:])
            if crop > smaller:
                found.append(
                    Finding(
                        "error",
                        part.stack,
                        f"has slices of {part.shape[1]} x {part.shape[2]} px, smaller than the "
                        f"window of crop={crop}",
                        f"give --set crop={smaller} or less",
                    )
                )
    return found, dataset


def _holds_epfl(data: str) -> bool:
    return any((Path(data).expanduser() / name).exists() for name in EPFL_FILES)


def _inspect(data: str, nm_per_pixel: float | None, found: list[Finding]) -> Dataset | None:
    """Load what `data` names, and add to `found` what was noticed; None after an error."""
    try:
        if data == "phantom":
            from synthseg import phantom  # it builds on this module

            dataset = phantom.dataset()
        elif data == "epfl":
            dataset = _load_epfl(found)
        elif _holds_epfl(data):
            dataset = _read_epfl(Path(data).expanduser(), "read from a local folder", found)
        else:
            return _load_own(data, nm_per_pixel, found)
        if nm_per_pixel not in (None, dataset.train.nm_per_pixel):
            raise DataError(
                f"nm_per_pixel={nm_per_pixel} was given, but a pixel of {dataset.name} is "
                f"{dataset.train.nm_per_pixel:g} nm wide; leave nm_per_pixel out."
            )
    except DataError as error:
        if not any(finding.severity == "error" for finding in found):
            found.append(Finding("error", data, str(error)))
        return None
    return dataset


def _load_epfl(found: list[Finding]) -> Dataset:
    """Read the EPFL data in the folder SYNTHSEG_DATA or, failing that, in the download cache."""
    if local := os.environ.get("SYNTHSEG_DATA"):
        folder = Path(local).expanduser()
        missing = [name for name in EPFL_FILES if not (folder / name).exists()]
        if not missing:
            return _read_epfl(folder, "read from a local folder", found)
        found.append(
            Finding(
                "warning",
                f"SYNTHSEG_DATA={local}",
                f"holds no {', '.join(missing)}; using the download instead",
                "put the four files there, or unset SYNTHSEG_DATA",
            )
        )
    base_url = os.environ.get("SYNTHSEG_EPFL_URL", EPFL_URL).rstrip("/") + "/"
    return _read_epfl(_download_epfl(base_url), f"downloaded from {base_url}", found)


def _download_epfl(base_url: str) -> Path:
    """Download what the cache lacks and return its folder.

    Finished files are kept and a partial one never gets its final name, so an interrupted
    download goes on with the file it was in. EPFL publishes no checksums: the sha256 of what
    arrived first is kept in ``sha256.json``, and a file that changed since is downloaded again.
    """
    folder = Path(pooch.os_cache("synthseg")) / "epfl"
    record = folder / "sha256.json"
    sha256 = _recorded(record)
    cache = pooch.create(
        folder,
        base_url,
        registry={name: sha256.get(name) for name in EPFL_FILES},
        retry_if_failed=DOWNLOAD_RETRIES,
    )
    for name in EPFL_FILES:
        file = folder / name
        try:
            if file.is_file() and file.stat().st_size != EPFL_BYTES:
                file.unlink()  # not the file, whoever left it there
            sha256[name] = pooch.file_hash(cache.fetch(name, downloader=_download_whole_file))
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps(sha256, indent=1))
            partial.replace(record)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise DataError(
                f"{name} cannot be kept in {folder} ({error}); make that folder writable, name "
                "another one in XDG_CACHE_HOME (Linux), or get the four files from "
                f"{EPFL_PAGE} and name their folder with --data FOLDER."
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name} could not be downloaded from {base_url} ({error}). Run it again, finished "
                f"files are kept; or get the four files from {EPFL_PAGE} and name their folder "
                f"with --data FOLDER. (If EPFL itself has changed the file, delete {record}.)"
            ) from error
    return folder


def _recorded(record: Path) -> dict[str, str]:
    """Return the sha256 of the files that were downloaded before, by name."""
    try:
        if not record.exists():
            return {}
        sha256 = json.loads(record.read_text())
        if not (isinstance(sha256, dict) and all(isinstance(it, str) for it in sha256.values())):
            raise ValueError("not a list of checksums")
    except (OSError, ValueError) as error:
        raise DataError(f"{record} cannot be read ({error}); delete it.") from error
    return sha256


def _download_whole_file(url: str, output_file: str, cache: pooch.Pooch | None) -> None:
    """Download with a progress bar; pooch tries again after the ValueError of a wrong file."""
    pooch.HTTPDownloader(progressbar=True, chunk_size=2**20)(url, output_file, cache)
    arrived = Path(output_file)
    with arrived.open("rb") as opened:
        head = opened.read(200)
    size = arrived.stat().st_size
    if not head.startswith(files.TIFF_HEADS):
        raise ValueError(f"what arrived is no TIFF file: it {files.describe(head)}, {size:,} bytes")
    if size != EPFL_BYTES:
        raise ValueError(f"{size:,} bytes arrived instead of {EPFL_BYTES:,}")


def _read_epfl(folder: Path, origin: str, found: list[Finding]) -> Dataset:
    """Read the four EPFL files; `origin` tells in the provenance how they got here."""
    stacks, wrong = {}, []
    for name in EPFL_FILES:
        try:
            stacks[name] = _read_epfl_stack(folder / name)
        except DataError as error:
            wrong.append(error)
            what, _, remedy = str(error).rstrip(".").partition("; ")
            file = show_path(folder / name)
            found.append(Finding("error", file, what.removeprefix(f"{file} "), remedy))
    if wrong:
        raise wrong[0]
    provenance = (
        f"EPFL CA1 hippocampus, 5 nm voxels (A. Lucchi, Y. Li, P. Fua, CVPR 2013, {EPFL_PAGE}), "
        f"{origin}. Test scores are taken on every {EPFL_TEST_STEP}th slice of the test stack."
    )
    if _sha256(stacks["training.tif"][0].data) == EPFL_RECOVERED_FIRST_IMAGE:
        provenance += (
            " This copy was recovered from a public mirror: the masks are the original ones "
            "(compared on two slices), the grey values are exact up to a constant per slice."
        )
    training, testing = (
        Volume.create(
            stacks[f"{half}.tif"],
            stacks[f"{half}_groundtruth.tif"] > 0,
            EPFL_NM_PER_PIXEL,
            f"epfl-{half}",
        )
        for half in ("training", "testing")
    )
    return Dataset(*split_by_z(training), testing, "epfl", provenance)


def _read_epfl_stack(path: Path) -> NDArray[np.uint8]:
    """Read one of the four files, checked; of a test file only the slices that are scored."""
    if not path.exists():
        raise DataError(f"{path} is missing; the EPFL data are {', '.join(EPFL_FILES)}.")
    found: list[Finding] = []
    read = files.read_stack(path, [path], found)
    for finding in found:
        if finding.severity == "error":
            raise DataError(f"{path} {finding.what}; download it again from {EPFL_PAGE}.")
    assert read is not None  # or there would be an error among the findings
    stack = read.pixels
    shapes = [EPFL_SHAPE]
    if path.name.startswith("testing"):
        if stack.shape == EPFL_SHAPE:
            stack = stack[::EPFL_TEST_STEP]
        depth, height, width = EPFL_SHAPE
        shapes.append((len(range(0, depth, EPFL_TEST_STEP)), height, width))
    if stack.shape not in shapes or stack.dtype != np.uint8:
        raise DataError(
            f"{path} is {stack.dtype} {stack.shape}, but the EPFL file is uint8 "
            f"{' or '.join(map(str, shapes))}; download it again from {EPFL_PAGE}."
        )
    if path.name in EPFL_FIRST_MASK:
        if not ((stack == 0) | (stack == 255)).all():
            raise DataError(
                f"{path} holds values other than 0 and 255, so it is not the EPFL mask; "
                f"download it again from {EPFL_PAGE}."
            )
        first_mask = _sha256(stack[0].data)
        for other, its_first_mask in EPFL_FIRST_MASK.items():
            if first_mask == its_first_mask and other != path.name:
                raise DataError(
                    f"{path} holds the masks of {other}: training and testing files are swapped, "
                    f"and scores would be taken on training data; download them from {EPFL_PAGE}."
                )
    return stack


# --- One's own data ---------------------------------------------------------------------------


def _load_own(data: str, nm_per_pixel: float | None, found: list[Finding]) -> Dataset | None:
    """Load a person's own folder, or pair of files."""
    path = Path(data).expanduser()
    here = show_path(path)
    pairs: list[tuple[Path, Path] | None] = []
    if path.is_dir():
        halves = [path / "train", path / "test"]
        present = [half for half in halves if half.is_dir()]
        if len(present) == 1:
            found.append(
                Finding(
                    "error",
                    here,
                    f"holds {present[0].name}/ alone",
                    "add the other of train/ and test/, or put one images/ and masks/ pair "
                    "directly into the folder, to be split by z",
                )
            )
        if present:
            found += [
                Finding(
                    "warning",
                    show_path(unused),
                    "is not used: train/ and test/ beside it are",
                    "move it elsewhere, or remove train/ and test/",
                )
                for stem in ("image", "mask")
                for unused in _candidates(path, stem)
            ]
        pairs = [_find_pair(folder, found) for folder in present or [path]]
        name = path.resolve().name
    elif data.count(",") == 1:
        image, mask = (Path(part.strip()).expanduser() for part in data.split(","))
        pairs, name = [(image, mask)], image.stem
    elif path.exists():
        raise DataError(f"{path} is one file, but a mask is needed too; name both: IMAGE,MASK.")
    absent = [half for pair in pairs if pair for half in pair if not half.exists()]
    if not pairs:
        absent = [path]
    found += [
        Finding(
            "error",
            show_path(half),
            "does not exist",
            "check the name; data can be phantom, epfl, a FOLDER of your own, or a pair IMAGE,MASK",
        )
        for half in absent
    ]
    if nm_per_pixel is None and not absent:
        found.append(
            Finding(
                "error",
                here,
                "does not tell the size of its pixels",
                "give it in nanometres: synthseg run … --set nm_per_pixel=5, or "
                "synthseg data check … --nm-per-pixel 5",
            )
        )
    elif nm_per_pixel is not None and not 0 < nm_per_pixel < np.inf:
        raise DataError(f"nm_per_pixel={nm_per_pixel} must be a number above 0; give nanometres.")
    elif nm_per_pixel is not None and not PLAUSIBLE_NM[0] <= nm_per_pixel <= PLAUSIBLE_NM[1]:
        found.append(
            Finding(
                "warning",
                here,
                f"has pixels of {nm_per_pixel:g} nm, as you say, which is unusual",
                "give nanometres, not micrometres or ångströms",
            )
        )
    stacks = [
        _read_pair(*pair, found) for pair in pairs if pair and all(half.exists() for half in pair)
    ]
    if len(stacks) == 2:
        found += _shared(stacks[0][0], stacks[1][0])
    if not stacks or any(finding.severity == "error" for finding in found):
        return None
    assert nm_per_pixel is not None  # see above
    if len(stacks) == 2:
        development = _to_volume(*stacks[0], nm_per_pixel, f"{name}-train")
        test = _to_volume(*stacks[1], nm_per_pixel, f"{name}-test")
        how = "with a test volume of their own"
    else:
        development, test = split_by_z(_to_volume(*stacks[0], nm_per_pixel, name))
        how = "one volume, split by z with gaps, so that test and training are the same block"
    provenance = f"Own data {name}, {nm_per_pixel:g} nm per pixel, {how}."
    remarks = [f" {finding.severity.capitalize()}: {finding}" for finding in found]
    return Dataset(*split_by_z(development), test, name, provenance + "".join(remarks))


def _candidates(folder: Path, stem: str) -> list[Path]:
    names = [f"{stem}s", f"{stem}s.tif", f"{stem}s.tiff", f"{stem}.tif", f"{stem}.tiff"]
    return [folder / name for name in names if (folder / name).exists()]


def _find_pair(folder: Path, found: list[Finding]) -> tuple[Path, Path] | None:
    """Find images and masks in a folder: two folders of slices, or two TIFF files."""
    pair = []
    for stem in ("image", "mask"):
        paths = _candidates(folder, stem)
        if len(paths) == 1:
            pair += paths
            continue
        holds = " and ".join(path.name for path in paths) or f"no {stem}s"
        found.append(
            Finding(
                "error",
                show_path(folder),
                f"holds {holds}",
                f"it must hold exactly one of {stem}s/ (a folder of slices) and {stem}.tif (a "
                "multi-page file)",
            )
        )
    return (pair[0], pair[1]) if len(pair) == 2 else None


def _read_pair(
    image_path: Path, mask_path: Path, found: list[Finding]
) -> tuple[Stack | None, Stack | None]:
    """Read and check an image and its mask, each a multi-page file or a folder of slices."""
    listed = [
        files.list_slices(path, found) if path.is_dir() else [path]
        for path in (image_path, mask_path)
    ]
    if image_path.is_dir() and mask_path.is_dir():
        found += files.check_names(*listed)
    image = files.read_stack(image_path, listed[0], found)
    if image:
        found += check_image(image)
    mask = files.read_stack(mask_path, listed[1], found)
    if mask:
        found += check_mask(mask)
    if not (image and mask):
        return image, mask
    sizes = [stack.pixels.shape for stack in (image, mask)]
    if sizes[0][1:] != sizes[1][1:] or (image.complete and mask.complete and sizes[0] != sizes[1]):
        count, other = (
            f"{len(stack.pixels)} slices of {shape[1]} x {shape[2]} px"
            for stack, shape in zip((image, mask), sizes, strict=True)
        )
        found.append(
            Finding(
                "error",
                show_path(image_path),
                f"holds {count}, but {show_path(mask_path)} holds {other}",
                "each image slice needs its mask of the same size",
            )
        )
    elif len(image.pixels) == 1 and image.complete:
        found.append(
            image.whole("error", "holds a single slice", "give a stack of slices, a volume")
        )
    elif image.complete and mask.complete and mask.pixels.any():
        found += check_pair(image, mask)
    return image, mask


def _shared(train: Stack | None, test: Stack | None) -> Iterator[Finding]:
    """Report slices of the test stack that are in the training stack, too."""
    if not (train and test):
        return
    known = {
        _sha256(np.ascontiguousarray(page).data): index for index, page in enumerate(train.pixels)
    }
    for index, page in enumerate(test.pixels):
        same = known.get(_sha256(np.ascontiguousarray(page).data))
        if same is not None and page.min() < page.max():
            where = show_path(train.files[same])
            if train.label(same).startswith("slice "):
                where += f", {train.label(same)}"
            yield from test.at(
                [index],
                "error",
                f"is a training image, too ({where})",
                "test on slices that are not in train/, or scores would be taken on training data",
            )


def _to_volume(image: Stack | None, mask: Stack | None, nm_per_pixel: float, name: str) -> Volume:
    """Make a volume of two stacks without errors."""
    assert image is not None
    assert mask is not None
    return Volume.create(_to_uint8(image.pixels), mask.pixels > 0, nm_per_pixel, name)


def _to_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Keep 8-bit images; scale others between two percentiles of the whole volume."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, SCALE_PERCENTILES)
    grey = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(grey.clip(0, 255)).astype(np.uint8)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
