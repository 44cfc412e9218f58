"""Every page of the table of contents: it is whole, legible, and open to every reader.

A page is loaded once for all of its tests, which therefore keep to their order, and to one
process (``--dist loadgroup``).
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from synthseg.project import project_root

TOC = yaml.safe_load((project_root() / "book" / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [TOC["root"]]
for chapter in CHAPTERS:
    PAGES += [entry["file"] for entry in [chapter, *chapter.get("sections", [])]]

# What lies outside of code and set formulas and looks like the source of a formula.
RAW_FORMULAS = r"""() => {
    const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    const raw = [];
    while (texts.nextNode()) {
        const { data, parentElement } = texts.currentNode;
        if (parentElement.closest("pre, code, script, style, mjx-container")) continue;
        if (/\\[([]|\$[^$]+\$/.test(data)) raw.push(data);
    }
    return raw;
}"""

# Pictures of pixels that are broken, or have fewer pixels than `enough` of those that they cover.
BLURRED = """async (enough) => {
    const blurred = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => blurred.push(`broken: ${image.src}`));
        const [has, shown] = [image.naturalWidth, image.getBoundingClientRect().width];
        if (!image.src.endsWith(".svg") && has < enough * shown) {
            blurred.push(`${has} of ${shown}: ${image.src}`);
        }
    }
    return blurred;
}"""

# Axe takes long for the thousands of coloured words of a chapter: one of each kind is enough.
# Formulas have the colour of the text around them.
THIN_OUT = """() => {
    const seen = new Set();
    for (const word of document.querySelectorAll("pre span")) {
        const kind = word.closest("pre").parentElement.parentElement.className + word.className;
        if (seen.has(kind)) word.replaceWith(...word.childNodes);
        seen.add(kind);
    }
    for (const formula of document.querySelectorAll("mjx-container")) formula.replaceChildren();
}"""

# Texts that differ in their classes or styles, or in those of what they are in: all that can
# differ in colours.
LOOKS = """() => {
    const looks = new Map();
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].filter(({ nodeType }) => nodeType === Node.TEXT_NODE);
        if (!element.checkVisibility() || !own.some(({ data }) => data.trim())) continue;
        let look = "";
        for (let outer = element; outer; outer = outer.parentElement) {
            look += [outer.tagName, outer.getAttribute("class"), outer.getAttribute("style")];
        }
        if (!looks.has(look)) looks.set(look, element);
    }
    window.looks = [...looks.values()];
}"""

# Violations that hinder readers much: each rule's name, how many times, and the first place.
VIOLATIONS = """async ([context, options]) => {
    const place = context === "looks" ? { include: looks } : document;
    const { violations } = await axe.run(place, { resultTypes: ["violations"], ...options });
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(
        ({ id, nodes }) => [id, nodes.length, nodes[0].html, nodes[0].failureSummary]);
}"""
STANDARD = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "rules": {"color-contrast": {"enabled": False}},
}
CONTRAST = {"runOnly": ["color-contrast"]}

# The theme does this a moment after the page has changed.
SCROLLING_CODE_IS_REACHABLE = """() => [...document.querySelectorAll("pre")].every(
    (pre) => pre.tabIndex === 0 || pre.scrollWidth <= pre.clientWidth)"""

# What the Tab key must reach. Of a group of radio buttons, it reaches the chosen one.
REACHABLE = """() => {
    const all = document.querySelectorAll("a[href], button, input, select, summary, [tabindex]");
    window.expected = [...all].filter((element) => element.tabIndex >= 0 && !element.disabled
        && element.checkVisibility({ visibilityProperty: true })
        && (element.type !== "radio" || element.checked));
    window.reached = [];
    document.addEventListener("focusin", ({ target }) => reached.push(target));
    document.activeElement.blur();
}"""


GROUPED = [
    pytest.param(name, marks=pytest.mark.xdist_group(name))
    for name in [*PAGES, "genindex", "search"]
]


@pytest.fixture(scope="module", params=GROUPED)
def opened(request: pytest.FixtureRequest, new_page: Any, book: Path) -> Iterator[SimpleNamespace]:
    """A page of the book as on a desk, when its formulas are set."""
    page, complaints = new_page()
    page.goto((book / f"{request.param}.html").as_uri())
    page.evaluate("window.MathJax?.startup.promise")
    yield SimpleNamespace(name=request.param, page=page, complaints=complaints)
    page.close()


def test_nothing_is_missing_or_from_elsewhere(opened: SimpleNamespace) -> None:
    assert opened.complaints == []


def solutions_of(name: str) -> int:
    """How many solutions the source of a page has."""
    notebook = project_root() / "book" / f"{name}.ipynb"
    source = notebook.read_text(encoding="utf-8") if notebook.is_file() else ""
    return source.count("{solution}") + source.count("{solution-start}")


def test_solutions_unfold(opened: SimpleNamespace) -> None:
    solutions = opened.page.locator(".solution")
    texts = solutions.locator("#solution-content")
    buttons = solutions.get_by_role("button", name="Toggle hidden content")
    assert solutions.count() == texts.count() == buttons.count() == solutions_of(opened.name)
    for number in range(buttons.count()):
        button, text = buttons.nth(number), texts.nth(number)
        assert not text.is_visible()
        if number < 2:
            button.press(["Enter", "Space"][number])
        else:
            button.click()
        text.wait_for()
    opened.page.wait_for_function(SCROLLING_CODE_IS_REACHABLE)
    if solutions.count():
        buttons.last.click()
        texts.last.wait_for(state="hidden")


def test_formulas_are_set(opened: SimpleNamespace) -> None:
    formulas = opened.page.locator(".math")
    assert formulas.count() == opened.page.locator(".math mjx-container").count()
    assert opened.page.locator("mjx-merror").count() == 0
    assert opened.page.evaluate(RAW_FORMULAS) == []


def test_headings_are_in_order(opened: SimpleNamespace) -> None:
    names = opened.page.evaluate(
        """[...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
            .filter((heading) => heading.checkVisibility()).map(({ tagName }) => tagName)"""
    )
    levels = [int(name[1]) for name in names]
    assert levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in zip([0, *levels], levels, strict=False))


def test_pictures_are_sharp_and_pages_fit(opened: SimpleNamespace) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
    assert page.evaluate(BLURRED, 1) == []  # none is enlarged
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(BLURRED, 1.5) == []  # phones have two or three pixels to one of the page
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    page.set_viewport_size({"width": 1280, "height": 720})
    assert wide <= 0


def test_axe_finds_nothing_serious(opened: SimpleNamespace) -> None:
    axe = pytest.importorskip("axe_playwright_python.base")
    page = opened.page
    page.evaluate(THIN_OUT)
    page.wait_for_function(SCROLLING_CODE_IS_REACHABLE)
    page.evaluate(axe.AXE_SCRIPT)
    assert page.evaluate(VIOLATIONS, ["page", STANDARD]) == []
    page.evaluate(LOOKS)
    page.add_style_tag(content="* { transition: none !important; }")  # else colours in between
    for scheme in ("light", "dark"):
        page.evaluate("scheme => (document.documentElement.dataset.theme = scheme)", scheme)
        assert (scheme, page.evaluate(VIOLATIONS, ["looks", CONTRAST])) == (scheme, [])


@pytest.mark.parametrize("name", [PAGES[0], PAGES[1], PAGES[2], "paint_mitochondria"])
def test_the_keyboard_reaches_everything(page: Any, book: Path, name: str) -> None:
    page.goto((book / f"{name}.html").as_uri())
    page.evaluate("window.MathJax?.startup.promise")
    page.evaluate(REACHABLE)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to main content"
    for _ in range(page.evaluate("expected.length")):
        page.keyboard.press("Tab")
    missed = "expected.filter((element) => !reached.includes(element)).map((it) => it.outerHTML)"
    assert page.evaluate(missed) == []


def test_the_contents_open_by_keyboard_on_a_phone(page: Any, book: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((book / f"{PAGES[1]}.html").as_uri())
    link = page.locator(".bd-sidebar-primary").get_by_role("link", name="Glossary")
    assert not link.is_visible()
    page.locator("button.primary-toggle").press("Enter")
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html")


def test_search_finds_dice(page: Any, book: Path) -> None:
    page.goto((book / f"{PAGES[0]}.html").as_uri())
    page.get_by_role("button", name="Search").first.click()
    field = page.get_by_role("searchbox")
    field.fill("Dice")
    field.press("Enter")
    found = page.locator("#search-results a[href^='03_baseline_segmentation']").first
    found.wait_for()
    found.click()
    page.wait_for_url("**/03_baseline_segmentation.html**")
