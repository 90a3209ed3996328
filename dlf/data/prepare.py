"""Turns single examples into shuffled batches, with TensorFlow's `tf.data` or without it.

Requirements:

* `prepare_for_training` means the same for a `tf.data.Dataset`, an `ArrayDataset` and a pair of arrays.
"""

from __future__ import annotations

from typing import Any

from dlf.data.array_dataset import ArrayDataset, BatchedDataset
from dlf.data.tf_data import batches_of
from dlf.utils.errors import InvalidArgumentError, check_positive

__all__ = ["prepare_for_training"]

_FULL_SHUFFLE = 10_000
"""The size of `tf.data`'s shuffle buffer for a stream; data in memory are always shuffled as a whole."""


def prepare_for_training(
    dataset: Any,
    batch_size: int = 32,
    shuffle_buffer: int | None = _FULL_SHUFFLE,
    *,
    seed: int | None = None,
    drop_remainder: bool = False,
) -> Any:
    """Turns a data set of single examples into batches, shuffled anew in every epoch.

    Args:
        dataset: A `tf.data.Dataset`, an `ArrayDataset`, or a tuple of arrays such as ``(images, labels)``.
        batch_size: Examples in a batch; the last batch holds the remaining examples.
        shuffle_buffer: `None` keeps the order, which suits validation data. Any number turns shuffling on. Data that
            are in memory, or fit into it, are then shuffled as a whole, in the same order on every backend. Any other
            stream is shuffled by `tf.data`, with a buffer of this many examples.
        seed: The seed of the shuffling; by default it follows `dlf.set_seed`.
        drop_remainder: Whether to drop a last, smaller batch.

    Returns:
        A `tf.data.Dataset` if `dataset` is one, otherwise a data set that Keras's `fit` accepts on every backend.

    Raises:
        InvalidArgumentError: The batch size or the buffer is not a positive integer, or the data set is empty or of
            another kind.

    Example:
        >>> import numpy as np
        >>> images, labels = np.zeros((10, 8, 8)), np.arange(10)
        >>> batches = prepare_for_training((images, labels), batch_size=4, shuffle_buffer=None)
        >>> [label.tolist() for _, label in batches]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """
    check_positive("batch_size", batch_size)
    if shuffle_buffer is not None:
        check_positive("shuffle_buffer", shuffle_buffer)
    if isinstance(dataset, tuple):
        dataset = ArrayDataset(*dataset)
    if not callable(getattr(dataset, "batch", None)) or isinstance(dataset, BatchedDataset):
        raise InvalidArgumentError(
            "dataset",
            expected="single examples: a tf.data.Dataset, what load_tfds_dataset returns, or a tuple of arrays",
            received=dataset,
            advice="Is it batched already?" if hasattr(dataset, "batch_size") else "",
        )
    if isinstance(dataset, ArrayDataset):
        if not len(dataset):
            raise InvalidArgumentError("dataset", expected="at least one example", received=dataset)
        shuffled = dataset if shuffle_buffer is None else dataset.shuffle(shuffle_buffer, seed=seed)
        return shuffled.batch(batch_size, drop_remainder=drop_remainder)
    return batches_of(dataset, batch_size, shuffle_buffer, seed=seed, drop_remainder=drop_remainder)
