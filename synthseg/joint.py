"""Joint training: a segmenter learns from real images and from a generator's images at once.

The loss of the original study, for real images x with masks y and synthetic images of masks s, is

    BCE(y, M(x)) + r(t) q BCE(s, M(G(s))),

with a ramp r over training time t, and a score q that the discriminator gives. Ramp, score, what
the discriminator sees and where the images come from are settings, so that the arms of the
comparison differ in one thing at a time. The segmenter's gradient never reaches the GAN; a GAN
trajectory can therefore be trained once and replayed for every arm.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from synthseg.gan import Pix2Pix, generator_input, load_snapshot, to_probability
from synthseg.metrics import PooledDice
from synthseg.segmenter import SegmenterSettings, build_ritnet, optimizer

ORIGINAL_EPOCHS = 20
"""Epochs of the original study, over which its ramp was defined."""


@dataclass(frozen=True)
class JointSettings:
    """One arm of the comparison.

    Attributes
    ----------
    steps : int
        Steps of the training, T.
    real_weight : float
        Weight of the loss on real images; 0 trains on synthetic images only.
    synthetic_weight : float
        Factor SLR of the synthetic loss; 0 trains on real images only. Original: 0.4.
    schedule : str
        ``"ramp"``: r(t) = SLR ln(1 + 20 t / T), the original's ramp at its 20 epochs as a
        function of the fraction of training done. ``"constant"``: the mean of that ramp, so
        that both have the same mean weight. They are comparable at a constant learning rate
        only: with one that falls, the ramp's late weight would move the segmenter less.
    score : str
        ``"none"``: every image counts the same. ``"batch"`` (original): one factor for the
        batch, 1 - clip(BCE(1, sigmoid(D)), 0, 1). ``"image"``: one factor for each image, its
        mean probability of being real, divided by the batch's mean.
    discriminator_sees : str
        ``"composed"``: the mask that the image was made from; ``"real"`` (original): the mask of
        the real image in the same place of the batch.
    batch_statistics : str
        ``"real"``: only real images move BatchNorm's running statistics, with which the
        segmenter is tested; ``"mixed"`` (original): synthetic ones do too.
    live : bool
        Train the GAN in the same steps. Otherwise it is fixed, or replayed by :class:`Replay`.
    """

    steps: int
    real_weight: float = 1.0
    synthetic_weight: float = 0.4
    schedule: str = "constant"
    score: str = "none"
    discriminator_sees: str = "composed"
    batch_statistics: str = "real"
    live: bool = False

    def __post_init__(self) -> None:
        choices = {
            "schedule": ("constant", "ramp"),
            "score": ("none", "batch", "image"),
            "discriminator_sees": ("composed", "real"),
            "batch_statistics": ("real", "mixed"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                options = " or ".join(allowed)
                raise ValueError(f"{name} is '{getattr(self, name)}'; choose {options}.")
        if self.real_weight <= 0 and self.synthetic_weight <= 0:
            raise ValueError("Both weights are zero: there would be nothing to learn from.")


def ramp(fraction: tf.Tensor | float) -> tf.Tensor:
    """ln(1 + 20 f) for the fraction f in [0, 1] of training done."""
    return ops.log(1.0 + ORIGINAL_EPOCHS * ops.cast(fraction, "float32"))


MEAN_RAMP = (1 + ORIGINAL_EPOCHS) / ORIGINAL_EPOCHS * math.log(1 + ORIGINAL_EPOCHS) - 1
"""Mean of :func:`ramp` over training, from its integral."""


def per_image_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of each image, shape (batch,)."""
    return ops.mean(ops.binary_crossentropy(masks, logits, from_logits=True), axis=(1, 2, 3))


def batch_score(logits: tf.Tensor) -> tf.Tensor:
    """The original's score of a batch from the discriminator's logits; a scalar in [0, 1]."""
    loss = ops.mean(ops.binary_crossentropy(tf.ones_like(logits), logits, from_logits=True))
    return 1.0 - ops.clip(loss, 0.0, 1.0)


def image_scores(probabilities: tf.Tensor) -> tf.Tensor:
    """Score of each image, with mean 1 over the batch.

    Parameters
    ----------
    probabilities : tf.Tensor
        The discriminator's outputs as probabilities, (batch, h, w, 1).

    Returns
    -------
    tf.Tensor
        Shape (batch,), non-negative.
    """
    scores = ops.mean(probabilities, axis=(1, 2, 3)) + 1e-3  # if D is sure of all, all count alike
    return scores / ops.mean(scores)


