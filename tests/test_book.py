"""The published book: it builds without a warning, needs no network, and agrees with its cards."""

import re
from html.parser import HTMLParser
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest

from synthseg import project as files
from synthseg.command import publishing


class Page(HTMLParser):
    """Collects what a browser would fetch, and pictures with their alternative texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.fetched.append(values.get("src") or "")
        if tag == "link" and values.get("rel") == "stylesheet":
            self.fetched.append(values.get("href") or "")
        if tag == "img":
            self.pictures.append(values)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html() -> Path:
    return publishing.build_published().parent  # raises if Sphinx warns


def test_published_notebooks_are_what_was_executed() -> None:
    checked = publishing.check()
    assert list(checked) == list(files.CHAPTERS.values())
    assert {name: problems for name, problems in checked.items() if problems} == {}


def test_published_notebooks_stay_small() -> None:
    sizes = [files.chapter_path(chapter).stat().st_size for chapter in files.CHAPTERS]
    assert sum(sizes) < 8e6  # bytes; pictures in full colour would take three times as many


def test_pages_need_no_network(html: Path) -> None:
    folders = (html, html / "exercises", html / "slides")
    pages = sorted(page for folder in folders for page in folder.glob("*.html"))
    assert len(pages) > len(files.CHAPTERS)
    for page in pages:
        remote = [source for source in Page(page).fetched if re.match(r"(https?:)?//", source)]
        assert remote == [], page.name


@pytest.mark.parametrize("chapter", files.CHAPTERS.values())
def test_each_figure_of_a_chapter_has_alt_text(html: Path, chapter: str) -> None:
    figures = [
        picture
        for picture in Page(html / f"{chapter}.html").pictures
        if "_images/" in (picture.get("src") or "")
    ]
    assert figures
    assert all(len(picture.get("alt") or "") > 20 for picture in figures)


def test_teachers_find_slides_of_each_chapter(html: Path) -> None:
    linked = re.findall(r'href="((?:slides/|\w+\.(?:zip|gift))[^"#]*)"', read(html / "teach.html"))
    chapters = sorted(path.stem for path in (files.project_root() / "book").glob("*.ipynb"))
    decks = [f"slides/{name}.html" for name in chapters]
    assert {*linked} == {*decks, "figures.zip", "notebooks.zip", "quiz.gift"}
    assert all((html / link).is_file() for link in linked)
    for deck in decks:
        pictures = [picture["src"] or "" for picture in Page(html / deck).pictures]
        assert pictures
        assert all((html / "slides" / source).is_file() for source in pictures)
        anchors = re.findall(r'<footer><a href="\.\./([\w.]+)#([^"]+)"', read(html / deck))
        assert len(anchors) == read(html / deck).count('<section class="slide">')
        assert all(f'id="{anchor}"' in read(html / page) for page, anchor in {*anchors})


def test_archives_have_every_figure_and_no_solution_for_students(html: Path) -> None:
    with ZipFile(html / "figures.zip") as pack:
        figures = [name for name in pack.namelist() if name.startswith("fig-")]
        described = re.findall("^fig-[^,]+", pack.read("captions.csv").decode(), re.MULTILINE)
    assert len(figures) == len({*figures})
    assert {Path(name).stem for name in figures} == {*described}
    assert "fig-leak.png" in figures
    with ZipFile(html / "notebooks.zip") as pack:
        exercises = [name for name in pack.namelist() if name.startswith("exercises/")]
        given = [name.replace("exercises/", "exercises_for_students/") for name in exercises]
        assert exercises
        assert all(b"{solution" not in pack.read(name) for name in given)


def test_the_question_bank_can_be_imported(html: Path) -> None:
    bank = read(files.project_root() / "book" / "quiz_bank.md")
    names = re.findall(r"^\*\*(\d\.\d+)\*\*", bank, re.MULTILINE)
    entries = read(html / "quiz.gift").split("\n\n")
    assert [re.match("::(.*?)::", entry)[1] for entry in entries] == names
    for entry in entries:
        signs = re.findall("^[=~]", entry, re.MULTILINE)
        assert not signs or (signs.count("=") == 1 and len(signs) > 2), entry
        assert not re.search(r"####\(\w\)", entry), entry  # platforms shuffle the answers


def test_the_cover_shows_the_study_as_chapter_8_does() -> None:
    answer = nbformat.read(files.project_root() / "book" / "08_do_they_help.ipynb", as_version=4)
    picture = files.project_root() / "book" / "_static" / "answer.svg"
    assert read(picture) == publishing.cover(answer)
