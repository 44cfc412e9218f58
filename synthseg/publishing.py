"""The book: built from executed notebooks, published with their outputs, and checked.

Nothing is executed when a book is built. Outputs come from run folders, cell by cell, and only
where the code cells of the book are the ones that were executed. Published results lie in
``results/``: ``metrics.csv`` has every recorded number and ``cards.csv`` a row a chapter, made from
``<chapter>.card.json``, the run cards with their metrics.
"""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from synthseg import METHOD_VERSION
from synthseg.keys import code_cells, code_fingerprint
from synthseg.parameters import profile_path, without_paths
from synthseg.project import (
    CHAPTERS,
    RunError,
    chapter_path,
    project_root,
    read_json,
    sha256,
    show_duration,
    show_path,
    write_json,
    write_text,
)

PHANTOM = (
    "A small example on simulated images: numbers and figures of this book show that the chapters "
    "work, not what synthetic images are worth on real data."
)
"""Banner on every page of a book whose data are the phantom."""


@dataclass(frozen=True)
class Finished:
    """A finished run: its chapter number, folder, card (with ``metrics``) and notebook."""

    chapter: int
    folder: Path
    card: dict[str, Any]
    notebook: nbformat.NotebookNode


def seeds(profile: str) -> list[int]:
    """Seeds with which chapters of a profile were run, the latest run first."""
    profile_path(profile)  # refuses what is no name
    cards = {
        card: int(card.parent.parent.name.removeprefix("seed-"))
        for card in (project_root() / "runs" / profile).glob("seed-*/*/card.json")
        if card.parent.name in CHAPTERS.values()
        and re.fullmatch(r"seed-\d+", card.parent.parent.name, re.ASCII)
    }
    newest = sorted(cards, key=lambda card: card.stat().st_mtime, reverse=True)
    return list(dict.fromkeys(cards[card] for card in newest))


def finished_runs(profile: str, seed: int | None = None) -> list[Finished]:
    """Finished runs of a profile, in the order of the chapters; of the latest seed by default."""
    found = seeds(profile)
    if not found:
        raise RunError(
            f"Nothing has been run with the profile {profile}: "
            f"start with  synthseg run --profile {profile}"
        )
    if seed is not None and seed not in found:
        listed = ", ".join(str(number) for number in found)
        raise RunError(f"runs/{profile} has no run with seed {seed} (but with {listed}).")
    base = project_root() / "runs" / profile / f"seed-{found[0] if seed is None else seed}"
    finished = []
    for chapter, name in CHAPTERS.items():
        folder = base / name
        card = read_json(folder / "card.json")
        if card.get("finished") and (folder / f"{name}.ipynb").is_file():
            notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
            card["metrics"] = read_json(folder / "metrics.json")
            finished.append(Finished(chapter, folder, card, notebook))
    return finished


