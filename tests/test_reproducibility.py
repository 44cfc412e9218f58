"""Same seed, same numbers: in two processes, and nearly on other numbers of threads."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_resume import TRAINERS, WORKER

THREADS_TOLERANCE = {"small": 1e-4, "large": 1e-2}
"""Relative difference of the losses of the short training runs here on one and on two threads.

A sum that is added up in another order is rounded otherwise in its seventh digit, and each step of
training makes more of it: Adam's first steps move a weight by the whole learning rate, whichever
sign its gradient has, and large networks have many gradients that are all but zero. With large
networks up to 0.002 was seen. This is no bound for long training runs.
"""


def train(kind: str, folder: Path, threads: int, *options: str) -> dict:
    """A short training run in a fresh process."""
    environment = {
        name: value for name, value in os.environ.items() if name != "TF_NUM_INTEROP_THREADS"
    }
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        environment[name] = str(threads)
    command = [sys.executable, str(WORKER), kind, str(folder), "once", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_close(one: dict, other: dict, tolerance: float) -> None:
    first, second = (pd.read_csv(io.StringIO(made["history"])) for made in (one, other))
    losses = [name for name in first if "dice" not in name]  # a count of pixels may jump
    np.testing.assert_allclose(first[losses][:1], second[losses][:1], rtol=1e-4)
    np.testing.assert_allclose(first[losses], second[losses], rtol=tolerance)


def test_two_processes_agree_bitwise_and_threads_nearly(tmp_path: Path) -> None:
    first = train("replay", tmp_path / "1", 2)
    assert first == train("replay", tmp_path / "2", 2)
    assert_close(first, train("replay", tmp_path / "3", 1), THREADS_TOLERANCE["small"])


@pytest.mark.long
@pytest.mark.parametrize("kind", TRAINERS)
def test_large_networks_in_processes_and_threads(tmp_path: Path, kind: str) -> None:
    first = train(kind, tmp_path / "0", 2, "large")
    for number in range(1, 4):
        assert first == train(kind, tmp_path / str(number), 2, "large")
    one_thread = train(kind, tmp_path / "one", 1, "large")
    assert_close(first, one_thread, THREADS_TOLERANCE["large"])
