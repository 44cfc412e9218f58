"""The book: built from executed notebooks, published with their outputs, and checked.

Nothing is executed when a book is built. Outputs come from run folders, cell by cell, and only
where the code, the method and the inputs are those of the run. Published results lie in
``results/``: ``metrics.csv`` has every recorded number, ``cards.csv`` a row a chapter, ``times.md``
what each took; all are made from ``<chapter>.card.json``, the run cards with their metrics.
"""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from nbclient import NotebookClient

from synthseg import METHOD_VERSION
from synthseg.keys import chapter_code, code_cells, command, receipt, run_folder
from synthseg.parameters import without_paths
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
    "Small and simulated: it shows that the chapters work, not what synthetic images are worth. "
    "Only what the study says, in chapter 8 and on the start page, is of real data."
)
"""Banner on every page of a book whose data are the phantom."""

Card = dict[str, Any]
"""A run card, with the recorded numbers as its ``metrics``."""


def finished_runs(profile: str | None) -> dict[str, tuple[Card, Any]]:
    """Cards and notebooks of the runs beside the latest one, by chapter, if they are finished.

    `profile` is a folder below ``runs/``; of all of them if there is none. A run that was finished
    in JupyterLab has no receipt, and no executed notebook: it is none.
    """
    cards = (project_root() / "runs").glob("*/seed-*/*/card.json")
    found = [
        card
        for card in cards
        if card.parent.name in CHAPTERS.values() and profile in (None, card.parents[2].name)
    ]
    if not found:
        where = "yet" if profile is None else f"in runs/{profile}"
        raise RunError(f"Nothing has been run {where}: start with  synthseg run")
    latest = max(found, key=lambda card: card.stat().st_mtime).parents[1]
    runs = {}
    for folder in (latest / name for name in CHAPTERS.values()):
        card = read_json(folder / "card.json")
        if card.get("finished") and receipt(folder, card["key"]).is_file():
            card["metrics"] = read_json(folder / "metrics.json")
            notebook = nbformat.read(folder / f"{folder.name}.ipynb", as_version=4)
            runs[folder.name] = card, notebook
    if not runs:
        where = show_path(latest)
        raise RunError(f"No chapter in {where} has been finished: go on with  synthseg run")
    return runs


