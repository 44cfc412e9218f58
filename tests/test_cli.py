"""The command line: what it passes on, and how it refuses."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import given
from rich.console import Console
from skimage.io import imsave
from test_predict import make_run
from typer.testing import CliRunner

from synthseg import keys, runs, volumes
from synthseg import project as files
from synthseg.command import cli, contact, jobs, publishing, terminal

pytestmark = pytest.mark.usefixtures("project")


def call(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(code=result.exit_code, output=result.output)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What would have been executed."""
    calls: list[tuple] = []

    def execute(plan: list[jobs.Job], base: Path, show: object, **how: object) -> None:
        calls.append((plan, base, how))
        for job, state in zip(plan, ("unchanged", "runs", "done"), strict=False):
            show(job, jobs.Progress(state, 0.5, 61.0))
        show(plan[-1], jobs.Progress("done", 1.0, 61.0))

    monkeypatch.setattr(jobs, "execute", execute)
    return calls


def test_run_passes_parameters_on(executed: list, project: Path) -> None:
    result = call("run", "2", "1", "--jobs", "2", "--set", "steps=20", "--set", "seed=3")
    assert result.code == 0, result.output
    [(plan, base, how)] = executed
    assert [job.chapter for job in plan] == [1, 2]
    assert base == project / "runs" / "smoke" / "seed-3"
    assert how == {"side_by_side": 2, "force": False, "executor": None}
    for job in plan:
        chosen = {name: job.parameters[name] for name in ("steps", "rate", "seed", "folder")}
        assert chosen == {"steps": 20, "rate": 0.25, "seed": 3, "folder": "runs/smoke"}
    assert "1 of 2  01_data  unchanged, skipped" in result.output
    assert "2 of 2  02_gan  done (1 min 01 s)" in result.output


def test_an_earlier_run_is_kept_and_said(executed: list, project: Path) -> None:
    call("run", "1")
    folder = executed[0][0][0].folder
    files.write_json(folder / "card.json", {"key": "ab12" * 16})
    line = "An earlier run is kept as runs/smoke/seed-0/01_data.ab12ab12\n"
    assert line in call("run", "1").output
    files.write_json(folder / "card.json", {"key": executed[0][0][0].key})
    assert "An earlier run" not in call("run", "1").output
    assert "An earlier run" in call("run", "1", "--force").output


def test_run_without_chapters_takes_all(executed: list) -> None:
    assert call("run", "--force").code == 0
    assert [job.chapter for job in executed[0][0]] == [1, 2, 3]
    assert executed[0][2]["force"]


def test_a_dry_run_says_what_would_run(executed: list, project: Path) -> None:
    [job] = jobs.make_plan(cli.parameters.plan([1], "smoke").items())
    card = {"finished": "now", "duration_s": 65.0}
    files.write_json(job.folder / "card.json", card)
    keys.receipt(job.folder, job.key).touch()
    result = call("run", "1", "2", "--dry-run")
    assert "01_data  unchanged (last time: 1 min 05 s)" in result.output
    assert "02_gan  would run\n" in result.output
    assert executed == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["3", "--set", "stepz=20"], "'steps'"),
        (["3", "--set", "steps=abc"], "whole number"),
        (["3", "--set", "steps"], "name=value"),
        (["3", "--set", "folder=here"], "--profile"),
        (["3", "--profile", "smokes"], "'smoke'"),
        (["3", "--profile", "../smoke"], "did you mean 'smoke'"),
        (["1", "8"], "chapter 8"),
        (["3"], "synthseg run 2 --profile smoke"),
        (["1", "--data", "elsewhere"], "elsewhere"),
    ],
)
def test_a_faulty_request_is_refused_in_one_sentence(
    executed: list, arguments: list[str], named: str
) -> None:
    result = call("run", *arguments)
    assert result.code == 2
    assert executed == []
    assert named in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_relative_data_count_from_the_working_directory(
    executed: list, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "book")
    assert call("run", "1", "--data", "../mine").code == 0
    assert executed[0][0][0].parameters["data"] == "mine"  # from the project's root