class JointTrainer(keras.Model):
    """Trains a segmenter on pairs of batches ((image, mask), (other image, other mask)).

    Parameters
    ----------
    segmenter : keras.Model
        Gives logits; changed in place.
    segmenter_settings : SegmenterSettings
        Its optimiser.
    settings : JointSettings
        The arm.
    gan : Pix2Pix, optional
        Makes the synthetic images from the other masks. Without it, the other images are used
        as they are (copy-paste, or a stored pool).
    seed : int
        Seed of the generator's noise.
    """

    def __init__(
        self,
        segmenter: keras.Model,
        segmenter_settings: SegmenterSettings,
        settings: JointSettings,
        gan: Pix2Pix | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(name="joint")
        if gan is None and (settings.live or settings.score != "none"):
            raise ValueError("Training a GAN live, or its score, needs a GAN: pass gan=…")
        self.segmenter = segmenter
        self.settings = settings
        if settings.live:
            self.gan = gan
        else:
            # Past Keras' tracking: what is not trained here needs no place in the checkpoints.
            object.__setattr__(self, "gan", gan)
        self.noise_seed = seed
        self.moving = [
            variable
            for layer in segmenter.layers
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        names = ("loss", "real_loss", "synthetic_loss", "weight", "score", "score_spread")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.dice = PooledDice()
        self.built = True
        self.compile(optimizer=optimizer(segmenter_settings, settings.steps), jit_compile=False)
        self.optimizer.build(segmenter.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step; images in [-1, 1], masks {0, 1}, each (batch, size, size, 1)."""
        (image, mask), (synthetic, composed) = data
        score = tf.ones((tf.shape(composed)[0],))
        if self.gan is not None:
            if self.settings.live:
                self.gan.train_step((image, mask))
            synthetic = self.synthesise(self.gan, composed)
            shown = composed if self.settings.discriminator_sees == "composed" else mask
            score = self.score(self.gan, shown, synthetic)
        weight = self.weight()
        with tf.GradientTape() as tape:
            real_loss = synthetic_loss = tf.constant(0.0)
            if self.settings.real_weight > 0:
                logits = self.segmenter(image, training=True)
                real_loss = ops.mean(per_image_loss(mask, logits))
                self.dice.update_state(mask, logits)
            if self.settings.synthetic_weight > 0:
                logits = self.on_synthetic(synthetic)
                synthetic_loss = ops.mean(score * per_image_loss(composed, logits))
            loss = self.settings.real_weight * real_loss + weight * synthetic_loss
        variables = self.segmenter.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        values = {
            "loss": loss,
            "real_loss": real_loss,
            "synthetic_loss": synthetic_loss,
            "weight": weight,
            "score": ops.mean(score),
            "score_spread": ops.std(score),
        }
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {metric.name: metric.result() for metric in self.metrics}

    def step(self) -> tf.Tensor:
        """Steps taken so far, int64."""
        return tf.cast(self.optimizer.iterations.value, tf.int64)

    def weight(self) -> tf.Tensor:
        """r(t), the weight of the synthetic loss at this step."""
        if self.settings.schedule == "constant":
            return tf.constant(self.settings.synthetic_weight * MEAN_RAMP)
        fraction = ops.cast(self.step(), "float32") / self.settings.steps
        return self.settings.synthetic_weight * ramp(fraction)

    def synthesise(self, gan: Pix2Pix, masks: tf.Tensor) -> tf.Tensor:
        """The generator's images of `masks`, as constants for the segmenter."""
        seed = tf.stack([tf.cast(self.noise_seed, tf.int64), self.step()])
        inputs = generator_input(gan.settings, masks, seed)
        return tf.stop_gradient(gan.generator_average(inputs, training=False))

    def score(self, gan: Pix2Pix, shown: tf.Tensor, synthetic: tf.Tensor) -> tf.Tensor:
        """The factor q of each synthetic image beside the mask that D is shown, (batch,)."""
        count = tf.shape(synthetic)[0]
        if self.settings.score == "none":
            return tf.ones((count,))
        logits = gan.discriminator([shown, synthetic], training=False)
        if self.settings.score == "batch":
            return tf.fill((count,), batch_score(logits))
        return image_scores(to_probability(gan.settings, logits))

    def on_synthetic(self, images: tf.Tensor) -> tf.Tensor:
        """The segmenter's logits in training mode, under the chosen policy for BatchNorm."""
        keep = self.settings.batch_statistics == "real" and self.settings.real_weight > 0
        before = [tf.identity(variable.value) for variable in self.moving] if keep else []
        logits = self.segmenter(images, training=True)
        for variable, value in zip(self.moving, before, strict=False):
            variable.assign(value)
        return logits

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which ``fit`` resets at each epoch; Dice is that of real images."""
        on_real = [self.dice] if self.settings.real_weight > 0 else []
        return [*self.trackers.values(), *on_real]


def new_trainer(
    segmenter_settings: SegmenterSettings,
    settings: JointSettings,
    gan: Pix2Pix | None = None,
    seed: int = 0,
) -> JointTrainer:
    """A joint trainer with a segmenter of its own."""
    return JointTrainer(build_ritnet(segmenter_settings), segmenter_settings, settings, gan, seed)


def pairs(real: tf.data.Dataset, synthetic: tf.data.Dataset) -> tf.data.Dataset:
    """Zip two streams of (image, mask) batches into what :class:`JointTrainer` takes."""
    return tf.data.Dataset.zip((real, synthetic))


class Replay(keras.callbacks.Callback):
    """Lets a GAN grow along stored snapshots, as it did when it was trained.

    Parameters
    ----------
    gan : Pix2Pix
        The GAN of the joint trainer.
    folder : Path
        Folder of :class:`synthseg.gan.Snapshots`.
    numbers : list of int
        Snapshots to show, earliest first, spread evenly over the training.
    epochs : int
        Epochs of the joint training.
    """

    def __init__(self, gan: Pix2Pix, folder: Path, numbers: list[int], epochs: int) -> None:
        super().__init__()
        self.gan = gan
        self.folder = folder
        self.numbers = numbers
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Load the snapshot that belongs to this part of the training."""
        number = self.numbers[epoch * len(self.numbers) // self.epochs]
        load_snapshot(self.gan, self.folder, number)
