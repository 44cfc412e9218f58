"""Interruptions: killed trainings, full disks, damaged files, two runs at once, diverged losses."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf
from test_runs import batches, chapter, dense_model, namespace, project  # noqa: F401

from synthseg import parameters, runs, training

WORKER = Path(__file__).with_name("training_worker.py")
ALL_CHAPTERS = dict(parameters.CHAPTERS)
TRAINERS = ("gan", "segmenter", "joint")


def campaign(kind: str, folder: Path, kills: int, *options: str) -> dict:
    command = [sys.executable, str(WORKER), kind, str(folder), str(kills), "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_unbroken(made: dict, kills: int) -> None:
    straight, *others = made["results"]
    assert made["killed"] >= kills
    assert others
    for other in others:
        assert other == straight


@pytest.mark.parametrize("kind", TRAINERS)
def test_killed_training_ends_as_if_it_never_was(tmp_path: Path, kind: str) -> None:
    assert_unbroken(campaign(kind, tmp_path, 2, "eager"), 2)  # eager: no time for graphs


@pytest.mark.long
@pytest.mark.parametrize("kind", TRAINERS)
def test_training_killed_twenty_times(tmp_path: Path, kind: str) -> None:
    assert_unbroken(campaign(kind, tmp_path, 20), 20)


# A chapter in its kernel


SLOW = """\
import os
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def batches(first_step):
    def batch(step):
        inputs = tf.random.stateless_normal((8, 4), [1, step])
        return inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)

    return tf.data.Dataset.counter(first_step).map(batch)


inputs = keras.Input((4,))
model = keras.Model(inputs, keras.layers.Dropout(0.1)(keras.layers.Dense(1)(inputs)))
model.compile(keras.optimizers.Adam(0.01), loss="mse")
count, hold = 0, Path(os.environ["SYNTHSEG_ROOT"]) / "hold"


def pause(batch, logs):
    global count
    count += 1
    while count > 2 and hold.exists():  # until it is stopped, an epoch later
        time.sleep(0.05)


