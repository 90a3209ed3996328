"""Float64 in TensorFlow: without rounding Python numbers to float32, and with sums of float32 and float64 allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

__all__ = ["python_numbers_kept"]

_OPERATORS = [
    f"__{side}{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
    for side in ("", "r")
] + [f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")]


@contextmanager
def python_numbers_kept() -> Iterator[None]:
    """Makes ``tf.cast(0.9, "float64")`` 0.9, and allows float32 plus float64, for as long as the context lasts.

    TensorFlow converts the number to a float32 tensor first, so that the result is 2.4e-8 off. `keras.ops.cast` does
    the same, and therefore layers and optimizers that use a rate or an epsilon. No option turns that off. A layer that
    holds a float32 table adds it to float64 values when its model runs in float64; JAX and PyTorch allow such sums, but
    TensorFlow does not.

    Example:
        >>> with python_numbers_kept():
        ...     float(tf.cast(0.9, "float64")), tf.convert_to_tensor([0.9, 1]).dtype.name
        (0.9, 'float64')
    """
    before = tf.cast, tf.nn.gelu, tf.nn.leaky_relu, tf.convert_to_tensor

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        kept = bool(_python_numbers(x)) and tf.as_dtype(dtype) == tf.float64
        return tf.constant(x, dtype) if kept else before[0](x, dtype, name=name)

    def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Any:
        x = tf.convert_to_tensor(features)
        if x.dtype != tf.float64:
            return before[1](features, approximate=approximate, name=name)
        # The formula of TensorFlow's own, whose constants are 2e-8 off.
        if approximate:
            return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * tf.math.erfc(-math.sqrt(0.5) * x)

    def leaky_relu(features: Any, alpha: float = 0.2, name: str | None = None) -> Any:
        x = tf.convert_to_tensor(features)
        if x.dtype != tf.float64:
            return before[2](features, alpha=alpha, name=name)
        # TensorFlow's own accepts the slope as a float32 only.
        return tf.where(x > 0, x, tf.constant(alpha, tf.float64) * x)

    def convert_to_tensor(value: Any, dtype: Any = None, *arguments: Any, **keywords: Any) -> Any:
        # Without a dtype, floats would become float32, and with them all that a schedule or a layer computes from them.
        dtype = tf.float64 if dtype is None and float in _python_numbers(value) else dtype
        return before[3](value, dtype, *arguments, **keywords)

    operators = {name: getattr(tf.Tensor, name) for name in _OPERATORS}
    for name, operator in operators.items():
        setattr(tf.Tensor, name, _promoting(operator))
    tf.cast, tf.nn.gelu, tf.nn.leaky_relu, tf.convert_to_tensor = cast, gelu, leaky_relu, convert_to_tensor
    try:
        yield
    finally:
        tf.cast, tf.nn.gelu, tf.nn.leaky_relu, tf.convert_to_tensor = before
        for name, operator in operators.items():
            setattr(tf.Tensor, name, operator)


def _promoting(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Returns an operator that casts one floating-point operand to float64 if the other is float64."""

    def operate(one: Any, other: Any) -> Any:
        if (
            isinstance(other, tf.Tensor | tf.Variable)
            and other.dtype != one.dtype
            and tf.float64 in (one.dtype, other.dtype)
        ):
            one, other = (tf.cast(each, tf.float64) if each.dtype.is_floating else each for each in (one, other))
        return operator(one, other)

    return operate


def _python_numbers(value: Any) -> set[type]:
    """Returns the types (int, float) of a value that consists of Python numbers alone, or else an empty set."""
    if not isinstance(value, int | float | list | tuple):
        return set()
    kinds = {type(each) for each in tf.nest.flatten(value)}
    return kinds if kinds <= {int, float} else set()
