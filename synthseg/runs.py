"""Runs: where the files of a chapter go, what its run card says, and how it is executed.

A run is one chapter, executed with one set of parameters. It writes into one folder,
``<folder>/seed-<seed>/<chapter>/``:

================================  ==================================================================
``<chapter>.ipynb``               the executed notebook (``<chapter>.partial.ipynb`` until complete)
``metrics.json``                  every number that the chapter recorded, by name
``<table>.csv``                   every table that it stored
``<chapter>.log``                 what libraries reported about devices and the like
``<fit>.history.csv``             one row an epoch
``<fit>.weights.h5``              weights and optimiser state at the end of a training
``resume/``                       the same after each finished epoch, until the training is complete
``*.damaged``                     a file of one of these kinds that could not be read, set aside
``card.json``                     the run card
================================  ==================================================================

Beside the folder lies ``.<chapter>.lock``, which the process that computes holds, and
``.<chapter>.lock.json``, which says who that is. The system frees it when the process ends,
however it ends.

Keys of a run card:

==================  ===============================================================================
``chapter``         name, for instance ``03_baseline_segmentation``
``profile``         last part of ``folder``
``folder``          folder of the profile, relative to the project
``key``             sha256 over parameters (but ``folder``), method version, and the code of the
                    chapter and of the module
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

import html
import math
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pandas as pd
from filelock import FileLock, Timeout
from IPython import get_ipython
from IPython.display import display
from jupyter_client import AsyncKernelManager

from synthseg import METHOD_VERSION
from synthseg.parameters import (
    REQUIRED,
    ChapterError,
    MissingRun,
    ParameterError,
    RunError,
    RunLocked,
    Scalar,
    chapter_name,
    chapter_path,
    code_fingerprint,
    given_parameters,
    module_fingerprint,
    profile_path,
    project_root,
    read_json,
    sha256,
    show_duration,
    show_path,
    storing,
    write_json,
    write_text,
)

# TensorFlow takes seconds to import, so only the functions that need it do: the command line and
# its error messages come at once.
if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from synthseg.volumes import Dataset

# What chapters use, also of what is defined in ``parameters``.
__all__ = [
    "ChapterError",
    "Executed",
    "MissingRun",
    "ParameterError",
    "Run",
    "RunError",
    "chapter_path",
    "execute",
    "read_json",
    "start",
    "write_json",
]

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "synthseg")
"""Packages whose versions a run card states."""


# The folder of a run ----------------------------------------------------------------------------


def run_folder(chapter: int, parameters: Mapping[str, Scalar]) -> Path:
    """Folder of the run of a chapter."""
    folder = project_root() / str(parameters["folder"]) / f"seed-{parameters['seed']}"
    return folder / chapter_name(chapter)


def run_key(parameters: Mapping[str, Scalar], code: str) -> str:
    """Two runs with the same key, on the same data, have the same results.

    Parameters
    ----------
    parameters : mapping
        All parameters of the chapter; ``folder`` does not count.
    code : str
        Fingerprint of the chapter's code.
    """
    counting = {name: value for name, value in parameters.items() if name != "folder"}
    return sha256([counting, METHOD_VERSION, code, module_fingerprint()])


def chapter_code(chapter: int) -> str:
    """Fingerprint of a chapter's code as it is in the book."""
    path = chapter_path(chapter)
    return code_fingerprint(nbformat.read(path, as_version=4)) if path.is_file() else "unknown"


def is_current(folder: Path, key: str, fingerprint: str | None = None) -> bool:
    """Whether the run in a folder has this key, and what it used is unchanged.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    key : str
        Key that it should have.
    fingerprint : str, optional
        Fingerprint of the data as they are now; not compared if not given.
    """
    card = read_json(folder / "card.json")
    used_data = (card.get("data") or {}).get("fingerprint")
    if fingerprint and used_data and used_data != fingerprint:
        return False
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
    with storing(target):
        folder.rename(target)


LOCK_WAIT = 5.0
"""Seconds to wait for a lock: the kernel of a killed run ends about a second after it."""

_held: dict[Path, FileLock] = {}  # by this process, until it ends


