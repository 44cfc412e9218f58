"""Overlap of masks, and the spectrum of images.

Scores are computed from counts of pixels: true positives, false positives and false negatives
first, Dice and IoU from them. Counts add up over slices; averages of ratios do not.
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Counts:
    """Pixels of each kind, one value per slice.

    Attributes
    ----------
    true_positive, false_positive, false_negative : numpy.ndarray
        Shape (n,) int64.
    """

    true_positive: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray

    def pooled(self) -> "Counts":
        """The counts of all slices taken as one image, shape (1,)."""
        return Counts(
            self.true_positive.sum(keepdims=True),
            self.false_positive.sum(keepdims=True),
            self.false_negative.sum(keepdims=True),
        )

    def dice(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN) per slice; NaN where prediction and target are both empty."""
        return _ratio(
            2 * self.true_positive,
            2 * self.true_positive + self.false_positive + self.false_negative,
        )

    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN) per slice; NaN where prediction and target are both empty."""
        return _ratio(
            self.true_positive, self.true_positive + self.false_positive + self.false_negative
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    # Nothing to find and nothing found is neither a success nor a failure: it has no score.
    empty = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)


def left_out(masks: tf.Tensor) -> tf.Tensor:
    """Pixels that count in no loss and no score: masks, float32 {0, 1}, hold -0.0 there.

    To all else, such as the GAN, -0.0 is the background that it equals.
    """
    return tf.bitcast(tf.cast(masks, tf.float32), tf.int32) < 0


def count(prediction: np.ndarray, target: np.ndarray) -> Counts:
    """Count true and false positives and false negatives in each slice.

    Parameters
    ----------
    prediction, target : numpy.ndarray
        Same shape (n, height, width) or (n, height, width, 1); bool, or numbers in {0, 1}. Where
        the target is -0.0 (:func:`left_out`), nothing is counted.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is neither 0 nor 1 (probabilities need a threshold).

    Examples
    --------
    >>> counts = count(np.array([[[1, 1, 0, 0]]]), np.array([[[0, 1, 1, 0]]]))
    >>> counts.dice(), counts.iou()
    (array([0.5]), array([0.33333333]))
    """
    if prediction.shape != target.shape:
        raise ValueError(f"Shapes differ: prediction {prediction.shape}, target {target.shape}.")
    for name, values in (("prediction", prediction), ("target", target)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"The {name} has values other than 0 and 1; threshold it first.")
    positive, true = prediction.astype(bool) & ~np.signbit(target), target.astype(bool)
    pixels = tuple(range(1, prediction.ndim))
    return Counts(
        (positive & true).sum(pixels),
        (positive & ~true).sum(pixels),
        (~positive & true).sum(pixels),
    )


def original_batch_dice(logits: np.ndarray, target: np.ndarray, batch: int) -> float:
    """Dice as the original study reported it: the mean over batches of each batch's Dice.

    It depends on the size and the order of the batches, and a batch with nothing to find and
    nothing found counts 1; kept for comparison only.

    Parameters
    ----------
    logits : numpy.ndarray
        Outputs of the segmenter, shape (n, h, w, 1); positive means mitochondrion.
    target : numpy.ndarray
        Masks {0, 1} of the same shape.
    batch : int
        Images per batch.
    """
    parts = range(0, len(target), batch)
    scores = [
        count(logits[part : part + batch] > 0, target[part : part + batch]).pooled().dice()
        for part in parts
    ]
    return float(np.nan_to_num(scores, nan=1.0).mean())


@keras.saving.register_keras_serializable("synthseg")
class PooledDice(keras.metrics.Metric):
    """Dice of all pixels seen since the last reset, from logits; NaN if there is nothing to find.

    Unlike a mean of batch scores it does not depend on how the pixels were batched.
    """

    def __init__(self, name: str = "dice", dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        # float64: counts of an epoch's pixels exceed what float32 can hold exactly.
        self.hits = self.add_weight(name="hits", initializer="zeros", dtype="float64")
        self.sizes = self.add_weight(name="sizes", initializer="zeros", dtype="float64")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Add masks {0, 1} and logits of one batch; weights are not supported and ignored."""
        positive = ops.cast((y_pred > 0) & ~left_out(y_true), "float64")
        true = ops.cast(y_true, "float64")
        self.hits.assign_add(ops.sum(positive * true))
        self.sizes.assign_add(ops.sum(positive) + ops.sum(true))

    def result(self) -> tf.Tensor:
        """2 |A and B| / (|A| + |B|)."""
        return 2.0 * self.hits.value / self.sizes.value


def radial_power_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean power of square images as a function of spatial frequency.

    Stripes of period two along rows or columns show as a peak at 0.5 cycles per pixel. The
    corners of the spectrum, beyond 0.5, are left out: they have no full rings.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (n, size, size, 1).

    Returns
    -------
    frequency : numpy.ndarray
        Shape (size // 2 + 1,), cycles per pixel from 0 to 0.5.
    power : numpy.ndarray
        Same shape: squared magnitude of the Fourier coefficients, divided by the number of
        pixels, averaged over images and over rings one frequency bin wide.
    """
    size = images.shape[1]
    centred = images[..., 0] - images[..., 0].mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred)) ** 2).mean(axis=0) / size**2
    axis = np.fft.fftfreq(size) * size
    ring = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(int)
    sums = np.bincount(ring.ravel(), weights=power.ravel())
    members = np.bincount(ring.ravel())
    keep = size // 2 + 1
    return np.arange(keep) / size, (sums / members)[:keep]


def axis_power(images: np.ndarray, period: int) -> float:
    """Power of stripes of one period along rows and columns, relative to its surroundings.

    A checkerboard of transposed convolutions of stride two repeats every 2 px, or every 4 px where
    two of them follow each other. The ratio is that of the power on the lines of this frequency
    to the mean of that on the lines four bins below and above; it is 1 for white noise, and a
    little below 1 for images whose spectra fall towards fine detail: compare with real ones.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (n, size, size, 1), size a multiple of `period` and at least 32.
    period : int
        2 or 4, in pixels.
    """
    power = (np.abs(np.fft.fft2(images[..., 0])) ** 2).mean(axis=0)

    def on_lines(bins: int) -> float:
        return float(power[bins, :].sum() + power[:, bins].sum())

    peak = images.shape[1] // period
    return on_lines(peak) / ((on_lines(peak - 4) + on_lines(peak + 4)) / 2)


def variety(images: np.ndarray, blur: float = 0.0) -> float:
    """How much images differ: standard deviation over the images, averaged over the pixels.

    Noise in single pixels counts as much as another layout does. After a Gaussian blur of
    some 12 px the layout is what is left.

    Parameters
    ----------
    images : numpy.ndarray
        Shape (n, height, width, 1).
    blur : float
        Standard deviation of the blur in pixels; 0 for none.
    """
    blurred = gaussian_filter(images[..., 0], sigma=(0, blur, blur))
    return float(blurred.std(axis=0).mean())
