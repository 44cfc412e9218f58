"""RITnet: the segmentation network, its training, and whole-slice prediction.

Chaudhary et al., "RITnet: real-time semantic segmentation of the eye for gaze tracking", ICCV
Workshops 2019, in the published form (``full``) and in the variant of the original study
(``half``), which pools before its first block and therefore decides at half resolution.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from synthseg import fast
from synthseg.metrics import Counts, PooledDice, count, left_out
from synthseg.sampling import CropSettings, at_network_scale
from synthseg.settings import check_choices
from synthseg.volumes import Volume


@dataclass(frozen=True)
class SegmenterSettings:
    """Architecture and optimiser of the segmenter.

    Variant "half" is that of the original study, "full" the published RITnet: no pooling in the
    first block, full-resolution output.
    """

    size: int  # side of the training crops in pixels, a multiple of 32
    variant: Literal["half", "full"]
    channels: int  # filters of every convolution; original and published: 32
    dropout: float  # original 0.5, published 0.2
    leak: float  # negative slope of the LeakyReLU; original 0.3, published 0.01
    lr: float  # peak learning rate of Adam; original 5e-4
    schedule: Literal["constant", "cosine"]  # original constant; cosine falls to zero at the end

    def __post_init__(self) -> None:
        check_choices(self)
        if self.size % 32:
            raise ValueError(f"size is {self.size} px; choose a multiple of 32.")


def build_ritnet(settings: SegmenterSettings) -> keras.Model:
    """RITnet with dense blocks: every convolution also sees the inputs of those before it.

    Input image (batch, size, size, 1) in [-1, 1], output logits of the same shape. The height and
    width may be any multiples of 32.
    """

    def convolve(tensor: keras.KerasTensor) -> keras.KerasTensor:
        convolved = layers.Conv2D(settings.channels, 3, padding="same")(tensor)
        return layers.LeakyReLU(settings.leak)(layers.Dropout(settings.dropout)(convolved))

    def squeeze(*tensors: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Conv2D(settings.channels, 1)(layers.Concatenate()(tensors))

    def down_block(tensor: keras.KerasTensor, pool: bool) -> keras.KerasTensor:
        if pool:
            tensor = layers.AveragePooling2D(2)(tensor)
        first = convolve(tensor)
        second = convolve(squeeze(tensor, first))
        third = convolve(squeeze(tensor, first, second))
        # Keras's momentum of 0.99 takes hundreds of steps to forget its start: a short training
        # run would end with a network that is right in training mode and finds nothing in inference
        # mode.
        return layers.BatchNormalization(momentum=0.9)(third)

    def up_block(tensor: keras.KerasTensor, skip: keras.KerasTensor) -> keras.KerasTensor:
        tensor = layers.UpSampling2D(2)(tensor)
        first = convolve(squeeze(tensor, skip))
        return convolve(squeeze(tensor, skip, first))

    image = keras.Input((None, None, 1), name="image")
    tensor = image
    skips = []
    for level in range(5):
        tensor = down_block(tensor, pool=level > 0 or settings.variant == "half")
        skips.append(tensor)
    for skip in reversed(skips[:-1]):
        tensor = up_block(tensor, skip)
    logits = layers.Conv2D(1, 1, name="logits")(tensor)
    if settings.variant == "half":
        # Doubling the resolution before the 1 x 1 convolution gives the same, four times as slowly.
        logits = layers.UpSampling2D(2)(logits)
    return keras.Model(image, logits, name=f"ritnet_{settings.variant}")


def optimizer(settings: SegmenterSettings, steps: int) -> keras.optimizers.Optimizer:
    """Adam with the chosen schedule over `steps` steps."""
    if settings.schedule == "constant":
        return keras.optimizers.Adam(settings.lr)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(settings.lr, steps))


def pixel_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of each pixel, (n, height, width); 0 where masks leave a pixel out."""
    loss = keras.losses.binary_crossentropy(masks, logits, from_logits=True)
    return tf.where(left_out(masks)[..., 0], 0.0, loss)


def compiled(settings: SegmenterSettings, steps: int) -> keras.Model:
    """A new segmenter, ready for ``fit`` with (image, mask) batches for `steps` steps."""
    model = build_ritnet(settings)
    # In training the same network is computed faster; it is saved and evaluated as it is shown.
    stock, quick = model.call, fast.twin(model)
    model.call = lambda image, training=False, mask=None: (
        quick(image) if training else stock(image, training=False)
    )
    model.compile(
        optimizer=optimizer(settings, steps),
        loss=pixel_loss,
        metrics=[PooledDice()],
        jit_compile=False,  # XLA is slower than plain graphs on CPUs
    )
    return model


