"""The EPFL CA1 hippocampus stacks: found on disk or downloaded, checked, and read."""

import json
import os
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

from synthseg.stacks.decode import describe
from synthseg.stacks.findings import DataError, Finding, Source, digest, errors, found
from synthseg.stacks.read import read_stack

PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"
# The %20 is part of the official address.
URL = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus/"
FILES = ("training.tif", "training_groundtruth.tif", "testing.tif", "testing_groundtruth.tif")
BYTES = 129_919_357  # of each official file
SHAPE = (165, 768, 1024)  # (z, y, x)
TEST_STEP = 5  # scored test slices are z = 0, 5, 10, ...
NM_PER_PIXEL = 5.0
# sha256 of the pixels of slice z = 0. They tell the two halves apart, whatever the file's name...
FIRST_MASK = {
    "training_groundtruth.tif": "8352fd9a591f4e1ffe226ff1a186a5f45c9c59d573efa9afbae9be9635ce392f",
    "testing_groundtruth.tif": "ff36289cd54d2ddf190cefc4edbb982d2b73b9054a6623e570cc4bbf294a13fd",
}
# ... and recognise a copy whose grey values were recovered from a public mirror.
RECOVERED_FIRST_IMAGE = "ea02210f98301f18405a58c7385618b682d1e198f13f14d5658f4be9f13462f2"
DOWNLOAD_AGAIN = f"download it again from {PAGE}"
DOWNLOAD_RETRIES = 2


def load_epfl() -> Source:
    """Read the EPFL data in the folder SYNTHSEG_DATA or, failing that, in the download cache."""
    findings: list[Finding] = []
    if local := os.environ.get("SYNTHSEG_DATA"):
        folder = Path(local).expanduser()
        missing = [name for name in FILES if not (folder / name).exists()]
        if not missing:
            return read_epfl(folder, "read from a local folder")
        what = f"holds no {', '.join(missing)}; using the download instead"
        remedy = "put the four files there, or unset SYNTHSEG_DATA"
        findings = found(Path(f"SYNTHSEG_DATA={local}"), "warning", what, remedy)
    base_url = os.environ.get("SYNTHSEG_EPFL_URL", URL).rstrip("/") + "/"
    source = read_epfl(_download(base_url), f"downloaded from {base_url}")
    source.findings.extend(findings)
    return source


def _download(base_url: str) -> Path:
    """Download what the cache lacks and return its folder.

    A partial file never gets its final name. EPFL publishes no checksums: the sha256 of what
    arrived first is kept in ``sha256.json``, and a file that changed since is downloaded again.
    """
    folder = Path(pooch.os_cache("synthseg")) / "epfl"
    record = folder / "sha256.json"
    try:
        known = json.loads(record.read_text()) if record.exists() else {}
        checksums = {name: known.get(name) for name in FILES}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{record} cannot be read ({error}); delete it.") from error
    cache = pooch.create(folder, base_url, registry=checksums, retry_if_failed=DOWNLOAD_RETRIES)
    for name in FILES:
        file = folder / name
        try:
            if file.is_file() and file.stat().st_size != BYTES:
                file.unlink()  # not the file, whoever left it there
            checksums[name] = pooch.file_hash(cache.fetch(name, downloader=_fetch_whole_file))
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps(checksums, indent=1))
            partial.replace(record)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise DataError(
                f"{name} cannot be kept in {folder} ({error}); make that folder writable, name "
                "another one in XDG_CACHE_HOME (Linux), or get the four files from "
                f"{PAGE} and name their folder with --data FOLDER."
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name} could not be downloaded from {base_url} ({error}). Run it again, finished "
                f"files are kept; or get the four files from {PAGE} and name their folder "
                f"with --data FOLDER. (If EPFL itself has changed the file, delete {record}.)"
            ) from error
    return folder


def _fetch_whole_file(url: str, output_file: str, cache: pooch.Pooch | None) -> None:
    """Download with a progress bar; pooch tries again after the ValueError of a wrong file."""
    pooch.HTTPDownloader(progressbar=True, chunk_size=2**20)(url, output_file, cache)
    with Path(output_file).open("rb") as opened:
        head = opened.read(200)
    kind, size = describe(head), Path(output_file).stat().st_size
    if kind != "a TIFF file":
        raise ValueError(f"what arrived is no TIFF file: it is {kind}, {size:,} bytes")
    if size != BYTES:
        raise ValueError(f"{size:,} bytes arrived instead of {BYTES:,}")


def read_epfl(folder: Path, origin: str) -> Source:
    """Read the four EPFL files; `origin` tells in the provenance how they got here."""
    stacks: dict[str, NDArray[np.uint8]] = {}
    findings: list[Finding] = []
    for name in FILES:
        try:
            stacks[name] = _read_file(folder / name)
        except DataError as error:
            findings += error.findings
    if findings:
        raise DataError(findings)
    provenance = (
        f"EPFL CA1 hippocampus, 5 nm voxels (A. Lucchi, Y. Li, P. Fua, CVPR 2013, {PAGE}), "
        f"{origin}. Test scores are taken on every {TEST_STEP}th slice of the test stack."
    )
    if digest(stacks["training.tif"][0]) == RECOVERED_FIRST_IMAGE:
        provenance += (
            " This copy was recovered from a public mirror: the masks are the original ones "
            "(compared on two slices), the grey values are exact up to a constant per slice."
        )
    blocks = [
        (stacks[f"{half}.tif"], stacks[f"{half}_groundtruth.tif"] > 0, f"epfl-{half}")
        for half in ("training", "testing")
    ]
    return Source(blocks, NM_PER_PIXEL, "epfl", provenance)


def _read_file(path: Path) -> NDArray[np.uint8]:
    """Read one of the four files, checked; of a test file only the slices that are scored."""

    def refuse(what: str, remedy: str = DOWNLOAD_AGAIN) -> DataError:
        return DataError(found(path.parent, "error", what, remedy, [path]))

    if not path.exists():
        raise refuse("is missing", f"the EPFL data are {', '.join(FILES)}")
    stack = read_stack(path, [path])
    for error in errors(stack.findings):
        raise refuse(error.what)
    pixels, shapes = stack.pixels, [SHAPE]
    if path.name.startswith("testing"):
        shapes.append((len(range(0, SHAPE[0], TEST_STEP)), *SHAPE[1:]))
        if pixels.shape == SHAPE:
            pixels = pixels[::TEST_STEP]
    if pixels.shape not in shapes or pixels.dtype != np.uint8:
        listed = " or ".join(map(str, shapes))
        what = f"is {pixels.dtype} {pixels.shape}, but the EPFL file is uint8 {listed}"
        other = "if it is another data set, put image.tif and mask.tif into train/ and test/"
        raise refuse(what, f"{DOWNLOAD_AGAIN}; {other}")
    if path.name not in FIRST_MASK:
        return pixels
    if not np.isin(pixels, (0, 255)).all():
        raise refuse("holds values other than 0 and 255, so it is not the EPFL mask")
    for other, first_mask in FIRST_MASK.items():
        if other != path.name and digest(pixels[0]) == first_mask:
            what = f"holds the masks of {other}: training and testing files are swapped, and scores"
            raise refuse(f"{what} would be taken on training data", f"download them from {PAGE}")
    return pixels
