"""Findings: what is wrong or noteworthy in files and pixels, where, and how to mend it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]
IGNORED = np.uint8(2)  # in the mask of a source: a pixel that counts in no loss and no score
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


Slices = Iterable[Path | int]


def found(
    path: Path, severity: Severity, what: str, remedy: str, slices: Slices | None = None
) -> list[Finding]:
    """A finding about a file or folder, or some slices of it: none, if there are no such slices."""
    names = [show_path(s.relative_to(path)) if isinstance(s, Path) else s for s in slices or ()]
    none = slices is not None and not names
    return [] if none else [Finding(severity, show_path(path), what, remedy, tuple(names))]


def gather(findings: Iterable[Finding]) -> list[Finding]:
    """Make one finding of those that differ in their slices alone."""
    gathered: dict[Finding, tuple[str | int, ...]] = {}
    for finding in findings:
        cause = replace(finding, slices=())
        gathered[cause] = gathered.get(cause, ()) + finding.slices
    return [replace(cause, slices=slices) for cause, slices in gathered.items()]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the findings that keep data from being used."""
    return [finding for finding in findings if finding.severity == "error"]


class DataError(ValueError):
    """The data cannot be used; the message says which file is wrong and what to do.

    `problem` is a sentence, or all that was noticed, with at least one error among it.
    """

    def __init__(self, problem: str | list[Finding]) -> None:
        noticed = [Finding("error", "", problem)] if isinstance(problem, str) else problem
        self.findings = gather(noticed)
        first, *more = errors(self.findings)
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
        """Whether there are slices, every one could be read, and all are alike."""
        return len(self.pixels) > 0 and not errors(self.findings)

    def found(
        self, severity: Severity, what: str, remedy: str, slices: Iterable[int] | None = None
    ) -> list[Finding]:
        """A finding about all slices, or about some: none, if there are no such slices."""
        if slices is None:
            return found(self.path, severity, what, remedy)
        files = [z if self.files[z] == self.path else self.files[z] for z in slices]
        return found(self.path, severity, what, remedy, files)


@dataclass(frozen=True, eq=False)
class Source:
    """What was read: one block; or two, the second for the test; or train, validation, test."""

    blocks: list[tuple[NDArray[np.uint8], NDArray, str]]
    """Images uint8, masks bool or 0, 1 and `IGNORED`, both (z, y, x), and their names."""
    nm_per_pixel: float
    name: str
    provenance: str
    findings: list[Finding] = field(default_factory=list)
    nm_per_slice: float | None = None  # distance of the slices, if it is known
