"""The book: built from executed notebooks, published with their outputs, and checked.

Nothing is executed when a book is built. Outputs come from run folders, cell by cell, and only
where the code cells of the book are the ones that were executed. Published results lie in
``results/``: ``metrics.csv`` has every recorded number and ``cards.csv`` a row a chapter, made from
``<chapter>.card.json``, the run cards with their metrics.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from nbclient import NotebookClient

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
    """A finished run: its chapter number, card (with ``metrics``) and executed notebook."""

    chapter: int
    card: dict[str, Any]
    notebook: nbformat.NotebookNode


def seeds(profile: str) -> list[int]:
    """Seeds with which chapters of a profile were run, the latest run first."""
    profile_path(profile)  # refuses what is no name
    cards = (project_root() / "runs" / profile).glob("seed-*/*/card.json")
    newest = sorted(cards, key=lambda card: card.stat().st_mtime, reverse=True)
    folders = [c.parent.parent.name for c in newest if c.parent.name in CHAPTERS.values()]
    found = [re.fullmatch(r"seed-(\d+)", folder, re.ASCII) for folder in folders]
    return list(dict.fromkeys(int(match[1]) for match in found if match))


def finished_runs(profile: str, seed: int | None = None) -> list[Finished]:
    """Finished runs of a profile, in the order of the chapters; of the latest seed by default."""
    found = seeds(profile)
    if not found:
        raise RunError(
            f"Nothing has been run with the profile {profile}: "
            f"start with  synthseg run --profile {profile}"
        )
    if seed is not None and seed not in found:
        listed = ", ".join(map(str, found))
        raise RunError(f"runs/{profile} has no run with seed {seed} (but with {listed}).")
    base = project_root() / "runs" / profile / f"seed-{found[0] if seed is None else seed}"
    finished = []
    for chapter, name in CHAPTERS.items():
        card, notebook = read_json(base / name / "card.json"), base / name / f"{name}.ipynb"
        if card.get("finished") and notebook.is_file():
            card["metrics"] = read_json(base / name / "metrics.json")
            finished.append(Finished(chapter, card, nbformat.read(notebook, as_version=4)))
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
    metrics: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for card in cards:
        name, seed = card["chapter"], card["parameters"]["seed"]
        for quantity, value in card["metrics"].items():
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            shown = "nan" if value is None else shown
            metrics.append({"chapter": name, "quantity": quantity, "value": shown, "seed": seed})
        rows.append(
            {
                "chapter": name,
                "profile": card["profile"],
                "data": card["data"]["name"],
                "fingerprint": card["data"]["fingerprint"],
                "method version": card["method_version"],
                "commit": card["commit"],
                "seed": seed,
                "duration": show_duration(card["duration_s"]),
                "device": card["device"],
                "finished": card["finished"],
            }
        )
    for name, table in {"metrics": metrics, "cards": rows}.items():
        frame = pd.DataFrame(table or [{"chapter": "–"}])  # a page can't show an empty table
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))


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
    used a run that is not the one published beside it. Returns the published chapters.
    """
    runs = finished_runs(profile, seed)
    if not runs:
        raise RunError(f"No chapter of the profile {profile} has been finished.")
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
        merged[run.chapter] = nbformat.writes(book) + "\n"
    results = project_root() / "results"
    for run in runs:
        for old in results.glob(f"{CHAPTERS[run.chapter]}.*.csv"):
            old.unlink()  # tables that an earlier version published
        write_text(chapter_path(run.chapter), merged[run.chapter])
        outputs = outputs_fingerprint(nbformat.reads(merged[run.chapter], as_version=4))
        shown = without_paths(run.card["parameters"])
        card = {**run.card, "parameters": shown, "outputs": outputs}
        write_json(results / f"{CHAPTERS[run.chapter]}.card.json", card)
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
    cards = published_cards()
    return [
        Checked(chapter, cards.get(name, {}), list(_problems(chapter, cards)))
        for chapter, name in CHAPTERS.items()
    ]


def _problems(chapter: int, cards: Mapping[str, dict[str, Any]]) -> Iterable[str]:
    """What does not agree between a published chapter and its card."""
    name, path = CHAPTERS[chapter], chapter_path(chapter)
    if not path.is_file():
        yield f"book/{name}.ipynb is missing"
        return
    if name not in cards:
        yield f"results/{name}.card.json is missing: it was never published"
        return
    notebook, card = nbformat.read(path, as_version=4), cards[name]
    if code_fingerprint(notebook) != card["code"]:
        yield "its code cells are not the ones that were executed"
    if outputs_fingerprint(notebook) != card["outputs"]:
        yield "its outputs are not the ones that were published"
    if any(output.output_type == "error" for c in code_cells(notebook) for output in c.outputs):
        yield "a cell shows an error"
    if card["method_version"] != METHOD_VERSION:
        yield f"it is of method version {card['method_version']}, now {METHOD_VERSION}"
    for other in _other_inputs(card, cards):
        yield f"it used another run of {other} than the published one"


