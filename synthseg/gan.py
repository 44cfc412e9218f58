"""pix2pix: a generator that turns masks into electron-microscopy images, and its discriminator.

Architecture and loss follow Isola et al., "Image-to-image translation with conditional
adversarial networks", CVPR 2017, in the variant of the original study; every setting that this
project changes has the original's value available.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from synthseg.layers import Adam, UpConv2D

LEAK = 0.2
"""Negative slope of the LeakyReLU in both networks."""


@dataclass(frozen=True)
class GANSettings:
    """What the generator and the discriminator look like, and how they are trained.

    Attributes
    ----------
    size : int
        Side of the images in pixels, a power of two. The encoder halves it down to one pixel.
    width : int
        Filters of the first layer; deeper layers have 2, 4 and 8 times as many. Original: 64.
    decoder : str
        ``"transposed"`` (4 x 4 transposed convolutions, original) or ``"resize"`` (nearest
        neighbour up-sampling, then a 3 x 3 convolution).
    receptive_field : int
        Pixels that one output of the discriminator sees: 34, 70, or 142 (original; larger than
        a 128 px image, hence no longer a judge of patches).
    adversarial : str
        ``"bce"`` (binary cross-entropy from logits, original) or ``"least-squares"``.
    l1_weight : float
        Weight of the mean absolute difference between generated and real image. Original: 100.
    g_lr : float
        Learning rate of the generator. Original: 5e-4.
    d_lr_ratio : float
        Learning rate of the discriminator divided by `g_lr`. Original: 1e-3, with which the
        discriminator barely moves.
    beta1 : float
        First moment decay of both Adam optimisers. Original: 0.9.
    norm : str
        ``"batch"`` (original) or ``"instance"``.
    noise : bool
        Whether the generator gets a channel of Gaussian noise beside the mask, and once more at
        full resolution before its last convolution. Without it (original) a mask has exactly
        one image, and all empty masks share theirs.
    average : float
        Decay of the moving average of the generator's weights, from which images are generated;
        0 (original) uses the weights of the last step.
    """

    size: int = 128
    width: int = 64
    decoder: str = "resize"
    receptive_field: int = 70
    adversarial: str = "least-squares"
    l1_weight: float = 10.0
    g_lr: float = 2e-4
    d_lr_ratio: float = 1.0
    beta1: float = 0.5
    norm: str = "instance"
    noise: bool = True
    average: float = 0.995

    def __post_init__(self) -> None:
        choices: dict[str, tuple[str | int, ...]] = {
            "decoder": ("transposed", "resize"),
            "receptive_field": tuple(STRIDED_LAYERS),
            "adversarial": ("bce", "least-squares"),
            "norm": ("batch", "instance"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                options = " or ".join(str(option) for option in allowed)
                raise ValueError(f"{name} is '{getattr(self, name)}'; choose {options}.")
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size is {self.size}; choose a power of two, at least 8.")


STRIDED_LAYERS = {34: 2, 70: 3, 142: 4}
"""Stride-2 layers of the discriminator for each receptive field."""


def original_settings(width: int = 64, size: int = 128) -> GANSettings:
    """Settings of the original study (method of 2022), for any base width."""
    return GANSettings(
        size=size,
        width=width,
        decoder="transposed",
        receptive_field=142,
        adversarial="bce",
        l1_weight=100.0,
        g_lr=5e-4,
        d_lr_ratio=1e-3,
        beta1=0.9,
        norm="batch",
        noise=False,
        average=0.0,
    )


def _normalise(settings: GANSettings, tensor: keras.KerasTensor) -> keras.KerasTensor:
    if settings.norm == "batch":
        return layers.BatchNormalization()(tensor)
    # One value per channel is always normalised to zero: the bottleneck would be erased.
    if tensor.shape[1] == 1:
        return tensor
    return layers.GroupNormalization(groups=-1)(tensor)


def _initial() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)


def _up(settings: GANSettings, tensor: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    """Double the resolution with the chosen decoder."""
    if settings.decoder == "transposed":
        return layers.Conv2DTranspose(
            filters, 4, strides=2, padding="same", kernel_initializer=_initial()
        )(tensor)
    return UpConv2D(filters, kernel_initializer=_initial())(tensor)


def build_generator(settings: GANSettings) -> keras.Model:
    """U-Net from mask (and noise) to image.

    Returns
    -------
    keras.Model
        Input (batch, size, size, 1), or 2 channels with noise: mask in {0, 1} and standard
        normal noise. Output (batch, size, size, 1) in [-1, 1].
    """
    depth = int(math.log2(settings.size))
    filters = [settings.width * min(2**level, 8) for level in range(depth)]

    source = keras.Input((settings.size, settings.size, 2 if settings.noise else 1), name="mask")
    tensor = source
    skips = []
    for level in range(depth):
        tensor = layers.Conv2D(
            filters[level], 3, strides=2, padding="same", kernel_initializer=_initial()
        )(tensor)
        if level > 0:
            tensor = _normalise(settings, tensor)
        tensor = layers.LeakyReLU(LEAK)(tensor)
        skips.append(tensor)  # (batch, size / 2^(level + 1), same, filters)

    for level in reversed(range(depth - 1)):
        tensor = _normalise(settings, _up(settings, tensor, filters[level]))
        if level >= depth - 4:  # the three deepest decoder stages
            tensor = layers.Dropout(0.5)(tensor)
        tensor = layers.ReLU()(tensor)
        tensor = layers.Concatenate()([tensor, skips[level]])

    if settings.noise:
        # EM images carry pixel noise, which noise that enters at half resolution cannot make.
        tensor = layers.LeakyReLU(LEAK)(_up(settings, tensor, settings.width // 2))
        tensor = layers.Concatenate()([tensor, source])
        tensor = layers.Conv2D(1, 3, padding="same", kernel_initializer=_initial())(tensor)
    else:
        tensor = _up(settings, tensor, 1)
    image = layers.Activation("tanh", name="image")(tensor)
    return keras.Model(source, image, name="generator")


def build_discriminator(settings: GANSettings) -> keras.Model:
    """PatchGAN: a map of logits, each judging the patch it sees.

    Returns
    -------
    keras.Model
        Inputs mask {0, 1} and image [-1, 1], each (batch, size, size, 1). Output (batch, h, w, 1),
        with h = w = size / 2^strided layers.
    """
    strided = STRIDED_LAYERS[settings.receptive_field]
    filters = [settings.width * min(2**level, 8) for level in range(strided + 1)]

    mask = keras.Input((settings.size, settings.size, 1), name="mask")
    image = keras.Input((settings.size, settings.size, 1), name="image")
    tensor = layers.Concatenate()([mask, image])
    for level in range(strided + 1):
        tensor = layers.Conv2D(
            filters[level],
            4,
            strides=2 if level < strided else 1,
            padding="same",
            kernel_initializer=_initial(),
        )(tensor)
        if level > 0:
            tensor = _normalise(settings, tensor)
        tensor = layers.LeakyReLU(LEAK)(tensor)
    logits = layers.Conv2D(1, 4, padding="same", kernel_initializer=_initial())(tensor)
    return keras.Model([mask, image], logits, name="discriminator")


def receptive_field(model: keras.Model) -> int:
    """Side, in input pixels, of the square that one output of a convolutional chain sees.

    Each layer adds (kernel - 1) times the distance, in input pixels, of its neighbouring inputs.
    """
    field, spacing = 1, 1
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            field += (layer.kernel_size[0] - 1) * spacing
            spacing *= layer.strides[0]
    return field


def generator_input(settings: GANSettings, masks: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Put the noise channel beside the masks, if the generator has one.

    Parameters
    ----------
    settings : GANSettings
        Settings of the generator.
    masks : tf.Tensor
        Shape (batch, size, size, 1), values {0, 1}.
    seed : tf.Tensor
        Shape (2,): the noise is a function of it alone.
    """
    if not settings.noise:
        return masks
    return tf.concat([masks, tf.random.stateless_normal(tf.shape(masks), seed)], axis=-1)


