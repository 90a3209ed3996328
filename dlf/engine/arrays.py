"""Arrays as Keras's `fit` takes them, made into batches whose order is the same for every engine and backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError
from dlf.pipelines import ArrayDataset, BatchedDataset, as_array, as_backend_holds, as_keras_feeds

__all__ = ["as_arguments", "as_batches", "split_off"]

_BATCH_SIZE = 32  # Keras's own.


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
        shuffle: Whether each epoch has an order of its own.
        sample_weight: As in Keras's `fit`.
        class_weight: As in Keras's `fit`.

    Returns:
        The batches, or None where some array is of a kind that only Keras reads, such as a sparse one.

    Raises:
        InvalidArgumentError: Weights are given twice, or class weights where there are no classes.
    """
    parts = list(arrays)
    while parts and parts[-1] is None:
        parts.pop()
    leaves = keras.tree.flatten(parts)
    if any(part is None for part in parts):
        return None
    if not all(isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf) for leaf in leaves):
        return None
    if any(np.asarray(leaf).dtype.kind not in "biuf" for leaf in leaves if isinstance(leaf, np.ndarray)):
        return None
    weights = [each for each in (*parts[2:], sample_weight, class_weight) if each is not None]
    if len(weights) > 1:
        raise InvalidArgumentError(
            "sample_weight and class_weight", expected="one of them", received=f"{len(weights)} kinds of weights"
        )
    if class_weight is not None:
        if len(parts) < 2 or not hasattr(parts[1], "shape"):  # noqa: PLR2004 - inputs and labels.
            raise InvalidArgumentError(
                "class_weight", expected="a model with one output, and its labels", received=class_weight
            )
        parts.append(_weights_of(as_array(parts[1]), class_weight))
    elif sample_weight is not None:
        parts.append(sample_weight)
    if len(parts) > 2 and hasattr(parts[2], "shape"):  # noqa: PLR2004
        # Keras gives each of several outputs the same weights.
        parts[2] = keras.tree.map_structure(lambda _: parts[2], parts[1])
    examples = ArrayDataset(*keras.tree.map_structure(lambda leaf: as_keras_feeds(as_array(leaf)), parts))
    return (examples.shuffle() if shuffle else examples).batch(batch_size or _BATCH_SIZE)


def as_arguments(data: Any) -> dict[str, Any]:
    """Returns the data, batches or a tuple of arrays, as the arguments that Keras's `fit` and `evaluate` take."""
    data = as_backend_holds(data)
    return dict(zip(("x", "y", "sample_weight"), data, strict=False)) if isinstance(data, tuple) else {"x": data}


def split_off(arrays: tuple[Any, ...], share: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cuts the last part off each array, as Keras's `validation_split` does.

    Args:
        arrays: Arrays or structures of arrays.
        share: The part that is cut off, between 0 and 1.

    Returns:
        The first part of each, and the last part of each.

    Raises:
        InvalidArgumentError: One of the parts would be empty.
    """
    count = len(keras.tree.flatten(arrays)[0])
    kept = math.floor(count * (1 - share)) if isinstance(share, int | float) else 0
    if not 0 < kept < count:
        raise InvalidArgumentError(
            "validation_split", expected=f"a number that divides {count} examples in two parts", received=share
        )
    return (
        keras.tree.map_structure(lambda array: array[:kept], arrays),
        keras.tree.map_structure(lambda array: array[kept:], arrays),
    )


def _weights_of(labels: np.ndarray, class_weight: dict[int, float]) -> np.ndarray:
    """The weight of each example: that of its class, 1 where the class has none.

    Source: Keras's documentation of `class_weight` in `Model.fit`.
    """
    one_hot = labels.ndim > 1 and labels.shape[-1] > 1
    classes = labels.argmax(axis=-1) if one_hot else np.round(labels.reshape(len(labels))).astype(int)
    weights = np.ones(classes.shape, keras.config.floatx())
    for number, weight in class_weight.items():
        weights[classes == number] = weight
    return weights
