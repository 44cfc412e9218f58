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
from filelock import FileLock, Timeout

from synthseg import METHOD_VERSION
from synthseg.parameters import REQUIRED, Scalar
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
"""Parameters that name the run folder of an earlier chapter; empty stands for the sibling."""

LOCK_WAIT = 10.0
"""Seconds to wait for a lock: the kernel of a killed run ends about a second after it."""


class MissingRun(RunError):
    """A run of an earlier chapter that is missing or does not fit."""


def run_folder(chapter: int | str, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run of a chapter."""
    folder = project_root() / str(parameters["folder"]) / f"seed-{parameters['seed']}"
    return folder / chapter_name(chapter)


def receipt(folder: Path, key: str) -> Path:
    """The file that says that the run with this key is finished."""
    return folder / f"done-{key[:12]}.json"


def status(folder: Path) -> Path:
    """The file in which the process that executes a run says what it is doing."""
    return folder.with_name(f".{folder.name}.status.json")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells of a notebook, without the one that papermill injects."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Sha256 over the sources of the code cells."""
    return sha256([cell.source for cell in code_cells(notebook)])


def chapter_code(chapter: int | str) -> str:
    """Fingerprint of a chapter's code as it is in the book."""
    return code_fingerprint(nbformat.read(chapter_path(chapter), as_version=4))


@lru_cache
def method_fingerprint(folder: Path = Path(__file__).parent) -> str:
    """Sha256 over the code of the method; comments, docstrings and layout do not count."""
    trees = []
    for path in (folder / f"{name}.py" for name in METHOD):
        tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                node.body = [  # type: ignore[attr-defined]
                    statement
                    for statement in body
                    if not isinstance(statement, ast.Expr)
                    or not isinstance(statement.value, ast.Constant)
                ]
        trees.append(ast.dump(tree))
    return sha256(trees)


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
    """
    folders, used = {}, {}
    for name in (name for name in INPUTS if name in parameters):
        folder = folders[name] = input_folder(name, parameters)
        if folder in planned:
            used[folder.name] = planned[folder]
        else:
            card = _read_input(name, parameters, data)
            used[card["chapter"]] = card["key"]
    return folders, used


def _read_input(name: str, parameters: Mapping[str, Scalar], data: str) -> dict[str, Any]:
    """Card of the finished run that an input's parameter names; MissingRun if it does not fit."""
    folder = input_folder(name, parameters)
    card = read_json(folder / "card.json")
    made = card.get("parameters", {})
    other = [key for key in ("crop", "size") if made.get(key) != parameters.get(key)]
    if not card:
        problem = "does not exist"
    elif not card["finished"]:
        problem = "is not finished"
    elif card["data"]["fingerprint"] != data:
        problem = f"was made from other data ({card['data']['name']})"
    elif other:
        problem = f"was made with {other[0]}={made.get(other[0])}"
    elif card["method_version"] != METHOD_VERSION:
        problem = "was made by another version of the method"
    else:
        return card
    command = _command(INPUTS[name], parameters)
    raise MissingRun(f"The {name}'s run {show_path(folder)} {problem}: make it with  {command}")


def _command(chapter: int, parameters: Mapping[str, Scalar]) -> str:
    """Command that runs another chapter as this one is run."""
    given = {name: str(parameters[name]) for name in REQUIRED if parameters[name] is not None}
    profile, name = Path(given["folder"]).name, chapter_name(chapter)
    known = (project_root() / "params" / f"{profile}.yaml").is_file()
    if known and given["folder"] == f"runs/{profile}":
        command = ["synthseg", "run", str(chapter), "--profile", profile]
        command += ["--seed", given["seed"], "--data", given["data"]]
        if "nm_per_pixel" in given:
            command += ["--nm-per-pixel", given["nm_per_pixel"]]
    else:
        command = ["papermill", f"book/{name}.ipynb", f"{name}.ipynb"]
        for parameter, value in given.items():
            command += ["-p", parameter, value]
    return shlex.join(command)


def set_aside(folder: Path, key: str | None = None) -> None:
    """Rename the folder of an earlier run with another key than this, so that nothing is lost."""
    earlier = read_json(folder / "card.json").get("key")
    if earlier in (None, key):
        return
    name = f"{folder.name}.{earlier[:8]}"
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    folder.rename(next(path for path in map(folder.with_name, names) if not path.exists()))


_held: dict[Path, FileLock] = {}  # by this process; the system frees them when it ends


def hold(folder: Path, wait: float = LOCK_WAIT) -> None:
    """Take the lock of a folder for this process, which may hold it already."""
    path = folder.with_name(f".{folder.name}.lock")
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_name(f"{path.name}.json")
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        other = read_json(holder)
        raise RunError(
            f"{show_path(folder)} is in use by process {other.get('pid')} on {other.get('host')} "
            f"since {other.get('since')}: wait until it ends, or stop it, or close its notebook."
        ) from error
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
    _held[path] = lock


def release(folder: Path) -> None:
    """Free the lock of a folder."""
    _held.pop(folder.with_name(f".{folder.name}.lock")).release()


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
