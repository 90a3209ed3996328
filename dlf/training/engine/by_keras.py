"""Passes data to Keras's own loop.

Requirements:

* batches that dlf makes of arrays reach a step with the structure, dtype and static size that `fit` would give them;
* any other data are passed on unchanged, except that 64-bit arrays are narrowed where JAX holds only 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from dlf.backend.keras_internals import data_adapter
from dlf.data.array_dataset import BatchedDataset
from dlf.data.conversion import as_backend_holds

__all__ = ["as_arguments", "as_read"]


def as_arguments(data: Any) -> dict[str, Any]:
    """Returns batches or a tuple of arrays as keyword arguments of Keras's `fit` and `evaluate`.

    Args:
        data: Batches or arrays.
    """
    data = as_read(data)
    return dict(zip(("x", "y", "sample_weight"), data, strict=False)) if isinstance(data, tuple) else {"x": data}


def as_read(data: Any) -> Any:
    """Returns the object that Keras should read the data from: for dlf's own batches, a Keras data adapter.

    Keras takes an adapter as it is. It neither shuffles its batches nor applies class weights, and it ignores a
    `sample_weight` argument, which it refuses for a `PyDataset`.

    Args:
        data: Batches or arrays, or None.
    """
    return _adapted(data) if isinstance(data, BatchedDataset) else as_backend_holds(data)


def _adapted(rows: BatchedDataset) -> Any:
    """Returns a Keras data adapter for these batches, for all of Keras's backends."""

    class Adapter(data_adapter()):  # type: ignore[misc]  # Keras has no types.
        num_batches, batch_size = len(rows), rows.batch_size

        def get_numpy_iterator(self) -> Iterator[Any]:
            return (rows[index] for index in range(len(rows)))

        def get_jax_iterator(self) -> Iterator[Any]:
            return self.get_numpy_iterator()

        def get_torch_dataloader(self) -> Any:
            return _as_loader(rows)

        def get_tf_dataset(self) -> Any:
            return _as_tf_data(rows)

    return Adapter()


def _as_loader(rows: BatchedDataset) -> Any:
    import torch

    class Batches(torch.utils.data.IterableDataset):  # type: ignore[misc]  # PyTorch's types are left out.
        def __iter__(self) -> Iterator[Any]:
            return (keras.tree.map_structure(keras.ops.convert_to_tensor, rows[index]) for index in range(len(rows)))

    return torch.utils.data.DataLoader(Batches(), batch_size=None)


def _as_tf_data(rows: BatchedDataset) -> Any:
    import tensorflow as tf

    first = rows[0]
    sizes = {len(keras.tree.flatten(batch)[0]) for batch in (first, rows[len(rows) - 1])}
    size = sizes.pop() if len(sizes) == 1 else None

    def signature(array: Any) -> Any:
        return tf.TensorSpec((size, *array.shape[1:]), array.dtype)

    batches = tf.data.Dataset.from_generator(
        lambda: (rows[index] for index in range(len(rows))), output_signature=tf.nest.map_structure(signature, first)
    )
    return batches.apply(tf.data.experimental.assert_cardinality(len(rows))).prefetch(tf.data.AUTOTUNE)
