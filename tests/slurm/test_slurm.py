"""The profiles of clusters, and a tiny study on a Slurm cluster of one node: `make test-slurm`."""

import json
import os
import re
import shutil
import signal
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
# One GAN and one arm, which trains long enough to be met between two epochs.
SETTINGS = {
    **TOY,
    "train_arm": {**TOY["train_arm"], "steps": 30, "epochs": 30},
    "plan": {**TOY["plan"], "seeds": 1, "arms": {"slice": ["A5"]}},
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
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


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
    pytest.importorskip("snakemake_executor_plugin_slurm")
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
            options |= {"stdout": log, "stderr": log}
            options["start_new_session"] = True  # Ctrl-C is for the test, which ends the others
            process = subprocess.Popen(command, **options)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        places = {"key-file": "key", "socket": "socket", "seed-file": "seed", "pid-file": "pid"}
        options = [f"--{option}={folder}/munge/{name}" for option, name in places.items()]
        start("munged", "--foreground", *options, user="munge", group="munge")
        wait_for((folder / "munge" / "socket").exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        wait_for(lambda: "idle" in ask("sinfo", "--noheader", "--format=%t"))
        yield
        # The daemons would end without the jobs that they have started.
        ask("scancel", "--user=root")
        wait_for(lambda: not ask("squeue", "--noheader"))


def ask(*command):
    """What a command of Slurm says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def make_project(folder):
    """A project with the study's notebooks and settings."""
    for name in ("workflow", "book"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "params").mkdir()
    (folder / "params" / "study.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture
def study(slurm):
    """The study's command, started in a project; what still runs is interrupted at the end."""
    started = []

    def start(project, *options):
        command = [sys.executable, ROOT / "workflow" / "study.py", *options]
        how = {"cwd": project, "env": {**os.environ, "SYNTHSEG_ROOT": str(project)}, "text": True}
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, **how))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.communicate()


def scores(project):
    """The rows of the arms' table, and its runs' keys, in an order of their own."""
    return sorted((project / "results" / "study_arms.csv").read_text().splitlines())


PLAN = {
    run: {"key": "0" * 64, "inputs": [], "priority": 0}
    for run in ("02_gan", "slice/gan/seed-0/train_gan", "slice/A5/seed-0/train_arm")
}


@pytest.mark.long
@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_each_kind_of_run_has_resources(name, tmp_path):
    pytest.importorskip(f"snakemake_executor_plugin_{name}")
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": PLAN}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow" / "Snakefile"]
    command += ["--workflow-profile", ROOT / "workflow" / "profiles" / name]
    command += ["--configfile", "plan.json", "--jobs", "2", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    found = re.findall(r"rule (\w+):.*?mem_mb=(\d+)", said, re.DOTALL)
    assert sorted(found) == [("chapter", "6000"), ("train_arm", "5000"), ("train_gan", "5000")]


@pytest.mark.long
def test_a_study_on_a_cluster_outlives_a_kill(study, tmp_path_factory):
    here, there = (make_project(tmp_path_factory.mktemp(name)) for name in ("here", "there"))
    local = study(here)
    run = there / "runs" / "study" / "slice" / "A5" / "seed-1" / "train_arm"
    begun = study(there, "--executor", "slurm")
    wait_for(lambda: begun.poll() is not None or list(run.glob("resume/arm-*.npz")), 900)
    ask("scancel", *ask("squeue", "--noheader", "--format=%i").split())
    assert begun.wait() == 1
    said = begun.stdout.read()
    assert "gan  seed 1" in said
    assert "Snakemake stopped" in said
    assert not list(run.glob("done-*.json"))

    again = study(there, "--executor", "slurm")
    assert not again.wait(), again.stdout.read()
    assert read_json(run / "card.json")["sessions"] == 2  # gone on with, not begun anew
    assert not local.wait(), local.stdout.read()
    assert scores(there) == scores(here)
