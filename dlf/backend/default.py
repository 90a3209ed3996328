"""Chooses a backend when Keras's default backend is not installed.

Keras defaults to TensorFlow. With only JAX or PyTorch installed, ``import keras`` therefore fails; this module sets
``KERAS_BACKEND`` in that case alone. ``import dlf`` runs it, so it imports almost nothing.
"""

from __future__ import annotations

import importlib.util
import os
import sys

__all__ = ["is_importable", "settle_backend", "was_settled"]

_SETTLED = "DLF_SETTLED_BACKEND"


def settle_backend() -> None:
    """Sets ``KERAS_BACKEND`` to an installed framework if it is unset and TensorFlow is not installed.

    Does nothing if Keras is already imported.
    """
    if os.environ.get("KERAS_BACKEND") or "keras" in sys.modules or is_importable("tensorflow"):
        return
    for framework in (_configured(), "jax", "torch"):
        if is_importable(framework):
            os.environ["KERAS_BACKEND"] = os.environ[_SETTLED] = framework
            return


def was_settled() -> bool:
    """Returns whether `settle_backend`, and not the user, chose the present value of ``KERAS_BACKEND``."""
    return _SETTLED in os.environ and os.environ.get("KERAS_BACKEND") == os.environ[_SETTLED]


def is_importable(package: str) -> bool:
    """Returns whether a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    # A plain folder of that name in the working directory is found too, as a namespace package: its origin is None.
    return spec is not None and spec.origin is not None


def _configured() -> str:
    """Returns the backend that Keras's configuration file names; without a readable file, Keras's default."""
    import json
    from pathlib import Path

    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return str(json.loads((home / "keras.json").read_text()).get("backend"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"
