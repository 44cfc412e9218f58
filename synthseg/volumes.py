"""Volumes: electron microscopy stacks with mitochondria masks, loaded, checked and split.

A volume is an image and its mask on the same (z, y, x) grid. `load` turns what a person names
(``phantom``, ``epfl``, a folder, a pair of files) into three of them: train, validation, test.
"""

import hashlib
import io
import json
import os
import re
import warnings
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pooch
import tifffile
from numpy.typing import ArrayLike, NDArray
from skimage.io import imread

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
SLICE_SUFFIXES = {".png", ".tif", ".tiff"}
SCALE_PERCENTILES = (0.1, 99.9)  # a few hot pixels must not decide the contrast


class DataError(ValueError):
    """The data cannot be used; the message says which file is wrong and what to do."""


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
        One to three sentences to print beside results: origin, citation, what was left out.

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

    Raises
    ------
    DataError
        If the data are missing, damaged, mismatched or not what they should be.
    """
    folder = Path(data).expanduser()
    if data == "phantom":
        from synthseg import phantom  # it builds on this module

        dataset = phantom.dataset()
    elif data == "epfl":
        dataset = _load_epfl()
    elif any((folder / name).exists() for name in EPFL_FILES):
        dataset = _read_epfl(folder, "read from a local folder")
    else:
        return _load_own(data, nm_per_pixel)
    if nm_per_pixel not in (None, dataset.train.nm_per_pixel):
        raise DataError(
            f"nm_per_pixel={nm_per_pixel} was given, but a pixel of {dataset.name} is "
            f"{dataset.train.nm_per_pixel:g} nm wide; leave nm_per_pixel out."
        )
    return dataset


def _load_epfl() -> Dataset:
    """Read the EPFL data in the folder SYNTHSEG_DATA or, failing that, in the download cache."""
    if local := os.environ.get("SYNTHSEG_DATA"):
        folder = Path(local).expanduser()
        missing = [name for name in EPFL_FILES if not (folder / name).exists()]
        if not missing:
            return _read_epfl(folder, "read from a local folder")
        warnings.warn(
            f"SYNTHSEG_DATA={local} holds no {', '.join(missing)}; using the download instead.",
            stacklevel=3,
        )
    base_url = os.environ.get("SYNTHSEG_EPFL_URL", EPFL_URL).rstrip("/") + "/"
    return _read_epfl(_download_epfl(base_url), f"downloaded from {base_url}")


def _download_epfl(base_url: str) -> Path:
    """Download what the cache lacks and return its folder.

    Finished files are kept and a partial one never gets its final name, so an interrupted
    download goes on with the file it was in. EPFL publishes no checksums: the sha256 of what
    arrived first is kept in ``sha256.json``, and a file that changed since is downloaded again.
    """
    folder = Path(pooch.os_cache("synthseg")) / "epfl"
    record = folder / "sha256.json"
    sha256 = json.loads(record.read_text()) if record.exists() else {}
    cache = pooch.create(
        folder,
        base_url,
        registry={name: sha256.get(name) for name in EPFL_FILES},
        retry_if_failed=DOWNLOAD_RETRIES,
    )
    for name in EPFL_FILES:
        try:
            sha256[name] = pooch.file_hash(cache.fetch(name, downloader=_download_whole_file))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name} could not be downloaded from {base_url} ({error}). Run it again, finished "
                f"files are kept; or get the four files from {EPFL_PAGE} and name their folder "
                f"with --data FOLDER. (If EPFL itself has changed the file, delete {record}.)"
            ) from error
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(sha256, indent=1))
        partial.replace(record)
    return folder


def _download_whole_file(url: str, output_file: str, cache: pooch.Pooch | None) -> None:
    """Download with a progress bar; pooch tries again after the ValueError of a wrong size."""
    pooch.HTTPDownloader(progressbar=True, chunk_size=2**20)(url, output_file, cache)
    if (size := Path(output_file).stat().st_size) != EPFL_BYTES:
        raise ValueError(f"{size:,} bytes arrived instead of {EPFL_BYTES:,}")


def _read_epfl(folder: Path, origin: str) -> Dataset:
    """Read the four EPFL files; `origin` tells in the provenance how they got here."""
    stacks = {name: _read_epfl_stack(folder / name) for name in EPFL_FILES}
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
    stack = _read_stack(path)
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


def _load_own(data: str, nm_per_pixel: float | None) -> Dataset:
    """Load a person's own folder, or pair of files."""
    path = Path(data).expanduser()
    pairs = []
    if path.is_dir():
        halves = [path / "train", path / "test"]
        present = [half for half in halves if half.is_dir()]
        if len(present) == 1:
            raise DataError(
                f"{path} holds {present[0].name}/ alone; add the other of train/ and test/, or put "
                "one images/ and masks/ pair directly into the folder, to be split by z."
            )
        pairs = [_find_pair(folder) for folder in present or [path]]
        name = path.resolve().name
    elif data.count(",") == 1:
        image, mask = (Path(part.strip()).expanduser() for part in data.split(","))
        pairs, name = [(image, mask)], image.stem
    for wanted in [file for pair in pairs for file in pair] or [path]:
        if not wanted.exists():
            raise DataError(f"There is no file or folder {wanted}. Data can be:\n{SOURCES}")
    if not pairs:
        raise DataError(f"{path} is one file, but a mask is needed too: --data IMAGE,MASK")
    if nm_per_pixel is None:
        raise DataError(
            f"The size of a pixel of {path} is not known; give it in nanometres with "
            "--set nm_per_pixel=..., for example --set nm_per_pixel=5"
        )
    if len(pairs) == 2:
        development = _read_pair(*pairs[0], nm_per_pixel, f"{name}-train")
        test = _read_pair(*pairs[1], nm_per_pixel, f"{name}-test")
        how = "with a test volume of their own"
    else:
        development, test = split_by_z(_read_pair(*pairs[0], nm_per_pixel, name))
        how = "one volume, split by z with gaps, so that test and training are the same block"
    provenance = f"Own data {name}, {nm_per_pixel:g} nm per pixel, {how}."
    return Dataset(*split_by_z(development), test, name, provenance)


