"""Chooses a backend where Keras, left alone, would choose one that is not installed.

Keras takes TensorFlow unless told otherwise; with JAX or PyTorch alone installed, ``import keras`` then fails. This
steps in just there. It is run by ``import dlf``, so it imports next to nothing.
"""

from __future__ import annotations

import importlib.util
import os
import sys

__all__ = ["is_importable", "settle_backend", "was_settled"]

_SETTLED = "DLF_SETTLED_BACKEND"


def settle_backend() -> None:
    """Sets ``KERAS_BACKEND`` to a framework that is installed, where it is not set and TensorFlow is not there."""
    if os.environ.get("KERAS_BACKEND") or "keras" in sys.modules or is_importable("tensorflow"):
        return
    for framework in (_configured(), "jax", "torch"):
        if is_importable(framework):
            os.environ["KERAS_BACKEND"] = os.environ[_SETTLED] = framework
            return


def was_settled() -> bool:
    """Returns whether ``KERAS_BACKEND`` says what `settle_backend` chose, and not what a user did."""
    return _SETTLED in os.environ and os.environ.get("KERAS_BACKEND") == os.environ[_SETTLED]


def is_importable(package: str) -> bool:
    """Returns whether a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    # A folder of that name in the working directory is found too, but comes from no file.
    return spec is not None and spec.origin is not None


def _configured() -> str:
    """The framework that Keras's own configuration file names."""
    import json
    from pathlib import Path

    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return str(json.loads((home / "keras.json").read_text()).get("backend"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"