def test_a_failed_chapter_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*arguments: object, **options: object) -> None:
        raise files.ChapterError("Chapter 1 stopped in cell [4] with an error.")

    monkeypatch.setattr(jobs, "execute", execute)
    result = call("run", "1")
    assert result.code == 1
    assert "cell [4]" in result.output


@pytest.mark.parametrize("folder", ["runs", "runs/smoke/seed-0"])
def test_a_folder_that_may_not_be_written_to(project: Path, folder: str) -> None:
    (project / folder).mkdir(parents=True)
    (project / folder).chmod(0o500)
    if os.access(project / folder, os.W_OK):
        pytest.skip("this user may write to every folder, as root may")
    result = call("run", "1")
    assert result.code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert "Permission denied" in result.output
    assert str(project / folder) in result.output
    assert "not foreseen" not in result.output
    with pytest.raises(PermissionError):  # what a notebook says
        runs.start(1, given(folder="runs/smoke"))


def test_before_any_run(project: Path) -> None:
    assert "Nothing has been run yet: start with  synthseg run" in call("book").output
    assert "in runs/smoke" in call("book", "--profile", "smoke").output
    assert call("publish").code == 2
    result = call("check")
    assert result.code == 1
    assert "never published" in result.output


def test_check_says_what_is_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = {"01_data": [], "02_gan": ["its code was changed after its run"]}
    monkeypatch.setattr(publishing, "check", lambda: checked)
    monkeypatch.setattr(publishing, "answer_is_current", lambda: True)
    result = call("check")
    assert result.code == 1
    for part in ("01_data  good", "02_gan  stale", "its code was changed", "1 of 2 chapters"):
        assert part in result.output
    checked["02_gan"] = []
    assert call("check").code == 0
    monkeypatch.setattr(publishing, "answer_is_current", lambda: False)
    assert "Chapter 8" in call("check").output