class Tile(NamedTuple):
    """A window of a slice, and the part of the slice that this window decides."""

    window: tuple[slice, slice]  # rows and columns that the network sees
    owned: tuple[slice, slice]  # rows and columns for which this tile's prediction counts
    inner: tuple[slice, slice]  # the owned part in the tile's own coordinates


def _intervals(length: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Start of each tile along one axis, with the begin and end of what it owns."""
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    starts = [round(position) for position in np.linspace(0, length - tile, count)]
    # Neighbours share their overlap half and half: context on both sides of every pixel.
    cuts = [(left + tile + right) // 2 for left, right in itertools.pairwise(starts)]
    return list(zip(starts, [0, *cuts], [*cuts, length], strict=True))


def tiles(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Tiles of `tile` x `tile` px that cover a slice, each pixel owned by exactly one.

    Neighbours overlap by `overlap` px at least.

    Examples
    --------
    >>> [part.owned[1] for part in tiles(128, 200, tile=128, overlap=32)]
    [slice(0, 100, None), slice(100, 200, None)]
    """
    if min(height, width) < tile or not 0 <= overlap < tile:
        raise ValueError(
            f"Cannot tile a slice of {height} x {width} px with tiles of {tile} px that overlap "
            f"by {overlap} px: the slice must be at least as large, the overlap smaller."
        )
    return [
        Tile(
            window=(slice(top, top + tile), slice(left, left + tile)),
            owned=(slice(row, row_end), slice(column, column_end)),
            inner=(slice(row - top, row_end - top), slice(column - left, column_end - left)),
        )
        for top, row, row_end in _intervals(height, tile, overlap)
        for left, column, column_end in _intervals(width, tile, overlap)
    ]


def predict_slices(
    model: keras.Model, images: np.ndarray, tile: int = 128, overlap: int = 32, batch: int = 16
) -> np.ndarray:
    """Probability of mitochondrion for whole slices at network scale, tile by tile.

    Takes and returns (z, height, width, 1), from [-1, 1] to [0, 1]. The model gives logits and runs
    in inference mode: no dropout, BatchNorm with its moving statistics.
    """
    height, width = images.shape[1:3]
    plan = tiles(height, width, tile, overlap)
    windows = np.concatenate([images[:, part.window[0], part.window[1]] for part in plan])
    logits = np.asarray(model.predict(windows, batch_size=batch, verbose=0))
    probability = np.empty(images.shape, np.float32)
    for part, values in zip(plan, np.split(logits, len(plan)), strict=True):
        inner = values[:, part.inner[0], part.inner[1]]
        probability[:, part.owned[0], part.owned[1]] = tf.sigmoid(inner).numpy()
    return probability


def evaluate(model: keras.Model, volume: Volume, settings: CropSettings) -> Counts:
    """Counts per slice of a whole volume, at the resolution of the network.

    Each pixel of each slice counts once. Scores at a coarser resolution than that of the volume
    are not comparable with scores at full resolution.
    """
    images, masks = at_network_scale(volume, settings)
    probability = predict_slices(model, images, settings.size, overlap=settings.size // 4)
    return count(probability > 0.5, masks)


class CleanEvaluation(keras.callbacks.Callback):
    """Measures loss and Dice in inference mode after each epoch, on fixed crops.

    The loss that ``fit`` reports is averaged over an epoch in which the weights changed and
    dropout was on, so comparing it with a validation loss under-states over-fitting.

    `crops` are fixed (images, masks), each (n, size, size, 1), by name: "train" gives `train_loss`
    and `train_dice` in the logs. The segmenter may be part of the model that ``fit`` trains.
    """

    def __init__(
        self, segmenter: keras.Model, crops: dict[str, tuple[np.ndarray, np.ndarray]]
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.crops = crops

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the clean values to the epoch's logs."""
        assert logs is not None
        for name, (images, masks) in self.crops.items():
            logits = self.segmenter.predict(images, batch_size=16, verbose=0)
            logs[f"{name}_loss"] = float(ops.mean(pixel_loss(masks, logits)))
            logs[f"{name}_dice"] = float(count(logits > 0, masks).pooled().dice()[0])
