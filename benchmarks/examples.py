"""Inputs for the measurements: of the right shape, cheap to make, the same in every process."""

import numpy as np
from scipy import ndimage


def masks(count: int, size: int = 128, seed: int = 0, share: float = 0.06) -> np.ndarray:
    """Masks with several blobs each, (count, size, size, 1) float32 in {0, 1}.

    Smooth noise above a threshold: about as many components (5) and as much foreground as in crops
    of the EPFL volumes.
    """
    noise = np.random.default_rng(seed).normal(size=(count, size, size))
    smooth = ndimage.gaussian_filter(noise, (0, size / 16, size / 16), mode="wrap")
    threshold = np.quantile(smooth, 1 - share, axis=(1, 2), keepdims=True)
    return (smooth > threshold)[..., None].astype(np.float32)


def pair(count: int, size: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images in [-1, 1] and their masks, each (count, size, size, 1) float32."""
    made = masks(count, size, seed)
    noise = np.random.default_rng(seed + 1).normal(0, 0.2, made.shape)
    return np.clip(0.3 - 0.6 * made + noise, -1, 1).astype(np.float32), made


def volume_arrays(slices: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of a volume with slices as large as those of EPFL, (z, 768, 1024) uint8."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (slices, 768, 1024), np.uint8)
    return image, (image > 240).astype(np.uint8)


def features(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Correlated feature vectors, (count, dimensions) float64, as networks give them.

    The standard deviations of the independent directions fall over two orders of magnitude.
    """
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / dimensions**0.5
    scale = np.logspace(0, -2, dimensions)
    drawn = np.random.default_rng(seed).normal(seed % 2 * 0.1, 1, (count, dimensions))
    return drawn * scale @ mixing
