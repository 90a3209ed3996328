"""Finds the layers of a model of any kind, by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

__all__ = ["layers_by_path"]


def layers_by_path(model: keras.Layer) -> dict[str, keras.Layer]:
    """Returns every layer inside a model, each once, by its path: the names from the model down, joined by slashes.

    Args:
        model: A model or a layer; it is not part of the result.

    Returns:
        The layers, depth first; a layer whose path is taken already gets a number at the end.

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
    """Yields the layers that a layer holds in its attributes, also in lists and dictionaries."""
    # A Sequential model also holds a Functional model of the same layers, by which it computes.
    attributes = [] if isinstance(layer, keras.Sequential) else vars(layer).values()
    # `layers` is a property, so it is not in `vars`; and it leaves out some layers that the attributes hold.
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
