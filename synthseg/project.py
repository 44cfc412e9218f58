"""The project: its chapters and folders, its errors, and what reads and writes small files."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

CHAPTERS: dict[int, str] = {
    1: "01_data",
    2: "02_gan",
    3: "03_baseline_segmentation",
    4: "04_synthetic_only",
    5: "05_frechet_and_dice",
    6: "06_composed_masks",
    7: "07_joint_training",
}
"""The chapters, in the order in which they build upon each other."""


class RunError(ValueError):
    """A request that cannot be carried out; its message is one sentence for the user."""


class ParameterError(RunError):
    """A parameter that is unknown, missing or of the wrong type."""


class ChapterError(RunError):
    """A chapter that stopped in one of its cells."""


def project_root() -> Path:
    """Folder that holds ``book/`` and ``params/``: what the variable ``SYNTHSEG_ROOT`` names.

    Else the first folder with a book: beside the package, then at and above the working directory.
    """
    if named := os.environ.get("SYNTHSEG_ROOT"):
        return Path(named).resolve()
    here = Path.cwd()
    for candidate in (Path(__file__).resolve().parent.parent, here, *here.parents):
        if (candidate / "book" / "_toc.yml").is_file():
            return candidate
    return here


def chapter_name(chapter: int | str) -> str:
    """Name of a chapter, for instance ``02_gan`` for 2; a name stands for itself."""
    if isinstance(chapter, str):
        return chapter
    if chapter not in CHAPTERS:
        raise RunError(f"There is no chapter {chapter}: choose from 1 to {max(CHAPTERS)}.")
    return CHAPTERS[chapter]


def chapter_path(chapter: int | str) -> Path:
    """Path of a chapter's notebook: in the book, or in ``workflow/`` for one of the study."""
    name = chapter_name(chapter)
    folder = "book" if name in CHAPTERS.values() else "workflow"
    return project_root() / folder / f"{name}.ipynb"


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it: it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, by :func:`write_text`."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file, an error if it holds anything else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{show_path(path)} cannot be read as a JSON object: remove it.")
    return content


def sha256(content: Any) -> str:
    """Fingerprint of a JSON-like value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def show_duration(seconds: float) -> str:
    """For instance ``45 s``, ``2 min 03 s`` or ``1 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def show_path(path: Path) -> str:
    """Path relative to the working directory where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def plural(count: int, word: str) -> str:
    """For instance ``1 chapter`` or ``3 chapters``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
