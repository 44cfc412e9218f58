"""Runs: what a chapter is given, and what it leaves.

A run is one chapter with one set of parameters. :func:`start` checks them and gives a :class:`Run`,
whose files go into ``<folder>/seed-<seed>/<chapter>/``:

==========================  ========================================================================
``<chapter>.ipynb``         the executed notebook (``<chapter>.partial.ipynb`` until complete)
``<chapter>.log``           what libraries reported about devices and the like
``metrics.json``            every number that the chapter recorded, by name
``<table>.csv``             every table that it stored
``<fit>.history.csv``       one row an epoch, beside the weights of that training
``card.json``               the run card: what made these numbers
``done-<12 of key>.json``   the receipt of a finished run
==========================  ========================================================================

Two runs with the same key have the same results on one machine. Another key is another run: the
earlier one is set aside, nothing is overwritten.
"""

import ast
import html
import math
import os
import platform
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pandas as pd
from filelock import FileLock, Timeout
from IPython import get_ipython
from IPython.display import Markdown, display

from synthseg import METHOD_VERSION
from synthseg.parameters import (
    REQUIRED,
    ParameterError,
    RunError,
    Scalar,
    chapter_name,
    chapter_path,
    given_parameters,
    profile_path,
    project_root,
    read_json,
    sha256,
    show_duration,
    show_path,
    write_json,
    write_text,
)

# TensorFlow takes seconds to import, so only the functions that need it do: the command line and
# its error messages come at once.
if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from synthseg.volumes import Dataset

__all__ = ["ParameterError", "Run", "RunError", "read_json", "start", "write_json"]

METHOD = (
    *("sampling", "masks", "gan", "segmenter", "joint", "frechet", "lite0", "metrics"),
    *("training", "fast", "settings"),
)
"""Files of the module whose code is part of a run's key."""

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "synthseg")
"""Packages whose versions a run card states."""

INPUTS = {"generator": 2, "segmenter": 3}
"""Parameters that name the run folder of an earlier chapter; empty stands for the sibling."""

LOCK_WAIT = 10.0
"""Seconds to wait for a lock: the kernel of a killed run ends about a second after it."""


class MissingRun(RunError):
    """A run of an earlier chapter that is missing or does not fit."""


# The folder and the key of a run ----------------------------------------------------------------


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
    found = {name: number for name, number in INPUTS.items() if name in parameters}
    if chapter in (4, 5, 6, 7):  # until all chapters are rewritten: their input was guessed
        found.setdefault("generator", 2)
    return found


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
    if folder == f"runs/{profile}" and profile_path(profile).is_file():
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
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
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


# The run card -----------------------------------------------------------------------------------


