"""Functions with a gradient of their own, derived as if they had none: Keras's `custom_gradient` on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.torch import core

from dlf.utils.errors import BackendError

__all__ = ["custom_gradients_undone"]


@contextmanager
def custom_gradients_undone(note: Callable[[], None]) -> Iterator[None]:
    """Derives functions with a gradient of their own as they compute, for as long as the context lasts.

    What was decorated looks Keras's `torch.autograd.Function` up by its name at each call; it is not public.

    Args:
        note: Is called whenever one of them is.

    Raises:
        BackendError: Keras has no longer what is replaced for it.
    """
    before = getattr(core, "CustomGradientFunction", None)
    if before is None:
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.backend.torch.core.CustomGradientFunction, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )

    class Undone:
        @staticmethod
        def apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            note()
            made = function(*args, **kwargs)
            # Keras takes a function that returns its value alone too.
            return made[0] if isinstance(made, tuple) and callable(made[-1]) else made

    core.CustomGradientFunction = Undone
    try:
        yield
    finally:
        core.CustomGradientFunction = before
