"""The book as one page, to be printed: links stay inside, folded code goes, answers stay."""

import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import pdf

MENU = '<div class="dropdown-download-buttons"><ul class="dropdown-menu"><li>x</li></ul></div>'
INTRO = f"""<html><head><title>A book</title><link rel="stylesheet" href="a.css"></head><body>
<nav class="bd-links"><a class="reference internal" href="#">Start</a>
<a class="reference internal" href="exercises/one.html">One</a>
<a class="reference internal" href="play.html">Play</a></nav>{MENU}
<article><h1 id="top">Start</h1><a href="exercises/one.html#try">try</a>
<a href="play.html">play</a>
<a href="https://example.org/">out</a></article></body></html>"""
ONE = """<html><body><article><h1 id="top">One</h1><a href="../intro.html">back</a>
<details class="hide"><summary>Show</summary><div class="cell_input">folded</div></details>
<details><summary>Answer</summary><p id="try">because</p></details>
<a class="image-reference" href="../_images/p.png"><img src="../_images/p.png"></a>
</article></body></html>"""


@pytest.fixture
def html(tmp_path: Path) -> Path:
    (tmp_path / "exercises").mkdir()
    (tmp_path / "intro.html").write_text(INTRO)
    (tmp_path / "exercises" / "one.html").write_text(ONE)
    (tmp_path / "play.html").write_text('<article><div class="live">buttons</div></article>')
    return tmp_path


def test_pages_become_one_with_links_inside(html: Path) -> None:
    page = BeautifulSoup(pdf.one_page(html), "html.parser")
    assert [body["id"] for body in page.select("article")] == ["intro.html", "exercises/one.html"]
    names = [str(named["id"]) for named in page.select("[id]")]
    assert len(names) == len(set(names))
    links = {link.text: link.get("href") for link in page.select("article a")}
    assert links.pop("play") is None  # an interactive page, which is not printed
    assert links.pop("out") == "https://example.org/"
    assert {str(link).removeprefix("#") for link in links.values()} <= set(names)
    assert page.select_one("img")["src"] == "_images/p.png"
    assert page.select_one("link")["href"] == "a.css"


def test_folded_code_is_left_out_and_answers_are_open(html: Path) -> None:
    page = BeautifulSoup(pdf.one_page(html), "html.parser")
    assert "folded" not in page.text
    assert [folded.text for folded in page.select("details[open]")] == ["Answerbecause"]


def test_each_page_offers_the_file_once(html: Path) -> None:
    pdf.offer(html)
    pdf.offer(html)
    assert (html / "intro.html").read_text().count('href="book.pdf"') == 1
