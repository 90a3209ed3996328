"""Listens to the calls of every layer while a model computes, so that each can be replayed by itself.

Requirements:

* each call of each layer is identified by the layer's path and the number of the call, alike on every backend;
* inputs and outputs are handed on at once and not kept, since a model may have a thousand layers;
* a layer that runs others in a loop, such as a recurrent one, counts as one layer: calls inside the loop are not heard.
"""

from __future__ import annotations

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import mask_of, with_mask
from dlf.models.model_loss import to_numpy
from dlf.numerics.noise_floor import is_floating, widened
from dlf.utils.attributes import replaced
from dlf.utils.trees import with_keys_as_in, with_sorted_keys

__all__ = ["LOOPS", "Call", "Listener", "layer_calls_replaced", "listening", "takes_training"]

LOOPS = (keras.layers.RNN, keras.layers.Wrapper)
"""Layers that call the layers inside them in a loop, or in another way of their own."""


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
    training: bool
    """The mode that the layer was in, by its own arguments or by those of the layer around it."""
    masks: list[Any] = field(default_factory=list)
    """The mask of each tensor in the arguments, or None."""
    sources: list[str] = field(default_factory=list)
    """The keys of the calls whose outputs are among the arguments."""

    def without_tensors(self) -> Call:
        """Returns the call with each tensor replaced by its shape and dtype."""
        return self._mapped(_outline)

    def of_values(self) -> Call:
        """Returns the call with the value of each tensor, which JAX hides while it takes a gradient."""
        return self._mapped(lambda each: keras.ops.stop_gradient(each) if keras.ops.is_tensor(each) else each)

    def in_float64(self) -> Call:
        """Returns the call with its floating-point tensors in float64, which the backend has to compute in now."""
        return self._mapped(_in_float64)

    def _mapped(self, change: Callable[[Any], Any]) -> Call:
        parts = {
            name: keras.tree.map_structure(change, getattr(self, name))
            for name in ("asked", "as_given", "outputs", "state", "masks")
        }
        return Call(self.key, self.path, self.layer, training=self.training, sources=self.sources, **parts)


