"""Parameters: what the chapters can be given, and how profiles and settings change it.

Defaults come from the cell tagged ``parameters`` of a chapter's notebook; a profile in ``params/``
lies over them, and what the user sets lies over both. The paths of the project and the helpers that
read and write its small files are here, too, because everything below builds on them.
"""

import ast
import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

import nbformat
import yaml

Scalar = bool | int | float | str | None

CHAPTERS: dict[int, str] = {
    1: "01_data",
    2: "02_gan",
    3: "03_baseline_segmentation",
    4: "04_synthetic_only",
    5: "05_frechet_and_dice",
    6: "06_composed_masks",
    7: "07_joint_training",
}
"""The chapters, in the order in which they build upon each other."""

NOT_COMPUTING = ("cli", "figures", "files", "findings", "publishing", "reruns")
"""Parts of the module whose code does not change numbers."""

REQUIRED = ("data", "nm_per_pixel", "seed", "folder")
"""Parameters of every chapter."""

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "a number or null",
}
"""What a parameter must be, by the type of its default."""


TOLERANCE = 1e-6
"""Relative difference up to which two numbers count as equal.

On one machine, with the same versions and number of threads, a rerun gives the same numbers to the
last digit. What is left is the rounding of numbers in published tables. Another number of threads
or another processor adds up in another order, and training makes more of each difference: there,
choose a tolerance that fits the question.
"""


class RunError(ValueError):
    """A request that cannot be carried out; its message is one sentence for the user."""


class ParameterError(RunError):
    """A parameter that is unknown, missing or of the wrong type."""


class MissingRun(RunError):
    """A file of an earlier chapter that has not been made yet."""


class ChapterError(RunError):
    """A chapter that stopped in one of its cells."""


class StorageError(RunError):
    """A file that could not be written, for instance because the disk is full."""


class RunLocked(RunError):
    """A run on which another process is at work."""


class Diverged(RunError):
    """A training whose loss or weights are no longer finite numbers."""


def project_root() -> Path:
    """Folder that holds ``book/`` and ``params/``.

    Returns
    -------
    Path
        ``SYNTHSEG_ROOT`` if that environment variable is set, else the folder of the installed
        package if the book lies beside it, else the nearest folder with a book at or above the
        working directory, else the working directory.
    """
    if named := os.environ.get("SYNTHSEG_ROOT"):
        return Path(named).resolve()
    here = Path.cwd()
    for candidate in (Path(__file__).resolve().parent.parent, here, *here.parents):
        if (candidate / "book" / "_toc.yml").is_file():
            return candidate
    return here


def chapter_name(chapter: int) -> str:
    """Name of a chapter, for instance ``02_gan`` for 2."""
    if chapter not in CHAPTERS:
        raise RunError(f"There is no chapter {chapter}: choose from 1 to {max(CHAPTERS)}.")
    return CHAPTERS[chapter]


def chapter_path(chapter: int) -> Path:
    """Path of a chapter's notebook in the book."""
    return project_root() / "book" / f"{chapter_name(chapter)}.ipynb"


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Say in one sentence why a file could not be written.

    Raises
    ------
    StorageError
        In place of the errors of the operating system and of HDF5.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 has no error numbers of its own, but quotes those of the system.
        quoted = re.search(r"errno = (\d+)", str(error))
        number = int(quoted[1]) if quoted else getattr(error, "errno", None)
        shown = show_path(path)
        if number in (errno.ENOSPC, errno.EDQUOT):
            problem = f"{shown} cannot be stored, because the disk is full: free some space"
        elif number == errno.EFBIG:
            problem = f"{shown} cannot be stored, because it is larger than a file may be here"
        elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
            problem = f"{shown} cannot be stored, because its folder may not be written to"
        elif number in (errno.ENOTDIR, errno.EEXIST):
            problem = f"{shown} cannot be stored, because there is a file in place of its folder"
        else:
            reason = str(error).partition("\n")[0]
            problem = f"{shown} cannot be stored ({type(error).__name__}: {reason})"
        raise StorageError(
            f"{problem}. What was stored before is as it was; the same command goes on from there."
        ) from error


def make_lasting(temporary: Path, path: Path) -> None:
    """Put a complete file in its place: whole or not at all, also after a power cut."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is never seen half-written.

    Raises
    ------
    StorageError
        If it cannot be written; an earlier version is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8", newline="")
            make_lasting(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is never seen half-written."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file.

    Raises
    ------
    RunError
        If the file holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{show_path(path)} is damaged: it is not JSON. Restore or remove it."
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{show_path(path)} is damaged: it holds no JSON object.")
    return content


def show_duration(seconds: float) -> str:
    """For instance ``45 s``, ``2 min 03 s`` or ``1 h 05 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def show_path(path: Path) -> str:
    """Path relative to the working directory where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# Parameters of a chapter ------------------------------------------------------------------------


def is_injected(cell: Mapping[str, Any]) -> bool:
    """Whether papermill put this cell into the notebook."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells of a notebook, without the one that papermill injects."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not is_injected(cell)]


