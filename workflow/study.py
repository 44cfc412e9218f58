"""The study: its runs, how far it is, and the tables of its results.

    python workflow/study.py [--dry-run] [--jobs 2] [--executor slurm]
                             [--settings params/study.yaml]

The plan is a list of runs of two notebooks beside this file, ``train_gan`` and ``train_arm``. What
is finished stands in ``results/study_*.csv``: these files are the receipt. A fresh clone goes on
with what is missing there, and trains a GAN again only where an arm that is missing needs it.
"""

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from synthseg import METHOD_VERSION, jobs, keys, parameters
from synthseg.arms import ARMS
from synthseg.project import (
    ChapterError,
    RunError,
    chapter_path,
    plural,
    project_root,
    read_json,
    sha256,
    show_duration,
    write_text,
)
from synthseg.volumes import Dataset

AMOUNTS = ("window", "slice", "all")


@dataclass(frozen=True)
class Cell:
    """One run of the plan: the notebook, what it is called in the tables, and its parameters."""

    notebook: str
    amount: str
    name: str
    seed: int
    parameters: dict[str, Any]
    gan: "Cell | None"
    fingerprint: str  # of the data

    @cached_property
    def key(self) -> str:
        """What makes it this run: parameters, notebook, data, GAN, and the method's version.

        The key of a run folder counts the method's code, too. This one does not: a table takes
        weeks, in which code may be tidied. That its numbers stay is what METHOD_VERSION says, and
        what the tests hold.
        """
        places = ("folder", "data", "generator")
        counting = {k: v for k, v in self.parameters.items() if k not in places}
        code = [METHOD_VERSION, keys.chapter_code(self.notebook)]
        gan = self.gan.key if self.gan else ""
        return sha256([code, counting, self.fingerprint, gan])[:12]


class Plan:
    """All runs of the study, from its settings and the data (for the places of the parts)."""

    def __init__(self, settings: dict[str, Any], base: str, dataset: Dataset) -> None:
        self.settings, self.base, self.dataset = settings, base, dataset
        self.seeds: int = settings["plan"]["seeds"]

    def part(self, amount: str, seed: int) -> str:
        """The labelled part of an amount and a seed, drawn until it holds mitochondria."""
        if amount == "all":
            return ""
        train = self.dataset.train
        rng = np.random.default_rng([seed, AMOUNTS.index(amount)])
        depth, *sides = train.shape
        lengths = self.settings["plan"]["window"] if amount == "window" else sides
        while True:
            first = [int(rng.integers(depth))]
            first += [int(rng.integers(n - m + 1)) for n, m in zip(sides, lengths, strict=True)]
            spans = zip(first, (1, *lengths), strict=True)
            part = ",".join(f"{start}:{start + length}" for start, length in spans)
            if train.cut(part).mask.any():
                return part

    def gan(self, amount: str, name: str, seed: int, **changes: Any) -> Cell:
        """A GAN; `changes` are those against the settings of the study."""
        return self._cell("train_gan", amount, name, seed, None, changes)

    def arm(self, amount: str, arm: str, gan: Cell, seed: int, name: str = "", **more: Any) -> Cell:
        """An arm, with the images of a GAN of the same part if it needs any."""
        given = {"arm": arm, "generator": "none", **more}
        used = gan if ARMS[arm].generated else None
        if used:
            given["generator"] = f"{used.parameters['folder']}/seed-{used.seed}/train_gan"
        if amount != "all":
            given["unseen"] = self.part(amount, (seed + 1) % self.seeds)
        return self._cell("train_arm", amount, name or arm, seed, used, given)

    def _cell(
        self,
        notebook: str,
        amount: str,
        name: str,
        seed: int,
        gan: Cell | None,
        changes: dict[str, Any],
    ) -> Cell:
        defaults = parameters.default_parameters(chapter_path(notebook))
        given = {**self.settings["all"], **self.settings[notebook], **changes}
        given["part"] = self.part(amount, seed % self.seeds)
        given |= {"seed": seed, "folder": f"{self.base}/{amount}/{name}"}
        for key in given:
            if key not in defaults:
                raise parameters.unknown(key, defaults, f"workflow/{notebook}.ipynb")
        typed = {key: parameters.convert(key, value, defaults[key]) for key, value in given.items()}
        fingerprint = self.dataset.fingerprint
        return Cell(notebook, amount, name, seed, {**defaults, **typed}, gan, fingerprint)

    def cells(self) -> Iterator[Cell]:
        """All runs in the order of the plan: block by block, and in a block seed by seed."""
        plan = self.settings["plan"]
        for amount, arms in plan["arms"].items():
            for seed in range(self.seeds):
                gan = self.gan(amount, "gan", seed)
                yield gan
                yield from (self.arm(amount, arm, gan, seed) for arm in arms)
                if amount == "window":  # what chance alone does to an arm
                    yield self.arm(amount, "A1", gan, seed, name="A1again", other_streams=True)
        for seed in range(self.seeds if plan["constant_noise"] else 0):  # claim 6
            constant = self.gan("window", "gan-constant-noise", seed, noise="constant")
            yield constant
            yield self.arm("window", "A4", constant, seed, name="A4-constant-noise")
        for seed in range(self.seeds if plan["twins"] else 0):  # claim 4: another decoder alone
            for recipe in ("ours", "original"):
                changes = {**plan["twins"], **(plan["original"] if recipe == "original" else {})}
                for decoder in ("transposed", "resize"):
                    name = f"gan-{recipe}-{decoder}"
                    yield self.gan("all", name, seed, **changes, decoder=decoder)
        for number in range(plan["random_gans"]):  # claim 5: independent generators of any quality
            rng = np.random.default_rng([number, 5])
            drawn = {
                name: values[rng.integers(len(values))] for name, values in plan["random"].items()
            }
            gan = self.gan("all", "gan-random", number, **drawn)
            yield gan
            yield self.arm("all", "A3", gan, number, "A3-random", steps=plan["random_steps"])
        for arm, seeds in plan["few"].items():
            for amount, seed in ((a, s) for a in plan["arms"] for s in range(seeds)):
                gan = self.gan(amount, "gan", seed)
                yield self.arm(amount, arm, gan, seed)


