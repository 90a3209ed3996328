"""Examples and batches in memory, with the method names of TensorFlow's `tf.data`.

Requirements:

* an `ArrayDataset` has the methods of `tf.data.Dataset` that a notebook uses, under the same names;
* the batches are a `keras.utils.PyDataset`, which Keras's `fit` reads on every backend without TensorFlow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeAlias

import keras
import numpy as np

from dlf.data.conversion import as_array, as_data_sets_give
from dlf.utils.errors import InvalidArgumentError, check_positive

__all__ = [
    "ArrayDataset",
    "BatchedDataset",
]


class _InMemory:
    """The methods of `tf.data.Dataset` that `ArrayDataset` and `BatchedDataset` share."""

    def prefetch(self, buffer_size: int | None = None) -> Self:
        """Returns the data set itself, since it is in memory already."""
        return self

    def as_numpy_iterator(self) -> Iterator[Any]:
        """Returns `iter(self)`: the elements are NumPy arrays already."""
        return iter(self)

    def cardinality(self) -> Any:
        """Returns the length, as an array that has the method ``numpy()`` that notebooks call."""
        return _notebook_arrays(len(self))

    def _with(self, **changes: Any) -> Self:
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, **changes}
        other.__dict__.pop("_computed", None)
        return other

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class ArrayDataset(_InMemory):
    """Examples in memory, with the methods of `tf.data.Dataset` that a notebook uses.

    An element is one example: the entries of all arrays at one index of the first axis, such as ``(image, label)``.
    Each transformation returns a new data set; the arrays are shared and never written to.

    Args:
        arrays: Arrays, or dictionaries of arrays, of equal length; the first axis counts the examples.

    Raises:
        InvalidArgumentError: There is no array, or the arrays have different lengths.

    Example:
        >>> dataset = ArrayDataset(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 0]))
        >>> doubled = dataset.map(lambda x, y: (2 * x, y)).take(2)
        >>> [(x.tolist(), int(y)) for x, y in doubled]
        [([2.0], 0), ([4.0], 1)]
    """

    def __init__(self, *arrays: Any) -> None:
        self._arrays: Any = tuple(
            keras.tree.map_structure(np.asarray, part) if _is_structure(part) else np.asarray(part) for part in arrays
        )
        lengths = [len(array) if array.ndim else 0 for array in keras.tree.flatten(self._arrays)]
        if not lengths or len(set(lengths)) > 1:
            raise InvalidArgumentError(
                "arrays", expected="one or more arrays of the same length", received=tuple(lengths)
            )
        self._rows = lengths[0]
        self._functions: tuple[_Function, ...] = ()
        # One function (rows, epoch) -> rows for each take, skip, shuffle and so on, applied in this order.
        self._steps: tuple[_Step, ...] = ()
        self._size = self._rows
        self._reshuffles = False

    def map(self, function: _Function, num_parallel_calls: Any = None, **_: Any) -> ArrayDataset:
        """Applies a function to each element each time it is read; the parts of the element are its arguments."""
        return self._with(_functions=(*self._functions, function))

    def filter(self, predicate: _Function, **_: Any) -> ArrayDataset:
        """Keeps the elements for which the predicate is true; it is called now, once for each row."""
        kept = np.array([bool(_called(predicate, self._row(row))) for row in range(self._rows)], bool)
        return self._then(lambda rows, _: rows[kept[rows]])

    def take(self, count: int) -> ArrayDataset:
        """Keeps the first `count` elements; -1 keeps all."""
        return self if count < 0 else self._then(lambda rows, _: rows[:count])

    def skip(self, count: int) -> ArrayDataset:
        """Skips the first `count` elements; -1 skips all."""
        return self._then(lambda rows, _: rows[count:] if count >= 0 else rows[:0])

    def repeat(self, count: int | None = None) -> ArrayDataset:
        """Repeats the elements `count` times; endless repetition is not supported (use the epochs of `fit`)."""
        check_positive("count", count)
        return self._then(lambda rows, _: np.tile(rows, count or 0))

    def shuffle(
        self, buffer_size: int | None = None, seed: int | None = None, reshuffle_each_iteration: bool = True, **_: Any
    ) -> ArrayDataset:
        """Shuffles all elements, anew in each iteration; `buffer_size` is ignored, since all are in memory."""
        # NumPy's global generator, which `set_seed` seeds: seeded runs repeat, and unseeded ones differ.
        drawn = int(np.random.randint(2**31)) if seed is None else seed  # noqa: NPY002
        if not reshuffle_each_iteration:
            return self._then(lambda rows, _: _shuffled(rows, drawn, 0))
        shuffled = self._then(lambda rows, epoch: _shuffled(rows, drawn, epoch))
        return shuffled._with(_reshuffles=True)  # noqa: SLF001 - one of our own.

    def batch(self, batch_size: int, drop_remainder: bool = False, **_: Any) -> BatchedDataset:
        """Combines elements into batches, in a form that Keras's `fit` accepts on every backend."""
        check_positive("batch_size", batch_size)
        if drop_remainder and batch_size > len(self):
            raise InvalidArgumentError(
                "batch_size", expected=f"at most {len(self)}, where drop_remainder is on", received=batch_size
            )
        return BatchedDataset(self, batch_size, drop_remainder=drop_remainder)

    def cache(self, filename: str = "") -> ArrayDataset:
        """Computes each element once, now, and keeps the results."""
        if not self._functions:
            return self
        results = _stack([self._row(row) for row in range(self._rows)])
        return self._with(_arrays=results, _functions=())

    @property
    def element_spec(self) -> Any:
        """The shape and dtype of each part of an element."""
        return keras.tree.map_structure(lambda part: keras.KerasTensor(part.shape, part.dtype.name), self._row(0))

    def raw_arrays(self) -> tuple[Any, ...] | None:
        """Returns the arrays that the elements are taken from, or None if `map` has changed the elements."""
        return self._arrays if isinstance(self._arrays, tuple) and not self._functions else None

    def computed(self) -> Any:
        """Returns the elements of all rows, stacked and cached, or None if they differ from one reading to the next.

        A mapped function that draws random numbers gives different elements at each reading. Caching the first ones
        would change the meaning of the data set. Such a function is detected by a change in a global generator's
        state, or by computing the first rows twice.
        """
        if "_computed" not in self.__dict__:
            self._computed = self._arrays if not self._functions else self._compute()
        return self._computed

    def _compute(self) -> Any:
        before = _random_states()
        results = _stack([self._row(row) for row in range(self._rows)])
        again = _stack([self._row(row) for row in range(min(self._rows, _READ_TWICE))])
        first = keras.tree.map_structure(lambda part: part[:_READ_TWICE], results)
        pairs = zip(keras.tree.flatten(first), keras.tree.flatten(again), strict=True)
        same = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
        return results if same and before == _random_states() else None

    def order(self, epoch: int) -> np.ndarray:
        """Returns the row numbers in the order of this epoch; a shuffled data set has a new order in each epoch."""
        rows = np.arange(self._rows)
        for step in self._steps:
            rows = step(rows, epoch)
        return rows

    def _row(self, row: int) -> Any:
        value = keras.tree.map_structure(lambda array: array[row, ...], self._arrays)
        for function in self._functions:
            value = _called(function, value)
        return keras.tree.map_structure(as_array, value)

    def rows(self, rows: np.ndarray) -> Any:
        """Computes the elements of these rows and stacks them along a new first axis."""
        if not self._functions:
            return keras.tree.map_structure(lambda array: array[rows], self._arrays)
        return _stack([self._row(row) for row in rows])

    def _then(self, step: _Step) -> ArrayDataset:
        return self._with(_steps=(*self._steps, step), _size=len(step(self.order(0), 0)))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        epoch = int(np.random.randint(2**31)) if self._reshuffles else 0  # noqa: NPY002
        return (_notebook_arrays(self._row(row)) for row in self.order(epoch))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{part.shape[1:]} {part.dtype}" for part in keras.tree.flatten(self._arrays))
        return f"<ArrayDataset of {len(self):,} elements: {shapes}, {len(self._functions)} mapped>"


