"""Joint training: a segmenter learns from real images and from a generator's images at once.

The loss of the original study, for real images x with masks y and synthetic images of masks s, is

    BCE(y, M(x)) + r(t) q BCE(s, M(G(s))),

with a weight r that grows over the training time t, and a score q that the discriminator gives.
What is trained on what, and by which rule, is an :class:`Arm`. The segmenter's gradient never
reaches the GAN; a GAN can therefore be trained once, and be replayed for every arm.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from synthseg import fast, masks
from synthseg.arms import ARMS, CONTRASTS, Arm  # noqa: F401 - chapters read joint.ARMS
from synthseg.gan import Pix2Pix, generator_input, load_snapshot, probability, snapshot_numbers
from synthseg.metrics import PooledDice
from synthseg.sampling import CropSettings, crops, vary_intensity
from synthseg.segmenter import SegmenterSettings, optimizer, pixel_loss
from synthseg.volumes import Volume


class GANBatches(NamedTuple):
    """The crops on which a GAN is trained live, `per_step` batches a step of the segmenter.

    With the seed and the settings of chapter 2 it sees what the replayed GAN saw.
    """

    cropping: CropSettings
    seed: int
    per_step: int


Prior = tuple[np.ndarray, np.ndarray]


def batches(
    arm: Arm,
    volume: Volume,
    cropping: CropSettings,
    bank: list[masks.Component],
    prior: Prior,
    backgrounds: np.ndarray,
    stream: Callable[[str], int],
    first_step: int = 0,
    gan_batch: GANBatches | None = None,
) -> tf.data.Dataset:
    """What :class:`JointTrainer` takes at each step: (image, mask) pairs of batches.

    The first pair is real, the same in all arms of a seed; the second is what the arm adds, if it
    adds any, and the third the GAN's own (per step, batch, …), if `gan_batch` is given. All are
    functions of (seed, step): masks are composed anew at each step, and so are their pastings.
    Where a generator draws the images, those of the second pair are a place-holder.
    """
    real = crops(volume, replace(cropping, augment=arm.augment), stream("crops"), first_step)
    turned = replace(cropping, augment="dihedral")  # the trainer varies the intensities
    parts = [real]
    if arm.real == 2:
        more = crops(volume, replace(cropping, augment=arm.augment), stream("other"), first_step)
        parts = [tf.data.Dataset.zip(real, more).map(_together)]
    if arm.masks == "real":
        parts.append(crops(volume, turned, stream("other"), first_step))
    elif arm.masks != "none":
        compose_seed, paste_seed = stream("compose"), stream("paste")

        def compose(mask: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
            if arm.masks == "original":
                composed = masks.compose_original(mask, (compose_seed, step))
                return composed, composed
            count, size = mask.shape[:2]
            made = masks.compose(bank, prior, size, count, (compose_seed, step))
            if arm.images == "copy-paste":
                return masks.copy_paste(made, backgrounds, (paste_seed, step)), made.masks
            return made.pixels, made.masks

        def with_shapes(pair: Any, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            made = tf.numpy_function(compose, (pair[1], step), (tf.float32, tf.float32))
            image, mask = (tf.ensure_shape(part, pair[1].shape) for part in made)
            return image, mask

        steps = tf.data.Dataset.counter(start=first_step)
        second = tf.data.Dataset.zip(real, steps).map(with_shapes)
        parts = [real, second]
    if gan_batch is not None:
        own, seed, per_step = gan_batch
        stacked = crops(volume, own, seed, first_step * per_step)
        parts.append(stacked.batch(per_step, drop_remainder=True))
    return tf.data.Dataset.zip(tuple(parts)).prefetch(tf.data.AUTOTUNE)


def _together(*pairs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """One batch of several."""
    images, their_masks = zip(*pairs, strict=True)
    return tf.concat(images, axis=0), tf.concat(their_masks, axis=0)


def ramp(fraction: tf.Tensor | float) -> tf.Tensor:
    """ln(1 + 20 f) for the fraction f in [0, 1] of training done; 20 are the original's epochs."""
    return ops.log(1.0 + 20.0 * ops.cast(fraction, "float32"))


