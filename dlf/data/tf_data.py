"""Batches of a `tf.data.Dataset`, shuffled as a whole, in the same order on every backend.

Requirements:

* the order is that of an `ArrayDataset` with the same seed, on every backend;
* a pipeline that draws random numbers, has no end or does not fit into memory keeps `tf.data`'s own shuffling;
* data that are shuffled in memory are read when the first batch is requested, and only once.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil

from dlf.data.array_dataset import ArrayDataset, BatchedDataset

__all__ = ["batches_of", "rows_of"]


def batches_of(
    dataset: Any, batch_size: int, shuffle_buffer: int | None, *, seed: int | None, drop_remainder: bool
) -> Any:
    """Returns a `tf.data.Dataset` of batches; the arguments are those of `prepare_for_training`."""
    rows = None
    if is_repeatable(dataset) and fits_in_memory(dataset):
        examples: ArrayDataset = _ReadOnce(dataset)
        examples = examples if shuffle_buffer is None else examples.shuffle(seed=seed)
        rows = examples.batch(batch_size, drop_remainder=drop_remainder)
    if rows is None or shuffle_buffer is None:
        if shuffle_buffer is not None:
            dataset = dataset.shuffle(shuffle_buffer, seed=seed, reshuffle_each_iteration=True)
        batches = dataset.batch(batch_size, drop_remainder=drop_remainder)
    else:
        batches = _as_tf_data(rows, dataset.element_spec)
    # -1 is tf.data.AUTOTUNE.
    batches = batches.prefetch(-1)
    if rows is not None:
        _ROWS[batches] = rows
    return batches


def rows_of(batches: Any) -> BatchedDataset | None:
    """Returns the in-memory form of batches that `batches_of` returned, or None if they have none."""
    return _ROWS.get(batches) if hasattr(batches, "element_spec") else None


_ROWS: WeakKeyDictionary[Any, BatchedDataset] = WeakKeyDictionary()


class _ReadOnce(ArrayDataset):
    """The examples of a `tf.data.Dataset`, read into memory when the first one is requested."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._rows = int(dataset.cardinality())
        self._functions, self._steps = (), ()
        self._size, self._reshuffles = self._rows, False
        self._read = functools.cache(functools.partial(_arrays, dataset))

    @property
    def _arrays(self) -> Any:
        return self._read()

    @property
    def element_spec(self) -> Any:
        return self._dataset.element_spec


def _arrays(dataset: Any) -> Any:
    import tensorflow as tf

    blocks = list(dataset.batch(_BLOCK).as_numpy_iterator())
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts) if len(parts) > 1 else parts[0], *blocks)


_BLOCK = 1_024


def _as_tf_data(rows: BatchedDataset, element_spec: Any) -> Any:
    import tensorflow as tf

    def signature(spec: Any) -> Any:
        return tf.TensorSpec((None, *spec.shape), spec.dtype)

    batches = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=tf.nest.map_structure(signature, element_spec)
    )
    return batches.apply(tf.data.experimental.assert_cardinality(len(rows)))


def fits_in_memory(dataset: Any) -> bool:
    """Tells whether the examples have fixed shapes and together fit into the share `_SHARE` of the free memory."""
    import tensorflow as tf

    count, size = int(dataset.cardinality()), 0
    for spec in tf.nest.flatten(dataset.element_spec):
        if not isinstance(spec, tf.TensorSpec) or not spec.shape.is_fully_defined() or not spec.dtype.size:
            return False
        if spec.dtype in (tf.string, tf.variant, tf.resource):
            return False
        size += spec.dtype.size * math.prod(spec.shape)
    return count * size <= _SHARE * psutil.virtual_memory().available


_SHARE = 0.25
"""The largest share of the free memory; not all of it, since a training may hold a second copy on the device."""


def is_repeatable(dataset: Any) -> bool:
    """Tells whether the data set has a known, finite size and gives the same elements at every reading."""
    import tensorflow as tf

    if int(dataset.cardinality()) <= 0:
        return False
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset))
        graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    except (tf.errors.OpError, ValueError):
        return False  # The graph cannot be inspected: it holds a Python function or too many bytes, say.
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return all(_MAKES_ANEW.search(node.op) is None for node in nodes)


_MAKES_ANEW = re.compile("Random|Shuffle|PyFunc|Generator|Multinomial|Assign|SampleDistorted|Timestamp")
"""Operations that may give other values at each reading: random numbers, shuffling, Python functions, variables."""
