"""What Keras's own loop does with a user's data set before and after its epochs, besides reading each batch once.

Requirements:

* the fused engine makes the same calls to a `PyDataset` as Keras's loop, in the same order, so that one that changes in
  `on_epoch_end` gives the same batches;
* it creates as many iterators of a `tf.data.Dataset`, since a seeded shuffle gives each iterator another order.

Source: `EpochIterator`, the data adapters and `_symbolic_build` of Keras 3.15, whose calls a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import keras

from dlf.data.array_dataset import BatchedDataset

__all__ = ["begin_as_keras_does_after_an_epoch", "has_epoch_hooks", "look_as_keras_does"]


def has_epoch_hooks(dataset: Any) -> bool:
    """Whether the data set is a user's `PyDataset`, whose epoch hooks must be called; dlf orders its own batches."""
    return isinstance(dataset, keras.utils.PyDataset) and not isinstance(dataset, BatchedDataset)


def look_as_keras_does(dataset: Any, read: Callable[[], Iterable[Any]], *, builds: bool) -> Any:
    """Reads what Keras reads of the data before the first epoch, and returns the first batch if there was one.

    Args:
        dataset: A user's data set.
        read: Returns the batches, from the first.
        builds: Whether the model still has to be built.

    Returns:
        The first batch, or None if Keras reads none either.
    """
    on_tensorflow = keras.config.backend() == "tensorflow"
    if has_epoch_hooks(dataset):
        if on_tensorflow:
            # Keras reads up to two batches to find the output signature that tf.data needs.
            return next(iter([dataset[index] for index in range(min(2, dataset.num_batches))]), None)
        if builds:
            dataset.on_epoch_begin()
            return next(iter([dataset[index] for index in range(min(_batches_read_to_build(), dataset.num_batches))]))
        return None
    return next(iter(read()), None) if builds and not on_tensorflow else None


def begin_as_keras_does_after_an_epoch(dataset: Any) -> None:
    """Creates one more iterator of a `tf.data.Dataset`, unread, as Keras does on TensorFlow after an epoch."""
    if keras.config.backend() == "tensorflow" and not isinstance(dataset, keras.utils.PyDataset):
        iter(dataset)


def _batches_read_to_build() -> int:
    """Returns how many batches Keras reads to build a model: on JAX it prefetches one more, unless it runs on CPU."""
    jax = sys.modules.get("jax")
    return 2 if keras.config.backend() == "jax" and jax is not None and jax.default_backend() != "cpu" else 1
