"""What an epoch is fed: examples that lie on the device, or blocks of batches that are read ahead.

What is asked of it:

* a feed gives the batches that Keras's own loop would read, in their order, each once in an epoch;
* examples that do not fit on the device are brought there a block at a time, while the block before is computed on;
* what Keras alone can read is refused with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from dlf.backend.protocol import EpochRunner
from dlf.data.array_dataset import BatchedDataset
from dlf.data.conversion import as_array, as_in_this_thread, as_keras_feeds
from dlf.data.tf_data import rows_of
from dlf.training.engine._opening import begin_as_keras_does_after_an_epoch, is_told_of_epochs, look_as_keras_does
from dlf.training.engine.arrays import ArrayBatches

__all__ = ["Blocks", "Feed", "NotFusedError", "Piece", "Resident", "Stream", "check_readable", "find_feed"]


class NotFusedError(Exception):
    """Only Keras's own loop can do this; the message says why."""


@dataclass(frozen=True)
class Piece:
    """Examples on the device, and the rows of each batch: ``(batches, examples in a batch)``."""

    data: Any
    rows: Any
    steps: int
    """How many of the batches count: a block shorter than the others is filled up to their length."""


@dataclass(frozen=True)
class _Block:
    """The same in the host's memory, one batch after the other."""

    data: Any
    steps: int
    size: int
    count: int

    def on_device(self, runner: EpochRunner) -> Piece:
        rows = np.arange(self.steps * self.size, dtype=np.int32).reshape(self.steps, self.size)
        return Piece(runner.put(self.data), runner.put(rows), self.count)


class Feed:
    """The batches of one epoch after the other.

    Args:
        dataset: Where they come from; it is told when an epoch begins and ends, as Keras's loop does.
        runner: What puts arrays on the device.
        remark: Why it is not the fastest kind, or nothing.
    """

    def __init__(self, dataset: Any, runner: EpochRunner, remark: str = "") -> None:
        self.dataset, self.runner, self.remark = dataset, runner, remark
        self.first: Any = None
        """The first batch in the host's memory, where it could not be had before."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.dataset)

    def look(self, *, builds: bool) -> None:
        """Looks at the data as Keras does before the first epoch; `builds` where the model has yet to be built."""

    def reset(self) -> None:
        """Called between that look and the first epoch, and before each evaluation."""

    def read_one_at_a_time(self) -> None:
        """Called where a callback sees each batch, and may want no other."""

    def begin_epoch(self) -> None:
        """Called before an epoch's first batch."""

    def end_epoch(self, *, broken_off: bool = False) -> None:  # noqa: ARG002 - dlf's own have their next order anyway.
        """Called after an epoch's last batch, or where it is broken off."""
        self.dataset.on_epoch_end()

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """The batches of this epoch, but for the first `skip`."""
        raise NotImplementedError

    def sample(self) -> Piece | None:
        """A piece with the first batch, or None where there is none."""
        return next(self.pieces(), None)

    def without_room(self) -> Feed | None:
        """Returns a feed of the same batches that needs less memory on the device, or None."""
        return None


class Resident(Feed):
    """All examples lie on the device; a batch is gathered there by its rows."""

    def __init__(self, dataset: BatchedDataset, arrays: Any, runner: EpochRunner) -> None:
        super().__init__(dataset, runner)
        self._arrays, self._on_device = arrays, None

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """The batches of this epoch, but for the first `skip`."""
        if self._on_device is None:
            self._on_device = self.runner.put(self._arrays)
        for rows in _but_for(self.dataset.batch_rows(), skip):
            yield Piece(self._on_device, self.runner.put(rows), len(rows))

    def without_room(self) -> Feed:
        """Returns a feed that brings them to the device a block at a time."""
        self._on_device = None
        return Blocks(self.dataset, self._arrays, self.runner, "the device has no memory left")


