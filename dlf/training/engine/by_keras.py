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
from dlf.data.tf_data import rows_of

__all__ = ["as_arguments", "as_read", "fit_by_keras"]


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


def fit_by_keras(
    model: keras.Model, train: Any, validation: Any, options: dict[str, Any], reason: str
) -> keras.callbacks.History:
    """Trains by Keras's own `fit`, with dlf's order of the examples in each epoch.

    Args:
        model: A compiled model.
        train: Batches or arrays.
        validation: Batches or arrays, or None.
        options: The options of Keras's `fit`.
        reason: Why the fused engine does not train it; empty if that was asked for.

    Returns:
        Keras's `History`, with the attributes `engine` and `engine_reason`.
    """
    rows = train if isinstance(train, BatchedDataset) else rows_of(train)
    if rows is not None:
        options["callbacks"] = [*options["callbacks"], _EpochOrder(rows)]
    weighed = any(options.get(name) is not None for name in ("class_weight", "sample_weight")) or options.get("shuffle")
    arguments = {"x": train} if weighed and isinstance(train, BatchedDataset) else as_arguments(train)
    history = model.fit(**arguments, validation_data=as_read(validation), **options)
    history.engine, history.engine_reason = "keras", reason
    return history


class _EpochOrder(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Gives each epoch its own order, although Keras may begin and end an additional epoch while it builds the model.

    The order is set before an epoch's iterator is made, since tf.data reads ahead from then on. It is set again when
    the epoch begins, since Keras calls `on_epoch_end` of a `PyDataset` in between.
    """

    def __init__(self, rows: BatchedDataset) -> None:
        super().__init__()
        self._rows, self._next = rows, rows.epoch

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._next += 1
        self._rows.begin(self._next)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)
