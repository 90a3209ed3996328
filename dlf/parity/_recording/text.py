"""Cuts off what a model does with text, which TensorFlow alone has, so that what is behind it can be compared.

Requirements:

* what is behind the text has the same layers, variables and training as the whole model;
* what looks text up is run ahead of the model, on whatever backend, where the data hold text;
* a model that cannot be cut is refused, with the layer's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from dlf.backend.keras_internals import tensorflow_hidden
from dlf.models.model_loss import to_numpy
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.trees import mapped

__all__ = ["Ahead", "behind_text"]

Ahead = Callable[[Any], Any]
"""Turns the inputs of the whole model, as arrays, into those of the part behind its text."""


def behind_text(model: keras.Model) -> tuple[keras.Model, list[str], Ahead]:
    """Returns the part of a model behind its text, and how its inputs are made.

    Args:
        model: A model that is built.

    Returns:
        The part, the names of the layers that look text up, and what they do. Without text, the model itself.

    Raises:
        InvalidArgumentError: The model takes text, and cannot be cut there.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> behind_text(model)[0] is model
        True
    """
    inputs = list(getattr(model, "inputs", None) or ())
    text = {id(each) for each in inputs if each.dtype == "string"}
    if not text:
        return model, [], lambda x: x
    readers = list(_readers(model, text))
    numbers = [each for each in inputs if each.dtype != "string"]
    found = [each for layer in readers for each in keras.tree.flatten(layer.output) if each.dtype != "string"]
    is_plain = type(model) in {keras.Model, keras.Sequential} or type(model).__name__ == "Functional"
    # What is trained is not to be cut off.
    looks_up = not any(isinstance(each, keras.Model) or each.trainable_variables for each in readers)
    if not (is_plain and found and looks_up):
        first = readers[0] if readers else model.layers[0]
        raise InvalidArgumentError(
            "model",
            expected="a model of numbers: text is TensorFlow's alone",
            received=[each.name for each in inputs if each.dtype == "string"],
            advice=f"Its layer {first.name!r} takes text. Let the function return the part behind it, such as "
            "keras.Model(lookup.output, model.output), compiled as the whole is.",
        )
    given = [*numbers, *found]
    # A Sequential may have its output in the list alone.
    output = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    part = keras.Model(given[0] if len(given) == 1 else given, output, name=model.name)
    if model.compiled:
        _compile_alike(part, model)

    def ahead(x: Any) -> Any:
        values: dict[int, Any] = dict(zip(map(id, inputs), _in_order(x, model), strict=True))
        for layer in readers:
            outputs = layer(keras.tree.map_structure(lambda each: values[id(each)], layer.input))  # noqa: B023
            pairs = zip(keras.tree.flatten(layer.output), keras.tree.flatten(outputs), strict=True)
            values |= {id(place): value for place, value in pairs}
        arrays = [mapped(to_numpy, values[id(each)]) for each in given]
        return arrays[0] if len(arrays) == 1 else arrays

    return part, [each.name for each in readers], ahead


def _readers(model: keras.Model, text: set[int]) -> Iterator[keras.Layer]:
    """The layers that take text, in their order; what they give as text joins what is text."""
    for layer in model.layers:
        try:
            given, gives = keras.tree.flatten(layer.input), keras.tree.flatten(layer.output)
        except (AttributeError, ValueError):  # It is called several times, or not at all.
            continue
        if not isinstance(layer, keras.layers.InputLayer) and any(id(each) in text for each in given):
            text.update(id(each) for each in gives if each.dtype == "string")
            yield layer


def _compile_alike(part: keras.Model, model: keras.Model) -> None:
    with tensorflow_hidden():
        try:
            config = keras.saving.deserialize_keras_object(model.get_compile_config())
        except Exception:  # noqa: BLE001 - what Keras cannot serialize, such as a loss of somebody's own.
            config = {}
    more = {name: config.get(name) for name in ("loss_weights", "metrics", "weighted_metrics")}
    part.compile(optimizer=model.optimizer, loss=model.loss, run_eagerly=model.run_eagerly, **more)


def _in_order(x: Any, model: keras.Model) -> list[Any]:
    """The parts of a batch in the order of the model's inputs."""
    if isinstance(x, dict):
        return [x[each.name] for each in model.inputs]
    return list(x) if isinstance(x, list | tuple) else [x]