def code_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Sha256 over the sources of the code cells, without the one that papermill injects."""
    return sha256([cell.source for cell in code_cells(notebook)])


@lru_cache
def module_fingerprint(folder: Path = Path(__file__).parent) -> str:
    """Sha256 over the code of the module, as far as it computes numbers.

    Comments, docstrings and layout do not count.
    """
    trees = []
    for path in sorted(folder.glob("*.py")):
        if path.stem not in NOT_COMPUTING:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(body := getattr(node, "body", None), list):
                    node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
            trees.append(ast.dump(tree))
    return sha256(trees)


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, or the description of a name."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def sha256(content: Any) -> str:
    """Fingerprint of a JSON-like value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def default_parameters(path: Path) -> dict[str, Scalar]:
    """Parameters of a chapter and their defaults, from its cell tagged ``parameters``.

    Parameters
    ----------
    path : Path
        A notebook.

    Raises
    ------
    ParameterError
        If there is not exactly one such cell, if it holds anything but assignments of plain
        values to names, or if one of the parameters that every chapter has is missing.
    """
    if not path.is_file():
        raise ParameterError(f"The notebook {path} does not exist.")
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{path} has {len(cells)} cells tagged 'parameters' instead of one.")
    defaults: dict[str, Scalar] = {}
    for statement in ast.parse(cells[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                try:
                    value = ast.literal_eval(expression)
                except ValueError:
                    value = ...
                if value is None or isinstance(value, (bool, int, float, str)):
                    defaults[name] = value
                    continue
        raise ParameterError(
            f"'{ast.unparse(statement)}' in the parameters cell of {path} is not the assignment "
            f"of a plain number, text, True, False or None to a name."
        )
    if absent := [name for name in REQUIRED if name not in defaults]:
        raise ParameterError(f"The parameters cell of {path} lacks {', '.join(absent)}.")
    return defaults


def convert(name: str, value: Scalar, default: Scalar) -> Scalar:
    """Check a parameter against its default, and give it the type of the default.

    A default of None stands for an optional number. A whole number is taken for a float, and a
    float without fraction (1e3) for a whole number.

    Raises
    ------
    ParameterError
        If the type differs.
    """
    kind = type(default)
    wrong = ParameterError(
        f"{name} is {_short(value)}, but must be {KINDS[kind]} (default {default!r})."
    )
    if isinstance(value, (int, float)) and not -sys.float_info.max <= value <= sys.float_info.max:
        raise wrong  # NaN, infinity, or a whole number that no computation could use
    if type(value) is kind:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if default is None:
            return value
        if kind is float:
            return float(value)
        if kind is int and float(value).is_integer():
            return int(value)
    raise wrong


def parse(name: str, text: str, default: Scalar) -> Scalar:
    """Read the value of a ``name=value`` setting by the rules of YAML.

    Raises
    ------
    ParameterError
        If the value is not of the type of the default.
    """
    if isinstance(default, str):
        return text  # so that a name like 'no' or '2024' stays a text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ArithmeticError, RecursionError, TypeError, ValueError):
        value = text  # what looks like a date, a number or a list, but is none
    if isinstance(value, str) and not isinstance(default, bool):
        with contextlib.suppress(ValueError):  # YAML takes 1e-3, without a point, for a text
            value = float(value)
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ParameterError(f"{name} is {_short(text)}, but must be a plain value.")
    return convert(name, value, default)


def _short(value: Scalar) -> str:
    """A value as an error message shows it; thousands of digits would hide the message."""
    try:
        shown = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _unknown(name: str, known: Iterable[str], where: str) -> ParameterError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}."
    return ParameterError(f"There is no '{name}' in {where}; {hint}")


def profile_path(name: str) -> Path:
    """Path of a profile, whether or not it exists."""
    return project_root() / "params" / f"{name}.yaml"


def check_profile_name(name: str) -> None:
    """Refuse a name that would lead out of the folders ``params/`` and ``runs/``.

    Raises
    ------
    ParameterError
        If it is not the name of a single file or folder.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise ParameterError(f"{_short(name)} is no name of a profile: it may not be a path.")


def read_profile(name: str) -> dict[int, dict[str, Scalar]]:
    """Read the parameters that a profile gives to each chapter.

    A profile is a YAML file in ``params/``, a mapping with a group ``all`` and a group for each
    chapter name. A parameter of the group ``all`` goes to the chapters that have it; the group of
    the chapter wins.

    Raises
    ------
    ParameterError
        If the profile, one of its groups or one of its parameters does not exist, or if a value
        is of the wrong type.
    """
    check_profile_name(name)
    path = profile_path(name)
    if not path.is_file():
        raise _unknown(name, (file.stem for file in path.parent.glob("*.yaml")), "params/")
    where = f"params/{path.name}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ParameterError(f"{where} is no plain YAML: {problem}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{where} must hold groups such as 'all:', each with its parameters.")
    defaults = {number: default_parameters(chapter_path(number)) for number in CHAPTERS}
    for group, values in content.items():
        if group not in ("all", *CHAPTERS.values()):
            raise _unknown(str(group), ("all", *CHAPTERS.values()), where)
        if not isinstance(values, (dict, NoneType)):
            raise ParameterError(f"The group {group} of {where} must hold 'name: value' lines.")
        chapters = [n for n in defaults if group in ("all", CHAPTERS[n])]
        known = {key for n in chapters for key in defaults[n]} - {"seed", "folder"}
        for key in values or {}:
            if key not in known:
                raise _unknown(str(key), known, f"group {group} of {where}")
    return {
        number: {
            key: convert(f"{key} of {CHAPTERS[number]} in {where}", value, known[key])
            for group in ("all", CHAPTERS[number])
            for key, value in (content.get(group) or {}).items()
            if key in known
        }
        for number, known in defaults.items()
    }


def plan(
    chapters: Iterable[int],
    profile: str,
    data: str | None = None,
    seed: int | None = None,
    settings: Iterable[str] = (),
) -> dict[int, dict[str, Scalar]]:
    """Settle the parameters of each chapter before anything starts.

    Parameters
    ----------
    chapters : iterable of int
        Chapter numbers.
    profile : str
        Name of a file in ``params/``.
    data : str, optional
        Takes the place of the profile's data.
    seed : int, optional
        0 if neither this nor a setting names one.
    settings : iterable of str
        ``name=value``; each goes to the chapters that have the name, and wins over the profile.

    Returns
    -------
    dict
        Chapter number to all of its parameters.

    Raises
    ------
    RunError
        If a chapter, the profile or a parameter does not exist, or a value has a wrong type.
    """
    numbers = sorted(set(chapters))
    defaults = {number: default_parameters(chapter_path(number)) for number in numbers}
    given = read_profile(profile)
    parameters = {n: {**defaults[n], **given[n], "folder": f"runs/{profile}"} for n in numbers}
    for chosen in parameters.values():
        chosen["seed"] = 0 if seed is None else seed
        if data is not None:
            chosen["data"] = data
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"'{setting}' is not of the form name=value.")
        if name == "folder":
            raise ParameterError("The folder follows from the profile: choose it by --profile.")
        takers = [number for number in numbers if name in defaults[number]]
        if not takers:
            known = {key for number in numbers for key in defaults[number]} - {"folder"}
            plural = "s" if len(numbers) > 1 else ""
            listed = ", ".join(str(number) for number in numbers)
            raise _unknown(name, known, f"the parameters of chapter{plural} {listed}")
        for number in takers:
            parameters[number][name] = parse(name, text, defaults[number][name])
    for chosen in parameters.values():
        _check_seed(chosen["seed"])
    return parameters


def _check_seed(seed: Scalar) -> None:
    # Chapters derive their random streams as 1000 * seed + k, and Keras' seeds end at 2^32 - 1.
    if not isinstance(seed, int) or not 0 <= seed <= 4_000_000:
        raise ParameterError(f"seed is {seed!r}, but must be a whole number from 0 to 4000000.")


def given_parameters(
    chapter: int, namespace: Mapping[str, Any], *, strict: bool = True
) -> dict[str, Scalar]:
    """Parameters that an open notebook holds, of the types of the chapter's defaults.

    Parameters
    ----------
    chapter : int
        Chapter number. Without a notebook of it in the book, every plain value is taken.
    namespace : mapping
        Names and values of the notebook. The plain values (bool, int, float, str, None) whose
        names don't begin with an underscore are the parameters.
    strict : bool
        Refuse names that the chapter doesn't have, rather than leave them out.

    Raises
    ------
    ParameterError
        If a parameter is unknown, is missing, or has another type than its default.
    """
    given: dict[str, Scalar] = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and (value is None or type(value) in (bool, int, float, str))
    }
    path = chapter_path(chapter)
    defaults = default_parameters(path) if path.is_file() else given
    for name in given if strict else ():
        if name not in defaults:
            raise _unknown(name, defaults, f"the parameters of chapter {chapter}")
    for name in (*REQUIRED, *defaults):
        if name not in given:
            raise ParameterError(f"Chapter {chapter} needs the parameter '{name}'.")
    parameters = {name: convert(name, given[name], defaults[name]) for name in defaults}
    _check_seed(parameters["seed"])
    return parameters
