"""Keys: when two runs are the same run, where it lies, what it builds upon, and who is at it."""

import ast
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
    """Key of a run: where its files and inputs lie does not count, only what is in them.

    `inputs` are the keys of the runs whose files it uses, by chapter, `data` is the fingerprint of
    the data.
    """
    counting = {k: v for k, v in parameters.items() if k not in ("folder", "data", *INPUTS)}
    code = [METHOD_VERSION, method_fingerprint(), chapter_code(chapter)]
    return sha256([code, counting, dict(inputs), data])


def input_chapters(chapter: int | str, parameters: Mapping[str, Scalar]) -> dict[str, int]:
    """The inputs of a chapter, by parameter, with the chapter that makes each."""
    return {name: number for name, number in INPUTS.items() if name in parameters}


def input_folder(name: str, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run that an input's parameter names."""
    given = str(parameters.get(name, ""))
    return project_root() / given if given else run_folder(INPUTS[name], parameters)


def read_input(name: str, parameters: Mapping[str, Scalar], data: str) -> dict[str, Any]:
    """Card of the finished run that an input's parameter names; MissingRun if it does not fit."""
    folder = input_folder(name, parameters)
    card = read_json(folder / "card.json")
    different = [
        key
        for key in ("crop", "size")
        if card and card["parameters"].get(key) != parameters.get(key)
    ]
    if not card:
        problem = "does not exist"
    elif not card["finished"]:
        problem = "is not finished"
    elif card["data"]["fingerprint"] != data:
        problem = f"was made from other data ({card['data']['name']})"
    elif different:
        problem = f"was made with {different[0]}={card['parameters'].get(different[0])}"
    elif card["method_version"] != METHOD_VERSION:
        problem = "was made by another version of the method"
    else:
        return card
    raise MissingRun(
        f"The {name}'s run {show_path(folder)} {problem}: make it with  "
        f"{_command(INPUTS[name], parameters)}"
    )


def _command(chapter: int, parameters: Mapping[str, Scalar]) -> str:
    """Command that runs another chapter as this one is run."""
    folder = str(parameters["folder"])
    profile, name = Path(folder).name, chapter_name(chapter)
    if folder == f"runs/{profile}" and (project_root() / "params" / f"{profile}.yaml").is_file():
        command = ["synthseg", "run", str(chapter), "--profile", profile]
        command += ["--seed", str(parameters["seed"]), "--data", str(parameters["data"])]
        if parameters["nm_per_pixel"] is not None:
            command += ["--set", f"nm_per_pixel={parameters['nm_per_pixel']}"]
    else:
        command = ["papermill", f"book/{name}.ipynb", f"{name}.ipynb"]
        for key in REQUIRED:
            if parameters[key] is not None:
                command += ["-p", key, str(parameters[key])]
    return shlex.join(command)


def set_aside(folder: Path, key: str | None = None) -> bool:
    """Rename the folder of an earlier run with another key than this, so that nothing is lost."""
    earlier = read_json(folder / "card.json").get("key")
    if earlier in (None, key):
        return False
    target, count = folder.with_name(f"{folder.name}.{earlier[:8]}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.{earlier[:8]}-{count}")
    folder.rename(target)
    return True


_held: dict[Path, FileLock] = {}  # by this process; the system frees them when it ends


def hold(folder: Path, wait: float | None = None) -> None:
    """Take the lock of a folder for this process, which may hold it already."""
    path = folder.with_name(f".{folder.name}.lock")
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_name(f"{path.name}.json")
    try:
        lock.acquire(timeout=LOCK_WAIT if wait is None else wait)
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
    """Load the data that a chapter's parameters name.

    A relative path counts from the root of the project, wherever the notebook runs.
    """
    from synthseg import volumes

    data, scale = str(parameters["data"]), parameters["nm_per_pixel"]
    if data not in ("phantom", "epfl"):
        data = ",".join(str(project_root() / part) for part in data.split(","))
    return volumes.load(data, None if scale is None else float(scale))


def cut(dataset: "Dataset", parameters: Mapping[str, Scalar]) -> "Dataset":
    """The data with the training volume cut to the parameter ``part``, if there is one."""
    part = str(parameters.get("part", ""))
    return replace(dataset, train=dataset.train.cut(part)) if part else dataset


def now() -> str:
    """The time, UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
