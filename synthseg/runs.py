"""Runs: which parameters a chapter gets, where its files go, and how it resumes.

A run is one chapter, executed with one set of parameters. It writes into one folder,
``<folder>/seed-<seed>/<chapter>/``:

================================  ==================================================================
``<chapter>.ipynb``               the executed notebook (``<chapter>.partial.ipynb`` until complete)
``metrics.json``                  every number that the chapter recorded, by name
``<table>.csv``                   every table that it stored
``<fit>.history.csv``             one row an epoch
``<fit>.weights.h5``              weights and optimiser state at the end of a training
``resume/``                       the same after each finished epoch, until the training is complete
``card.json``                     the run card
================================  ==================================================================

Keys of a run card:

==================  ===============================================================================
``chapter``         name, for instance ``03_baseline_segmentation``
``profile``         last part of ``folder``
``folder``          folder of the profile, relative to the project
``key``             sha256 over parameters (but ``folder``), method version and the chapter's code
``code``            sha256 over the code cells of the chapter
``parameters``      the parameters, by name
``method_version``  ``synthseg.METHOD_VERSION``
``versions``        versions of Python and of the packages that numbers depend on
``commit``          git commit, followed by ``+changes`` if the module or the profiles differed from
                    it; null outside a git repository
``data``            ``name``, ``fingerprint`` and ``provenance`` of the data; null if none
``device``          what computed
``inputs``          key of each earlier chapter's run whose files were used
``tables``          names of the stored tables
``started``         when the run was first started, UTC, ISO 8601
``finished``        when it was complete; null until then
``duration_s``      seconds of work, summed over all sessions of the run
``sessions``        number of times that the run was started or resumed
==================  ===============================================================================
"""

import ast
import contextlib
import difflib
import hashlib
import html
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import nbformat
import pandas as pd
import yaml
from IPython import get_ipython
from IPython.display import display

from synthseg import METHOD_VERSION

# TensorFlow takes seconds to import, so only the functions that need it do: the command line and
# its error messages come at once.
if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from synthseg.volumes import Dataset

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

REQUIRED = ("data", "nm_per_pixel", "seed", "folder")
"""Parameters of every chapter."""

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "synthseg")
"""Packages whose versions a run card states."""


class RunError(ValueError):
    """A request that cannot be carried out; its message is one sentence for the user."""


class ParameterError(RunError):
    """A parameter that is unknown, missing or of the wrong type."""


class MissingRun(RunError):
    """A file of an earlier chapter that has not been made yet."""


class ChapterError(RunError):
    """A chapter that stopped in one of its cells."""


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


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
    Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
    Path(temporary).replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is never seen half-written."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def show_duration(seconds: float) -> str:
    """For instance ``45 s``, ``2 min 03 s`` or ``1 h 05 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


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
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if type(value) is type(default) or (default is None and number):
        return value
    wanted = "a number or null" if default is None else "a text"
    if isinstance(default, bool):
        wanted = "true or false"
    elif isinstance(default, (int, float)):
        wanted = "a whole number" if isinstance(default, int) else "a number"
        if isinstance(value, (int, float)) and number:
            if isinstance(default, float):
                return float(value)
            if float(value).is_integer():
                return int(value)
    raise ParameterError(f"{name} is {value!r}, but must be {wanted} (default {default!r}).")


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
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) and not isinstance(default, bool):
        with contextlib.suppress(ValueError):  # YAML takes 1e-3, without a point, for a text
            value = float(value)
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise ParameterError(f"{name} is {text!r}, but must be a plain value.")
    return convert(name, value, default)


def _unknown(name: str, known: Iterable[str], where: str) -> ParameterError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names)}."
    return ParameterError(f"There is no '{name}' in {where}; {hint}")


def _profile_path(name: str) -> Path:
    return project_root() / "params" / f"{name}.yaml"


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
    path = _profile_path(name)
    if not path.is_file():
        raise _unknown(name, (file.stem for file in path.parent.glob("*.yaml")), "params/")
    where = f"params/{path.name}"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    defaults = {
        number: default_parameters(chapter_path(number))
        for number in CHAPTERS
        if chapter_path(number).is_file()
    }
    for group, values in content.items():
        if group not in ("all", *CHAPTERS.values()):
            raise _unknown(str(group), ("all", *CHAPTERS.values()), where)
        if not isinstance(values, (dict, type(None))):
            raise ParameterError(f"The group {group} of {where} must hold 'name: value' lines.")
        chapters = [n for n in defaults if group in ("all", CHAPTERS[n])]
        known = {key for n in chapters for key in defaults[n]} - {"seed", "folder"}
        for key in values or {}:
            if chapters and key not in known:
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
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ParameterError(f"seed is {seed!r}, but must be a whole number from 0 to 2^32 - 1.")


# The folder of a run ----------------------------------------------------------------------------


def run_folder(chapter: int, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run of a chapter."""
    folder = project_root() / str(parameters["folder"]) / f"seed-{parameters['seed']}"
    return folder / chapter_name(chapter)


