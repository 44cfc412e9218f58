"""Parameters of chapters: defaults from the notebook, a profile over them, settings over both."""

import ast
import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import nbformat
import yaml

from synthseg.project import CHAPTERS, ParameterError, chapter_path, project_root

Scalar = bool | int | float | str | None

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "a number or null",
}
"""What a parameter must be, by the type of its default."""


def default_parameters(path: Path) -> dict[str, Scalar]:
    """Parameters of a chapter and their defaults, from its cell tagged ``parameters``."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{path} has {len(cells)} cells tagged 'parameters' instead of one.")
    defaults: dict[str, Scalar] = {}
    for statement in ast.parse(cells[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                with contextlib.suppress(ValueError):
                    value = ast.literal_eval(expression)
                    if type(value) in KINDS:
                        defaults[name] = value
                        continue
        raise ParameterError(
            f"'{ast.unparse(statement)}' in the parameters cell of {path} is not the assignment "
            "of a plain number, text, True, False or None to a name."
        )
    return defaults


def convert(name: str, value: Scalar, default: Scalar) -> Scalar:
    """Check a parameter against its default, and give it the type of the default.

    A default of None stands for an optional number. A whole number is taken for a float, and a
    float without fraction (1e3) for a whole number. No number may be infinite, or NaN.
    """
    kind = type(default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if type(value) is kind:
            return value
    elif abs(value) <= sys.float_info.max:
        if kind in (type(value), NoneType):
            return value
        if kind is float:
            return float(value)
        if kind is int and float(value).is_integer():
            return int(value)
    raise ParameterError(f"{name} is {value!r}, but must be {KINDS[kind]} (default {default!r}).")


def parse(text: str) -> Scalar:
    """Read the value of a ``name=value`` setting: true, false, null, a number or a text."""
    value: Scalar = text
    words = {"true": True, "false": False, "null": None}
    for read in (words.__getitem__, float, int):  # what is a whole number, too, is that
        with contextlib.suppress(KeyError, ValueError):
            value = read(text.lower())
    return value


def unknown(name: str, known: Iterable[str], where: str) -> ParameterError:
    """The error for a name that does not exist, with the nearest that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}."
    return ParameterError(f"There is no '{name}' in {where}; {hint}")


def given_parameters(
    chapter: int | str, namespace: Mapping[str, Any], *, strict: bool = True
) -> dict[str, Scalar]:
    """Parameters that an open notebook holds, of the types of the chapter's defaults.

    They are its plain values whose names don't begin with an underscore. With `strict`, names that
    the chapter doesn't have are refused.
    """
    given: dict[str, Scalar] = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and type(value) in KINDS
    }
    defaults = default_parameters(chapter_path(chapter))
    where = f"the parameters of chapter {chapter}"
    for name in given:
        if strict and name not in defaults:
            raise unknown(name, defaults, where)
    for name in defaults:
        if name not in given:
            raise ParameterError(f"There is no value for '{name}' in {where}.")
    parameters = {name: convert(name, given[name], defaults[name]) for name in defaults}
    _check_seed(parameters["seed"])
    return parameters


def _check_seed(seed: Scalar) -> None:
    if not isinstance(seed, int) or not 0 <= seed <= 4_000_000:  # Keras' seeds end at 2^32 - 1
        raise ParameterError(f"seed is {seed!r}, but must be a whole number from 0 to 4000000.")


def without_paths(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Parameters to show and to publish: of paths outside the project, only the last part."""

    def shown(part: str) -> str:
        path = Path(part)
        return path.name if path.is_absolute() or path.parts[:1] in [("..",), ("~",)] else part

    return {
        name: ",".join(map(shown, value.split(","))) if isinstance(value, str) else value
        for name, value in parameters.items()
    }


def folder_of(profile: str, data: str) -> str:
    """Folder of the runs of a profile on data that are not its own, such as ``runs/cpu-mouse``."""
    first = Path(data.split(",")[0])
    name = first.stem if first.suffix.lower() in (".tif", ".tiff") else first.name
    return f"runs/{profile}-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', name)[:60]}"


def read_profile(name: str) -> dict[str, dict[str, Any]]:
    """Read the groups of parameters in a profile, a YAML file in ``params/``."""
    profiles = {path.stem: path for path in (project_root() / "params").glob("*.yaml")}
    if name not in profiles:
        raise unknown(name, profiles, "params/")
    try:
        content = yaml.safe_load(profiles[name].read_text(encoding="utf-8")) or {}
        groups = {group: dict(values or {}) for group, values in content.items()}
    except (yaml.YAMLError, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ParameterError(
            f"params/{name}.yaml must be plain YAML: groups such as 'all:', each with "
            f"'name: value' lines ({' '.join(str(error).split())[:200]})."
        ) from error
    for group in groups:
        if group not in ("all", *CHAPTERS.values()):
            raise unknown(str(group), ("all", *CHAPTERS.values()), f"params/{name}.yaml")
    return groups


def plan(
    chapters: Iterable[int],
    profile: str,
    data: str | None = None,
    seed: int = 0,
    settings: Iterable[str] = (),
) -> dict[int, dict[str, Scalar]]:
    """Settle all parameters of each chapter: defaults, the profile, `data` and `seed`, `settings`.

    The profile's group ``all`` and `settings`, as ``name=value``, go to the chapters that have the
    name; the profile's group of a chapter wins over ``all``. The folder is
    ``runs/PROFILE`` for the profile's own data, else one for these data.
    """
    numbers = sorted(set(chapters))
    defaults = {n: default_parameters(chapter_path(n)) for n in sorted({*CHAPTERS, *numbers})}
    parameters = {number: {**values, "seed": seed} for number, values in defaults.items()}

    def give(members: list[int], values: Mapping[str, Scalar], where: str, *fixed: str) -> None:
        known = {key for number in members for key in defaults[number]}.difference(fixed)
        for name, value in values.items():
            if name not in known:
                raise unknown(str(name), known, where)
            for number in (number for number in members if name in defaults[number]):
                label = f"{name} of {CHAPTERS[number]} in {where}"
                parameters[number][name] = convert(label, value, defaults[number][name])

    for group, values in sorted(read_profile(profile).items(), key=lambda item: item[0] != "all"):
        members = [number for number, name in CHAPTERS.items() if group in ("all", name)]
        give(members, values, f"group {group} of params/{profile}.yaml", "seed", "folder")
    usual = {number: values["data"] for number, values in parameters.items()}
    if data is not None:
        give(numbers, {"data": data}, "--data")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"'{setting}' is not of the form name=value.")
        if name == "folder":
            raise ParameterError("The folder follows from --profile and --data: choose these.")
        give(numbers, {name: parse(text)}, "--set")
    for number in numbers:
        chosen = parameters[number]
        _check_seed(chosen["seed"])
        own = chosen["data"] == usual[number]
        chosen["folder"] = f"runs/{profile}" if own else folder_of(profile, str(chosen["data"]))
    return {number: parameters[number] for number in numbers}
