"""Interruptions: killed training runs, full disks, damaged checkpoints, diverged losses."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from synthseg import training

WORKER = Path(__file__).with_name("training_worker.py")
TRAINERS = ("gan", "segmenter", "joint", "replay")


def killed(kind: str, folder: Path, kills: int, *options: str) -> None:
    """Training runs that are killed end as one that was left alone."""
    command = [sys.executable, str(WORKER), kind, str(folder), str(kills), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout.splitlines()[-1])
    straight, *others = made["results"]
    assert made["killed"] == kills
    assert others
    assert straight["left"] == []
    for other in others:
        assert other == straight


def test_killed_training_ends_as_if_it_never_was(tmp_path: Path) -> None:
    killed("joint", tmp_path, 2, "eager")  # eager: no time for graphs


@pytest.mark.long
@pytest.mark.parametrize("kind", TRAINERS)
def test_training_killed_twenty_times(tmp_path: Path, kind: str) -> None:
    killed(kind, tmp_path, 20)


# Storage


def batches(first_step: int) -> tf.data.Dataset:
    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = tf.random.stateless_normal((8, 4), [1, step])
        return inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)

    return tf.data.Dataset.counter(first_step).map(batch)


def trained(
    folder: Path,
    *callbacks: keras.callbacks.Callback,
    make: Callable[[int], tf.data.Dataset] = batches,
    steps: int = 4,
) -> keras.Model:
    """A small model with dropout after `steps` steps in epochs of two."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.5)(keras.layers.Dense(8)(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    training.fit(
        model,
        make,
        folder=folder,
        key="k",
        seed=0,
        name="model",
        steps=steps,
        epochs=steps // 2,
        after_epoch=lambda: None,
        callbacks=callbacks,
    )
    return model


class Stop(keras.callbacks.Callback):
    """Ends a training run after its first epoch."""

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        if epoch == 1:
            raise InterruptedError


def checkpoint(folder: Path) -> Path:
    """The stored first epoch of an interrupted training run."""
    with pytest.raises(InterruptedError):
        trained(folder, Stop())
    (path,) = (folder / "resume").iterdir()
    return path


def assert_same(one: keras.Model, other: keras.Model) -> None:
    assert one.optimizer.iterations == other.optimizer.iterations == 4
    for value, expected in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(value.numpy(), expected.numpy())


def test_a_complete_training_run_is_loaded(tmp_path: Path) -> None:
    def refuse(first_step: int) -> tf.data.Dataset:
        raise AssertionError(f"asked for batches from step {first_step}")

    straight = trained(tmp_path)
    after = np.random.random()
    assert_same(trained(tmp_path, make=refuse), straight)
    assert np.random.random() == after
    assert list((tmp_path / "resume").iterdir()) == []


def test_full_disk_keeps_the_epoch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path)
    before = path.read_bytes()

    def full(file: Path, **arrays: object) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left on device"):
            trained(tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert_same(trained(tmp_path), trained(tmp_path / "straight"))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content, weight = bytearray(path.read_bytes()), np.load(path)["0"].tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit])
def test_damaged_checkpoint_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = checkpoint(tmp_path / "broken")
    damage(path)
    damaged = path.read_bytes()
    with pytest.warns(RuntimeWarning, match=r"is damaged .* computed anew"):
        again = trained(tmp_path / "broken")
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert_same(again, trained(tmp_path / "straight"))


# Diverged training runs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_stored_of_an_epoch_that_diverged(tmp_path: Path, value: float) -> None:
    def broken(first_step: int) -> tf.data.Dataset:
        steps = tf.data.Dataset.counter(first_step)
        return tf.data.Dataset.zip(batches(first_step), steps).map(
            lambda pair, step: (pair[0], tf.where(step >= 3, value, pair[1]))
        )

    stored: list[Path] = []
    for _ in range(2):  # the second time it goes on after step 2, and stops at the same step
        with pytest.raises(training.Diverged, match=r"by step 4: loss is (nan|inf) .*step 2 in"):
            trained(tmp_path, make=broken, steps=6)
        stored += (tmp_path / "resume").iterdir()
    assert stored == stored[:1] * 2
    assert not (tmp_path / "model.npz").exists()


def test_weights_that_no_loss_has_seen_are_not_stored(tmp_path: Path) -> None:
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 1:
                self.model.layers[1].bias.assign(np.full(8, np.nan))

    stored: list[int] = []
    store = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: stored.append(epoch))
    with pytest.raises(training.Diverged, match=r"bias is not finite .*checkpoint: none"):
        trained(tmp_path, Spoil(), store)
    assert stored == []
    assert not list(tmp_path.rglob("*.npz"))


def test_at_least_one_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 steps"):
        trained(tmp_path, steps=0)
