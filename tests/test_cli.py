"""The command line: what it passes on, and how it refuses."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_runs import project  # noqa: F401  (a fixture)
from typer.testing import CliRunner

from synthseg import cli, parameters, publishing, runs, volumes

pytestmark = pytest.mark.usefixtures("project")


def call(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(code=result.exit_code, output=result.output)


Call = tuple[int, dict[str, parameters.Scalar], bool]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Chapters that would have been executed."""
    calls: list[Call] = []

    def execute(
        chapter: int,
        values: dict[str, parameters.Scalar],
        fingerprint: str | None = None,
        force: bool = False,
    ) -> runs.Executed:
        calls.append((chapter, values, force))
        return runs.Executed(Path("notebook.ipynb"), chapter == 1, 61.0)

    monkeypatch.setattr(runs, "execute", execute)
    monkeypatch.setattr(runs, "load_data", lambda values: SimpleNamespace(fingerprint="f"))
    return calls


def test_run_passes_parameters_on(executed: list) -> None:
    result = call("run", "3", "1", "--data", "epfl", "--set", "steps=20", "--set", "seed=3")
    assert result.code == 0, result.output
    assert [chapter for chapter, _, _ in executed] == [1, 3]
    for _, values, force in executed:
        assert values["steps"] == 20
        assert values["seed"] == 3
        assert values["data"] == "epfl"
        assert values["folder"] == "runs/smoke"
        assert not force
    assert "skipped" in result.output
    assert "1 min 01 s" in result.output


def test_run_without_chapters_takes_all(executed: list) -> None:
    assert call("run", "--force").code == 0
    assert [(chapter, force) for chapter, _, force in executed] == [(1, True), (3, True)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["3", "--set", "stepz=20"], "'steps'"),
        (["3", "--set", "steps=abc"], "whole number"),
        (["3", "--set", "steps"], "name=value"),
        (["3", "--set", "folder=here"], "--profile"),
        (["3", "--profile", "smokes"], "'smoke'"),
        (["1", "8"], "chapter 8"),
    ],
)
def test_faulty_request_is_refused_in_one_sentence(
    executed: list, arguments: list[str], named: str
) -> None:
    result = call("run", *arguments)
    assert result.code == 2
    assert executed == []
    assert named in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_relative_data_counts_from_the_root(
    executed: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert call("run", "1", "--data", "image.tif,/data/mask.tif").code == 0
    assert executed[0][1]["data"] == "mine/image.tif,/data/mask.tif"


def test_faulty_data_stops_before_the_first_chapter(
    executed: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_data(values: dict[str, parameters.Scalar]) -> None:
        raise volumes.DataError(f"{values['data']}/masks/03.png is empty.")

    monkeypatch.setattr(runs, "load_data", load_data)
    result = call("run", "--data", str(tmp_path))
    assert result.code == 2
    assert "03.png is empty" in result.output
    assert executed == []


def test_failed_chapter_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*arguments: object, **options: object) -> None:
        raise parameters.ChapterError("Chapter 1 stopped in cell [4] with an error.")

    monkeypatch.setattr(runs, "execute", execute)
    result = call("run", "1")
    assert result.code == 1
    assert "cell [4]" in result.output


def test_book_before_any_run() -> None:
    result = call("book")
    assert result.code == 2
    assert "synthseg run --profile smoke" in result.output


def test_publish_before_any_run() -> None:
    assert call("publish").code == 2


def test_check_fails_for_unpublished_chapters() -> None:
    result = call("check")
    assert result.code == 1
    assert "01_data" in result.output
    assert "never published" in result.output


def test_check_says_what_made_a_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    card = {
        "commit": "abc123",
        "data": {"name": "phantom", "fingerprint": "ab12"},
        "method_version": 1,
        "finished": "2026-01-01",
        "parameters": {"steps": 20},
    }
    monkeypatch.setattr(publishing, "check", lambda: [publishing.Checked(1, card, [])])
    result = call("check")
    assert result.code == 0
    for part in ("abc123", "ab12", "method version 1", "steps=20"):
        assert part in result.output


def test_data_describes_sources_and_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SYNTHSEG_DATA" in call("data").output
    volume = SimpleNamespace(
        image=np.full((2, 3, 4), 100, np.uint8),
        mask=np.ones((2, 3, 4), np.uint8),
        nm_per_pixel=5.0,
    )
    dataset = SimpleNamespace(
        train=volume,
        validation=volume,
        test=volume,
        name="own",
        fingerprint="ab12",
        provenance="Drawn.",
    )
    found = [volumes.Finding("warning", "masks", "is odd", "look at it", (3, 4, 5, 8))]
    monkeypatch.setattr(volumes, "check", lambda source, scale, crop: (found, dataset))
    result = call("data", "check", "folder", "--nm-per-pixel", "5")
    assert result.code == 0
    for part in ("ab12", "100.00%", "slices 3-5, 8: is odd", "→ look at it", "1 warning,"):
        assert part in result.output


def test_all_faults_of_data_are_listed_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        volumes.Finding("error", "masks/[3].png", "is empty", "draw it"),
        volumes.Finding("note", "images", "is 16-bit", "nothing to do"),
        volumes.Finding("error", "masks/[3].png", "is small", "resize it"),
    ]
    monkeypatch.setattr(volumes, "check", lambda source, scale, crop: (found, None))
    result = call("data", "check", "folder")
    assert result.code == 2
    lines = [line.strip() for line in result.output.splitlines()]
    assert lines[0] == "masks/[3].png"
    assert [line[:5] for line in lines[1:5]] == ["error", "→ dra", "error", "→ res"]
    assert lines[-1] == "2 errors, 0 warnings, 1 note: the data cannot be used."


@pytest.mark.parametrize("command", ["run", "book", "publish", "data", "check"])
def test_help(command: str) -> None:
    result = call(command, "--help")
    assert result.code == 0
    if command == "run":
        assert "SYNTHSEG_DATA" in result.output


def test_help_does_not_wait_for_heavy_imports() -> None:
    code = "import sys, synthseg.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "typer" in loaded
    assert not loaded & {
        "tensorflow",
        "keras",
        "pandas",
        "scipy",
        "skimage",
        "IPython",
        "papermill",
    }
