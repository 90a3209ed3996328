"""Looks at a request for training before the first batch is computed.

What is asked of it:

* what cannot work, or would train in silence on something else than was meant, is one clear error;
* what cannot be looked at without taking it from a stream passes: nothing is consumed here.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError, did_you_mean
from dlf.pipelines import ArrayDataset, BatchedDataset

__all__ = ["check_data", "check_labels", "find_optimizer", "sort_options"]

_WHOLE_NUMBERS = "sparse_categorical_crossentropy"
_OTHER_SHAPES = {_WHOLE_NUMBERS, "ctc", "dice", "tversky", "circle"}
"""The losses whose labels need not have the shape of the output."""


def sort_options(model: keras.Model, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hands each option to `compile` or to `fit`, whichever knows it.

    Args:
        model: The model that they are for.
        options: Keyword arguments.

    Returns:
        The options for `compile`, and those for `fit`.

    Raises:
        InvalidArgumentError: Neither knows one of them, or `compile_and_fit` has a name of its own for it.
    """
    of_compile, of_fit = (set(inspect.signature(call).parameters) for call in (model.compile, model.fit))
    known = (of_compile | of_fit) - {"x", "y", "validation_data"}
    for name, value in options.items():
        if name not in known:
            renamed = {"x": "train", "y": "train", "validation_data": "validation_ds"}.get(name)
            raise InvalidArgumentError(
                name,
                expected="an argument of keras.Model.compile or keras.Model.fit",
                received=value,
                advice=f"Here it is called {renamed!r}." if renamed else did_you_mean(name, known),
            )
    for_compile = {name: value for name, value in options.items() if name in of_compile}
    return for_compile, {name: value for name, value in options.items() if name not in of_compile}


def find_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that a name stands for; an optimizer is returned as it is.

    Args:
        optimizer: A name, or an optimizer of Keras.

    Returns:
        The optimizer.

    Raises:
        InvalidArgumentError: Keras has none of this name; the message lists those it has.
    """
    if optimizer is not None and not isinstance(optimizer, str):
        return optimizer
    try:
        return keras.optimizers.get(optimizer or "")
    except ValueError as error:
        classes = [value for value in vars(keras.optimizers).values() if inspect.isclass(value)]
        known = sorted(each.__name__.lower() for each in classes if _can_be_named(each))
        raise InvalidArgumentError(
            "optimizer",
            expected=f"an optimizer, or one of {', '.join(known)}",
            received=optimizer,
            advice=did_you_mean(optimizer or "", known),
        ) from error


def _can_be_named(optimizer: type) -> bool:
    """Whether Keras can make it without arguments: those that wrap other optimizers cannot be asked for by name."""
    parameters = inspect.signature(optimizer).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
    return issubclass(optimizer, keras.optimizers.Optimizer) and not required


def check_data(argument: str, data: Any) -> None:
    """Raises where the data are of a kind that `fit` does not take, or of lengths that do not match.

    Args:
        argument: What the caller calls them.
        data: Batches or arrays.

    Raises:
        InvalidArgumentError: They are.
    """
    if isinstance(data, ArrayDataset):
        raise InvalidArgumentError(
            argument, expected="batches", received=data, advice="Call prepare_for_training on it first."
        )
    if isinstance(data, list | np.ndarray) or (isinstance(data, tuple) and len(data) not in (2, 3)):
        raise InvalidArgumentError(argument, expected="batches, (x, y) or (x, y, sample_weight)", received=data)
    if not isinstance(data, tuple):
        return
    lengths = [len(part) for part in keras.tree.flatten(data) if hasattr(part, "__len__")]
    if len(set(lengths)) > 1:
        raise InvalidArgumentError(argument, expected="as many labels as inputs", received=tuple(lengths))
    if not all(lengths):
        raise InvalidArgumentError(argument, expected="at least one example", received=tuple(lengths))


def build_if_deferred(model: keras.Model, data: Any) -> None:
    """Builds a `Sequential` model that waits for its first batch, so that its output can be looked at before that.

    Args:
        model: Any model; one that is built, or that is not a `Sequential`, is left as it is.
        data: The training data.
    """
    if model.built or not isinstance(model, keras.Sequential):
        return
    inputs = _first_batch(data)[0]
    if hasattr(inputs, "shape"):
        model.build((None, *inputs.shape[1:]))


def check_labels(argument: str, data: Any, model: keras.Model, loss: Any) -> None:
    """Raises where the labels cannot be what the built model's output stands for.

    Args:
        argument: What the caller calls the data.
        data: Batches or arrays.
        model: The model.
        loss: The loss; one that is not Keras's own may take any labels.

    Raises:
        InvalidArgumentError: They do not fit; the message says which labels would.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    output = getattr(model, "output_shape", None) if model.built else None
    labels = _labels(data)
    is_keras_own = isinstance(loss, str) or type(loss).__module__.startswith("keras.")
    if labels is None or not is_keras_own or not isinstance(output, tuple) or not isinstance(output[-1], int):
        return
    if name == _WHOLE_NUMBERS:
        _check_classes(argument, labels, output[-1])
    elif name not in _OTHER_SHAPES and _meaningful(labels.shape[1:]) != _meaningful(output[1:]):
        sparse = "categorical_crossentropy" in str(name)
        raise InvalidArgumentError(
            argument,
            expected=f"labels of the shape {_shown(output[1:])} for each example, that of the model's output",
            received=_shown(labels.shape[1:]),
            advice=f"For labels that are class numbers, take the loss {_WHOLE_NUMBERS!r}." if sparse else "",
        )


def _check_classes(argument: str, labels: np.ndarray, outputs: int) -> None:
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


def _meaningful(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape without what Keras adds or takes away by itself: a last axis of one."""
    return shape[:-1] if shape and shape[-1] == 1 else shape


def _shown(shape: tuple[int | None, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _labels(data: Any) -> np.ndarray | None:
    """The labels that can be looked at: all of them, or the first batch's."""
    raw = data.raw_arrays() if isinstance(data, BatchedDataset) else None
    labels = (raw if raw is not None and len(raw) > 1 else _first_batch(data))[1]
    if hasattr(labels, "numpy") or keras.ops.is_tensor(labels):
        labels = np.asarray(keras.ops.convert_to_numpy(labels))
    numeric = isinstance(labels, np.ndarray) and labels.ndim and labels.size and labels.dtype.kind in "biuf"
    return labels if numeric else None


def _first_batch(data: Any) -> tuple[Any, Any]:
    """Inputs and labels: of all arrays, or of the first batch; None for what cannot be had without consuming it."""
    batch = data
    if isinstance(data, keras.utils.PyDataset):
        batch = data[0] if len(data) else None
    elif type(data).__module__.startswith("tensorflow."):
        batch = next(iter(data.take(1)), None)
    return (batch[0], batch[1]) if isinstance(batch, tuple) and len(batch) > 1 else (None, None)
