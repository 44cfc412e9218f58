"""Exercises: answers are checked kindly, and students get everything but the solutions."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from synthseg import exercises
from synthseg.project import CHAPTERS, RunError, project_root

NOTEBOOKS = exercises.notebooks()


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def labels(directive: str, text: str) -> list[str]:
    return re.findall(directive, text, re.MULTILINE)


@pytest.mark.parametrize(
    ("answer", "expected"), [(0.5, 0.5), (np.nan, np.nan), ([1, 2], (1.0, 2.0)), (True, 1)]
)
def test_a_right_answer_gets_a_green_mark(capsys, answer, expected) -> None:
    exercises.check(answer, expected, "Look here.")
    assert capsys.readouterr().out == "\x1b[32m✓ right\x1b[0m\n"


@pytest.mark.parametrize("answer", [0.4, [0.5], np.nan, None])
def test_a_wrong_answer_gets_a_hint_and_not_the_solution(answer) -> None:
    with pytest.raises(AssertionError, match=r"Not yet.*Look here\.") as error:
        exercises.check(answer, 0.51234, "Look here.")
    assert "0.51234" not in str(error.value)


@pytest.mark.parametrize("answer", [..., [0.5, ...], (..., 0.5)])
def test_a_blank_is_no_wrong_answer(answer) -> None:
    with pytest.raises(NotImplementedError, match="No answer yet"):
        exercises.check(answer, 0.5, "Look here.")


def test_there_are_exercises_to_each_chapter() -> None:
    assert set(CHAPTERS.values()) <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_get_everything_but_the_solutions(path) -> None:
    source, student = read(path), exercises.for_students(read(path))
    kept = [cell for cell in source.cells if "solution" not in cell.metadata.get("tags", [])]
    assert [cell.id for cell in student.cells] == [cell.id for cell in kept]
    text = "\n".join(cell.source for cell in source.cells)
    asked = labels(r"^::::\{exercise\}.*\n:label: (\S+)", text)
    assert sorted(labels(r"^(?:```|::::)\{solution(?:-start)?\} (\S+)", text)) == sorted(asked)
    shown = "\n".join(cell.source for cell in student.cells)
    assert labels(r"^::::\{exercise\}.*\n:label: (\S+)", shown) == asked
    assert "{solution" not in shown
    assert not [cell.id for cell in student.cells if cell.get("outputs")]


def test_students_notebooks_link_to_the_book(tmp_path) -> None:
    written = exercises.write_for_students(tmp_path / "mine")
    assert [path.name for path in written] == [path.name for path in NOTEBOOKS]
    for path in written:
        linked = re.findall(r"\]\(([^)]*\.ipynb)\)", "".join(c.source for c in read(path).cells))
        assert linked
        assert all((path.parent / link).is_file() for link in linked), linked


def test_what_a_student_has_written_is_kept(tmp_path) -> None:
    (tmp_path / NOTEBOOKS[1].name).write_text("my answers")
    with pytest.raises(RunError, match=f"{NOTEBOOKS[1].name} already"):
        exercises.write_for_students(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NOTEBOOKS[1].name]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_exercises_are_small_and_described(path) -> None:
    pictured = path.stem == "what_goes_wrong"  # a page of pictures, without exercises
    assert path.stat().st_size < (600_000 if pictured else 300_000)
    for cell in read(path).cells:
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        described = cell.metadata.get("mystnb", {})
        assert len(pictures) == bool(described), f"cell {cell.id}: picture and caption disagree"
        assert not described or len(described["image"]["alt"]) > 20


def test_all_exercises_are_in_the_table_of_contents() -> None:
    contents = (project_root() / "book" / "_toc.yml").read_text(encoding="utf-8")
    assert all(f"file: exercises/{path.stem}\n" in contents for path in NOTEBOOKS)
