"""The layers of a model by their paths, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

__all__ = ["layers_by_path"]


def layers_by_path(model: keras.Layer) -> dict[str, keras.Layer]:
    """Returns every layer inside a model, each once, by its path: the names on the way to it, joined by slashes.

    Args:
        model: A model or a layer; itself is not among them.

    Returns:
        The layers, in the order in which they are held; where a path is taken, the next gets a number.

    Example:
        >>> inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")], name="inner")
        >>> list(layers_by_path(keras.Sequential([inner, keras.layers.Dense(1, name="dense")])))
        ['inner', 'inner/dense', 'dense']
    """
    found: dict[str, keras.Layer] = {}
    seen = {id(model)}

    def walk(layer: keras.Layer, before: str) -> None:
        for each in _held(layer):
            if id(each) not in seen:
                seen.add(id(each))
                path, number = f"{before}{each.name}", 1
                while path in found:
                    number += 1
                    path = f"{before}{each.name}_{number}"
                found[path] = each
                walk(each, f"{path}/")

    walk(model, "")
    return found


def _held(layer: keras.Layer) -> Iterator[keras.Layer]:
    """The layers that a layer holds in its attributes, in lists and dictionaries too."""
    # A Sequential model holds itself once more, as the Functional model that it is computed by.
    attributes = [] if isinstance(layer, keras.Sequential) else vars(layer).values()
    # A model's list of layers is made anew when it is asked for, and leaves out what its attributes hold besides.
    for value in [*getattr(layer, "layers", ()), *attributes]:
        yield from _inside(value)


def _inside(value: Any) -> Iterator[keras.Layer]:
    if isinstance(value, keras.Layer):
        if not isinstance(value, keras.layers.InputLayer):
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _inside(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _inside(each)
