"""What Keras's own loop does with somebody's data around its epochs, beside reading them.

What is asked of it:

* a `PyDataset` is asked and told the same, in the same order, by the fused engine as by Keras's loop: one that changes
  in `on_epoch_end` is trained on as it is there;
* a `tf.data.Dataset` is begun as often: each beginning of a shuffle with a seed is another order.

Source: `EpochIterator`, the data adapters and `_symbolic_build` of Keras 3.15, whose calls a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import keras

from dlf.data.array_dataset import BatchedDataset

__all__ = ["begin_as_keras_does_after_an_epoch", "is_told_of_epochs", "look_as_keras_does"]


def is_told_of_epochs(dataset: Any) -> bool:
    """Whether somebody's own hooks are called: batches of dlf's own have the order that dlf gives them."""
    return isinstance(dataset, keras.utils.PyDataset) and not isinstance(dataset, BatchedDataset)


def look_as_keras_does(dataset: Any, read: Callable[[], Iterable[Any]], *, builds: bool) -> Any:
    """Looks at the data as Keras does before the first epoch, and returns the first batch if that was read.

    Args:
        dataset: Batches that somebody makes.
        read: Reads them from the beginning.
        builds: Whether the model has yet to be built.

    Returns:
        The first batch, or None where Keras does not read it either.
    """
    on_tensorflow = keras.config.backend() == "tensorflow"
    if is_told_of_epochs(dataset):
        if on_tensorflow:
            # For the signature that tf.data wants.
            return next(iter([dataset[index] for index in range(min(2, dataset.num_batches))]), None)
        if builds:
            dataset.on_epoch_begin()
            return next(iter([dataset[index] for index in range(min(_batches_read_to_build(), dataset.num_batches))]))
        return None
    return next(iter(read()), None) if builds and not on_tensorflow else None


def begin_as_keras_does_after_an_epoch(dataset: Any) -> None:
    """Begins a `tf.data.Dataset` once more, and reads nothing, as Keras does on TensorFlow when an epoch has ended."""
    if keras.config.backend() == "tensorflow" and not isinstance(dataset, keras.utils.PyDataset):
        iter(dataset)


def _batches_read_to_build() -> int:
    """On JAX, Keras reads a batch ahead while the device is busy, unless that is the CPU."""
    jax = sys.modules.get("jax")
    return 2 if keras.config.backend() == "jax" and jax is not None and jax.default_backend() != "cpu" else 1
