"""Every layer of Keras, in one or several small configurations.

Requirements:

* each path through a layer that backends may compute differently has a case: padding, strides, data formats, masks,
  states, directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from zoo import plain_layers, preprocessing_layers, recurrent_layers, spatial_layers
from zoo.entry import Case, Entry, build_function, entries_of, public_classes

__all__ = ["CASES", "NOT_APPLICABLE", "entries"]

CASES: dict[str, Case] = {
    **plain_layers.CASES,
    **spatial_layers.CASES,
    **recurrent_layers.CASES,
    **preprocessing_layers.CASES,
}

NOT_APPLICABLE = {
    "FlaxLayer": "holds a module of Flax: JAX alone",
    "InputLayer": "computes nothing",
    "JaxLayer": "holds a function of JAX: JAX alone",
    "Layer": "a base class",
    "TFSMLayer": "holds a SavedModel: TensorFlow alone",
    "TorchModuleWrapper": "holds a module of PyTorch: PyTorch alone",
    "Wrapper": "a base class",
    **preprocessing_layers.NOT_APPLICABLE,
}


def entries() -> Iterator[Entry]:
    """Yields every layer of Keras.

    Example:
        >>> [each.target for each in entries() if each.name == "Flatten"][0]
        'zoo.layers:Flatten'
    """
    names = public_classes(keras.layers, keras.layers.Layer)
    return entries_of("layers", __name__, names, CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