def _hold(folder: Path, suffix: str = "lock") -> FileLock:
    """Take the lock of a run for this process, which may hold it already.

    Raises
    ------
    RunLocked
        If another process holds it.
    StorageError
        If there can be no lock, because the folder cannot be written to.
    """
    path = folder.with_name(f".{folder.name}.{suffix}")
    if path in _held:
        return _held[path]
    lock, holder = FileLock(path), path.with_name(f"{path.name}.json")
    with storing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=LOCK_WAIT)
        except Timeout as error:
            other = read_json(holder)
            raise RunLocked(
                f"The run in {show_path(folder)} is in use by process {other.get('pid')} on "
                f"{other.get('host')} since {other.get('since')}: wait until it ends, or stop it, "
                "or close its notebook; another seed has a folder of its own."
            ) from error
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
    _held[path] = lock
    return lock


def _release(folder: Path, suffix: str = "lock") -> None:
    if lock := _held.pop(folder.with_name(f".{folder.name}.{suffix}"), None):
        lock.release()


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


def package_version(package: str) -> str | None:
    """Version of an installed package; None if there is none."""
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
    needs it, and shows the parameters. Until this process ends, no other can start the run.

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
    RunLocked
        If another process is at work on this run.
    StorageError
        If the folder cannot be written to.
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

    code = chapter_code(chapter)
    key, folder = run_key(parameters, code), run_folder(chapter, parameters)
    _hold(folder)
    earlier = read_json(folder / "card.json")
    if earlier and not is_current(folder, key):
        _set_aside(folder)
        earlier = {}
    for pattern in (".*.tmp", ".*.weights.h5"):  # half-written when a process was killed
        for leftover in folder.rglob(pattern):
            leftover.unlink(missing_ok=True)
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break  # the GPU is in use by this kernel already: too late to change, and harmless
    reproducible(int(str(parameters["seed"])))
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
            **{package: package_version(package) for package in PACKAGES},
        },
        "commit": commit(),
        "data": None,
        "device": _device(),
        "inputs": {},
        "tables": [],
        "started": earlier.get("started", _now()),
        "finished": None,
        "duration_s": 0.0,
        "sessions": earlier.get("sessions", 0) + 1,
    }
    begun -= earlier.get("duration_s", 0.0)
    begun_with = (earlier.get("data") or {}).get("fingerprint")
    run = Run(chapter, folder, key, parameters, card, begun, begun_with)
    run.save_card()
    _show_table("Parameters", {name: repr(value) for name, value in parameters.items()})
    return run


