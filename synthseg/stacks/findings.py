"""Findings: what is wrong or noteworthy in files and pixels, where, and how to mend it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]


def show_path(path: Path) -> str:
    """Return a path as text that can always be printed, whatever bytes are in its name."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def digest(page: NDArray) -> str:
    """Return the sha256 of the pixels of a slice."""
    return sha256(np.ascontiguousarray(page).data).hexdigest()


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in the data.

    An error keeps the data from being used. A warning is a likely mistake that only a person can
    judge. A note says how something was understood.
    """

    severity: Severity
    file: str  # or folder
    what: str  # is wrong, to be read after the name of the file
    remedy: str = ""  # what to do; empty if `what` is a whole sentence that says it
    slices: tuple[int, ...] = ()  # of a multi-page file, from 0; empty for the file as a whole

    def __str__(self) -> str:
        if not self.remedy:
            return self.what
        where = f"{self.file}, {self.place}," if self.place else self.file
        return f"{where} {self.what}; {self.remedy}."

    @property
    def place(self) -> str:
        """The slices in words, such as ``slices 3, 5-7``; empty for a whole file."""
        runs = []
        for _, group in groupby(enumerate(self.slices), lambda item: item[1] - item[0]):
            first, *more = (number for _, number in group)
            runs.append(f"{first}-{more[-1]}" if more else f"{first}")
        word = "slice" if len(self.slices) == 1 else "slices"
        return f"{word} {', '.join(runs)}" if runs else ""


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
    numbers: Sequence[int]  # of each slice in its file
    findings: list[Finding] = field(default_factory=list)
    listed: list[Path] = field(default_factory=list)  # all files, also those that are unreadable

    @classmethod
    def of(cls, pixels: NDArray, name: str) -> "Stack":
        """Make a stack of an array, as if it were one multi-page file of this name."""
        return cls(Path(name), pixels, [Path(name)] * len(pixels), range(len(pixels)))

    @property
    def complete(self) -> bool:
        """Whether every slice could be read, and all are alike."""
        return all(finding.severity != "error" for finding in self.findings)

    def label(self, index: int) -> str:
        """Name of one slice, for use within a sentence."""
        file = self.files[index]
        return f"slice {self.numbers[index]}" if file == self.path else show_path(Path(file.name))

    def labels(self, indices: list[int], most: int) -> str:
        """Names of the first few of these slices."""
        more = ["…"] if len(indices) > most else []
        return ", ".join([*map(self.label, indices[:most]), *more])

    def whole(self, severity: Severity, what: str, remedy: str) -> Finding:
        """A finding about the file or folder as a whole."""
        return Finding(severity, show_path(self.path), what, remedy)

    def at(
        self, indices: Iterable[int], severity: Severity, what: str, remedy: str
    ) -> Iterator[Finding]:
        """Findings about some slices: one a file."""
        for file, group in groupby(sorted(indices), lambda index: self.files[index]):
            pages = () if file != self.path else tuple(self.numbers[index] for index in group)
            yield Finding(severity, show_path(file), what, remedy, pages)


@dataclass(frozen=True, eq=False)
class Pair:
    """An image (z, y, x) uint8 and its mask (z, y, x) bool or 0 and 1, with a name."""

    image: NDArray[np.uint8]
    mask: NDArray
    name: str


@dataclass(frozen=True, eq=False)
class Source:
    """What was read: one block to develop on, and perhaps another one for the test."""

    pairs: list[Pair]
    nm_per_pixel: float
    name: str
    provenance: str
    findings: list[Finding] = field(default_factory=list)
    checked: bool = False
