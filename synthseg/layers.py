"""Keras' layers and its Adam, computed faster.

Each class has the weights of the one that it is made from, and gives the same results up to
rounding (`Dropout`: up to its random numbers). `benchmarks/` measures what that is worth.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable("synthseg")
class Dropout(layers.Dropout):
    """Keras' dropout, with four decisions from each random number of 32 bits.

    On a CPU, drawing random numbers took a fifth of a training step with one number a decision.
    With 8 bits the rate is rounded to a multiple of 1 / 256, for instance 0.2 to 0.199; what is
    kept is scaled by the rounded rate, so that the mean stays.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop values of (batch, height, width, channels) in training; else change nothing."""
        dropped = round(self.rate * 2**8)
        if not training or dropped == 0:
            return inputs
        *places, channels = ops.shape(inputs)
        seed = ops.cast(self.seed_generator.next(), "int32")
        words = (*places, -(-channels // 4))
        bits = tf.random.stateless_uniform(words, seed, None, None, tf.uint32)
        bits = tf.bitcast(bits, tf.uint8)  # (batch, height, width, channels / 4, 4)
        bits = tf.reshape(bits, (*places, 4 * words[-1]))
        if channels % 4:
            bits = bits[..., :channels]
        kept = tf.cast(bits >= dropped, inputs.dtype)
        return inputs * tf.stop_gradient(kept * (2**8 / (2**8 - dropped)))


@keras.saving.register_keras_serializable("synthseg")
class PointwiseConv2D(layers.Conv2D):
    """A 1 x 1 convolution of one tensor, or of several as if their channels were stacked.

    It is the product of two matrices: pixels by channels, and channels by filters. With several
    tensors, each is multiplied by its part of the kernel, and the products are added up, so that
    the stack is never made, nor its gradient taken apart.

    Parameters
    ----------
    filters : int
        Output channels.
    """

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(filters, **{**options, "kernel_size": 1})
        self.input_spec = None  # a list is welcome

    def build(self, input_shape: Any) -> None:
        """Make the weights: kernel (1, 1, channels of all tensors, filters), and bias."""
        shapes = _shapes(input_shape)
        super().build((*shapes[0][:-1], sum(shape[-1] for shape in shapes)))
        self.input_spec = None

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """The shape of the first tensor, but for the channels."""
        return (*_shapes(input_shape)[0][:-1], self.filters)

    def call(self, inputs: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
        """Map tensors (batch, height, width, channels) to one (batch, height, width, filters)."""
        tensors = inputs if isinstance(inputs, list) else [inputs]
        channels = [tensor.shape[-1] for tensor in tensors]
        kernels = tf.split(tf.reshape(self.kernel, (-1, self.filters)), channels)
        pixels = [tf.reshape(tensor, (-1, tensor.shape[-1])) for tensor in tensors]
        *products, last = (tf.matmul(*factors) for factors in zip(pixels, kernels, strict=True))
        outputs = tf.nn.bias_add(last, self.bias)  # at once: the library makes one step of both
        if products:
            outputs = tf.add_n([*products, outputs])
        return tf.reshape(outputs, (*ops.shape(tensors[0])[:-1], self.filters))


def _shapes(shape: Any) -> list[tuple]:
    """The shapes of one or several tensors; stored models have lists for tuples."""
    return list(shape) if isinstance(shape[0], tuple | list) else [tuple(shape)]


BLUR = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], np.float32)
"""Blurs three values by [1, 1], to four."""


@keras.saving.register_keras_serializable("synthseg")
class UpConv2D(layers.Conv2DTranspose):
    """Doubling of the resolution by nearest neighbours, then a 3 x 3 convolution, in one.

    Doubling is a transposed convolution with a kernel of 2 x 2 ones, so the two together are a
    transposed convolution, too: its 4 x 4 kernel is the (mirrored) 3 x 3 one, blurred by 2 x 2
    ones. That takes 4 multiplications for each output and pair of channels in place of 9.

    Parameters
    ----------
    filters : int
        Output channels.
    """

    def __init__(self, filters: int, **options: Any) -> None:
        fixed = {"kernel_size": 3, "strides": 2, "padding": "same"}
        super().__init__(filters, **{**options, **fixed})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Map (batch, height, width, channels) to (batch, 2 height, 2 width, filters)."""
        batch, height, width, channels = ops.shape(inputs)
        blur = np.kron(BLUR, BLUR)  # (16, 9)
        kernel = tf.matmul(blur, tf.reshape(self.kernel, (9, -1)))
        outputs = tf.nn.conv2d_transpose(
            inputs,
            tf.reshape(kernel, (4, 4, self.filters, channels)),
            (batch, 2 * height, 2 * width, self.filters),
            strides=2,
        )
        return tf.nn.bias_add(outputs, self.bias)


@keras.saving.register_keras_serializable("synthseg")
class Adam(keras.optimizers.Adam):
    """Keras' Adam, with one operation for each variable in place of some twenty."""

    def apply(self, grads: list[tf.Tensor], trainable_variables: list | None = None) -> None:
        """Move all variables by one step."""
        step = ops.cast(self.iterations + 1, "float32")
        # Once for all variables.
        self._constants = {
            "beta1_power": self.beta_1**step,
            "beta2_power": self.beta_2**step,
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        super().apply(grads, trainable_variables)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Move one variable and its two moments."""
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            lr=learning_rate,
            grad=gradient,
            **self._constants,
        )
