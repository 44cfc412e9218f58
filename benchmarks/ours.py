"""The module's own training steps, as ``fit`` runs them; lives in the TensorFlow worker."""

import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks import examples
from benchmarks.timing import Prepared
from synthseg import sampling, segmenter, training
from synthseg.gan import GANSettings, Pix2Pix
from synthseg.joint import JointSettings, JointTrainer, new_trainer
from synthseg.segmenter import SegmenterSettings
from synthseg.volumes import Volume

training.reproducible(seed=0)  # as each chapter does, before TensorFlow computes anything

STEPS = 1000
"""Length of the training over which learning rate and ramp follow their schedules."""

SEGMENTER = SegmenterSettings(dropout=0.2, lr=2e-3, schedule="cosine")
JOINT = JointSettings(STEPS, schedule="ramp", score="image", live=True)


def gan_settings(width: int, decoder: str) -> GANSettings:
    return GANSettings(width=width, decoder=decoder)


def _training(model: keras.Model, batches: tf.data.Dataset) -> Prepared:
    """A step of the compiled training function that ``fit`` calls."""
    model.make_train_function()
    iterator = iter(batches)

    def call() -> float:
        return float(next(iter(model.train_function(iterator).values())))

    return Prepared(call, model.steps_per_execution)


def resident(*data: Any) -> tf.data.Dataset:
    """The same batch again and again, which costs nothing to deliver."""
    return tf.data.Dataset.from_tensors(tf.nest.map_structure(tf.constant, data)).repeat()


def segmenter_step(batch: int) -> Prepared:
    model = segmenter.compiled(SEGMENTER, STEPS)
    return _training(model, resident(*examples.pair(batch)))


def gan_step(batch: int, width: int, decoder: str) -> Prepared:
    model = Pix2Pix(gan_settings(width, decoder))
    return _training(model, resident(*examples.pair(batch)))


def joint_trainer(width: int, decoder: str) -> JointTrainer:
    return new_trainer(SEGMENTER, JOINT, Pix2Pix(gan_settings(width, decoder)))


def joint_step(batch: int, width: int, decoder: str) -> Prepared:
    data = examples.pair(batch), examples.pair(batch, seed=1)
    return _training(joint_trainer(width, decoder), resident(*data))


def matmul(size: int = 3000) -> Prepared:
    """What the machine can do at best: a product of large matrices."""
    matrix = tf.random.stateless_normal((size, size), (0, 0))

    @tf.function
    def product() -> tf.Tensor:
        return tf.matmul(matrix, matrix)

    return Prepared(lambda: product()[0, 0].numpy())


class _Clock(keras.callbacks.Callback):
    """Notes the time at the end of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.ends.append(time.perf_counter())


class _Fit:
    """Whole trainings of a segmenter by ``training.fit``, with callbacks and storing."""

    def __init__(self, batch: int, steps: int) -> None:
        self.steps = steps
        self.model = segmenter.compiled(SEGMENTER, STEPS)
        self.batches = resident(*examples.pair(batch))

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            training.fit(
                self.model,
                lambda first: self.batches,
                folder=Path(folder),
                key="",
                seed=0,
                name="benchmark",
                steps=self.steps,
                epochs=1,
                after_epoch=lambda: None,
            )


def fit(batch: int, steps: int) -> Prepared:
    """Steps by ``training.fit``, with its progress line, and storing the weights at the end."""
    return Prepared(_Fit(batch, steps), steps)


def _volume() -> Volume:
    return Volume.create(*examples.volume_arrays(), nm_per_pixel=5.0, name="noise")


def crops(batch: int, augment: str) -> Prepared:
    """The crop pipeline alone."""
    settings = sampling.CropSettings(batch=batch, augment=augment)
    iterator = iter(sampling.crops(_volume(), settings, seed=0))
    count = 40

    def call() -> None:
        for _ in range(count):
            next(iterator)

    return Prepared(call, count)


def segmenter_step_on_crops(batch: int, augment: str, steps: int) -> Prepared:
    """Steps on crops that are cut meanwhile."""
    settings = sampling.CropSettings(batch=batch, augment=augment)
    step = _training(
        segmenter.compiled(SEGMENTER, STEPS), sampling.crops(_volume(), settings, seed=0)
    )

    def call() -> None:
        for _ in range(steps):
            step.call()

    return Prepared(call, steps * step.units)


def versions() -> dict[str, str]:
    return {"tensorflow": tf.__version__, "keras": keras.__version__}
