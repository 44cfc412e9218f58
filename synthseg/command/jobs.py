"""Jobs: which runs a request needs, and their execution by Snakemake.

Snakemake knows the order, what is finished, and how many jobs run side by side, here or on a
cluster (``workflow/Snakefile``); each job is ``workflow/chapter.py``.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from synthseg import keys
from synthseg.parameters import Scalar
from synthseg.project import (
    ChapterError,
    RunError,
    project_root,
    read_json,
    show_path,
    write_json,
)


@dataclass(frozen=True)
class Job:
    """One run that was asked for; its inputs are folders of runs.

    The chapter is a number, or the name of a notebook in ``workflow/``.
    """

    chapter: int | str
    folder: Path
    parameters: Mapping[str, Scalar]
    key: str
    inputs: tuple[Path, ...]

    @property
    def finished(self) -> bool:
        """Whether there is such a run already."""
        return keys.receipt(self.folder, self.key).is_file()

    @property
    def last_time(self) -> float | None:
        """Seconds that the run in this folder took, if it is finished; its key may differ."""
        card = read_json(self.folder / "card.json")
        return card["duration_s"] if card.get("finished") else None


def make_plan(chosen: Iterable[tuple[int | str, Mapping[str, Scalar]]]) -> list[Job]:
    """Load the data of some chapters, and settle the key of each, in the order given.

    What stops a chapter right at its start comes up here: data that cannot be used, or an input
    that is neither in the plan nor made before.
    """
    datasets: dict[tuple[Scalar, ...], Any] = {}
    planned: dict[Path, Job] = {}
    for chapter, parameters in chosen:
        source = parameters["data"], parameters["nm_per_pixel"]
        if source not in datasets:
            datasets[source] = keys.load_data(parameters)
        keys.cut(datasets[source], parameters)
        data, known = datasets[source].fingerprint, {f: job.key for f, job in planned.items()}
        inputs, used = keys.find_inputs(parameters, data, known)
        folder = keys.run_folder(chapter, parameters)
        key = keys.run_key(chapter, parameters, used, data)
        planned[folder] = Job(chapter, folder, parameters, key, tuple(inputs.values()))
    return list(planned.values())


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    state: Literal["runs", "done", "failed", "unchanged"]
    part: float = 0.0  # of its cells
    seconds: float = 0.0


Show = Callable[[Job, Progress], None]


def execute(
    jobs: list[Job],
    base: Path,
    show: Show,
    *,
    side_by_side: int = 1,
    in_order: bool = False,
    keep_going: bool = False,
    force: bool = False,
    executor: str | None = None,
) -> None:
    """Execute the jobs that are not finished, side by side if wanted; they share the cores.

    The folder `base` holds those of their runs; nobody else may run a plan there meanwhile. `show`
    is told several times a second where each job stands. With `force`, finished and begun runs are
    set aside. Of jobs side by side the last ones come first, for chapter 7 is the longest, or with
    `in_order` the first ones. With `keep_going` a failure does not stop the jobs that do not need
    it. `executor` is a profile in ``workflow/profiles/``, for a cluster. Raises a ChapterError if
    a job fails.
    """
    with keys.hold(base, wait=0.1):
        waiting = [job for job in jobs if force or not job.finished]
        for job in waiting:
            keys.status(job.folder).unlink(missing_ok=True)
            if force:
                with keys.hold(job.folder):
                    keys.set_aside(job.folder)
        for job in (job for job in jobs if job not in waiting):
            (job.folder / "card.json").touch()  # a book is built from the latest run
            show(job, Progress("unchanged", part=1.0))
        if waiting:
            _write_plan(waiting, base, in_order or side_by_side == 1)
            failures = _snakemake(waiting, base, show, side_by_side, keep_going, executor)
            if failures:
                raise ChapterError("\n".join(failures if keep_going else failures[:1]))


def _write_plan(jobs: list[Job], base: Path, in_order: bool) -> None:
    """Write the configuration of the Snakefile; inputs that are finished are no jobs."""
    names = {job.folder: job.folder.relative_to(base).as_posix() for job in jobs}
    plan = {
        names[job.folder]: {
            "chapter": job.chapter,
            "parameters": job.parameters,
            "key": job.key,
            "inputs": [names[folder] for folder in job.inputs if folder in names],
            "priority": len(jobs) - place if in_order else place,
        }
        for place, job in enumerate(jobs)
    }
    write_json(base / "plan.json", {"root": str(project_root()), "jobs": plan})


def _snakemake(
    jobs: list[Job], base: Path, show: Show, count: int, keep_going: bool, executor: str | None
) -> list[str]:
    """Run Snakemake on a plan and watch the jobs' status files; returns why jobs failed."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(base), "--nolock"]
    command += ["--snakefile", str(project_root() / "workflow" / "Snakefile")]
    command += ["--configfile", str(base / "plan.json"), "--rerun-triggers", "input"]
    command += ["--keep-incomplete", "--rerun-incomplete", "--nocolor"]
    command += ["--keep-going"] if keep_going else []
    environment, log = dict(os.environ), base / "snakemake.log"
    if executor:
        profile = project_root() / "workflow" / "profiles" / executor
        if not profile.is_dir():  # else Snakemake executes all here
            raise RunError(f"There is no profile {executor!r} in {show_path(profile.parent)}.")
        command += ["--workflow-profile", str(profile), "--jobs", str(count)]
    else:
        command += ["--cores", str(count)]
        environment["SYNTHSEG_RUNNER"] = str(os.getpid())
        threads = max(1, (os.cpu_count() or 1) // count)
        if count > 1:
            environment.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    with log.open("wb") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others
        )
    try:
        while process.poll() is None:
            _look(jobs, show)
            time.sleep(0.2)
    except BaseException:
        if executor:  # Snakemake cancels what it has submitted
            process.send_signal(signal.SIGINT)
            process.wait()
        else:
            _end(process)
        raise
    failures = _look(jobs, show)
    if process.returncode and not failures:
        raise ChapterError(f"Snakemake stopped; all that it said is in {show_path(log)}.")
    return failures


def _look(jobs: list[Job], show: Show) -> list[str]:
    """Show where the jobs stand by what they wrote; returns why some failed."""
    failures = []
    for job in jobs:
        if status := read_json(keys.status(job.folder)):
            seconds = status.get("ended", time.time()) - status["begun"]
            show(job, Progress(status["state"], status["part"], seconds))
            failures += [status["error"]] if "error" in status else []
    return failures


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Snakemake, its jobs, and their kernels, which are in sessions of their own."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)
