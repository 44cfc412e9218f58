"""Hostile files: whatever they hold, they are read, or refused by our own error.

Mutated files are read in a process of their own, whose memory is limited: a crash or a header that
claims terabytes must show there and not take the tests along. Input number n is a function of n, so
that a failure is repeated by its number:  python tests/test_stacks.py FIRST COUNT
"""

import json
import logging
import os
import resource
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from synthseg import volumes

DEPTH, HEIGHT, WIDTH = 6, 24, 32
MEMORY = 2 * 2**30  # bytes of address space that the reading process may add to what it has
RESIDENT = 400 * 2**20  # bytes that it may really use
EXTREMES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
EXTREMES += [2**40, 2**63 - 1, 2**64 - 1]


# The files that are mutated -----------------------------------------------------------------------


def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (DEPTH, HEIGHT, WIDTH), dtype=np.uint8)


def marks() -> np.ndarray:
    mask = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
    mask[:, 3:9, 4:12] = 1
    return mask


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    content = BytesIO()
    tifffile.imwrite(content, pixels, **{"photometric": "minisblack", **options})
    return content.getvalue()


def pillow(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    content = BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, **options)
    return content.getvalue()


STACKS: dict[str, Callable[[np.ndarray], bytes]] = {
    "tiff 8 bit": tiff,
    "tiff 16 bit": lambda pixels: tiff(pixels.astype(np.uint16) * 200, byteorder=">"),
    "tiff float": lambda pixels: tiff(pixels.astype(np.float32)),
    "tiff float64": lambda pixels: tiff(pixels.astype(np.float64)),
    "tiff deflate": lambda pixels: tiff(pixels, compression="zlib", predictor=True),
    "tiff tiled": lambda pixels: tiff(pixels, tile=(16, 16), compression="zlib"),
    "tiff bigtiff": lambda pixels: tiff(pixels, bigtiff=True),
    "tiff imagej": lambda pixels: tiff(pixels, imagej=True, metadata={"axes": "ZYX"}),
    "tiff rgb": lambda pixels: tiff(np.stack([pixels] * 3, axis=-1), photometric="rgb"),
    "tiff 1 bit": lambda pixels: tiff(pixels > 0),
}
SLICES: dict[str, Callable[[np.ndarray], bytes]] = {
    "tiff lzw": lambda page: pillow(page, format="TIFF", compression="tiff_lzw"),
    "tiff packbits": lambda page: pillow(page, format="TIFF", compression="packbits"),
    "png 1 bit": lambda page: pillow(page > 0, format="PNG"),
    "png 8 bit": lambda page: pillow(page, format="PNG"),
    "png 16 bit": lambda page: pillow(page.astype(np.uint16) * 200, format="PNG"),
    "png palette": lambda page: pillow(page, "P", format="PNG"),
    "png rgb": lambda page: pillow(page, "RGB", format="PNG"),
    "png grey alpha": lambda page: pillow(page, "LA", format="PNG"),
}
KINDS = [*STACKS, *SLICES]


# Mutations ----------------------------------------------------------------------------------------


def number(rng: np.random.Generator, size: int, order: str) -> bytes:
    value = int(rng.choice(np.array(EXTREMES, dtype=object)))
    return (value % 2 ** (8 * size)).to_bytes(size, order)


def flip(data: bytearray, rng: np.random.Generator) -> None:
    for position in rng.integers(0, len(data), rng.integers(1, 9)):
        data[position] = rng.integers(0, 256)


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(0, len(data)) :]


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
    """An extreme number, mostly near the beginning, where headers are."""
    size = int(rng.choice([1, 2, 4, 8]))
    start = int(rng.integers(0, min(len(data), 600)))
    data[start : start + size] = number(rng, size, str(rng.choice(["little", "big"])))


def header(data: bytearray, rng: np.random.Generator) -> None:
    """An extreme number in a field of the header, which stays well-formed otherwise."""
    if data[:4] == b"\x89PNG" and len(data) > 33:
        fields = [(16, 4), (20, 4), (24, 1), (25, 1), (26, 1), (27, 1), (28, 1)]
        start, size = fields[rng.integers(len(fields))]
        data[start : start + size] = number(rng, size, "big")
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        return
    order = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    size, count_size, entry = (8, 8, 20) if big else (4, 2, 12)
    directory = int.from_bytes(data[size : 2 * size], order)
    entries = int.from_bytes(data[directory : directory + count_size], order)
    if not 0 < entries < 100:
        return
    first = directory + count_size + entry * int(rng.integers(entries))
    # tag, type, count, value
    fields = [(0, 2), (2, 2), (4, size), (4 + size, size), (4 + size, 2), (4 + size, size)]
    start, length = fields[rng.integers(len(fields))]
    if first + start + length <= len(data):
        data[first + start : first + start + length] = number(rng, length, order)


