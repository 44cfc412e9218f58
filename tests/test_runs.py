"""Runs: parameters, folders, run cards, exact resume, execution, publishing."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from synthseg import parameters, publishing, runs

# Keras stores variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PARAMETERS = """\
data = "phantom"  # phantom, epfl, a folder or a pair of files
nm_per_pixel = None
seed = 0
folder = "runs/local"
steps = 100
rate = 0.5
augment = False
"""
INLINE = "module://matplotlib_inline.backend_inline"
START = "from synthseg import runs\n\nrun = runs.start({chapter}, globals())"


def chapter(number: int, *cells: str, first: str = PARAMETERS) -> nbformat.NotebookNode:
    sources = [first, START.format(chapter=number), *cells, "run.finish()"]
    code = [
        nbformat.v4.new_code_cell(source, id=f"cell-{index}")
        for index, source in enumerate(sources)
    ]
    code[0].metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell(f"# Chapter {number}", id="title")
    text = nbformat.v4.new_markdown_cell("The rate is {glue:text}`rate:.2f`.", id="text")
    notebook = nbformat.v4.new_notebook(cells=[title, *code, *([text] if cells else [])])
    # papermill on the command line asks for the language
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return notebook


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two chapters; other processes find it by the environment variable."""
    monkeypatch.setenv("SYNTHSEG_ROOT", str(tmp_path))
    names = {1: "01_data", 3: "03_baseline_segmentation"}
    monkeypatch.setattr(parameters, "CHAPTERS", names)
    monkeypatch.setattr(publishing, "CHAPTERS", names)
    book = tmp_path / "book"
    book.mkdir()
    recording = "import os\nimport sys\n\nprint('rate', rate, os.environ['MPLBACKEND'])\n"
    recording += "print('noise', file=sys.stderr)\nrun.record(rate=rate)"
    table = "import pandas as pd\n\nrun.table('slices', pd.DataFrame({'slice': [0], 'dice': [1]}))"
    nbformat.write(chapter(1, recording, table), book / "01_data.ipynb")
    nbformat.write(chapter(3), book / "03_baseline_segmentation.ipynb")
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: 01_data\n"
        "- file: 03_baseline_segmentation\n- file: results\n"
    )
    (book / "intro.md").write_text("# Intro\n\nA {glue:text}`01_data.ipynb::rate:.2f`.\n")
    (book / "results.md").write_text(
        "# Results\n\n"
        + "".join(
            f"```{{csv-table}} {name}\n:file: ../results/{name}.csv\n:header-rows: 1\n```\n\n"
            for name in ("metrics", "cards", "01_data.slices")
        )
    )
    (tmp_path / "_config.yml").write_text(
        'title: T\nauthor: A\nlogo: ""\nexecute:\n  execute_notebooks: "off"\n'
        "only_build_toc_files: true\n"
    )
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "smoke.yaml").write_text(
        "all:\n  rate: 0.25\n03_baseline_segmentation:\n  steps: 20\n"
    )
    return tmp_path


def namespace(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {}
    exec(PARAMETERS, values)
    return {**values, **changes}


# Parameters


def test_defaults_are_those_of_the_parameters_cell(project: Path) -> None:
    assert parameters.default_parameters(parameters.chapter_path(1)) == {
        "data": "phantom",
        "nm_per_pixel": None,
        "seed": 0,
        "folder": "runs/local",
        "steps": 100,
        "rate": 0.5,
        "augment": False,
    }


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("steps: int = 3", "steps: int = 3"),
        ("steps = 3 * 4", r"steps = 3 \* 4"),
        ("sizes = [1, 2]", "sizes"),
        ("steps = 3", "lacks data, nm_per_pixel, seed, folder"),
    ],
)
def test_parameters_cell_holds_plain_values_only(project: Path, cell: str, message: str) -> None:
    nbformat.write(chapter(1, first=cell), parameters.chapter_path(1))
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.default_parameters(parameters.chapter_path(1))


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("20", 1, 20),
        ("1e3", 1, 1000),
        ("1e-3", 0.5, 0.001),
        ("2", 0.5, 2.0),
        ("true", False, True),
        ("no", "phantom", "no"),
        ("null", None, None),
        ("7.5", None, 7.5),
    ],
)
def test_setting_takes_the_type_of_the_default(
    text: str, default: parameters.Scalar, expected: parameters.Scalar
) -> None:
    value = parameters.parse("name", text, default)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "default"),
    [("abc", 1), ("1.5", 1), ("true", 1), ("1", False), ("null", 1), ("[1]", 1), ("abc", None)],
)
def test_setting_of_another_type_is_refused(text: str, default: parameters.Scalar) -> None:
    with pytest.raises(parameters.ParameterError, match="steps"):
        parameters.parse("steps", text, default)