def to_probability(settings: GANSettings, logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's outputs as probabilities of being real, in [0, 1]."""
    if settings.adversarial == "bce":
        return tf.sigmoid(logits)
    return tf.clip_by_value(logits, 0.0, 1.0)  # least squares: trained towards 0 and 1


class Pix2Pix(keras.Model):
    """Generator and discriminator, trained together by ``fit`` on (image, mask) batches.

    Parameters
    ----------
    settings : GANSettings
        Architecture, losses and optimisers.
    seed : int
        Seed of the generator's noise.

    Attributes
    ----------
    generator, discriminator : keras.Model
        The networks in training.
    generator_average : keras.Model
        The generator with the moving average of its weights: the one to generate with.
    """

    def __init__(self, settings: GANSettings, seed: int = 0) -> None:
        super().__init__(name="pix2pix")
        self.settings = settings
        self.noise_seed = seed
        self.generator = build_generator(settings)
        self.discriminator = build_discriminator(settings)
        self.generator_average = self.generator
        if settings.average:
            self.generator_average = keras.models.clone_model(self.generator)
            self.generator_average.set_weights(self.generator.get_weights())
        self.g_optimizer = Adam(settings.g_lr, beta_1=settings.beta1)
        self.d_optimizer = Adam(settings.g_lr * settings.d_lr_ratio, beta_1=settings.beta1)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        names = ("d_loss", "g_loss", "l1", "d_real", "d_fake")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True
        self.compile(jit_compile=False)  # XLA is slower than plain graphs on CPUs

    def adversarial_loss(self, logits: tf.Tensor, real: bool) -> tf.Tensor:
        """How far the discriminator's outputs are from calling the images real (or fake)."""
        target = tf.ones_like(logits) if real else tf.zeros_like(logits)
        if self.settings.adversarial == "bce":
            return ops.mean(ops.binary_crossentropy(target, logits, from_logits=True))
        return ops.mean(ops.square(logits - target))

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """One step of both networks on images [-1, 1] and masks {0, 1}, (batch, size, size, 1).

        One fake serves both networks, and both gradients are taken at the same weights.
        """
        image, mask = data
        seed = tf.stack([tf.cast(self.noise_seed, tf.int64), self.steps_taken()])
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(generator_input(self.settings, mask, seed), training=True)
            on_real = self.discriminator([mask, image], training=True)
            on_fake = self.discriminator([mask, fake], training=True)
            d_loss = 0.5 * (
                self.adversarial_loss(on_real, real=True)
                + self.adversarial_loss(on_fake, real=False)
            )
            g_loss = self.adversarial_loss(on_fake, real=True)
            l1 = ops.mean(ops.absolute(image - fake))
            g_total = g_loss + self.settings.l1_weight * l1
        d_variables = self.discriminator.trainable_variables
        g_variables = self.generator.trainable_variables
        d_gradients = tape.gradient(d_loss, d_variables)
        g_gradients = tape.gradient(g_total, g_variables)
        del tape
        self.d_optimizer.apply(d_gradients, d_variables)
        self.g_optimizer.apply(g_gradients, g_variables)
        self.update_average()
        return self.track(
            d_loss=d_loss,
            g_loss=g_loss,
            l1=l1,
            d_real=ops.mean(to_probability(self.settings, on_real)),
            d_fake=ops.mean(to_probability(self.settings, on_fake)),
        )

    def steps_taken(self) -> tf.Tensor:
        """Number of training steps so far, int64; restored with the optimiser's state."""
        return tf.cast(self.g_optimizer.iterations.value, tf.int64)

    def update_average(self) -> None:
        """Move the averaged generator towards the trained one; faster in the first steps."""
        if self.generator_average is self.generator:
            return
        step = ops.cast(self.g_optimizer.iterations, "float32")
        decay = ops.minimum(self.settings.average, (1.0 + step) / (10.0 + step))
        for mean, value in zip(
            self.generator_average.variables, self.generator.variables, strict=True
        ):
            if mean.dtype == "float32":  # the state of Dropout's random numbers is not averaged
                mean.assign(decay * mean + (1.0 - decay) * value)

    def track(self, **values: tf.Tensor) -> dict[str, Any]:
        """Average the logged values over the epoch."""
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: self.trackers[name].result() for name in values}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which ``fit`` resets at each epoch."""
        return list(self.trackers.values())


def generate(
    generator: keras.Model, settings: GANSettings, masks: np.ndarray, seed: int, batch: int = 16
) -> np.ndarray:
    """Images for masks, in inference mode.

    Parameters
    ----------
    generator : keras.Model
        Usually :attr:`Pix2Pix.generator_average`.
    settings : GANSettings
        The settings that the generator was built with.
    masks : numpy.ndarray
        Shape (n, size, size, 1), values {0, 1}.
    seed : int
        Seed of the noise; another seed gives other images of the same masks.
    batch : int
        Images per call of the network.

    Returns
    -------
    numpy.ndarray
        Shape (n, size, size, 1) float32 in [-1, 1].
    """
    inputs = generator_input(settings, tf.constant(masks, tf.float32), tf.constant([seed, 0]))
    return np.asarray(generator.predict(inputs, batch_size=batch, verbose=0))


class Snapshots(keras.callbacks.Callback):
    """Stores the averaged generator and the discriminator after each epoch.

    Parameters
    ----------
    folder : Path
        Where the files of :func:`save_snapshot` go, numbered by epoch from 1.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the snapshot of this epoch."""
        save_snapshot(self.model, self.folder, epoch + 1)


def save_snapshot(gan: Pix2Pix, folder: Path, number: int) -> None:
    """Write the weights of averaged generator and discriminator, without the optimisers."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = {"generator": gan.generator_average, "discriminator": gan.discriminator}
    for name, network in networks.items():
        path = folder / f"{name}-{number:03d}.weights.h5"
        temporary = path.with_name(f".{path.name}")
        network.save_weights(temporary)
        temporary.replace(path)  # at no moment is there half a snapshot


def load_snapshot(gan: Pix2Pix, folder: Path, number: int) -> None:
    """Read what :func:`save_snapshot` wrote into a GAN with the same settings."""
    gan.generator_average.load_weights(folder / f"generator-{number:03d}.weights.h5")
    gan.discriminator.load_weights(folder / f"discriminator-{number:03d}.weights.h5")
