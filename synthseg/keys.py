"""Keys: when two runs are the same run, where it lies, what it builds upon, and who is at it."""

import ast
import itertools
import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from filelock import AcquireReturnProxy, FileLock, Timeout

from synthseg import METHOD_VERSION
from synthseg.parameters import Scalar, folder_of
from synthseg.project import (
    RunError,
    chapter_name,
    chapter_path,
    project_root,
    read_json,
    sha256,
    show_path,
    write_json,
)

if TYPE_CHECKING:
    from synthseg.volumes import Dataset

METHOD = (
    *("sampling", "masks", "gan", "segmenter", "arms", "joint", "lite0", "frechet", "metrics"),
    *("training", "fast", "settings"),
)
"""Files of the module whose code is part of a run's key."""

INPUTS = {"generator": 2, "segmenter": 3}
"""Parameters that name the run folder of an earlier chapter.

Empty stands for the sibling; "none", in the study, for a run that needs none.
"""


class MissingRun(RunError):
    """A run of an earlier chapter that is missing or does not fit."""


def run_folder(chapter: int | str, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run of a chapter."""
    folder = project_root() / str(parameters["folder"]) / f"seed-{parameters['seed']}"
    return folder / chapter_name(chapter)


def receipt(folder: Path, key: str) -> Path:
    """The file that Snakemake makes when a job has finished the run with this key."""
    return folder / f"done-{key[:12]}.json"


def status(folder: Path) -> Path:
    """The file in which the process that executes a run says what it is doing."""
    return folder.with_name(f".{folder.name}.status.json")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells of a notebook, without the one that papermill injects."""
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [cell for cell in code if "injected-parameters" not in cell.metadata.get("tags", [])]


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Sha256 over the sources of the code cells."""
    return sha256([cell.source for cell in code_cells(notebook)])


def chapter_code(chapter: int | str) -> str:
    """Fingerprint of a chapter's code as it is in the book."""
    return code_fingerprint(nbformat.read(chapter_path(chapter), as_version=4))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


@lru_cache
def method_fingerprint(folder: Path = Path(__file__).parent) -> str:
    """Sha256 over the code of the method; comments, docstrings and layout do not count."""
    files = (folder / f"{name}.py" for name in METHOD)
    texts = (file.read_text(encoding="utf-8") if file.is_file() else "" for file in files)
    return sha256([ast.dump(_WithoutDocstrings().visit(ast.parse(text))) for text in texts])


def run_key(
    chapter: int | str, parameters: Mapping[str, Scalar], inputs: Mapping[str, str], data: str
) -> str:
    """Key of a run: of its inputs the keys count, by chapter, and of the data the fingerprint.

    Where its files, inputs and data lie does not count.
    """
    counting = {k: v for k, v in parameters.items() if k not in ("folder", "data", *INPUTS)}
    code = [METHOD_VERSION, method_fingerprint(), chapter_code(chapter)]
    return sha256([code, counting, dict(inputs), data])


def input_folder(name: str, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run that an input's parameter names."""
    given = str(parameters.get(name, ""))
    return project_root() / given if given else run_folder(INPUTS[name], parameters)


def find_inputs(
    parameters: Mapping[str, Scalar], data: str, planned: Mapping[Path, str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders of the runs that a run uses, by parameter, and their keys, by chapter.

    `data` is the fingerprint of the data, `planned` has the keys of runs that are yet to be made.
    Raises MissingRun if a run is neither planned nor there, or does not fit.
    """
    needed = (name for name in INPUTS if parameters.get(name, "none") != "none")
    folders = {name: input_folder(name, parameters) for name in needed}
    used = {}
    for name, folder in folders.items():
        card = read_json(folder / "card.json")
        if folder in planned:
            used[folder.name] = planned[folder]
        elif problem := _problem(card, parameters, data):
            raise MissingRun(
                f"The {name}'s run {show_path(folder)} {problem}: make it first, with the same "
                f"data, seed, folder and sizes:  {command(INPUTS[name], parameters)}"
            )
        else:
            used[card["chapter"]] = card["key"]
    return folders, used


def _problem(card: Mapping[str, Any], parameters: Mapping[str, Scalar], data: str) -> str:
    """Why a run cannot be the input of one with these parameters and data; empty if it can."""
    if not card:
        return "does not exist"
    if not card["finished"]:
        return "is not finished"
    if card["data"]["fingerprint"] != data:
        return f"was made from other data ({card['data']['name']})"
    if card["method_version"] != METHOD_VERSION:
        return "was made by another version of the method"
    made = card["parameters"]
    other = [name for name in ("crop", "size") if made.get(name) != parameters.get(name)]
    return f"was made with {other[0]}={made.get(other[0])}" if other else ""


def command(chapter: int, parameters: Mapping[str, Scalar]) -> str:
    """What runs another chapter as this one is run, without its options."""
    data, folder = str(parameters["data"]), parameters["folder"]
    for profile in sorted(path.stem for path in (project_root() / "params").glob("*.yaml")):
        words = ["synthseg", "run", str(chapter), "--profile", profile]
        if folder == f"runs/{profile}":
            return shlex.join(words)
        if folder == folder_of(profile, data):
            return shlex.join([*words, "--data", data])
    return f"papermill book/{chapter_name(chapter)}.ipynb"


def aside(folder: Path, key: str | None = None) -> Path | None:
    """Where an earlier run with another key than this would be kept; None if there is none."""
    earlier = read_json(folder / "card.json").get("key")
    if earlier in (None, key):
        return None
    name = f"{folder.name}.{earlier[:8]}"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(path for path in map(folder.with_name, names) if not path.exists())


def set_aside(folder: Path, key: str | None = None) -> Path | None:
    """Rename the folder of an earlier run with another key than this, so that nothing is lost."""
    kept = aside(folder, key)
    return folder.rename(kept) if kept else None


def hold(folder: Path, wait: float = 10.0) -> AcquireReturnProxy:
    """Take the lock of a folder for this process, until the result is gone or its ``with`` ends.

    The system frees it, too, when the process ends. A process may hold a lock more than once. It
    waits some seconds, for the kernel of a killed run ends about one second after it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}.json")
    try:
        held = FileLock(path, is_singleton=True).acquire(timeout=wait)
    except Timeout as error:
        other = read_json(holder)
        raise RunError(
            f"{show_path(folder)} is in use by process {other.get('pid')} on {other.get('host')} "
            f"since {other.get('since')}: wait until it ends, or stop it, or close its notebook."
        ) from error
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
    return held


def load_data(parameters: Mapping[str, Scalar]) -> "Dataset":
    """Load the data that parameters name; a relative path counts from the project's root."""
    from synthseg import stacks, volumes

    data, scale = str(parameters["data"]), parameters["nm_per_pixel"]
    data = stacks.locate(data, project_root())
    return volumes.load(data, None if scale is None else float(scale))


def cut(dataset: "Dataset", parameters: Mapping[str, Scalar]) -> "Dataset":
    """The data with the training volume cut to the parameter ``part``, if there is one."""
    part = str(parameters.get("part", ""))
    return replace(dataset, train=dataset.train.cut(part)) if part else dataset


def now() -> str:
    """The time, UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