class BatchedDataset(_InMemory, keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Batches of an `ArrayDataset`. Keras reads them one by one, and calls `on_epoch_end` after each epoch."""

    def __init__(self, examples: ArrayDataset, batch_size: int, *, drop_remainder: bool = False) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.examples = examples
        batches = len(examples) // batch_size if drop_remainder else math.ceil(len(examples) / batch_size)
        self._places = range(batches)
        self._functions: tuple[_Function, ...] = ()
        self._epoch = 0
        self._order = examples.order(0)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        start = self._places[index] * self.batch_size
        batch = self.examples.rows(self._order[start : start + self.batch_size])
        for function in self._functions:
            batch = keras.tree.map_structure(as_array, _called(function, batch))
        return as_data_sets_give(batch)

    def batch_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the row numbers of this epoch's batches, as two arrays.

        The first has shape ``(batches, batch_size)``. The second, for a last, smaller batch, has shape ``(1, size)``,
        or ``(0, 0)`` if there is none.
        """
        places = self._places
        rows = self._order[places.start * self.batch_size : places.stop * self.batch_size]
        whole = len(rows) // self.batch_size * self.batch_size
        # Without the last slice, the second array would have one empty row where nothing is left over.
        return rows[:whole].reshape(-1, self.batch_size), rows[np.newaxis, whole:][: len(rows) - whole]

    @property
    def maps_batches(self) -> bool:
        """Whether `map` has changed the batches, so that the rows of the examples alone do not give them."""
        return bool(self._functions)

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        self.begin(self._epoch + 1)

    @property
    def epoch(self) -> int:
        """The number of the epoch whose order the batches have, from 0."""
        return self._epoch

    def begin(self, epoch: int) -> None:
        """Draws the order of an epoch."""
        self._epoch = epoch
        self._order = self.examples.order(epoch)

    def map(self, function: _Function, num_parallel_calls: Any = None, **_: Any) -> BatchedDataset:
        """Applies a function to each batch each time it is read; the parts of the batch are its arguments."""
        return self._with(_functions=(*self._functions, function))

    def take(self, count: int) -> BatchedDataset:
        """Keeps the first `count` batches; -1 keeps all."""
        return self if count < 0 else self._with(_places=self._places[:count])

    def skip(self, count: int) -> BatchedDataset:
        """Skips the first `count` batches; -1 skips all."""
        return self._with(_places=self._places[count:] if count >= 0 else self._places[:0])

    def unbatch(self) -> ArrayDataset:
        """Returns the single examples."""
        if self._functions or self._places != range(math.ceil(len(self.examples) / self.batch_size)):
            joined = keras.tree.map_structure(
                lambda *parts: np.concatenate(parts), *(self[i] for i in range(len(self)))
            )
            return ArrayDataset(*joined) if isinstance(joined, tuple) else ArrayDataset(joined).map(lambda part: part)
        return self.examples

    def cache(self, filename: str = "") -> BatchedDataset:
        """Returns the data set itself, since its examples are in memory already."""
        return self

    @property
    def element_spec(self) -> Any:
        """The shape and dtype of each part of a batch, with None for the number of examples."""
        return keras.tree.map_structure(
            lambda part: keras.KerasTensor((None, *part.shape[1:]), part.dtype.name), self[0]
        )

    def raw_arrays(self) -> tuple[Any, ...] | None:
        """Returns the arrays that the examples are taken from, or None if `map` has changed examples or batches."""
        return None if self._functions else self.examples.raw_arrays()

    def __iter__(self) -> Iterator[Any]:
        started = self._epoch
        for index in range(len(self)):
            yield _notebook_arrays(self[index])
        # tf.data runs this generator to its end in another thread, when the next epoch may have begun already.
        if self._epoch == started:
            # By number: the next epoch may begin between the comparison and this call, and must not be skipped.
            self.begin(started + 1)

    def __repr__(self) -> str:
        return f"<BatchedDataset of {len(self):,} batches of {self.batch_size}: {self.examples!r}>"


_READ_TWICE = 16
"""How many rows are computed twice, to see whether they come out the same."""

_Function: TypeAlias = Callable[..., Any]
_Step: TypeAlias = Callable[[np.ndarray, int], np.ndarray]


class _NotebookArray(np.ndarray):
    """An array with the method ``numpy()``, like the elements of a `tf.data.Dataset`."""

    def numpy(self) -> np.ndarray:
        """Returns the plain array."""
        return np.asarray(self)

    def __getitem__(self, key: Any) -> Any:
        # Notebooks call ``numpy()`` on single numbers, too.
        return np.asarray(super().__getitem__(key)).view(_NotebookArray)


def _shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Returns the rows in a random order for this epoch, the same with every version of NumPy.

    `RandomState` is frozen: NumPy promises that its stream never changes. Source: NumPy Enhancement Proposal 19.
    """
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    return np.random.RandomState(bits).permutation(rows)


def _random_states() -> tuple[Any, ...]:
    """Returns the states of the global generators of Python and NumPy; equal states mean that nothing was drawn."""
    state: Any = np.random.get_state()  # noqa: NPY002 - the global one.
    return random.getstate(), state[1].tobytes(), state[2]


def _is_structure(part: Any) -> bool:
    """Tells whether a part of an example is a dictionary, list or tuple of arrays, as for models with many inputs."""
    return isinstance(part, dict) or (
        isinstance(part, list | tuple)
        and bool(part)
        and all(hasattr(each, "shape") for each in keras.tree.flatten(part))
    )


def _called(function: _Function, value: Any) -> Any:
    return function(*value) if isinstance(value, tuple) else function(value)


def _notebook_arrays(value: Any) -> Any:
    """Returns the same structure, with each array as a `_NotebookArray`."""
    return keras.tree.map_structure(lambda array: np.asarray(array).view(_NotebookArray), value)


def _stack(elements: list[Any]) -> Any:
    """Stacks elements of the same structure along a new first axis."""
    return keras.tree.map_structure(lambda *parts: np.stack(parts), *elements)
