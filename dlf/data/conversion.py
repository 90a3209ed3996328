"""Converts arrays to the dtypes in which Keras feeds them to a model, and tensors to NumPy arrays.

Requirements:

* an array that reaches a model has the dtype that it has in Keras's own `fit`;
* a tensor of any framework, on any device, becomes a NumPy array.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

import keras
import numpy as np

__all__ = ["as_array", "as_backend_holds", "as_data_sets_give", "as_in_this_thread", "as_keras_feeds"]


def as_keras_feeds(array: np.ndarray) -> np.ndarray:
    """Returns the array with the dtype in which Keras feeds it to a model.

    float64 becomes `keras.config.floatx()`. On JAX, 64-bit dtypes become 32-bit ones, unless 64 bits are enabled.
    """
    floatx = keras.config.floatx()
    array = array.astype(floatx) if array.dtype == np.float64 and floatx != "float64" else array
    narrowed: np.ndarray = as_backend_holds(array)
    return narrowed


def as_in_this_thread() -> Callable[[], object]:
    """Returns a function that makes the thread that calls it narrow arrays as the present thread does.

    JAX's 64-bit setting can differ between threads.
    """
    return functools.partial(_HOLDS_64_BITS.set, _holds_64_bits())


def as_backend_holds(value: Any) -> Any:
    """Returns the same arrays, or generator of arrays, narrowed to 32 bits on JAX unless 64 bits are enabled.

    JAX would narrow them anyway. From version 0.12 on it also warns about each, and NumPy's integers have 64 bits.
    """
    return value if _holds_64_bits() else keras.tree.map_structure(_narrowed, value)


def as_data_sets_give(batch: Any) -> Any:
    """Returns a batch as a `PyDataset` may give it to Keras: narrowed on JAX, and without lists on TensorFlow."""
    # Keras on TensorFlow passes the batch through tf.data, which would convert a list to one tensor.
    return as_backend_holds(keras.tree.lists_to_tuples(batch) if keras.config.backend() == "tensorflow" else batch)


_HOLDS_64_BITS: ContextVar[bool | None] = ContextVar("_HOLDS_64_BITS", default=None)


def _holds_64_bits() -> bool:
    found = _HOLDS_64_BITS.get()
    if found is None:
        found = keras.config.backend() != "jax" or bool(sys.modules["jax"].config.jax_enable_x64)
    return found


def _narrowed(value: Any) -> Any:
    if isinstance(value, GeneratorType):
        return (keras.tree.map_structure(_narrowed, each) for each in value)
    narrower = {"int64": np.int32, "uint64": np.uint32, "float64": np.float32}
    is_wide = isinstance(value, np.ndarray) and value.dtype.name in narrower
    return value.astype(narrower[value.dtype.name]) if is_wide else value


def as_array(value: Any) -> np.ndarray:
    """Returns an array, a number, or a tensor of any framework on any device as a NumPy array."""
    if keras.ops.is_tensor(value):
        return np.asarray(keras.ops.convert_to_numpy(value))
    return np.asarray(value)
