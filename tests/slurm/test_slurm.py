"""A tiny study on a Slurm cluster of one node, this machine: `make test-slurm`."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml
from test_study import TOY

from synthseg.project import read_json

ROOT = Path(__file__).parents[2]
# Two GANs' worth of time for the kill: an arm that can be met between two of its epochs.
SETTINGS = {
    **TOY,
    "train_arm": {**TOY["train_arm"], "steps": 30, "epochs": 30},
    "plan": {**TOY["plan"], "seeds": 1, "arms": {"window": ["A5"]}},
}
CONFIG = """\
ClusterName=synthseg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=all Nodes={host} Default=YES
"""
# What belongs to the cluster rather than to the book. Without a database of finished jobs, squeue
# is asked; and soon, since these jobs are short.
OURS = """\
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 2
"""
# Snakemake's plugin hides SLURM_CONF from the srun in a job; clusters have theirs in /etc/slurm.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def wait_for(condition, seconds=120):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def write_config(folder):
    """All files of the cluster, in a folder that the user munge may enter."""
    folder.chmod(0o755)
    host, memory = socket.gethostname().partition(".")[0], psutil.virtual_memory().total >> 20
    facts = {"folder": folder, "host": host, "cpus": os.cpu_count(), "memory": memory}
    (folder / "slurm.conf").write_text(CONFIG.format(ports=free_ports(2), **facts))
    (folder / "profile.yaml").write_text(OURS)
    (folder / "srun").write_text(SRUN.format(folder=folder, srun=shutil.which("srun")))
    (folder / "srun").chmod(0o755)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o400)
    for path in (folder / "munge", folder / "munge" / "key"):
        shutil.chown(path, "munge", "munge")


@pytest.fixture
def slurm(monkeypatch):
    """A cluster of one node on loopback; all of it ends with the test."""
    if not shutil.which("slurmctld") or os.geteuid():
        pytest.skip("needs slurmctld, and to be root: `make test-slurm` installs it")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synthseg-slurm-")))
        write_config(folder)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        monkeypatch.setenv("SNAKEMAKE_PROFILE", str(folder / "profile.yaml"))
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

        def start(*command, **options):
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, **options)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        places = {"key": "key", "socket": "socket", "seed": "seed", "pid": "pid"}
        options = [f"--{option}-file={folder}/munge/{name}" for option, name in places.items()]
        options[1] = f"--socket={folder}/munge/socket"
        start("munged", "--foreground", *options, user="munge", group="munge")
        wait_for((folder / "munge" / "socket").exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        wait_for(lambda: "idle" in ask("sinfo", "--noheader", "--format=%t"))
        yield
        # slurmd does not end the jobs that it has started.
        ask("scancel", "--user=root")
        wait_for(lambda: not ask("squeue", "--noheader"))


def ask(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout


def make_project(folder):
    """A project with the study's notebooks and settings."""
    for name in ("workflow", "book"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "params").mkdir()
    (folder / "params" / "study.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def study(project, *options):
    """The study's command, started in a project."""
    return subprocess.Popen(
        [sys.executable, ROOT / "workflow" / "study.py", *options],
        cwd=project,
        env={**os.environ, "SYNTHSEG_ROOT": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def scores(project):
    """The rows of the arms' table, and its runs' keys, in an order of their own."""
    return sorted((project / "results" / "study_arms.csv").read_text().splitlines())


@pytest.mark.long
def test_a_study_on_a_cluster_outlives_a_kill(slurm, tmp_path_factory):
    here, there = (make_project(tmp_path_factory.mktemp(name)) for name in ("here", "there"))
    local = study(here, "--jobs", "1")
    assert not local.wait(), local.stdout.read()

    run = there / "runs" / "study" / "window" / "A5" / "seed-0" / "train_arm"
    begun = study(there, "--jobs", "2", "--executor", "slurm")
    wait_for(lambda: begun.poll() is not None or list(run.glob("resume/arm-*.npz")), 300)
    jobs = [line.split("|") for line in ask("squeue", "--noheader", "--format=%i|%k").splitlines()]
    [number] = [number for number, comment in jobs if "A5" in comment]
    ask("scancel", number)
    assert begun.wait() == 1
    assert "Snakemake stopped" in begun.stdout.read()
    assert not list(run.glob("done-*.json"))
    assert not ask("squeue", "--noheader")  # the other arm has gone on to its end

    again = study(there, "--jobs", "2", "--executor", "slurm")
    assert not again.wait(), again.stdout.read()
    assert read_json(run / "card.json")["sessions"] == 2  # gone on with, not begun anew
    assert scores(there) == scores(here)
