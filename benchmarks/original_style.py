"""The same networks, trained in the style of the original study.

Python runs every operation of every step (no compiled graph); the discriminator is updated on
fakes and on real images apart; the generator runs anew for each purpose; masks, Dice and composing
pass through NumPy. The networks are the module's, but of Keras' own layers and with its own Adam,
as the original had them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from benchmarks import composing, examples, ours
from benchmarks.timing import Prepared
from synthseg import gan, segmenter
from synthseg.gan import Pix2Pix, generator_input
from synthseg.joint import batch_score, per_image_loss, ramp
from synthseg.segmenter import SegmenterSettings


def _pointwise(filters: int, **options: Any) -> Callable[[Any], Any]:
    convolution = layers.Conv2D(filters, 1, **options)
    return lambda inputs: convolution(
        layers.Concatenate()(inputs) if isinstance(inputs, list) else inputs
    )


def _up(filters: int, **options: Any) -> Callable[[Any], Any]:
    convolution = layers.Conv2D(filters, 3, padding="same", **options)
    return lambda inputs: convolution(layers.UpSampling2D()(inputs))


@contextmanager
def plain_layers() -> Iterator[None]:
    """Build networks of Keras' own layers, and with its own optimiser."""
    pointwise = {"Dropout": layers.Dropout, "PointwiseConv2D": _pointwise}
    with (
        patch.multiple(segmenter, Adam=keras.optimizers.Adam, **pointwise),
        patch.multiple(gan, Adam=keras.optimizers.Adam, UpConv2D=_up),
    ):
        yield


def _dice(masks: np.ndarray, logits: np.ndarray) -> float:
    predicted = logits > 0
    return 2 * float((predicted * masks).sum()) / float(predicted.sum() + masks.sum() + 1e-7)


class SegmenterLoop:
    """A segmenter and its eager update."""

    def __init__(self, settings: SegmenterSettings = ours.SEGMENTER) -> None:
        with plain_layers():
            self.network = segmenter.build_ritnet(settings)
            self.optimizer = segmenter.optimizer(settings, ours.STEPS)

    def step(self, images: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = ops.mean(per_image_loss(tf.constant(masks), logits))
        self.apply(tape, loss)
        return float(loss), _dice(masks, logits.numpy())

    def joint_step(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        synthetic: np.ndarray,
        composed: np.ndarray,
        weight: float,
    ) -> tuple[float, float]:
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = ops.mean(per_image_loss(tf.constant(masks), logits))
            on_synthetic = self.network(synthetic, training=True)
            loss += weight * ops.mean(per_image_loss(tf.constant(composed), on_synthetic))
        self.apply(tape, loss)
        return float(loss), _dice(masks, logits.numpy())

    def apply(self, tape: tf.GradientTape, loss: tf.Tensor) -> None:
        variables = self.network.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)


class GANLoop:
    """Generator and discriminator, and their three eager updates in a step."""

    def __init__(self, width: int, decoder: str) -> None:
        with plain_layers():
            self.gan = Pix2Pix(ours.gan_settings(width, decoder))

    def generate(self, masks: np.ndarray, training: bool) -> tf.Tensor:
        seed = tf.stack([tf.constant(0, tf.int64), self.gan.steps_taken()])
        inputs = generator_input(self.gan.settings, tf.constant(masks), seed)
        return self.gan.generator(inputs, training=training)

    def judge(self, masks: np.ndarray, images: np.ndarray, training: bool) -> tf.Tensor:
        inputs = [tf.convert_to_tensor(masks), tf.convert_to_tensor(images)]
        return self.gan.discriminator(inputs, training=training)

    def step(self, images: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
        fakes = self.generate(masks, training=False).numpy()
        on_fakes = self.update_discriminator(masks, fakes, real=False)
        on_real = self.update_discriminator(masks, images, real=True)
        with tf.GradientTape() as tape:
            fake = self.generate(masks, training=True)
            judged = self.judge(masks, fake, training=False)
            adversarial = self.gan.adversarial_loss(judged, real=True)
            l1 = ops.mean(ops.absolute(images - fake))
            loss = adversarial + self.gan.settings.l1_weight * l1
        variables = self.gan.generator.trainable_variables
        self.gan.g_optimizer.apply(tape.gradient(loss, variables), variables)
        return {"d_fake": on_fakes, "d_real": on_real, "g": float(adversarial), "l1": float(l1)}

    def update_discriminator(self, masks: np.ndarray, images: np.ndarray, real: bool) -> float:
        with tf.GradientTape() as tape:
            logits = self.judge(masks, images, training=True)
            loss = self.gan.adversarial_loss(logits, real=real)
        variables = self.gan.discriminator.trainable_variables
        self.gan.d_optimizer.apply(tape.gradient(loss, variables), variables)
        return float(loss)


def segmenter_step(batch: int) -> Prepared:
    loop, data = SegmenterLoop(), examples.pair(batch)
    return Prepared(lambda: loop.step(*data))


def gan_step(batch: int, width: int, decoder: str) -> Prepared:
    loop, data = GANLoop(width, decoder), examples.pair(batch)
    return Prepared(lambda: loop.step(*data))


def joint_step(batch: int, width: int, decoder: str) -> Prepared:
    """GAN, composing, generating, score and segmenter, one after the other."""
    gan_loop, segmenter_loop = GANLoop(width, decoder), SegmenterLoop()
    images, masks = examples.pair(batch)
    rng = np.random.default_rng(0)

    def call() -> None:
        gan_loop.step(images, masks)
        composed = composing.compose_one_by_one(masks, int(rng.integers(2**31)))
        synthetic = gan_loop.generate(composed, training=False).numpy()
        judged = gan_loop.judge(masks, synthetic, training=False)
        weight = 0.4 * float(ramp(0.5)) * float(batch_score(judged))
        segmenter_loop.joint_step(images, masks, synthetic, composed, weight)

    return Prepared(call)
