"""Python's own numbers in float64: TensorFlow's `cast` takes them through float32 on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

__all__ = ["python_numbers_kept"]


@contextmanager
def python_numbers_kept() -> Iterator[None]:
    """Lets ``tf.cast(0.9, "float64")`` be 0.9, for as long as the context lasts.

    TensorFlow makes a tensor of the number first, in float32, so that it comes out 2.4e-8 off; `keras.ops.cast` and
    whatever layers and optimizers do with a rate or an epsilon go through it. No option turns that off.

    Example:
        >>> with python_numbers_kept():
        ...     float(tf.cast(0.9, "float64"))
        0.9
    """
    before = tf.cast

    def cast(x: Any, dtype: Any, name: str | None = None) -> Any:
        return tf.constant(x, dtype) if isinstance(x, int | float) else before(x, dtype, name=name)

    tf.cast = cast
    try:
        yield
    finally:
        tf.cast = before
