"""The interactive pages, in Chromium, opened from the folder of the built book."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow"))

from export import PAGES

RUN = Path(__file__).parents[2] / "book" / PAGES
pytestmark = pytest.mark.skipif(
    not RUN.is_dir(), reason="needs the export of a run: workflow/export.py"
)
DATA = "canvas => canvas.toDataURL()"


def open_page(page: Any, book: Path, name: str) -> None:
    page.goto((book / f"{name}.html").as_uri())
    page.wait_for_function("document.getElementById('live-made').textContent.length > 0")


def painted(page: Any, before: str = "") -> str:
    """The generator's image, once there is one that differs from an earlier one."""
    page.wait_for_function(
        """before => {
            const canvas = document.getElementById("image");
            const blank = document.createElement("canvas");
            [blank.width, blank.height] = [canvas.width, canvas.height];
            return ![before, blank.toDataURL()].includes(canvas.toDataURL());
        }""",
        arg=before,
    )
    return page.locator("#image").evaluate(DATA)


def draw(page: Any) -> None:
    """A stroke through the middle of the mask."""
    page.locator("#drawing").scroll_into_view_if_needed()
    box = page.locator("#drawing").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], middle, steps=5)
    page.mouse.up()


def test_a_stroke_becomes_an_image_that_is_segmented_again(page: Any, book: Path) -> None:
    open_page(page, book, "paint_mitochondria")
    page.locator("#clear").click()
    empty = painted(page, before=painted(page))
    page.locator("#size").fill("24")
    draw(page)
    painted(page, before=empty)
    # Without a drawn pixel Dice is 0 or undefined; a stroke is found again at least in part.
    page.wait_for_function("parseFloat(document.getElementById('dice').textContent) > 0.3")


def test_undo_brings_the_mask_back(page: Any, book: Path) -> None:
    open_page(page, book, "paint_mitochondria")
    mask = page.locator("#drawing")
    first = mask.evaluate(DATA)
    draw(page)
    assert mask.evaluate(DATA) != first
    page.locator("#undo").click()
    assert mask.evaluate(DATA) == first


def test_the_keyboard_draws(page: Any, book: Path) -> None:
    open_page(page, book, "paint_mitochondria")
    page.locator("#clear").click()
    page.locator("#drawing").focus()
    for key in ("ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    page.locator("#undo").focus()  # the mark of the brush is gone
    white = page.locator("#drawing").evaluate(
        """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
            .data.filter((value, i) => i % 4 === 0 && value === 255).length"""
    )
    assert white == pytest.approx(3.14 * 7**2, rel=0.1)  # a brush of 14 pixels


def test_new_noise_changes_the_image_and_not_the_mask(page: Any, book: Path) -> None:
    open_page(page, book, "paint_mitochondria")
    image, mask = painted(page), page.locator("#drawing").evaluate(DATA)
    page.locator("#noise").click()
    painted(page, before=image)
    assert page.locator("#drawing").evaluate(DATA) == mask


def test_a_real_mask_comes_with_its_micrograph_and_a_verdict(page: Any, book: Path) -> None:
    open_page(page, book, "paint_mitochondria")
    page.locator("#judge").check()
    page.locator("#real").click()
    page.wait_for_function("!document.getElementById('real-panel').hidden")
    page.wait_for_function("document.getElementById('verdict').textContent.includes('0.')")
    draw(page)
    page.wait_for_function("document.getElementById('real-panel').hidden")


def test_the_slider_moves_through_the_training_run(page: Any, book: Path) -> None:
    open_page(page, book, "watch_the_gan")
    page.wait_for_function("document.getElementById('step').textContent.length > 0")
    first, step = page.locator("#grid").screenshot(), page.locator("#step").inner_text()
    page.locator("#moment").press("End")
    assert page.locator("#step").inner_text() != step
    last = page.locator("#grid").screenshot()
    assert last != first
    page.locator("#judge").check()
    assert page.locator("#grid").screenshot() != last
    assert page.locator("#curves svg").count() >= 1


def test_the_game_ends_with_a_score_and_reasons(page: Any, book: Path) -> None:
    open_page(page, book, "spot_the_fake")
    page.wait_for_function("document.getElementById('progress').textContent.startsWith('Crop 1 ')")
    page.locator("#says-real").focus()
    for _ in range(10):
        page.keyboard.press("r")
    for _ in range(10):
        page.locator("#says-fake").click()
    assert "You were right about" in page.locator("#score").inner_text()
    answers = page.locator("#answers li")
    assert answers.count() == 20
    right = page.locator("#answers .right").count()
    assert f"You were right about {right} of 20" in page.locator("#score").inner_text()
    page.locator("#again").click()
    assert page.locator("#progress").inner_text() == "Crop 1 of 20"


@pytest.mark.parametrize("name", ["paint_mitochondria", "watch_the_gan", "spot_the_fake"])
def test_the_pages_fit_on_a_phone(page: Any, book: Path, name: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, book, name)
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    runs = page.locator("#live-made a")
    assert runs.count() == 2
    for link in runs.all():
        card = (book / link.get_attribute("href")).read_text(encoding="utf-8")
        assert '"finished"' in card


def test_networks_are_loaded_on_the_page_that_needs_them(page: Any, book: Path) -> None:
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    for name in ("intro", "watch_the_gan", "spot_the_fake"):
        page.goto((book / f"{name}.html").as_uri())
    assert not [url for url in loaded if url.endswith("networks.js")]
    files = [path.stat().st_size for path in (book / "live").rglob("*") if path.is_file()]
    assert sum(files) < 25e6