# The study's chapter ----------------------------------------------------------------------------

ANSWER = "08_do_they_help"
"""The chapter that reads the study's tables, and trains nothing."""


def execute_answer() -> nbformat.NotebookNode:
    """Execute the study's chapter, with the tables as they are now."""
    path = project_root() / "book" / f"{ANSWER}.ipynb"
    executed = nbformat.read(path, as_version=4)
    NotebookClient(executed, resources={"metadata": {"path": str(project_root())}}).execute()
    book = with_outputs(nbformat.read(path, as_version=4), executed)
    assert book is not None
    return book


def publish_answer() -> None:
    """Put the outputs of the study's chapter into the book."""
    text = nbformat.writes(execute_answer()) + "\n"
    write_text(project_root() / "book" / f"{ANSWER}.ipynb", text)


def answer_is_current() -> bool:
    """Whether the study's tables give what its chapter in the book says, word for word."""
    book = nbformat.read(project_root() / "book" / f"{ANSWER}.ipynb", as_version=4)
    return _said(book) == _said(execute_answer())


def _said(notebook: nbformat.NotebookNode) -> list[str]:
    """All that the outputs of a notebook say in text, tables and recorded numbers included."""
    data = [
        dict(output.get("data", {})) for cell in code_cells(notebook) for output in cell.outputs
    ]
    return [str(v) for part in data for name, v in sorted(part.items()) if "text/" in name]


# Building ---------------------------------------------------------------------------------------


def build_published() -> Path:
    """Build the published book; returns its first page. A warning is an error."""
    root = project_root()
    return _build(root / "book", root / "_config.yml", strict=True) / "index.html"


def build_run(profile: str, seed: int | None = None) -> tuple[Path, list[int]]:
    """Build the book of one's own run, also of a partial one, from ``runs/<profile>/source/``.

    Chapters that have not been executed appear without outputs, and say so; warnings are errors
    only if all have been. Returns its first page and the numbers of the executed chapters.
    """
    executed = {run.chapter: run for run in finished_runs(profile, seed)}
    root, base = project_root(), project_root() / "runs" / profile
    book, config = base / "source" / "book", base / "source" / "_config.yml"
    shutil.rmtree(book.parent, ignore_errors=True)
    shutil.copytree(root / "book", book, ignore=shutil.ignore_patterns(".*", "_build"))
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if any(run.card["parameters"]["data"] == "phantom" for run in executed.values()):
        settings.setdefault("html", {})["announcement"] = PHANTOM
    write_text(config, yaml.safe_dump(settings, allow_unicode=True))
    for chapter, name in CHAPTERS.items():
        notebook, note = _page(chapter, book / f"{name}.ipynb", profile, executed)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _without_missing(cell.source, executed, name)
        if note:
            warning = f"```{{warning}}\n{note}\n```"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(warning, id="note"))
        nbformat.write(notebook, book / f"{name}.ipynb")
    for page in book.glob("*.md"):
        write_text(page, _without_missing(page.read_text(encoding="utf-8"), executed, page.stem))
    write_results(book.parent / "results", [run.card for run in executed.values()])
    built = _build(book, config, strict=len(executed) == len(CHAPTERS))
    shutil.rmtree(base / "book", ignore_errors=True)
    built.rename(base / "book")
    return base / "book" / "index.html", sorted(executed)


def _page(
    chapter: int, page: Path, profile: str, executed: Mapping[int, Finished]
) -> tuple[nbformat.NotebookNode, str]:
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
    return book, note


def _without_missing(text: str, executed: Mapping[int, Finished], page: str) -> str:
    """Replace the numbers that a page takes from chapters that have not been executed."""
    missing = {name for number, name in CHAPTERS.items() if number not in executed}

    def replace(match: re.Match[str]) -> str:
        source = match[1].rpartition("::")[0]  # without one, the number is the page's own
        return "*(not run)*" if Path(source or page).stem in missing else match[0]

    return re.sub(r"\{glue:?\w*\}`([^`]*)`", replace, text)


def _build(book: Path, config: Path, strict: bool) -> Path:
    """Build a book's pages beside its folder, and return theirs."""
    output = book.parent / "_build"
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(book), "--config", str(config), "--path-output", str(book.parent), "-n", "-q"]
    command += ["-W", "--keep-going"] if strict else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No module named 'jupyter_book'" in done.stderr:
            raise RunError("Building the book needs more packages: pip install 'synthseg[book]'")
        write_text(output / "build.log", done.stdout + done.stderr)
        marked = re.findall(r"^.*(?:WARNING|ERROR|Error).*$", done.stderr, re.MULTILINE)
        shown = "\n".join(marked[:20])
        log = show_path(output / "build.log")
        raise RunError(f"The book was not built; all messages are in {log}\n{shown}")
    return output / "html"