def mean_ramp(schedule: str) -> float:
    """Mean of the ramp over training, each step weighted with its learning rate.

    A step moves the segmenter by learning rate times weight. With a learning rate that falls as a
    cosine, the late, large weights count less: 1.730 in place of 2.197.
    """
    fraction = np.linspace(0, 1, 100_001)
    rate = np.ones_like(fraction) if schedule == "constant" else 1 + np.cos(np.pi * fraction)
    return float((rate * np.log1p(20 * fraction)).sum() / rate.sum())


def per_image_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of each image, shape (batch,)."""
    return ops.mean(pixel_loss(masks, logits), axis=(1, 2))


def batch_score(probabilities: tf.Tensor) -> tf.Tensor:
    """The original's score, 1 - clip(BCE(1, D), 0, 1): one number in [0, 1] for the batch."""
    loss = ops.mean(ops.binary_crossentropy(tf.ones_like(probabilities), probabilities))
    return 1.0 - ops.clip(loss, 0.0, 1.0)


def image_scores(probabilities: tf.Tensor) -> tf.Tensor:
    """Score of each image: its mean probability of being real, divided by the batch's mean."""
    scores = ops.mean(probabilities, axis=(1, 2, 3)) + 1e-3  # if D is sure of all, all count alike
    return scores / ops.mean(scores)


