"""Checks a request for training before the first batch is computed.

Requirements:

* a request that cannot work, or that would silently train on something else than was meant, raises one clear error;
* a stream of unknown length is never read: the shapes are known from a `tf.data.Dataset`'s `element_spec`, and wrong
  values show up during training;
* a request that Keras would train correctly is not refused.
"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from dlf.data.array_dataset import ArrayDataset, BatchedDataset
from dlf.data.tf_data import is_repeatable, rows_of
from dlf.models.model_loss import has_own
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = [
    "FORMS",
    "are_arrays",
    "as_arguments_of_fit",
    "as_given",
    "build_if_deferred",
    "check_data",
    "check_inputs",
    "check_labels",
    "check_metrics",
]


FORMS = "batches, (x, y), (x, y, sample_weight), or inputs alone"
"""What training takes as data, in words."""


def as_given(data: Any) -> Any:
    """Returns inputs alone, in whatever structure of arrays, as a tuple of one part; anything else as it is.

    Args:
        data: Batches, a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``, or inputs alone.
    """
    return (data,) if not isinstance(data, tuple) and are_arrays(data) else data


def as_arguments_of_fit(x: Any, y: Any) -> Any:
    """Returns the arguments of Keras's `fit` as a tuple of arrays, or as batches.

    Args:
        x: Inputs in any structure of arrays, or batches.
        y: The labels, or None.

    Raises:
        InvalidArgumentError: Labels are given beside batches.
    """
    if isinstance(x, tuple | list | dict) or are_arrays(x):
        return (x,) if y is None else (x, y)
    if y is not None:
        raise InvalidArgumentError("y", expected="None beside batches, which hold the labels", received=y)
    return x


def are_arrays(data: Any) -> bool:
    """Returns whether this is an array, or a structure of nothing but arrays, and not a data set.

    Args:
        data: Anything.
    """
    parts = keras.tree.flatten(data)
    return bool(parts) and all(hasattr(each, "shape") and hasattr(each, "dtype") for each in parts)


def check_metrics(metrics: Any) -> None:
    """Raises if a metric is named that Keras does not have.

    Args:
        metrics: As in Keras's `compile`.

    Raises:
        InvalidArgumentError: There is no metric of a name; the message names the nearest.
    """
    for each in keras.tree.flatten(metrics):
        if isinstance(each, str) and each not in _OF_COMPILE:
            try:
                keras.metrics.get(each)
            except ValueError as error:
                known = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in dir(keras.metrics)]
                raise InvalidArgumentError(
                    "metrics",
                    expected="names of metrics of Keras, metrics, or functions",
                    received=each,
                    advice=did_you_mean(each, [*_OF_COMPILE, *known]),
                ) from error


_OF_COMPILE = ("accuracy", "acc", "crossentropy", "ce")
"""Names that mean another metric by the loss."""


def check_data(argument: str, data: Any) -> None:
    """Raises if `fit` does not accept data of this type, or if the arrays differ in length or are empty.

    Args:
        argument: The argument's name, for the error message.
        data: Batches or arrays.

    Raises:
        InvalidArgumentError: The type is not accepted, the lengths differ, or there is no example.
    """
    if isinstance(data, ArrayDataset):
        raise InvalidArgumentError(
            argument, expected="batches", received=data, advice="Call prepare_for_training on it first."
        )
    if data is None or isinstance(data, list | dict) or (isinstance(data, tuple) and not 1 <= len(data) <= _PARTS):
        raise InvalidArgumentError(
            argument, expected=FORMS, received=data, advice="Turn lists of numbers into arrays: numpy.asarray(x)."
        )
    if isinstance(data, BatchedDataset) and not len(data):
        raise InvalidArgumentError(argument, expected="at least one batch", received=data)
    if not isinstance(data, tuple):
        return
    parts = keras.tree.flatten(data)
    if any(isinstance(part, int | float) for part in parts):
        raise InvalidArgumentError(
            argument, expected="arrays", received=data, advice="Turn lists of numbers into arrays: numpy.asarray(y)."
        )
    lengths = [_length(part) for part in parts if hasattr(part, "shape") or hasattr(part, "__len__")]
    if len(set(lengths)) > 1:
        raise InvalidArgumentError(argument, expected="as many labels as inputs", received=tuple(lengths))
    if not all(lengths):
        raise InvalidArgumentError(argument, expected="at least one example", received=tuple(lengths))


def _length(part: Any) -> int:
    """Returns the number of examples: from the shape first, since `len` of a sparse array raises an error."""
    shape = getattr(part, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) and shape[0] is not None else len(part)


def build_if_deferred(model: keras.Model, data: Any) -> None:
    """Builds a `Sequential` model without an input shape, so that its output shape is known before the first batch.

    Args:
        model: Any model; one that is built, or that is not a `Sequential`, is left as it is.
        data: The training data.
    """
    if model.built or not isinstance(model, keras.Sequential):
        return
    inputs, _ = _parts(data)
    if hasattr(inputs, "shape"):
        model.build((None, *inputs.shape[1:]))


def check_inputs(argument: str, data: Any, model: keras.Model) -> None:
    """Raises if a model whose input is known does not take inputs of the shape that is given.

    Args:
        argument: The argument's name, for the error message.
        data: Batches or arrays.
        model: The model.

    Raises:
        InvalidArgumentError: The inputs do not fit; the message says which would.
    """
    expected = getattr(model, "input_shape", None) if getattr(model, "inputs", None) else None
    inputs, _ = _parts(data) if not isinstance(data, tuple) or len(data) > 1 else (data[0], None)
    if not isinstance(expected, tuple) or not hasattr(inputs, "shape") or has_own(model, "train_step"):
        return
    given = tuple(inputs.shape)[1:]
    if _same(given, expected[1:]):
        return
    try:
        # A Sequential model takes other sizes than it was built for where its layers do, as convolutions.
        with keras.StatelessScope():
            model(keras.ops.zeros((1, *(size or 1 for size in given)), model.inputs[0].dtype))
    except Exception as error:
        raise InvalidArgumentError(
            argument,
            expected=f"inputs of the shape {expected}, which the model was built for",
            received=tuple(inputs.shape),
        ) from error


def check_labels(argument: str, data: Any, model: keras.Model, loss: Any) -> None:
    """Raises if the labels cannot be targets for the built model's output.

    For elementwise losses, the shapes of labels and outputs are compared: Keras would silently broadcast ``(n, 1)``
    labels over ``(n, 3)`` outputs. For sparse categorical cross-entropy, the class numbers are compared with the number
    of outputs.

    Args:
        argument: The argument's name, for the error message.
        data: Batches or arrays.
        model: The model; one with its own `compute_loss` or `train_step` may take any labels.
        loss: The loss; one that is not Keras's own may take any labels.

    Raises:
        InvalidArgumentError: The labels do not fit; the message says which labels would.
    """
    output = getattr(model, "output_shape", None) if model.built else None
    of_its_own = has_own(model, "compute_loss") or has_own(model, "train_step")
    if loss is not None and not of_its_own and isinstance(data, tuple) and len(data) == 1:
        raise InvalidArgumentError(
            argument,
            expected="batches, (x, y) or (x, y, sample_weight): the loss compares the model's outputs with labels",
            received=data[0],
        )
    _, labels = _parts(data)
    if not of_its_own and isinstance(labels, np.ndarray) and labels.dtype.kind in "OSU":
        raise InvalidArgumentError(
            argument,
            expected="labels that are numbers",
            received=labels,
            advice="Number the classes: names, y = numpy.unique(y, return_inverse=True).",
        )
    if of_its_own or not hasattr(labels, "shape") or not isinstance(output, tuple) or not isinstance(output[-1], int):
        return
    if isinstance(loss, list | tuple | dict):
        return  # One loss for each of several outputs.
    loss = keras.losses.get(loss)
    if _is(loss, "SparseCategoricalCrossentropy"):
        config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
        if config.get("axis", -1) == -1 and isinstance(labels, np.ndarray):
            _check_classes(argument, labels[labels != config.get("ignore_class")], output[-1])
    elif any(_is(loss, name) for name in _ELEMENTWISE) and not _same(labels.shape[1:], output[1:]):
        raise InvalidArgumentError(
            argument,
            expected=f"labels of the shape {_shown(output[1:])} for each example, that of the model's output",
            received=_shown(labels.shape[1:]),
            advice="For labels that are class numbers, take the loss 'sparse_categorical_crossentropy'."
            if _is(loss, "CategoricalCrossentropy")
            else "",
        )


_PARTS = 3  # Inputs, labels, sample weights.
_ELEMENTWISE = (
    *("MeanSquaredError", "MeanAbsoluteError", "MeanSquaredLogarithmicError", "MeanAbsolutePercentageError"),
    *("Huber", "LogCosh", "Poisson", "BinaryCrossentropy", "CategoricalCrossentropy", "KLDivergence"),
)


def _is(loss: Any, name: str) -> bool:
    """Whether a loss is Keras's loss of this name, as an instance or as a function; its own `name` can be anything."""
    kind = getattr(keras.losses, name)
    if isinstance(loss, keras.losses.Loss):
        return type(loss) is kind
    return loss is keras.losses.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("kldi", "kl_di"))


