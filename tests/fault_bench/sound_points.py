"""Sound models that do the same everywhere, where numbers are difficult: ties, jumps, scales, infinities, chaos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops
from parts import Formula, Projection, model_of
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find


def formula(function: Callable[[Any], Any], shape: tuple[int | None, ...] = (4,), **keywords: Any) -> Any:
    return model_of(Formula(function, name="formula"), shape=shape, **keywords)


# Points without a derivative, and jumps.


@sound()
def relu_at_zero() -> Any:
    """ReLU of zeros."""
    return formula(lambda x: ops.relu(0 * x) + x)


@sound()
def abs_at_zero() -> Any:
    """The absolute value of zeros."""
    return formula(lambda x: ops.abs(0 * x) + x)


@sound()
def equal_maxima() -> Any:
    """Max pooling of a constant image."""
    return model_of(
        layers.Rescaling(0.0, name="zeros"), layers.MaxPooling2D(name="pool"), layers.Flatten(), shape=(4, 4, 2)
    )


@sound()
def maximum_of_equals() -> Any:
    """The largest of equal numbers."""
    return formula(lambda x: ops.max(0 * x, axis=-1, keepdims=True) + ops.maximum(x, x * 1))


@sound()
def sort_of_equals() -> Any:
    """Sorting of numbers, many of which are equal."""
    return formula(lambda x: ops.sort(ops.round(x), axis=-1) + ops.sort(x, axis=-1))


@sound()
def argmax_inside() -> Any:
    """The argmax, as a factor."""
    return formula(lambda x: x * ops.cast(ops.expand_dims(ops.argmax(x, axis=-1), -1), x.dtype))


@sound()
def argmax_of_equals() -> Any:
    """The argmax of equal numbers is the first index."""
    return formula(lambda x: x + ops.cast(ops.expand_dims(ops.argmax(ops.round(x), axis=-1), -1), x.dtype))


@sound()
def rounding_inside() -> Any:
    """Rounding to integers, also of numbers halfway between two."""
    return formula(lambda x: x + ops.round(2 * x) + ops.round(ops.round(2 * x) / 2))


@sound()
def quantised() -> Any:
    """Outputs through integers of eight bits."""

    def through(x: Any) -> Any:
        return x + ops.cast(ops.cast(ops.clip(ops.round(x * 30), -127, 127), "int8"), x.dtype) / 30

    return formula(through)


@sound()
def clipped_at_its_bounds() -> Any:
    """Clipping of numbers that lie at a bound."""
    return formula(lambda x: ops.clip(ops.clip(x, -0.5, 0.5), -0.5, 0.5))


@sound()
def threshold() -> Any:
    """A ReLU by a product with a step function."""
    return formula(lambda x: x * ops.cast(x > 0, x.dtype))


@sound()
def largest_two() -> Any:
    """The two largest numbers."""
    return formula(lambda x: ops.top_k(x, 2)[0])


# Scales.


@sound()
def cancellation() -> Any:
    """Thirteen bits are lost on every backend."""
    return formula(lambda x: (x + 1e4) - 1e4)


@sound()
def tiny() -> Any:
    """Outputs of 1e-30."""
    return formula(lambda x: x * 1e-30)


@sound()
def huge() -> Any:
    """Outputs of 1e30, whose squares are infinite in float32."""
    return model_of(
        Formula(lambda x: x * 1e30, name="huge"), Formula(lambda x: ops.tanh(x / 1e30), name="back"), optimizer="adam"
    )


@sound()
def subnormal_outputs() -> Any:
    """Outputs that are subnormal in float32, from layer to layer."""
    return model_of(Formula(lambda x: x * 1e-40, name="down"), Formula(lambda x: x * 1e38, name="up"))


@sound()
def near_zero_division() -> Any:
    """Division by numbers that may be nearly zero."""
    return formula(lambda x: x / (ops.roll(x, 1, axis=-1) ** 2 + 1e-6))


@sound()
def saturated() -> Any:
    """Sigmoid and tanh where they are flat."""
    return formula(lambda x: ops.sigmoid(40 * x) + ops.tanh(30 * x) + x)


@sound()
def guarded_root() -> Any:
    """A square root, guarded by `where` twice so that neither value nor gradient is taken at zero."""
    return formula(lambda x: ops.where(x > 0, ops.sqrt(ops.where(x > 0, x, 1.0)), 0.0))


@sound()
def python_numbers() -> Any:
    """0.1 and 1/3, which float32 does not have."""
    return formula(lambda x: x * 0.1 + 1 / 3 - 0.7 * 0.1 * x)


@sound()
def float32_inside() -> Any:
    """A mean that is always computed in float32: it has no float64 form."""
    return formula(lambda x: ops.cast(ops.mean(ops.cast(x, "float32"), axis=1), x.dtype), shape=(200, 3))


@sound()
def float16_layer() -> Any:
    """One layer computes in float16."""
    return model_of(layers.Dense(3, dtype="mixed_float16", name="half"), layers.Dense(3, dtype="float32", name="back"))


# Shapes.


@sound()
def one_element() -> Any:
    """Softmax and normalization of one element."""
    return model_of(
        layers.Dense(1, name="one"),
        layers.LayerNormalization(name="norm"),
        layers.Softmax(name="softmax"),
        Formula(lambda x: ops.var(x, axis=-1, keepdims=True), name="variance"),
    )


@sound()
def empty_axis() -> Any:
    """Sums over an empty axis."""
    return formula(lambda x: ops.sum(x[:, :0], axis=1, keepdims=True) + x)


@sound()
def empty_outputs() -> Any:
    """A layer returns an empty tensor, which is joined with another."""
    x = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(x)
    nothing = Formula(lambda x: x[:, :0], name="nothing")(hidden)
    model = keras.Model(x, layers.Dense(2, name="last")(layers.Concatenate(name="both")([hidden, nothing])))
    model.compile("sgd", "mse")
    return model


@sound()
def scalars_for_outputs() -> Any:
    """A factor that is one number for the whole batch."""
    return formula(lambda x: x * ops.mean(x))


# Models in which small differences grow.


@sound()
def logistic_map() -> Any:
    """The logistic map: each step doubles the difference between two numbers."""

    def logistic(x: Any) -> Any:
        x = ops.sigmoid(x)
        for _ in range(16):
            x = 3.9 * x * (1 - x)
        return x

    return formula(logistic)


@sound()
def unstable_recurrence() -> Any:
    """A recurrent network with large weights."""
    cell = layers.SimpleRNN(
        4, recurrent_initializer=keras.initializers.RandomNormal(stddev=3.0, seed=1), name="recurrent"
    )
    return model_of(cell, shape=(12, 3))


@sound()
def deep() -> Any:
    """Thirty layers."""
    return model_of(*(layers.Dense(6, activation="tanh", name=f"layer_{n}") for n in range(30)))


@sound()
def deep_and_chaotic() -> Any:
    """Twenty layers, each of which doubles small differences, with steps as small as the gradients are large."""
    large = [Projection(lambda x, k, b: ops.sin(3 * (x @ k) + b), name=f"layer_{n}") for n in range(20)]
    return model_of(*large, optimizer=keras.optimizers.SGD(1e-9))
