"""pix2pix: a generator that turns masks into electron-microscopy images, and its discriminator.

Architecture and loss follow Isola et al., "Image-to-image translation with conditional
adversarial networks", CVPR 2017, in the variant of the original study; every setting that this
project changes has the original's value available.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from synthseg import fast
from synthseg.settings import check_choices

LEAK = 0.2  # negative slope of the LeakyReLU in both networks
INITIAL = {"class_name": "RandomNormal", "config": {"stddev": 0.02}}  # of all kernels
STRIDED_LAYERS = {34: 2, 70: 3, 142: 4}  # of the discriminator, by receptive field


@dataclass(frozen=True)
class GANSettings:
    """What the generator and the discriminator look like, and how they are trained.

    With noise the generator gets a channel of Gaussian noise beside the mask, and both once more
    before a last convolution at full resolution: noise that enters at half resolution cannot make
    the noise of single pixels. Without it a mask has exactly one image, and all empty masks share
    theirs. "constant" is the same network as "fresh", always fed with the same noise image.
    """

    size: int  # side of the images in pixels, a power of two
    width: int  # filters of the first layer; deeper ones have 2, 4, 8 times as many; original: 64
    decoder: Literal["transposed", "resize"]  # original: transposed
    receptive_field: Literal[34, 70, 142]  # pixels that one output of D sees; original: 142
    adversarial: Literal["bce", "least-squares"]  # original: bce
    l1_weight: float  # of the mean absolute difference to the real image; original: 100
    g_lr: float  # learning rate of the generator; original: 5e-4
    d_lr_ratio: float  # that of the discriminator, divided by g_lr; original: 1e-3
    beta1: float  # decay of Adam's first moment, both networks; original: 0.9
    norm: Literal["batch", "instance"]  # original: batch
    noise: Literal["fresh", "constant", "none"]  # original: none
    average: float  # decay of the moving average of the generator's weights; original: 0, none

    def __post_init__(self) -> None:
        check_choices(self)
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size is {self.size}; choose a power of two, at least 8.")


def original_settings(width: int, size: int) -> GANSettings:
    """Settings of the original study (method of 2022), for any base width and size."""
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
        noise="none",
        average=0.0,
    )


def _normalise(settings: GANSettings, tensor: keras.KerasTensor) -> keras.KerasTensor:
    if settings.norm == "batch":
        return layers.BatchNormalization()(tensor)
    # One value per channel is always normalised to zero: the bottleneck would be erased.
    if tensor.shape[1] == 1:
        return tensor
    return layers.GroupNormalization(groups=-1)(tensor)


def _convolution(filters: int, side: int, strides: int = 1, **options: Any) -> layers.Layer:
    return layers.Conv2D(filters, side, strides, "same", kernel_initializer=INITIAL, **options)


def _up(settings: GANSettings, tensor: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    if settings.decoder == "transposed":
        return layers.Conv2DTranspose(filters, 4, 2, "same", kernel_initializer=INITIAL)(tensor)
    tensor = layers.UpSampling2D(2, interpolation="nearest")(tensor)
    return _convolution(filters, 3)(tensor)


def build_generator(settings: GANSettings) -> keras.Model:
    """U-Net from mask (and noise) to image.

    Input (batch, size, size, 1), or 2 channels with noise: mask in {0, 1} and standard normal
    noise. Output (batch, size, size, 1) in [-1, 1].
    """
    depth = int(math.log2(settings.size))
    filters = [settings.width * min(2**level, 8) for level in range(depth)]

    channels, name = GENERATOR_INPUTS[settings.noise]
    source = keras.Input((settings.size, settings.size, channels), name=name)
    tensor = source
    skips = []
    for level in range(depth):
        tensor = _convolution(filters[level], 3, strides=2)(tensor)
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

    if settings.noise == "none":
        tensor = _up(settings, tensor, 1)
    else:
        tensor = layers.LeakyReLU(LEAK)(_up(settings, tensor, settings.width // 2))
        tensor = layers.Concatenate()([tensor, source])
        tensor = _convolution(1, 3)(tensor)
    image = layers.Activation("tanh", name="image")(tensor)
    return keras.Model(source, image, name="generator")


GENERATOR_INPUTS = {
    "none": (1, "mask"),
    "fresh": (2, "mask_and_noise"),
    "constant": (2, "mask_and_constant_noise"),
}
"""Channels and name of the generator's input: a stored generator tells what it wants."""


