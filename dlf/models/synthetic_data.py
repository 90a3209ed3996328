"""Makes random inputs and targets that fit a model's input shapes, outputs and loss.

Requirements:

* the shapes are those of the model's inputs, or those that a subclassed model was built on;
* the data have the same bits on every backend, so they are drawn with NumPy;
* integer inputs are token ids below the smallest vocabulary size, and labels are classes of the output.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlf.models.layers import layers_by_path
from dlf.utils.errors import UnknownInputsError
from dlf.utils.trees import with_sorted_keys

__all__ = ["DATA_ADVICE", "OTHER_TARGETS", "make_batch", "remembered_inputs"]

_OPEN_AXIS = 8
"""The length of each axis that the model leaves open, except the batch axis."""


OTHER_TARGETS = ("sparse, with an axis", "sparse", "categorical", "binary")
"""Kinds of targets to try where a loss of somebody's own takes none of the kind that its name suggests."""


def make_batch(
    model: keras.Model, loss: Any, size: int, random: np.random.Generator, *, kind: str | None = None
) -> tuple[Any, Any]:
    """Makes random inputs and targets for a model.

    Args:
        model: A built model with inputs of known shape.
        loss: As in Keras's `compile`; it decides the kind of the targets.
        size: Examples in the batch, unless the model has a fixed batch size.
        random: The generator of the numbers.
        kind: The kind of the targets, one of `OTHER_TARGETS`, where not by the loss.

    Returns:
        ``(x, y)``, in the structure of the model's inputs and outputs.

    Raises:
        UnknownInputsError: The model has no known inputs, or does not take those that it seems to have been built on.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
        >>> x, y = make_batch(model, "sparse_categorical_crossentropy", 4, np.random.default_rng(0))
        >>> x.shape, y.shape, bool(y.max() < 5)
        ((4, 3), (4,), True)
    """
    if getattr(model, "inputs", None):
        # A Sequential model may have its input and output only in the lists `inputs` and `outputs`.
        one = isinstance(model, keras.Sequential)
        inputs, outputs = with_sorted_keys((model.inputs[0], model.outputs[0]) if one else (model.input, model.output))
        x = _random_inputs(model, inputs, size, random)
    else:
        x = remembered_inputs(model, size, random)
        outputs = None if x is None else _outputs_for(model, x)
        if outputs is None:
            raise UnknownInputsError(
                "model",
                expected="a model whose inputs are known: Functional, Sequential, or built on what it is called on",
                received=model,
                advice=DATA_ADVICE,
            )
    if isinstance(outputs, list) and len(outputs) == 1:
        outputs, loss = outputs[0], next(iter(keras.tree.flatten(loss)), None)  # As Keras returns one output.
    if isinstance(loss, list | tuple | dict) and not isinstance(outputs, list | tuple | dict):
        loss = next(iter(keras.tree.flatten(loss)), None)  # For a single output, a list of one loss is allowed.
    if isinstance(loss, dict) and isinstance(outputs, list):
        loss = [loss[name] for name in model.output_names]
    if isinstance(loss, dict) and isinstance(outputs, dict):
        loss = {name: loss.get(name) for name in outputs}  # An output may have no loss.
    losses = loss if isinstance(loss, dict | list | tuple) else keras.tree.map_structure(lambda _: loss, outputs)
    y = keras.tree.map_structure_up_to(
        outputs, lambda spec, one: _targets(spec, kind or one, size, random), outputs, losses
    )
    return x, y


DATA_ADVICE = (
    "--data module:function gives the data, such as `def data(size, random): return random.normal(size=(size, 28, "
    "28)).astype('float32'), random.integers(10, size=size)`."
)


def remembered_inputs(model: keras.Model, size: int, random: np.random.Generator) -> Any:
    """Makes random inputs of the shapes that a subclassed model was built on, or returns None if it remembers none.

    Args:
        model: A built model. If it has an embedding, its inputs are taken to be token ids.
        size: Examples in the batch.
        random: The generator of the numbers.

    Example:
        >>> class Own(keras.Model):
        ...     def build(self, input_shape): self.built = True
        >>> model = Own()
        >>> model.build((None, 3))
        >>> remembered_inputs(model, 4, np.random.default_rng(0)).shape
        (4, 3)
    """
    shapes = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if not shapes:
        return None
    has_tokens = any(isinstance(each, keras.layers.Embedding) for each in layers_by_path(model).values())
    return _random_inputs(model, _specs(shapes, "int32" if has_tokens else "float32"), size, random)


def _specs(shapes: Any, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {name: _specs(each, dtype) for name, each in shapes.items()}
    if all(isinstance(each, int | None) for each in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype)
    return [_specs(each, dtype) for each in shapes]


def _outputs_for(model: keras.Model, x: Any) -> Any:
    """The shapes of the model's outputs, or None if it does not take these inputs."""
    try:
        with keras.StatelessScope():
            outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, x), training=False)
    except Exception:  # noqa: BLE001 - a model may want anything else: the caller says what to do.
        return None
    return with_sorted_keys(
        keras.tree.map_structure(
            lambda each: keras.KerasTensor((None, *each.shape[1:]), keras.backend.standardize_dtype(each.dtype)),
            outputs,
        )
    )


def _random_inputs(model: keras.Model, specs: Any, size: int, random: np.random.Generator) -> Any:
    embeddings = [each for each in layers_by_path(model).values() if isinstance(each, keras.layers.Embedding)]
    vocabulary = min((each.input_dim for each in embeddings), default=10)
    return keras.tree.map_structure(lambda spec: _inputs(spec, size, vocabulary, random), specs)


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
    if name == "sparse, with an axis":
        return random.integers(shape[-1], size=(*shape[:-1], 1)).astype("int32")
    if name.startswith("sparse"):
        return random.integers(shape[-1], size=shape[:-1]).astype("int32")
    if name.startswith("binary") or "hinge" in name:
        return random.integers(2, size=shape).astype("float32")
    if name.startswith(("categorical", "kl_div", "kld")):
        return np.eye(shape[-1], dtype="float32")[random.integers(shape[-1], size=shape[:-1])]
    if name.startswith("poisson"):
        return random.poisson(2.0, shape).astype("float32")
    return random.standard_normal(shape).astype("float32")
