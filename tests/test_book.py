"""The published book: it builds without a warning, needs no network, and agrees with its cards."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from synthseg import project as files
from synthseg import publishing


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


@pytest.fixture(scope="module")
def html() -> Path:
    return publishing.build_published().parent  # raises if Sphinx warns


def test_published_notebooks_are_what_was_executed() -> None:
    checked = publishing.check()
    assert list(checked) == list(files.CHAPTERS.values())
    assert {name: problems for name, (_, problems) in checked.items() if problems} == {}


def test_published_notebooks_stay_small() -> None:
    sizes = [files.chapter_path(chapter).stat().st_size for chapter in files.CHAPTERS]
    assert sum(sizes) < 7e6  # bytes; pictures in full colour would take three times as many


def test_pages_need_no_network(html: Path) -> None:
    pages = sorted([*html.glob("*.html"), *html.glob("exercises/*.html")])
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
