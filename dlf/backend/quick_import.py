"""Lets a process of dlf's own import Keras in less time.

Keras imports scikit-learn for its wrappers, and Matplotlib for its galleries of images, wherever they are installed, as
they are with dlf: two fifths of what ``import keras`` takes on JAX, in every process, for what few programs use.

Requirements:

* what a program can do with these parts stays possible: they are imported where something of them is asked for;
* a user's own process imports Keras as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

__all__ = ["import_keras_quickly"]

_PARTS = frozenset(
    {
        "keras.wrappers",
        "keras._tf_keras.keras.wrappers",
        "keras.visualization",
        "keras._tf_keras.keras.visualization",
        "keras.src.visualization",
    }
)
"""Modules that Keras imports whole, and of which it uses nothing itself. One that it no longer has costs nothing."""


def import_keras_quickly() -> None:
    """Lets this process, which has not imported Keras yet, put off the import of its parts that are slow.

    Example:
        >>> import_keras_quickly()
        >>> import keras
        >>> keras.wrappers.SKLearnClassifier.__name__
        'SKLearnClassifier'
    """
    if not any(isinstance(each, _PutsOff) for each in sys.meta_path):
        sys.meta_path.insert(0, _PutsOff())


class _PutsOff(MetaPathFinder):
    """Finds the parts where Python does, and gives each a loader that waits until an attribute is asked for."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - importlib hands it over.
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in _PARTS else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
