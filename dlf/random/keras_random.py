"""The replacements for Keras's random functions in `dlf.common_randomness`, which draw the same on every backend.

Requirements:

* each function takes the same arguments as Keras's own, and advances the seed exactly as Keras on JAX does;
* a draw that cannot be made common is left to Keras, and noted for the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from dlf.backend.keras_internals import draw_key, random_functions
from dlf.random import _threefry as threefry

__all__ = ["NOTES", "draws_nudged", "replacements"]

NOTES: dict[str, str] = {}
"""The functions that drew with Keras's own generator since the seed was set, and the reasons."""


_nudge: ContextVar[Any] = ContextVar("nudge", default=None)


@contextmanager
def draws_nudged(size: Any) -> Iterator[None]:
    """Moves the floating-point numbers that are drawn by a share of each, alternately up and down.

    Args:
        size: The share, as a number or a tensor; None moves nothing.

    Example:
        >>> from dlf.random.seed import common_randomness
        >>> with common_randomness():
        ...     drawn = keras.random.normal((2,), seed=7)
        ...     with draws_nudged(0.5):
        ...         nudged = keras.random.normal((2,), seed=7)
        >>> [round(float(each), 6) for each in nudged / drawn]
        [0.5, 1.5]
    """
    token = _nudge.set(size)
    try:
        yield
    finally:
        _nudge.reset(token)


def _nudged(numbers: Any) -> Any:
    size = _nudge.get()
    if size is None:
        return numbers
    signs: Any = 1.0
    if all(isinstance(each, int) for each in numbers.shape):
        signs = np.where(np.arange(math.prod(numbers.shape)) % 2, 1.0, -1.0).reshape(numbers.shape)
    dtype = keras.backend.standardize_dtype(numbers.dtype)
    return numbers * (1 + ops.cast(size, dtype) * ops.cast(signs, dtype))


def replacements() -> dict[str, Callable[..., Any]]:
    """Returns the functions by name, for `dlf.backend.keras_internals.random_functions_replaced`.

    Returns:
        A function for each of `dropout`, `normal`, `randint`, `shuffle`, `truncated_normal` and `uniform`.

    Example:
        >>> from dlf.backend.keras_internals import random_functions_replaced
        >>> with random_functions_replaced(replacements()):
        ...     keras.random.uniform((2, 3), seed=7).shape == (2, 3)
        True
    """
    stock = random_functions()

    def randint(shape: Any, minval: Any, maxval: Any, dtype: str = "int32", seed: Any = None) -> Any:
        dtype = keras.backend.standardize_dtype(dtype)
        low, high = _known(minval), _known(maxval)
        if low is None or high is None:
            NOTES["randint"] = "its bounds are known only when the compiled function runs"
        elif dtype in ("int64", "uint64") and not -(2**31) <= low <= high <= 2**31:
            NOTES["randint"] = "its bounds need more than 32 bits"
        else:
            return threefry.randint(draw_key(seed), shape, low, high, dtype)
        return stock["randint"](shape, minval, maxval, dtype=dtype, seed=seed)

    def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Any:
        x = ops.convert_to_tensor(x)
        if all(isinstance(each, int) for each in x.shape):
            return threefry.shuffle(draw_key(seed), x, axis)
        NOTES["shuffle"] = "its length is known only when the compiled function runs"
        return stock["shuffle"](x, axis=axis, seed=seed)

    return {
        "dropout": _dropout,
        "normal": _normal,
        "randint": randint,
        "shuffle": shuffle,
        "truncated_normal": _truncated_normal,
        "uniform": _uniform,
    }


def _dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
    if rate == 1.0:
        return ops.zeros_like(inputs)
    if rate == 0.0:
        return inputs
    keep = 1.0 - rate
    shape = ops.shape(inputs)
    if noise_shape is not None:
        shape = tuple(whole if asked is None else asked for asked, whole in zip(noise_shape, shape, strict=False))
    mask = threefry.bernoulli(draw_key(seed), keep, shape)
    return ops.where(mask, inputs / keep, ops.zeros_like(inputs))


def _uniform(shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _nudged(threefry.uniform(draw_key(seed), shape, minval, maxval, _standard(dtype)))


def _normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _nudged(ops.cast(threefry.normal(draw_key(seed), shape), _standard(dtype)) * stddev + mean)


def _truncated_normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> Any:
    return _nudged(ops.cast(threefry.truncated_normal(draw_key(seed), shape), _standard(dtype)) * stddev + mean)


def _standard(dtype: Any) -> str:
    return str(keras.backend.standardize_dtype(dtype or keras.config.floatx()))


def _known(number: Any) -> int | None:
    """Returns a number as an integer, or None if its value is not known yet."""
    try:
        return int(np.asarray(ops.convert_to_numpy(number) if ops.is_tensor(number) else number))
    except Exception:  # noqa: BLE001 - each framework has an error of its own for a value that is not there yet.
        return None
