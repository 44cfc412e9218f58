"""Sphinx extension: what teachers take away, made from the book whenever it is built.

``slides/CHAPTER.html``
    a deck a chapter, cut from its built page, where terms, numbers and captions are in place;
``figures.zip``
    every figure under the name of its caption, as PNG and, where there is one, as SVG;
``notebooks.zip``
    chapters and exercises to read in JupyterLab, and the exercises without their solutions;
``quiz.gift``
    the question bank in the GIFT format, which learning platforms such as Moodle import.
"""

import base64
import csv
import io
import re
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import nbformat
from bs4 import BeautifulSoup, SoupStrainer, Tag
from lab import readable
from sphinx.application import Sphinx

from synthseg.exercises import for_students

CREDIT = (
    "Text and figures: CC BY-SA 4.0, from 'Synthetic images for segmentation', which adapts\n"
    "M. Girardot, 'Medical Synthetic Images' (2022, CC BY-SA 4.0). Code: MIT.\n"
)
DECK = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides: {title}</title>
<link rel="stylesheet" href="../_static/pygments.css">
<link rel="stylesheet" href="slides.css">
<script defer src="../_static/mathjax/tex-chtml.js"></script>
<script defer src="slides.js"></script>
</head>
<body>
<main>
{slides}
</main>
</body>
</html>
"""
SLIDE = """<section class="slide">
<{level}>{title}</{level}>
<div class="content">
{content}
</div>
<footer><a href="../{page}.html#{anchor}">{chapter}</a><span>{number} / {count}</span></footer>
</section>"""
AS_IT_STANDS = ("What was found", "What to remember", "What is next")
ROWS = 13
"""As many rows of a table can be read on a slide; longer ones go on on the next."""


# Slides -----------------------------------------------------------------------------------------

Card = tuple[str, str, list[Tag]]
"""Title of a slide, the anchor of its section in the page, and what it shows."""


def write_deck(page: Path) -> None:
    """Write the slides of a built page into ``slides/`` beside it."""
    article = SoupStrainer("article")  # the rest of a page takes as long to parse
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser", parse_only=article)
    for tag in soup.select("article .headerlink, article .section-number"):
        tag.decompose()
    chapter = soup.select_one("article > section")
    assert chapter is not None, f"{page.name} has no text"
    question = chapter.select("p:not(.admonition-title)", limit=1)
    shown = [(heading(chapter), str(chapter["id"]), question), *cards(chapter)]
    slides = []
    for number, (title, anchor, content) in enumerate(shown, 1):
        for tag in content:
            tidy(tag)
        slides.append(
            SLIDE.format(
                level="h1" if number == 1 else "h2",
                title=title,
                content="\n".join(map(str, content)),
                page=page.stem,
                anchor=anchor,
                chapter=heading(chapter),
                number=number,
                count=len(shown),
            )
        )
    deck = DECK.format(title=heading(chapter), slides="\n".join(slides))
    folder = page.parent / "slides"
    folder.mkdir(exist_ok=True)
    (folder / page.name).write_text(deck, encoding="utf-8")


def heading(section: Tag) -> str:
    """The heading of a section, or of a box."""
    found = section.select_one("h1, h2, h3, .admonition-title")
    return found.get_text() if found else ""


def parts(section: Tag) -> list[Tag]:
    """The elements that a section consists of."""
    return [part for part in section.children if isinstance(part, Tag)]


def cards(section: Tag) -> Iterator[Card]:
    """The slides of a section: its figures, tables, formulas, lists and tagged code."""
    title, anchor = heading(section), str(section["id"])
    if title in AS_IT_STANDS:
        tables = section.select(":scope > .pst-scrollable-table-container")
        yield title, anchor, [p for p in parts(section) if p.name in ("p", "ul") or p in tables]
        return
    if title == "Quiz":
        yield from questions(section)
        return
    lead: list[Tag] = []  # the paragraph before a formula
    for part in parts(section):
        classes = part.get("class") or []
        if part.name == "section":
            yield from cards(part)
        elif part.name == "p":
            lead = [part]
        elif "math" in classes:
            after = part.find_next_sibling()
            goes_on = isinstance(after, Tag) and after.name == "p" and after.text[:1].islower()
            yield title, anchor, [*lead, part, *([after] if goes_on else [])]
        elif part.name in ("figure", "dl"):
            yield title, anchor, [part]
        elif "admonition" in classes and heading(part) == "You will be able to":
            yield heading(part), anchor, part.find_all("ul")
        elif "cell" in classes:
            chosen = ".cell_output figure, .cell_output .synthseg-table"
            if "tag_slide" in classes:  # the source that the cell shows, or else its own
                shows = part.select(".cell_output .highlight")
                chosen += f", .cell_{'output' if shows else 'input'} .highlight"
            for shown in part.select(chosen):
                if shown.find("caption", string="Parameters") is None:  # those are for the page
                    yield from ((title, anchor, [piece]) for piece in pieces(shown))


def pieces(shown: Tag) -> Iterator[Tag]:
    """What is shown, in pieces of equal length if it is a long table, each with its head."""
    rows = len(shown.select("tbody tr"))
    slides = max(1, -(-rows // ROWS))
    for slide in range(slides):
        piece = copy(shown)
        for number, row in enumerate(piece.select("tbody tr")):
            if number * slides // rows != slide:
                row.decompose()
        yield piece


def questions(section: Tag) -> Iterator[Card]:
    """A slide for each question of a quiz, with its answer folded."""
    asked: list[Tag] = []
    for part in parts(section):
        if part.name == "p" and re.match(r"\d+\.", part.text):
            asked = [part]
        elif asked:
            asked.append(part)
            if part.name == "details":
                yield heading(section), str(section["id"]), asked
                asked = []


def tidy(tag: Tag) -> None:
    """Make a piece of a page fit to stand in a deck, one folder further down."""
    for inner in [tag, *tag.find_all(True)]:
        inner.attrs.pop("id", None)
        if inner.name == "img":
            inner["src"] = f"../{inner['src']}"
            inner.attrs.pop("style", None)
    for link in tag.find_all("a"):
        link.unwrap()
    for button in tag.select("button, svg, .sd-summary-state-marker"):
        button.decompose()


# Archives ---------------------------------------------------------------------------------------


def notebooks(book: Path) -> list[Path]:
    """The book's notebooks: chapters, then exercises."""
    return sorted(book.glob("*.ipynb")) + sorted((book / "exercises").glob("*.ipynb"))