# Tables -----------------------------------------------------------------------------------------

RUN_COLUMNS = (
    *("key", "notebook", "amount", "name", "seed", "method_version", "commit", "device"),
    *("duration_s", "memory_mib", "finished", "versions", "parameters"),
)
TABLES = {"train_arm": "study_arms.csv", "train_gan": "study_generators.csv"}

Rows = list[dict[str, Any]]


def _read(path: Path) -> Rows:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def finished(results: Path) -> dict[str, dict[str, str]]:
    """Rows of ``study_runs.csv``, by the key of the run."""
    return {row["key"]: row for row in _read(results / "study_runs.csv")}


def _append(path: Path, rows: Rows) -> None:
    """Add rows to a table, by replacing the file: it is never seen half-written."""
    old = [row for row in _read(path) if row["key"] != rows[0]["key"]]  # of a killed `collect`
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*old, *rows])
    write_text(path, buffer.getvalue())


def collect(cell: Cell, folder: Path, results: Path) -> None:
    """Put a finished run into the tables, its own row last: with it, the run counts as done."""
    card = read_json(folder / "card.json")
    label = {"key": cell.key, "amount": cell.amount, "name": cell.name, "seed": cell.seed}
    measured = [{**label, **row} for row in _read(folder / "rows.csv")]
    _append(results / TABLES[cell.notebook], measured)
    texts = {
        "versions": json.dumps(card["versions"], sort_keys=True),
        "parameters": json.dumps(parameters.without_paths(cell.parameters), sort_keys=True),
    }
    facts = {**card, **label, "notebook": cell.notebook, **texts}
    _append(results / "study_runs.csv", [{name: facts[name] for name in RUN_COLUMNS}])


# The command ------------------------------------------------------------------------------------


def waiting(cells: list[Cell], done: dict[str, Any]) -> list[tuple[Cell, jobs.Job]]:
    """What has to run: the cells that no table has, and the GANs that these need."""
    missing = [cell for cell in cells if cell.key not in done]
    needed = {cell.gan.key for cell in missing if cell.gan}
    chosen = {cell.key: cell for cell in cells if cell.key not in done or cell.key in needed}
    planned = jobs.make_plan((cell.notebook, cell.parameters) for cell in chosen.values())
    pairs = zip(chosen.values(), planned, strict=True)
    return [(cell, job) for cell, job in pairs if cell.key not in done or not job.finished]


def time_left(cells: list[Cell], done: dict[str, dict[str, str]]) -> str:
    """How much is left, by what such runs took before."""
    took: dict[tuple[str, str], list[float]] = {}
    for row in done.values():
        took.setdefault((row["notebook"], row["name"]), []).append(float(row["duration_s"]))
    left = [cell for cell in cells if cell.key not in done]
    known = [took[kind] for cell in left if (kind := (cell.notebook, cell.name)) in took]
    seconds = sum(statistics.median(times) for times in known)
    text = f"{plural(len(left), 'run')} left"
    text += f", {show_duration(seconds)} of one job at a time" if known else ""
    if unknown := len(left) - len(known):
        text += f", without {plural(unknown, 'run')} of a kind that has not been run yet"
    return text


def main(settings_file: Path, side_by_side: int, dry_run: bool, executor: str | None = None) -> int:
    """Go on with the study; 1 if a run failed."""
    settings = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
    root, base = project_root(), f"runs/{settings_file.stem}"
    dataset = keys.load_data({"nm_per_pixel": None, **settings["all"]})
    cells = list(Plan(settings, base, dataset).cells())
    results = root / settings["plan"]["results"]
    done = finished(results)
    pairs = waiting(cells, done)
    print(f"{len(done)} runs are done, {time_left(cells, done)}.")
    if dry_run:
        for cell, _ in pairs:
            print(cell.notebook, cell.amount, cell.name, f"seed {cell.seed}", cell.key)
        return 0
    cell_of = {job.folder: cell for cell, job in pairs}

    def show(job: jobs.Job, progress: jobs.Progress) -> None:
        cell = cell_of[job.folder]
        if progress.state in ("done", "unchanged") and cell.key not in done:
            collect(cell, job.folder, results)
            done.update(finished(results))
            took = show_duration(float(done[cell.key]["duration_s"]))
            left = time_left(cells, done)
            print(f"{cell.amount}  {cell.name}  seed {cell.seed}  {took}; {left}", flush=True)

    try:
        chosen = [job for _, job in pairs]
        jobs.execute(
            chosen,
            root / base,
            show,
            side_by_side=side_by_side,
            in_order=True,
            keep_going=True,
            executor=executor,
        )
    except (ChapterError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=Path("params/study.yaml"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--dry-run", action="store_true", help="list what is left, and the hours")
    parser.add_argument("--executor", help="a profile in workflow/profiles/, for a cluster")
    arguments = parser.parse_args()
    sys.exit(main(arguments.settings, arguments.jobs, arguments.dry_run, arguments.executor))