def _find_pair(folder: Path) -> tuple[Path, Path]:
    """Find images and masks in a folder: two folders of slices, or two TIFF files."""
    found = []
    for stem in ("image", "mask"):
        names = [f"{stem}s", f"{stem}s.tif", f"{stem}s.tiff", f"{stem}.tif", f"{stem}.tiff"]
        paths = [folder / name for name in names if (folder / name).exists()]
        if len(paths) != 1:
            holds = " and ".join(path.name for path in paths) or f"no {stem}s"
            raise DataError(
                f"{folder} holds {holds}; it must hold exactly one of {stem}s/ (a folder of "
                f"slices) and {stem}.tif (a multi-page file)."
            )
        found += paths
    return found[0], found[1]


def _read_pair(image_path: Path, mask_path: Path, nm_per_pixel: float, name: str) -> Volume:
    """Read an image and its mask, each a multi-page file or a folder of slices."""
    if image_path.is_dir() and mask_path.is_dir():
        for image_file, mask_file in zip_longest(_files(image_path), _files(mask_path)):
            if not (image_file and mask_file and image_file.stem == mask_file.stem):
                raise DataError(
                    f"In order of names, {image_file or 'no image'} meets {mask_file or 'no mask'};"
                    " each image needs a mask file of the same name."
                )
    image, mask = _read_stack(image_path), _read_stack(mask_path)
    if image.shape != mask.shape:
        raise DataError(
            f"{image_path} is {image.shape} (z, y, x), but {mask_path} is {mask.shape}; "
            "each image slice needs its mask of the same size."
        )
    if len(image) == 1:
        raise DataError(f"{image_path} holds a single slice; a volume needs a stack of slices.")
    return Volume.create(
        _to_uint8(image, image_path), _to_mask(mask, mask_path), nm_per_pixel, name
    )