def test_plan_lays_settings_over_profile_over_defaults(project: Path) -> None:
    plan = parameters.plan([3, 1], "smoke", data="epfl", seed=5, settings=["steps=7"])
    assert list(plan) == [1, 3]
    assert plan[1] == plan[3]
    assert plan[1]["steps"] == 7
    assert plan[1]["rate"] == 0.25
    assert (plan[1]["data"], plan[1]["seed"]) == ("epfl", 5)
    assert plan[1]["folder"] == "runs/smoke"
    assert parameters.plan([1, 3], "smoke")[3]["steps"] == 20
    assert parameters.plan([1], "smoke", seed=5, settings=["seed=3"])[1]["seed"] == 3


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ("all:\n  ratte: 1\n", "'rate'"),
        ("03_baseline:\n  rate: 1\n", "'03_baseline_segmentation'"),
        ("01_data:\n  steps: many\n", "whole number"),
        ("all:\n  seed: 3\n", "no 'seed'"),
        ("all: 3\n", "group all"),
    ],
)
def test_faulty_profile_is_refused(project: Path, profile: str, named: str) -> None:
    (project / "params" / "smoke.yaml").write_text(profile)
    with pytest.raises(parameters.ParameterError, match=named):
        parameters.read_profile("smoke")


def test_unknown_names_are_refused(project: Path) -> None:
    with pytest.raises(parameters.ParameterError, match="did you mean 'steps'"):
        parameters.plan([3], "smoke", settings=["stepz=20"])
    with pytest.raises(parameters.ParameterError, match="did you mean 'smoke'"):
        parameters.plan([3], "smok")
    with pytest.raises(parameters.RunError, match="no chapter 9"):
        parameters.plan([9], "smoke")


# Runs


def test_start_refuses_unknown_parameters(project: Path) -> None:
    with pytest.raises(parameters.ParameterError, match="did you mean 'steps'"):
        runs.start(1, namespace(stepz=20))
    with pytest.raises(parameters.ParameterError, match="whole number"):
        runs.start(1, namespace(steps="many"))
    assert not (project / "runs").exists()


def test_start_may_be_repeated_in_an_open_notebook(project: Path) -> None:
    values = namespace(steps=20.0)
    values["run"] = runs.start(1, values)
    assert type(values["steps"]) is int
    values["best_dice"] = 0.7
    assert "best_dice" not in runs.start(1, values).parameters