def _check_classes(argument: str, labels: np.ndarray, outputs: int) -> None:
    if not labels.size or labels.dtype.kind not in "biuf":
        return
    if not np.all(labels == np.floor(labels)):
        raise InvalidArgumentError(argument, expected="labels that are whole numbers", received=labels)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= outputs:
        raise InvalidArgumentError(
            argument,
            expected=f"labels from 0 to {outputs - 1}, for the model's {outputs} outputs",
            received=lowest if lowest < 0 else highest,
            advice="" if lowest < 0 else f"Give the last layer {highest + 1} units, or check the labels.",
        )


def _same(labels: Any, output: Any) -> bool:
    """Whether two shapes agree: None matches any size, and a last axis of size 1 is ignored, as Keras does."""
    labels, output = ([*shape[:-1]] if len(shape) and shape[-1] == 1 else [*shape] for shape in (labels, output))
    return len(labels) == len(output) and all(a == b or None in (a, b) for a, b in zip(labels, output, strict=True))


def _shown(shape: Any) -> str:
    return "x".join("any" if axis is None else str(axis) for axis in shape) or "a single number"


def _parts(data: Any) -> tuple[Any, Any]:
    """Returns inputs and labels, or their specs, as far as they are known without reading a stream."""
    found = data
    if isinstance(data, BatchedDataset):
        found = data.raw_arrays() or data[0]
    elif hasattr(data, "element_spec"):
        found = data.element_spec
        if keras.config.backend() == "jax":
            # Only JAX raises no error for a label that is out of range, so values are needed here.
            first = _first_batch(data)
            found = found if first is None else first
    return (found[0], found[1]) if isinstance(found, tuple) and len(found) > 1 else (None, None)


def _first_batch(data: Any) -> Any:
    """Returns the first batch of a `tf.data.Dataset`, or None if reading it could change what is read next."""
    rows = rows_of(data)
    if rows is not None:
        return rows[0]
    return next(data.take(1).as_numpy_iterator(), None) if is_repeatable(data) else None
