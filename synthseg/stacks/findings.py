"""Findings: what is wrong or noteworthy in files and pixels, where, and how to mend it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["error", "warning", "note"]


def show_path(path: Path) -> str:
    """Return a path as text that can always be printed, whatever bytes are in its name."""
    return str(path).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in the data.

    Attributes
    ----------
    severity : {"error", "warning", "note"}
        An error keeps the data from being used. A warning is a likely mistake that only a person
        can judge. A note says how something was understood.
    file : str
        The file or folder.
    what : str
        What is wrong, to be read after the name of the file.
    remedy : str
        What to do. Empty if `what` is a whole sentence that says it.
    slices : tuple of int
        Slices of a multi-page file, counted from 0; empty if it is about the whole file.
    """

    severity: Severity
    file: str
    what: str
    remedy: str = ""
    slices: tuple[int, ...] = ()

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
            members = [number for _, number in group]
            runs.append(f"{members[0]}-{members[-1]}" if members[1:] else f"{members[0]}")
        if not runs:
            return ""
        return f"{'slice' if len(self.slices) == 1 else 'slices'} {', '.join(runs)}"


class DataError(ValueError):
    """The data cannot be used; the message says which file is wrong and what to do.

    Parameters
    ----------
    problem : str or list of Finding
        A sentence, or all that was noticed, with at least one error among it.
    """

    def __init__(self, problem: str | list[Finding]) -> None:
        self.findings = [Finding("error", "", problem)] if isinstance(problem, str) else problem
        first, *more = [finding for finding in self.findings if finding.severity == "error"]
        also = f" And {len(more)} more: `synthseg data check` lists all." if more else ""
        super().__init__(f"{first}{also}")


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices that were read, each with the place it came from.

    Attributes
    ----------
    path : Path
        A multi-page file, or a folder of slices.
    pixels : array (z, y, x)
        Of the type stored. Without slices if none could be read.
    files : tuple of Path
        The file of each slice.
    numbers : tuple of int
        The page of each slice in its file.
    findings : list of Finding
        What was noticed when it was read.
    listed : list of Path
        All its files, also those that could not be read.
    """

    path: Path
    pixels: NDArray
    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    findings: list[Finding] = field(default_factory=list)
    listed: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, pixels: NDArray, name: str) -> "Stack":
        """Make a stack of an array, as if it were one multi-page file of this name."""
        path = Path(name)
        return cls(path, pixels, (path,) * len(pixels), tuple(range(len(pixels))))

    @property
    def complete(self) -> bool:
        """Whether every slice could be read, and all are alike."""
        return all(finding.severity != "error" for finding in self.findings)

    def label(self, index: int) -> str:
        """Name of one slice, for use within a sentence."""
        one_file = len(set(self.files)) == 1
        return f"slice {self.numbers[index]}" if one_file else self.files[index].name

    def labels(self, indices: Iterable[int], most: int) -> str:
        """Names of the first few of these slices."""
        named = [self.label(index) for index in indices]
        return ", ".join(named if len(named) <= most else [*named[:most], "…"])

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

    development: Pair
    test: Pair | None
    nm_per_pixel: float
    name: str
    provenance: str
    findings: list[Finding] = field(default_factory=list)
    checked: bool = False
