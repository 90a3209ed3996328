"""Listens at every layer while a model computes, and lets a layer be called again by itself.

What is asked of it:

* each call of each layer is known by the layer's path and the number of the call, on every backend alike;
* what goes in and comes out is kept, and what the layer's own state was before; nothing of the model changes;
* a layer that runs others in a loop (recurrent ones) is one: inside a loop there is nothing to listen at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from dlf.keras_internals import mask_of, with_mask
from dlf.trees import in_order, ordered_like

__all__ = ["Call", "Listener", "listening"]

_LOOPS = (keras.layers.RNN, keras.layers.Wrapper)
"""They call what they hold in a loop, or in a way of their own."""


@dataclass
class Call:
    """One call of one layer."""

    key: str
    """The layer's path, and from the second call on its number, as in ``dense#2``."""
    path: str
    layer: keras.Layer
    asked: Any
    """The arguments, ``(args, kwargs)``, with every dictionary in the order of its keys."""
    as_given: Any
    """The same in the order of the caller."""
    outputs: Any
    state: list[Any]
    """The values of the layer's non-trainable variables before the call, its seeds among them."""
    masks: list[Any] = field(default_factory=list)
    """Of each tensor in the arguments."""


class Listener:
    """What a model's layers were called with.

    Args:
        layers: By path.
        taps: What is added to each floating-point output, by ``key:number``; zeros, whose gradients are those by the
            outputs.
    """

    def __init__(self, layers: Mapping[str, keras.Layer], taps: Mapping[str, Any] | None = None) -> None:
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._taps = taps or {}
        self._times: Counter[str] = Counter()
        self._loops = 0
        self.calls: list[Call] = []

    def call(self, original: Callable[..., Any], layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        """Stands in for the layer's own `__call__`."""
        path = self._paths.get(id(layer))
        if path is None or self._loops:
            return original(layer, *args, **kwargs)
        self._times[path] += 1
        key = path if self._times[path] == 1 else f"{path}#{self._times[path]}"
        state = [variable.value for variable in layer.non_trainable_variables]
        asked = in_order((args, kwargs))
        masks = [mask_of(each) for each in keras.tree.flatten(asked)]
        is_loop = isinstance(layer, _LOOPS)
        self._loops += is_loop
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self._loops -= is_loop
        self.calls.append(Call(key, path, layer, asked, (args, kwargs), in_order(outputs), state, masks))
        return ordered_like(self._tapped(key, in_order(outputs)), outputs)

    def _tapped(self, key: str, outputs: Any) -> Any:
        if not self._taps:
            return outputs
        flat = keras.tree.flatten(outputs)
        added = [
            with_mask(each + self._taps[f"{key}:{number}"], mask_of(each)) if f"{key}:{number}" in self._taps else each
            for number, each in enumerate(flat)
        ]
        return keras.tree.pack_sequence_as(outputs, added)


@contextmanager
def listening(listener: Listener) -> Iterator[Listener]:
    """Lets the listener stand in for `keras.Layer.__call__`, for as long as the context lasts."""
    original = keras.Layer.__call__

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return listener.call(original, layer, args, kwargs)

    keras.Layer.__call__ = call
    try:
        yield listener
    finally:
        keras.Layer.__call__ = original
