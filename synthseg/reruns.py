"""Repeating a run from its card: the same parameters, then number by number what came out."""

import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthseg import METHOD_VERSION
from synthseg.parameters import (
    CHAPTERS,
    TOLERANCE,
    RunError,
    Scalar,
    chapter_path,
    given_parameters,
    read_json,
    show_path,
)
from synthseg.runs import (
    PACKAGES,
    chapter_code,
    commit,
    package_version,
    run_folder,
)


@dataclass(frozen=True)
class Card:
    """A run card that can be repeated.

    Attributes
    ----------
    path : Path
        Its file.
    chapter : int
        Chapter number.
    content : dict
        The run card.
    parameters : dict
        Its parameters, checked against the chapter, with a folder for the repetition:
        ``runs/rerun-<first 8 digits of the key>``.
    metrics : dict
        The numbers of the run, by name; None where one was undefined.
    """

    path: Path
    chapter: int
    content: dict[str, Any]
    parameters: dict[str, Scalar]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One number of a card, and what the repetition gave.

    Attributes
    ----------
    name : str
        Name of the number.
    published, rerun : float or str, optional
        Values; None where undefined or absent.
    difference : float, optional
        Rerun minus published; None where either is no number.
    agrees : bool
        Whether they are equal up to the tolerance.
    """

    name: str
    published: Any
    rerun: Any
    difference: float | None
    agrees: bool


def read_cards(path: Path) -> list[Card]:
    """Read a run card, and those of the earlier chapters' runs that it used.

    Parameters
    ----------
    path : Path
        ``card.json`` of a run's folder, or ``<chapter>.card.json`` in ``results/``; the cards that
        it used are looked for in the same layout.

    Returns
    -------
    list of Card
        In the order of the chapters; the one asked for comes last.

    Raises
    ------
    RunError
        If a card is missing, is not a run card, asks for parameters that the chapter does not
        have, or belongs to another run than the one that was used.
    """
    if not path.is_file():
        raise RunError(f"There is no run card {show_path(path)}.")
    wanted: list[tuple[Path, str | None]] = [(path, None)]
    cards: dict[Path, dict[str, Any]] = {}
    while wanted:
        here, key = wanted.pop()
        content = cards[here] if here in cards else _checked(here)
        if key not in (None, content["key"]):
            raise RunError(
                f"{show_path(here)} is the card of another run than the one that was used: "
                "this run cannot be repeated from these cards."
            )
        if here not in cards:
            cards[here] = content
            for name, used in content["inputs"].items():
                wanted.append((_beside(here, content["chapter"], name), used))
    folder = f"runs/rerun-{cards[path]['key'][:8]}"
    numbers = {name: number for number, name in CHAPTERS.items()}
    read = []
    for here, content in cards.items():
        chapter = numbers[content["chapter"]]
        values = given_parameters(chapter, {**content["parameters"], "folder": folder})
        read.append(Card(here, chapter, content, values, _metrics(here, content)))
    return sorted(read, key=lambda card: card.chapter)


def _checked(path: Path) -> dict[str, Any]:
    """Read a card, of which nothing is trusted: it may come from somebody else."""
    content = read_json(path)
    if not content:
        raise RunError(f"There is no run card {show_path(path)}, whose run was used.")
    inputs = content.get("inputs")
    for name, good in {
        "chapter": content.get("chapter") in CHAPTERS.values(),
        "key": _is_key(content.get("key")),
        "parameters": isinstance(content.get("parameters"), dict),
        "inputs": isinstance(inputs, dict)
        and all(name in CHAPTERS.values() and _is_key(key) for name, key in inputs.items()),
        "finished": isinstance(content.get("finished"), str),
        "versions": isinstance(content.get("versions"), dict),
        "data": isinstance(content.get("data"), (dict, type(None))),
    }.items():
        if not good:
            raise RunError(
                f"{show_path(path)} is not the card of a finished run: its '{name}' is "
                f"{'missing' if content.get(name) is None else 'not valid'}."
            )
    return content


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _beside(path: Path, chapter: str, other: str) -> Path:
    """The card of another chapter in the same layout."""
    if path.name == f"{chapter}.card.json":
        return path.with_name(f"{other}.card.json")
    return path.parent.parent / other / path.name


def _metrics(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    metrics = content.get("metrics") or read_json(path.with_name("metrics.json"))
    if not isinstance(metrics, dict):
        raise RunError(f"The metrics of {show_path(path)} are not numbers by name.")
    return metrics


def differences(card: Card, fingerprint: str | None) -> list[str]:
    """What is not as it was when a card was written, in words.

    Parameters
    ----------
    card : Card
        The card.
    fingerprint : str, optional
        Fingerprint of the data as they are now.
    """
    content = card.content
    now = {
        "commit": commit(),
        "method version": METHOD_VERSION,
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
        "data": fingerprint,
    }
    then = {
        "commit": content.get("commit"),
        "method version": content.get("method_version"),
        **content["versions"],
        "data": (content["data"] or {}).get("fingerprint"),
    }
    found = [
        f"{name} was {_or_unknown(then.get(name))}, now {_or_unknown(value)}"
        for name, value in now.items()
        if then.get(name) != value
    ]
    if content.get("code") != chapter_code(card.chapter):
        found.append(f"the code cells of {chapter_path(card.chapter).name} have changed since")
    return found


def _or_unknown(value: Any) -> Any:
    return "unknown" if value is None else value


def compare(card: Card, tolerance: float = TOLERANCE) -> list[Compared]:
    """Compare the numbers of a card with those of its repetition.

    Parameters
    ----------
    card : Card
        A card whose repetition is complete.
    tolerance : float
        Difference that counts as none, relative to the larger of the two.
    """
    again = read_json(run_folder(card.chapter, card.parameters) / "metrics.json")
    compared = []
    for name in dict.fromkeys([*card.metrics, *again]):
        pair = card.metrics.get(name), again.get(name)
        both = name in card.metrics and name in again
        if all(isinstance(value, (int, float)) for value in pair):
            first, second = (float(value) for value in pair if value is not None)
            equal = math.isclose(first, second, rel_tol=tolerance, abs_tol=0.0)
            compared.append(Compared(name, *pair, second - first, equal))
        else:
            compared.append(Compared(name, *pair, None, both and pair[0] == pair[1]))
    return compared