MUTATIONS = (flip, truncate, overwrite, header)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if data:
            MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return bytes(data)


# Reading them -------------------------------------------------------------------------------------


def prepare(folder: Path, kind: str, role: str) -> tuple[Path, str]:
    """Good files, `role` (image or mask) of this kind: one to mutate, and what names them all."""
    folder.mkdir(parents=True)
    for name, pixels in (("image", stack()), ("mask", marks())):
        if kind in STACKS:
            encode = STACKS[kind] if name == role else tiff
            (folder / f"{name}.tif").write_bytes(encode(pixels))
            continue
        encode, suffix = (SLICES[kind], kind[:3]) if name == role else (SLICES["png 8 bit"], "png")
        (folder / f"{name}s").mkdir()
        for index, page in enumerate(pixels):
            path = folder / f"{name}s" / f"{index}.{suffix.replace('tif', 'tiff')}"
            path.write_bytes(encode(page))
    if kind in STACKS:
        return folder / f"{role}.tif", f"{folder / 'image.tif'},{folder / 'mask.tif'}"
    return next((folder / f"{role}s").glob("2.*")), str(folder)


def outcome(name: str) -> str:
    """``read``, why it was refused by our own error, or ``ESCAPED``: what may not be."""
    try:
        dataset = volumes.load(name, 5.0)
    except volumes.DataError as error:
        unread = ("cannot be read", "is damaged", "lacks pixels", "claims")
        return "not decoded" if any(word in str(error) for word in unread) else "refused"
    except Exception as error:
        return f"ESCAPED: {type(error).__name__}: {error}"[:200]
    for part in (dataset.train, dataset.validation, dataset.test):
        if part.image.dtype != np.uint8 or not np.isin(part.mask, (0, 1)).all():
            return "ESCAPED: unchecked result"
    return "read"


def read_mutated(first: int, count: int) -> dict[str, object]:
    """Read the inputs `first` to `first + count - 1`, with little memory; count what happened."""
    counts, failures = Counter(), []
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as base:
        places = {
            (kind, role): prepare(Path(base, kind.replace(" ", "-"), role), kind, role)
            for kind in KINDS
            for role in ("image", "mask")
        }
        good = {path: path.read_bytes() for path, _ in places.values()}
        for index in range(first, first + count):
            rng = np.random.default_rng([7, index])
            kind = KINDS[index % len(KINDS)]
            role = "mask" if rng.random() < 0.3 else "image"
            path, name = places[kind, role]
            path.write_bytes(mutated(good[path], rng))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = outcome(name)
            for warning in caught:
                # What `load` says of doubtful data is meant; what libraries say must not get out.
                if warning.category is not UserWarning or warning.filename != __file__:
                    failures.append(f"input {index}: warning {warning.message}"[:200])
            if result.startswith("ESCAPED"):
                failures.append(f"input {index}, {kind}, {role}: {result}")
            counts[result.split(":")[0]] += 1
    more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {"counts": counts, "failures": failures, "memory": more}


def check_files(count: int) -> None:
    command = [sys.executable, __file__, "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == []
    assert sum(report["counts"].values()) == count
    assert set(report["counts"]) == {"read", "not decoded", "refused"}, "some pass the decoders"
    assert report["memory"] < RESIDENT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["image", "mask"])
def test_unchanged_files_are_read(tmp_path: Path, kind: str, role: str) -> None:
    refused = "1 bit" in kind and role == "image"  # pixels of one bit are no image
    _, name = prepare(tmp_path / "data", kind, role)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert outcome(name) in (("not decoded", "refused") if refused else ("read",))


def test_mutated_files_are_read_or_refused() -> None:
    check_files(600)


@pytest.mark.long
def test_ten_thousand_mutated_files() -> None:
    check_files(10_000)


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(read_mutated(int(sys.argv[1]), int(sys.argv[2]))))