def write_figures(book: Path, archive: Path) -> None:
    """Write all figures into an archive, with a table of their captions."""
    rows = [("figure", "notebook", "caption", "alternative text")]
    with ZipFile(archive, "w", ZIP_DEFLATED) as pack:
        for path in notebooks(book):
            for cell in nbformat.read(path, as_version=4).cells:
                described = cell.metadata.get("mystnb", {})
                for output in cell.get("outputs", []) if "figure" in described else []:
                    name, data = described["figure"]["name"], output.get("data", {})
                    if "image/png" in data:
                        pack.writestr(f"{name}.png", base64.b64decode(data["image/png"]))
                    if "image/svg+xml" in data:
                        pack.writestr(f"{name}.svg", data["image/svg+xml"])
                    about = described["figure"]["caption"], described["image"]["alt"]
                    rows.append((name, path.stem, *about))
        for path in sorted((book / "_diagrams").glob("*.svg")):
            pack.write(path, f"diagrams/{path.name}")
        table = io.StringIO()
        csv.writer(table).writerows(rows)
        pack.writestr("captions.csv", "\ufeff" + table.getvalue())  # the mark is for Excel
        pack.writestr("LICENCE.txt", CREDIT)


def write_notebooks(book: Path, archive: Path) -> None:
    """Write all notebooks into an archive, the exercises also without their solutions."""
    with ZipFile(archive, "w", ZIP_DEFLATED) as pack:
        for path in sorted((book / "_diagrams").glob("*.svg")):
            pack.write(path, path.relative_to(book))
        for path in notebooks(book):
            notebook = readable(nbformat.read(path, as_version=4))
            pack.writestr(str(path.relative_to(book)), nbformat.writes(notebook))
        for path in sorted((book / "exercises").glob("*.ipynb")):
            student = for_students(nbformat.read(path, as_version=4))
            pack.writestr(f"exercises_for_students/{path.name}", nbformat.writes(student))
        pack.writestr("LICENCE.txt", CREDIT)


# Questions --------------------------------------------------------------------------------------

QUESTION = re.compile(
    r"^\*\*(?P<name>\d\.\d+)\*\* \*\(\w+\)\* (?P<text>.*)\n\n"
    r"(?P<options>(?:- .*\n)*)\n?"
    r":::\{dropdown\}.*\n(?P<answer>.*)\n:::$",
    re.MULTILINE,
)


def gift(bank: str) -> str:
    """The questions of the bank's page in the GIFT format; platforms shuffle, so no letters."""

    def plain(text: str) -> str:
        text = re.sub(r"\{\w+\}`([^`<]*?)(?: <[^>]*>)?`", r"\1", " ".join(text.split()))
        text = re.sub(r"\$([^$]*)\$", r"\\\\(\1\\\\)", text)  # MathJax, as platforms have it
        return re.sub(r"([~=#{}:])", r"\\\1", text)

    entries = []
    for match in QUESTION.finditer(bank):
        letter_and_reason = re.match(r"\((\w)\)\. (.*)", match["answer"])
        right, reason = letter_and_reason.groups() if letter_and_reason else ("", match["answer"])
        options = re.findall(r"- \((\w)\) (.*)", match["options"])
        chosen = [f"{'=' if letter == right else '~'}{plain(text)}" for letter, text in options]
        answer = "\n".join([*chosen, f"####{plain(reason)}"])
        entries.append(f"::{match['name']}::[markdown]{plain(match['text'])} {{\n{answer}\n}}\n")
    return "\n".join(entries)


# Sphinx -----------------------------------------------------------------------------------------


def write(app: Sphinx, error: Exception | None) -> None:
    """Write all of it into the built book."""
    if error or app.builder.name != "html":
        return
    book, built = Path(app.srcdir), Path(app.outdir)
    for other in (built / "_static" / "mathjax").glob("*.js"):
        if other.name != "tex-chtml.js":  # the one that pages load; the rest is a quarter of it all
            other.unlink()
    for path in sorted(book.glob("*.ipynb")):
        write_deck(built / f"{path.stem}.html")
    write_figures(book, built / "figures.zip")
    write_notebooks(book, built / "notebooks.zip")
    bank = (book / "quiz_bank.md").read_text(encoding="utf-8")
    (built / "quiz.gift").write_text(gift(bank), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
