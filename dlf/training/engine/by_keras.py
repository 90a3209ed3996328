"""Data as Keras's own loop takes them.

What is asked of it:

* batches that dlf makes of arrays reach a step as those that `fit` makes: in structure, dtype and known size;
* whatever else somebody has is handed on as it is.
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
    """Returns the data, batches or a tuple of arrays, as the arguments that Keras's `fit` and `evaluate` take.

    Args:
        data: Batches or arrays.
    """
    data = as_read(data)
    return dict(zip(("x", "y", "sample_weight"), data, strict=False)) if isinstance(data, tuple) else {"x": data}


def as_read(data: Any) -> Any:
    """Returns what Keras reads the data from: dlf's own batches in a form that it takes as they are.

    It weighs and shuffles none of these, and refuses no weights for them, as it does for a `PyDataset`.

    Args:
        data: Batches or arrays, or None.
    """
    return _adapted(data) if isinstance(data, BatchedDataset) else as_backend_holds(data)


def _adapted(rows: BatchedDataset) -> Any:
    """What Keras reads these batches from, on each of its backends."""

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