def with_outputs(
    book: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode | None:
    """Give the book's notebook the outputs of an executed one; None if their code differs.

    What libraries wrote to standard error is left out: it is about the machine, not the subject.
    """
    if code_fingerprint(book) != code_fingerprint(executed):
        return None
    for cell, source in zip(code_cells(book), code_cells(executed), strict=True):
        cell.outputs = [output for output in source.outputs if output.get("name") != "stderr"]
        cell.execution_count = source.execution_count
    return book


def outputs_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Sha256 over the outputs of the code cells."""
    return sha256([cell.outputs for cell in code_cells(notebook)])


def write_results(folder: Path, cards: Iterable[Mapping[str, Any]]) -> None:
    """Write ``metrics.csv`` and ``cards.csv``, from run cards with their metrics, into a folder."""
    metrics: list[list[Any]] = []
    rows: list[list[Any]] = []
    for card in cards:
        name, seed = card["chapter"], card["parameters"]["seed"]
        for quantity, value in card["metrics"].items():
            shown = f"{value:.6g}" if isinstance(value, float) else value
            metrics.append([name, quantity, "nan" if value is None else shown, seed])
        row = [name, card["profile"], card["data"]["name"], card["data"]["fingerprint"]]
        row += [card["method_version"], card["commit"], seed, show_duration(card["duration_s"])]
        rows.append([*row, card["device"], card["finished"]])
    _write_csv(folder / "metrics.csv", ["chapter", "quantity", "value", "seed"], metrics)
    columns = ["chapter", "profile", "data", "fingerprint", "method version", "commit", "seed"]
    _write_csv(folder / "cards.csv", [*columns, "duration", "device", "finished"], rows)


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows or [["–"] * len(columns)])  # a page can't show an empty table
    write_text(path, text.getvalue())


# Publishing -------------------------------------------------------------------------------------


def published_cards() -> dict[str, dict[str, Any]]:
    """Run cards in ``results/``, by chapter name, in the order of the chapters."""
    results = project_root() / "results"
    cards = {name: read_json(results / f"{name}.card.json") for name in CHAPTERS.values()}
    return {name: card for name, card in cards.items() if card}


def publish(profile: str, seed: int | None = None) -> list[int]:
    """Put the outputs of a profile's runs into the book, and its numbers into ``results/``.

    Chapters without a finished run keep what was published before. Nothing is published if a
    chapter's code is not the one that was executed, or if a run is of another method version or
    used a run that is not the one published beside it.

    Returns
    -------
    list of int
        Numbers of the published chapters.
    """
    runs = finished_runs(profile, seed)
    if not runs:
        raise RunError(f"No chapter of the profile {profile} has been finished.")
    results = project_root() / "results"
    cards = {**published_cards(), **{CHAPTERS[run.chapter]: run.card for run in runs}}
    merged = {}
    for run in runs:
        again = f"run  synthseg run {run.chapter} --profile {profile}  again"
        book = with_outputs(nbformat.read(chapter_path(run.chapter), as_version=4), run.notebook)
        if book is None:
            raise RunError(f"Chapter {run.chapter} was changed after its run: {again}.")
        if run.card["method_version"] != METHOD_VERSION:
            raise RunError(f"The run of chapter {run.chapter} is of another method: {again}.")
        for name in _other_inputs(run.card, cards):
            raise RunError(f"Chapter {run.chapter} used an earlier run of {name}: {again}.")
        merged[run.chapter] = book
    for run in runs:
        name, text = CHAPTERS[run.chapter], nbformat.writes(merged[run.chapter]) + "\n"
        for old in results.glob(f"{name}.*.csv"):
            old.unlink()  # tables that an earlier version published
        write_text(chapter_path(run.chapter), text)
        card = {**run.card, "parameters": without_paths(run.card["parameters"])}
        card["outputs"] = outputs_fingerprint(nbformat.reads(text, as_version=4))
        write_json(results / f"{name}.card.json", card)
    write_results(results, published_cards().values())
    return sorted(merged)


def _other_inputs(card: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Chapters of which a run used another run than the one whose card lies beside its own."""
    used = card["inputs"].items()
    return [name for name, key in used if cards.get(name, {}).get("key") != key]


@dataclass(frozen=True)
class Checked:
    """A published chapter: its number, card (empty if none), and what does not agree."""

    chapter: int
    card: dict[str, Any]
    problems: list[str]


def check() -> list[Checked]:
    """Compare every published notebook with its run card."""
    checked, cards = [], published_cards()
    for chapter, name in CHAPTERS.items():
        path, card, problems = chapter_path(chapter), cards.get(name, {}), []
        if not path.is_file():
            problems.append(f"book/{name}.ipynb is missing")
        elif not card:
            problems.append(f"results/{name}.card.json is missing: it was never published")
        else:
            notebook = nbformat.read(path, as_version=4)
            if code_fingerprint(notebook) != card["code"]:
                problems.append("its code cells are not the ones that were executed")
            if outputs_fingerprint(notebook) != card["outputs"]:
                problems.append("its outputs are not the ones that were published")
            if any(o.output_type == "error" for c in code_cells(notebook) for o in c.outputs):
                problems.append("a cell shows an error")
            version = card["method_version"]
            if version != METHOD_VERSION:
                problems.append(f"it is of method version {version}, now {METHOD_VERSION}")
            problems += [
                f"it used another run of {other} than the published one"
                for other in _other_inputs(card, cards)
            ]
        checked.append(Checked(chapter, card, problems))
    return checked


# Building ---------------------------------------------------------------------------------------


def build_published() -> Path:
    """Build the published book; returns its first page. A warning is an error."""
    root = project_root()
    return _build(root / "book", root, strict=True) / "index.html"


def build_run(profile: str, seed: int | None = None) -> tuple[Path, list[int]]:
    """Build the book of one's own run, also of a partial one.

    The sources are copied to ``runs/<profile>/source/``, with the executed notebooks and the
    results of this run in place. Chapters that have not been executed appear without outputs, and
    say so; warnings are errors only if all have been.

    Returns
    -------
    tuple
        First page, ``runs/<profile>/book/index.html``, and the numbers of the executed chapters.
    """
    executed = {run.chapter: run for run in finished_runs(profile, seed)}
    root, base = project_root(), project_root() / "runs" / profile
    source = base / "source"
    shutil.rmtree(source, ignore_errors=True)
    # Pages may include files beside the book, for instance the changelog or a profile.
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build")
    for name in ("book", "params", "synthseg", "workflow"):
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=ignore)
    for path in root.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source / path.name)
    simulated = any(run.card["parameters"]["data"] == "phantom" for run in executed.values())
    for chapter, name in CHAPTERS.items():
        page = source / "book" / f"{name}.ipynb"
        if page.is_file():
            notebook, notes = _page(chapter, page, profile, executed)
            if simulated:
                notes.append(f"```{{note}}\n{PHANTOM}\n```")
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = _without_missing(cell.source, executed, chapter)
            for number, note in enumerate(notes):  # below the title
                notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id=f"note-{number}"))
            nbformat.write(notebook, page)
    write_results(source / "results", [run.card for run in executed.values()])
    for page in (source / "book").glob("*.md"):
        text = _without_missing(page.read_text(encoding="utf-8"), executed, None)
        if simulated and not page.name.startswith("_"):  # those are parts of pages
            title, end, rest = text.partition("\n")
            text = f"{title}\n\n```{{note}}\n{PHANTOM}\n```\n{end}{rest}"
        write_text(page, text)
    built = _build(source / "book", source, strict=len(executed) == len(CHAPTERS))
    shutil.rmtree(base / "book", ignore_errors=True)
    built.rename(base / "book")
    return base / "book" / "index.html", sorted(executed)