def run_key(parameters: Mapping[str, Scalar], code: str) -> str:
    """Two runs with the same key have the same results.

    Parameters
    ----------
    parameters : mapping
        All parameters of the chapter; ``folder`` does not count.
    code : str
        Fingerprint of the chapter's code.
    """
    counting = {name: value for name, value in parameters.items() if name != "folder"}
    return sha256([counting, METHOD_VERSION, code])


def _chapter_code(chapter: int) -> str:
    path = chapter_path(chapter)
    return code_fingerprint(nbformat.read(path, as_version=4)) if path.is_file() else "unknown"


def _is_current(folder: Path, key: str) -> bool:
    """Whether the run in a folder has this key, and the earlier runs that it used are unchanged."""
    card = read_json(folder / "card.json")
    return card.get("key") == key and all(
        read_json(folder.parent / name / "card.json").get("key") == used
        for name, used in card["inputs"].items()
    )


def _set_aside(folder: Path) -> None:
    """Rename the folder of an earlier run, so that nothing is lost."""
    key = read_json(folder / "card.json").get("key", "unknown")
    target, count = folder.with_name(f"{folder.name}.{key[:8]}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.{key[:8]}-{count}")
    folder.rename(target)


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        # Chapters have a fingerprint of their own, and publishing rewrites their outputs.
        changed = git("status", "--porcelain", "--", "synthseg", "params")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return ", ".join(
        str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
        for gpu in gpus
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# A run, as its chapter sees it ------------------------------------------------------------------


def start(chapter: int, namespace: dict[str, Any]) -> "Run":
    """Start or resume the run of a chapter: called right after its parameters cell.

    Sets the random seeds of Python, NumPy and Keras, lets TensorFlow take GPU memory only as it
    needs it, and shows the parameters.

    Parameters
    ----------
    chapter : int
        Chapter number.
    namespace : dict
        ``globals()`` of the notebook. Its plain values (bool, int, float, str, None) whose names
        don't begin with an underscore are the parameters.

    Raises
    ------
    ParameterError
        If a parameter is not one of those in the chapter's parameters cell, is missing, or has
        another type than its default.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    session = time.monotonic()
    given: dict[str, Scalar] = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and (value is None or type(value) in (bool, int, float, str))
    }
    path = chapter_path(chapter)
    defaults = default_parameters(path) if path.is_file() else given
    # In JupyterLab this cell may be executed again, after others have made values of their own.
    again = any(isinstance(value, Run) for value in namespace.values())
    for name in given if not again else ():
        if name not in defaults:
            raise _unknown(name, defaults, f"the parameters of chapter {chapter}")
    for name in (*REQUIRED, *defaults):
        if name not in given:
            raise ParameterError(f"Chapter {chapter} needs the parameter '{name}'.")
    parameters = {name: convert(name, given[name], defaults[name]) for name in defaults}
    _check_seed(parameters["seed"])
    namespace.update(parameters)  # now of the right types

    code = _chapter_code(chapter)
    key, folder = run_key(parameters, code), run_folder(chapter, parameters)
    if (folder / "card.json").is_file() and not _is_current(folder, key):
        _set_aside(folder)
    earlier = read_json(folder / "card.json")
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # the GPU is in use by this kernel already: too late to change, and harmless
    keras.utils.set_random_seed(int(str(parameters["seed"])))
    card = {
        "chapter": chapter_name(chapter),
        "profile": Path(str(parameters["folder"])).name,
        "folder": parameters["folder"],
        "key": key,
        "code": code,
        "parameters": parameters,
        "method_version": METHOD_VERSION,
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in PACKAGES},
        },
        "commit": _commit(),
        "data": None,
        "device": _device(),
        "inputs": {},
        "tables": [],
        "started": earlier.get("started", _now()),
        "finished": None,
        "duration_s": 0.0,
        "sessions": earlier.get("sessions", 0) + 1,
    }
    run = Run(chapter, folder, key, parameters, card, session, earlier.get("duration_s", 0.0))
    run.save_card()
    _show_table("Parameters", {name: repr(value) for name, value in parameters.items()})
    return run


@dataclass
class Run:
    """The run of one chapter; made by :func:`start`.

    Attributes
    ----------
    chapter : int
        Chapter number.
    folder : Path
        Where the run's files go.
    key : str
        Runs with the same key have the same results.
    parameters : dict
        The chapter's parameters.
    """

    chapter: int
    folder: Path
    key: str
    parameters: dict[str, Scalar]
    _card: dict[str, Any]
    _session: float
    _earlier_s: float
    _metrics: dict[str, Any] = field(default_factory=dict)

    def save_card(self) -> None:
        """Write the run card, with the time spent so far."""
        self._card["duration_s"] = round(self._earlier_s + time.monotonic() - self._session, 1)
        write_json(self.folder / "card.json", self._card)

    def load_data(self) -> "Dataset":
        """Load the data that the parameters name, and put its fingerprint on the card.

        A relative path counts from the root of the project, wherever the notebook runs.
        """
        from synthseg import volumes

        data, scale = str(self.parameters["data"]), self.parameters["nm_per_pixel"]
        if data not in ("phantom", "epfl"):
            data = ",".join(str(project_root() / part) for part in data.split(","))
        dataset = volumes.load(data, None if scale is None else float(scale))
        self._card["data"] = {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "provenance": dataset.provenance,
        }
        self.save_card()
        return dataset

    def record(self, **quantities: float) -> None:
        """Store numbers by name, for the results page and for the text of the chapter.

        In a chapter's text, ``{glue:text}`` shows them; so a name may be recorded by one cell
        only.
        """
        for name, value in quantities.items():
            # NumPy's and TensorFlow's numbers show themselves with their type.
            plain = value if isinstance(value, (bool, int, str)) else float(value)
            self._metrics[name] = plain
            if get_ipython() is not None:
                from myst_nb import glue

                glue(name, plain, display=False)
        write_json(self.folder / "metrics.json", _without_nan(self._metrics))

    def table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Store a table as ``<name>.csv``, for the results page; returns it for display."""
        write_text(self.folder / f"{name}.csv", table.to_csv(index=False))
        if name not in self._card["tables"]:
            self._card["tables"].append(name)
        self.save_card()
        return table

    def needs(self, chapter: int, filename: str) -> Path:
        """File of an earlier chapter's finished run with the same folder, seed and data.

        Raises
        ------
        MissingRun
            If there is none; the message names the command that makes it.
        """
        name = chapter_name(chapter)
        path = self.folder.parent / name / filename
        card = read_json(path.parent / "card.json")
        same = ("data", "nm_per_pixel")
        if not card.get("finished") or not path.is_file():
            problem = "has not been made yet"
        elif any(card["parameters"][key] != self.parameters[key] for key in same):
            problem = f"was made from other data ({card['parameters']['data']})"
        elif card["method_version"] != METHOD_VERSION:
            problem = "was made by an older version of the method"
        else:
            self._card["inputs"][name] = card["key"]
            self.save_card()
            return path
        raise MissingRun(
            f"Chapter {self.chapter} needs {filename} of chapter {chapter}, which {problem}: "
            f"make it with  {self._command(chapter)}"
        )

    def _command(self, chapter: int) -> str:
        """Command that runs another chapter as this one is run."""
        chosen = self.parameters
        profile = Path(str(chosen["folder"])).name
        if str(chosen["folder"]) == f"runs/{profile}" and _profile_path(profile).is_file():
            command = ["synthseg", "run", str(chapter), "--profile", profile]
            command += ["--seed", str(chosen["seed"]), "--data", str(chosen["data"])]
            if chosen["nm_per_pixel"] is not None:
                command += ["--set", f"nm_per_pixel={chosen['nm_per_pixel']}"]
        else:
            name = chapter_name(chapter)
            command = ["papermill", f"book/{name}.ipynb", f"{name}.ipynb"]
            for key in REQUIRED:
                if chosen[key] is not None:
                    command += ["-p", key, str(chosen[key])]
        return shlex.join(command)

    def fit(
        self,
        model: "keras.Model",
        make_dataset: Callable[[int], "tf.data.Dataset"],
        *,
        name: str,
        steps: int,
        epochs: int,
        callbacks: Iterable["keras.callbacks.Callback"] = (),
        **fit_kwargs: Any,
    ) -> pd.DataFrame:
        """Train a model by its ``fit()``, so that an interrupted training resumes exactly.

        After each epoch the weights, the state of the optimisers and of the layers' random numbers
        are stored. When the same run is started again, the training goes on after the last
        finished epoch, and a complete one is loaded instead of repeated. At the end the random
        seeds are set anew from the run's seed and `name`, so that what follows does not depend on
        whether the training was interrupted.

        Parameters
        ----------
        model : keras.Model
            Built and compiled; one with optimisers of its own has built them.
        make_dataset : callable
            Takes the number of steps already done, and returns the endless dataset of batches
            from there on.
        name : str
            Names the files; unique in the chapter.
        steps : int
            Number of training steps; rounded down to equally long epochs.
        epochs : int
            Number of parts into which the training is divided, each with one row of history; at
            most `steps`.
        callbacks : iterable of keras.callbacks.Callback
            A callback that is to be resumed too keeps its own files. What it adds to ``logs`` in
            ``on_epoch_end`` appears in the history.
        **fit_kwargs
            Further arguments of ``fit()``, for instance ``validation_data``.

        Returns
        -------
        pandas.DataFrame
            One row an epoch: ``epoch`` (from 1), ``step`` (steps done), and the logged values.

        Raises
        ------
        ParameterError
            If `steps` or `epochs` is less than 1.
        """
        import keras

        if steps < 1 or epochs < 1:
            raise ParameterError(f"{name} has {steps} steps in {epochs} epochs: at least 1 each.")
        epochs = min(epochs, steps)
        per_epoch = steps // epochs
        shapes = [list(weight.shape) for weight in model.weights]
        key = sha256([self.key, name, steps, epochs, shapes])
        final = self.folder / f"{name}.weights.h5"
        backup = self.folder / "resume" / f"{name}-{key[:8]}.weights.h5"
        state = _restore(model, final, key) or _restore(model, backup, key)
        state = state or {"key": key, "history": [], "seconds": 0.0, "complete": False}
        begun, line, last = time.monotonic() - state["seconds"], _StatusLine(), [0.0]

        def status(step: int, logs: Mapping[str, Any]) -> str:
            seconds = time.monotonic() - begun
            values = "".join(f", {key} {float(value):.4g}" for key, value in logs.items())
            left = show_duration(seconds / step * (per_epoch * epochs - step))
            return (
                f"{name}: step {step} of {per_epoch * epochs}{values}"
                f" ({show_duration(seconds)}, about {left} left)"
            )

        def after_batch(batch: int, logs: Mapping[str, Any] | None) -> None:
            if time.monotonic() - last[0] > 1:
                last[0] = time.monotonic()
                step = len(state["history"]) * per_epoch + batch + 1
                line.show(status(step, logs or {}))

        def after_epoch(epoch: int, logs: Mapping[str, Any] | None) -> None:
            values = {key: float(value) for key, value in (logs or {}).items()}
            row = {"epoch": epoch + 1, "step": (epoch + 1) * per_epoch, **values}
            state["history"].append(row)
            state["seconds"] = time.monotonic() - begun
            _backup(model, backup, state)
            self.save_card()

        if not state["complete"]:
            done = len(state["history"])
            if done < epochs:
                store = keras.callbacks.LambdaCallback(
                    on_epoch_end=after_epoch, on_train_batch_end=after_batch
                )
                model.fit(
                    make_dataset(done * per_epoch),
                    epochs=epochs,
                    initial_epoch=done,
                    steps_per_epoch=per_epoch,
                    verbose=0,
                    shuffle=False,  # the batches are drawn at random already
                    callbacks=[*callbacks, store],
                    **fit_kwargs,
                )
            state["complete"] = True
            _backup(model, final, state)
        history = pd.DataFrame(state["history"])
        write_text(self.folder / f"{name}.history.csv", history.to_csv(index=False))
        backup.unlink(missing_ok=True)
        row = {key: value for key, value in state["history"][-1].items() if key != "epoch"}
        values = "".join(f", {key} {value:.4g}" for key, value in row.items() if key != "step")
        line.show(f"{name}: {row['step']} steps in {show_duration(state['seconds'])}{values}")
        keras.utils.set_random_seed(int(sha256([self.parameters["seed"], name])[:8], 16))
        return history

    def finish(self) -> None:
        """Complete the run card and show it; called by the last code cell of the chapter."""
        shutil.rmtree(self.folder / "resume", ignore_errors=True)
        if not self._metrics:
            write_json(self.folder / "metrics.json", {})
        self._card["finished"] = _now()
        self.save_card()
        card, data = self._card, self._card["data"] or {}
        _show_table(
            "Run card",
            {
                "data": f"{data.get('name')} ({data.get('fingerprint')})",
                "seed": str(self.parameters["seed"]),
                "method version": str(card["method_version"]),
                "commit": card["commit"] or "unknown",
                "duration": show_duration(card["duration_s"]),
                "device": card["device"],
            },
            row=True,
        )


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Not-a-number as null: JSON has no other word for it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _seed_states(model: "keras.Model") -> list[Any]:
    """States of the layers' random number generators, which ``save_weights`` leaves out."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _backup(model: "keras.Model", path: Path, state: Mapping[str, Any]) -> None:
    """Store a training in one file, so that it is never seen half-written.

    ``save_weights`` stores the optimisers of the model, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    model.save_weights(temporary)
    built = model.optimizer is not None and model.optimizer.built
    with h5py.File(temporary, "a") as file:
        group = file.create_group("synthseg")
        group["state"] = json.dumps({**state, "optimizer_built": built})
        for number, variable in enumerate(_seed_states(model)):
            group[f"seed_{number}"] = variable.numpy()
    temporary.replace(path)


def _restore(model: "keras.Model", path: Path, key: str) -> dict[str, Any] | None:
    """Load what :func:`_backup` stored, unless there is nothing or it belongs to another fit."""
    if not path.is_file():
        return None
    with h5py.File(path, "r") as file:
        group = file["synthseg"]
        state: dict[str, Any] = json.loads(group["state"][()])
        if state["key"] != key:
            return None
        for number, variable in enumerate(_seed_states(model)):
            variable.assign(group[f"seed_{number}"][()])
    if state.pop("optimizer_built") and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)  # else its state would not be loaded
    with warnings.catch_warnings():  # Keras would go on with a fresh optimiser
        warnings.filterwarnings("error", message="Skipping variable loading")
        model.load_weights(path)
    return state


