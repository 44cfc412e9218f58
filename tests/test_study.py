"""The study from its rules to its verdicts, at toy size."""

import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from nbclient import NotebookClient

from synthseg import keys, verdicts
from synthseg.project import ChapterError

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "workflow"))
import study  # noqa: E402

FULL = yaml.safe_load((ROOT / "params" / "study.yaml").read_text())
TOY = {
    "train_gan": {"batch": 2, "steps": 4, "snapshots": 2, "width": 4, "images": 8},
    "train_arm": {
        **{"batch": 2, "steps": 4, "epochs": 2, "channels": 4, "pool": 8, "blocks": 2},
        "evaluation_crops": 4,
    },
    "plan": {
        **FULL["plan"],
        "seeds": 1,
        "window": [128, 160],
        "arms": {"window": ["A5"]},
        "few": {},
        "twins": {},
        "random_gans": 0,
        "constant_noise": False,
    },
}


@pytest.fixture(scope="module")
def phantom():
    return keys.load_data({"data": "phantom", "nm_per_pixel": None})


@pytest.fixture
def toy(eager_kernels, small_data, tmp_path, monkeypatch):
    """A project with the study's notebooks and toy settings."""
    for name in ("workflow", "book"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text(yaml.safe_dump({**TOY, "all": small_data}))
    monkeypatch.setenv("SYNTHSEG_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plan_is_what_the_page_says(phantom):
    settings = {**FULL, "all": {"data": "phantom", "crop": 80, "size": 32}}
    settings["plan"] = {**FULL["plan"], "window": [192, 256]}
    cells = list(study.Plan(settings, "runs/study", phantom).cells())
    assert len(cells) == len({cell.key for cell in cells}) == FULL["plan"]["runs"]
    folders = {(cell.parameters["folder"], cell.seed, cell.notebook) for cell in cells}
    assert len(folders) == len(cells)
    frame = pd.DataFrame([(cell.amount, cell.name, cell.seed) for cell in cells])
    counts = frame.groupby([0, 1]).size()
    assert set(counts["window"].drop(["A9", "live"])) == {10}
    assert counts["window", "A9"] == 6
    # Within a seed and an amount, all arms learn from the same part; the next seed from another.
    window = [cell for cell in cells if cell.amount == "window"]
    assert len({(cell.seed, cell.parameters["part"]) for cell in window}) == 10
    for cell in (cell for cell in window if cell.notebook == "train_arm"):
        z, other = (int(cell.parameters[name].split(":")[0]) for name in ("part", "unseen"))
        assert abs(z - other) >= 5 * (phantom.train.shape[0] // 20)  # other tissue
    # Every generator that an arm uses has been trained before, on the same part.
    order = {cell.key: place for place, cell in enumerate(cells)}
    for cell in (cell for cell in cells if cell.gan):
        assert order[cell.gan.key] < order[cell.key]
        assert cell.gan.parameters["part"] == cell.parameters["part"]


def test_from_the_rules_to_the_verdicts(toy, capsys, monkeypatch):
    settings = Path("params/study.yaml")
    study.main(settings, 2, dry_run=True)
    said = capsys.readouterr().out
    assert said.startswith("0 runs done, 3 runs left")
    study.main(settings, 2, dry_run=False)
    results = toy / "results"
    tables = {path.name: path.read_bytes() for path in results.glob("study_*.csv")}
    runs = study.finished(results)
    assert len(runs) == 3
    scores = verdicts.scores(verdicts.read_tables(results, TOY["plan"]).arms)
    assert set(scores["window"].index) == {("A5", 1), ("A1again", 1)}

    # What is committed is the receipt: in a fresh clone, without the runs, nothing is repeated, and
    # one missing arm needs its GAN once more.
    (toy / "runs").rename(toy / "gone")
    study.main(settings, 2, dry_run=False)
    assert not (toy / "runs" / "study" / "window").exists()
    frame = pd.read_csv(results / "study_runs.csv", dtype=str, keep_default_na=False)
    missing = frame["name"].isin(["A5", "A1again"])
    frame[~missing].to_csv(results / "study_runs.csv", index=False, lineterminator="\n")
    capsys.readouterr()

    # A run that fails is named, and stops none but those that need it.
    lock = toy / "runs" / "study" / "window" / "gan" / "seed-1" / ".train_gan.lock"
    lock.mkdir(parents=True)  # in the place of a file, so that it fails at once
    with pytest.raises(ChapterError, match="train_gan"):
        study.main(settings, 1, dry_run=False)
    assert "seed 1  failed" in capsys.readouterr().err
    assert {row["name"] for row in study.finished(results).values()} == {"gan", "A1again"}
    lock.rmdir()
    study.main(settings, 2, dry_run=False)
    made = sorted(path.parent.name for path in (toy / "runs").rglob("card.json"))
    assert made == ["train_arm", "train_arm", "train_gan"]
    arms = (results / "study_arms.csv").read_text().splitlines()
    assert sorted(arms) == sorted(tables["study_arms.csv"].decode().splitlines())  # same counts

    # The chapter reads the tables alone.
    chapter = nbformat.read(ROOT / "book" / "08_do_they_help.ipynb", as_version=4)
    monkeypatch.delenv("IPYTHONDIR")  # no TensorFlow
    NotebookClient(chapter, kernel_name="python3").execute()
    assert not any(o.output_type == "error" for c in chapter.cells for o in c.get("outputs", ()))


def test_an_unknown_setting_is_refused(toy, phantom):
    wrong = {**TOY, "all": {}, "train_arm": {"step": 3}}
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        list(study.Plan(wrong, "runs/study", phantom).cells())
