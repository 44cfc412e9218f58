"""The contact sheet of a data set: what no rule can judge, to be looked at."""

from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np

from synthseg import figures
from synthseg.volumes import Dataset, Volume

WIDEST = 1024  # pixels of a slice that are drawn


def save(dataset: Dataset, folder: Path) -> Path:
    """Draw the contact sheet into a PNG file in `folder`, named after the data set.

    It has the first, middle and last slice of each part with the outlines of their masks. Labels
    say the parts' grey ranges (percentiles 1 and 99), and a line below which slices go where.
    """
    matplotlib.use("Agg")
    rows, masks, labels = [], [], []
    parts = {role: getattr(dataset, role) for role in ("train", "validation", "test")}
    for role, part in parts.items():
        step = -(-max(part.shape[1:]) // WIDEST)
        shown = np.array([0, len(part) // 2, len(part) - 1])
        rows.append(part.image[shown, ::step, ::step])
        masks.append(part.mask[shown, ::step, ::step])
        low, high = np.percentile(rows[-1], (1, 99))
        labels.append(f"{role}\ngrey {low:.0f}-{high:.0f}")
    titles = ["first slice", "middle", "last"]
    figure = figures.image_grid(rows, masks, titles=titles, row_labels=labels)
    figure.text(0, -0.01, fill(_places(parts), 75), va="top", fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset.name}.png"
    figure.savefig(path, bbox_inches="tight", pad_inches=0.1)
    return path


def _places(parts: dict[str, Volume]) -> str:
    """Say which slices of which stack go where."""
    lines = []
    for stack in dict.fromkeys(part.stack for part in parts.values()):
        inside = {role: part for role, part in parts.items() if part.stack == stack}
        spans, end = [], 0
        for role, part in sorted(inside.items(), key=lambda item: item[1].first):
            if part.first > end:
                spans.append(f"{_span(end, part.first)} unused")
            end = part.first + len(part)
            spans.append(f"{_span(part.first, end)} {role}")
        lines.append(f"Slices of {stack}: {', '.join(spans)}.")
    return " ".join(lines)


def _span(first: int, end: int) -> str:
    return f"{first}-{end - 1}" if end - first > 1 else str(first)
