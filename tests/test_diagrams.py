"""The diagrams show the networks as they are, and can be read on a phone."""

import re
from dataclasses import replace

import pytest

from diagrams import networks
from diagrams.__main__ import DRAWINGS
from diagrams.canvas import WIDTH
from synthseg.gan import GANSettings
from synthseg.project import project_root

BOOK = project_root() / "book"


def committed(name: str) -> str:
    return (BOOK / "_diagrams" / f"{name}.svg").read_text(encoding="utf-8")


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("name", DRAWINGS)
def test_diagram_is_what_the_models_and_arms_of_today_give(name: str) -> None:
    assert committed(name) == str(DRAWINGS[name]()), "draw them anew: python -m diagrams"


def test_receptive_fields_in_the_diagram_are_those_of_the_formula() -> None:
    # Kernels of 4 with strides 2, 2, 2, 1, 1: 1 + 3 (1), + 3 (2), + 3 (4), + 3 (8) twice.
    fields = [text for text in words(committed("patchgan")) if re.fullmatch(r"\d+ px", text)]
    assert fields == ["4 px", "10 px", "22 px", "46 px", "70 px"]


def test_sides_and_channels_of_the_generator_are_drawn() -> None:
    shown = words(committed("unet"))
    assert [text for text in shown if "×" in text] == [
        f"{side} × {side}" for side in (128, 64, 32, 16, 8, 4, 2, 1)
    ]
    # Filters double from 32 up to eightfold; each join has those of its level twice.
    assert {"32", "64", "128", "256"} <= set(shown)
    assert {"32 + 32", "64 + 64", "128 + 128", "256 + 256"} <= set(shown)


def test_another_network_is_drawn_with_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(networks.published(2, GANSettings), size=64, width=8, receptive_field=34)
    monkeypatch.setattr(networks, "published", lambda chapter, kind: other)
    assert "64 × 64" in words(str(networks.unet()))
    assert "128 × 128" not in words(str(networks.unet()))
    assert "34 px" in words(str(networks.patchgan()))


@pytest.mark.parametrize("name", DRAWINGS)
def test_diagram_can_be_read_on_a_phone_and_stays_on_its_sheet(name: str) -> None:
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", committed(name)):
        values = dict(re.findall(r'([\w-]+)="([^"]*)"', attributes))
        size, x = float(values["font-size"]), float(values["x"])
        assert size >= 12  # a page is about as wide there as the sheet is here
        length = 0.5 * size * len(text)  # a letter is half as wide as high, roughly
        share = {"start": 0, "middle": 0.5, "end": 1}[values["text-anchor"]]
        assert x - share * length >= -4, text
        assert x + (1 - share) * length <= WIDTH + 4, text


@pytest.mark.parametrize("name", DRAWINGS)
def test_diagram_stands_on_a_page(name: str) -> None:
    pages = [*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")]
    assert any(f"_diagrams/{name}.svg" in page.read_text(encoding="utf-8") for page in pages)
