"""Feeds: they supply an epoch's batches, from examples that stay on the device or in blocks that are copied to it.

Requirements:

* a feed gives the batches that Keras's own loop would read, in the same order, each once in an epoch;
* examples that do not fit on the device are copied to it one block at a time, while it computes on the previous block;
* data that only Keras can read are refused with the reason.
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
from dlf.training.engine._opening import begin_as_keras_does_after_an_epoch, has_epoch_hooks, look_as_keras_does
from dlf.training.engine._refusals import NotFusedError, check_readable
from dlf.training.engine.arrays import ArrayBatches

__all__ = ["Blocks", "Feed", "Piece", "Resident", "Stream", "find_feed"]


@dataclass(frozen=True)
class Piece:
    """Examples on the device, and the row numbers of each batch, ``(batches, examples in a batch)``."""

    data: Any
    rows: Any
    steps: int
    """How many of the batches count; the others pad a short block to the length of the other blocks."""


@dataclass(frozen=True)
class _Block:
    """A block in host memory: `steps` batches of `size` examples, one after the other, of which `count` count."""

    data: Any
    steps: int
    size: int
    count: int

    def on_device(self, runner: EpochRunner) -> Piece:
        rows = np.arange(self.steps * self.size, dtype=np.int32).reshape(self.steps, self.size)
        return Piece(runner.put(self.data), runner.put(rows), self.count)


class Feed:
    """Supplies the batches of one epoch after another.

    Args:
        dataset: The data set; its epoch hooks are called as Keras's loop calls them.
        runner: Puts arrays on the device.
        remark: Why this is not the fastest kind of feed; empty if it is.
    """

    def __init__(self, dataset: Any, runner: EpochRunner, remark: str = "") -> None:
        self.dataset, self.runner, self.remark = dataset, runner, remark
        self.first: Any = None
        """The first batch of a stream, in host memory, once `sample` has read it; otherwise None."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.dataset)

    def look(self, *, builds: bool) -> None:
        """Reads what Keras reads before the first epoch; `builds` says that the model still has to be built."""

    def reset(self) -> None:
        """Called after `look` and before the first epoch, and before each evaluation."""

    def read_one_at_a_time(self) -> None:
        """Called if a callback sees each batch, and may stop after it: no batch may be read in advance."""

    def begin_epoch(self) -> None:
        """Called before an epoch's first batch."""

    def end_epoch(self, *, broken_off: bool = False) -> None:  # noqa: ARG002 - dlf's own have their next order anyway.
        """Called after an epoch's last batch, or when the epoch is stopped early."""
        self.dataset.on_epoch_end()

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """Yields the batches of this epoch without the first `skip`."""
        raise NotImplementedError

    def sample(self) -> Piece | None:
        """Returns a piece with the first batch, or None if there is no batch."""
        return next(self.pieces(), None)

    def sampled(self) -> tuple[Feed, Piece]:
        """Returns a feed that fits on the device, this one or a smaller one, and a piece with the first batch.

        Raises:
            NotFusedError: There is no batch.
        """
        feed: Feed = self
        try:
            piece = feed.sample()
        except Exception as error:
            smaller = feed.without_room() if self.runner.is_out_of_memory(error) else None
            if smaller is None:
                raise
            feed, piece = smaller, smaller.sample()
        if piece is None:
            raise NotFusedError("there is no batch")
        return feed, piece

    def without_room(self) -> Feed | None:
        """Returns a feed of the same batches that needs less memory on the device, or None if there is none."""
        return None


class Resident(Feed):
    """Keeps all examples on the device, and gathers each batch there by its row numbers."""

    def __init__(self, dataset: BatchedDataset, arrays: Any, runner: EpochRunner) -> None:
        super().__init__(dataset, runner)
        self._arrays, self._on_device = arrays, None

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """Yields the batches of this epoch without the first `skip`."""
        if self._on_device is None:
            self._on_device = self.runner.put(self._arrays)
        for rows in _but_for(self.dataset.batch_rows(), skip):
            yield Piece(self._on_device, self.runner.put(rows), len(rows))

    def without_room(self) -> Feed:
        """Returns a feed that copies the examples to the device one block at a time."""
        self._on_device = None
        return Blocks(self.dataset, self._arrays, self.runner, "the device has no memory left")


