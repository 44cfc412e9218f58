"""Every chapter runs, reads each of its parameters, and refuses others."""

import ast
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import tifffile
from skimage.io import imread

from synthseg import keys, parameters
from synthseg import project as files
from synthseg.command import jobs

# Smaller than the smoke profile: this shows that the code runs, not that anything is learned.
TINY_CHAPTER = {
    1: {"crops": 32},
    2: {"steps": 4, "snapshots": 2, "width": 4, "checkerboard_epochs": 1, "frechet_images": 16},
    3: {"steps": 4, "epochs": 2, "gap_steps": 2, "channels": 4, "evaluation_crops": 8},
    4: {"steps": 4, "epochs": 2, "channels": 4, "pool": 16, "evaluation_crops": 8},
    5: {"steps": 2, "images": 16, "references": 2, "snapshots": 1, "channels": 4},
    6: {"count": 16},
    7: {
        "steps": 2,
        "epochs": 2,
        "channels": 4,
        "pool": 16,
        "arms": "A1 A1x2 A2 A8 A9 live",
        "evaluation_crops": 8,
    },
}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def is_parameters(cell: nbformat.NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


@pytest.fixture(scope="module")
def executed(
    eager_kernels: None, small_data: dict, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """All seven chapters, executed by Snakemake into one folder."""
    folder = str(tmp_path_factory.mktemp("runs") / "tiny")
    chosen = {}
    for chapter, name in files.CHAPTERS.items():
        defaults = parameters.default_parameters(files.chapter_path(chapter))
        assert set(TINY_CHAPTER[chapter]) <= set(defaults), f"unknown parameter for {name}"
        chosen[chapter] = defaults | small_data | TINY_CHAPTER[chapter] | {"folder": folder}
    plan = jobs.make_plan(chosen.items())
    jobs.execute(plan, plan[0].folder.parent, lambda job, progress: None, side_by_side=2)
    return {int(job.chapter): job.folder / f"{job.folder.name}.ipynb" for job in plan}


@pytest.mark.parametrize("chapter", files.CHAPTERS)
def test_chapter_runs_and_leaves_what_it_promises(
    executed: dict, small_data: dict, chapter: int
) -> None:
    folder = executed[chapter].parent
    card = files.read_json(folder / "card.json")
    assert card["finished"]
    assert card["data"]["name"] == Path(small_data["data"]).name
    assert card["parameters"]["size"] == 32
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    code = keys.code_cells(read(executed[chapter]))
    assert code[-1].source.strip() == "run.finish()"
    assert not [cell.id for cell in code if any(o.output_type == "error" for o in cell.outputs)]


def test_chapter_3_leaves_what_predict_and_the_terminal_need(
    executed: dict, small_data: dict, tmp_path: Path
) -> None:
    from synthseg.command import predict, terminal

    folder = executed[3].parent
    numbers = files.read_json(folder / "metrics.json")
    assert terminal.LEARNED in numbers
    assert terminal.SCORE in numbers
    image = tifffile.imread(Path(small_data["data"]) / "test" / "image.tif")[0, :90, :70]
    tifffile.imwrite(tmp_path / "new.tif", image, photometric="minisblack")
    trained = predict.open_run(folder)
    assert trained.nm_per_pixel == 5.0
    done = predict.predict(trained, tmp_path / "new.tif", tmp_path / "masks")
    assert tifffile.imread(done.files[0]).shape == image.shape


@pytest.mark.parametrize(
    ("chapter", "kinds"),
    [
        (2, {"generated/images", "generated/masks"}),
        (3, {"test_predictions/masks"}),
        (6, {"generated/images", "generated/masks"}),
    ],
)
def test_pictures_are_left_for_use_elsewhere(
    executed: dict, small_data: dict, chapter: int, kinds: set[str]
) -> None:
    folder = executed[chapter].parent
    left = {path.parent for path in folder.glob("*/*/*.png")}
    assert {path.relative_to(folder).as_posix() for path in left} == kinds
    slices = len(tifffile.imread(Path(small_data["data"]) / "test" / "image.tif"))
    for path in left:
        pages = np.stack([imread(file) for file in path.iterdir()])
        assert len(pages) == (slices if chapter == 3 else 16)
        assert set(np.unique(pages)) <= {0, 255} or path.name == "images"


@pytest.mark.parametrize("chapter", files.CHAPTERS)
def test_each_figure_is_there_with_alt_text_caption_and_name(executed: dict, chapter: int) -> None:
    names = []
    for cell in keys.code_cells(read(executed[chapter])):
        pictures = [output for output in cell.outputs if "image/png" in (output.get("data") or {})]
        described = cell.metadata.get("mystnb", {})
        assert len(pictures) == bool(described), f"cell {cell.id}: picture and caption disagree"
        if described:
            assert len(described["image"]["alt"]) > 20
            assert described["figure"]["caption"]
            names.append(described["figure"]["name"])
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("chapter", files.CHAPTERS)
def test_no_cell_floods_the_page(executed: dict, chapter: int) -> None:
    for cell in keys.code_cells(read(executed[chapter])):
        lines = sum(str(output.get("text", "")).count("\n") for output in cell.outputs)
        assert lines <= 100, f"cell {cell.id} prints {lines} lines"


@pytest.mark.parametrize("chapter", files.CHAPTERS)
def test_each_parameter_is_read(chapter: int) -> None:
    notebook = read(files.chapter_path(chapter))
    cells = keys.code_cells(notebook)
    code = "\n".join(cell.source for cell in cells if not is_parameters(cell))
    read_names = {
        node.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    # By the run itself:
    read_names.update(keys.INPUTS, ["data", "nm_per_pixel", "seed", "folder", "part"])
    names = set(parameters.default_parameters(files.chapter_path(chapter)))
    assert names <= read_names, f"never read: {names - read_names}"
    tree = ast.parse(code)
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    inside = {id(node) for target in loops for node in ast.walk(target)}  # bound nowhere else
    bound = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in inside
    }
    assert not names & bound, f"bound anew: {names & bound}"


@pytest.mark.parametrize("chapter", files.CHAPTERS)
def test_prose_quotes_only_recorded_numbers(executed: dict, chapter: int) -> None:
    recorded = files.read_json(executed[chapter].parent / "metrics.json")
    text = "\n".join(
        cell.source
        for cell in read(files.chapter_path(chapter)).cells
        if cell.cell_type == "markdown"
    )
    quoted = set(re.findall(r"\{glue:text\}`([a-z0-9_]+)[:`]", text))
    assert quoted <= set(recorded), f"not recorded: {quoted - set(recorded)}"


def test_papermill_refuses_unknown_parameters(tmp_path: Path) -> None:
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'steps'"):
        papermill.execute_notebook(
            str(files.chapter_path(3)),
            str(tmp_path / "out.ipynb"),
            parameters={"stepz": 20, "folder": str(tmp_path)},
            cwd=str(files.project_root()),
            progress_bar=False,
        )


def test_chapter_names_the_command_that_makes_what_it_needs(tmp_path: Path) -> None:
    defaults = parameters.default_parameters(files.chapter_path(6))
    with pytest.raises(keys.MissingRun, match=r"papermill book/02_gan\.ipynb"):
        jobs.make_plan([(6, defaults | {"folder": str(tmp_path / "empty")})])


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu", "original"])
def test_profiles_name_existing_parameters_and_state_their_cost(profile: str) -> None:
    assert set(parameters.plan(files.CHAPTERS, profile)) == set(files.CHAPTERS)
    head = (files.project_root() / "params" / f"{profile}.yaml").read_text(encoding="utf-8")
    for word in ("Command:", "Hardware:", "Duration:", "Scores:"):
        assert f"# {word}" in head
