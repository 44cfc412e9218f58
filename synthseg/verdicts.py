"""What the study found: scores, differences and verdicts, from its two tables of counts alone.

``results/study_arms.csv`` has a row a run and slice (or block of tissue): amount, name of the arm,
seed, what was scored (``validation``, ``test``, ``seen``, ``unseen``), the unit, and its true
positives, false positives and false negatives. ``study_generators.csv`` has a row a generator and
set of images. Nothing is trained here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from synthseg import statistics
from synthseg.arms import CONTRASTS

COUNTS = ["tp", "fp", "fn"]
LEVEL = 0.05  # of the adjusted p
MARGIN = 0.01  # Dice, below which a difference does not matter


class Tables(NamedTuple):
    """The study's tables: counts of the arms, what was measured of the generators, and the runs.

    `seeds` and `random_gans` are their numbers in the plan, whether or not all have been computed.
    """

    arms: pd.DataFrame
    generators: pd.DataFrame
    runs: pd.DataFrame
    seeds: int
    random_gans: int


_LABEL = ["key", "amount", "name", "seed"]
_COLUMNS = {
    "arms": [*_LABEL, "scored", "unit", *COUNTS],
    "generators": [*_LABEL, "images", "frechet", "stripes_2", "stripes_4"],
    "runs": [*_LABEL, "notebook", "device", "duration_s"],
}


def read_tables(results: Path, plan: Mapping[str, Any]) -> Tables:
    """Read the study's tables from a folder; ValueError if they hold a run twice.

    A table that does not exist, before the first run of a kind, has no rows.
    """
    tables = {}
    for name, columns in _COLUMNS.items():
        path = results / f"study_{name}.csv"
        table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)
        keys = table.groupby(["amount", "name", "seed", *columns[4:5]])["key"].nunique()
        if (keys > 1).any():
            raise ValueError(f"{path} holds two runs of {keys.idxmax()}: counts would add up.")
        tables[name] = table.astype({"seed": int, **({"unit": str} if name == "arms" else {})})
    return Tables(**tables, seeds=plan["seeds"], random_gans=plan["random_gans"])


def scores(arms: pd.DataFrame, scored: str = "test") -> pd.Series:
    """Pooled Dice of each run over all slices that were `scored`, by (amount, name, seed)."""
    slices = arms[(arms["scored"] == scored) & arms["unit"].str.startswith("slice")]
    sums = slices.groupby(["amount", "name", "seed"])[COUNTS].sum()
    return (2 * sums["tp"] / (2 * sums["tp"] + sums["fp"] + sums["fn"])).rename("dice")


def gaps(tables: Tables, amount: str, name: str) -> pd.Series:
    """Dice on a part of its own network minus that of another seed's network, by seed.

    Each network is also scored on the part of its partner, half of all seeds away. Both scores are
    of the same tissue. A seed is left out until both networks are there.
    """
    seen, unseen = (
        of_arm(scores(tables.arms, scored), amount, name) for scored in ("seen", "unseen")
    )
    partner = (unseen.index - 1 + tables.seeds // 2) % tables.seeds + 1
    return (seen - unseen.set_axis(partner)).dropna()


def of_arm(series: pd.Series, amount: str, name: str) -> pd.Series:
    """The part of a series by (amount, name, seed) that is of one arm, by seed."""
    level = series.index
    chosen = series[(level.get_level_values(0) == amount) & (level.get_level_values(1) == name)]
    return chosen.droplevel([0, 1])


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim. Its values, one a seed, are positive where the claim is right."""

    claim: int
    question: str
    contrast: str
    measure: str
    values: np.ndarray
    tissue: statistics.Interval | None = None

    @property
    def seeds(self) -> int:
        """How many seeds have been computed for it."""
        return len(self.values)

    @cached_property
    def interval(self) -> statistics.Interval:
        """Mean over seeds, with its 95 % t interval; NaN for fewer than two seeds."""
        if self.seeds < 2:
            return statistics.Interval(*[float("nan")] * 3)
        return statistics.t_interval(self.values)

    @cached_property
    def p(self) -> float:
        """Of the exact sign-flip test, two-sided; 1 for fewer than two seeds."""
        return statistics.sign_flip_test(self.values) if self.seeds > 1 else 1.0

    @cached_property
    def equivalent(self) -> bool:
        """Whether a difference of Dice scores is within the margin, by two one-sided tests."""
        if self.measure not in ("Dice", "gap") or self.seeds < 2:
            return False
        return statistics.equivalence_test(self.values, MARGIN) < LEVEL

    @property
    def needed(self) -> float:
        """Seeds for a power of 0.8 at the first step of Holm's method, if the effect is as seen."""
        return seeds_needed(self.values, LEVEL / 10) if self.seeds > 1 else float("nan")


