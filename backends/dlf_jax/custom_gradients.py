"""Ignores custom gradients, so that functions are differentiated through their operations: `jax.custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from dlf.utils.errors import gone

__all__ = ["custom_gradients_undone"]


@contextmanager
def custom_gradients_undone(note: Callable[[], None]) -> Iterator[None]:
    """Makes JAX ignore custom gradients and differentiate through the operations, for as long as the context lasts.

    Keras's `custom_gradient` on JAX is `jax.custom_gradient`, which makes a `jax.custom_vjp` at each call.

    Args:
        note: Called at each call of a function that has a custom gradient.

    Raises:
        BackendError: JAX no longer has the attribute that this function uses.
    """
    before = jax.custom_vjp.__call__
    if not hasattr(jax.custom_vjp(abs), "fun"):
        raise gone("JAX", jax.__version__, "jax.custom_vjp.fun")

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        note()
        return self.fun(*args, **kwargs)

    jax.custom_vjp.__call__ = call
    try:
        yield
    finally:
        jax.custom_vjp.__call__ = before
