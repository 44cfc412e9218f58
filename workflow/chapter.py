"""One job of a plan: executes a chapter by papermill in a fresh kernel of this Python.

    python workflow/chapter.py PLAN RUN

What it is doing, or why it stopped, is in ``.<run>.status.json`` beside the run's folder, which
``synthseg run`` shows. A run whose ``synthseg run`` has been killed ends, too.
"""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from lab import readable
from nbclient.exceptions import DeadKernelError

from synthseg import keys
from synthseg.project import (
    ChapterError,
    RunError,
    chapter_path,
    project_root,
    read_json,
    show_path,
    write_json,
    write_text,
)


def execute(folder: Path, job: dict[str, Any], report: Any) -> None:
    """Execute the chapter of a job in the folder of its run."""
    name = folder.name
    with keys.hold(folder):  # whoever is at work on this run must be done; then it is the kernel's
        keys.set_aside(folder, job["key"])
    folder.mkdir(parents=True, exist_ok=True)
    path, executed = chapter_path(job["chapter"]), folder / f"{name}.ipynb"
    cells = len(nbformat.read(path, as_version=4).cells) + 1  # with the injected parameters
    try:
        papermill.execute_notebook(
            str(path),
            str(executed),
            parameters=job["parameters"],
            kernel_name="python3",
            language="python",
            cwd=str(project_root()),
            progress_bar=False,
            start_timeout=300,  # seconds; on a busy machine a kernel needs more than the usual 60
            on_cell_start=lambda cell, cell_index: report("runs", cell_index / cells),
        )
    except papermill.PapermillExecutionError as error:
        first = error.source.partition("\n")[0]
        reason = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).partition("\n")[0].rstrip(".")
        kind = "" if error.ename in OURS else f"{error.ename}: "
        raise ChapterError(
            f"{name} stopped in cell [{error.exec_count}] ({first}): {kind}{reason}; "
            f"the notebook up to there is {show_path(executed)}."
        ) from error
    except DeadKernelError as error:
        raise ChapterError(
            f"{name} stopped because its kernel died, mostly for lack of memory; the same command "
            "goes on after the last finished epoch."
        ) from error
    card = read_json(folder / "card.json")
    if card.get("key") != job["key"] or not card["finished"]:
        raise ChapterError(
            f"{name} ended without finishing this run: its last code cell must be run.finish(), "
            "and neither its data nor its inputs may change meanwhile."
        )
    book = Path(os.path.relpath(project_root() / "book", folder)).as_posix()
    notebook = readable(nbformat.read(executed, as_version=4), f"{book}/")
    write_text(executed, nbformat.writes(notebook) + "\n")


OURS = {"DataError", "Diverged", "MissingRun", "ParameterError", "RunError"}
"""Errors whose message says all: their names would only be in the way."""


def end_with(runner: psutil.Process) -> None:
    """End this process when another has ended."""
    while runner.is_running():
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def main(plan_file: str, run: str) -> int:
    """Execute one job of a plan; 1 if it failed."""
    plan = read_json(Path(plan_file))
    if runner := os.environ.get("SYNTHSEG_RUNNER"):  # not in the jobs of a cluster
        process = psutil.Process(int(runner))
        threading.Thread(target=end_with, args=(process,), daemon=True).start()
    elif threads := os.environ.get("OMP_NUM_THREADS"):  # what Snakemake asked the cluster for
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", threads)
    os.environ["SYNTHSEG_ROOT"] = plan["root"]
    # Kernels inherit these: the kernel that belongs to this environment rather than one of the same
    # name in the user's home folder.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # see training.reproducible
    # They must not inherit a user's Matplotlib backend: chapters would show no figures.
    os.environ.pop("MPLBACKEND", None)
    folder, begun = Path(plan_file).resolve().parent / run, time.time()

    def report(state: str, part: float, **more: Any) -> None:
        write_json(keys.status(folder), {"begun": begun, "state": state, "part": part, **more})

    try:
        report("runs", 0.0)
        execute(folder, plan["jobs"][run], report)
    except (RunError, OSError) as error:
        report("failed", 0.0, error=str(error), ended=time.time())
        return 1
    report("done", 1.0, ended=time.time())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
