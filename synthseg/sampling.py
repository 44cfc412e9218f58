"""Crops for training, whole slices for evaluation.

Every random choice is a function of a seed and a step number: a training run that resumes at step
700 sees what an uninterrupted one would have seen, and no two passes repeat the same crops.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import tensorflow as tf

from synthseg.settings import check_choices
from synthseg.volumes import IGNORED, DataError, Volume


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut from a volume.

    Attributes
    ----------
    crop, size : int
        Side of the square window in the volume, and of what the network sees of it, in pixels:
        320 px at 5 nm seen as 128 px have 12.5 nm per pixel.
    batch : int
        Crops per step.
    resize : str
        Of images: ``"area"`` averages and does not alias, ``"nearest"`` picks single pixels, as
        the original study did. Masks are always ``nearest``.
    augment : str
        ``"none"``; ``"dihedral"``: one of the eight flips and rotations of the square, of image
        and mask alike; or ``"classical"``: the same, then a change of contrast, brightness and
        gamma of the image.
    """

    crop: int
    size: int
    batch: int
    resize: Literal["area", "nearest"]
    augment: Literal["none", "dihedral", "classical"]

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("crop", "size", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
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
    """Resize masks (n, h, w, 1) by nearest neighbour, so that they stay in {0, 1}; float32.

    Where they are `IGNORED`, -0.0 comes out: background, which losses and scores leave out.
    """
    resized = tf.cast(tf.image.resize(masks, (height, width), method="nearest"), tf.float32)
    # Not a plain -0.0: TensorFlow keeps one tensor for equal Python numbers, and 0.0 equals it.
    return tf.where(resized == IGNORED, np.float32(-0.0), resized)


def dihedral(batch: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """Bring each image (n, side, side, channels) into one of the eight orientations, 0 to 7.

    The lowest bit mirrors left and right, the second up and down, the third transposes.
    """

    def chosen(bit: int) -> tf.Tensor:
        return tf.reshape(tf.bitwise.bitwise_and(orientations, bit) > 0, (-1, 1, 1, 1))

    batch = tf.where(chosen(1), tf.reverse(batch, axis=[2]), batch)
    batch = tf.where(chosen(2), tf.reverse(batch, axis=[1]), batch)
    return tf.where(chosen(4), tf.transpose(batch, (0, 2, 1, 3)), batch)


def vary_intensity(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Change contrast, brightness and gamma of each image (n, size, size, 1) in [-1, 1]."""
    per_image, seeds = (tf.shape(images)[0], 1, 1, 1), tf.random.split(seed, 3)
    contrast = tf.random.stateless_uniform(per_image, seeds[0], 0.8, 1.25)
    brightness = tf.random.stateless_uniform(per_image, seeds[1], -0.2, 0.2)
    gamma = tf.exp(tf.random.stateless_uniform(per_image, seeds[2], -0.25, 0.25))
    images = tf.clip_by_value(images * contrast + brightness, -1.0, 1.0)
    return ((images + 1.0) / 2.0) ** gamma * 2.0 - 1.0


def augment_batch(
    images: tf.Tensor, masks: tf.Tensor, seed: tf.Tensor, kind: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augment a batch, (n, size, size, 1) each, as a function of `seed` (2,).

    "dihedral" turns and mirrors image and mask alike; "classical" also varies the intensities of
    the image; "none" leaves both as they are.
    """
    if kind == "none":
        return images, masks
    turn, vary = tf.unstack(tf.random.split(seed, 2))
    orientations = tf.random.stateless_uniform((tf.shape(images)[0],), turn, 0, 8, tf.int32)
    images, masks = dihedral(images, orientations), dihedral(masks, orientations)
    return (vary_intensity(images, vary) if kind == "classical" else images), masks


def check_size(volume: Volume, settings: CropSettings) -> None:
    """Refuse slices that are smaller than the crop."""
    height, width = volume.image.shape[1:]
    if min(height, width) < settings.crop:
        raise DataError(
            f"Slices of '{volume.name}' are {height} x {width} px, smaller than the crop of "
            f"{settings.crop} px. Set a smaller one: crop={min(height, width)}."
        )


def crop_batch(
    image: tf.Tensor, mask: tf.Tensor, settings: CropSettings, seed: int, step: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut one batch of windows; `image` and `mask` (its labels) are whole volumes, uint8."""
    slices, height, width = image.shape
    seeds = tf.random.split(tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)]), 4)

    def draw(index: int, limit: int) -> tf.Tensor:
        return tf.random.stateless_uniform((settings.batch,), seeds[index], 0, limit, tf.int32)

    z = draw(0, slices)
    top = draw(1, height - settings.crop + 1)
    left = draw(2, width - settings.crop + 1)

    def windows(volume: tf.Tensor) -> tf.Tensor:
        extent = (1, settings.crop, settings.crop)
        corners = zip(*map(tf.unstack, (z, top, left)), strict=True)
        cut = [tf.slice(volume, corner, extent)[0] for corner in corners]
        return tf.stack(cut)[..., tf.newaxis]  # (batch, crop, crop, 1)

    images = resize_images(windows(image), settings.size, settings.size, settings.resize)
    masks = resize_masks(windows(mask), settings.size, settings.size)
    return augment_batch(to_network_image(images), masks, seeds[3], settings.augment)


@lru_cache(maxsize=1)
def tensors(volume: Volume) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and mask of a volume as tensors, made once for streams that follow each other."""
    # A constant keeps a second copy of the array that it is made from; its identity does not.
    return tf.identity(tf.constant(volume.image)), tf.identity(tf.constant(volume.labels))


def crops(
    volume: Volume, settings: CropSettings, seed: int, first_step: int = 0
) -> tf.data.Dataset:
    """Endless batches of random crops, each a function of (`seed`, step) alone.

    Pairs (images, masks), each (batch, size, size, 1) float32: images in [-1, 1] and masks in
    {0, 1}. A resumed training run passes the step at which it goes on as `first_step`.
    """
    check_size(volume, settings)
    image, mask = tensors(volume)
    steps = tf.data.Dataset.counter(start=first_step)
    return steps.map(
        lambda step: crop_batch(image, mask, settings, seed, step),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def crop_arrays(
    volume: Volume, settings: CropSettings, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` crops of the stream :func:`crops`, as arrays (count, size, size, 1)."""
    batches = crops(volume, settings, seed).take(-(-count // settings.batch))
    images, masks = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images)[:count], np.concatenate(masks)[:count]


def pool(
    images: np.ndarray,
    masks: np.ndarray,
    batch: int,
    seed: int,
    first_step: int = 0,
    augment: str = "none",
) -> tf.data.Dataset:
    """Endless batches drawn from a fixed set of pairs, each a function of (`seed`, step) alone.

    The pairs are arrays (n, size, size, 1) float32; `augment` is that of :class:`CropSettings`.
    """
    if len(images) == 0:
        raise ValueError("There is no pair of image and mask to draw batches from.")
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

    Images in [-1, 1] and masks in {0, 1}: (z, round(y * size / crop), round(x * size / crop), 1).
    """
    check_size(volume, settings)
    height, width = (round(side * settings.size / settings.crop) for side in volume.image.shape[1:])
    images, masks = [], []
    # Slice by slice: a float32 copy of the whole full-resolution volume would take 0.5 GB.
    for image, mask in zip(volume.image, volume.labels, strict=True):
        resized = resize_images(image[None, ..., None], height, width, settings.resize)
        images.append(to_network_image(resized)[0].numpy())
        masks.append(resize_masks(mask[None, ..., None], height, width)[0].numpy())
    return np.stack(images), np.stack(masks)
