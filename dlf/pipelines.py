"""From single examples to shuffled batches, with TensorFlow's `tf.data` or without it.

What is asked of it:

* `prepare_for_training` means the same for a `tf.data.Dataset`, an `ArrayDataset` and a pair of arrays;
* an `ArrayDataset` has the methods of `tf.data.Dataset` that a notebook uses, under the same names;
* what Keras's `fit` receives is a `keras.utils.PyDataset`, which it reads on every backend without TensorFlow.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError

__all__ = ["ArrayDataset", "BatchedDataset", "prepare_for_training"]

_FULL_SHUFFLE = 10_000
"""The default buffer: `tf.data` keeps this many examples in memory while it shuffles; arrays are shuffled whole."""


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
        batch_size: Examples in a batch; the last batch holds what remains.
        shuffle_buffer: How many examples `tf.data` shuffles among; arrays are always shuffled whole. `None` keeps the
            order, as validation data should.
        seed: Makes the shuffling repeatable by itself; by default it follows `dlf.set_seed`.
        drop_remainder: Leaves out a last, smaller batch.

    Returns:
        A `tf.data.Dataset` where one came in; otherwise an object that Keras's `fit` takes on every backend.

    Raises:
        InvalidArgumentError: The batch size is not a positive integer, the data set is empty or of another kind.

    Example:
        >>> images, labels = np.zeros((10, 8, 8)), np.arange(10)
        >>> batches = prepare_for_training((images, labels), batch_size=4, shuffle_buffer=None)
        >>> [label.tolist() for _, label in batches]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """
    for argument, value in (("batch_size", batch_size), ("shuffle_buffer", shuffle_buffer)):
        # NumPy's integers are integers too; True is not one that anybody means.
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise InvalidArgumentError(argument, expected="a positive integer", received=value)
    if isinstance(dataset, tuple):
        dataset = ArrayDataset(*dataset)
    if not callable(getattr(dataset, "batch", None)):
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
    if shuffle_buffer is not None:
        dataset = dataset.shuffle(shuffle_buffer, seed=seed, reshuffle_each_iteration=True)
    # -1 is tf.data.AUTOTUNE, written so that this module needs no TensorFlow.
    return dataset.batch(batch_size, drop_remainder=drop_remainder).prefetch(-1)


class ArrayDataset:
    """Examples that lie in memory, with the methods of `tf.data.Dataset` that a notebook uses.

    An element is one example: a tuple of what lies at the same place along the first axis of each array, such as
    ``(image, label)``. Every method returns a new data set; the arrays are shared and never written to.

    Args:
        arrays: Arrays of equal length; the first axis counts the examples.

    Raises:
        InvalidArgumentError: No array, or arrays of different lengths.

    Example:
        >>> dataset = ArrayDataset(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 0]))
        >>> doubled = dataset.map(lambda x, y: (2 * x, y)).take(2)
        >>> [(x.tolist(), int(y)) for x, y in doubled]
        [([2.0], 0), ([4.0], 1)]
    """

    def __init__(self, *arrays: Any) -> None:
        self._arrays = tuple(np.asarray(array) for array in arrays)
        lengths = [len(array) if array.ndim else 0 for array in self._arrays]
        if not lengths or len(set(lengths)) > 1:
            raise InvalidArgumentError(
                "arrays", expected="one or more arrays of the same length", received=tuple(lengths)
            )
        self._indices = np.arange(lengths[0])
        self._functions: tuple[Callable[..., Any], ...] = ()
        self._shuffle_seed: int | None = None

    def _with(self, **changes: Any) -> ArrayDataset:
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, **changes}
        return other

    def map(self, function: Callable[..., Any], num_parallel_calls: Any = None, **_: Any) -> ArrayDataset:
        """Applies a function to each element, whenever it is read; the elements' parts are its arguments."""
        return self._with(_functions=(*self._functions, function))

    def take(self, count: int) -> ArrayDataset:
        """Keeps the first `count` elements; -1 keeps all."""
        return self if count < 0 else self._with(_indices=self._indices[:count])

    def skip(self, count: int) -> ArrayDataset:
        """Leaves out the first `count` elements; -1 leaves out all."""
        return self._with(_indices=self._indices[count:] if count >= 0 else self._indices[:0])

    def shuffle(
        self, buffer_size: int | None = None, seed: int | None = None, reshuffle_each_iteration: bool = True, **_: Any
    ) -> ArrayDataset:
        """Draws a new order of all elements at every iteration; `buffer_size` is not needed in memory."""
        # From NumPy's global stream, which `set_seed` starts: unseeded runs differ and seeded ones do not.
        drawn = int(np.random.randint(2**31)) if seed is None else seed  # noqa: NPY002
        if not reshuffle_each_iteration:
            return self._with(_indices=_permuted(self._indices, drawn, 0))
        return self._with(_shuffle_seed=drawn)

    def batch(self, batch_size: int, drop_remainder: bool = False, **_: Any) -> Any:
        """Joins elements into batches, in a form that Keras's `fit` takes on every backend."""
        return BatchedDataset(self, batch_size, drop_remainder)

    def cache(self, filename: str = "") -> ArrayDataset:
        """Computes every element once, now, and keeps the results."""
        elements = [self.element(place) for place in range(len(self))]
        if not elements or not isinstance(elements[0], tuple):
            return self
        cached = ArrayDataset(*(np.stack(column) for column in zip(*elements, strict=True)))
        cached._shuffle_seed = self._shuffle_seed
        return cached

    def prefetch(self, buffer_size: int | None = None) -> ArrayDataset:
        """Returns the data set itself: it is in memory already."""
        return self

    def as_numpy_iterator(self) -> Iterator[Any]:
        """Iterates over the elements, as `iter` does."""
        return iter(self)

    def cardinality(self) -> Any:
        """Returns the number of elements; a notebook may ask it for ``.numpy()``."""
        return _notebook_arrays(len(self))

    def ordered(self, epoch: int) -> ArrayDataset:
        """Returns the elements in this epoch's order: a new one for each epoch where the data set is shuffled."""
        if self._shuffle_seed is None:
            return self
        return self._with(_indices=_permuted(self._indices, self._shuffle_seed, epoch), _shuffle_seed=None)

    def element(self, place: int) -> Any:
        """Computes one element: what the mapped functions make of the example at this place of the order."""
        index = self._indices[place]
        value: Any = tuple(array[index, ...] for array in self._arrays)
        for function in self._functions:
            value = function(*value) if isinstance(value, tuple) else function(value)
        return keras.tree.map_structure(_as_array, value)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Any]:
        epoch = 0 if self._shuffle_seed is None else int(np.random.randint(2**31))  # noqa: NPY002
        order = self.ordered(epoch)
        return (_notebook_arrays(order.element(place)) for place in range(len(self)))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{array.shape[1:]} {array.dtype}" for array in self._arrays)
        return f"<ArrayDataset of {len(self):,} elements: {shapes}, {len(self._functions)} mapped>"