def seeds_needed(values: np.ndarray, level: float, power: float = 0.8) -> float:
    """Least number of seeds at which a t-test finds a mean as large as that of `values`.

    By the usual approximation: (z_level + z_power)^2 / effect^2 + z_level^2 / 2.
    """
    if not values.any():
        return float("inf")
    effect = values.mean() / values.std(ddof=1)
    critical = scipy.stats.norm.isf(level / 2)
    wanted = critical + scipy.stats.norm.ppf(power)
    return float(np.ceil((wanted / effect) ** 2 + critical**2 / 2))


def compare_arms(
    tables: Tables, amount: str, claim: int, question: str, first: str, second: str, measure: str
) -> Compared:
    """Compare two arms seed by seed, with the seeds that both have."""
    if measure == "gap":
        pair = [gaps(tables, amount, name) for name in (first, second)]
        tissue = None
    else:
        dice = scores(tables.arms)
        pair = [of_arm(dice, amount, name) for name in (first, second)]
        tissue = _tissue(tables.arms, amount, first, second)
    values = (pair[0] - pair[1]).dropna().to_numpy()
    return Compared(claim, question, f"{first} − {second}", measure, values, tissue)


def _tissue(arms: pd.DataFrame, amount: str, first: str, second: str) -> statistics.Interval | None:
    """Interval over blocks of tissue and seeds, of the seeds that both arms have."""
    blocks = arms[(arms["scored"] == "test") & arms["unit"].str.startswith("block")]
    blocks = blocks[blocks["amount"] == amount]
    pair = [
        blocks[blocks["name"] == name].pivot(index="seed", columns="unit", values=COUNTS)
        for name in (first, second)
    ]
    both = pair[0].index.intersection(pair[1].index)
    if len(both) < 2:
        return None
    ours, theirs = (
        np.moveaxis(frame.loc[both].to_numpy().reshape(len(both), len(COUNTS), -1), 1, 2)
        for frame in pair
    )
    return statistics.tissue_interval(ours, theirs, seed=0)


def comparisons(tables: Tables, amount: str = "window") -> Iterator[Compared]:
    """All comparisons of the plan at one amount; claim 0 are controls, claim 5 stands apart."""
    gap = gaps(tables, amount, "A0").to_numpy()
    yield Compared(1, "Does real-only training over-fit?", "gap of A0", "gap", gap)
    for contrast in CONTRASTS:
        name = "Dice" if contrast.measure == "dice" else "gap"
        yield compare_arms(
            tables, amount, contrast.claim, contrast.question, contrast.first, contrast.second, name
        )
    controls = {
        "Does chance alone make a difference?": ("A1again", "A1"),
        "Are two batches of real images better than one of twice the size?": ("A4real", "A1x2"),
        "Is joint training better than real images in the place of its own?": ("A8", "A4real"),
    }
    for question, (first, second) in controls.items():
        yield compare_arms(tables, amount, 0, question, first, second, "Dice")
    for recipe in ("ours", "original"):
        stripes = [_stripes(tables.generators, recipe, name) for name in ("transposed", "resize")]
        values = (stripes[0] - stripes[1]).dropna().to_numpy()
        question = f"Do transposed convolutions make stripes, in the recipe '{recipe}'?"
        yield Compared(4, question, "transposed − resize", "log power of stripes", values)
    question = "Do images that differ more train better?"
    yield compare_arms(tables, amount, 6, question, "A4", "A4-constant-noise", "Dice")


def _stripes(generators: pd.DataFrame, recipe: str, decoder: str) -> pd.Series:
    """Mean log power of stripes with periods of 2 and 4 pixels, by seed."""
    drawn = generators[generators["name"] == f"gan-{recipe}-{decoder}"]
    drawn = drawn[drawn["images"] == "generated"].set_index("seed")
    return np.log(drawn[["stripes_2", "stripes_4"]]).mean(axis=1)


