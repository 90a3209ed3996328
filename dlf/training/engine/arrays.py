"""Makes batches of the arrays that Keras's `fit` takes, in an order that is the same for every engine and backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from dlf.data.array_dataset import ArrayDataset, BatchedDataset
from dlf.data.conversion import as_array, as_keras_feeds
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.trees import mapped

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "ArrayBatches",
    "as_batches",
    "is_array_like",
    "is_dense",
    "read_by_keras_alone",
    "split_off",
    "without_last_nones",
]

DEFAULT_BATCH_SIZE = 32
"""The number of examples in a batch where Keras is given none."""


class ArrayBatches(BatchedDataset):
    """Batches of arrays, each in the structure in which Keras's `fit` would pass them to a step."""

    def __getitem__(self, index: int) -> Any:
        return self.as_keras_hands(super().__getitem__(index))

    @staticmethod
    def as_keras_hands(parts: tuple[Any, ...]) -> Any:
        """Returns a batch as Keras's `fit` passes it on.

        A single array or dictionary of inputs is not put into a tuple. On TensorFlow, lists become tuples.
        """
        data = parts[0] if len(parts) == 1 and not isinstance(parts[0], list | tuple) else parts
        return keras.tree.lists_to_tuples(data) if keras.config.backend() == "tensorflow" else data


def as_batches(
    arrays: tuple[Any, ...],
    batch_size: int | None,
    *,
    shuffle: bool,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
) -> BatchedDataset | None:
    """Makes batches of arrays.

    Args:
        arrays: ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``, each an array or a structure of arrays.
        batch_size: Examples in a batch; by default 32.
        shuffle: Whether to shuffle the examples anew for each epoch.
        sample_weight: As in Keras's `fit`.
        class_weight: As in Keras's `fit`.

    Returns:
        The batches, or None if only Keras can read some array, such as a sparse one, or if Keras would refuse them.

    Raises:
        InvalidArgumentError: Weights are given twice, or class weights without labels or for several outputs.
    """
    if class_weight is not None and (sample_weight is not None or _part(arrays, _WEIGHTS) is not None):
        raise InvalidArgumentError(
            "sample_weight and class_weight", expected="one of them", received="two kinds of weights"
        )
    if sample_weight is not None:
        if _part(arrays, _WEIGHTS) is not None:
            raise InvalidArgumentError("sample_weight", expected="one for the data", received="two")
        arrays = (arrays[0], _part(arrays, _LABELS), sample_weight)
    parts = without_last_nones(arrays)
    if any(each is None for each in keras.tree.flatten(parts)) or read_by_keras_alone(parts):
        return None
    if class_weight is not None:
        if len(parts) <= _LABELS or keras.tree.is_nested(parts[_LABELS]):
            raise InvalidArgumentError(
                "class_weight", expected="a model with one output, and its labels", received=class_weight
            )
        parts.append(_weights_of(as_array(parts[_LABELS]), class_weight))
    elif len(parts) > _WEIGHTS and keras.tree.is_nested(parts[_LABELS]):
        weights = _for_each_output(parts[_LABELS], parts[_WEIGHTS])
        if weights is None:
            return None
        parts[_WEIGHTS] = weights
    examples = ArrayDataset(*keras.tree.map_structure(lambda leaf: as_keras_feeds(as_array(leaf)), parts))
    return ArrayBatches(examples.shuffle() if shuffle else examples, batch_size or DEFAULT_BATCH_SIZE)


_LABELS, _WEIGHTS = 1, 2


def without_last_nones(arrays: tuple[Any, ...]) -> list[Any]:
    """Returns inputs, labels and weights as a list without trailing None."""
    parts = list(arrays)
    while parts and parts[-1] is None:
        parts.pop()
    return parts


def _part(arrays: tuple[Any, ...], place: int) -> Any:
    return arrays[place] if len(arrays) > place else None


def read_by_keras_alone(arrays: Any) -> str:
    """Returns the type of the first leaf that is not a dense array of numbers, such as a sparse tensor, or ``""``.

    Args:
        arrays: Arrays or structures of arrays.
    """
    for leaf in keras.tree.flatten(arrays):
        if isinstance(leaf, np.ndarray):
            if leaf.dtype.kind not in "biuf":
                return f"array of {leaf.dtype.name}"
        elif leaf is not None and not is_dense(leaf):
            return type(leaf).__name__
    return ""


def is_dense(leaf: Any) -> bool:
    """Returns whether a value is a dense tensor; a model may compute differently on a sparse or ragged one.

    Args:
        leaf: Anything.
    """
    return keras.ops.is_tensor(leaf) and is_array_like(leaf)


def is_array_like(leaf: Any) -> bool:
    """Returns whether a value is an array or a dense tensor, of whatever framework.

    Args:
        leaf: Anything.
    """
    # TensorFlow's and JAX's sparse and ragged tensors have no `__array__`; PyTorch's are known by their layout.
    sparse = any(word in str(getattr(leaf, "layout", "")) for word in ("sparse", "jagged"))
    return hasattr(leaf, "__array__") and not sparse


def _for_each_output(labels: Any, weights: Any) -> Any:
    """Returns the weights for each of several outputs, or None if Keras would refuse them."""
    if keras.tree.is_nested(weights):
        try:
            keras.tree.assert_same_structure(labels, weights)
        except ValueError:
            return None
        return weights
    if len(weights.shape) == 1 or tuple(weights.shape[1:]) == (1,):
        return keras.tree.map_structure(lambda _: weights, labels)
    return None


def split_off(arrays: tuple[Any, ...], share: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Splits the last part off each array, as Keras's `validation_split` does.

    Args:
        arrays: Arrays or structures of arrays.
        share: The fraction that is split off, between 0 and 1.

    Returns:
        The first part of each, and the last part of each.

    Raises:
        InvalidArgumentError: One of the parts would be empty.
    """
    arrays = tuple(without_last_nones(arrays))
    count = int(keras.tree.flatten(arrays)[0].shape[0])
    kept = math.floor(count * (1 - share)) if isinstance(share, int | float) else 0
    if not 0 < kept < count:
        raise InvalidArgumentError(
            "validation_split", expected=f"a number that divides {count} examples in two parts", received=share
        )
    return (
        mapped(lambda array: array[:kept], arrays),
        mapped(lambda array: array[kept:], arrays),
    )


def _weights_of(labels: np.ndarray, class_weight: dict[int, float]) -> np.ndarray:
    """Returns the weight of each example: that of its class, or 1 if the class has none.

    Source: Keras's documentation of `class_weight` in `Model.fit`.
    """
    one_hot = labels.ndim > 1 and labels.shape[-1] > 1
    classes = labels.argmax(axis=-1) if one_hot else np.round(labels.reshape(len(labels))).astype(int)
    weights = np.ones(classes.shape, keras.config.floatx())
    for number, weight in class_weight.items():
        weights[classes == number] = weight
    return weights
