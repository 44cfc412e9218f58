"""What no input may do: run code, leave its folder, or reach a shell."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import typer.testing
from conftest import given

from synthseg import keys, notebook, parameters, runs
from synthseg import project as files
from synthseg.command import cli, publishing

ROOT = Path(__file__).resolve().parents[1]


# Profiles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("all: !!python/object/apply:os.system ['touch sentinel']", "must be plain YAML"),
        ("all:\n  steps: !!python/object/new:os.system ['touch sentinel']", "must be plain YAML"),
        ("all:\n  steps: !!python/name:os.system", "must be plain YAML"),
        ("all:\n  steps: 2024-13-45", "must be plain YAML"),
        ("all:\n  steps: 2024-12-24", "steps of 01_data in .* must be a whole number"),
        ("all: [", "must be plain YAML"),
        ("[" * 5000, "must be plain YAML"),
        ("all:\n  steps: " + "9" * 5000, "must be plain YAML"),
        ("all:\n  steps: .nan", "must be a whole number"),
        ("all:\n  steps: &a [*a]", "must be a whole number"),
        ("- all", "must be plain YAML: groups such as"),
        ("all: text", "each with 'name: value' lines"),
        ("../x: {}", "There is no '../x'"),
        ("all:\n  folder: ../../x", "There is no 'folder'"),
        ("all:\n  ? [a]\n  : 1", "must be plain YAML"),
        ("all:\n  3: 1", "There is no '3'"),
        (b"\xff\xfe\x00\x80", "must be plain YAML"),
    ],
)
def test_a_hostile_profile_is_refused(project: Path, content: str | bytes, message: str) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (project / "params" / "smoke.yaml").write_bytes(raw)
    with pytest.raises(files.ParameterError, match=message):
        parameters.plan([1], "smoke")
    assert not (project / "sentinel").exists()


# Paths --------------------------------------------------------------------------------------------

PATHS = ["../x", "..", ".", "", "/x", "a/b", "a/../../x", "a\\b", "a\0b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_profile_is_a_name_and_no_path(project: Path, name: str) -> None:
    (project / "x.yaml").write_text("all: {}")  # what ../x would find
    files.write_json(project / "x" / "seed-0" / "01_data" / "card.json", {})
    with pytest.raises(files.ParameterError, match="There is no"):
        parameters.plan([1], name)
    for use in (publishing.build_run, publishing.publish):
        with pytest.raises(files.RunError, match="Nothing has been run in"):
            use(name)


@pytest.mark.parametrize("seed", ["../x", -1, 1.5, "0/../..", True, None, 10**400])
def test_a_seed_is_a_number_and_no_path(project: Path, seed: object) -> None:
    with pytest.raises(files.ParameterError, match="seed is"):
        runs.start(1, given(seed=seed))
    assert not (project / "runs").exists()


@pytest.mark.parametrize("setting", ["folder=../../x", "folder=/x"])
def test_the_folder_of_a_run_cannot_be_set(project: Path, setting: str) -> None:
    with pytest.raises(files.ParameterError, match="follows from --profile"):
        parameters.plan([1], "smoke", settings=[setting])


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("kept")
    (tmp_path / "card.json").symlink_to(tmp_path / "private")
    files.write_json(tmp_path / "card.json", {})
    assert (tmp_path / "private").read_text() == "kept"
    assert not (tmp_path / "card.json").is_symlink()


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "1", "{", "\0", '"text"'])
def test_a_damaged_run_card_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(files.RunError, match=r"card\.json cannot be read"):
        files.read_json(tmp_path / "card.json")


# Shells, terminals, pages -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a; touch sentinel", "$(touch sentinel)", "two  words"])
def test_commands_that_messages_suggest_are_quoted(project: Path, text: str) -> None:
    (project / "params" / f"{text}.yaml").touch()
    words = shlex.split(keys.command(1, {"folder": f"runs/{text}", "data": "mine"}))
    assert words == ["synthseg", "run", "1", "--profile", text]


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[bold link]y[/bold link]", "\\[x]"])
def test_input_is_no_markup_on_the_terminal(project: Path, text: str) -> None:
    result = typer.testing.CliRunner().invoke(cli.app, ["run", "1", "--set", text])
    assert result.exit_code == 2
    assert text in result.output


def test_input_is_no_markup_on_a_page() -> None:
    page = notebook.table(pd.DataFrame({"data": ["<script>alert(1)</script>"]}))._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


# The page that lists the guarantees ---------------------------------------------------------------


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "GUARANTEES.md").read_text()))
    assert len(named) > 5
    assert {name for name in named if not (ROOT / "tests" / name).is_file()} == set()