class Blocks(Feed):
    """Keeps all examples in host memory, gathers the batches there, and copies them to the device in blocks."""

    def __init__(self, dataset: BatchedDataset, arrays: Any, runner: EpochRunner, remark: str) -> None:
        super().__init__(dataset, runner, remark)
        self._arrays = arrays

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """Yields the batches of this epoch without the first `skip`."""
        return (block.on_device(self.runner) for block in _ahead(self._blocks(skip)))

    def sample(self) -> Piece | None:
        """Returns a piece with the first block, or None if there is no batch."""
        return next((block.on_device(self.runner) for block in self._blocks(0)), None)

    def _blocks(self, skip: int) -> Iterator[_Block]:
        example = sum(array.nbytes // max(len(array), 1) for array in keras.tree.flatten(self._arrays))
        for rows in _but_for(self.dataset.batch_rows(), skip):
            size = rows.shape[1]
            steps = min(len(rows), _steps_in_a_block(example * size))
            for start in range(0, len(rows), steps):
                block = rows[start : start + steps]
                # Padded by repeating its rows: for a block of another shape, the step would be compiled again.
                taken = np.resize(block.ravel(), steps * size)
                data = keras.tree.map_structure(lambda array, taken=taken: array[taken], self._arrays)
                yield _Block(data, steps, size, len(block))


class Stream(Feed):
    """Reads batches in order from a data set that makes them; those of one shape are copied to the device together."""

    def __init__(
        self, dataset: Any, read: Callable[[], Iterable[Any]], runner: EpochRunner, remark: str, *, ahead: bool
    ) -> None:
        super().__init__(dataset, runner, remark)
        self._read = read
        # Not where Python code makes the batches: Keras's global random generator is a different one in each thread.
        self._in_turn = _ahead if ahead else iter
        self._longest: dict[Any, int] = {}
        self._most = _BLOCK_STEPS
        self._has_hooks = has_epoch_hooks(dataset)
        self._steps = self._count()
        self._looked_at: Any = None
        self._begun: Iterator[Any] | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch, as counted at the last reset; Keras counts then, too."""
        return self._steps

    def _count(self) -> int:
        if self._has_hooks:
            return int(self.dataset.num_batches)
        return int(self.dataset.cardinality()) if hasattr(self.dataset, "cardinality") else len(self.dataset)

    def look(self, *, builds: bool) -> None:
        """Reads what Keras reads before the first epoch; `builds` says that the model still has to be built."""
        self._looked_at = look_as_keras_does(self.dataset, self._read, builds=builds)

    def reset(self) -> None:
        """Called after `look` and before the first epoch, and before each evaluation."""
        if self._begun is None:
            self._steps = self._count()
            if self._has_hooks:
                self.dataset.on_epoch_end()

    def begin_epoch(self) -> None:
        """Called before an epoch's first batch."""
        if self._has_hooks and self._begun is None:
            self.dataset.on_epoch_begin()

    def end_epoch(self, *, broken_off: bool = False) -> None:
        """Called after an epoch's last batch, or when the epoch is stopped early."""
        # If an epoch is stopped early, Keras calls no hook and creates no new iterator; dlf's own batches still get
        # their next order.
        if not broken_off:
            begin_as_keras_does_after_an_epoch(self.dataset)
        if not broken_off or not self._has_hooks:
            getattr(self.dataset, "on_epoch_end", lambda: None)()

    def read_one_at_a_time(self) -> None:
        """Called if a callback sees each batch, and may stop after it: no batch may be read in advance."""
        self._most, self._in_turn = 1, iter

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """Yields the batches of this epoch without the first `skip`."""
        return (block.on_device(self.runner) for block in self._in_turn(self._blocks(skip)))

    def sample(self) -> Piece | None:
        """Returns a piece with only the first batch: the one that `look` read, or else the first epoch's first."""
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
                # Before this error, Keras would have trained on the batches read so far.
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
    """Returns the fastest kind of feed that gives the same batches.

    Args:
        data: Batches.
        runner: Puts arrays on the device.
        room: How many bytes the examples may take on the device.

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


_ENDLESS = -1  # The value of tf.data.INFINITE_CARDINALITY.
_BLOCK_BYTES, _BLOCK_STEPS = 32 * 2**20, 256


def _steps_in_a_block(batch_bytes: int) -> int:
    return max(1, min(_BLOCK_STEPS, _BLOCK_BYTES // max(batch_bytes, 1)))


def _but_for(groups: Iterable[np.ndarray], skip: int) -> Iterator[np.ndarray]:
    """Yields groups of batch rows without the first `skip` batches; empty groups are left out."""
    for rows in groups:
        if len(rows) > skip:
            yield rows[skip:].astype(np.int32)
        skip = max(0, skip - len(rows))


def _ahead(blocks: Iterator[_Block]) -> Iterator[_Block]:
    """Yields the same blocks; a thread reads each while the device computes on the previous one."""
    with ThreadPoolExecutor(1, initializer=as_in_this_thread()) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block


def _joined(batches: list[Any], steps: int) -> _Block:
    """Joins batches into one block of `steps` batches, repeating them if there are fewer."""
    filled = [batches[index % len(batches)] for index in range(steps)]
    data = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *filled)
    return _Block(data, steps, len(keras.tree.flatten(batches[0])[0]), len(batches))


def _as_fed(batch: Any) -> Any:
    return keras.tree.map_structure(_for_device, _packed(batch))


def _as_keras_takes(batch: Any) -> Any:
    """Returns a `PyDataset`'s batch in the structure that Keras gives it."""
    if isinstance(batch, dict | tuple):
        return batch
    return tuple(batch) if isinstance(batch, list) else (batch,)


def _packed(batch: Any) -> Any:
    """Returns the batch without None in place of missing labels or weights."""
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