def load_data(parameters: Mapping[str, Scalar]) -> "Dataset":
    """Load the data that a chapter's parameters name.

    A relative path counts from the root of the project, wherever the notebook runs.
    """
    from synthseg import volumes

    data, scale = str(parameters["data"]), parameters["nm_per_pixel"]
    if data not in ("phantom", "epfl"):
        data = ",".join(str(project_root() / part) for part in data.split(","))
    return volumes.load(data, None if scale is None else float(scale))


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
    _begun: float  # as if the run had never been interrupted
    _begun_with: str | None  # fingerprint of the data, if this run was interrupted
    _metrics: dict[str, Any] = field(default_factory=dict)

    def save_card(self) -> None:
        """Write the run card, with the time spent so far."""
        self._card["duration_s"] = round(time.monotonic() - self._begun, 1)
        write_json(self.folder / "card.json", self._card)

    def load_data(self) -> "Dataset":
        """Load the data that the parameters name, and put its fingerprint on the card.

        Raises
        ------
        RunError
            If this run was begun with other data of the same name.
        """
        dataset = load_data(self.parameters)
        if self._begun_with not in (None, dataset.fingerprint):
            raise RunError(
                f"The data '{self.parameters['data']}' have changed since the run in "
                f"{show_path(self.folder)} was begun. Start anew with "
                f"'synthseg run {self.chapter} --force', or remove that folder."
            )
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
            # JSON has no other word for what is not a finite number.
            finite = not isinstance(plain, float) or math.isfinite(plain)
            self._metrics[name] = plain if finite else None
            if get_ipython() is not None:
                from myst_nb import glue

                glue(name, plain, display=False)
        write_json(self.folder / "metrics.json", self._metrics)

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
        mine, its = self._card["data"], card.get("data")
        if not card.get("finished") or not path.is_file():
            problem = "has not been made yet"
        elif mine and its and mine["fingerprint"] != its["fingerprint"]:
            problem = f"was made from other data ({its['name']}, fingerprint {its['fingerprint']})"
        elif different := [
            key
            for key in ("data", "nm_per_pixel", "crop", "size")
            if key in self.parameters and card["parameters"].get(key) != self.parameters[key]
        ]:
            key = different[0]
            problem = f"was made with {key}={card['parameters'].get(key)}"
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
        if str(chosen["folder"]) == f"runs/{profile}" and profile_path(profile).is_file():
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
            seed=int(str(self.parameters["seed"])),
            name=name,
            steps=steps,
            epochs=epochs,
            after_epoch=self.save_card,
            **options,
        )

    def finish(self) -> None:
        """Complete the run card and show it; called by the last code cell of the chapter."""
        shutil.rmtree(self.folder / "resume", ignore_errors=True)
        write_json(self.folder / "metrics.json", self._metrics)
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
    damaged : list of Path
        Files in the run's folder that could not be read and were set aside.
    """

    notebook: Path
    skipped: bool
    duration_s: float
    damaged: list[Path] = field(default_factory=list)


def _logging_to(log: Path) -> type[AsyncKernelManager]:
    """A kernel manager whose kernels write libraries' messages to a file, off the terminal.

    TensorFlow and ipykernel report on devices and ports at each start, below Python's own streams
    and in the middle of the progress bar.
    """

    class LoggingKernelManager(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:
            with log.open("wb") as messages:
                await super().start_kernel(**options, stderr=messages)

    return LoggingKernelManager


def execute(
    chapter: int,
    parameters: Mapping[str, Scalar],
    *,
    fingerprint: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> Executed:
    """Execute a chapter by papermill in a fresh kernel of the running Python.

    Parameters
    ----------
    chapter : int
        Chapter number.
    parameters : mapping
        All parameters of the chapter, as :func:`synthseg.parameters.plan` settles them.
    fingerprint : str, optional
        Fingerprint of the data as they are now: a run that was made from others is set aside.
    force : bool
        Start anew even if the run is finished or begun; the earlier one is set aside.
    progress : bool
        Show a progress bar over the cells, if standard error is a terminal.

    Raises
    ------
    ChapterError
        If a cell fails; the message names chapter, cell, error and the partial notebook.
    RunLocked
        If another process is at work on this run.
    StorageError
        If the folder cannot be written to, or the disk is full.
    """
    begun, name, path = time.monotonic(), chapter_name(chapter), chapter_path(chapter)
    folder, key = run_folder(chapter, parameters), run_key(parameters, chapter_code(chapter))
    notebook = folder / f"{name}.ipynb"
    finished = read_json(folder / "card.json").get("finished") and notebook.is_file()
    if finished and not force and is_current(folder, key, fingerprint):
        with storing(folder):
            (folder / "card.json").touch()  # the latest run is the one that a book is built from
        return Executed(notebook, True, time.monotonic() - begun)
    # The kernel takes the run's lock, but some seconds after it has been started.
    _hold(folder, "runner.lock")
    try:
        _hold(folder)
        _release(folder)
        if (folder / "card.json").is_file() and (force or not is_current(folder, key, fingerprint)):
            _set_aside(folder)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.partial.ipynb"
        _execute(chapter, path, partial, parameters, progress)
        partial.replace(notebook)
    finally:
        _release(folder, "runner.lock")
    if not read_json(folder / "card.json").get("finished"):
        raise ChapterError(
            f"Chapter {chapter} ({name}) ended without run.finish(): "
            "its last code cell must call it."
        )
    damaged = sorted(folder.rglob("*.damaged*"))
    return Executed(notebook, False, time.monotonic() - begun, damaged)


def _execute(
    chapter: int, path: Path, partial: Path, parameters: Mapping[str, Scalar], progress: bool
) -> None:
    """Execute a notebook by papermill."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    name = chapter_name(chapter)
    # Kernels inherit these: no start-up messages of TensorFlow in the book, and the kernel that
    # belongs to this environment rather than one of the same name in the user's home folder.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # see training.reproducible
    # They must not inherit a user's Matplotlib backend: chapters would show no figures.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        papermill.execute_notebook(
            str(path),
            str(partial),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            cwd=str(project_root()),
            progress_bar={"desc": name, "disable": None, "leave": False} if progress else False,
            kernel_manager_class=_logging_to(partial.with_name(f"{name}.log")),
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
            "memory; the same command goes on after the last finished epoch, and the notebook up "
            f"to there is {show_path(partial)}"
        ) from error
    except OSError as error:  # papermill writes the notebook after each cell
        with storing(partial):
            raise error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