def with_outputs(
    book: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """Give the book's notebook the outputs of an executed one of the same code.

    What libraries wrote to standard error is left out: it is about the machine, not the subject.
    """
    for cell, source in zip(code_cells(book), code_cells(executed), strict=True):
        cell.outputs = [output for output in source.outputs if output.get("name") != "stderr"]
        cell.execution_count = source.execution_count
    return book


def outputs_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Sha256 over the outputs of the code cells."""
    return sha256([cell.outputs for cell in code_cells(notebook)])


def problems(card: Card, cards: Mapping[str, Card]) -> Iterator[str]:
    """Why a run does not fit the book, and the runs of other chapters with these cards."""
    if card["code"] != chapter_code(card["chapter"]):
        yield "its code was changed after its run"
    if card["method_version"] != METHOD_VERSION:
        yield f"its run is of method version {card['method_version']}, now {METHOD_VERSION}"
    for name, key in card["inputs"].items():
        if cards.get(name, {}).get("key") != key:
            yield f"it used another run of {name} than that of this book"


def write_results(folder: Path, cards: Iterable[Card]) -> None:
    """Write the files that pages show, from run cards with their metrics, into a folder."""
    metrics: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    times = dict.fromkeys(CHAPTERS.values(), "This chapter has not been run.")
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
        mib, where = card.get("memory_mib"), f"results/{name}.card.json"
        if "outputs" not in card:  # not a published one
            where = show_path(run_folder(name, card["parameters"]) / "card.json")
        times[name] = (
            f"The run on this page took {show_duration(card['duration_s'])}"
            f"{f' and {mib / 1024:.1f} GiB of memory' if mib else ''} ({card['device']}). "
            f"Made at commit {card['commit'] or 'unknown'}, finished on {card['finished'][:10]}; "
            f"`synthseg rerun {where}` repeats it and compares the numbers."
        )
    parts = [f"<!-- {name} -->\n{text}\n<!-- end -->\n" for name, text in times.items()]
    write_text(folder / "times.md", "".join(parts))  # each chapter includes its part
    for name, table in {"metrics": metrics, "cards": rows}.items():
        frame = pd.DataFrame(table or [{"chapter": "–"}])  # a page can't show an empty table
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))


# Publishing -------------------------------------------------------------------------------------


def published_cards() -> dict[str, Card]:
    """Run cards in ``results/``, by chapter, in the order of the chapters."""
    results = project_root() / "results"
    cards = {name: read_json(results / f"{name}.card.json") for name in CHAPTERS.values()}
    return {name: card for name, card in cards.items() if card}


def publish(profile: str) -> list[str]:
    """Put the outputs of a profile's runs into the book, and its numbers into ``results/``.

    Chapters without a finished run keep what was published before. Nothing is published if a run
    does not fit the book, or the runs published beside it. Returns the published chapters.
    """
    runs, results = finished_runs(profile), project_root() / "results"
    cards = {**published_cards(), **{name: card for name, (card, _) in runs.items()}}
    for number, name in CHAPTERS.items():
        for problem in problems(cards[name], cards) if name in runs else ():
            command = f"synthseg run {number} --profile {profile}"
            raise RunError(f"{name} cannot be published, for {problem}: run  {command}  again.")
    for name, (card, executed) in runs.items():
        path = project_root() / "book" / f"{name}.ipynb"
        book = with_outputs(nbformat.read(path, as_version=4), executed)
        write_text(path, nbformat.writes(book) + "\n")
        outputs, shown = outputs_fingerprint(book), without_paths(card["parameters"])
        write_json(results / f"{name}.card.json", {**card, "parameters": shown, "outputs": outputs})
    write_results(results, published_cards().values())
    return list(runs)


def check() -> dict[str, list[str]]:
    """Compare every published chapter with its run card; returns what is wrong with each."""
    cards = published_cards()
    found: dict[str, list[str]] = {}
    for number, name in CHAPTERS.items():
        card = cards.get(name, {})
        wrong = list(problems(card, cards)) if card else ["it was never published"]
        notebook = nbformat.read(chapter_path(number), as_version=4)
        if card and outputs_fingerprint(notebook) != card["outputs"]:
            wrong.append("its outputs are not the ones that were published")
        found[name] = wrong
    return found


# The study's chapter ----------------------------------------------------------------------------

ANSWER = "08_do_they_help"
"""The chapter that reads the study's tables, and trains nothing."""


def execute_answer() -> nbformat.NotebookNode:
    """Execute the study's chapter, with the tables as they are now."""
    path = project_root() / "book" / f"{ANSWER}.ipynb"
    executed = nbformat.read(path, as_version=4)
    client = NotebookClient(executed, resources={"metadata": {"path": str(project_root())}})
    client.execute(stderr=subprocess.DEVNULL)  # messages of libraries
    return with_outputs(nbformat.read(path, as_version=4), executed)


def cover(answer: nbformat.NotebookNode) -> str:
    """The picture, as SVG, of the cell tagged ``cover``."""
    (cell,) = (c for c in code_cells(answer) if "cover" in c.metadata.get("tags", []))
    return str(cell.outputs[0].data["image/svg+xml"])


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


def build_run(profile: str | None) -> tuple[Path, list[str]]:
    """Build the book of one's own run, also of a partial one, from ``runs/<profile>/source/``.

    Without a profile, the folder of the latest run is taken. Chapters that have not been executed,
    or whose run does not fit, appear without outputs, and say so; warnings are errors only if there
    are none of these. Returns the first page and the executed chapters.
    """
    runs = finished_runs(profile)
    cards = {name: card for name, (card, _) in runs.items()}
    wrong = {name: next(problems(card, cards), "") for name, card in cards.items()}
    shown = [name for name in wrong if not wrong[name]]
    recorded = {name: cards[name]["metrics"] for name in shown}
    how = next(iter(cards.values()))["parameters"]
    root, base = project_root(), project_root() / str(how["folder"])
    book, config = base / "source" / "book", base / "source" / "_config.yml"
    shutil.rmtree(book.parent, ignore_errors=True)
    shutil.copytree(root / "book", book, ignore=shutil.ignore_patterns(".*", "_build"))
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    if any(cards[name]["parameters"]["data"] == "phantom" for name in shown):
        settings.setdefault("html", {})["announcement"] = PHANTOM
    ours = settings.get("sphinx", {}).get("local_extensions", {})  # by name, with their folders
    ours.update({name: str(root / folder) for name, folder in ours.items()})
    write_text(config, yaml.safe_dump(settings, allow_unicode=True))
    for number, name in CHAPTERS.items():
        notebook = nbformat.read(book / f"{name}.ipynb", as_version=4)
        if name in shown:
            notebook = with_outputs(notebook, runs[name][1])
        else:
            for cell in code_cells(notebook):
                cell.outputs, cell.execution_count = [], None
            note = (
                "This chapter has no figures and numbers here: "
                f"{wrong.get(name) or 'it has not been executed in this run'}. "
                f"The command `{command(number, how)}` makes them."
            )
            warning = f"```{{warning}}\n{note}\n```"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(warning, id="note"))
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _without_missing(cell.source, name, recorded)
        nbformat.write(notebook, book / f"{name}.ipynb")
    for page in book.glob("*.md"):
        write_text(page, _without_missing(page.read_text(encoding="utf-8"), page.stem, recorded))
    write_results(book.parent / "results", [cards[name] for name in shown])
    if (book / "_extra").is_dir():  # interactive pages, which are to show this run's networks
        export = runpy.run_path(str(root / "workflow" / "export.py"))
        export["write_or_say"]({name: cards[name] for name in shown}, book)
    built = _build(book, config, strict=len(shown) == len(CHAPTERS))
    shutil.rmtree(base / "book", ignore_errors=True)
    built.rename(base / "book")
    return base / "book" / "index.html", shown


def _without_missing(text: str, page: str, recorded: Mapping[str, Collection[str]]) -> str:
    """Replace the numbers that no chapter has recorded, be it not shown or without that arm."""

    def replace(match: re.Match[str]) -> str:
        source, _, number = match[1].rpartition("::")  # without one, the number is the page's own
        chapter = Path(source or page).stem
        missing = number.split(":")[0] not in recorded.get(chapter, ())
        return "*(not run)*" if chapter in CHAPTERS.values() and missing else match[0]

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
    if (book / "_extra").is_dir():  # Sphinx copies these only where a page has changed
        shutil.copytree(book / "_extra", output / "html", dirs_exist_ok=True)
    return output / "html"