def test_run_card_and_records(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.start(1, namespace(seed=3))
    assert run.folder == project / "runs" / "local" / "seed-3" / "01_data"
    asked = []
    dataset = SimpleNamespace(name="own", fingerprint="ab12", provenance="Drawn.")
    monkeypatch.setattr(
        "synthseg.volumes.load", lambda *arguments: asked.append(arguments) or dataset
    )
    run.parameters["data"] = "a.tif,b.tif"
    assert run.load_data() is dataset
    assert asked == [(f"{project}/a.tif,{project}/b.tif", None)]
    run.record(dice=np.float32(0.5), slices=3)
    run.record(empty=float("nan"))
    run.finish()
    assert json.loads((run.folder / "metrics.json").read_text()) == {
        "dice": 0.5,
        "slices": 3,
        "empty": None,
    }
    card = parameters.read_json(run.folder / "card.json")
    assert card["finished"]
    assert card["data"] == {"name": "own", "fingerprint": "ab12", "provenance": "Drawn."}
    assert card["parameters"]["seed"] == 3
    assert card["versions"]["keras"] == keras.__version__
    assert not list(run.folder.glob(".*"))


def test_run_with_other_parameters_sets_the_earlier_one_aside(project: Path) -> None:
    first = runs.start(1, namespace())
    first.record(dice=0.5)
    runs.start(1, namespace(steps=20))
    aside = first.folder.with_name(f"01_data.{first.key[:8]}")
    assert (aside / "metrics.json").is_file()
    assert not (first.folder / "metrics.json").exists()


def test_needs_names_the_command(project: Path) -> None:
    later = runs.start(3, namespace(folder="runs/smoke"))
    with pytest.raises(
        parameters.MissingRun, match="synthseg run 1 --profile smoke --seed 0 --data phantom"
    ):
        later.needs(1, "model.keras")
    earlier = runs.start(1, namespace(folder="runs/smoke"))
    (earlier.folder / "model.keras").touch()
    with pytest.raises(parameters.MissingRun, match="not been made"):
        later.needs(1, "model.keras")
    earlier.finish()
    assert later.needs(1, "model.keras") == earlier.folder / "model.keras"
    other = runs.start(3, namespace(folder="runs/smoke", data="epfl"))
    with pytest.raises(parameters.MissingRun, match="made with data=phantom"):
        other.needs(1, "model.keras")
    raw = runs.start(3, namespace())
    with pytest.raises(parameters.MissingRun, match=r"papermill book/01_data\.ipynb .* -p seed 0"):
        raw.needs(1, "model.keras")


def own_data(folder: Path, grey: int) -> str:
    """A stack of one's own that begins with the given grey value, for ``--data``."""
    z, _, x = np.indices((8, 16, 16), np.uint8)
    image = grey + 4 * x + z
    mask = np.zeros_like(image)
    mask[:, 4:8, 4:8] = 1
    tifffile.imwrite(folder / "image.tif", image)
    tifffile.imwrite(folder / "mask.tif", mask)
    return str(folder)


def test_changed_data_are_noticed(project: Path, tmp_path: Path) -> None:
    given = namespace(data=own_data(tmp_path, 90), nm_per_pixel=5.0)
    first = runs.start(1, dict(given))
    before = first.load_data().fingerprint
    (first.folder / "model.keras").touch()
    first.finish()
    later = runs.start(3, dict(given))
    later.load_data()
    assert later.needs(1, "model.keras").is_file()
    assert runs.is_current(first.folder, first.key, before)

    own_data(tmp_path, 120)
    after = runs.load_data(first.parameters).fingerprint
    assert not runs.is_current(first.folder, first.key, after)
    with pytest.raises(parameters.RunError, match=r"have changed since .* --force"):
        runs.start(3, dict(given)).load_data()
    another = runs.start(3, given | {"rate": 0.75})
    another.load_data()
    with pytest.raises(parameters.MissingRun, match="made from other data"):
        another.needs(1, "model.keras")


def test_run_is_stale_when_its_inputs_are(project: Path) -> None:
    earlier = runs.start(1, namespace())
    (earlier.folder / "file").touch()
    earlier.finish()
    later = runs.start(3, namespace())
    later.needs(1, "file")
    assert runs.is_current(later.folder, later.key)
    runs.start(1, namespace(steps=20))
    assert not runs.is_current(later.folder, later.key)


# Training


def dense_model() -> keras.Model:
    inputs = keras.Input((4,))
    tensor = keras.layers.Dense(8)(inputs)
    tensor = keras.layers.BatchNormalization()(tensor)
    tensor = keras.layers.Dropout(0.5)(tensor)
    model = keras.Model(inputs, keras.layers.Dense(1)(tensor))
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    return model


class TwoOptimizers(keras.Model):
    """Like a GAN: a model whose own optimisers are not those of ``compile``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dense_model(), dense_model()
        self.optimizers = []
        self.first_optimizer = keras.optimizers.Adam(0.01)
        self.second_optimizer = keras.optimizers.Adam(0.02)
        self.first_optimizer.build(self.first.trainable_variables)
        self.second_optimizer.build(self.second.trainable_variables)
        self.built = True
        self.compile()

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs, targets = data
        with tf.GradientTape(persistent=True) as tape:
            between = self.first(inputs, training=True)
            loss = tf.reduce_mean(tf.square(targets - between))
            other = tf.reduce_mean(tf.square(self.second(inputs, training=True) - between))
        for network, optimizer, value in (
            (self.first, self.first_optimizer, loss),
            (self.second, self.second_optimizer, other),
        ):
            variables = network.trainable_variables
            optimizer.apply(tape.gradient(value, variables), variables)
        return {"loss": loss, "other": other}


def batches(first_step: int) -> tf.data.Dataset:
    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = tf.random.stateless_normal((8, 4), [1, step])
        return inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)

    return tf.data.Dataset.counter(first_step).map(batch)


class Crash(keras.callbacks.Callback):
    """Stops in the middle of the third epoch."""

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if len(self.model.history.epoch) == 2 and batch == 1:
            raise InterruptedError


@pytest.mark.parametrize("build", [dense_model, TwoOptimizers])
def test_interrupted_training_resumes_exactly(project: Path, build: type[keras.Model]) -> None:
    def fit(folder: str, **options: object) -> tuple[keras.Model, object, runs.Run]:
        run = runs.start(1, namespace(folder=folder))
        if "again" in options:  # other initial weights and random numbers: all must be restored
            keras.utils.set_random_seed(int(str(options.pop("again"))))
        model = build()
        history = run.fit(model, batches, name="model", steps=12, epochs=4, **options)
        return model, history, run

    straight, expected, _ = fit("runs/straight")
    following = np.random.random(3)
    with pytest.raises(InterruptedError):
        fit("runs/broken", callbacks=[Crash()])
    broken = project / "runs" / "broken" / "seed-0" / "01_data"
    assert list((broken / "resume").glob("model-*.weights.h5"))
    resumed, history, run = fit("runs/broken", again=99)
    assert history.equals(expected)
    assert list(history["step"]) == [3, 6, 9, 12]
    assert len(straight.variables) == len(resumed.variables)
    for one, other in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert not list((broken / "resume").glob("*"))
    assert run._card["sessions"] == 2
    np.testing.assert_array_equal(following, np.random.random(3))

    def refuse(first_step: int) -> tf.data.Dataset:
        raise AssertionError("A complete training is not repeated.")

    loaded = build()
    again = run.fit(loaded, refuse, name="model", steps=12, epochs=4)
    assert again.equals(expected)
    for one, other in zip(straight.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert (broken / "model.history.csv").read_text().startswith("epoch,step,loss")


def test_optimizer_state_is_restored(project: Path) -> None:
    run = runs.start(1, namespace())
    first, second = dense_model(), dense_model()
    run.fit(first, batches, name="model", steps=2, epochs=2)
    run.fit(second, batches, name="model", steps=2, epochs=2)
    assert int(second.optimizer.iterations) == 2
    for one, other in zip(first.optimizer.variables, second.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_fewer_steps_than_epochs(project: Path) -> None:
    run = runs.start(1, namespace())
    history = run.fit(dense_model(), batches, name="short", steps=2, epochs=10)
    assert list(history["step"]) == [1, 2]
    with pytest.raises(parameters.ParameterError, match="at least 1"):
        run.fit(dense_model(), batches, name="none", steps=0, epochs=10)


# Execution and publication


def test_execute_build_publish_and_check(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = parameters.plan([1], "smoke")[1]
    monkeypatch.setenv("MPLBACKEND", "Agg")  # would leave the chapter without figures
    done = runs.execute(1, planned, progress=False)
    assert os.environ["MPLBACKEND"] == "Agg"
    assert not done.skipped
    assert done.notebook == project / "runs" / "smoke" / "seed-0" / "01_data" / "01_data.ipynb"
    assert runs.execute(1, planned, progress=False).skipped
    assert publishing.seeds("smoke") == [0]

    # A book of which a chapter has not been executed can be built, and says so.
    index, executed = publishing.build_run("smoke")
    assert executed == [1]
    assert index == project / "runs" / "smoke" / "book" / "index.html"
    pages = index.parent
    assert "0.25" in (pages / "intro.html").read_text()
    assert "has not been executed" not in (pages / "01_data.html").read_text()
    assert "rate 0.25" in (pages / "01_data.html").read_text()
    assert "has not been executed" in (pages / "03_baseline_segmentation.html").read_text()
    assert "01_data" in (pages / "results.html").read_text()

    assert publishing.publish("smoke") == [1]
    published = nbformat.read(parameters.chapter_path(1), as_version=4)
    assert published.cells[3].outputs[0].text == f"rate 0.25 {INLINE}\n"
    assert [output.get("name") for output in published.cells[3].outputs] == ["stdout", None]
    assert len(published.cells) == 7
    metrics = (project / "results" / "metrics.csv").read_text()
    assert metrics == "chapter,quantity,value,seed\n01_data,rate,0.25,0\n"
    cards = (project / "results" / "cards.csv").read_text().splitlines()
    assert cards[0] == ",".join(publishing.CARDS_COLUMNS)
    assert len(cards) == 2
    assert (project / "results" / "01_data.slices.csv").is_file()
    checked = publishing.check()
    assert checked[0].problems == []
    assert "missing" in checked[1].problems[0]

    path = project / "results" / "01_data.card.json"
    card = runs.read_json(path)
    runs.write_json(path, card | {"method_version": 0})
    assert f"method version 0, now {runs.METHOD_VERSION}" in publishing.check()[0].problems[0]
    runs.write_json(path, card | {"inputs": {"02_gan": "another key"}})
    assert "another run of 02_gan" in publishing.check()[0].problems[0]
    runs.write_json(path, card)
    assert publishing.check()[0].problems == []

    published.cells[3].outputs = []
    nbformat.write(published, parameters.chapter_path(1))
    assert "outputs" in publishing.check()[0].problems[0]
    published.cells[3].source = "print(rate)"
    nbformat.write(published, parameters.chapter_path(1))
    assert "code cells" in publishing.check()[0].problems[0]
    with pytest.raises(parameters.RunError, match="changed after its run"):
        publishing.publish("smoke")


def test_failing_cell_is_named(project: Path) -> None:
    nbformat.write(chapter(1, "raise ValueError('no such cell')"), parameters.chapter_path(1))
    with pytest.raises(
        parameters.ChapterError,
        match=r"Chapter 1 .*\[4\].*ValueError: no such cell; .*partial\.ipynb",
    ):
        runs.execute(1, parameters.plan([1], "smoke")[1], progress=False)


def test_nothing_to_build(project: Path) -> None:
    with pytest.raises(parameters.RunError, match="synthseg run --profile smoke"):
        publishing.build_run("smoke")


def test_missing_numbers_are_replaced() -> None:
    text = "A {glue:text}`01_data.ipynb::rate:.2f`, b {glue:text}`dice:.3f`."
    assert publishing._without_missing(text, {}, None) == "A *(not run)*, b {glue:text}`dice:.3f`."
    assert publishing._without_missing(text, {}, 1) == "A *(not run)*, b *(not run)*."


def test_module_fingerprint_is_of_the_code_alone(tmp_path: Path) -> None:
    def fingerprint(source: str, name: str = "masks.py") -> str:
        (tmp_path / name).write_text(source, encoding="utf-8")
        parameters.module_fingerprint.cache_clear()
        return parameters.module_fingerprint(tmp_path)

    before = fingerprint("def area(mask):\n    return mask.sum()\n")
    same = '"""Text."""\n\ndef area(mask):  # why\n    """More."""\n    return mask . sum()\n'
    assert fingerprint(same) == before
    assert fingerprint("LINES = 2\n", "figures.py") == before
    assert fingerprint("def area(mask):\n    return mask.mean()\n") != before


def test_a_run_by_other_code_is_not_current(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"seed": 0, "folder": "runs/x"}
    key = runs.run_key(chosen, "chapter")
    assert runs.run_key({**chosen, "folder": "runs/y"}, "chapter") == key
    assert runs.run_key(chosen, "other chapter") != key
    folder = runs.run_folder(1, chosen)
    parameters.write_json(folder / "card.json", {"key": key, "inputs": {}})
    assert runs.is_current(folder, runs.run_key(chosen, "chapter"))
    monkeypatch.setattr(runs, "module_fingerprint", lambda: "other module")
    assert not runs.is_current(folder, runs.run_key(chosen, "chapter"))
