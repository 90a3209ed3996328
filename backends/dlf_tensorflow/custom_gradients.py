"""Ignores custom gradients, so that functions are differentiated through their operations: `tf.custom_gradient`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import custom_gradient

from dlf.utils.errors import gone

__all__ = ["custom_gradients_undone"]


@contextmanager
def custom_gradients_undone(note: Callable[[], None]) -> Iterator[None]:
    """Makes TensorFlow ignore custom gradients and differentiate through the operations, while the context lasts.

    Every function decorated with `tf.custom_gradient` calls one of two private functions of its module, which are
    replaced here; there is no public function to replace.

    Args:
        note: Called at each call of a function that has a custom gradient.

    Raises:
        BackendError: TensorFlow no longer has the functions that are replaced here.
    """
    names = ("_eager_mode_decorator", "_graph_mode_decorator")
    before = {name: getattr(custom_gradient, name, None) for name in names}
    if None in before.values():
        expected = f"{' and '.join(names)} in tensorflow.python.ops.custom_gradient"
        raise gone("TensorFlow", tf.__version__, expected)

    def call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        note()
        return function(*args, **kwargs)[0]

    for name in names:
        setattr(custom_gradient, name, call)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(custom_gradient, name, function)