class Listener:
    """Hears each call of a model's layers.

    Args:
        layers: The layers, by path.
        taps: Zeros to add to floating-point outputs, by ``key:number``: their gradients are those of the outputs.
        hear: Called with each call; what it returns is kept in `calls`.
        training: The mode of layers that are not told theirs, nor are inside another.
    """

    def __init__(
        self,
        layers: Mapping[str, keras.Layer],
        taps: Mapping[str, Any] | None = None,
        hear: Callable[[Call], Any] = lambda call: call,
        *,
        training: bool = True,
    ) -> None:
        self._paths = {id(layer): path for path, layer in layers.items()}
        self._taps, self._hear = taps or {}, hear
        self._times: Counter[str] = Counter()
        self._loops = 0
        self._training = [training]
        self._inside: list[str] = []
        self._made: dict[int, tuple[Any, str]] = {}
        self.calls: list[Any] = []

    def call(self, original: Callable[..., Any], layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        """Calls a layer in place of its own `__call__`, and hears the call."""
        path = self._paths.get(id(layer))
        # A Sequential that is not built yet calls its layers on symbols first.
        is_symbolic = any(isinstance(each, keras.KerasTensor) for each in keras.tree.flatten((args, kwargs)))
        if path is None or self._loops or is_symbolic:
            return original(layer, *args, **kwargs)
        self._times[path] += 1
        key = path if self._times[path] == 1 else f"{path}#{self._times[path]}"
        state = [variable.value for variable in layer.non_trainable_variables]
        values = keras.tree.map_structure(_as_heard, (args, kwargs))
        asked = with_sorted_keys(values)
        tensors = keras.tree.flatten(asked)
        masks, sources = [mask_of(each) for each in tensors], self._sources(tensors)
        is_loop, said = isinstance(layer, LOOPS), kwargs.get("training")
        self._loops += is_loop
        self._training.append(self._training[-1] if said is None else bool(said))
        self._inside.append(path)
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self._inside.pop()
            self._loops -= is_loop
            training = self._training.pop()
        call = Call(key, path, layer, asked, (args, kwargs), with_sorted_keys(outputs), state, training, masks, sources)
        self.calls.append(self._hear(call))
        outputs = with_keys_as_in(self._tapped(key, with_sorted_keys(outputs)), outputs)
        for each in keras.tree.flatten(outputs):
            if keras.ops.is_tensor(each):
                self._made[id(each)] = (_reference(each), key)
        return outputs

    @property
    def inside(self) -> str | None:
        """The path of the innermost layer that is being called, or None outside of all."""
        return self._inside[-1] if self._inside else None

    def _sources(self, tensors: list[Any]) -> list[str]:
        """The keys of the calls that made these tensors, each once."""
        made = [self._made.get(id(each), (lambda: None, "")) for each in tensors if keras.ops.is_tensor(each)]
        # A new tensor may have the `id` of one that is gone.
        there = [
            key
            for (reference, key), each in zip(made, filter(keras.ops.is_tensor, tensors), strict=True)
            if reference() is each
        ]
        return list(dict.fromkeys(there))

    def _tapped(self, key: str, outputs: Any) -> Any:
        if not self._taps:
            return outputs
        flat = keras.tree.flatten(outputs)

        def added(number: int, each: Any) -> Any:
            if f"{key}:{number}" not in self._taps:
                return each
            # A layer that casts by itself gives another dtype than the model's.
            tap = keras.ops.cast(self._taps[f"{key}:{number}"], keras.backend.standardize_dtype(each.dtype))
            return with_mask(each + tap, mask_of(each))

        return keras.tree.pack_sequence_as(outputs, [added(number, each) for number, each in enumerate(flat)])


@contextmanager
def listening(listener: Listener) -> Iterator[Listener]:
    """Lets the listener hear every call, for as long as the context lasts."""
    with layer_calls_replaced(listener.call):
        yield listener


@contextmanager
def layer_calls_replaced(replacement: Callable[[Callable[..., Any], keras.Layer, Any, Any], Any]) -> Iterator[None]:
    """Replaces `keras.Layer.__call__` by a function, for as long as the context lasts.

    Args:
        replacement: Called with the original, the layer, its args and its kwargs.
    """
    original = keras.Layer.__call__

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return replacement(original, layer, args, kwargs)

    with replaced(keras.Layer, "__call__", call):
        yield


def takes_training(layer: keras.Layer) -> bool:
    """Tells whether a layer may compute differently in training and in inference: its `call` takes `training`."""
    return "training" in inspect.signature(layer.call).parameters


def _as_heard(value: Any) -> Any:
    """An argument of a layer as a tensor of the backend, if it holds one: another may take it then."""
    if isinstance(value, keras.Variable):
        return value.value  # On TensorFlow alone, it is a tensor.
    # A layer that is written for TensorFlow hands its tensors to Keras's layers, which convert them.
    held = hasattr(value, "__array__") and hasattr(value, "shape")
    own = isinstance(value, np.ndarray | np.generic | keras.KerasTensor) or keras.ops.is_tensor(value)
    return keras.ops.convert_to_tensor(np.asarray(value)) if held and not own else value


def _in_float64(value: Any) -> Any:
    if not keras.ops.is_tensor(value) or not is_floating(keras.backend.standardize_dtype(value.dtype)):
        return value
    return keras.ops.convert_to_tensor(widened(to_numpy(value)))


def _outline(value: Any) -> Any:
    return (
        keras.KerasTensor(value.shape, str(keras.backend.standardize_dtype(value.dtype)))
        if keras.ops.is_tensor(value)
        else value
    )


def _reference(tensor: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(tensor)
    except TypeError:  # For example, a tensor that is being traced.
        return lambda: None
