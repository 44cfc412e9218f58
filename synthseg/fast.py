"""The same networks, computed faster in training.

Networks are made of Keras' own layers, and are shown, saved and loaded as such. :func:`twin` is
another way to compute one, with the very same variables and, but for rounding and the random
numbers of dropout, the same results. `benchmarks/` measures what it is worth.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

Tensors = Any  # a tensor, or a list of them


def twin(model: keras.Model) -> Callable[..., tf.Tensor]:
    """A function that computes a functional model of stock layers faster.

    Four things are computed in another way: dropout; a 1 x 1 convolution, also of concatenated
    tensors; and nearest-neighbour doubling followed by a 3 x 3 convolution. All else is left to
    the layers.

    Parameters
    ----------
    model : keras.Model
        Functional, with one output, each layer used once.

    Returns
    -------
    callable
        Takes what the model takes, and `training`; shares all variables of the model.
    """
    readers = defaultdict(list)
    network = [layer for layer in model.layers if not isinstance(layer, layers.InputLayer)]
    for layer in network:
        for tensor in keras.tree.flatten(layer.input):
            readers[id(tensor)].append(layer)
    # These hand on what they were given; the convolutions behind them do their work.
    passing = {
        layer
        for layer in network
        if (size := _size_of_fused_convolution(layer))
        and all(_is_plain_convolution(reader, size) for reader in readers[id(layer.output)])
        and layer.output is not model.output
    }
    doubled = {id(layer.output) for layer in passing if isinstance(layer, layers.UpSampling2D)}

    def step(layer: keras.layers.Layer, given: Tensors, training: bool) -> Tensors:
        if layer in passing:
            return given
        if _is_plain_convolution(layer, 1):
            return _pointwise(layer, given)
        if id(layer.input) in doubled:
            return _double_and_convolve(layer, given)
        if isinstance(layer, layers.Dropout) and training:
            return _dropout(layer, given)
        if isinstance(layer, layers.Dropout | layers.BatchNormalization):
            return layer(given, training=training)
        return layer(given)

    def run(inputs: Tensors, training: bool = True) -> tf.Tensor:
        keys = [id(tensor) for tensor in model.inputs]
        values: dict[int, Any] = dict(zip(keys, keras.tree.flatten(inputs), strict=True))
        for layer in network:
            given = keras.tree.map_structure(lambda tensor: values[id(tensor)], layer.input)
            values[id(layer.output)] = step(layer, given, training)
        return values[id(model.output)]

    return run


def _size_of_fused_convolution(layer: keras.layers.Layer) -> int:
    """Side of the kernels with which a layer can be computed together; 0 if there are none."""
    if isinstance(layer, layers.Concatenate):
        return 1
    doubling = isinstance(layer, layers.UpSampling2D) and tuple(layer.size) == (2, 2)
    return 3 if doubling and layer.interpolation == "nearest" else 0


def _is_plain_convolution(layer: keras.layers.Layer, size: int) -> bool:
    return (
        type(layer) is layers.Conv2D
        and layer.kernel_size == (size, size)
        and (size == 1 or layer.padding == "same")
        and (layer.strides, layer.dilation_rate, layer.groups) == ((1, 1), (1, 1), 1)
        and (layer.use_bias, layer.activation) == (True, keras.activations.linear)
    )


def _pointwise(layer: layers.Conv2D, given: Tensors) -> tf.Tensor:
    """A 1 x 1 convolution as a product of matrices: pixels by channels, channels by filters.

    Several tensors are multiplied by their parts of the kernel each, and the products added up, so
    that they are never stacked, nor the gradient of the stack taken apart.
    """
    tensors = given if isinstance(given, list) else [given]
    kernel = tf.reshape(layer.kernel, (-1, layer.filters))
    kernels = tf.split(kernel, [tensor.shape[-1] for tensor in tensors])
    pixels = [tf.reshape(tensor, (-1, tensor.shape[-1])) for tensor in tensors]
    *products, last = (tf.matmul(*factors) for factors in zip(pixels, kernels, strict=True))
    outputs = tf.nn.bias_add(last, layer.bias)  # at once: the library makes one step of both
    if products:
        outputs = tf.add_n([*products, outputs])
    return tf.reshape(outputs, (*ops.shape(tensors[0])[:-1], layer.filters))


BLUR = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], np.float32)
"""Blurs three values by [1, 1], to four."""


def _double_and_convolve(layer: layers.Conv2D, given: tf.Tensor) -> tf.Tensor:
    """Doubling by nearest neighbours and a 3 x 3 convolution, as one transposed convolution.

    Doubling is a transposed convolution with a kernel of 2 x 2 ones, so the two together are one,
    too: its 4 x 4 kernel is the mirrored 3 x 3 one, blurred by 2 x 2 ones. That takes 4
    multiplications for each output and pair of channels in place of 9.
    """
    batch, height, width, channels = ops.shape(given)
    kernel = tf.transpose(tf.reverse(layer.kernel, (0, 1)), (0, 1, 3, 2))
    kernel = tf.matmul(np.kron(BLUR, BLUR), tf.reshape(kernel, (9, -1)))
    outputs = tf.nn.conv2d_transpose(
        given,
        tf.reshape(kernel, (4, 4, layer.filters, channels)),
        (batch, 2 * height, 2 * width, layer.filters),
        strides=2,
    )
    return tf.nn.bias_add(outputs, layer.bias)


def _dropout(layer: layers.Dropout, given: tf.Tensor) -> tf.Tensor:
    """Dropout with four decisions from each random number of 32 bits.

    The rate is rounded to a multiple of 1 / 256, for instance 0.2 to 0.199; what is kept is
    scaled by the rounded rate, so that the mean stays.
    """
    dropped = round(layer.rate * 2**8)
    if dropped == 0:
        return given
    *places, channels = ops.shape(given)
    words = (*places, -(-channels // 4))
    seed = ops.cast(layer.seed_generator.next(), "int32")
    bits = tf.random.stateless_uniform(words, seed, None, None, tf.uint32)
    bits = tf.reshape(tf.bitcast(bits, tf.uint8), (*places, 4 * words[-1]))[..., :channels]
    kept = tf.cast(bits >= dropped, given.dtype)
    return given * tf.stop_gradient(kept * (2**8 / (2**8 - dropped)))