def _page(
    chapter: int, page: Path, profile: str, executed: Mapping[int, Finished]
) -> tuple[nbformat.NotebookNode, list[str]]:
    """Page of a chapter in the book of one's own run, and what is to be said on it."""
    book, run, note = nbformat.read(page, as_version=4), executed.get(chapter), ""
    command = f"`synthseg run {chapter} --profile {profile}`"
    if run is None:
        for cell in code_cells(book):
            cell.outputs, cell.execution_count = [], None
        note = (
            "This chapter has not been executed in this run, so it has no figures and numbers. "
            f"The command {command} makes them."
        )
    elif with_outputs(book, run.notebook) is None:
        note = "This page is an earlier version of the chapter, which was changed after its run."
        book = run.notebook
        code = {cell.id for cell in code_cells(book)}
        book.cells = [cell for cell in book.cells if cell.cell_type != "code" or cell.id in code]
    elif _other_inputs(run.card, {CHAPTERS[n]: other.card for n, other in executed.items()}):
        note = (
            "A chapter that this one builds upon has been run anew since, so their numbers may not "
            f"agree. The command {command} mends that."
        )
    return book, [f"```{{warning}}\n{note}\n```"] if note else []


def _without_missing(text: str, executed: Mapping[int, Finished], chapter: int | None) -> str:
    """Replace the numbers that a text takes from chapters that have not been executed.

    Those that name no page come from `chapter`.
    """
    missing = {f"{name}.ipynb" for number, name in CHAPTERS.items() if number not in executed}
    own = CHAPTERS.get(chapter or 0)

    def replace(match: re.Match[str]) -> str:
        page, separator, _ = match[1].rpartition("::")
        page = Path(page).name if separator else f"{own}.ipynb"
        return "*(not run)*" if page in missing else match[0]

    return re.sub(r"\{glue:?\w*\}`([^`]*)`", replace, text)


def _build(book: Path, output: Path, strict: bool) -> Path:
    """Build a book's pages, and return their folder."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(book), "--config", str(project_root() / "_config.yml")]
    command += ["--path-output", str(output), "-n", "-q"]
    command += ["-W", "--keep-going"] if strict else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No module named 'jupyter_book'" in done.stderr:
            raise RunError("Building the book needs more packages: pip install 'synthseg[book]'")
        log = output / "_build" / "build.log"
        write_text(log, done.stdout + done.stderr)
        marks = ("WARNING", "ERROR", "Error")
        lines = [line for line in done.stderr.splitlines() if any(mark in line for mark in marks)]
        shown = "\n".join(lines[:20])
        raise RunError(f"The book was not built; all messages are in {show_path(log)}\n{shown}")
    return output / "_build" / "html"
