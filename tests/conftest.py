"""What tests share: a quiet, single-threaded TensorFlow, a small project, the real data."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
import tifffile

# Before anything imports TensorFlow.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}.items():
    os.environ.setdefault(name, value)

# Those that take longest, the longest first: at the end, one of them would run alone.
FIRST = ("test_chapters", "test_study", "test_runs", "test_book", "test_own_data", "test_resume")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; with --no-loadscope-reorder, xdist keeps the order."""
    items.sort(key=lambda item: (*FIRST, item.path.stem).index(item.path.stem))


# Not by MPLBACKEND: the kernels of chapters would inherit it and show no figures.
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def eager_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels compute eagerly: for a few steps of training, making a graph takes far longer."""
    startup = tmp_path_factory.mktemp("ipython") / "profile_default" / "startup"
    startup.mkdir(parents=True)
    lines = "import tensorflow as tf", "tf.config.run_functions_eagerly(True)"
    (startup / "eager.py").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(startup.parents[1]))
        yield


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Keras computes eagerly here, too, but for the maps of datasets, as TensorFlow warns."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_functions")
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def epfl_folder() -> Path:
    """The folder of the four EPFL files; tests that need it are skipped elsewhere."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "epfl"
    folder = Path(os.environ.get("SYNTHSEG_DATA") or beside)
    if not (folder / "training.tif").exists():
        pytest.skip(f"needs the EPFL data: no training.tif in {folder}; set SYNTHSEG_DATA")
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Parameters that name simulated tissue on disk, a tenth of the built-in volume."""
    from synthseg.stacks import phantom

    folder = tmp_path_factory.mktemp("small")
    for seed, (part, depth) in enumerate((("train", 24), ("test", 5))):
        (folder / part).mkdir()
        for name, stack in zip(
            ("image", "mask"), phantom.make(seed, (depth, 192, 256)), strict=True
        ):
            tifffile.imwrite(folder / part / f"{name}.tif", stack)
    return {"data": str(folder), "nm_per_pixel": 5.0, "crop": 80, "size": 32}


PARAMETERS = """\
data = "mine"  # a folder
nm_per_pixel = 5.0
seed = 0
folder = "runs/local"
crop = 8
size = 8
steps = 100
rate = 0.5
augment = False
"""
CELLS = {
    1: """
import os
import sys
import pandas as pd

print("rate", rate, os.environ["MPLBACKEND"])
print("noise", file=sys.stderr)
run.record(rate=rate)
run.table("slices", pd.DataFrame({"part": ["first", "last"], "Dice score": [0.5, 1.0]}))
""",
    2: """
import keras
import tensorflow as tf

inputs = keras.Input((4,))
model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
model.compile(keras.optimizers.Adam(0.01), loss="mse")


def batches(first):
    def batch(step):
        inputs = tf.random.stateless_normal((8, 4), [run.stream("batches"), step])
        return inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)

    return tf.data.Dataset.counter(first).map(batch)


history = run.fit(model, batches, name="gan", steps=steps, epochs=min(steps, 50))
run.record(loss=history["loss"].iloc[-1], weight=float(model.get_weights()[0][0, 0]))
""",
    3: "run.record(rate=rate, from_gan=(run.inputs['generator'] / 'metrics.json').is_file())",
}


def make_chapter(number: int, cell: str, parameters: str = PARAMETERS) -> nbformat.NotebookNode:
    """A notebook with a title, its parameters, its start, one cell, and its end."""
    start = f"from synthseg import runs\n\nrun = runs.start({number}, globals())"
    code = [
        nbformat.v4.new_code_cell(source.strip(), id=f"cell-{index}")
        for index, source in enumerate((parameters, start, cell, "run.finish()"))
    ]
    code[0].metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell(f"# Chapter {number}", id="title")
    text = nbformat.v4.new_markdown_cell("The rate is {glue:text}`rate:.2f`.", id="text")
    last = [text] if "rate=" in cell else []
    notebook = nbformat.v4.new_notebook(cells=[title, *code, *last])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata.kernelspec = kernel
    return notebook


def write_stack(folder: Path, grey: int = 90) -> None:
    """A stack of one's own that begins with the given grey value."""
    z, _, x = np.indices((8, 16, 16), np.uint8)
    mask = np.zeros((8, 16, 16), np.uint8)
    mask[:, 4:8, 4:8] = 1
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / "image.tif", grey + 4 * x + z)
    tifffile.imwrite(folder / "mask.tif", mask)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of three small chapters and a book; other processes find it, too."""
    from synthseg import parameters
    from synthseg import project as files
    from synthseg.command import cli, publishing, reruns

    root = tmp_path / "project"
    monkeypatch.setenv("SYNTHSEG_ROOT", str(root))
    names = {1: "01_data", 2: "02_gan", 3: "03_baseline_segmentation"}
    for module in (files, cli, parameters, publishing, reruns):
        monkeypatch.setattr(module, "CHAPTERS", names)
    (root / "book").mkdir(parents=True)
    write_stack(root / "mine")
    for number, name in names.items():
        more = 'generator = ""\n' if number == 3 else ""
        notebook = make_chapter(number, CELLS[number], PARAMETERS + more)
        nbformat.write(notebook, root / "book" / f"{name}.ipynb")
    toc = "format: jb-book\nroot: intro\nchapters:\n"
    toc += "".join(f"- file: {name}\n" for name in (*names.values(), "results"))
    (root / "book" / "_toc.yml").write_text(toc)
    (root / "book" / "intro.md").write_text("# Intro\n\nA {glue:text}`01_data.ipynb::rate:.2f`.\n")
    table = "```{{csv-table}} T\n:file: ../results/{}.csv\n:header-rows: 1\n```\n\n"
    tables = table.format("metrics") + table.format("cards")
    part = '```{{include}} ../results/times.md\n:start-after: "<!-- {} -->"\n'
    part += ':end-before: "<!-- end -->"\n```\n\n'
    times = part.format("01_data") + part.format("02_gan")
    (root / "book" / "results.md").write_text(f"# Results\n\n{tables}{times}")
    (root / "_config.yml").write_text(
        'title: T\nauthor: A\nlogo: ""\nexecute:\n  execute_notebooks: "off"\n'
        "only_build_toc_files: true\n"
    )
    (root / "params").mkdir()
    profile = "all:\n  rate: 0.25\n03_baseline_segmentation:\n  steps: 20\n"
    (root / "params" / "smoke.yaml").write_text(profile)
    (root / "workflow").symlink_to(Path(__file__).parents[1] / "workflow")
    monkeypatch.chdir(root)
    return root


def given(**changes: object) -> dict[str, object]:
    """The ``globals()`` of a notebook of the project."""
    values: dict[str, object] = {}
    exec(PARAMETERS, {}, values)
    return {**values, **changes}