def test_rerun_of_another_machine_judges_scores_only(
    executed: list, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = jobs.make_plan(cli.parameters.plan([1], "smoke").items())
    card = {
        "chapter": "01_data",
        "key": job.key,
        "finished": "now",
        "commit": None,
        "code": keys.chapter_code(1),
        "data": {"fingerprint": "ab12"},
        "parameters": job.parameters,
        "inputs": {},
        "device": "another processor",
        "method_version": 1,
        "versions": {"keras": "0"},
    }
    files.write_json(job.folder / "card.json", card)
    files.write_json(job.folder / "metrics.json", {"dice": 0.8, "frechet": 60.0})
    again = project / "runs" / f"rerun-{job.key[:8]}" / "seed-0" / "01_data"
    files.write_json(again / "card.json", card | {"device": "this processor"})
    files.write_json(again / "metrics.json", {"dice": 0.81, "frechet": 70.0})
    result = call("rerun", str(job.folder / "card.json"))
    assert result.code == 0, result.output
    for part in ("processor was another processor, now this", "not judged", "judged number agree"):
        assert part in result.output
    files.write_json(again / "metrics.json", {"dice": 0.83, "frechet": 70.0})
    result = call("rerun", str(job.folder / "card.json"))
    assert result.code == 1
    assert "1 of 1 judged number differ" in result.output


def test_data_are_described_with_all_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SYNTHSEG_DATA" in call("data").output
    image, mask = np.full((2, 3, 4), 100, np.uint8), np.ones((2, 3, 4), np.uint8)
    volume = SimpleNamespace(image=image, mask=mask, nm_per_pixel=5.0)
    parts = dict.fromkeys(("train", "validation", "test"), volume)
    dataset = SimpleNamespace(
        **parts, name="own", fingerprint="ab12", provenance="Drawn.", nm_per_slice=5.0
    )
    monkeypatch.setattr(contact, "save", lambda dataset, folder: folder / f"{dataset.name}.png")
    found = [
        volumes.Finding("warning", "masks", "is odd", "look at it", (3, 4, 5, 8)),
        volumes.Finding("note", "images", "is 16-bit", "nothing to do"),
    ]
    monkeypatch.setattr(volumes, "check", lambda source, scale, crop: (found, dataset))
    result = call("data", "check", "folder", "--nm-per-pixel", "5")
    assert result.code == 0
    for part in ("ab12", "100.00%", "4 slices (3, 4, 5, …) are odd", "→ look at it", "1 warning,"):
        assert part in result.output
    assert result.output.splitlines()[-1].endswith("runs/checks/own.png")
    found.append(volumes.Finding("error", "masks/[3].png", "is empty", "draw it"))
    monkeypatch.setattr(volumes, "check", lambda source, scale, crop: (found, None))
    result = call("data", "check", "folder")
    assert result.code == 2
    last = result.output.splitlines()[-1]
    assert last == "1 error, 1 warning, 1 note: the data cannot be used."


def test_warnings_about_data_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(chosen: object) -> list[jobs.Job]:
        for _ in range(2):
            warnings.warn("my_folder/masks holds 3 grey pixels; export it.", stacklevel=1)
        return []

    monkeypatch.setattr(jobs, "make_plan", plan)
    monkeypatch.setattr(terminal, "console", Console(file=(out := io.StringIO()), width=200))
    assert terminal.make_plan({}) == []
    assert out.getvalue().count("Warning: my_folder/masks holds 3 grey pixels; export it.") == 1
    assert "UserWarning" not in out.getvalue()


def test_the_contact_sheet_says_which_slices_go_where() -> None:
    block = np.zeros((8, 2, 2), np.uint8)
    train, test = volumes.split_by_z(volumes.Volume.create(block, block, 5, "em"), validation=2)
    places = contact._places({"train": train, "test": test})
    assert places == "Slices of em: 0-4 train, 5 unused, 6-7 test."


def test_predict_says_what_was_found(tmp_path: Path) -> None:
    run, image = make_run(tmp_path / "run"), np.full((40, 40), 250, np.uint8)
    image[:, :10] = 5
    imsave(tmp_path / "[i].png", image, check_contrast=False)
    result = call("predict", str(run), str(tmp_path / "[i].png"), str(tmp_path / "[o]"))
    assert result.code == 0, result.output
    for part in ("test Dice 0.812 at 10 nm", "taken to be 5 nm", "25.00%", "[o].png", "6.00%"):
        assert part in result.output
    again = call("predict", str(run), str(tmp_path / "[i].png"), str(tmp_path / "[o]"))
    assert again.code == 2
    assert len(again.output.strip().splitlines()) == 3


def test_the_score_of_chapter_3_and_whether_it_was_trained_long_enough(
    executed: list, project: Path
) -> None:
    call("run", "2", "3")
    folder = executed[0][0][1].folder
    numbers = {"test_classical_dice": 0.41, "curves_classical_train": 0.39, "nm": 12.5}
    files.write_json(folder / "metrics.json", numbers)
    lines = call("run", "2", "3").output.splitlines()[-3:]
    assert lines[0].startswith("Test Dice 0.410 at 12.5 nm per pixel")
    assert "--set steps=80" in lines[1]
    assert lines[2].endswith(
        "synthseg predict runs/smoke/seed-0/03_baseline_segmentation IMAGES OUT"
    )
    files.write_json(folder / "metrics.json", numbers | {"curves_classical_train": 0.9})
    assert "steps=" not in call("run", "2", "3").output


@pytest.mark.parametrize("command", ["run", "predict", "book", "publish", "data", "check", "rerun"])
def test_help(command: str) -> None:
    assert call(command, "--help").code == 0


def test_help_does_not_wait_for_heavy_imports() -> None:
    code = "import sys, synthseg.command.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"tensorflow", "keras", "pandas", "scipy", "skimage", "IPython", "papermill"}
    assert "typer" in loaded
    assert not loaded & {*heavy, "snakemake"}
