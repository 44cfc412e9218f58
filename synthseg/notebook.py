"""What a notebook stores of a cell: pictures, tables for people, and the module's source."""

import ast
import html
import inspect
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from tabulate import tabulate

MISSING = "–"
_SCREEN = 100  # pixels of a page to an inch of a figure
_GREYS = 24  # levels of grey in pictures
_COLOURS = 128  # further colours in them, at most


def store_pictures() -> None:
    """Let a notebook store plots as SVG (and PNG, for the PDF book) and micrographs as PNG.

    The PNG pictures have few colours: electron micrographs are full of noise, and its last bits
    would make the greater part of a notebook's size.
    """
    shell = get_ipython()
    if shell is not None:
        # Loads the notebook's backend, which sets a formatter of its own; the later one counts.
        plt.switch_backend(plt.get_backend())
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, _png)
        formatters["image/svg+xml"].for_type(Figure, _svg)


def _svg(figure: Figure) -> tuple[str, dict[str, int]] | None:
    """SVG of a plot, and how wide to show it; none of a figure that holds images."""
    if any(axes.images for axes in figure.axes):
        return None
    stream = io.StringIO()
    nameless = {"Date": None, "Creator": None}  # the same data gives the same file
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata=nameless)
    return stream.getvalue(), {"width": round(figure.get_tightbbox().width * _SCREEN)}


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """PNG of few colours, as large as needed, and how wide to show it."""
    figure.draw_without_rendering()  # now labels have their places
    dpi, margin = figure.dpi, 4
    box = figure.get_tightbbox()
    # Whole pixels, else those of the images would be shifted or doubled.
    low = np.floor(np.multiply(box.min, dpi)) - margin
    high = np.ceil(np.multiply(box.max, dpi)) + margin
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches=Bbox([low / dpi, high / dpi]))
    picture = Image.open(stream).convert("RGB")
    # An octree keeps rare colours, such as those of outlines, but few greys: these are rounded.
    octree = picture.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    values, full = np.array(octree.convert("RGB")), np.asarray(picture)
    is_grey = np.ptp(full, axis=2) < 8
    step = 255 / (_GREYS - 1)
    values[is_grey] = (full[is_grey].mean(axis=1, keepdims=True) / step).round() * step
    codes, index = np.unique(values @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    indexed = Image.fromarray(index.reshape(values.shape[:2]).astype(np.uint8)).convert("P")
    indexed.putpalette(b"".join(int(code).to_bytes(3, "big") for code in codes))
    smaller = io.BytesIO()
    indexed.save(smaller, "png", optimize=True)
    return smaller.getvalue(), {"width": round(box.width * _SCREEN)}


@dataclass(repr=False)
class Table:
    """Cells as text, shown by a notebook as HTML, in the PDF book as Markdown, else as text."""

    heads: list[str]
    rows: list[tuple[str, ...]]
    sides: list[str]
    caption: str

    def _repr_html_(self) -> str:
        def line(tags: list[str], texts: Sequence[str]) -> str:
            cells = (
                f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag[:2]}>'
                for tag, text, side in zip(tags, texts, self.sides, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        head = line(['th scope="col"'] * len(self.heads), self.heads)
        tags = ['th scope="row"'] + ["td"] * (len(self.heads) - 1)  # the first one names its row
        rows = "\n".join(line(tags, row) for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>\n" if self.caption else ""
        label = html.escape(self.caption or f"Table: {', '.join(self.heads)}")
        # Reached by the keyboard, since it scrolls where the page is narrow.
        return (
            f'<div class="synthseg-table" role="group" tabindex="0" aria-label="{label}">\n'
            f'<table class="dataframe">\n{caption}<thead>\n{head}\n</thead>\n'
            f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
        )

    def _repr_markdown_(self) -> str:
        heads, *rows = (
            [text.replace("|", r"\|") for text in line] for line in (self.heads, *self.rows)
        )
        return tabulate(rows, heads, "pipe", colalign=self.sides, disable_numparse=True)

    def __repr__(self) -> str:
        text = tabulate(self.rows, self.heads, "plain", colalign=self.sides, disable_numparse=True)
        return f"{self.caption}\n{text}" if self.caption else text


def table(
    frame: pd.DataFrame,
    names: Mapping[str, str] | None = None,
    digits: int | Mapping[str, int] = 3,
    caption: str = "",
) -> Table:
    """What a cell shows of a table: human heads, sensible digits, no index, no text cut.

    `names` maps columns to heads. `digits` are the decimals of numbers below 10, one fewer for
    each further place in front of the point (0.873, 23.88, 238.8); a mapping from columns says
    the decimals outright. Missing values are shown as a dash.
    """
    given, usual = (digits, 3) if isinstance(digits, Mapping) else ({}, digits)
    heads, columns, sides = [], [], []
    for name, values in frame.items():
        column = str(name)
        heads.append((names or {}).get(column, column))
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        # None for a column of several kinds of values.
        decimals = given.get(column, _decimals(values, usual) if numeric else None)
        columns.append([_text(value, decimals) for value in values])
        sides.append("right" if numeric else "left")
    return Table(heads, list(zip(*columns, strict=True)), sides, caption)


def _decimals(values: pd.Series, digits: int) -> int:
    """Decimals of a column of numbers."""
    found = values[values.abs() < math.inf].abs()
    if found.empty or (found % 1 == 0).all():
        return 0
    return max(0, digits - int(math.log10(max(1, found.max()))))


def _text(value: Any, decimals: int | None) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return MISSING
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if not pd.api.types.is_number(value):
        return str(value)
    text = f"{value:g}" if decimals is None else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def show_source(*objects: Callable | type) -> None:
    """Show functions or classes of the module below a cell: signature and code.

    Docstrings are cut to their first lines.
    """
    for shown in objects:
        display(Markdown(f"```python\n{_short_source(shown)}```"))


def _short_source(shown: Callable | type) -> str:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(shown)))
    lines = source.splitlines(keepends=True)
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    for node in sorted(nodes, key=lambda node: -node.lineno):  # from below, so that numbers stay
        text = ast.get_docstring(node)
        if text:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno
            indent = " " * node.body[0].col_offset
            lines[first:last] = [f'{indent}"""{text.splitlines()[0]}"""\n']
    return "".join(lines)
