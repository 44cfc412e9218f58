"""Repeating a run from its card: the same parameters, then number by number what came out."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthseg import keys
from synthseg.parameters import Scalar, given_parameters
from synthseg.project import CHAPTERS, RunError, read_json, show_path

SAME_MACHINE = 1e-6
"""Relative difference that counts as none on the card's machine; published tables are rounded."""

OTHER_MACHINE = 0.02
"""Absolute difference of a score that counts as none between machines.

A replay of chapter 3 on another processor gave a test Dice of 0.8750 for 0.8727. Five arms of the
study, trained on one window, differed by up to 0.011 in validation Dice between two processors, and
one by 0.024 between a processor and a graphics card (``results/study_repeats.csv``).
"""


@dataclass(frozen=True)
class Card:
    """A run card with its metrics, and the parameters of its repetition in ``runs/rerun-KEY``."""

    chapter: int
    content: dict[str, Any]
    parameters: dict[str, Scalar]


def read_cards(path: Path) -> list[Card]:
    """Read a run card, after those of the earlier chapters' runs that it used.

    `path` is ``card.json`` in a run's folder, or ``<chapter>.card.json`` in ``results/``, with the
    cards that it used beside it.
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
        chapter, given = numbers[content["chapter"]], content["parameters"]
        inputs = {name: keys.input_folder(name, given) for name in keys.INPUTS if name in given}
        for folder in inputs.values():
            in_results = here.with_name(f"{folder.name}.card.json")
            there = folder / "card.json" if here.name == "card.json" else in_results
            wanted.append((there, content["inputs"][folder.name]))
        # The runs that are repeated beside it are its inputs.
        values = given_parameters(chapter, {**given, **moved, **dict.fromkeys(inputs, "")})
        cards[chapter] = Card(chapter, content, values)
    return [cards[chapter] for chapter in sorted(cards)]


def differences(card: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """What is not as it was when a card was written, in words: the machine, versions and so on."""
    then, now = (
        {
            "processor": one["device"],
            "data": one["data"]["fingerprint"],
            "code of the chapter": one["code"][:12],
            "commit": one["commit"],
            "method version": one["method_version"],
            **one["versions"],
        }
        for one in (card, again)
    )
    return [
        f"{name} was {then.get(name) or 'unknown'}, now {value or 'unknown'}"
        for name, value in now.items()
        if then.get(name) != value
    ]


def compare(
    before: dict[str, Any], after: dict[str, Any], *, same_machine: bool
) -> dict[str, tuple[Any, Any, bool | None]]:
    """Put recorded numbers and those of the repetition side by side, and say whether they agree.

    On the same machine all numbers are judged, by their relative difference; on another only
    scores are, by their absolute one, and of others it is None whether they agree. A number that
    is undefined or absent is None, too.
    """
    compared = {}
    for name in dict.fromkeys([*before, *after]):
        first, second = before.get(name), after.get(name)
        agrees: bool | None = first == second and name in before and name in after
        if isinstance(first, (int, float)) and isinstance(second, (int, float)):
            if same_machine:
                agrees = math.isclose(first, second, rel_tol=SAME_MACHINE)
            elif "dice" in name or "iou" in name:
                agrees = abs(first - second) <= OTHER_MACHINE
            else:
                agrees = None
        compared[name] = first, second, agrees
    return compared