def without_paths(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Parameters to show and to publish: of a user's own paths, only the last part."""
    return {
        name: ",".join(Path(part).name if Path(part).is_absolute() else part for part in parts)
        if isinstance(value, str) and (parts := value.split(","))
        else value
        for name, value in parameters.items()
    }


def commit() -> str | None:
    """The git commit, followed by ``+changes`` if the module or the profiles differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        # Chapters have a fingerprint of their own, and publishing rewrites their outputs.
        changed = git("status", "--porcelain", "--", "synthseg", "params")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes" if changed else head


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    installed = {package: metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **installed}


def device() -> str:
    """What computes here: graphics cards, or the processor and its number of threads."""
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        return ", ".join(str(detail.get("device_name", "GPU")) for detail in details)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    extras = [label for flag, label in (("amx_", "AMX"), ("avx512f", "AVX-512")) if flag in text]
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "0")
    count = int(threads) if int(threads) > 0 else os.cpu_count()
    return f"{name}{' with ' + ' and '.join(extras) if extras else ''}, {count} threads"


def _memory() -> int | None:
    """Most memory that this process has used, in MiB; None where the system doesn't say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# A run, as its chapter sees it ------------------------------------------------------------------


def start(chapter: int | str, namespace: dict[str, Any]) -> "Run":
    """Start or resume the run of a chapter: called right after its parameters cell.

    Checks the parameters, loads the data, finds the runs that the chapter builds upon, sets the
    random seeds, and shows the parameters. Until this process ends, no other can start the run.

    Parameters
    ----------
    chapter : int or str
        Chapter number; or the name of a notebook in ``workflow/``.
    namespace : dict
        ``globals()`` of the notebook. Its plain values (bool, int, float, str, None) whose names
        don't begin with an underscore are the parameters.

    Raises
    ------
    RunError
        If a parameter is not one of those in the chapter's parameters cell, is missing, or has
        another type than its default; if the run of an earlier chapter does not fit; or if another
        process is at work on this run.
    DataError
        If the data cannot be used.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from synthseg.training import reproducible

    begun = time.monotonic()
    tf.get_logger().setLevel("ERROR")  # no warnings on pages, for instance of functions traced anew
    # In JupyterLab this cell may be executed again, after others have made values of their own.
    again = any(isinstance(value, Run) for value in namespace.values())
    parameters = given_parameters(chapter, namespace, strict=not again)
    namespace.update(parameters)  # now of the right types
    dataset = load_data(parameters)
    data = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "provenance": dataset.provenance,
    }
    inputs, used = {}, {}
    for name in input_chapters(chapter, parameters):
        card = read_input(name, parameters, data["fingerprint"])
        inputs[name] = input_folder(name, parameters)
        used[card["chapter"]] = card["key"]
    folder = run_folder(chapter, parameters)
    key = run_key(chapter, parameters, used, data["fingerprint"])
    hold(folder)
    set_aside(folder, key)
    earlier = read_json(folder / "card.json")
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # the GPU is in use by this kernel already: too late to change, and harmless
    card = {
        "chapter": chapter_name(chapter),
        "profile": Path(str(parameters["folder"])).name,
        "key": key,
        "code": chapter_code(chapter),
        "parameters": parameters,
        "method_version": METHOD_VERSION,
        "versions": versions(),
        "commit": commit(),
        "data": data,
        "device": device(),
        "inputs": used,
        "started": earlier.get("started", _now()),
        "finished": None,
        "duration_s": 0.0,
        "memory_mib": None,
        "sessions": earlier.get("sessions", 0) + 1,
    }
    reproducible(int(str(parameters["seed"])))
    begun -= earlier.get("duration_s", 0.0)
    run = Run(chapter, folder, key, parameters, cut(dataset, parameters), inputs, card, begun)
    run.save_card()
    shown = without_paths(parameters)
    _show_table("Parameters", {name: repr(value) for name, value in shown.items()})
    return run


@dataclass
class Run:
    """The run of one chapter; made by :func:`start`.

    Attributes
    ----------
    chapter : int or str
        Chapter number, or name of a notebook of the study.
    folder : Path
        Where the run's files go.
    key : str
        Runs with the same key have the same results.
    parameters : dict
        The chapter's parameters.
    dataset : Dataset
        The data; the training volume is cut to the parameter ``part``.
    inputs : dict
        Folders of the runs that the parameters ``generator`` and ``segmenter`` name.
    """

    chapter: int | str
    folder: Path
    key: str
    parameters: dict[str, Scalar]
    dataset: "Dataset"
    inputs: dict[str, Path]
    _card: dict[str, Any]
    _begun: float  # as if the run had never been interrupted
    _metrics: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def seed(self) -> int:
        """The seed of the run, from which all others follow."""
        return int(str(self.parameters["seed"]))

    def stream(self, name: str) -> int:
        """Seed of one stream of random numbers, below 2^31: a function of the run's seed and name.

        So no two streams of a chapter share their numbers by accident.
        """
        return int(sha256([self.seed, name])[:8], 16) % 2**31

    def save_card(self) -> None:
        """Write the run card, with the time spent so far."""
        self._card["duration_s"] = round(time.monotonic() - self._begun, 1)
        self._card["memory_mib"] = _memory()
        write_json(self.folder / "card.json", self._card)

    # Until all chapters are rewritten ------------------------------------------------------------

    def load_data(self) -> "Dataset":
        """The data."""
        return self.dataset

    def needs(self, chapter: int, filename: str) -> Path:
        """File of an earlier chapter's run."""
        return self.inputs[{2: "generator", 3: "segmenter"}[chapter]] / filename

    # End of what goes then -----------------------------------------------------------------------

    def fit(
        self,
        model: "keras.Model",
        make_dataset: Callable[[int], "tf.data.Dataset"],
        *,
        name: str,
        steps: int,
        epochs: int,
        **options: Any,
    ) -> pd.DataFrame:
        """Train a model in this run by :func:`synthseg.training.fit`, which resumes exactly.

        `make_dataset` gives the batches from a step on, `name` is unique in the chapter, and
        `options` are ``callbacks`` and further arguments of Keras' ``fit()``.
        """
        from synthseg import training

        return training.fit(
            model,
            make_dataset,
            folder=self.folder,
            key=self.key,
            seed=self.seed,
            name=name,
            steps=steps,
            epochs=epochs,
            after_epoch=self.save_card,
            **options,
        )

    def record(self, **quantities: float) -> None:
        """Store numbers by name, for the results page and for ``{glue:text}`` in the chapter."""
        for name, value in quantities.items():
            # NumPy's and TensorFlow's numbers show themselves with their type.
            plain = value if isinstance(value, (bool, int, str)) else float(value)
            # JSON has no other word for what is not a finite number.
            finite = not isinstance(plain, float) or math.isfinite(plain)
            self._metrics[name] = plain if finite else None
            if get_ipython() is not None:
                from myst_nb import glue

                glue(name, plain, display=False)
        write_json(self.folder / "metrics.json", self._metrics)

    def table(
        self,
        name: str,
        frame: pd.DataFrame,
        names: Mapping[str, str] | None = None,
        digits: int = 3,
    ) -> Any:
        """Store a table as ``NAME.csv``, record its numbers, and return it for display.

        The number in a row and a column is recorded as ``NAME_ROW_COLUMN``; ROW is the value in the
        first column, or the number of the row, from 1, where two rows have the same value.
        """
        from synthseg import figures

        write_text(self.folder / f"{name}.csv", frame.to_csv(index=False))
        first = frame.iloc[:, 0]
        labels = first if first.is_unique else range(1, len(frame) + 1)
        self.record(
            **{
                _slug(f"{name} {label} {column}"): value
                for label, row in zip(labels, frame.to_dict("records"), strict=True)
                for column, value in list(row.items())[1:]
                if isinstance(value, (int, float)) and not isinstance(value, bool)
            }
        )
        if not hasattr(figures, "table"):  # until it is there
            return frame
        return figures.table(frame, names, digits)

    def say(self, text: str) -> None:
        """Show a text in Markdown."""
        display(Markdown(text))

    def finish(self) -> None:
        """Complete the run card, write the receipt and show the card: the chapter's last cell."""
        self.record()
        self._card["finished"] = _now()
        self.save_card()
        card, data = self._card, self._card["data"]
        write_json(receipt(self.folder, self.key), {"key": self.key, "finished": card["finished"]})
        _show_table(
            "Run card",
            {
                "data": f"{data['name']} ({data['fingerprint']})",
                "seed": str(self.seed),
                "method version": str(card["method_version"]),
                "commit": card["commit"] or "unknown",
                "duration": show_duration(card["duration_s"]),
                "device": card["device"],
            },
            row=True,
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


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