class BatchedDataset(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Reads one batch at a time, and draws the next epoch's order when Keras says that an epoch has ended."""

    def __init__(self, examples: ArrayDataset, batch_size: int, drop_remainder: bool) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._examples = examples
        self._drop_remainder = drop_remainder
        self._epoch = 0
        self._ordered = examples.ordered(0)

    def __len__(self) -> int:
        return _batch_count(len(self._examples), self.batch_size, drop_remainder=self._drop_remainder)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        start = index * self.batch_size
        places = range(start, min(start + self.batch_size, len(self._ordered)))
        return _stack([self._ordered.element(place) for place in places])

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        self._epoch += 1
        self._ordered = self._examples.ordered(self._epoch)

    def take(self, count: int) -> list[Any]:
        """Returns the first `count` batches of the order as it stands."""
        return [_notebook_arrays(self[index]) for index in range(min(count, len(self)))]

    def prefetch(self, buffer_size: int | None = None) -> BatchedDataset:
        """Returns the batches themselves: the examples are in memory already."""
        return self

    def as_numpy_iterator(self) -> Iterator[Any]:
        """Iterates over the batches, as `iter` does."""
        return iter(self)

    def cardinality(self) -> Any:
        """Returns the number of batches; a notebook may ask it for ``.numpy()``."""
        return _notebook_arrays(len(self))

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield _notebook_arrays(self[index])
        self.on_epoch_end()

    def __repr__(self) -> str:
        return f"<BatchedDataset of {len(self):,} batches of {self.batch_size}: {self._examples!r}>"


class _NotebookArray(np.ndarray):
    """An array that answers ``.numpy()`` too, as the elements of a `tf.data.Dataset` do."""

    def numpy(self) -> np.ndarray:
        """Returns the plain array."""
        return np.asarray(self)


def _notebook_arrays(value: Any) -> Any:
    """Returns the same structure of arrays, each with a ``numpy`` method."""
    return keras.tree.map_structure(lambda array: np.asarray(array).view(_NotebookArray), value)


def as_backend_holds(value: Any) -> Any:
    """Returns the same arrays, narrowed to 32 bits on JAX unless 64 were asked for.

    JAX holds them so in any case. From 0.12 on it warns of each, and a label of 64 bits is what NumPy makes.
    """
    if keras.config.backend() != "jax" or sys.modules["jax"].config.jax_enable_x64:
        return value
    return keras.tree.map_structure(_narrowed, value)


def _narrowed(value: Any) -> Any:
    narrower = {"int64": np.int32, "uint64": np.uint32, "float64": np.float32}
    is_wide = isinstance(value, np.ndarray) and value.dtype.name in narrower
    return value.astype(narrower[value.dtype.name]) if is_wide else value


def _stack(elements: list[Any]) -> Any:
    """Joins elements of the same structure into one, along a new first axis."""
    return as_backend_holds(keras.tree.map_structure(lambda *parts: np.stack(parts), *elements))


def _batch_count(examples: int, batch_size: int, *, drop_remainder: bool) -> int:
    """Returns how many batches these examples make."""
    return examples // batch_size if drop_remainder else math.ceil(examples / batch_size)


def _permuted(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(indices)


def _as_array(value: Any) -> np.ndarray:
    """A mapped function may return NumPy's arrays, numbers, or the tensors of any framework on any device."""
    if keras.ops.is_tensor(value):
        return np.asarray(keras.ops.convert_to_numpy(value))
    return np.asarray(value)
