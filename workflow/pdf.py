"""Print the built book into one PDF, with the Chromium that is installed.

    python workflow/pdf.py      # after `synthseg book --published`: _build/html/book.pdf

The articles of all pages become one, so that links between pages lead to places in the file.
Folded code and the interactive pages are left out; answers and solutions are open. Each page of
the built book then offers the file in its download menu.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath

from bs4 import BeautifulSoup, Tag

from synthseg.project import project_root, show_path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
STYLE = """
@page { size: A4; margin: 18mm 17mm 20mm; @bottom-center { content: counter(page); } }
html { font-size: 9.5pt; }
body { background: #fff; color: #000; }
/* Shadows would turn what casts them into pictures. */
html[data-theme] .bd-content *,
html[data-theme] .bd-content ::before,
html[data-theme] .bd-content ::after { box-shadow: none !important; }
article { break-before: page; }
article:first-of-type { break-before: auto; }
h1 { margin-top: 0; }
h1, h2, h3, h4, dt, .admonition-title, caption { break-after: avoid; }
figure, img, tr, mjx-container, .sd-card, .cell_input { break-inside: avoid; }
img { max-width: 100%; max-height: 225mm; object-fit: contain; }
p, li, dd { orphans: 3; widows: 3; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7.5pt; }
code { overflow-wrap: anywhere; }
table { width: auto; font-size: 8.5pt; }
.results-table { font-size: 6.5pt; }
.table-wrapper, .output, .cell_output, .text_html, .math, pre { overflow: visible; }
.math { break-inside: avoid; }
a { color: inherit; text-decoration: none; }
a.external { text-decoration: underline; }
"""
OFFER = (
    '<li><a href="{}book.pdf" class="btn btn-sm dropdown-item"><span class="btn__icon-container">'
    '<i class="fas fa-file-pdf"></i></span><span class="btn__text-container">whole book</span>'
    "</a></li>"
)


def pages(html: Path) -> list[str]:
    """Pages of a built book, in the order of its table of contents."""
    first = BeautifulSoup((html / "intro.html").read_text(encoding="utf-8"), "html.parser")
    listed = [str(link["href"]) for link in first.select("nav.bd-links a.reference.internal")]
    return ["intro.html", *(page for page in listed if page != "#")]


def article(html: Path, page: str) -> Tag | None:
    """What a page says, unfolded but for its code; None if it is interactive."""
    soup = BeautifulSoup((html / page).read_text(encoding="utf-8"), "html.parser")
    body = soup.select_one("article")
    if body is None or body.select_one(".live"):
        return None
    for extra in body.select("script, noscript, .headerlink, .hide .cell_input, .hide > summary"):
        extra.decompose()
    for wrapped in body.select("details.hide, a.image-reference"):
        wrapped.unwrap()
    for folded in body.select("details"):
        folded["open"] = ""
    return body


def join(bodies: dict[str, Tag]) -> None:
    """Rename what is named, and link it, so that both hold in one file."""
    for page, body in bodies.items():
        folder = PurePosixPath(page).parent
        for picture in body.select("img"):
            picture["src"] = normpath(str(folder / str(picture["src"])))
        for named in body.select("[id]"):
            named["id"] = f"{page}--{named['id']}"
        body["id"] = page
        for link in body.select("a[href]"):
            target, _, name = str(link["href"]).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            there = normpath(str(folder / target)) if target else page
            if there in bodies:
                link["href"] = f"#{there}--{name}" if name else f"#{there}"
            else:
                del link["href"]


def one_page(html: Path) -> str:
    """The book as one page, to be printed."""
    bodies = {page: body for page in pages(html) if (body := article(html, page))}
    join(bodies)
    head = BeautifulSoup((html / "intro.html").read_text(encoding="utf-8"), "html.parser").head
    assert head is not None
    kept = [str(link) for link in head.select("link[rel=stylesheet]")]
    kept += [str(script) for script in head.select("script") if "mathjax" in str(script).lower()]
    kept += [str(head.title), f"<style>{STYLE}</style>"]
    return (
        '<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8">{"".join(kept)}</head><body><div class="bd-content">'
        f'<div class="bd-article-container">{"".join(map(str, bodies.values()))}</div></div>'
        "</body></html>"
    )


def offer(html: Path) -> None:
    """Put the file into the download menus."""
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        up = "../" * (len(path.relative_to(html).parts) - 1)
        menu = (
            r'(dropdown-download-buttons">.*?<ul class="dropdown-menu">)(?!<li><a href="[./]*book)'
        )
        path.write_text(re.sub(menu, rf"\1{OFFER.format(up)}", text, flags=re.DOTALL), "utf-8")


def main() -> str | None:
    """Print the book; what went wrong, if anything did."""
    html = project_root() / "_build" / "html"
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        return "Printing the book needs Chromium or Chrome: neither was found."
    if not (html / "intro.html").is_file():
        return "There is no built book: make it by  synthseg book --published"
    source, pdf = html / "print.html", html / "book.pdf"
    source.write_text(one_page(html), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--generate-pdf-document-outline", "--virtual-time-budget=60000"]
    command += [f"--print-to-pdf={pdf}", source.as_uri()]
    pdf.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    if not pdf.is_file():
        return f"{browser} printed nothing: {done.stderr[-1000:]}"
    offer(html)
    print(f"{show_path(pdf)} has {pdf.stat().st_size / 1e6:.1f} MB.")
    return None


if __name__ == "__main__":
    sys.exit(main())