# --- Files to arrays --------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """List the slices in a folder in natural order, 9 before 10; a file is its own list."""
    if path.is_file():
        return [path]
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in SLICE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise DataError(f"{path} holds no PNG or TIFF files; export the slices as PNG or TIFF.")
    return sorted(files, key=lambda file: [
        int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.stem)
    ])  # fmt: skip


def _read_stack(path: Path) -> NDArray:
    """Read a file or folder as (z, y, x), of the type stored: grey, finite, all of one size."""
    slices: list[NDArray] = []
    for file in _files(path):
        pages = _decode(file)
        if path.is_dir() and len(pages) != 1:
            raise DataError(
                f"{file} holds {len(pages)} pages, but in a folder each file is one slice; "
                "give the multi-page file itself."
            )
        for number, page in enumerate(pages):
            label = str(file) if path.is_dir() else f"{file}, slice {number},"
            slices.append(_grey(page, label))
            first, last = slices[0], slices[-1]
            if (last.shape, last.dtype) != (first.shape, first.dtype):
                raise DataError(
                    f"{label} is {last.dtype} {last.shape}, but the first slice is {first.dtype} "
                    f"{first.shape}; export all slices alike."
                )
    return np.stack(slices)


def _decode(file: Path) -> list[NDArray]:
    """Return the pages of a TIFF file, or the one picture of a PNG file, as stored."""
    try:
        if file.suffix.lower() == ".png":
            return [imread(io.BytesIO(file.read_bytes()))]
        with tifffile.TiffFile(file) as tiff:
            axes = tiff.series[0].axes
            pages = [page.asarray() for page in tiff.pages]
    except Exception as error:  # decoders meet damage with errors of any kind
        raise DataError(
            f"{file} cannot be read as PNG or TIFF ({error}); it may be damaged or compressed in "
            "an unusual way: export it again, uncompressed."
        ) from error
    if len(axes.strip("YXS")) > 1:
        raise DataError(
            f"{file} has the axes {axes}, but only slices (z, y, x) are expected; export one "
            "channel of one time point."
        )
    return pages


def _grey(page: NDArray, label: str) -> NDArray:
    """Return one slice as (y, x): of grey RGB one channel is kept, opacity is dropped."""
    if page.ndim == 3 and page.shape[-1] in (2, 3, 4):
        colours = page[..., : 1 if page.shape[-1] == 2 else 3]
        if (colours != colours[..., :1]).any():
            raise DataError(f"{label} is in colour; convert it to grey (or to label numbers).")
        page = page[..., 0]
    if page.ndim != 2:
        raise DataError(
            f"{label} has shape {page.shape}, but a slice is (y, x); export it as grey."
        )
    if page.dtype.kind == "f" and not np.isfinite(page).all():
        raise DataError(f"{label} holds NaN or infinite values; replace them by numbers.")
    return page


def _to_uint8(image: NDArray, path: Path) -> NDArray[np.uint8]:
    """Keep 8-bit images; scale others between two percentiles of the whole volume."""
    if all(len(np.unique(page)) <= 2 for page in image):
        raise DataError(
            f"{path} holds no more than two grey values in any slice, so it looks like a mask; "
            "the image comes first, the mask second."
        )
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, SCALE_PERCENTILES)
    if not low < high:
        raise DataError(f"{path} is {low:g} almost everywhere; check that it is the image.")
    grey = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(grey.clip(0, 255)).astype(np.uint8)


def _to_mask(pixels: NDArray, path: Path) -> NDArray[np.bool_]:
    """Return True where a mask (bool, 0/1, 0/255 or instance labels) marks something."""
    if pixels.dtype.kind == "f" and (pixels % 1).any():
        raise DataError(f"{path} holds fractions; turn probabilities into 0 and 1 first.")
    mask = pixels > 0
    if mask.all() or not mask.any():
        raise DataError(
            f"{path} marks {'every' if mask.any() else 'no'} pixel of the whole volume as "
            "mitochondrion; masks are 0 for background and above 0 for mitochondria."
        )
    return mask


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