class Blocks(Feed):
    """All examples lie in the host's memory; they are gathered there, and brought to the device in blocks."""

    def __init__(self, dataset: BatchedDataset, arrays: Any, runner: EpochRunner, remark: str) -> None:
        super().__init__(dataset, runner, remark)
        self._arrays = arrays

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """The batches of this epoch, but for the first `skip`."""
        return (block.on_device(self.runner) for block in _ahead(self._blocks(skip)))

    def sample(self) -> Piece | None:
        """A piece with the first block."""
        return next((block.on_device(self.runner) for block in self._blocks(0)), None)

    def _blocks(self, skip: int) -> Iterator[_Block]:
        example = sum(array.nbytes // max(len(array), 1) for array in keras.tree.flatten(self._arrays))
        for rows in _but_for(self.dataset.batch_rows(), skip):
            size = rows.shape[1]
            steps = min(len(rows), _steps_in_a_block(example * size))
            for start in range(0, len(rows), steps):
                block = rows[start : start + steps]
                # Filled up by going round: a block of another shape would be compiled anew.
                taken = np.resize(block.ravel(), steps * size)
                data = keras.tree.map_structure(lambda array, taken=taken: array[taken], self._arrays)
                yield _Block(data, steps, size, len(block))


class Stream(Feed):
    """Batches that somebody else makes, in turn; those of one shape are brought to the device together."""

    def __init__(
        self, dataset: Any, read: Callable[[], Iterable[Any]], runner: EpochRunner, remark: str, *, ahead: bool
    ) -> None:
        super().__init__(dataset, runner, remark)
        self._read = read
        # Not where Python makes the batches: Keras's generators of random numbers are another's in another thread.
        self._in_turn = _ahead if ahead else iter
        self._longest: dict[Any, int] = {}
        self._most = _BLOCK_STEPS
        self._is_told = is_told_of_epochs(dataset)
        self._steps = self._count()
        self._looked_at: Any = None
        self._begun: Iterator[Any] | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch: as many as there were at the last reset, as in Keras."""
        return self._steps

    def _count(self) -> int:
        if self._is_told:
            return int(self.dataset.num_batches)
        return int(self.dataset.cardinality()) if hasattr(self.dataset, "cardinality") else len(self.dataset)

    def look(self, *, builds: bool) -> None:
        """Looks at the data as Keras does before the first epoch; `builds` where the model has yet to be built."""
        self._looked_at = look_as_keras_does(self.dataset, self._read, builds=builds)

    def reset(self) -> None:
        """Called between that look and the first epoch, and before each evaluation."""
        if self._begun is None:
            self._steps = self._count()
            if self._is_told:
                self.dataset.on_epoch_end()

    def begin_epoch(self) -> None:
        """Called before an epoch's first batch."""
        if self._is_told and self._begun is None:
            self.dataset.on_epoch_begin()

    def end_epoch(self, *, broken_off: bool = False) -> None:
        """Called after an epoch's last batch, or where it is broken off."""
        # Of one that is broken off, Keras tells nobody and begins no other; dlf's own batches get their next order.
        if not broken_off:
            begin_as_keras_does_after_an_epoch(self.dataset)
        if not broken_off or not self._is_told:
            getattr(self.dataset, "on_epoch_end", lambda: None)()

    def read_one_at_a_time(self) -> None:
        """Called where a callback sees each batch, and may want no other."""
        self._most, self._in_turn = 1, iter

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """The batches of this epoch, but for the first `skip`."""
        return (block.on_device(self.runner) for block in self._in_turn(self._blocks(skip)))

    def sample(self) -> Piece | None:
        """A piece with the first batch alone: the one that was looked at, or that with which the first epoch begins."""
        first, self._looked_at = self._looked_at, None
        if first is None:
            self.reset()
            self.begin_epoch()
            begun = iter(self._read())
            first = next(begun, None)
            self._begun = itertools.chain([] if first is None else [first], begun)
        if first is None:
            return None
        self.first = _as_fed(first)
        return _joined([self.first], 1).on_device(self.runner)

    def _batches(self, skip: int) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        batches = itertools.islice(iter(self._read()) if begun is None else begun, self._steps)
        return itertools.islice(batches, skip, None)

    def _blocks(self, skip: int) -> Iterator[_Block]:
        block: list[Any] = []
        batches = self._batches(skip)
        while True:
            try:
                each = next(batches, _NO_MORE)
            except BaseException:
                # Keras has trained on the batches before it.
                if block:
                    yield self._filled_up(block)
                raise
            if each is _NO_MORE:
                break
            batch = _as_fed(each)
            if block and _shapes(batch) != _shapes(block[0]):
                yield self._filled_up(block)
                block = []
            block.append(batch)
            if len(block) >= min(self._most, _steps_in_a_block(_nbytes(batch))):
                yield self._filled_up(block)
                block = []
        if block:
            yield self._filled_up(block)

    def _filled_up(self, block: list[Any]) -> _Block:
        shapes = _shapes(block[0])
        steps = self._longest[shapes] = max(len(block), self._longest.get(shapes, 0))
        return _joined(block, steps)


def find_feed(data: Any, runner: EpochRunner, room: int) -> Feed:
    """Finds the fastest way to feed these data without changing what they mean.

    Args:
        data: Batches.
        runner: What puts arrays on the device.
        room: The bytes that the examples may take there.

    Returns:
        The feed.

    Raises:
        NotFusedError: Only Keras's own loop can read them.
    """
    if isinstance(data, BatchedDataset):
        return _feed_rows(data, runner, room)
    if hasattr(data, "element_spec") and hasattr(data, "cardinality"):
        rows = rows_of(data)
        if rows is not None:
            return _feed_rows(rows, runner, room)
        count = int(data.cardinality())
        if count < 0:
            raise NotFusedError("the data set is endless" if count == _ENDLESS else "the data set's length is unknown")
        if any(type(spec).__name__ != "TensorSpec" for spec in keras.tree.flatten(data.element_spec)):
            raise NotFusedError("the data set holds ragged or sparse tensors")
        remark = "the examples are not, or cannot be, kept in memory"
        return Stream(data, data.as_numpy_iterator, runner, remark, ahead=True)
    check_readable(data)
    return _stream(data, runner, "a keras.utils.PyDataset makes the batches")


def check_readable(data: Any) -> None:
    """Raises unless the data are a `PyDataset` that can be read here.

    Args:
        data: Batches that somebody makes.

    Raises:
        NotFusedError: Only Keras's own loop can read them.
    """
    if not isinstance(data, keras.utils.PyDataset):
        raise NotFusedError(f"a {type(data).__name__} is read by Keras alone")
    if data.num_batches is None:
        raise NotFusedError("the data set is endless")
    if data.workers > 1 or data.use_multiprocessing:
        raise NotFusedError("the data set is read by workers of its own")
    if any(isinstance(each, keras.layers.Layer | keras.Variable) for each in vars(data).values()):
        # It may make each batch by what the model has learnt from the one before.
        raise NotFusedError("the data set holds a model")


def _feed_rows(dataset: BatchedDataset, runner: EpochRunner, room: int) -> Feed:
    if dataset.maps_batches:
        return _stream(dataset, runner, "a function is mapped over the batches")
    arrays = dataset.examples.computed()
    if arrays is None:
        return _stream(dataset, runner, "a mapped function gives other elements at each reading")
    if isinstance(dataset, ArrayBatches):
        arrays = dataset.as_keras_hands(arrays)
    arrays = keras.tree.map_structure(as_keras_feeds, arrays)
    size = _nbytes(arrays)
    if size > room:
        remark = f"the examples take {size / 2**20:,.1f} MiB, and may take {room / 2**20:,.1f} MiB"
        return Blocks(dataset, arrays, runner, remark)
    return Resident(dataset, arrays, runner)


def _stream(dataset: Any, runner: EpochRunner, remark: str) -> Stream:
    def read() -> Iterator[Any]:
        return (_as_keras_takes(dataset[index]) for index in range(dataset.num_batches))

    return Stream(dataset, read, runner, remark, ahead=False)


_NO_MORE = object()


_ENDLESS = -1  # What tf.data's `cardinality` says of it.
_BLOCK_BYTES, _BLOCK_STEPS = 32 * 2**20, 256


def _steps_in_a_block(batch_bytes: int) -> int:
    return max(1, min(_BLOCK_STEPS, _BLOCK_BYTES // max(batch_bytes, 1)))


def _but_for(groups: Iterable[np.ndarray], skip: int) -> Iterator[np.ndarray]:
    """The rows of the batches, but for the first `skip` batches; an empty group is left out."""
    for rows in groups:
        if len(rows) > skip:
            yield rows[skip:].astype(np.int32)
        skip = max(0, skip - len(rows))


def _ahead(blocks: Iterator[_Block]) -> Iterator[_Block]:
    """The same blocks, each read while the one before is computed on."""
    with ThreadPoolExecutor(1, initializer=as_in_this_thread()) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block


def _joined(batches: list[Any], steps: int) -> _Block:
    """One block of so many batches; they are gone round where they are fewer."""
    filled = [batches[index % len(batches)] for index in range(steps)]
    data = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *filled)
    return _Block(data, steps, len(keras.tree.flatten(batches[0])[0]), len(batches))


def _as_fed(batch: Any) -> Any:
    return keras.tree.map_structure(_for_device, _packed(batch))


def _as_keras_takes(batch: Any) -> Any:
    """What Keras makes of a `PyDataset`'s batch."""
    if isinstance(batch, dict | tuple):
        return batch
    return tuple(batch) if isinstance(batch, list) else (batch,)


def _packed(batch: Any) -> Any:
    """The batch without the labels and weights that it does not have."""
    if not isinstance(batch, tuple):
        return batch
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
    if labels is None and weights is not None:
        raise NotFusedError("the batches have weights and no labels")
    return tuple(part for part in (inputs, labels, weights) if part is not None)


def _for_device(value: Any) -> np.ndarray:
    return as_keras_feeds(as_array(value))


def _nbytes(arrays: Any) -> int:
    return sum(array.nbytes for array in keras.tree.flatten(arrays))


def _shapes(batch: Any) -> tuple[Any, ...]:
    return tuple((part.shape, part.dtype) for part in keras.tree.flatten(batch))
