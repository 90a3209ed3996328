"""Functions with a gradient of their own, derived as if they had none: `jax.custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from dlf.utils.errors import BackendError

__all__ = ["custom_gradients_undone"]


@contextmanager
def custom_gradients_undone(note: Callable[[], None]) -> Iterator[None]:
    """Derives functions with a gradient of their own as they compute, for as long as the context lasts.

    `jax.custom_gradient`, which Keras's is on JAX, makes one of `jax.custom_vjp` at each call.

    Args:
        note: Is called whenever one of them is.

    Raises:
        BackendError: JAX has no longer what is replaced for it.
    """
    before = jax.custom_vjp.__call__
    if not hasattr(jax.custom_vjp(abs), "fun"):
        raise BackendError(
            f"jax {jax.__version__}: expected jax.custom_vjp.fun, which is gone. Install a version of JAX that this "
            "version of dlf was tested with, or report it to dlf."
        )

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        note()
        return self.fun(*args, **kwargs)

    jax.custom_vjp.__call__ = call
    try:
        yield
    finally:
        jax.custom_vjp.__call__ = before
