"""The study: its runs, how far it is, and the tables of its results.

    python workflow/study.py [--dry-run] [--jobs 2] [--executor slurm]
                             [--settings params/study.yaml] [--publish]

The plan is a list of runs of two notebooks beside this file, ``train_gan`` and ``train_arm``. What
is finished stands in ``results/study_*.csv``: these files are the receipt. A fresh clone goes on
with what is missing there, and trains a GAN again only where an arm that is missing needs it.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import yaml
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border

from synthseg import METHOD_VERSION, keys, parameters
from synthseg.arms import ARMS
from synthseg.command import jobs, publishing
from synthseg.project import (
    RunError,
    chapter_path,
    plural,
    project_root,
    read_json,
    sha256,
    show_duration,
    show_path,
    write_text,
)
from synthseg.volumes import DataError, Dataset

AMOUNTS = ("window", "slice", "all")
SPECK = 75  # pixels: what is smaller is no component at the network's scale, see synthseg.masks


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
        self.seeds = range(1, settings["plan"]["seeds"] + 1)  # 0 is that of the published chapters
        self.window: list[int] = settings["plan"]["window"]

    @cached_property
    def parts(self) -> dict[tuple[str, int], str]:
        """The labelled parts, by amount and seed.

        Places are drawn until there is one for each seed, some slices from all others (5 of 115 for
        ten seeds), that holds three whole mitochondria, of which masks are composed. Seeds have
        them in the order of the slices, so that the parts of a seed and of its partner, half of all
        seeds away, lie far apart.
        """
        parts = {("all", seed): "" for seed in self.seeds}
        depth, *sides = self.dataset.train.shape
        apart = depth // (2 * len(self.seeds))
        for amount, lengths in (("window", self.window), ("slice", sides)):
            rng = np.random.default_rng(AMOUNTS.index(amount))
            found: dict[int, str] = {}  # by the slice
            while len(found) < len(self.seeds):
                z = int(rng.integers(depth))
                corner = [int(rng.integers(n - m + 1)) for n, m in zip(sides, lengths, strict=True)]
                spans = zip((z, *corner), (1, *lengths), strict=True)
                part = ",".join(f"{start}:{start + length}" for start, length in spans)
                far = all(abs(z - other) >= apart for other in found)
                if far and self.whole_mitochondria(part) >= 3:
                    found[z] = part
            chosen = zip(self.seeds, sorted(found), strict=True)
            parts |= {(amount, seed): found[z] for seed, z in chosen}
        return parts

    def partner(self, seed: int) -> int:
        """The seed whose part a seed's networks are scored on as unseen tissue."""
        return (seed - 1 + len(self.seeds) // 2) % len(self.seeds) + 1

    def whole_mitochondria(self, part: str) -> int:
        """How many components of a part do not touch its border, and are no specks."""
        whole = clear_border(label(self.dataset.train.cut(part).mask[0]))
        return sum(region.area >= SPECK for region in regionprops(whole))

    def gan(self, amount: str, name: str, seed: int, **changes: Any) -> Cell:
        """A GAN; `changes` are those against the settings of the study."""
        return self._cell("train_gan", amount, name, seed, None, changes)

    def arm(self, amount: str, arm: str, gan: Cell, seed: int, name: str = "", **more: Any) -> Cell:
        """An arm, with the images of a GAN of the same part if it needs any."""
        given = {"arm": arm, "generator": "none", **more}
        used = gan if ARMS[arm].generated else None
        if used:
            given["generator"] = f"{used.parameters['folder']}/seed-{used.seed}/train_gan"
        if amount == "window":
            given["unseen"] = self.parts[amount, self.partner(seed)]
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
        given["part"] = self.parts.get((amount, seed), "")
        given |= {"seed": seed, "folder": f"{self.base}/{amount}/{name}"}
        typed = parameters.given_parameters(notebook, {**defaults, **given})
        return Cell(notebook, amount, name, seed, typed, gan, self.dataset.fingerprint)

    def cells(self) -> Iterator[Cell]:
        """All runs in the order of the plan: block by block, and in a block seed by seed."""
        plan = self.settings["plan"]
        for amount, arms in plan["arms"].items():
            for seed in self.seeds:
                gan = self.gan(amount, "gan", seed)
                yield gan
                yield from (self.arm(amount, arm, gan, seed) for arm in arms)
                if amount == "window":  # what chance alone does to an arm
                    yield self.arm(amount, "A1", gan, seed, name="A1again", other_streams=True)
        for seed in self.seeds if plan["constant_noise"] else ():  # claim 6
            constant = self.gan("window", "gan-constant-noise", seed, noise="constant")
            yield constant
            yield self.arm("window", "A4", constant, seed, name="A4-constant-noise")
        for seed in self.seeds if plan["twins"] else ():  # claim 4: another decoder alone
            for recipe in ("ours", "original"):
                changes = {**plan["twins"], **(plan["original"] if recipe == "original" else {})}
                for decoder in ("transposed", "resize"):
                    name = f"gan-{recipe}-{decoder}"
                    yield self.gan("all", name, seed, **changes, decoder=decoder)
        for number in range(1, plan["random_gans"] + 1):  # claim 5: GANs of any quality
            rng = np.random.default_rng([number, 5])
            drawn = {
                name: values[rng.integers(len(values))] for name, values in plan["random"].items()
            }
            gan = self.gan("all", "gan-random", number, **drawn)
            yield gan
            yield self.arm("all", "A3", gan, number, "A3-random", steps=plan["random_steps"])
        for arm, seeds in plan["few"].items():
            for amount, seed in ((a, s) for a in plan["arms"] for s in self.seeds[:seeds]):
                gan = self.gan(amount, "gan", seed)
                yield self.arm(amount, arm, gan, seed)


# Tables -----------------------------------------------------------------------------------------

RUN_COLUMNS = (
    *("key", "notebook", "amount", "name", "seed", "method_version", "commit", "device"),
    *("duration_s", "memory_mib", "finished", "versions", "parameters"),
)
TABLES = {"train_arm": "study_arms.csv", "train_gan": "study_generators.csv"}
FITS = {"train_arm": "arm", "train_gan": "gan"}

Rows = list[dict[str, Any]]


def _read(path: Path) -> Rows:
    if not path.is_file():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def finished(results: Path) -> dict[str, dict[str, str]]:
    """Rows of ``study_runs.csv``, by the key of the run."""
    return {row["key"]: row for row in _read(results / "study_runs.csv")}


def _append(path: Path, rows: Rows) -> None:
    """Add rows to a table, by replacing the file: it is never seen half-written."""
    old = [row for row in _read(path) if row["key"] != rows[0]["key"]]  # of a killed `collect`
    table = pd.DataFrame([*old, *rows], dtype=object)  # arms differ in the columns of their curves
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def collect(cell: Cell, folder: Path, results: Path) -> None:
    """Put a finished run into the tables, its own row last: with it, the run counts as done."""
    card = read_json(folder / "card.json")
    named = {"key": cell.key, "amount": cell.amount, "name": cell.name, "seed": cell.seed}
    measured = [{**named, **row} for row in _read(folder / "rows.csv")]
    _append(results / TABLES[cell.notebook], measured)
    fit = FITS[cell.notebook]
    curves = [{**named, **row} for row in _read(folder / f"{fit}.history.csv")]
    _append(results / f"study_{fit}_curves.csv", curves)
    texts = {
        "versions": json.dumps(card["versions"], sort_keys=True),
        "parameters": json.dumps(parameters.without_paths(cell.parameters), sort_keys=True),
    }
    facts = {**card, **named, "notebook": cell.notebook, **texts}
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


def main(
    settings_file: Path, side_by_side: int, dry_run: bool, executor: str | None = None
) -> None:
    """Go on with the study; a RunError if a run failed, when all others are done."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # with two, numbers differ a little
    settings = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
    root, base = project_root(), f"runs/{settings_file.stem}"
    dataset = keys.load_data({"nm_per_pixel": None, **settings["all"]})
    cells = list(Plan(settings, base, dataset).cells())
    results = root / settings["plan"]["results"]
    done = finished(results)
    if strangers := done.keys() - {cell.key for cell in cells}:
        raise RunError(
            f"{plural(len(strangers), 'run')} in {show_path(results)}/study_runs.csv are not of "
            "this plan: restore the settings and notebooks, or rename the study's tables."
        )
    pairs = waiting(cells, done)
    print(f"{plural(len(done), 'run')} done, {time_left(cells, done)}.")
    if dry_run:
        for cell, _ in pairs:
            print(cell.notebook, cell.amount, cell.name, f"seed {cell.seed}", cell.key)
        return
    cell_of = {job.folder: cell for cell, job in pairs}
    failed: set[Path] = set()

    def show(job: jobs.Job, progress: jobs.Progress) -> None:
        cell = cell_of[job.folder]
        if progress.state == "failed" and job.folder not in failed:
            failed.add(job.folder)
            print(f"{cell.amount}  {cell.name}  seed {cell.seed}  failed", file=sys.stderr)
        if progress.state in ("done", "unchanged") and cell.key not in done:
            collect(cell, job.folder, results)
            done.update(finished(results))
            took = show_duration(float(done[cell.key]["duration_s"]))
            left = time_left(cells, done)
            print(f"{cell.amount}  {cell.name}  seed {cell.seed}  {took}; {left}", flush=True)

    jobs.execute(
        [job for _, job in pairs],
        root / base,
        show,
        side_by_side=side_by_side,
        in_order=True,
        keep_going=True,
        executor=executor,
    )


def publish() -> None:
    """Put the outputs of the study's chapter into the book, and its first picture on the cover."""
    answer, book = publishing.execute_answer(), project_root() / "book"
    write_text(book / f"{publishing.ANSWER}.ipynb", nbformat.writes(answer) + "\n")
    write_text(book / "_static" / "answer.svg", publishing.cover(answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=Path("params/study.yaml"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--dry-run", action="store_true", help="list what is left, and the hours")
    parser.add_argument("--executor", help="a profile in workflow/profiles/, for a cluster")
    parser.add_argument("--publish", action="store_true", help="put the answer into the book, only")
    arguments = parser.parse_args()
    try:
        if arguments.publish:
            publish()
        else:
            main(arguments.settings, arguments.jobs, arguments.dry_run, arguments.executor)
    except (RunError, DataError) as error:
        sys.exit(str(error))
