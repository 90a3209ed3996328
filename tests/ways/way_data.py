"""The same few examples in each form that Keras's `fit` takes, and data sets that record how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import scipy.sparse
from way_models import CLASSES, FEATURES, STEPS

from dlf.data.prepare import prepare_for_training

COUNT, BATCH = 12, 4
"""The number of examples is a multiple of the batch size: a batch of another shape would need another compilation."""

_RANDOM = np.random.default_rng(11)
X = _RANDOM.normal(size=(COUNT, FEATURES)).astype("float32")
Y = np.arange(COUNT) % CLASSES
SIZES = _RANDOM.normal(size=(COUNT, 1)).astype("float32")
SERIES = _RANDOM.normal(size=(COUNT, STEPS, FEATURES)).astype("float32")
SERIES[:, 3:] = 0
TOKENS = np.where(np.arange(STEPS) < _RANDOM.integers(1, STEPS, (COUNT, 1)), 3 + np.arange(COUNT)[:, None] % 6, 0)
WEIGHTS = np.linspace(0.2, 2, COUNT).astype("float32")

CALLS: list[str] = []
"""The calls that the data sets below received, in order."""


class Noted(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
    """Records how it is read, and returns other examples after each call of `on_epoch_end`."""

    def __init__(self, name: str = "", batches: int = 3, make: Callable[[Any, Any], Any] = lambda x, y: (x, y)) -> None:
        super().__init__()
        self.name, self.batches, self.make, self.ended = name, batches, make, 0

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Any:
        CALLS.append(f"{self.name}{index}")
        rows = slice(BATCH * index, BATCH * index + BATCH)
        return self.make(X[rows] * (1 + self.ended), Y[rows])

    def on_epoch_begin(self) -> None:
        CALLS.append(f"{self.name}begin")

    def on_epoch_end(self) -> None:
        CALLS.append(f"{self.name}end")
        self.ended += 1


class Shrinking(Noted):
    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self.batches -= 1


class Breaking(Noted):
    """Raises an error at its third batch once two epochs have ended."""

    def __getitem__(self, index: int) -> Any:
        if self.ended > 1 and index == 2:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def arrays() -> Any:
    return X, Y


def weighted() -> Any:
    return X, Y, WEIGHTS


def series() -> Any:
    return SERIES, Y


def tokens() -> Any:
    return TOKENS, Y


def sparse_matrix() -> Any:
    return scipy.sparse.csr_matrix(np.where(X > 0, X, 0)), Y


def sparse_tensor() -> Any:
    import tensorflow as tf

    return tf.sparse.from_dense(np.where(X > 0, X, 0)), Y


def ragged_tokens() -> Any:
    """Returns sequences of which the last batch has only the shortest: padding all to the longest would change it."""
    import tensorflow as tf

    return tf.ragged.constant([[3 + row % 6] * (1 + row * 5 // COUNT) for row in reversed(range(COUNT))]), Y


def in_a_list() -> Any:
    return [X, X[::-1].copy()], Y


def in_a_tuple() -> Any:
    return (X, X[::-1].copy()), Y


def by_name() -> Any:
    return {"left": X, "right": X[::-1].copy()}, Y


def two_labels() -> Any:
    return X, [Y, SIZES]


def named_labels() -> Any:
    return X, {"kind": Y, "size": SIZES}


def named_weights() -> Any:
    return X, {"kind": Y, "size": SIZES}, {"kind": WEIGHTS, "size": WEIGHTS[::-1].copy()}


def batches(make: Callable[[Any, Any], Any] = lambda x, y: (x, y)) -> Iterator[Any]:
    for start in range(0, COUNT, BATCH):
        yield make(X[start : start + BATCH], Y[start : start + BATCH])


def endless() -> Iterator[Any]:
    while True:
        yield from batches()


def as_tf_data(shuffled: bool = False, known: bool = True, repeated: bool = False, size: int = BATCH) -> Any:
    import tensorflow as tf

    examples = tf.data.Dataset.from_tensor_slices((X, Y))
    examples = examples.shuffle(COUNT, seed=5) if shuffled else examples
    examples = examples if known else examples.filter(lambda x, y: True)
    examples = examples.batch(size)
    return examples.repeat() if repeated else examples


def inputs_as_tf_data() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(X).batch(BATCH)


def as_loader(shuffled: bool = False) -> Any:
    import torch

    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(
        data, batch_size=BATCH, shuffle=shuffled, generator=torch.Generator().manual_seed(5)
    )


def as_pipeline(shuffled: bool = True) -> Any:
    return prepare_for_training((X, Y), BATCH, 100 if shuffled else None, seed=3)