class JointTrainer(keras.Model):
    """Trains a segmenter on what :func:`batches` gives for its arm.

    Parameters
    ----------
    segmenter : keras.Model
        Gives logits; changed in place.
    segmenter_settings : SegmenterSettings
        Its optimiser.
    arm : Arm
        The rule.
    steps : int
        Length of the training run, T.
    synthetic_weight : float
        Factor of the loss on the second batch; the original's 0.4. It is multiplied by the ramp,
        or by the ramp's mean.
    gan : Pix2Pix, optional
        For a live arm: the GAN, which is trained in the same steps.
    networks : (generator, discriminator), optional
        For an arm with a finished or replayed GAN.
    seed : int
        Seed of the generator's noise, and of the intensities of the second batch.
    """

    def __init__(
        self,
        segmenter: keras.Model,
        segmenter_settings: SegmenterSettings,
        arm: Arm,
        steps: int,
        synthetic_weight: float,
        gan: Pix2Pix | None = None,
        networks: tuple[keras.Model, keras.Model] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(name="joint")
        if arm.images == "live":
            if gan is None:
                raise ValueError(f"'{arm.what}' trains a GAN live: pass gan=Pix2Pix(…).")
            self.gan, networks = gan, (gan.generator_average, gan.discriminator)
        if arm.generated:
            if networks is None:
                raise ValueError(f"'{arm.what}' needs networks=gan.load_snapshot(…).")
            # Past Keras' tracking: what is not trained here needs no place in the checkpoints.
            object.__setattr__(self, "networks", networks)
            self.fast_generator = fast.twin(networks[0])
        self.segmenter, self.fast_segmenter = segmenter, fast.twin(segmenter)
        self.arm, self.steps, self.noise_seed = arm, steps, seed
        self.synthetic_weight = synthetic_weight
        self.mean_ramp = mean_ramp(segmenter_settings.schedule)
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
        self.compile(optimizer=optimizer(segmenter_settings, steps), jit_compile=False)
        self.optimizer.build(segmenter.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step; images in [-1, 1], masks {0, 1}, each (batch, size, size, 1)."""
        (image, mask), *others = data
        weight, score = self.weight(), tf.ones((1,))
        if self.arm.images == "live":
            self.train_gan(*(others[1] if len(others) == 2 else (image[None], mask[None])))
        if self.arm.images != "none":
            synthetic, composed = others[0]
            if self.arm.generated:
                synthetic = self.generate(composed)
                beside = mask if self.arm.judged_beside == "real" else composed
                score = self.score(beside, synthetic)
            if self.arm.augment == "classical":
                synthetic = vary_intensity(synthetic, self.seeds()[1])
        real_loss = synthetic_loss = tf.constant(0.0)
        with tf.GradientTape() as tape:
            if self.arm.real:
                logits = self.fast_segmenter(image)
                real_loss = ops.mean(per_image_loss(mask, logits))
                self.dice.update_state(mask, logits)
            if self.arm.images != "none":
                logits = self.on_second_batch(synthetic)
                synthetic_loss = ops.mean(score * per_image_loss(composed, logits))
            loss = real_loss + weight * synthetic_loss
        variables = self.segmenter.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        values = (loss, real_loss, synthetic_loss, weight, ops.mean(score), ops.std(score))
        for tracker, value in zip(self.trackers.values(), values, strict=True):
            tracker.update_state(value)
        return {metric.name: metric.result() for metric in self.metrics}

    def weight(self) -> tf.Tensor:
        """r(t), the weight of the second batch at this step."""
        if self.arm.schedule == "constant":
            return tf.constant(self.synthetic_weight * self.mean_ramp)
        step = ops.cast(self.optimizer.iterations, "float32")
        return self.synthetic_weight * ramp(step / self.steps)

    def seeds(self) -> tf.Tensor:
        """Three seeds for this step: of the noise, the intensities and the shuffled scores."""
        step = tf.cast(self.optimizer.iterations.value, tf.int64)
        return tf.random.split(tf.stack([tf.cast(self.noise_seed, tf.int64), step]), 3)

    def train_gan(self, images: tf.Tensor, masks: tf.Tensor) -> None:
        """One step of the GAN for each of its batches, (steps, batch, size, size, 1)."""
        for step in range(images.shape[0]):
            self.gan.train_step((images[step], masks[step]))

    def generate(self, masks: tf.Tensor) -> tf.Tensor:
        """The generator's images of `masks`, as constants for the segmenter."""
        inputs = generator_input(self.networks[0], masks, self.seeds()[0])
        return tf.stop_gradient(self.fast_generator(inputs, training=False))

    def score(self, beside: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The factor q of each image beside the mask that D is shown, (batch,) or (1,)."""
        if self.arm.score == "none":
            return tf.ones((1,))
        discriminator = self.networks[1]
        real = probability(discriminator, discriminator([beside, images], training=False))
        if self.arm.score == "batch":
            return batch_score(real)[tf.newaxis]
        scores = image_scores(real)
        if self.arm.score == "shuffled":
            return tf.random.experimental.stateless_shuffle(scores, self.seeds()[2])
        return scores

    def on_second_batch(self, images: tf.Tensor) -> tf.Tensor:
        """The segmenter's logits in training mode, under the arm's policy for BatchNorm."""
        keep = self.arm.statistics == "real" and self.arm.real
        before = [tf.identity(variable.value) for variable in self.moving] if keep else []
        logits = self.fast_segmenter(images)
        for variable, value in zip(self.moving, before, strict=False):
            variable.assign(value)
        return logits

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which ``fit`` resets at each epoch; Dice is that of real images."""
        return [*self.trackers.values(), *([self.dice] if self.arm.real else [])]


class Replay(keras.callbacks.Callback):
    """Lets a GAN grow along its stored snapshots, at the pace at which it would grow live.

    In each epoch the generator and the discriminator of `trainer` have the weights that they had
    at the end of this part of their own training.

    Parameters
    ----------
    trainer : JointTrainer
        With networks of the same settings.
    folder : Path
        Folder of :class:`synthseg.gan.Snapshots`.
    epochs : int
        Epochs of the joint training run.
    """

    def __init__(self, trainer: JointTrainer, folder: Path, epochs: int) -> None:
        super().__init__()
        self.trainer, self.folder, self.epochs = trainer, folder, epochs
        self.numbers = snapshot_numbers(folder)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Load the snapshot that belongs to this part of the training run."""
        last = -(-(epoch + 1) * len(self.numbers) // self.epochs) - 1  # rounded up
        stored = load_snapshot(self.folder, self.numbers[last])
        for network, model in zip(self.trainer.networks, stored, strict=True):
            network.set_weights(model.get_weights())
