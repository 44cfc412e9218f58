"""The module's training steps and composing; each function returns what is to be timed."""

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from benchmarks import examples
from synthseg import fast, gan, joint, masks, segmenter, training

training.reproducible(seed=0)  # as each chapter does, before TensorFlow computes anything

STEPS = 1000
"""Length of the training run over which learning rate and ramp follow their schedules."""

SEGMENTER = segmenter.SegmenterSettings(
    size=128, variant="half", channels=32, dropout=0.2, leak=0.3, lr=2e-3, schedule="cosine"
)

Call = Callable[[], Any]


def _joined(given: Any) -> tf.Tensor:
    return tf.concat(given, -1) if isinstance(given, list) else given


STOCK: dict[str, Callable[..., Any]] = {
    "dropout": lambda layer, given: layer(given, training=True),
    "pointwise": lambda layer, given: layer(_joined(given)),
    "double_and_convolve": lambda layer, given: layer(keras.layers.UpSampling2D()(given)),
    "all": lambda model: functools.partial(model.call, training=True),
}
"""What takes the place of a function of ``synthseg.fast``, so that stock Keras computes it."""


def _training(make: Callable[[], keras.Model], *data: Any, stock: str = "") -> Call:
    """A step of the compiled function that ``fit`` calls, always on the same batch."""
    replaced = {"twin" if stock == "all" else f"_{stock}": STOCK[stock]} if stock else {}
    batch = tf.nest.map_structure(tf.constant, data)
    with patch.dict(vars(fast), replaced):
        model = make()
        model.make_train_function()
        iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

        def step() -> float:
            return float(next(iter(model.train_function(iterator).values())))

        step()  # the graph is made now
    return step


def gan_settings(width: int, decoder: Any, size: int = 128) -> gan.GANSettings:
    """Those of chapter 2."""
    return gan.GANSettings(
        size=size,
        width=width,
        decoder=decoder,
        receptive_field=70,
        adversarial="least-squares",
        l1_weight=10.0,
        g_lr=2e-4,
        d_lr_ratio=1.0,
        beta1=0.5,
        norm="instance",
        noise="fresh",
        average=0.995,
    )


def segmenter_step(batch: int, stock: str = "") -> Call:
    data = examples.pair(batch)
    return _training(lambda: segmenter.compiled(SEGMENTER, STEPS), *data, stock=stock)


def gan_step(batch: int, width: int, decoder: str, stock: str = "") -> Call:
    data, settings = examples.pair(batch), gan_settings(width, decoder)
    return _training(lambda: gan.Pix2Pix(settings, 0), *data, stock=stock)


def joint_step(batch: int, width: int, decoder: str, stock: str = "") -> Call:
    """A8 with a GAN that is trained live: one step of each network."""

    def make() -> keras.Model:
        network = gan.Pix2Pix(gan_settings(width, decoder), 0)
        ritnet = segmenter.build_ritnet(SEGMENTER)
        arm = joint.ARMS["live"]
        return joint.JointTrainer(ritnet, SEGMENTER, arm, STEPS, 0.4, gan=network)

    return _training(make, examples.pair(batch), examples.pair(batch, seed=1), stock=stock)


def compose(count: int) -> Call:
    """From a bank and the prior of real crops, both of which a chapter makes once."""
    bank = masks.component_bank(*examples.pair(100, seed=1), every=1)
    prior = masks.count_and_area(examples.masks(count))
    return lambda: masks.compose(bank, prior, 128, count, 0)


def compose_original(count: int) -> Call:
    some = examples.masks(count)
    return lambda: masks.compose_original(some, 0)
