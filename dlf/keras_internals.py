"""The one place that touches what Keras keeps private, each piece with the reason why nothing public will do.

Every piece is probed when it is used: where Keras has changed, the error says what was looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from dlf.errors import BackendError

__all__ = ["tensorflow_hidden"]


@contextmanager
def tensorflow_hidden() -> Iterator[None]:
    """Keeps Keras from importing TensorFlow on another backend, for as long as the context lasts.

    `keras.utils.set_random_seed`, `Model.save` and `Model.to_json` ask whether TensorFlow is available, and asking
    imports it wherever it is installed: seconds and hundreds of MiB for nothing. No public switch turns that off.

    Raises:
        BackendError: Keras no longer keeps the flag where it did.
    """
    if keras.config.backend() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    from keras.src.utils import module_utils

    module: Any = getattr(module_utils, "tensorflow", None)
    if not hasattr(module, "_available"):
        raise BackendError(
            f"keras {keras.__version__}: expected keras.src.utils.module_utils.tensorflow._available, which is gone. "
            "Install a version of Keras that this version of dlf was tested with, or report it to dlf."
        )
    before = module._available
    module._available = False
    try:
        yield
    finally:
        module._available = before
