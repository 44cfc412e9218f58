"""Exercises: the check of an answer, and the notebooks in ``book/exercises/`` without solutions."""

import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from synthseg.project import RunError, project_root, write_text


def notebooks() -> list[Path]:
    """Paths of the notebooks with exercises, in the order of the chapters."""
    return sorted((project_root() / "book" / "exercises").glob("*.ipynb"))


def check(answer: Any, expected: Any, hint: str, within: float = 1e-6) -> None:
    """Compare an answer, a number or an array, with the right one; print a green mark if it is.

    Raises
    ------
    NotImplementedError
        If the answer, or a part of it, is still ``...``.
    AssertionError
        If it differs by more than `within`, or in shape; the message says by the hint what to
        look at, and not the solution.
    """
    parts = answer if isinstance(answer, (list, tuple)) else [answer]
    if any(part is ... for part in parts):
        raise NotImplementedError("No answer yet: replace the … in the cell above, and run both.")
    given = np.asarray(answer, float)  # None, of a function without return, becomes NaN
    same_shape = given.shape == np.shape(expected)
    if not same_shape or not np.allclose(given, expected, 0, within, equal_nan=True):
        raise AssertionError(f"Not yet. Your answer: {answer}. {hint}")
    print("\x1b[32m✓ right\x1b[0m")


def for_students(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the cells tagged ``solution``, and without outputs."""
    # Jupyter's converters take long to import.
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

    without, _ = TagRemovePreprocessor(remove_cell_tags=["solution"]).preprocess(notebook, {})
    cleared, _ = ClearOutputPreprocessor().preprocess(without, {})
    return cleared


def write_for_students(folder: Path) -> list[Path]:
    """Write all notebooks for students into a folder; what is there already is never replaced."""
    written = [folder / path.name for path in notebooks()]
    if kept := [path.name for path in written if path.exists()]:
        raise RunError(f"{folder} has {kept[0]} already, maybe with answers: name another folder.")
    book = os.path.relpath(project_root() / "book", folder)
    for source, path in zip(notebooks(), written, strict=True):
        text = nbformat.writes(for_students(nbformat.read(source, as_version=4)))
        write_text(path, text.replace("](../", f"]({book}/") + "\n")  # links to the chapters
    return written