def build_discriminator(settings: GANSettings) -> keras.Model:
    """PatchGAN: a map of outputs, each judging the patch it sees.

    Inputs mask {0, 1} and image [-1, 1], each (batch, size, size, 1). Output (batch, h, w, 1) with
    h = w = size / 2^strided layers: "logits", or with least squares "realness", trained towards 0
    for fakes and 1 for real images.
    """
    strided = STRIDED_LAYERS[settings.receptive_field]
    filters = [settings.width * min(2**level, 8) for level in range(strided + 1)]

    mask = keras.Input((settings.size, settings.size, 1), name="mask")
    image = keras.Input((settings.size, settings.size, 1), name="image")
    tensor = layers.Concatenate()([mask, image])
    for level in range(strided + 1):
        tensor = _convolution(filters[level], 4, strides=2 if level < strided else 1)(tensor)
        if level > 0:
            tensor = _normalise(settings, tensor)
        tensor = layers.LeakyReLU(LEAK)(tensor)
    name = "logits" if settings.adversarial == "bce" else "realness"
    return keras.Model([mask, image], _convolution(1, 4, name=name)(tensor), name="discriminator")


def field_of_view(model: keras.Model) -> int:
    """Side, in input pixels, of the square that one output of a convolutional chain sees.

    Each layer adds (kernel - 1) times the distance, in input pixels, of its neighbouring inputs.
    """
    field, spacing = 1, 1
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            field += (layer.kernel_size[0] - 1) * spacing
            spacing *= layer.strides[0]
    return field


def generator_input(
    generator: keras.Model, masks: tf.Tensor, seed: tf.Tensor, same_noise: bool = False
) -> tf.Tensor:
    """Put the noise beside masks (batch, size, size, 1), if the generator takes noise.

    The noise is a function of `seed`, shape (2,), alone; with `same_noise` all masks get the same
    noise image. A generator of constant noise always gets the one that it was trained with.
    """
    channels, name = generator.input_shape[-1], generator.input.name
    if channels == 1:
        return masks
    shape = tf.shape(masks)
    if name == GENERATOR_INPUTS["constant"][1]:
        same_noise, seed = True, tf.zeros_like(seed)
    one = tf.concat([[1], shape[1:]], axis=0)
    noise = tf.random.stateless_normal(one if same_noise else shape, seed)
    return tf.concat([masks, tf.broadcast_to(noise, shape)], axis=-1)


def probability(discriminator: keras.Model, outputs: tf.Tensor) -> tf.Tensor:
    """The discriminator's outputs as probabilities of being real, in [0, 1].

    Logits go through the sigmoid. Outputs of least squares are clipped: beyond 0 and 1 they say no
    more than "sure", so that a mean of probabilities hides how far beyond they are.
    """
    if discriminator.layers[-1].name == "logits":
        return tf.sigmoid(outputs)
    return tf.clip_by_value(outputs, 0.0, 1.0)


