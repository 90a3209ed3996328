"""Makes random inputs and targets that fit a model's input shapes, outputs and loss.

Requirements:

* the data have the same bits on every backend, so they are drawn with NumPy;
* integer inputs are token ids below the smallest vocabulary size, and labels are classes of the output.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlf.models.layers import layers_by_path
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.trees import with_sorted_keys

__all__ = ["make_batch"]

_OPEN_AXIS = 8
"""The length of each axis that the model leaves open, except the batch axis."""


def make_batch(model: keras.Model, loss: Any, size: int, random: np.random.Generator) -> tuple[Any, Any]:
    """Makes random inputs and targets for a model.

    Args:
        model: A built model with inputs of known shape.
        loss: As in Keras's `compile`; it decides the kind of the targets.
        size: Examples in the batch, unless the model has a fixed batch size.
        random: The generator of the numbers.

    Returns:
        ``(x, y)``, in the structure of the model's inputs and outputs.

    Raises:
        InvalidArgumentError: The model has no known inputs.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
        >>> x, y = make_batch(model, "sparse_categorical_crossentropy", 4, np.random.default_rng(0))
        >>> x.shape, y.shape, bool(y.max() < 5)
        ((4, 3), (4,), True)
    """
    if not getattr(model, "inputs", None):
        raise InvalidArgumentError(
            "model",
            expected="a Functional or Sequential model, whose inputs are known",
            received=model,
            advice="Give the data: --data module:function.",
        )
    embeddings = [each for each in layers_by_path(model).values() if isinstance(each, keras.layers.Embedding)]
    vocabulary = min((each.input_dim for each in embeddings), default=10)
    # A Sequential model may have its input and output only in the lists `inputs` and `outputs`.
    one = isinstance(model, keras.Sequential)
    inputs, outputs = with_sorted_keys((model.inputs[0], model.outputs[0]) if one else (model.input, model.output))
    x = keras.tree.map_structure(lambda spec: _inputs(spec, size, vocabulary, random), inputs)
    if isinstance(outputs, list) and len(outputs) == 1:
        outputs, loss = outputs[0], next(iter(keras.tree.flatten(loss)), None)  # As Keras returns one output.
    if isinstance(loss, list | tuple | dict) and not isinstance(outputs, list | tuple | dict):
        loss = next(iter(keras.tree.flatten(loss)), None)  # For a single output, a list of one loss is allowed.
    if isinstance(loss, dict) and isinstance(outputs, list):
        loss = [loss[name] for name in model.output_names]
    if isinstance(loss, dict) and isinstance(outputs, dict):
        loss = {name: loss.get(name) for name in outputs}  # An output may have no loss.
    losses = loss if isinstance(loss, dict | list | tuple) else keras.tree.map_structure(lambda _: loss, outputs)
    y = keras.tree.map_structure_up_to(outputs, lambda spec, one: _targets(spec, one, size, random), outputs, losses)
    return x, y


def _shape(spec: Any, size: int) -> tuple[int, ...]:
    return (spec.shape[0] or size, *(_OPEN_AXIS if axis is None else axis for axis in spec.shape[1:]))


def _inputs(spec: Any, size: int, vocabulary: int, random: np.random.Generator) -> np.ndarray:
    shape = _shape(spec, size)
    if spec.dtype == "bool":
        return random.random(shape) < 0.5  # noqa: PLR2004 - as often as not.
    if "int" in spec.dtype:
        return random.integers(vocabulary, size=shape).astype(spec.dtype)
    return random.standard_normal(shape).astype("float32")


def _targets(spec: Any, loss: Any, size: int, random: np.random.Generator) -> np.ndarray:
    shape = _shape(spec, size)
    name = (loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))).lower()
    if name.startswith("sparse"):
        return random.integers(shape[-1], size=shape[:-1]).astype("int32")
    if name.startswith("binary") or "hinge" in name:
        return random.integers(2, size=shape).astype("float32")
    if name.startswith(("categorical", "kl_div", "kld")):
        return np.eye(shape[-1], dtype="float32")[random.integers(shape[-1], size=shape[:-1])]
    if name.startswith("poisson"):
        return random.poisson(2.0, shape).astype("float32")
    return random.standard_normal(shape).astype("float32")
