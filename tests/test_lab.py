"""What JupyterLab doesn't know stands in the executed notebooks: numbers and captions."""

import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from lab import readable


def recorded(**numbers):
    """The outputs that recording these numbers leaves in a notebook."""
    prefix = "application/papermill.record/"
    return [
        new_output(
            "display_data",
            {f"{prefix}text/plain": repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
        )
        for name, value in numbers.items()
    ]


def text_after(source, **numbers):
    cells = [new_markdown_cell(source), new_code_cell("run.record()", outputs=recorded(**numbers))]
    return readable(new_notebook(cells=cells), "../book/").cells[0].source


def test_recorded_numbers_stand_in_the_text():
    source = "{glue:text}`dice:.3f` after {glue:text}`steps` steps, {glue:text}`verdict:s`, x"
    assert text_after(source, dice=0.87361, steps=250, verdict="not shown") == (
        "0.874 after 250 steps, not shown, x"
    )
    assert text_after("{glue:text}`a:.1f`", a=float("nan")) == "nan"
    assert text_after("{glue:text}`a:.1f`", a=float("-inf")) == "-inf"


def test_numbers_from_elsewhere_are_named_and_never_guessed():
    assert text_after("{glue:text}`08_other.ipynb::dice:.3f`", dice=0.5) == "*(see 08_other)*"
    assert text_after("{glue:text}`dice:.3f`") == "*(see dice)*"


def test_captions_stand_below_their_figures():
    described = {"figure": {"name": "fig-a", "caption": "A curve."}, "image": {"alt": "A curve"}}
    cells = [
        new_markdown_cell("In {numref}`fig-a`."),
        new_code_cell("figure", metadata={"mystnb": described}),
        new_code_cell("run.finish()"),
    ]
    shown = readable(new_notebook(cells=cells))
    nbformat.validate(shown)
    assert [cell.source for cell in shown.cells] == [
        "In **fig-a**.",
        "figure",
        "**fig-a**: A curve.",
        "run.finish()",
    ]


def test_diagrams_are_found_and_what_only_pages_have_is_left_out():
    source = (
        "A\n\n```{include} ../results/times.md\n:start-after: x\n```\n:::{figure} _diagrams/a.svg\n"
    )
    assert text_after(source) == "A\n\n:::{figure} ../book/_diagrams/a.svg\n"
