"""The study: its runs, how far it is, and the tables of its results.

    python workflow/study.py [--dry-run] [--jobs 2] [--settings params/study.yaml]

The plan is a list of runs of two notebooks beside this file, ``train_gan`` and ``train_arm``, seed
by seed. What is finished stands in ``results/study_*.csv``, by the key of the run: these files are
the receipt. A fresh clone goes on with what is missing there, and computes a GAN again only where
an arm that is missing needs it.
"""

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from synthseg import jobs, keys, parameters
from synthseg.project import (
    ChapterError,
    RunError,
    chapter_path,
    project_root,
    read_json,
    show_duration,
    write_text,
)
from synthseg.volumes import Volume

AMOUNTS = ("window", "slice", "all")


@dataclass(frozen=True)
class Cell:
    """One run of the plan: the notebook, what it is called in the tables, and its parameters."""

    notebook: str
    amount: str
    name: str
    seed: int
    parameters: dict[str, Any]


class Plan:
    """All runs of the study, from its settings and the training volume (for the places)."""

    def __init__(self, settings: dict[str, Any], base: str, train: Volume) -> None:
        self.settings, self.base, self.train = settings, base, train
        self.seeds = settings["plan"]["seeds"]

    def part(self, amount: str, seed: int) -> str:
        """The labelled part of an amount and a seed, drawn until it holds mitochondria."""
        if amount == "all":
            return ""
        rng = np.random.default_rng([seed, AMOUNTS.index(amount)])
        depth, *sides = self.train.shape
        lengths = self.settings["plan"]["window"] if amount == "window" else sides
        while True:
            first = [int(rng.integers(depth))]
            first += [int(rng.integers(n - m + 1)) for n, m in zip(sides, lengths, strict=True)]
            spans = zip(first, (1, *lengths), strict=True)
            part = ",".join(f"{start}:{start + length}" for start, length in spans)
            if self.train.cut(part).mask.any():
                return part

    def gan(self, amount: str, name: str, seed: int, **changes: Any) -> Cell:
        """A GAN; `changes` are those against the settings of the study."""
        return self._cell("train_gan", amount, name, seed, changes)

    def arm(self, amount: str, arm: str, gan: Cell, seed: int, name: str = "") -> Cell:
        """An arm with the images of a GAN of the same part."""
        folder = f"{gan.parameters['folder']}/seed-{gan.seed}/train_gan"
        given = {"arm": arm, "generator": folder}
        if amount != "all":
            given["unseen"] = self.part(amount, (seed + 1) % self.seeds)
        return self._cell("train_arm", amount, name or arm, seed, given)

    def _cell(
        self, notebook: str, amount: str, name: str, seed: int, changes: dict[str, Any]
    ) -> Cell:
        defaults = parameters.default_parameters(chapter_path(notebook))
        given = {**(self.settings["all"] or {}), **(self.settings[notebook] or {}), **changes}
        given["part"] = self.part(amount, seed % self.seeds)
        given |= {"seed": seed, "folder": f"{self.base}/{amount}/{name}"}
        for key in given:
            if key not in defaults:
                raise parameters.unknown(key, defaults, f"workflow/{notebook}.ipynb")
        typed = {key: parameters.convert(key, value, defaults[key]) for key, value in given.items()}
        return Cell(notebook, amount, name, seed, {**defaults, **typed})

    def cells(self) -> Iterator[Cell]:
        """All runs, seed by seed: the arms at each amount first, then what single claims need."""
        plan = self.settings["plan"]
        for seed in range(self.seeds):
            gans = {amount: self.gan(amount, "gan", seed) for amount in AMOUNTS}
            for amount, gan in gans.items():
                yield gan
                yield from (self.arm(amount, arm, gan, seed) for arm in plan["arms"])
            window = gans["window"]
            yield from (self.arm("window", arm, window, seed) for arm in plan["controls"])
            # Claim 6: the same network, fed with one noise image.
            constant = self.gan("window", "gan-constant-noise", seed, noise="constant")
            yield constant
            yield self.arm("window", "A4", constant, seed, name="A4-constant-noise")
            # Claim 4: decoders as a change of one thing, in both recipes.
            for recipe, decoder in plan["twins"]:
                changes = plan["original"] if recipe == "original" else {}
                changes = {**changes, **plan["twin_length"], "decoder": decoder}
                yield self.gan("all", f"gan-{recipe}-{decoder}", seed, **changes)
            if seed < plan["live_seeds"]:
                yield from (self.arm(amount, "live", gan, seed) for amount, gan in gans.items())
        # Claim 5: independent generators of any quality, two segmenters each.
        for number in range(plan["random_gans"]):
            rng = np.random.default_rng([number, 5])
            drawn = {
                name: values[rng.integers(len(values))] for name, values in plan["random"].items()
            }
            gan = self.gan("all", "gan-random", number, **drawn)
            yield gan
            for repeat in (0, 1):
                yield self.arm("all", "A3", gan, number + 1000 * repeat, name="A3-random")