def quality_and_dice(tables: Tables) -> pd.DataFrame:
    """Fréchet distance of each random generator, and test Dice of the segmenter of its images."""
    generators = tables.generators[tables.generators["name"] == "gan-random"]
    distance = generators[generators["images"] == "generated"].set_index("seed")["frechet"]
    dice = of_arm(scores(tables.arms), "all", "A3-random")
    return pd.concat([distance, dice], axis=1, join="inner").reset_index()


def rank_correlation(pairs: pd.DataFrame) -> tuple[statistics.Interval, float]:
    """Rank correlation of distance and Dice with its interval, and p by permuting the pairs."""
    columns = pairs["frechet"].to_numpy(), pairs["dice"].to_numpy()
    interval = statistics.spearman_interval(*columns, cluster=pairs["seed"].to_numpy(), seed=0)
    ranks = [scipy.stats.zscore(scipy.stats.rankdata(column)) for column in columns]
    test = scipy.stats.permutation_test(
        ranks,
        lambda x, y, axis: (x * y).mean(axis),
        permutation_type="pairings",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return interval, float(test.pvalue)


def claim_p(compared: list[Compared]) -> float:
    """The one p of a claim.

    A claim of several parts holds if all of them do: then the largest p counts. It fails if one
    of them does: then the smallest of those with the wrong sign, times the number of parts.
    """
    wrong = [part.p for part in compared if part.seeds and part.values.mean() < 0]
    return min(1.0, len(compared) * min(wrong)) if wrong else max(part.p for part in compared)


def verdict(compared: list[Compared], adjusted: float, planned: int) -> str:
    """Supported, refuted, equivalent (no difference that matters), or undecided.

    There is none before all planned seeds are there: looking at a part of them, and stopping where
    it pleases, is how false findings are made.
    """
    if min(part.seeds for part in compared) < planned:
        return "not yet computed"
    equivalent = all(part.equivalent for part in compared)
    if adjusted < LEVEL:
        right = all(part.values.mean() > 0 for part in compared)
        return ("supported" if right else "refuted") + (", within the margin" if equivalent else "")
    return "equivalent" if equivalent else "undecided"


def answer(tables: Tables, amount: str = "window") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of all comparisons, and that of the ten claims with their verdicts.

    A comparison has a p, and a claim a verdict, once all planned seeds are there.
    """
    parts = list(comparisons(tables, amount))
    claims = {number: [part for part in parts if part.claim == number] for number in range(1, 11)}
    pairs = quality_and_dice(tables)
    enough = len(pairs) >= tables.random_gans > 3
    p = rank_correlation(pairs)[1] if enough else 1.0
    raw = [claim_p(claims[number]) if claims[number] else p for number in claims]
    adjusted = statistics.holm(raw)
    verdicts = [
        verdict(claims[number], value, tables.seeds) if claims[number] else None
        for number, value in zip(claims, adjusted, strict=True)
    ]
    # Claim 5 says that there is no correlation, which too few generators can't confirm.
    of_five = "refuted" if adjusted[4] < LEVEL else "undecided"
    verdicts[4] = of_five if enough else "not yet computed"
    table = pd.DataFrame(
        {"claim": list(claims), "p": raw, "adjusted p": adjusted, "verdict": verdicts}
    )
    shown = pd.DataFrame([_row(part) for part in parts])
    # Estimates may be looked at as they come; a p before its time tempts one to stop early.
    shown.loc[shown["seeds"] < tables.seeds, "p"] = np.nan
    table.loc[table["verdict"] == "not yet computed", ["p", "adjusted p"]] = np.nan
    return shown, table


def _row(part: Compared) -> dict[str, float | str | bool]:
    """A comparison as a row of the table."""
    tissue = part.tissue or statistics.Interval(*[float("nan")] * 3)
    return {
        "claim": part.claim,
        "question": part.question,
        "contrast": part.contrast,
        "measure": part.measure,
        "seeds": part.seeds,
        "difference": part.interval.estimate,
        "low": part.interval.low,
        "high": part.interval.high,
        "p": part.p if part.seeds > 1 else float("nan"),
        "equivalent": part.equivalent,
        "tissue low": tissue.low,
        "tissue high": tissue.high,
        "seeds needed": part.needed,
    }
