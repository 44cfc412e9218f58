"""Same seed, same numbers: in two processes, on other numbers of threads, and from a run card."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from test_resume import TRAINERS, WORKER
from test_runs import chapter, project  # noqa: F401
from typer.testing import CliRunner

from synthseg import cli, parameters, publishing, reruns, runs

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
    first = train("joint", tmp_path / "1", 2)
    assert first == train("joint", tmp_path / "2", 2)
    assert_close(first, train("joint", tmp_path / "3", 1), THREADS_TOLERANCE["small"])


@pytest.mark.long
@pytest.mark.parametrize("kind", TRAINERS)
def test_large_networks_in_processes_and_threads(tmp_path: Path, kind: str) -> None:
    first = train(kind, tmp_path / "0", 2, "large")
    for number in range(1, 4):
        assert first == train(kind, tmp_path / str(number), 2, "large")
    one_thread = train(kind, tmp_path / "one", 1, "large")
    assert_close(first, one_thread, THREADS_TOLERANCE["large"])


# Repeating a run from its card


RECORD = "run.record(rate=rate, steps=steps, empty=float('nan'))"
USE = "run.needs(1, 'metrics.json')\nrun.record(half=rate / 2)"


@pytest.fixture
def finished(project: Path) -> Path:  # noqa: F811
    """A project in which chapter 3 was run, and chapter 1 before it."""
    nbformat.write(chapter(1, RECORD), parameters.chapter_path(1))
    nbformat.write(chapter(3, USE), parameters.chapter_path(3))
    for number, values in parameters.plan([1, 3], "smoke", settings=["rate=0.125"]).items():
        runs.execute(number, values, progress=False)
    publishing.publish("smoke")
    return project


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict]]:
    """Executing writes metrics without a kernel: the numbers that the chapters would record."""
    calls: list[tuple[int, dict]] = []

    def execute(number: int, values: dict, **how: object) -> runs.Executed:
        calls.append((number, values))
        folder = runs.run_folder(number, values)
        made = {"rate": values["rate"], "steps": values["steps"], "empty": None}
        parameters.write_json(
            folder / "metrics.json", made if number == 1 else {"half": values["rate"] / 2}
        )
        return runs.Executed(folder / "notebook.ipynb", False, 1.0)

    monkeypatch.setattr(runs, "execute", execute)
    monkeypatch.setattr(runs, "load_data", lambda values: SimpleNamespace(fingerprint="now"))
    return calls


def call(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(code=result.exit_code, output=result.output)


def write_card(project: Path, number: int = 1, **changes: object) -> Path:  # noqa: F811
    """A card as publishing writes it."""
    name = parameters.CHAPTERS[number]
    values = parameters.default_parameters(parameters.chapter_path(number))
    card = {
        "chapter": name,
        "key": "ab" * 32,
        "parameters": {**values, "folder": "/elsewhere", "rate": 0.125},
        "inputs": {},
        "finished": "2026-01-01",
        "versions": {},
        "data": None,
        "commit": "abc123",
        "method_version": 0,
        "metrics": {"rate": 0.125, "steps": 100, "empty": None},
    }
    path = project / "results" / f"{name}.card.json"
    parameters.write_json(path, card | changes)
    return path


def test_rerun_repeats_the_inputs_and_compares(project: Path, quick: list) -> None:  # noqa: F811
    write_card(project)
    later = write_card(
        project, 3, key="cd" * 32, inputs={"01_data": "ab" * 32}, metrics={"half": 0.0625}
    )
    result = call("rerun", str(later))
    assert result.code == 0, result.output
    assert [number for number, _ in quick] == [1, 3]
    for _, values in quick:
        assert values["rate"] == 0.125
        assert values["folder"] == "runs/rerun-cdcdcdcd"
    for part in ("commit was abc123", "method version was 0", "code cells", "data was unknown"):
        assert part in result.output
    assert "All 1 numbers agree" in result.output


@pytest.mark.parametrize(
    ("published", "code"),
    [
        ({"rate": 0.125, "steps": 100, "empty": None}, 0),
        ({"rate": 0.125 * (1 + 1e-7), "steps": 100, "empty": None}, 0),
        ({"rate": 0.125 * (1 + 1e-5), "steps": 100, "empty": None}, 1),
        ({"rate": 0.125, "steps": 100, "empty": 0.5}, 1),
        ({"rate": 0.125, "steps": 100}, 1),
        ({"rate": 0.125, "steps": 100, "empty": None, "gone": 1}, 1),
    ],
)
def test_exit_status_says_whether_the_numbers_agree(
    project: Path,  # noqa: F811
    quick: list,
    published: dict,
    code: int,
) -> None:
    card = write_card(project, metrics=published)
    assert call("rerun", str(card)).code == code
    if "gone" not in published and len(published) == 3 and published["empty"] is None:
        assert call("rerun", str(card), "--tolerance", "1e-3").code == 0


def test_input_of_another_run_is_refused(project: Path, quick: list) -> None:  # noqa: F811
    write_card(project)
    later = write_card(project, 3, inputs={"01_data": "00" * 32})
    assert "card of another run" in call("rerun", str(later)).output
    assert "no run card" in call("rerun", "nowhere.json").output


@pytest.mark.long
def test_a_real_run_is_repeated_from_its_folder(finished: Path) -> None:
    folder = finished / "runs" / "smoke" / "seed-0" / "03_baseline_segmentation"
    cards = reruns.read_cards(folder / "card.json")
    assert [card.chapter for card in cards] == [1, 3]
    assert reruns.differences(cards[-1], None) == []
    for card in cards:
        runs.execute(card.chapter, card.parameters, progress=False)
    assert [row.agrees for row in reruns.compare(cards[-1], 0.0)] == [True]
    again = parameters.read_json(runs.run_folder(3, cards[-1].parameters) / "card.json")
    assert again["key"] == cards[-1].content["key"]
    published = reruns.read_cards(finished / "results" / "03_baseline_segmentation.card.json")
    assert [card.content["key"] for card in published] == [card.content["key"] for card in cards]