class _StatusLine:
    """One line that is updated in place; a notebook keeps only its last state."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        if get_ipython() is None:
            return
        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)


def _show_table(title: str, values: Mapping[str, str], row: bool = False) -> None:
    """Show names and values as a small table: a line each, or all in one row."""
    text = f"{title}: " + ", ".join(f"{name} {value}" for name, value in values.items())
    if get_ipython() is None:
        print(text)
        return
    names = [f"<th>{html.escape(name)}</th>" for name in values]
    cells = [f"<td>{html.escape(value)}</td>" for value in values.values()]
    if row:
        lines = ["".join(names), "".join(cells)]
    else:
        lines = [name + cell for name, cell in zip(names, cells, strict=True)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    page = f"<table><caption>{html.escape(title)}</caption>{body}</table>"
    display({"text/html": page, "text/plain": text}, raw=True)


# Executing chapters -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Executed:
    """Outcome of :func:`execute`.

    Attributes
    ----------
    notebook : Path
        The executed notebook.
    skipped : bool
        Whether a finished run with the same key made it unnecessary to execute the chapter.
    duration_s : float
        Seconds that this call took.
    """

    notebook: Path
    skipped: bool
    duration_s: float


def execute(
    chapter: int, parameters: Mapping[str, Scalar], *, force: bool = False, progress: bool = True
) -> Executed:
    """Execute a chapter by papermill in a fresh kernel of the running Python.

    Parameters
    ----------
    chapter : int
        Chapter number.
    parameters : mapping
        All parameters of the chapter, as :func:`plan` settles them.
    force : bool
        Start anew even if the run is finished or begun; the earlier one is set aside.
    progress : bool
        Show a progress bar over the cells, if standard error is a terminal.

    Raises
    ------
    ChapterError
        If a cell fails; the message names chapter, cell, error and the partial notebook.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    begun, name, path = time.monotonic(), chapter_name(chapter), chapter_path(chapter)
    folder, key = run_folder(chapter, parameters), run_key(parameters, _chapter_code(chapter))
    notebook = folder / f"{name}.ipynb"
    if card := read_json(folder / "card.json"):
        if force or not _is_current(folder, key):
            _set_aside(folder)
        elif card["finished"] and notebook.is_file():
            return Executed(notebook, True, time.monotonic() - begun)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.ipynb"
    # Kernels inherit these: no start-up messages of TensorFlow in the book, and the kernel that
    # belongs to this environment rather than one of the same name in the user's home folder.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    try:
        papermill.execute_notebook(
            str(path),
            str(partial),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            cwd=str(project_root()),
            progress_bar={"desc": name, "disable": None, "leave": False} if progress else False,
        )
    except papermill.PapermillExecutionError as error:
        first = error.source.partition("\n")[0]
        reason = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).partition("\n")[0].rstrip(".")
        raise ChapterError(
            f"Chapter {chapter} ({name}) stopped in cell [{error.exec_count}] ({first}) with "
            f"{error.ename}: {reason}; the notebook up to there is {show_path(partial)}"
        ) from error
    except DeadKernelError as error:
        raise ChapterError(
            f"Chapter {chapter} ({name}) stopped because its kernel died, mostly for lack of "
            f"memory; the notebook up to there is {show_path(partial)}"
        ) from error
    partial.replace(notebook)
    if not read_json(folder / "card.json").get("finished"):
        raise ChapterError(
            f"Chapter {chapter} ({name}) ended without run.finish(): its last code cell must call "
            f"it."
        )
    return Executed(notebook, False, time.monotonic() - begun)


def show_path(path: Path) -> str:
    """Path relative to the working directory where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