# Tables -----------------------------------------------------------------------------------------

RUN_COLUMNS = (
    *("key", "notebook", "amount", "name", "seed", "method_version", "commit", "device"),
    *("duration_s", "memory_mib", "finished", "parameters"),
)
TABLES = {"train_arm": "study_arms.csv", "train_gan": "study_generators.csv"}


def finished(results: Path) -> dict[str, dict[str, str]]:
    """Rows of ``study_runs.csv``, by the key of the run."""
    path = results / "study_runs.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a table, by replacing the file: it is never seen half-written."""
    old: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            old = list(csv.DictReader(file))
    lines = [list(rows[0]), *([*row.values()] for row in (*old, *rows))]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    write_text(path, buffer.getvalue())


def collect(cell: Cell, job: jobs.Job, results: Path) -> None:
    """Put a finished run into the tables, its own row last: with it, the run counts as done."""
    card = read_json(job.folder / "card.json")
    label = {"key": job.key, "amount": cell.amount, "name": cell.name, "seed": cell.seed}
    with (job.folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = [{**label, **row} for row in csv.DictReader(file)]
    table = results / TABLES[cell.notebook]
    _append(table, rows)
    shown = json.dumps(parameters.without_paths(cell.parameters), sort_keys=True)
    facts = {**card, **label, "notebook": cell.notebook, "parameters": shown}
    _append(results / "study_runs.csv", [{name: facts[name] for name in RUN_COLUMNS}])


# The command ------------------------------------------------------------------------------------


def missing(
    cells: list[Cell], planned: list[jobs.Job], done: dict[str, Any]
) -> list[tuple[Cell, jobs.Job]]:
    """What has to run: runs that no table has, and the GANs that these need."""
    pairs = list(zip(cells, planned, strict=True))
    needed = {folder for _, job in pairs if job.key not in done for folder in job.inputs}
    return [
        (cell, job)
        for cell, job in pairs
        if job.key not in done or (job.folder in needed and not job.finished)
    ]


def say_what_is_left(waiting: list[tuple[Cell, jobs.Job]], done: dict[str, dict[str, str]]) -> None:
    """Print how many runs are left, and the hours by what such runs took before."""
    took: dict[tuple[str, str], list[float]] = {}
    for row in done.values():
        took.setdefault((row["notebook"], row["name"]), []).append(float(row["duration_s"]))
    seconds, unknown = 0.0, 0
    for cell, _ in waiting:
        if known := took.get((cell.notebook, cell.name)):
            seconds += statistics.median(known)
        else:
            unknown += 1
    print(
        f"{len(done)} runs are done, {len(waiting)} are left: {show_duration(seconds)} of one job"
    )
    if unknown:
        print(f"at a time, without {unknown} runs of a kind that has not been run yet.")


def main(settings_file: Path, side_by_side: int, dry_run: bool) -> int:
    """Go on with the study; 1 if a run failed."""
    settings = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
    root, base = project_root(), f"runs/{settings_file.stem}"
    dataset = keys.load_data({"nm_per_pixel": None, **settings["all"]})
    cells = list(Plan(settings, base, dataset.train).cells())
    planned = jobs.make_plan((cell.notebook, cell.parameters) for cell in cells)
    results = root / settings["plan"]["results"]
    done = finished(results)
    waiting = missing(cells, planned, done)
    if dry_run:
        for cell, job in waiting:
            print(cell.notebook, cell.amount, cell.name, cell.seed, job.key[:12])
        say_what_is_left(waiting, done)
        return 0
    cell_of = {job.folder: cell for cell, job in waiting}

    def show(job: jobs.Job, progress: jobs.Progress) -> None:
        if progress.state in ("done", "unchanged") and job.key not in done:
            cell = cell_of[job.folder]
            collect(cell, job, results)
            done[job.key] = finished(results)[job.key]
            print(f"{cell.amount}  {cell.name}  seed {cell.seed}", flush=True)

    try:
        jobs.execute([job for _, job in waiting], root / base, show, side_by_side=side_by_side)
    except (ChapterError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        say_what_is_left(missing(cells, planned, done), done)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=Path("params/study.yaml"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--dry-run", action="store_true", help="list what is left, and the hours")
    arguments = parser.parse_args()
    sys.exit(main(arguments.settings, arguments.jobs, arguments.dry_run))
