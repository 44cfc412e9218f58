"""Hostile files: whatever they hold, they are read, or refused by our own error.

Mutated files are read in a process of their own, whose memory is limited: a crash or a header that
claims terabytes must show there and not take the tests along. Input number n is a function of n, so
that a failure is repeated by its number. The recorded run of 10,000 files, with its table:

    python tests/test_fuzz.py files 10000
"""

import json
import logging
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
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
PICKLE_MEMORY = 256 * 2**20  # the memo of a pickle takes what it can get
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


def remove(data: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(0, len(data))
    del data[start : start + rng.integers(1, 64)]


def insert(data: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(0, len(data) + 1)
    data[start:start] = rng.bytes(rng.integers(1, 64))


def swap(data: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(1, max(2, len(data) // 4)))
    one, two = rng.integers(0, max(1, len(data) - size), 2)
    data[one : one + size], data[two : two + size] = (
        data[two : two + size],
        data[one : one + size],
    )


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


MUTATIONS = (flip, truncate, remove, insert, swap, overwrite, overwrite, header, header, header)


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


REASONS = {
    "cannot be read": "no decoder can read it",
    "is damaged": "damaged",
    "lacks pixels": "pixels are missing",
    "claims": "claims too much",
    "colour": "in colour",
    "slices are": "slices differ",
    "differ": "slices differ",
    "NaN": "not finite",
    "has shape": "not a slice",
    "pages": "number of slices",
}


def outcome(name: str) -> str:
    """``read``, why it was refused by our own error, or ``ESCAPED``: what may not be."""
    try:
        dataset = volumes.load(name, 5.0)
    except volumes.DataError as error:
        found = (short for words, short in REASONS.items() if words in str(error))
        return f"DataError: {next(found, 'other checks')}"
    except Exception as error:
        return f"ESCAPED: {type(error).__name__}: {error}"[:200]
    for part in (dataset.train, dataset.validation, dataset.test):
        if part.image.dtype != np.uint8 or not np.isin(part.mask, (0, 1)).all():
            return "ESCAPED: unchecked result"
    return "read"


def read_mutated(first: int, count: int) -> dict[str, object]:
    """Read the inputs `first` to `first + count - 1`, with little memory; count what happened."""
    counts, leaked, failures = Counter(), Counter(), []
    limit_memory(MEMORY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
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
                if warning.category is UserWarning and Path(warning.filename) == Path(__file__):
                    continue  # what `load` says of doubtful data
                leaked[f"{warning.category.__name__}: {warning.message}"[:120]] += 1
            if result.startswith("ESCAPED"):
                failures.append(f"input {index}, {kind}, {role}: {result}")
            counts[kind, result.split(":")[0] if "ESCAPED" in result else result] += 1
    return {
        "counts": [[kind, result, number] for (kind, result), number in sorted(counts.items())],
        "warnings": dict(leaked),
        "failures": failures,
        "seconds": time.monotonic() - begun,
        "memory": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


# Hostile pickles ----------------------------------------------------------------------------------


def hostile_pickles(command: str) -> dict[str, bytes]:
    """Pickles each of which would run a shell command, or take over the reader in another way."""
    text = command.encode()
    short = b"\x8c" + bytes([len(text)]) + text

    def name(word: str) -> bytes:
        return b"\x8c" + bytes([len(word)]) + word.encode()

    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return {
        "global": b"cos\nsystem\n(V" + text + b"\ntR.",
        "eval": b"cbuiltins\neval\n(V__import__('os').system('" + text + b"')\ntR.",
        "exec": b"cbuiltins\nexec\n(Vimport os; os.system('" + text + b"')\ntR.",
        "old name of builtins": b"c__builtin__\neval\n(V__import__('os').system('x')\ntR.",
        "posix": b"cposix\nsystem\n(V" + text + b"\ntR.",
        "subprocess": b"csubprocess\ngetoutput\n(V" + text + b"\ntR.",
        "stack global": b"\x80\x04" + name("os") + name("system") + b"\x93(" + short + b"tR.",
        "dotted name": b"\x80\x04" + name("collections") + name("OrderedDict.__class__") + b"\x93.",
        "globals of ours": b"\x80\x04"
        + name("torch._utils")
        + name("_rebuild_tensor_v2.__globals__")
        + b"\x93.",
        "module of ours": b"csynthseg.frechet\nlru_cache\n.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nV" + text + b"\ntR.",
        "inst": b"(V" + text + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nV" + text + b"\no.",
        "newobj": b"\x80\x02csubprocess\nPopen\n(]V" + text + b"\natR.",
        "newobj with keywords": b"\x80\x04csubprocess\nPopen\n(V" + text + b"\nt}\x92.",
        "extension": b"\x80\x02\x82\x01.",
        "nested pickle": b"cpickle\nloads\n(Ccos\nsystem\ntR.",
        "build": b"\x80\x02ccollections\nOrderedDict\n)R}(Vitems\ncos\nsystem\nu" + b"b.",
        "state of a function": tensor + b"N}(V__globals__\n}u\x86b.",
        "state of a class": b"ccollections\nOrderedDict\n}(V__init__\nNub.",
        "call of a type": b"ctorch\nFloatStorage\n(tR.",
        "persistent identifier as text": b"Pcos\n.",
        "persistent identifier, wrong form": b"\x80\x02K\x01Q.",
        "persistent identifier, unhashable": b"\x80\x02(V\n]]tQ.",
        "tensor of anything": tensor + b"(NNNNtR.",
        "tensor without arguments": tensor + b")R.",
        "recursive": b"\x80\x02]q\x00h\x00a.",
        "deep": b"(" * 5000 + b"t" * 5000 + b".",
        "huge number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
        "huge array of bytes": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
        "huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "digits": b"L" + b"9" * 100_000 + b"L\n.",
        "empty": b"",
        "no opcode": b"\xff\xfe\xfd.",
    }


def weights_of(state: bytes, keys: bytes = b"\x80\x02](V0\ne.") -> bytes:
    """A legacy weight file around a pickled state dictionary, with one storage of 7 numbers."""
    return b"\x80\x02K\x01." * 3 + state + keys + struct.pack("<q7f", 7, *range(7))


STORAGE = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x07NtQ"


def tensor_state(shape: bytes = b"K\x02K\x03\x86", strides: bytes = b"K\x03K\x01\x86") -> bytes:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x01" + shape + strides
    return b"\x80\x02ccollections\nOrderedDict\n)RVplain\n" + tensor + b"\x89NtRs."


def head_of_the_real_weights() -> bytes:
    """The five pickles at the beginning of the installed weight file."""
    from importlib import resources
    from pickletools import genops

    from synthseg import frechet

    path = resources.files(frechet._WEIGHTS_PACKAGE) / "models" / frechet._WEIGHTS_FILE
    with path.open("rb") as file:
        stream = BytesIO(file.read(2**20))
    for _ in range(5):
        for _ in genops(stream):
            pass
    return stream.getvalue()[: stream.tell()]


def read_pickles(first: int, count: int) -> dict[str, object]:
    """Read hostile pickles in every place, then `count` mutated ones; none may run anything."""
    import pickle

    from synthseg import frechet

    counts, failures = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        sentinel = Path(folder, "sentinel")
        hostile = hostile_pickles(f"touch {sentinel}")
        good, real = weights_of(tensor_state()), head_of_the_real_weights()
        assert frechet._read_torch_weights(good)["plain"].tolist() == [[1, 2, 3], [4, 5, 6]]
        inputs = {
            f"{kind}, {place}": content
            for kind, attack in hostile.items()
            for place, content in {
                "alone": attack,
                "as state": weights_of(attack),
                "as keys": weights_of(tensor_state(), attack),
            }.items()
        }
        inputs |= {
            "tensor larger than its storage": weights_of(
                tensor_state(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"K\x00K\x00\x86")
            ),
            "negative stride": weights_of(tensor_state(strides=b"J\xff\xff\xff\xffK\x01\x86")),
        }
        seeds = [good, real, *hostile.values()]
        for index in range(first, first + count):
            rng = np.random.default_rng([11, index])
            chosen = seeds[
                rng.choice(len(seeds), p=[0.4, 0.2, *[0.4 / len(hostile)] * len(hostile)])
            ]
            inputs[f"input {index}"] = mutated(chosen or good, rng)
        limit_memory(PICKLE_MEMORY)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        for name, content in inputs.items():
            kind = "mutated" if name.startswith("input") else "hostile"
            try:
                frechet._read_torch_weights(content)
                result = "read"
                if kind == "hostile":
                    failures.append(f"{name}: accepted")
            except (pickle.UnpicklingError, ValueError) as error:
                result = type(error).__name__
            except Exception as error:
                result = f"ESCAPED: {type(error).__name__}"
                failures.append(f"{name}: {type(error).__name__}: {error}"[:200])
            counts[kind, result] += 1
            if sentinel.exists():
                failures.append(f"{name}: ran a command")
                sentinel.unlink()
        # What was read before did not change the reader.
        assert frechet._read_torch_weights(good)["plain"].tolist() == [[1, 2, 3], [4, 5, 6]]
    return {
        "counts": [[kind, result, number] for (kind, result), number in sorted(counts.items())],
        "warnings": {},
        "failures": failures,
        "seconds": time.monotonic() - begun,
        "memory": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
    }


# The runs -----------------------------------------------------------------------------------------


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes of address space than it has; less than it asks for."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))


def run(what: str, first: int, count: int) -> dict[str, object]:
    """Read inputs in a process of their own; its death is a failure, too."""
    command = [sys.executable, __file__, what, str(count), str(first), "--json"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def table(report: dict[str, object]) -> str:
    lines = [f"{kind:16} {result:28} {number:6}" for kind, result, number in report["counts"]]
    total = sum(number for _, _, number in report["counts"])
    seconds, memory = report["seconds"], report["memory"] / 2**20
    lines.append(f"{total} inputs in {seconds:.0f} s, {memory:.0f} MiB more memory than before")
    lines += [f"warning, {number} times: {text}" for text, number in report["warnings"].items()]
    return "\n".join([*lines, *report["failures"]])


def check_files(first: int, count: int) -> None:
    report = run("files", first, count)
    print(table(report))
    assert report["failures"] == []
    assert report["warnings"] == {}
    assert sum(number for _, _, number in report["counts"]) == count
    results = {result for _, result, _ in report["counts"]}
    assert {"read", "DataError: other checks"} < results, "mutations get past the decoders"
    assert report["memory"] < RESIDENT


def check_pickles(first: int, count: int) -> None:
    report = run("pickles", first, count)
    print(table(report))
    assert report["failures"] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["image", "mask"])
def test_unchanged_files_are_read(tmp_path: Path, kind: str, role: str) -> None:
    # Pixels of one bit are no image, and LZW needs a decoder that is not installed.
    refused = "lzw" in kind or ("1 bit" in kind and role == "image")
    _, name = prepare(tmp_path / "data", kind, role)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert outcome(name).startswith("DataError") if refused else outcome(name) == "read"


def test_mutated_files_are_read_or_refused() -> None:
    check_files(first=0, count=1000)


@pytest.mark.long
def test_ten_thousand_mutated_files() -> None:
    check_files(first=0, count=10_000)


def test_hostile_pickles_are_refused() -> None:
    check_pickles(first=0, count=300)


@pytest.mark.long
def test_ten_thousand_mutated_pickles() -> None:
    check_pickles(first=0, count=10_000)


if __name__ == "__main__":
    logging.disable()
    reading = {"files": read_mutated, "pickles": read_pickles}[sys.argv[1]]
    made = reading(int(sys.argv[3]) if len(sys.argv) > 3 else 0, int(sys.argv[2]))
    print(json.dumps(made) if "--json" in sys.argv else table(made))
