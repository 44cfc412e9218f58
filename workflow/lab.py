"""Executed notebooks, for reading in JupyterLab.

There jupyterlab-myst renders the book's text, but knows neither recorded numbers nor captions,
which come into a page when the book is built. Copies of executed notebooks get them from their own
outputs; the book's notebooks stay as they are.
"""

import ast
import re
from typing import Any

import nbformat

_NUMBER = re.compile(r"\{glue:text\}`(?:(\w+)\.ipynb::)?(\w+)(?::([^`]*))?`")
_FIGURE = re.compile(r"\{numref\}`([\w-]+)`")
# What only the book has: the times of its runs, notes for its pages, its references.
_BOOK_ONLY = re.compile(r"^```\{(?:include|bibliography)\}.*?^```\n?", re.MULTILINE | re.DOTALL)


def readable(notebook: nbformat.NotebookNode, book: str = "") -> nbformat.NotebookNode:
    """Put recorded numbers into the text, and captions below the figures, under their names.

    `book` leads from the notebook's folder to that of the book, with a slash at its end. Numbers
    of other notebooks are left to these. Changes the notebook, and returns it.
    """
    numbers, cells = _recorded(notebook), []

    def number(match: re.Match[str]) -> str:
        page, name, form = match.groups()
        if page or name not in numbers:
            return f"*(see {page or name})*"
        return format(numbers[name], form or "")

    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            text = _BOOK_ONLY.sub("", _NUMBER.sub(number, cell.source))
            text = _FIGURE.sub(r"**\1**", text)
            cell.source = text.replace("{figure} _diagrams/", f"{{figure}} {book}_diagrams/")
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            caption = f"**{figure['name']}**: {figure['caption']}"
            cells.append(nbformat.v4.new_markdown_cell(caption, id=f"{cell.id}-caption"))
    notebook.cells = cells
    return notebook


def _recorded(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """The numbers that the notebook's cells have recorded, by name."""
    numbers = {}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if stored := output.get("metadata", {}).get("scrapbook"):
            text = output.data[f"{stored['mime_prefix']}text/plain"]
            is_number = text.lstrip("-") not in ("inf", "nan")
            numbers[stored["name"]] = ast.literal_eval(text) if is_number else float(text)
    return numbers
