"""Findings: what is wrong or noteworthy in files and pixels, where, and how to mend it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]
IGNORED = np.uint8(2)  # in the mask of a pair: a pixel that counts in no loss and no score
PLURALS = {"is": "are", "has": "have", "was": "were", "cannot": "cannot"}  # else without its s


def show_path(path: Path) -> str:
    """Return a path as text that can always be printed, whatever bytes are in its name."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def digest(page: NDArray) -> str:
    """Return the sha256 of the pixels of a slice."""
    return sha256(np.ascontiguousarray(page).data).hexdigest()


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few of these names."""
    return ", ".join([*map(str, names[:most]), *["…"][: len(names) > most]])


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in the data.

    An error keeps the data from being used. A warning is a likely mistake that only a person can
    judge. A note says how something was understood.
    """

    severity: Severity
    file: str  # or folder
    what: str  # is wrong: begins with a verb in the singular
    remedy: str = ""  # what to do; empty if `what` is a whole sentence that says it
    slices: tuple[str | int, ...] = ()  # files of the folder, or slices from 0; empty for all

    def __str__(self) -> str:
        if not self.remedy:
            return self.what
        return f"{self.file}{':' if self.slices else ''} {self.sentence}; {self.remedy}."

    @property
    def sentence(self) -> str:
        """What is wrong, and with how many slices, the first of them by name."""
        if not self.slices:
            return self.what
        noun = "slice" if isinstance(self.slices[0], int) else "file"
        if len(self.slices) == 1:
            return f"{'slice ' if noun == 'slice' else ''}{self.slices[0]} {self.what}"
        verb, rest = self.what.split(" ", 1)
        verb = PLURALS.get(verb, verb.removesuffix("s"))
        return f"{len(self.slices)} {noun}s ({some(self.slices)}) {verb} {rest}"


def about(
    folder: Path, files: Iterable[Path], severity: Severity, what: str, remedy: str
) -> Iterator[Finding]:
    """A finding about some files in a folder; none, if there are no such files."""
    if names := tuple(show_path(file.relative_to(folder)) for file in files):
        yield Finding(severity, show_path(folder), what, remedy, names)


def gather(findings: Iterable[Finding]) -> list[Finding]:
    """Make one finding of those that differ in their slices alone."""
    gathered: dict[Finding, tuple[str | int, ...]] = {}
    for finding in findings:
        cause = replace(finding, slices=())
        gathered[cause] = gathered.get(cause, ()) + finding.slices
    return [replace(cause, slices=slices) for cause, slices in gathered.items()]


class DataError(ValueError):
    """The data cannot be used; the message says which file is wrong and what to do.

    `problem` is a sentence, or all that was noticed, with at least one error among it.
    """

    def __init__(self, problem: str | list[Finding]) -> None:
        self.findings = [Finding("error", "", problem)] if isinstance(problem, str) else problem
        first, *more = [finding for finding in self.findings if finding.severity == "error"]
        also = f" And {len(more)} more: `synthseg data check` lists all." if more else ""
        super().__init__(f"{first}{also}")


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices that were read from a multi-page file or a folder, and what was noticed then."""

    path: Path
    pixels: NDArray  # (z, y, x) of the type stored; no slices if none could be read
    files: Sequence[Path]  # of each slice
    findings: list[Finding] = field(default_factory=list)
    nm: float | None = None  # width of a pixel, if the file tells it
    nm_per_slice: float | None = None  # distance of the slices, if the file tells it
    ignored: NDArray[np.bool_] | None = None  # pixels of a mask that are to be left out

    @classmethod
    def of(cls, pixels: NDArray, name: str) -> "Stack":
        """Make a stack of an array, as if it were one multi-page file of this name."""
        return cls(Path(name), pixels, [Path(name)] * len(pixels))

    @property
    def complete(self) -> bool:
        """Whether every slice could be read, and all are alike."""
        return all(finding.severity != "error" for finding in self.findings)

    def name(self, index: int) -> str | int:
        """Name of the file of a slice; of a slice of a multi-page file, its number."""
        file = self.files[index]
        return index if file == self.path else show_path(Path(file.name))

    def whole(self, severity: Severity, what: str, remedy: str) -> Finding:
        """A finding about the file or folder as a whole."""
        return Finding(severity, show_path(self.path), what, remedy)

    def at(
        self, indices: Iterable[int], severity: Severity, what: str, remedy: str
    ) -> Iterator[Finding]:
        """A finding about some slices; none, if there are no such slices."""
        if names := tuple(map(self.name, indices)):
            yield Finding(severity, show_path(self.path), what, remedy, names)


@dataclass(frozen=True, eq=False)
class Pair:
    """An image (z, y, x) uint8 and its mask (z, y, x) bool or 0, 1 and `IGNORED`, with a name."""

    image: NDArray[np.uint8]
    mask: NDArray
    name: str


@dataclass(frozen=True, eq=False)
class Source:
    """What was read: one block; or two, the second for the test; or train, validation, test."""

    pairs: list[Pair]
    nm_per_pixel: float
    name: str
    provenance: str
    findings: list[Finding] = field(default_factory=list)
    checked: bool = False
    nm_per_slice: float | None = None  # distance of the slices, if it is known
