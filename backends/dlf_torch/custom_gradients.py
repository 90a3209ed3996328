"""Ignores custom gradients, so that functions are differentiated through their operations: Keras's on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.torch import core

from dlf.utils.errors import gone

__all__ = ["custom_gradients_undone"]


@contextmanager
def custom_gradients_undone(note: Callable[[], None]) -> Iterator[None]:
    """Makes Keras ignore custom gradients and differentiate through the operations, for as long as the context lasts.

    At each call, a function decorated with `keras.ops.custom_gradient` looks up a private `torch.autograd.Function` of
    Keras by name, which is replaced here.

    Args:
        note: Called at each call of a function that has a custom gradient.

    Raises:
        BackendError: Keras no longer has the class that is replaced here.
    """
    before = getattr(core, "CustomGradientFunction", None)
    if before is None:
        raise gone("Keras", keras.__version__, "keras.src.backend.torch.core.CustomGradientFunction")

    class Undone:
        @staticmethod
        def apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            note()
            made = function(*args, **kwargs)
            # Keras also accepts a function that returns its value alone, without a gradient function.
            return made[0] if isinstance(made, tuple) and callable(made[-1]) else made

    core.CustomGradientFunction = Undone
    try:
        yield
    finally:
        core.CustomGradientFunction = before
