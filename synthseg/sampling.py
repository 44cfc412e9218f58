"""Crops for training, whole slices for evaluation.

Every random choice is a function of a seed and a step number, so a training run that stops at
step 700 and resumes there sees the batches that an uninterrupted run would have seen, and no two
passes repeat the same crops.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tensorflow as tf

from synthseg.volumes import DataError, Volume

AUGMENTATIONS = ("none", "dihedral", "classical")
"""Kinds of augmentation; see :class:`CropSettings`."""


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut from a volume.

    Attributes
    ----------
    crop : int
        Side of the square window in the volume, in pixels.
    size : int
        Side of the square that the network sees, in pixels. A crop of 320 px at 5 nm per pixel
        seen at 128 px has 12.5 nm per pixel.
    batch : int
        Crops per step.
    resize : str
        How images are reduced from `crop` to `size`: ``"area"`` averages and does not alias,
        ``"nearest"`` picks single pixels, as the original study did. Masks are always ``nearest``.
    augment : str
        ``"none"``; ``"dihedral"``: one of the eight flips and rotations of the square, applied
        to image and mask alike; or ``"classical"``: the same, then a change of contrast,
        brightness and gamma of the image alone.
    """

    crop: int = 320
    size: int = 128
    batch: int = 8
    resize: str = "area"
    augment: str = "none"

    def __post_init__(self) -> None:
        for name in ("crop", "size", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.resize not in ("area", "nearest"):
            raise ValueError(f"resize is '{self.resize}'; choose 'area' or 'nearest'.")
        if self.augment not in AUGMENTATIONS:
            options = "', '".join(AUGMENTATIONS)
            raise ValueError(f"augment is '{self.augment}'; choose one of '{options}'.")
        if self.size > self.crop:
            raise ValueError(
                f"size ({self.size} px) is larger than crop ({self.crop} px): images would be "
                "enlarged. Choose size <= crop."
            )


def to_network_image(image: tf.Tensor) -> tf.Tensor:
    """Scale grey values from [0, 255] to [-1, 1], float32."""
    return tf.cast(image, tf.float32) / 127.5 - 1.0


def resize_images(images: tf.Tensor, height: int, width: int, method: str) -> tf.Tensor:
    """Resize images (n, h, w, 1) of any dtype to float32 of `height` x `width` pixels."""
    return tf.image.resize(tf.cast(images, tf.float32), (height, width), method=method)


def resize_masks(masks: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resize masks (n, h, w, 1) by nearest neighbour, so that they stay in {0, 1}; float32."""
    return tf.cast(tf.image.resize(masks, (height, width), method="nearest"), tf.float32)


def dihedral(batch: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """Bring each square image of a batch into one of the eight orientations of the square.

    Parameters
    ----------
    batch : tf.Tensor
        Shape (n, side, side, channels).
    orientations : tf.Tensor
        Shape (n,), integers 0 to 7. The lowest bit mirrors left and right, the second turns by
        180 degrees in combination with the mirror, the third transposes.

    Returns
    -------
    tf.Tensor
        Shape and dtype of `batch`.
    """

    def chosen(bit: int) -> tf.Tensor:
        return tf.reshape(tf.bitwise.bitwise_and(orientations, bit) > 0, (-1, 1, 1, 1))

    batch = tf.where(chosen(1), tf.reverse(batch, axis=[2]), batch)
    batch = tf.where(chosen(2), tf.reverse(batch, axis=[1]), batch)
    return tf.where(chosen(4), tf.transpose(batch, (0, 2, 1, 3)), batch)


def augment_batch(
    images: tf.Tensor, masks: tf.Tensor, seed: tf.Tensor, kind: str = "classical"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augment by orientation of image and mask, and by intensity of the image.

    Parameters
    ----------
    images, masks : tf.Tensor
        Shape (n, size, size, 1); images in [-1, 1], masks in {0, 1}.
    seed : tf.Tensor
        Shape (2,), the stateless seed of this batch.
    kind : str
        One of :data:`AUGMENTATIONS`.

    Returns
    -------
    images, masks : tf.Tensor
        Same shapes and ranges.
    """
    if kind == "none":
        return images, masks
    count = tf.shape(images)[0]
    seeds = tf.random.split(seed, 4)
    orientations = tf.random.stateless_uniform((count,), seeds[0], 0, 8, dtype=tf.int32)
    images, masks = dihedral(images, orientations), dihedral(masks, orientations)
    if kind == "dihedral":
        return images, masks
    per_image = (count, 1, 1, 1)
    contrast = tf.random.stateless_uniform(per_image, seeds[1], 0.8, 1.25)
    brightness = tf.random.stateless_uniform(per_image, seeds[2], -0.2, 0.2)
    gamma = tf.exp(tf.random.stateless_uniform(per_image, seeds[3], -0.25, 0.25))
    images = tf.clip_by_value(images * contrast + brightness, -1.0, 1.0)
    return ((images + 1.0) / 2.0) ** gamma * 2.0 - 1.0, masks


def _checked(volume: Volume, settings: CropSettings) -> None:
    height, width = volume.image.shape[1:]
    if min(height, width) < settings.crop:
        raise DataError(
            f"Slices of '{volume.name}' are {height} x {width} px, smaller than the crop of "
            f"{settings.crop} px. Set a smaller one: crop={min(height, width)}."
        )


def _crop_batch(
    image: tf.Tensor, mask: tf.Tensor, settings: CropSettings, seed: int, step: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut one batch of windows; `image` and `mask` are whole volumes (z, y, x) uint8."""
    slices, height, width = image.shape
    seeds = tf.random.split(tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)]), 4)

    def draw(index: int, limit: int) -> tf.Tensor:
        return tf.random.stateless_uniform((settings.batch,), seeds[index], 0, limit, tf.int32)

    z = draw(0, slices)
    top = draw(1, height - settings.crop + 1)
    left = draw(2, width - settings.crop + 1)

    def windows(volume: tf.Tensor) -> tf.Tensor:
        extent = (1, settings.crop, settings.crop)
        cut = [
            tf.slice(volume, (z[item], top[item], left[item]), extent)[0]
            for item in range(settings.batch)
        ]
        return tf.stack(cut)[..., tf.newaxis]  # (batch, crop, crop, 1)

    images = resize_images(windows(image), settings.size, settings.size, settings.resize)
    images = to_network_image(images)
    masks = resize_masks(windows(mask), settings.size, settings.size)
    return augment_batch(images, masks, seeds[3], settings.augment)


@lru_cache(maxsize=1)
def _tensors(volume: Volume) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and mask of a volume as tensors, made once for streams that follow each other."""
    # A constant keeps a second copy of the array that it is made from; its identity does not.
    return tf.identity(tf.constant(volume.image)), tf.identity(tf.constant(volume.mask))


def crops(
    volume: Volume, settings: CropSettings, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless batches of random crops, each a function of (`seed`, step) alone.

    Parameters
    ----------
    volume : Volume
        The annotated volume to cut from; it is held in memory as uint8.
    settings : CropSettings
        Window, network size, batch, resizing and augmentation.
    seed : int
        Seed of the stream.
    first_step : int
        Step of the first batch; a resumed training passes the step at which it goes on.

    Returns
    -------
    tf.data.Dataset
        Pairs (images, masks), each (batch, size, size, 1) float32: images in [-1, 1] and masks
        in {0, 1}.

    Raises
    ------
    DataError
        If the slices are smaller than the crop.
    """
    _checked(volume, settings)
    image, mask = _tensors(volume)
    steps = tf.data.Dataset.counter(start=first_step)
    return steps.map(
        lambda step: _crop_batch(image, mask, settings, seed, step),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def gather(batches: tf.data.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Collect the first `count` pairs of a stream of batches into two arrays."""
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    iterator: Iterator = batches.as_numpy_iterator()
    while sum(map(len, images)) < count:
        batch_images, batch_masks = next(iterator)
        images.append(batch_images)
        masks.append(batch_masks)
    return np.concatenate(images)[:count], np.concatenate(masks)[:count]


def crop_arrays(
    volume: Volume, settings: CropSettings, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` crops of the stream :func:`crops`, as arrays.

    Returns
    -------
    images, masks : numpy.ndarray
        Shape (count, size, size, 1) float32, in [-1, 1] and {0, 1}.
    """
    return gather(crops(volume, settings, seed), count)


def pool(
    images: np.ndarray,
    masks: np.ndarray,
    batch: int,
    seed: int,
    first_step: int = 0,
    augment: str = "none",
) -> tf.data.Dataset:
    """Endless batches drawn from a fixed set of pairs, each a function of (`seed`, step) alone.

    Parameters
    ----------
    images, masks : numpy.ndarray
        Shape (n, size, size, 1) float32.
    batch, seed, first_step, augment
        As in :func:`crops` and :class:`CropSettings`.

    Returns
    -------
    tf.data.Dataset
        Pairs (images, masks) as :func:`crops` gives them.

    Raises
    ------
    ValueError
        If the pool is empty, or `batch` less than 1.
    """
    if len(images) == 0 or batch < 1:
        raise ValueError(f"Batches of {batch} from a pool of {len(images)}: at least 1 each.")
    all_images, all_masks = tf.constant(images), tf.constant(masks)

    def draw(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = tf.random.split(tf.stack([tf.cast(seed, tf.int64), step]), 2)
        chosen = tf.random.stateless_uniform((batch,), seeds[0], 0, len(images), tf.int32)
        pair = tf.gather(all_images, chosen), tf.gather(all_masks, chosen)
        return augment_batch(*pair, seeds[1], augment)

    steps = tf.data.Dataset.counter(start=first_step)
    return steps.map(draw).prefetch(tf.data.AUTOTUNE)


def at_network_scale(volume: Volume, settings: CropSettings) -> tuple[np.ndarray, np.ndarray]:
    """Whole slices at the resolution that the network sees, `crop / size` times coarser.

    Returns
    -------
    images, masks : numpy.ndarray
        Shape (z, round(y * size / crop), round(x * size / crop), 1) float32, in [-1, 1] and
        {0, 1}.
    """
    _checked(volume, settings)
    height, width = (round(side * settings.size / settings.crop) for side in volume.image.shape[1:])
    images, masks = [], []
    # Slice by slice: a float32 copy of the whole full-resolution volume would take 0.5 GB.
    for image, mask in zip(volume.image, volume.mask, strict=True):
        resized = resize_images(image[None, ..., None], height, width, settings.resize)
        images.append(to_network_image(resized)[0].numpy())
        masks.append(resize_masks(mask[None, ..., None], height, width)[0].numpy())
    return np.stack(images), np.stack(masks)
