"""What the interactive pages are given: from the runs, complete, and nothing lost if it fails."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from synthseg import METHOD_VERSION, gan, keys, masks, segmenter, volumes
from synthseg.project import CHAPTERS, RunError, project_root, read_json, write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import export

SIZE, SNAPSHOTS = 32, 2
PARAMETERS: dict[str, Any] = {
    **vars(gan.original_settings(2, SIZE)),
    **{"data": "/home/somebody/mine", "nm_per_pixel": 5.0, "seed": 3, "part": ""},
    **{"crop": 2 * SIZE, "resize": "area", "noise": "fresh", "receptive_field": 34},
}

pytestmark = pytest.mark.usefixtures("eagerly")


def disks() -> volumes.Dataset:
    """Volumes with one dark disk in each quarter of a slice."""
    rows, columns = np.indices((160, 160))
    disk = (rows % 80 - 40) ** 2 + (columns % 80 - 40) ** 2 < 15**2
    mask = np.repeat(disk[None], 6, axis=0)
    noise = np.random.default_rng(0).integers(0, 40, mask.shape)
    volume = volumes.Volume.create((180 - 90 * mask + noise).astype("u1"), mask, 5, "disks")
    return volumes.Dataset(volume, volume, volume, "disks", "drawn", 5)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs of chapters 2 and 3, whose networks are untrained."""
    base = tmp_path_factory.mktemp("runs")
    parameters = {**PARAMETERS, "folder": str(base)}
    folders = {chapter: keys.run_folder(chapter, parameters) for chapter in (2, 3)}
    settings = gan.GANSettings(
        **{name: PARAMETERS[name] for name in vars(gan.original_settings(2, 8))}
    )
    (folders[2] / "gan").mkdir(parents=True)
    for number in range(1, SNAPSHOTS + 1):
        for kind in ("generator", "discriminator"):
            model = getattr(gan, f"build_{kind}")(settings)
            model.save(folders[2] / "gan" / f"{kind}-{number:03d}.keras")
    history = "epoch,step,d_real,d_fake,l1\n1,10,0.5,0.5,0.4\n2,20,0.75,0.25,0.3\n"
    write_text(folders[2] / "gan.history.csv", history)
    small = segmenter.SegmenterSettings(SIZE, "half", 2, 0.2, 0.3, 1e-3, "constant")
    folders[3].mkdir()
    segmenter.build_ritnet(small).save(folders[3] / export.SEGMENTER)
    return base


@pytest.fixture
def runs(networks: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Cards of chapters 2 and 3 as far as the pages need them."""
    monkeypatch.setattr("synthseg.keys.load_data", lambda parameters: disks())
    parameters = {**PARAMETERS, "folder": str(networks)}
    card = {"parameters": parameters, "key": "0123456789", "metrics": {"dice": 0.5}}
    card |= {"profile": "mine", "commit": None, "method_version": 5, "device": "a computer"}
    card |= {"finished": "2026-01-01T00:00:00+00:00", "data": {"name": "d", "fingerprint": "f"}}
    return {name: {"chapter": name, **card} for name in (CHAPTERS[2], CHAPTERS[3])}


def content(book: Path, name: str) -> Any:
    """What a script of the pages holds."""
    text = (book / export.PAGES / name).read_text(encoding="utf-8")
    return json.loads(text[text.index("=") + 1 : text.rindex(";")])


def test_pages_show_what_the_runs_hold(runs: dict[str, dict], tmp_path: Path) -> None:
    book = tmp_path / "book"
    folder = export.write_pages(runs, book)
    run, saved = content(book, "run.js"), content(book, "networks.js")
    assert run["nm"] == 10.0
    assert [made["chapter"] for made in run["made"]] == [CHAPTERS[2], CHAPTERS[3]]
    for kind in ("real", "composed"):
        assert len(run["paint"][kind]) == export.MASKS
        bits = np.unpackbits(np.frombuffer(base64.b64decode(run["paint"][kind][-1]), "u1"))
        mask = bits.reshape(SIZE, SIZE)
        assert 0 < mask.mean() < 1
        assert masks.components(mask).max() >= 1
    learned = run["learn"]["gans"]["gan"]
    assert learned["step"] == [10, 20]
    assert learned["d_fake"] == [0.5, 0.25]
    maps = np.frombuffer(base64.b64decode(learned["maps"]["values"]), "u1")
    # Of each snapshot the generated images, then the real ones; a verdict for each 4 x 4 pixels.
    assert maps.shape == (SNAPSHOTS * 2 * export.SHOWN * (SIZE // 4) ** 2,)
    assert maps.max() <= 100
    sheets = {"learn-gan": (export.SHOWN * SIZE, SNAPSHOTS * SIZE), "spot": (10 * SIZE, 4 * SIZE)}
    for name, size in sheets.items():
        with Image.open(folder / f"{name}.png") as sheet:
            assert sheet.size == size
    assert len(run["spot"]["probability"]) == 2 * export.CROPS
    assert set(saved) == {"generator", "discriminator", "segmenter"}


def test_cards_go_along_without_the_users_paths(runs: dict[str, dict], tmp_path: Path) -> None:
    folder = export.write_pages(runs, tmp_path / "book")
    for chapter in runs:
        card = read_json(folder / f"{chapter}.card.json")
        assert card["metrics"] == {"dice": 0.5}
        assert card["parameters"]["data"] == "mine"
    assert "somebody" not in (folder / "run.js").read_text(encoding="utf-8")


def test_kernels_are_stored_to_a_32767th_of_their_largest_weight() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(5, 3, padding="same")(inputs))
    saved = export.browser_network(model)
    (step,) = saved["steps"][1:]
    stored = np.frombuffer(base64.b64decode(saved["kernels"]), "<i2").reshape(3, 3, 3, 5)
    kernel = np.asarray(model.layers[-1].kernel)
    off, largest = np.abs(stored * step["scale"] - kernel).max(), np.abs(kernel).max()
    assert off <= largest / 32767 / 2 + largest * np.finfo("f4").eps  # 32 bits are rounded, too


def test_without_a_run_the_pages_stay_or_say_why(runs: dict[str, dict], tmp_path: Path) -> None:
    book = tmp_path / "book"
    export.write_pages(runs, book)
    before, partial = content(book, "run.js"), {CHAPTERS[2]: runs[CHAPTERS[2]]}
    with pytest.raises(RunError, match="chapters 2 and 3, and 3 was not"):
        export.write_pages(partial, book)
    assert content(book, "run.js") == before
    export.write_or_say(partial, book)
    assert "3 was not" in content(book, "run.js")["missing"]
    assert not (book / export.PAGES / "networks.js").exists()


def test_runs_of_other_pixels_are_refused(runs: dict[str, dict], tmp_path: Path) -> None:
    card = runs[CHAPTERS[3]]
    card["parameters"] = {**card["parameters"], "crop": SIZE}
    with pytest.raises(RunError, match="other data or pixels"):
        export.write_pages(runs, tmp_path / "book")


def test_the_published_pages_are_of_this_method() -> None:
    folder = project_root() / "book" / export.PAGES
    if not folder.is_dir():
        pytest.skip("needs the export of a run: workflow/export.py")
    for chapter in (2, 3):
        card = read_json(folder / f"{CHAPTERS[chapter]}.card.json")
        assert card["method_version"] == METHOD_VERSION
        assert card["data"]["name"] == "epfl"
        assert card["finished"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