class Pix2Pix(keras.Model):
    """Generator and discriminator, trained together by ``fit`` on (image, mask) batches.

    `seed` is that of the generator's noise. Images are generated by `generator_average`, which has
    the moving average of the weights of `generator`.
    """

    def __init__(self, settings: GANSettings, seed: int) -> None:
        super().__init__(name="pix2pix")
        self.settings = settings
        self.noise_seed = seed
        self.generator = build_generator(settings)
        self.discriminator = build_discriminator(settings)
        self.generator_average = self.generator
        if settings.average:
            self.generator_average = keras.models.clone_model(self.generator)
            self.generator_average.set_weights(self.generator.get_weights())
        self.fast_generator = fast.twin(self.generator)  # the same variables, computed faster
        self.g_optimizer = keras.optimizers.Adam(settings.g_lr, beta_1=settings.beta1)
        d_lr = settings.g_lr * settings.d_lr_ratio
        self.d_optimizer = keras.optimizers.Adam(d_lr, beta_1=settings.beta1)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        names = ("d_loss", "g_loss", "l1", "d_real", "d_fake")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True
        self.compile(jit_compile=False)  # XLA is slower than plain graphs on CPUs

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """One step of both networks on images [-1, 1] and masks {0, 1}, (batch, size, size, 1).

        One fake serves both networks, and both gradients are taken at the same weights. The logs
        `d_real` and `d_fake` are means of probabilities (see :func:`probability`).
        """
        image, mask = data
        seed = tf.stack([tf.cast(self.noise_seed, tf.int64), self.steps_taken()])
        with tf.GradientTape(persistent=True) as tape:
            fake = self.fast_generator(generator_input(self.generator, mask, seed))
            on_real = self.discriminator([mask, image], training=True)
            on_fake = self.discriminator([mask, fake], training=True)
            d_loss_real = self.adversarial_loss(on_real, real=True)
            d_loss_fake = self.adversarial_loss(on_fake, real=False)
            d_loss = (d_loss_real + d_loss_fake) / 2
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
        d_real = ops.mean(probability(self.discriminator, on_real))
        d_fake = ops.mean(probability(self.discriminator, on_fake))
        return self.track(d_loss=d_loss, g_loss=g_loss, l1=l1, d_real=d_real, d_fake=d_fake)

    def adversarial_loss(self, outputs: tf.Tensor, real: bool) -> tf.Tensor:
        """How far the discriminator's outputs are from calling the images real (or fake)."""
        target = tf.ones_like(outputs) if real else tf.zeros_like(outputs)
        if self.settings.adversarial == "bce":
            return ops.mean(ops.binary_crossentropy(target, outputs, from_logits=True))
        return ops.mean(ops.square(outputs - target))

    def steps_taken(self) -> tf.Tensor:
        """Number of training steps so far, int64; restored with the optimiser's state."""
        return tf.cast(self.g_optimizer.iterations.value, tf.int64)

    def update_average(self) -> None:
        """Move the averaged generator towards the trained one; faster in the first steps."""
        if self.generator_average is self.generator:
            return
        step = ops.cast(self.g_optimizer.iterations, "float32")
        decay = ops.minimum(self.settings.average, (1.0 + step) / (10.0 + step))
        pairs = zip(self.generator_average.weights, self.generator.weights, strict=True)
        for mean, value in pairs:
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
    generator: keras.Model, masks: np.ndarray, seed: int, same_noise: bool = False, batch: int = 16
) -> np.ndarray:
    """Images (n, size, size, 1) in [-1, 1] for masks {0, 1}, in inference mode.

    The noise is a function of `seed`; with `same_noise` all masks get the same noise image, so
    that what differs comes from the masks. See :func:`generator_input`.
    """
    seeds = tf.constant([seed, 0], tf.int64)
    inputs = generator_input(generator, tf.constant(masks, tf.float32), seeds, same_noise)
    return np.asarray(generator.predict(inputs, batch_size=batch, verbose=0))


class Snapshots(keras.callbacks.Callback):
    """Stores the averaged generator and the discriminator after each epoch.

    ``generator-001.keras`` and ``discriminator-001.keras`` in `folder` hold the networks of epoch
    1, and so on: files of Keras, which it loads without this module.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the snapshot of this epoch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        gan = self.model
        # The generator last: a snapshot counts when it is there.
        networks = {"discriminator": gan.discriminator, "generator": gan.generator_average}
        for name, network in networks.items():
            path = self.folder / f"{name}-{epoch + 1:03d}.keras"
            temporary = path.with_name(f".{path.name}")
            network.save(temporary)
            temporary.replace(path)  # at no moment is there half a file


def snapshot_numbers(folder: Path) -> list[int]:
    """Numbers of the snapshots in a folder, earliest first."""
    return sorted(int(path.stem.removeprefix("generator-")) for path in folder.glob("generator-*"))


def load_snapshot(folder: Path, number: int | None = None) -> tuple[keras.Model, keras.Model]:
    """Generator and discriminator as :class:`Snapshots` stored them; without a number the last."""
    numbers = snapshot_numbers(folder)
    if not numbers or number not in (None, *numbers):
        raise FileNotFoundError(
            f"{folder} has no snapshot{'' if number is None else f' {number}'} of a GAN: train one "
            "with chapter 2, or name the folder of another run."
        )
    name = f"{numbers[-1] if number is None else number:03d}.keras"
    generator = keras.models.load_model(folder / f"generator-{name}", compile=False)
    return generator, keras.models.load_model(folder / f"discriminator-{name}", compile=False)