pause = keras.callbacks.LambdaCallback(on_train_batch_end=pause)
history = run.fit(model, batches, name="slow", steps=steps, epochs=steps // 2, callbacks=[pause])
run.record(loss=history["loss"].iloc[-1], drawn=np.random.random())"""


def wait_for(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def kernels_in(folder: Path) -> int | None:
    """Process that holds the lock of a run; None if there is none."""
    holder = parameters.read_json(folder.with_name(f".{folder.name}.lock.json"))
    pid = holder.get("pid")
    return pid if pid and Path(f"/proc/{pid}/stat").exists() else None


def test_run_is_stopped_refused_killed_and_resumed(project: Path) -> None:  # noqa: F811
    for number, name in ALL_CHAPTERS.items():  # another process knows all of them
        nbformat.write(chapter(number), project / "book" / f"{name}.ipynb")
    nbformat.write(chapter(1, SLOW), parameters.chapter_path(1))
    command = [sys.executable, "-m", "synthseg.cli", "run", "1", "--set", "steps=12"]
    (project / "hold").touch()
    folder = project / "runs" / "smoke" / "seed-0" / "01_data"

    def begin(*more: str) -> subprocess.Popen:
        environment = {**os.environ, "COLUMNS": "400", "NO_COLOR": "1"}
        return subprocess.Popen(
            [*command, *more],
            env=environment,
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def epochs() -> int:
        stored = list((folder / "resume").glob("slow-*.weights.h5"))
        try:
            with h5py.File(stored[0], "r") as file:
                return len(json.loads(file["synthseg/state"][()])["history"])
        except (IndexError, OSError, KeyError):
            return 0

    first = begin("--force")
    wait_for(lambda: epochs() >= 1)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert said.strip().splitlines()[-1].endswith("synthseg run 1 --set steps=12")
    assert "Traceback" not in said
    assert kernels_in(folder) is None
    stopped_at = epochs()

    second = begin()
    wait_for(lambda: epochs() > stopped_at)
    begun = parameters.read_json(folder / "card.json")
    third = begin()
    _, said = third.communicate(timeout=60)
    assert third.returncode == 2
    assert f"in use by process {second.pid} on " in said
    assert len(said.strip().splitlines()) == 1
    assert parameters.read_json(folder / "card.json")["sessions"] == begun["sessions"] == 2
    second.kill()
    second.communicate()
    (project / "hold").unlink()

    last = begin()  # at once: the kernel of the killed run is still there for a moment
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert parameters.read_json(folder / "card.json")["sessions"] == 3
    numbers = parameters.read_json(folder / "metrics.json")

    run = runs.start(1, namespace(steps=12, folder="runs/straight"))
    values = {"run": run, "steps": 12}
    exec(SLOW, values)
    assert parameters.read_json(run.folder / "metrics.json") == numbers


def test_a_run_in_use_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(runs, "LOCK_WAIT", 0.1)
    run = runs.start(1, namespace())
    runs.start(1, namespace())  # the same process may begin again, as in JupyterLab
    code = "import sys; from pathlib import Path; from synthseg import runs; runs.LOCK_WAIT = 0.1\n"
    code += "runs._hold(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "RunLocked" in last
    assert f"in use by process {os.getpid()} on " in last


# Storage


def trained(folder: Path, steps: int = 4, epochs: int = 2, **options: object) -> keras.Model:
    model = dense_model()
    training.fit(
        model,
        batches,
        folder=folder,
        key="k",
        seed=0,
        name="model",
        steps=steps,
        epochs=epochs,
        after_epoch=lambda: None,
        **options,
    )
    return model


class Stop(keras.callbacks.Callback):
    """Ends a training after its first epoch."""

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if epoch == 1:
            raise InterruptedError


def checkpoint(folder: Path) -> Path:
    """The stored first epoch of an interrupted training."""
    with pytest.raises(InterruptedError):
        trained(folder, callbacks=[Stop()])
    (path,) = (folder / "resume").glob("model-*.weights.h5")
    return path


def test_full_disk_keeps_the_epoch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path)
    before = path.read_bytes()

    def full(self: keras.Model, filepath: Path, **options: object) -> None:
        Path(filepath).write_bytes(b"half")
        raise OSError(
            "Can't synchronously write data (file write failed: time = now, filename = 'f', "
            f"errno = {errno.ENOSPC}, error message = 'No space left on device')"
        )

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(parameters.StorageError, match=r"resume/model-.*the disk is full"):
        trained(tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


LIMITED = """\
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_resume
from synthseg import parameters
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    test_resume.trained(Path(sys.argv[2]))
except parameters.StorageError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("limit", [500, 5_000, 20_000, 30_000])
def test_files_that_cannot_grow(tmp_path: Path, limit: int) -> None:
    path = checkpoint(tmp_path)
    before, size = path.read_bytes(), path.stat().st_size
    assert limit < size
    command = [sys.executable, "-c", LIMITED, str(WORKER.parent), str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cannot be stored" in done.stdout
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_a_file_in_place_of_the_folder(project: Path) -> None:  # noqa: F811
    (project / "runs").write_text("not a folder")
    with pytest.raises(parameters.StorageError, match="a file in place of its folder"):
        runs.start(1, namespace())


@pytest.mark.usefixtures("bound_by_permissions")
def test_read_only_folder(project: Path) -> None:  # noqa: F811
    (project / "runs").mkdir(mode=0o555)
    with pytest.raises(parameters.StorageError, match="may not be written to"):
        runs.start(1, namespace())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_forbidden_writes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "card.json"
    parameters.write_json(path, {"old": 1})

    def refuse(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(parameters.StorageError, match=r"card\.json .* may not be written to"):
        parameters.write_json(path, {"new": 1})
    assert parameters.read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_card_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    for text in ('{"chapter": "01', "[1, 2]"):
        path.write_text(text)
        with pytest.raises(parameters.RunError, match=r"card\.json is damaged"):
            parameters.read_json(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_number(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(
            lambda name, item: (
                names.append(name)
                if isinstance(item, h5py.Dataset) and item.size > 4 and item.dtype == "f4"
                else None
            )
        )
        file[names[0]][0] += np.float32(1e-3)


def remove_the_state(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["synthseg"]


@pytest.mark.parametrize("damage", [cut, empty, change_a_number, remove_the_state])
def test_damaged_checkpoint_is_set_aside(tmp_path: Path, damage: object) -> None:
    keras.utils.set_random_seed(0)
    straight = trained(tmp_path / "straight")
    keras.utils.set_random_seed(0)
    path = checkpoint(tmp_path / "broken")
    damage(path)  # type: ignore[operator]
    damaged = path.read_bytes()
    keras.utils.set_random_seed(0)
    with pytest.warns(RuntimeWarning, match=r"is damaged .* computed anew"):
        again = trained(tmp_path / "broken")
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    for one, other in zip(straight.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


# Diverged trainings


def broken_from(step: int, value: float) -> object:
    """Batches whose targets are not finite from a step on."""

    def make(first_step: int) -> tf.data.Dataset:
        steps = tf.data.Dataset.counter(first_step)
        return tf.data.Dataset.zip(batches(first_step), steps).map(
            lambda pair, now: (pair[0], tf.where(now >= step, value, pair[1]))
        )

    return make


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_no_number_stops_the_run(tmp_path: Path, value: float) -> None:
    def fit() -> None:
        training.fit(
            dense_model(),
            broken_from(4, value),
            folder=tmp_path,
            key="k",
            seed=0,
            name="model",
            steps=9,
            epochs=3,
            after_epoch=lambda: None,
        )

    message = r"model, step 5 of 9\): loss is (nan|inf) .* optimizer 0\.01; .*model-.* \(step 3\)"
    with pytest.raises(parameters.Diverged, match=message):
        fit()
    (path,) = (tmp_path / "resume").glob("*.weights.h5")
    before = path.read_bytes()
    with pytest.raises(parameters.Diverged, match=message):
        fit()  # goes on after step 3, and stops at the same step
    assert path.read_bytes() == before
    assert not (tmp_path / "model.weights.h5").exists()


def test_weights_that_no_loss_has_seen_are_not_stored(tmp_path: Path) -> None:
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.model.trainable_variables[0].assign_add(
                tf.fill((4, 8), float("nan") if batch == 1 else 0.0)
            )

    stored = []
    store = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: stored.append(epoch))
    with pytest.raises(parameters.Diverged, match=r"kernel is not finite .* no epoch was stored"):
        trained(tmp_path, callbacks=[Spoil(), store])
    assert stored == []
    assert not list(tmp_path.rglob("*.h5"))


def test_both_learning_rates_of_a_gan_are_named(tmp_path: Path) -> None:
    from synthseg import gan

    model = gan.Pix2Pix(gan.GANSettings(size=8, width=2, g_lr=1e-3, d_lr_ratio=0.5, norm="batch"))
    model.run_eagerly = True
    images = tf.fill((2, 8, 8, 1), float("nan"))
    data = tf.data.Dataset.from_tensors((images, tf.zeros((2, 8, 8, 1)))).repeat()
    with pytest.raises(parameters.Diverged, match=r"g_optimizer 0\.001, d_optimizer 0\.0005"):
        training.fit(
            model,
            lambda first_step: data,
            folder=tmp_path,
            key="k",
            seed=0,
            name="gan",
            steps=2,
            epochs=1,
            after_epoch=lambda: None,
            callbacks=[gan.Snapshots(tmp_path / "snapshots")],
        )
    assert not (tmp_path / "snapshots").exists()


def test_leftovers_of_a_killed_process_are_removed(project: Path) -> None:  # noqa: F811
    run = runs.start(1, namespace())
    (run.folder / "resume").mkdir()
    for name in (".card.json.123.tmp", "resume/.model-ab.weights.h5"):
        (run.folder / name).write_text("half")
    runs.start(1, namespace())
    assert not [path for path in run.folder.rglob(".*") if path.is_file()]
    shutil.rmtree(run.folder)
