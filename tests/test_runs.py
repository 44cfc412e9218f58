"""Runs: parameters, keys, inputs, cards; jobs executed by Snakemake, killed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import given, make_chapter, write_stack
from skimage.io import imread

from synthseg import keys, parameters, runs
from synthseg import project as files
from synthseg.command import jobs, publishing, reruns

# Parameters ---------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_parameters_cell(project: Path) -> None:
    found = parameters.default_parameters(files.chapter_path(1))
    assert found == given()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("steps: int = 3", "steps: int = 3"),
        ("steps = 3 * 4", r"steps = 3 \* 4"),
        ("sizes = [1, 2]", "sizes"),
    ],
)
def test_parameters_cell_holds_plain_values_only(project: Path, cell: str, message: str) -> None:
    nbformat.write(make_chapter(1, "", cell), files.chapter_path(1))
    with pytest.raises(files.ParameterError, match=message):
        parameters.default_parameters(files.chapter_path(1))


def set_to(text: str, default: parameters.Scalar) -> parameters.Scalar:
    """What a parameter with this default becomes by ``--set``."""
    return parameters.convert("steps", parameters.parse(text), default)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        *(("20", 1, 20), ("010", 1, 10), ("1e3", 1, 1000), ("1e-3", 0.5, 0.001), ("2", 0.5, 2.0)),
        *((".5", 0.5, 0.5), ("true", False, True), ("False", True, False)),
        *(("no", "phantom", "no"), ("null", None, None), ("7.5", None, 7.5), ("5", None, 5)),
    ],
)
def test_setting_takes_the_type_of_the_default(
    text: str, default: parameters.Scalar, expected: parameters.Scalar
) -> None:
    value = set_to(text, default)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        *(("abc", 1), ("1.5", 1), ("true", 1), ("1", False), ("null", 1), ("[1]", 1)),
        *(("abc", None), ("nan", 0.5), ("inf", 1), ("9" * 400, 0.5), ("9" * 5000, 1)),
    ],
)
def test_setting_of_another_type_is_refused(text: str, default: parameters.Scalar) -> None:
    with pytest.raises(files.ParameterError, match="steps"):
        set_to(text, default)


def test_plan_lays_settings_over_profile_over_defaults(project: Path) -> None:
    plan = parameters.plan([2, 1], "smoke", data="epfl", seed=5, settings=["steps=7"])
    assert list(plan) == [1, 2]
    assert plan[1] == plan[2]
    assert (plan[1]["steps"], plan[1]["rate"]) == (7, 0.25)
    assert (plan[1]["data"], plan[1]["seed"]) == ("epfl", 5)
    assert parameters.plan([1, 3], "smoke")[3]["steps"] == 20


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        (None, "runs/smoke"),
        ("mine", "runs/smoke"),  # what the profile names
        ("phantom", "runs/smoke-phantom"),
        ("../../mouse 1/", "runs/smoke-mouse-1"),
        ("/home/me/fly.v2", "runs/smoke-fly.v2"),
        ("em/raw.tif,em/seg.tif", "runs/smoke-raw"),
    ],
)
def test_other_data_than_the_profiles_have_a_folder_of_their_own(
    project: Path, data: str | None, folder: str
) -> None:
    changed = [] if data is None else [f"data={data}"]
    for plan in (
        parameters.plan([2, 3], "smoke", data),
        parameters.plan([2, 3], "smoke", settings=changed),
    ):
        assert [chosen["folder"] for chosen in plan.values()] == [folder] * 2
        words = keys.command(2, plan[3]).split()
        assert words[:5] == ["synthseg", "run", "2", "--profile", "smoke"]


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ("all:\n  ratte: 1\n", "'rate'"),
        ("03_baseline:\n  rate: 1\n", "'03_baseline_segmentation'"),
        ("01_data:\n  steps: many\n", "whole number"),
        ("all:\n  seed: 3\n", "no 'seed'"),
        ("all: 3\n", "groups such as 'all:'"),
    ],
)
def test_faulty_profile_is_refused(project: Path, profile: str, named: str) -> None:
    (project / "params" / "smoke.yaml").write_text(profile)
    with pytest.raises(files.ParameterError, match=named):
        parameters.plan([1], "smoke")


def test_unknown_names_are_refused_with_the_near_one(project: Path) -> None:
    with pytest.raises(files.ParameterError, match="did you mean 'steps'"):
        runs.start(1, given(stepz=20))
    with pytest.raises(files.ParameterError, match="whole number"):
        runs.start(1, given(steps="many"))
    assert not (project / "runs").exists()


# A run as its chapter sees it ---------------------------------------------------------------------


def test_start_may_be_repeated_in_an_open_notebook(project: Path) -> None:
    values = given(steps=20.0)
    values["run"] = runs.start(1, values)
    assert type(values["steps"]) is int
    values["best_dice"] = 0.7
    assert "best_dice" not in runs.start(1, values).parameters


def test_card_and_records(project: Path) -> None:
    run = runs.start(1, given(seed=3, data=str(project / "mine")))
    assert run.folder == project / "runs" / "local" / "seed-3" / "01_data"
    run.record(dice=np.float32(0.5), slices=3)
    run.record(empty=float("nan"))
    rows = pd.DataFrame({"Arm": ["A4 real", "A1"], "test Dice": [0.5, 0.25], "note": ["a", "b"]})
    shown = run.table("arms", rows, {"note": "Note"}, digits=2)
    assert shown.heads == ["Arm", "test Dice", "Note"]
    assert shown.rows[0] == ("A4 real", "0.50", "a")
    run.table("steps", pd.DataFrame({"step": [1, 1], "loss": [4, 5]}))
    assert not files.read_json(run.folder / "card.json")["finished"]
    run.finish()
    assert json.loads((run.folder / "metrics.json").read_text()) == {
        **{"dice": 0.5, "slices": 3, "empty": None},
        **{"arms_a4_real_test_dice": 0.5, "arms_a1_test_dice": 0.25},
        **{"steps_1_loss": 4, "steps_2_loss": 5},
    }
    assert pd.read_csv(run.folder / "arms.csv").equals(rows)
    card = files.read_json(run.folder / "card.json")
    assert card["finished"]
    assert card["data"]["fingerprint"] == run.dataset.fingerprint
    assert card["versions"]["keras"] == keras.__version__
    assert card["device"].endswith("1 thread")
    assert not list(run.folder.glob(".*"))


def test_images_and_masks_become_8_bit_files(project: Path) -> None:
    run = runs.start(1, given())
    images = np.array([-1.0, 0.2, 1.4, -0.5], np.float32).reshape(1, 2, 2, 1)
    run.pictures("made", images=images, masks=images > 0)
    stored = [imread(run.folder / "made" / kind / "000.png") for kind in ("images", "masks")]
    np.testing.assert_array_equal(stored[0], [[0, 153], [255, 64]])
    np.testing.assert_array_equal(stored[1], [[0, 255], [255, 0]])


def test_streams_differ_by_name_and_seed(project: Path) -> None:
    run, other = runs.start(1, given()), runs.start(1, given(seed=1))
    values = [run.stream("crops"), run.stream("noise"), other.stream("crops")]
    assert len(set(values)) == 3
    assert all(0 <= value < 2**31 for value in values)
    assert runs.start(1, given(rate=0.75)).stream("crops") == values[0]


def test_a_part_of_the_training_volume(project: Path) -> None:
    whole = keys.load_data(given())
    part = keys.cut(whole, {"part": "0:2"})
    assert part.train.name == f"{whole.train.stack}[0:2]"
    assert part.test is whole.test
    assert keys.cut(whole, {"part": ""}) is whole


def test_a_run_with_other_parameters_sets_the_earlier_one_aside(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs.start(1, given())
    first.record(dice=0.5)
    assert runs.start(1, given()).key == first.key
    assert (first.folder / "metrics.json").is_file()
    capsys.readouterr()
    runs.start(1, given(steps=20))
    aside = first.folder.with_name(f"01_data.{first.key[:8]}")
    assert f"kept as runs/local/seed-0/{aside.name}" in capsys.readouterr().out
    assert (aside / "metrics.json").is_file()
    assert not (first.folder / "metrics.json").exists()


# Keys and inputs ----------------------------------------------------------------------------------


def finished(chapter: int, **changes: object) -> runs.Run:
    run = runs.start(chapter, given(**changes))
    run.finish()
    return run


def test_the_key_holds_what_numbers_depend_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(inputs: dict[str, str] | None = None, data: str = "d", **changes: object) -> str:
        return keys.run_key(1, given(**changes), inputs or {}, data)

    before = key()
    assert key(folder="elsewhere", generator="runs/other/seed-0/02_gan", data="d") == before
    others = [key(steps=3), key({"02_gan": "k"}), key(data="e"), key(seed=1)]
    nbformat.write(make_chapter(1, "other = 1"), files.chapter_path(1))
    others.append(key())
    monkeypatch.setattr(keys, "method_fingerprint", lambda: "other method")
    others.append(key())
    assert len({before, *others}) == 7


def test_comments_and_other_files_are_not_the_method(tmp_path: Path) -> None:
    def fingerprint(source: str, name: str = "masks.py") -> str:
        (tmp_path / name).write_text(source, encoding="utf-8")
        keys.method_fingerprint.cache_clear()
        return keys.method_fingerprint(tmp_path)

    before = fingerprint("def area(mask):\n    return mask.sum()\n")
    same = '"""Text."""\n\ndef area(mask):  # why\n    """More."""\n    return mask . sum()\n'
    assert fingerprint(same) == before
    assert fingerprint("LINES = 2\n", "figures.py") == before
    assert fingerprint("def area(mask):\n    return mask.mean()\n") != before
    keys.method_fingerprint.cache_clear()


def test_inputs_are_siblings_or_given(project: Path) -> None:
    sibling = finished(2)
    other = finished(2, folder="runs/other", steps=7)
    later = runs.start(3, given(generator=""))
    assert later.inputs == {"generator": sibling.folder}
    chosen = runs.start(3, given(generator="runs/other/seed-0/02_gan"))
    assert chosen.inputs == {"generator": other.folder}
    assert files.read_json(chosen.folder / "card.json")["inputs"] == {"02_gan": other.key}
    assert chosen.key != later.key


def test_an_input_that_does_not_fit_names_the_command(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, **changes: object) -> None:
        with pytest.raises(keys.MissingRun, match=message):
            runs.start(3, given(generator="", folder="runs/smoke", **changes))

    refused("02_gan does not exist: make it first, .*:  synthseg run 2 --profile smoke$")
    run = runs.start(2, given(folder="runs/smoke"))
    refused("is not finished")
    run.finish()
    refused("made with crop=8", crop=4)
    refused("does not exist", seed=1)
    monkeypatch.setattr(keys, "METHOD_VERSION", -1)
    refused("another version of the method")
    monkeypatch.undo()
    write_stack(project / "mine", grey=120)


def test_changed_data_make_another_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = finished(2)
    write_stack(project / "mine", grey=120)
    with pytest.raises(keys.MissingRun, match=r"other data .* papermill book/02_gan\.ipynb"):
        runs.start(3, given(generator=""))
    assert runs.start(2, given()).key != before.key


# Jobs ---------------------------------------------------------------------------------------------


def execute(plan: list[jobs.Job], **how: object) -> dict[str, str]:
    """Execute a plan; returns the last state of each job."""
    states: dict[str, str] = {}
    base = plan[0].folder.parent
    jobs.execute(plan, base, lambda job, now: states.update({job.folder.name: now.state}), **how)
    return states


def make_plan(*chapters: int, settings: list[str] | None = None) -> list[jobs.Job]:
    return jobs.make_plan(parameters.plan(chapters, "smoke", settings=settings or []).items())


def test_an_unknown_cluster_is_refused(project: Path) -> None:
    with pytest.raises(files.RunError, match="no profile 'slrum'"):
        execute(make_plan(1), executor="slrum")


def test_jobs_run_in_order_and_once_and_go_on_after_a_failure(project: Path) -> None:
    done = dict.fromkeys(("01_data", "02_gan", "03_baseline_segmentation"), "done")
    unchanged = dict.fromkeys(done, "unchanged")
    path = files.chapter_path(3)
    good = nbformat.read(path, as_version=4)
    broken = make_chapter(3, "1 / 0", good.cells[1].source)
    nbformat.write(broken, path)
    with pytest.raises(files.ChapterError, match=r"03_base.* stopped in cell .*ZeroDivision"):
        execute(make_plan(1, 2, 3), side_by_side=2)
    nbformat.write(good, path)
    plan = make_plan(1, 2, 3)
    assert execute(plan) == unchanged | {"03_baseline_segmentation": "done"}
    assert len(list(plan[2].folder.parent.glob("03_baseline_segmentation.*"))) == 1
    first = plan[0].folder
    executed = nbformat.read(first / "01_data.ipynb", as_version=4)
    [printed] = [
        output.text
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    ]
    assert printed.startswith("rate 0.25 module://matplotlib_inline")
    assert files.read_json(plan[2].folder / "metrics.json")["from_gan"]

    assert execute(make_plan(1, 2, 3)) == unchanged
    # Another GAN is another input; chapter 1 does not depend on it.
    again = make_plan(1, 2, 3, settings=["steps=3"])
    assert [job.finished for job in make_plan(1)] == [True]
    assert [job.finished for job in again] == [False, False, False]
    assert again[2].last_time is not None

    index, chapters = publishing.build_run("smoke")
    assert chapters == list(done)
    assert "A 0.25" in page_text(index.parent / "intro.html")
    assert publishing.publish("smoke") == list(done)
    assert publishing.check() == {name: [] for name in done}
    card = files.read_json(project / "results" / "03_baseline_segmentation.card.json")
    assert str(project) not in json.dumps(card)

    cards = reruns.read_cards(project / "results" / "03_baseline_segmentation.card.json")
    assert [item.chapter for item in cards] == [2, 3]
    planned = jobs.make_plan((item.chapter, item.parameters) for item in cards)
    assert planned[1].key == plan[2].key
    assert planned[1].folder.parents[1].name == f"rerun-{plan[2].key[:8]}"


def page_text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_numbers_that_a_run_has_not_recorded_are_said_to_be_missing() -> None:
    text = "{glue:text}`a8:.3f` {glue:text}`02_gan.ipynb::dice` {glue:text}`08_x.ipynb::verdict:s`"
    recorded = {"07_joint_training": {"a1": 0.5}, "02_gan": {"dice": 0.5}}
    shown = publishing._without_missing(text, "07_joint_training", recorded)
    assert shown == text.replace("{glue:text}`a8:.3f`", "*(not run)*")
    assert publishing._without_missing(text, "intro", {}).count("*(not run)*") == 1


def test_a_partial_book_on_the_phantom_says_both(project: Path, tmp_path: Path) -> None:
    for chapter, name in ((1, "01_data"), (2, "02_gan")):
        run = finished(chapter, folder="runs/smoke")
        card = files.read_json(run.folder / "card.json")
        card["parameters"]["data"] = "phantom"
        files.write_json(run.folder / "card.json", card)
        notebook = nbformat.read(files.chapter_path(chapter), as_version=4)
        nbformat.write(notebook, run.folder / f"{name}.ipynb")
        keys.receipt(run.folder, run.key).touch()
    nbformat.write(make_chapter(2, "rate"), files.chapter_path(2))
    (project / "book" / "_extra").mkdir()
    index, chapters = publishing.build_run("smoke")
    assert chapters == ["01_data"]
    script = (index.parent / "live" / "run" / "run.js").read_text(encoding="utf-8")
    assert "2 was not executed" in script  # what the interactive pages say
    for name in ("intro", "results", "01_data", "02_gan"):
        assert publishing.PHANTOM in page_text(index.parent / f"{name}.html")
    assert "code was changed after its run" in page_text(index.parent / "02_gan.html")
    other = page_text(index.parent / "03_baseline_segmentation.html")
    assert "has not been executed in this run" in other
    times = page_text(index.parent / "results.html")
    assert re.search(r"The run on this page took \d+ s .* This chapter has not been run\.", times)
    publishing.write_results(tmp_path, [])  # what pages would show without any chapter
    tables = [(tmp_path / f"{name}.csv").read_text("utf-8") for name in ("metrics", "cards")]
    assert tables == ["chapter\n–\n"] * 2

    assert publishing.finished_runs("smoke").keys() == {"01_data", "02_gan"}
    with pytest.raises(files.RunError, match=r"02_gan .* changed after its run: run  synthseg"):
        publishing.publish("smoke")
    for receipt in project.glob("runs/smoke/seed-0/*/done-*"):
        receipt.unlink()  # as if they had been finished in JupyterLab
    with pytest.raises(files.RunError, match=r"No chapter in runs/smoke/seed-0 has been finished"):
        publishing.finished_runs("smoke")


def test_a_published_card_names_no_path_of_the_machine(project: Path, tmp_path: Path) -> None:
    write_stack(tmp_path / "mouse")
    with pytest.warns(UserWarning, match="unusual"):
        run = finished(1, data=str(tmp_path / "mouse"), folder="runs/smoke", nm_per_pixel=500.0)
    shutil.copy(files.chapter_path(1), run.folder / "01_data.ipynb")
    keys.receipt(run.folder, run.key).touch()
    publishing.publish("smoke")
    text = (project / "results" / "01_data.card.json").read_text(encoding="utf-8")
    assert "mouse has pixels of 500 nm" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/me/mouse", "mouse"),
        ("../../me/mouse", "mouse"),
        ("~/mouse", "mouse"),
        ("data/mouse", "data/mouse"),  # within the project
        ("/a/image.tif,../b/mask.tif", "image.tif,mask.tif"),
        ("epfl", "epfl"),
    ],
)
def test_parameters_are_shown_without_paths(path: str, shown: str) -> None:
    assert parameters.without_paths({"data": path, "steps": 3}) == {"data": shown, "steps": 3}


def test_two_commands_do_not_share_a_folder(project: Path) -> None:
    plan = make_plan(1)
    code = "import sys; from synthseg import keys; from pathlib import Path; "
    code += "lock = keys.hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(plan[0].folder.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(files.RunError, match=f"in use by process {other.pid} on .* since"):
            execute(plan)
        other.kill()
    with keys.hold(plan[0].folder.parent), keys.hold(plan[0].folder.parent):
        pass


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_goes_on_where_it_was_killed(project: Path, sent: signal.Signals) -> None:
    def command(profile: str) -> subprocess.Popen[bytes]:
        (project / "params" / f"{profile}.yaml").write_text("02_gan:\n  steps: 2000\n")
        called = [sys.executable, "-m", "synthseg.command.cli", "run", "2", "--profile", profile]
        with (project / f"{profile}.log").open("ab") as log:
            return subprocess.Popen(called, stdout=log, stderr=log)

    assert command("whole").wait() == 0
    killed = command("killed")
    folder = project / "runs" / "killed" / "seed-0" / "02_gan"
    while not list(folder.glob("resume/*")):
        time.sleep(0.1)
        assert killed.poll() is None
    os.kill(killed.pid, sent)
    killed.wait()
    assert not list(folder.glob("done-*"))
    assert ("To go on" in (project / "killed.log").read_text()) == (sent == signal.SIGTERM)
    assert command("killed").wait() == 0
    assert files.read_json(folder / "card.json")["sessions"] == 2
    whole = project / "runs" / "whole" / "seed-0" / "02_gan"
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()


# Reruns -------------------------------------------------------------------------------------------


def test_numbers_are_judged_by_where_they_were_made() -> None:
    before = {"test_dice": 0.8, "frechet": 60.0, "gone": 1}
    after = {"test_dice": 0.8019, "frechet": 61.0}
    same = reruns.compare(before, after, same_machine=True)
    assert [agrees for *_, agrees in same.values()] == [False, False, False]
    other = reruns.compare(before, after, same_machine=False)
    assert [agrees for *_, agrees in other.values()] == [True, None, False]
    assert reruns.compare(before, before, same_machine=True)["frechet"] == (60.0, 60.0, True)
    far = reruns.compare(before, {**before, "test_dice": 0.77}, same_machine=False)
    assert far["test_dice"] == (0.8, 0.77, False)
