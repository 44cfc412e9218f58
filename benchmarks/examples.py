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
