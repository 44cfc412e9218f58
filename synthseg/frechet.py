"""How far apart are two sets of images? Fréchet and kernel distances between their features.

`features` turns images into vectors; `frechet_distance` and `kernel_distance` compare two sets of
vectors, of whatever origin. Two cautions. Only values of the same extractor can be compared, and
none of those here is the published "FID" (which uses the network of 2015). And the Fréchet
distance is biased upwards for small samples: read it beside the distance between two sets of real
images of the same sizes, and beside the kernel distance, which is unbiased.
"""

import math
from functools import lru_cache

import keras
import numpy as np
import scipy.linalg
from keras import layers

from synthseg import lite0

EXTRACTORS = ("efficientnet-lite0", "inception")


def features(
    images: np.ndarray, extractor: str = "efficientnet-lite0", batch: int = 32
) -> np.ndarray:
    """Feature vectors (n, d) of grey images (n, height, width, 1) in [-1, 1].

    They are repeated to three channels, resized (bilinear) to the size that the network was
    trained at, and given to EfficientNet-lite0 (1280 values, works offline) or to "inception",
    Keras' InceptionV3 (2048 values, weights downloaded on first use). The vector is the average
    over the last convolution's outputs.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"extractor is {extractor!r}; choose {' or '.join(EXTRACTORS)}.")
    if images.ndim != 4 or images.shape[-1] != 1 or images.size == 0:
        raise ValueError(f"images must have the shape (n, height, width, 1), not {images.shape}.")
    # Bicubic resizing may overshoot a little; 0..255 images are what this must catch.
    if not (images.min() >= -1.5 and images.max() <= 1.5):  # also false for NaN
        raise ValueError(
            f"images must be in [-1, 1], but reach from {images.min()} to {images.max()}."
        )
    model = lite0.networks()[0] if extractor == "efficientnet-lite0" else _inception()
    vectors = []
    for start in range(0, len(images), batch):
        grey = images[start : start + batch].astype(np.float32) * 127.5 + 127.5
        vectors.append(model.predict_on_batch(np.repeat(grey, 3, axis=-1)))
    return np.concatenate(vectors).astype(np.float64)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of vectors (n, d).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with the unbiased covariances (n - 1). With
    ``S1 = A^T A`` and ``S2 = B^T B``, the trace of the root is the sum of the singular values of
    ``A B^T``: no matrix root, which is slow and turns complex for fewer vectors than dimensions.
    """
    first, second = _finite_sets(first, second)
    mean_difference = first.mean(axis=0) - second.mean(axis=0)
    first_factor = _root_of_covariance(first)
    second_factor = _root_of_covariance(second)
    cross = np.linalg.svd(first_factor @ second_factor.T, compute_uv=False).sum()
    traces = np.square(first_factor).sum() + np.square(second_factor).sum()
    # Rounding can leave about -1e-15 of the traces where the true value is 0.
    return max(0.0, float(mean_difference @ mean_difference + traces - 2 * cross))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance (KID) between two sets of vectors (n, d).

    The squared maximum mean discrepancy for the kernel ``(x . y / d + 1)^3``, over all pairs. The
    estimate is unbiased: it scatters around 0 for two samples of one distribution, so it can be
    negative.
    """
    first, second = _finite_sets(first, second)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(vectors: np.ndarray) -> float:
        values, count = kernel(vectors, vectors), len(vectors)
        # Without the pairs of a vector with itself, the estimate is unbiased.
        return float((values.sum() - np.trace(values)) / (count * (count - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())


def _finite_sets(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(vectors, dtype=np.float64) for vectors in (first, second))
    for vectors in (first, second):
        if vectors.ndim != 2 or len(vectors) < 2:
            raise ValueError(
                f"Feature vectors must have the shape (n, d) with n of at least 2, not "
                f"{vectors.shape}."
            )
        if not np.isfinite(vectors).all():
            raise ValueError("Feature vectors hold NaN or infinite values.")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The two sets have features of different lengths, {first.shape[1]} and "
            f"{second.shape[1]}: use the same extractor for both."
        )
    return first, second


def _root_of_covariance(vectors: np.ndarray) -> np.ndarray:
    """Return ``A``, of at most d rows, with ``A^T A`` the unbiased covariance."""
    centred = (vectors - vectors.mean(axis=0)) / math.sqrt(len(vectors) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    # A = Q R gives A^T A = R^T R: same covariance, but d rows instead of n.
    (triangle,) = scipy.linalg.qr(centred, mode="r")
    return triangle[: centred.shape[1]]


@lru_cache(maxsize=1)
def _inception() -> keras.Model:
    """InceptionV3 features (2048 values) of RGB images of any size, 0..255."""
    image = keras.Input((None, None, 3), name="rgb_0_255")
    outputs = layers.Rescaling(1 / 127.5, offset=-1)(lite0.resized(image, 299))
    try:
        network = keras.applications.InceptionV3(
            include_top=False, pooling="avg", input_shape=(299, 299, 3)
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise FileNotFoundError(
            "The weights of InceptionV3 could not be downloaded; "
            f'extractor="efficientnet-lite0" needs no network. ({error})'
        ) from error
    return keras.Model(image, network(outputs, training=False))
