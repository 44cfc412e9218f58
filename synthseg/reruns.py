"""Repeating a run from its card: the same parameters, then number by number what came out."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthseg import keys, machine
from synthseg.parameters import Scalar, given_parameters
from synthseg.project import CHAPTERS, RunError, read_json, show_path

SAME_MACHINE = 1e-6
"""Relative difference that counts as none on the card's machine; published tables are rounded."""

OTHER_MACHINE = 0.02
"""Absolute difference of a score that counts as none between machines.

About ten times what a replay of chapter 3 on another processor gave: test Dice 0.8750 for 0.8727.
"""


@dataclass(frozen=True)
class Card:
    """A run card with its metrics, and the parameters of its repetition in ``runs/rerun-KEY``."""

    chapter: int
    content: dict[str, Any]
    parameters: dict[str, Scalar]


def read_cards(path: Path) -> list[Card]:
    """Read a run card, after those of the earlier chapters' runs that it used.

    `path` is ``card.json`` in a run's folder, or ``<chapter>.card.json`` in ``results/``; the cards
    that it used are looked for in the same layout.
    """
    numbers = {name: number for number, name in CHAPTERS.items()}
    cards: dict[int, Card] = {}
    wanted: list[tuple[Path, str | None]] = [(path, None)]
    moved: dict[str, Scalar] = {}
    for here, key in wanted:
        content = read_json(here)
        if not content.get("finished") or content.get("chapter") not in numbers:
            raise RunError(f"There is no card of a finished chapter's run at {show_path(here)}.")
        if key not in (None, content["key"]):
            raise RunError(
                f"{show_path(here)} is the card of another run than the one that was used: "
                "this run cannot be repeated from these cards."
            )
        content.setdefault("metrics", read_json(here.with_name("metrics.json")))
        moved.setdefault("folder", f"runs/rerun-{content['key'][:8]}")
        # The runs that are repeated beside it are its inputs.
        beside = {name: "" for name in keys.INPUTS if name in content["parameters"]}
        chapter = numbers[content["chapter"]]
        values = given_parameters(chapter, {**content["parameters"], **moved, **beside})
        cards[chapter] = Card(chapter, content, values)
        wanted += [(_beside(here, content, name), used) for name, used in content["inputs"].items()]
    return [cards[chapter] for chapter in sorted(cards)]


def _beside(path: Path, content: dict[str, Any], other: str) -> Path:
    """The card of an earlier chapter's run that a run used."""
    if path.name != "card.json":
        return path.with_name(f"{other}.card.json")
    for name, number in keys.INPUTS.items():
        if CHAPTERS[number] == other and content["parameters"].get(name):
            return keys.input_folder(name, content["parameters"]) / "card.json"
    return path.parent.parent / other / "card.json"


def differences(card: Card, fingerprint: str) -> list[str]:
    """What is not as it was when a card was written, in words: the machine, versions and so on."""
    code, data = keys.chapter_code(card.chapter), {"fingerprint": fingerprint}
    then = _circumstances(card.content)
    now = _circumstances({"code": code, "data": data, **machine.describe()})
    return [
        f"{name} was {then.get(name) or 'unknown'}, now {value or 'unknown'}"
        for name, value in now.items()
        if then.get(name) != value
    ]


def _circumstances(card: dict[str, Any]) -> dict[str, Any]:
    return {
        "commit": card["commit"],
        "code of the chapter": card["code"][:12],
        "data": card["data"]["fingerprint"],
        "processor": card["device"],
        "method version": card["method_version"],
        **card["versions"],
    }


def same_machine(card: Card, again: dict[str, Any]) -> bool:
    """Whether a card and that of its repetition are of the same processor and versions."""
    names = ("device", "method_version", "versions")
    return all(card.content[name] == again[name] for name in names)


@dataclass(frozen=True)
class Compared:
    """One number of a card, and what its repetition gave; None stands for undefined or absent.

    `agrees` is whether they are equal up to the tolerance, or None if that is not judged.
    """

    name: str
    published: Any
    rerun: Any
    agrees: bool | None


def compare(
    card: Card, again: dict[str, Any], *, same: bool, tolerance: float | None
) -> list[Compared]:
    """Compare the numbers of a card with those of its repetition.

    On the `same` machine all numbers are judged, by their relative difference; on another only
    scores are, by their absolute one. `tolerance` replaces what is usual there.
    """
    compared, before = [], card.content["metrics"]
    for name in dict.fromkeys([*before, *again]):
        first, second = before.get(name), again.get(name)
        agrees: bool | None = first == second and name in before and name in again
        if isinstance(first, (int, float)) and isinstance(second, (int, float)):
            if same:
                allowed = SAME_MACHINE if tolerance is None else tolerance
                agrees = math.isclose(first, second, rel_tol=allowed)
            elif "dice" in name or "iou" in name:
                agrees = abs(first - second) <= (OTHER_MACHINE if tolerance is None else tolerance)
            else:
                agrees = None
        compared.append(Compared(name, first, second, agrees))
    return compared
