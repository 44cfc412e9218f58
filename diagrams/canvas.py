"""A sheet of SVG: boxes, arrows and words, and the few shapes that several diagrams share.

Everything is ink and colour on nothing, so that a page in the dark may invert a diagram: the
style sheet of the book does. A sheet is as wide as the page of a phone, so that its words are as
large there as they are here.
"""

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

WIDTH = 400
INK, MUTED = "#1a1a1a", "#595959"
# The colours of the plots (Okabe and Ito 2008): real or annotated is orange, predicted is blue.
BLUE, RED, GREEN, PINK, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"

Point = tuple[float, float]


def number(value: float) -> str:
    """A coordinate, short and the same on every machine."""
    return f"{round(value, 1) + 0:g}"


class Canvas:
    """Collects SVG elements; `str` of it is the file."""

    def __init__(self, title: str, height: float) -> None:
        self.title, self.height = title, height
        self.elements: list[str] = []

    def __str__(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            f'width="{WIDTH * 1.35:g}" height="{self.height * 1.35:g}" role="img" '
            'font-family="Helvetica, Arial, sans-serif">'
        )
        tip = '<path d="M0,0 L8,4 L0,8 z" fill="context-stroke"/>'
        marker = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" '
            f'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">{tip}</marker></defs>'
        )
        title = f"<title>{escape(self.title)}</title>"
        return "\n".join([head, title, marker, *self.elements, "</svg>\n"])

    def add(self, tag: str, content: str = "", **attributes: object) -> None:
        """Put one element; underscores in names of attributes stand for hyphens."""
        written = " ".join(
            f'{name.rstrip("_").replace("_", "-")}="'
            f'{number(value) if isinstance(value, float | int) else value}"'
            for name, value in attributes.items()
        )
        self.elements.append(f"<{tag} {written}>{content}</{tag}>")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        colour: str = INK,
        anchor: str = "middle",
        bold: bool = False,
        italic: bool = False,
    ) -> None:
        """Words, line by line; `y` is the base line of the first."""
        for line in words.split("\n"):
            style: dict[str, object] = {"font_weight": "bold"} if bold else {}
            if italic:
                style["font_style"] = "italic"
            self.add(
                "text",
                escape(line.replace("  ", "\u2002")),  # SVG makes one space of many
                x=x,
                y=y,
                font_size=size,
                fill=colour,
                text_anchor=anchor,
                **style,
            )
            y += size * 1.2

    def note(self, x: float, y: float, words: str, anchor: str = "middle") -> None:
        """Small grey words."""
        self.text(x, y, words, 12, MUTED, anchor)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        colour: str = INK,
        size: float = 13,
        strength: float = 0.13,
        dashed: bool = False,
    ) -> None:
        """A rectangle, lightly filled, with words in its middle."""
        dashes = {"stroke_dasharray": "4 3"} if dashed else {}
        self.add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            rx=4,
            fill=colour,
            fill_opacity=f"{strength:g}",
            stroke=colour,
            stroke_width=1.2,
            **dashes,
        )
        if words:
            lines = words.count("\n")
            middle = y + height / 2 + size * 0.36 - lines * size * 0.6
            self.text(x + width / 2, middle, words, size)

    def line(
        self,
        points: Iterable[Point],
        colour: str = INK,
        arrow: bool = False,
        dashed: bool = False,
        width: float = 1.5,
    ) -> None:
        """A line through points, with or without an arrowhead."""
        look: dict[str, object] = {"marker_end": "url(#tip)"} if arrow else {}
        if dashed:
            look["stroke_dasharray"] = "5 4"
        self.add(
            "polyline",
            points=path(points),
            fill="none",
            stroke=colour,
            stroke_width=width,
            stroke_linejoin="round",
            **look,
        )

    def arrow(self, *points: Point, colour: str = INK, dashed: bool = False) -> None:
        """A line through points with an arrowhead at its end."""
        self.line(points, colour, arrow=True, dashed=dashed)

    def shape(
        self,
        points: Iterable[Point],
        colour: str,
        strength: float = 1,
        outline: str = "none",
        width: float = 1.2,
    ) -> None:
        """A filled polygon."""
        self.add(
            "polygon",
            points=path(points),
            fill=colour,
            fill_opacity=f"{strength:g}",
            stroke=outline,
            stroke_width=width,
            stroke_linejoin="round",
        )

    def mask(self, x: float, y: float, side: float, blobs: Sequence[Sequence[Point]]) -> None:
        """A mask: a square with filled shapes, given in units of its side."""
        self.add("rect", x=x, y=y, width=side, height=side, fill="none", stroke=INK)
        for blob in blobs:
            self.shape([(x + side * u, y + side * v) for u, v in blob], AMBER)

    def micrograph(self, x: float, y: float, side: float, blobs: Sequence[Sequence[Point]]) -> None:
        """An image: membranes all over, and inside of each shape the folds of a mitochondrion."""
        square = {"x": x, "y": y, "width": side, "height": side, "stroke": INK}
        self.add("rect", fill=INK, fill_opacity="0.1", **square)
        for wave in range(5):
            level = (wave + 0.6) / 5
            curve = [
                (t / 12, level + 0.055 * math.sin(t * 0.9 + 2.1 * wave) * (1 - abs(t - 6) / 8))
                for t in range(13)
            ]
            points = [(x + side * u, y + side * v) for u, v in curve]
            self.line(points, MUTED, width=0.7)
        for blob in blobs:
            points = [(x + side * u, y + side * v) for u, v in blob]
            self.shape(points, "#b8b8b8", outline=INK)
            middle = [sum(values) / len(points) for values in zip(*points, strict=True)]
            inner = [
                (middle[0] + 0.55 * (u - middle[0]), middle[1] + 0.55 * (v - middle[1]))
                for u, v in points
            ]
            for k in range(1, len(inner) // 2):
                self.line([inner[k], inner[-k]], INK, width=0.7)


def path(points: Iterable[Point]) -> str:
    """Points as SVG writes them."""
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def blob(u: float, v: float, length: float, width: float, degrees: float) -> list[Point]:
    """An oval around a point, as points."""
    turn = math.radians(degrees)
    points = []
    for k in range(16):
        angle = k * math.pi / 8
        along, across = length * math.cos(angle), width * math.sin(angle)
        points.append(
            (
                u + along * math.cos(turn) - across * math.sin(turn),
                v + along * math.sin(turn) + across * math.cos(turn),
            )
        )
    return points


TWO = [blob(0.33, 0.35, 0.22, 0.12, 35), blob(0.7, 0.68, 0.18, 0.11, -50)]
"""Two mitochondria of one crop."""
