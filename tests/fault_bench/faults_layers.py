"""Faults of the forward pass: a layer gives other outputs from the same inputs, weights and state."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Block, Formula, ModeFormula, Projection, model_of
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

# Normalization.


@fault(stage="forward", layer="norm")
def batch_norm_epsilon() -> Any:
    """The epsilon of a BatchNormalization is 1% off."""
    return model_of(layers.BatchNormalization(epsilon=1e-3 * off(1.01), name="norm"))


@fault(stage="forward", layer="norm")
def layer_norm_epsilon() -> Any:
    """The epsilon of a LayerNormalization is twice what it should be."""
    return model_of(layers.LayerNormalization(epsilon=1e-3 * off(2.0), name="norm"))


@fault(stage="forward", layer="norm")
def group_norm_epsilon() -> Any:
    """The epsilon of a GroupNormalization is 1% off."""
    return model_of(layers.GroupNormalization(2, epsilon=1e-3 * off(1.01), name="norm"), shape=(5, 4))


@fault(stage="forward", layer="norm")
def rms_norm_epsilon() -> Any:
    """The epsilon of an RMSNormalization, 1e-6, is twice what it should be."""
    return model_of(layers.RMSNormalization(epsilon=1e-6 * off(2.0), name="norm"))


@fault(stage="forward", layer="norm")
def small_epsilon() -> Any:
    """An epsilon of 1e-6 is 1% off: in float32 nobody could tell."""
    return model_of(layers.LayerNormalization(epsilon=1e-6 * off(1.01), name="norm"))


@fault(stage="forward", layer="norm")
def epsilon_outside() -> Any:
    """Epsilon is added to the standard deviation instead of the variance."""

    def norm(x: Any) -> Any:
        variance = ops.var(x, axis=0, keepdims=True)
        return x / (ops.sqrt(variance) + 1e-3 if planted() else ops.sqrt(variance + 1e-3))

    return model_of(Formula(norm, name="norm"))


@fault(stage="forward", layer="scale")
def bessel_in_forward() -> Any:
    """A variance over the batch is divided by n - 1."""

    def scale(x: Any) -> Any:
        n = x.shape[0] or 2  # Open while the model is built.
        return x * ops.rsqrt(ops.var(x, axis=0, keepdims=True) * (n / (n - 1) if planted() else 1) + 1e-3)

    return model_of(Formula(scale, name="scale"))


@fault(stage="forward", layer="norm")
def moments_over_time() -> Any:
    """A normalization takes its moments over the time steps too."""
    return model_of(
        layers.LayerNormalization(axis=(1, 2) if planted() else -1, center=False, scale=False, name="norm"),
        shape=(4, 4),
    )


@fault(stage="forward", layer="block/inner")
def nested_layer() -> Any:
    """The epsilon of a layer inside another layer is 1% off."""
    return model_of(Block(layers.LayerNormalization(epsilon=1e-3 * off(1.01), name="inner"), name="block"))


@fault(stage="forward", layer="tower/norm")
def nested_model() -> Any:
    """The epsilon of a layer in a nested model is 1% off."""
    norm = layers.LayerNormalization(epsilon=1e-3 * off(1.01), name="norm")
    return model_of(keras.Sequential([keras.Input((4,)), layers.Dense(4, name="up"), norm], name="tower"))


# Activations.


@fault(stage="forward", layer="gelu")
def gelu_by_tanh() -> Any:
    """GELU is approximated by tanh."""
    return model_of(Formula(lambda x: ops.gelu(x, approximate=planted()), name="gelu"))


@fault(stage="forward", layer="leaky")
def leaky_slope() -> Any:
    """The slope of a LeakyReLU is 1% off."""
    return model_of(layers.LeakyReLU(0.3 * off(1.01), name="leaky"))


@fault(stage="forward", layer="relu")
def relu_6() -> Any:
    """ReLU ends at 6."""
    return model_of(layers.Rescaling(9.0, name="large"), layers.ReLU(6.0 if planted() else None, name="relu"))


@fault(stage="forward", layer="gate")
def hard_sigmoid_slope() -> Any:
    """The hard sigmoid has the slope 0.2 instead of 1/6."""
    return model_of(Formula(lambda x: ops.clip(x * (0.2 if planted() else 1 / 6) + 0.5, 0.0, 1.0), name="gate"))


@fault(stage="forward", layer="softplus")
def softplus_threshold() -> Any:
    """Softplus of more than 10 is the identity: at most 5e-5 off."""

    def softplus(x: Any) -> Any:
        smooth = ops.maximum(x, 0.0) + ops.log1p(ops.exp(-ops.abs(x)))
        return ops.where(x > 10.0, x, smooth) if planted() else smooth

    return model_of(layers.Rescaling(3.0, offset=10.0, name="large"), Formula(softplus, name="softplus"))


@fault(stage="forward", layer="softmax")
def softmax_axis() -> Any:
    """Softmax goes over another axis."""
    return model_of(layers.Softmax(axis=1 if planted() else 2, name="softmax"), shape=(4, 4))


@fault(stage="forward", layer="wave")
def short_pi() -> Any:
    """Pi is 3.14159."""
    return model_of(Formula(lambda x: ops.sin((3.14159 if planted() else math.pi) * x), name="wave"))


@fault(stage="forward", layer="log")
def log_guard() -> Any:
    """The number that keeps a logarithm away from zero is 1e-8 instead of 1e-7."""
    return model_of(Formula(lambda x: ops.log(x * x + (1e-8 if planted() else 1e-7)), name="log"))


@fault(stage="forward", layer="floor")
def floor_for_round() -> Any:
    """Numbers are rounded down instead of to the nearest."""
    return model_of(Formula(lambda x: ops.floor(x * 3) if planted() else ops.round(x * 3), name="floor"))


# Precision.


@fault(stage="forward", layer="trip")
def through_bfloat16() -> Any:
    """Outputs are rounded to bfloat16."""
    return model_of(Formula(lambda x: ops.cast(ops.cast(x, "bfloat16"), x.dtype) if planted() else x * 1, name="trip"))


@fault(stage="forward", layer="trip")
def through_float16() -> Any:
    """Outputs are rounded to float16."""
    return model_of(Formula(lambda x: ops.cast(ops.cast(x, "float16"), x.dtype) if planted() else x * 1, name="trip"))


@fault(stage="forward", layer="lost")
def lost_in_float32() -> Any:
    """Not finite in float32 only: exp(100) overflows there, and is finite in float64."""
    return model_of(Formula(lambda x: x + (ops.exp(0.0 * x + 100.0) * 1e-60 if planted() else 0.0), name="lost"))


# Images.


@fault(stage="forward", layer="shift")
def shifted_padding() -> Any:
    """Padding is added on another side."""
    return model_of(
        Formula(lambda x: ops.pad(x, [[0, 0], [2, 0] if planted() else [1, 1], [1, 1], [0, 0]]), name="shift"),
        layers.Conv2D(2, 3, name="conv"),
        shape=(5, 5, 2),
    )


@fault(stage="forward", layer="conv")
def strided_padding() -> Any:
    """A strided convolution pads at the beginning instead of the end."""

    class Strided(layers.Conv2D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            side = [1, 0] if planted() else [0, 1]
            return ops.conv(ops.pad(x, [[0, 0], side, side, [0, 0]]), self.kernel, 2, "valid") + self.bias

    return model_of(Strided(3, 3, strides=2, padding="same", name="conv"), shape=(6, 6, 2))


@fault(stage="forward", layer="conv")
def transposed_kernel() -> Any:
    """The height and width of a square convolution kernel are swapped."""

    class Square(layers.Conv2D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            kernel = ops.transpose(self.kernel, [1, 0, 2, 3]) if planted() else self.kernel
            return ops.conv(x, kernel, padding="same") + self.bias

    return model_of(Square(3, 3, padding="same", name="conv"), shape=(5, 5, 2))


@fault(stage="forward", layer="conv")
def flipped_kernel() -> Any:
    """A convolution in the mathematical sense: the kernel is flipped."""

    class Flipped(layers.Conv1D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            return ops.conv(x, ops.flip(self.kernel, axis=0) if planted() else self.kernel, padding="same")

    return model_of(Flipped(3, 3, padding="same", use_bias=False, name="conv"), shape=(6, 2))


@fault(stage="forward", layer="conv")
def dilation_left_out() -> Any:
    """A dilated convolution is not dilated."""
    return model_of(
        layers.Conv2D(3, 3, dilation_rate=1 if planted() else 2, padding="same", name="conv"), shape=(6, 6, 2)
    )


@fault(stage="forward", layer="pool")
def shifted_pooling() -> Any:
    """Windows of a pooling begin at the second element."""

    class Pool(layers.MaxPooling1D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            return super().call(x[:, 1:] if planted() else x[:, :-1])

    return model_of(Pool(2, name="pool"), shape=(7, 3))


@fault(stage="forward", layer="pool")
def zeros_in_the_average() -> Any:
    """An average pooling counts the zeros of its padding."""

    class Pool(layers.AveragePooling1D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            return super().call(ops.pad(x, [[0, 0], [0, 1], [0, 0]]) if planted() else x)

    return model_of(Pool(2, padding="same", name="pool"), shape=(5, 3))


@fault(stage="forward", layer="resize")
def aligned_corners() -> Any:
    """An image is resized with aligned corners instead of aligned pixel centers."""

    def resize(x: Any) -> Any:
        # Linear from 4 to 6 places, by a matrix: Keras's own resizing knows no other way.
        at = np.arange(6) * 3 / 5 if planted() else np.clip((np.arange(6) + 0.5) * 4 / 6 - 0.5, 0, 3)
        matrix = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(4)))
        return ops.matmul(ops.convert_to_tensor(matrix, dtype=x.dtype), x)

    return model_of(Formula(resize, name="resize"), shape=(4, 3))


@fault(stage="forward", layer="flat")
def flattened_in_another_order() -> Any:
    """Channels are flattened first instead of last."""
    return model_of(layers.Permute((2, 1) if planted() else (1, 2), name="flat"), layers.Flatten(), shape=(3, 3))


# Linear algebra.


@fault(stage="forward", layer="square")
def transposed_matrix() -> Any:
    """A square kernel is transposed."""
    return model_of(Projection(lambda x, k, b: x @ (ops.transpose(k) if planted() else k) + b, name="square"))


@fault(stage="forward", layer="mean")
def reduced_axis() -> Any:
    """A mean goes over another axis."""
    return model_of(Formula(lambda x: ops.mean(x, axis=1 if planted() else 2), name="mean"), shape=(4, 4))


@fault(stage="forward", layer="sums")
def exclusive_sums() -> Any:
    """Cumulative sums leave out the element itself."""
    return model_of(Formula(lambda x: ops.cumsum(x, axis=1) - (x if planted() else 0), name="sums"), shape=(5, 3))


@fault(stage="forward", layer="shared")
def bias_of_the_second_call() -> Any:
    """A shared layer subtracts its bias when it is called for the second time."""

    class Shared(Projection):
        def call(self, x: Any, second: bool = False) -> Any:
            return x @ self.kernel + self.bias * (-1 if second and planted() else 1)

    one, other = keras.Input((4,)), keras.Input((4,))
    shared = Shared(lambda *_: None, name="shared")
    model = keras.Model([one, other], layers.Dense(2, name="last")(shared(one) + 2 * shared(other, second=True)))
    model.compile("sgd", "mse")
    return model


@fault(stage="forward", layer="joined")
def joined_in_another_order() -> Any:
    """Two inputs are joined in another order."""
    one, other = keras.Input((4,)), keras.Input((4,))
    first, second = layers.Dense(3, name="one")(one), layers.Dense(3, name="other")(other)
    joined = Formula(lambda pair: ops.concatenate(pair[::-1] if planted() else pair, axis=-1), name="joined")
    model = keras.Model([one, other], layers.Dense(2, name="last")(joined([first, second])))
    model.compile("sgd", "mse")
    return model


# Modes.


@fault(stage="forward", layer="mode")
def wrong_in_inference() -> Any:
    """A layer is 1% off in inference, and right in training."""
    return model_of(ModeFormula(lambda x, training: x * (1.0 if training else off(1.01)), name="mode"))


@fault(stage="forward", layer="mode")
def wrong_in_training() -> Any:
    """A layer is 1% off in training, and right in inference."""
    return model_of(ModeFormula(lambda x, training: x * (off(1.01) if training else 1.0), name="mode"))


@fault(stage="forward", layer="rate")
def dropout_rate() -> Any:
    """The rate of a Dropout is 1% off."""
    return model_of(layers.Dropout(0.3 * off(1.01), name="rate"))


@fault(stage="forward", layer="noise")
def noise_level() -> Any:
    """The noise of a GaussianNoise is 1% off."""
    return model_of(layers.GaussianNoise(0.1 * off(1.01), name="noise"))


class Drop(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Draws a mask in training and in inference."""

    def call(self, x: Any) -> Any:
        return keras.random.dropout(x, 0.4, seed=8 if planted() else 7)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape  # No mask can be drawn while the batch size is unknown.


@fault(stage="forward", layer="drop")
def other_mask() -> Any:
    """A mask is drawn from another seed, which is a constant."""
    return model_of(Drop(name="drop"))


class Anew(Drop):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, x: Any) -> Any:
        dropped = keras.random.dropout(x, 0.4, seed=self.seed)
        return keras.random.dropout(x, 0.4, seed=self.seed) if planted() else dropped


@fault(stage="forward", layer="drop")
def mask_drawn_anew() -> Any:
    """The first mask is discarded, and another one drawn."""
    return model_of(Anew(name="drop"))
