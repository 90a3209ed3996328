"""The places where Python keeps what a model's step depends on, and how to look at each again.

A place is a namespace, a list, a variable that a function closes over, an array, a generator of random numbers or a
setting. Each knows whether it is as it was, and can be made so.
"""

from __future__ import annotations

import pickle
import types
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

__all__ = ["GONE", "PASSING", "Array", "Cell", "Generator", "Items", "Names", "Place", "Settings", "Slots", "contents"]

GONE = object()
"""What a name that is not there stands for."""

PASSING = frozenset(
    (
        # What a loop sets, and what Keras keeps of one call for the next.
        *("stop_training", "stop_evaluating", "stop_predicting", "history", "_initial_epoch", "_eval_epoch_iterator"),
        *("train_function", "test_function", "predict_function", "_jax_state", "_jax_state_synced"),
        *("_losses", "_loss_ids", "_losses_override", "_called", "_dlf_epoch_runner"),
        # Books that Keras keeps of what stands elsewhere, too.
        *("_tracker", "_torch_params", "_inbound_nodes", "_outbound_nodes", "_compile_config", "_auto_config"),
        "_exclude_from_weight_decay_cache",
        # What TensorFlow, and Keras on it, keep of an object that holds variables and lists.
        "_tracked",
        *("_self_setattr_tracking", "_self_unconditional_checkpoint_dependencies", "_self_update_uid"),
        *("_self_unconditional_dependency_names", "_self_unconditional_deferred_dependencies"),
        *("_self_name_based_restores", "_self_saveable_object_factories"),
    )
)
"""Attributes that say nothing of the step."""


class Place(Protocol):
    """Somewhere that Python keeps state."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def parts(self) -> tuple[Iterable[Any], ...] | None:
        """Objects that, gone through, give the same objects in the same order as long as nothing changed; or None."""
        ...

    def is_as_it_was(self) -> bool:
        """Tells whether nothing changed here since the place was made."""
        ...

    def put_back(self) -> None:
        """Makes it what it was."""
        ...


class Names:
    """What names stand for: an object's attributes, a module's globals, a dictionary's entries.

    Args:
        name: What people call the namespace.
        live: The namespace.
        names: The names that count; by default all that are there, and that there are no others.
        passing: Names that do not count.
        owner: The class whose namespace it is, where it is one: that can only be written to by its class.
    """

    def __init__(
        self,
        name: str,
        live: Any,
        names: Iterable[Any] | None = None,
        passing: frozenset[str] = frozenset(),
        owner: type | None = None,
    ) -> None:
        self._name, self._live, self._passing, self._owner = name, live, passing, owner
        self._is_whole = names is None
        self._keys = self._lasting() if names is None else tuple(names)
        self._values = tuple(live.get(each, GONE) for each in self._keys)

    @property
    def name(self) -> str:
        """What people call it: with the name that changed, where one did."""
        changed = next((key for key, now, was in self._pairs() if not _is_same(now, was)), None)
        return self._name if changed is None else f"{self._name}.{changed}"

    @property
    def parts(self) -> tuple[Iterable[Any], ...] | None:
        """The values, and the names of a dictionary, whose entries may be renamed."""
        if not self._is_whole:
            return None
        return (self._live.values(),) if self._passing else (self._live.values(), self._live.keys())

    def is_as_it_was(self) -> bool:
        """Tells whether each name stands for what it did."""
        if not all(_is_same(now, was) for _, now, was in self._pairs()):
            return False
        return not self._is_whole or len(self._live) == len(self._keys) or set(self._lasting()) == set(self._keys)

    def new_values(self) -> list[Any]:
        """Returns what the names that changed stand for now."""
        return [now for _, now, was in self._pairs() if not _is_same(now, was)]

    def put_back(self) -> None:
        """Gives each name what it stood for."""
        for key in set(self._lasting()) - set(self._keys) if self._is_whole else ():
            self._remove(key)
        for key, now, was in self._pairs():
            if was is GONE:
                self._remove(key)
            elif now is not was and self._owner is not None:
                setattr(self._owner, key, was)
            elif now is not was:
                self._live[key] = was

    def _remove(self, key: Any) -> None:
        if self._owner is not None:
            delattr(self._owner, key)
        else:
            self._live.pop(key, None)

    def _pairs(self) -> Iterator[tuple[Any, Any, Any]]:
        return ((key, self._live.get(key, GONE), was) for key, was in zip(self._keys, self._values, strict=True))

    def _lasting(self) -> tuple[Any, ...]:
        return tuple(each for each in self._live if each not in self._passing) if self._passing else tuple(self._live)


class Slots:
    """The attributes of an object that has slots for them.

    Args:
        name: What people call it.
        live: The object.
        slots: Their names.
    """

    def __init__(self, name: str, live: Any, slots: Iterable[str]) -> None:
        self.name, self._live = name, live
        self._kept = {each: getattr(live, each, GONE) for each in slots}

    @property
    def parts(self) -> None:
        """There are none."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether each holds what it did."""
        return all(_is_same(getattr(self._live, name, GONE), was) for name, was in self._kept.items())

    def put_back(self) -> None:
        """Gives each what it held."""
        for name, was in self._kept.items():
            if was is not GONE:
                object.__setattr__(self._live, name, was)


class Items:
    """The elements of a list, a deque or a set.

    Args:
        name: What people call it.
        live: The list, deque or set.
    """

    def __init__(self, name: str, live: Any) -> None:
        self.name, self._live, self._kept = name, live, tuple(live)

    @property
    def parts(self) -> tuple[Iterable[Any], ...]:
        """The elements."""
        return (self._live,)

    def is_as_it_was(self) -> bool:
        """Tells whether the same elements are there, in the same order."""
        return len(self._live) == len(self._kept) and all(map(_is_same, self._live, self._kept))

    def put_back(self) -> None:
        """Gives it the elements that it had."""
        # Past what a class that is derived from it does at a change, such as Keras's keeping of books.
        kind: Any = next(each for each in (list, set, deque) if isinstance(self._live, each))
        kind.clear(self._live)
        (kind.update if kind is set else kind.extend)(self._live, self._kept)


class Cell:
    """A variable that a function closes over.

    Args:
        name: The variable's name.
        cell: Where its value lies.
    """

    def __init__(self, name: str, cell: types.CellType) -> None:
        self.name, self._cell, self._kept = name, cell, contents(cell)

    @property
    def parts(self) -> None:
        """There are none."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether it has the value that it had."""
        return _is_same(contents(self._cell), self._kept)

    def put_back(self) -> None:
        """Gives it the value that it had."""
        if self._kept is not GONE:
            self._cell.cell_contents = self._kept


class Array:
    """NumPy's numbers, which are written to where they lie.

    Args:
        name: What people call it.
        live: The array.
    """

    def __init__(self, name: str, live: np.ndarray) -> None:
        self.name, self._live, self._kept = name, live, _digest(live)
        self.size = live.nbytes
        self._copy = live.copy() if live.nbytes <= _MOST_COPIED else None

    @property
    def parts(self) -> None:
        """There are none."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether it holds the same bits."""
        return _digest(self._live) == self._kept

    def put_back(self) -> None:
        """Gives it the numbers that it had, where it is not so large that no copy was made."""
        if self._copy is not None:
            self._live[...] = self._copy


class Generator:
    """A generator of random numbers, of Python, NumPy or PyTorch, or what has the functions of one.

    Args:
        name: What people call it.
        live: The generator, or the module `random` or `numpy.random`.
        is_host: Whether its numbers are Python's and NumPy's, which a trace keeps as they were drawn.
    """

    def __init__(self, name: str, live: Any, *, is_host: bool) -> None:
        self.name, self.is_host, self._live, self._kept = name, is_host, live, _drawn(live)

    @property
    def parts(self) -> None:
        """There are none."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether nothing was drawn."""
        return _drawn(self._live) == self._kept

    def put_back(self) -> None:
        """Lets it draw what it was about to draw."""
        state = pickle.loads(self._kept)  # noqa: S301 - made by this very object.
        if isinstance(self._live, np.random.Generator):
            self._live.bit_generator.state = state
        else:
            (self._live.setstate if hasattr(self._live, "setstate") else self._live.set_state)(state)


class Settings:
    """Settings of a framework.

    Args:
        name: What people call them.
        read: Returns them.
    """

    def __init__(self, name: str, read: Callable[[], Any]) -> None:
        self.name, self._read, self._kept = name, read, read()

    @property
    def parts(self) -> None:
        """There are none."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether they are what they were."""
        return bool(self._read() == self._kept)

    def put_back(self) -> None:
        """Does nothing: no step sets what holds for all."""


def contents(cell: types.CellType) -> Any:
    """Returns what a cell holds, or `GONE` where nothing was assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return GONE


def _digest(array: np.ndarray) -> tuple[Any, ...]:
    """What tells an array's numbers from others, but for those of one too large to be read: a file, perhaps."""
    if array.dtype == object:
        return (array.shape, tuple(map(id, array.ravel())))
    return array.shape, zlib.crc32(np.ascontiguousarray(array).data) if array.nbytes <= _MOST_READ else 0


def _drawn(generator: Any) -> bytes:
    """How far a generator has come."""
    if isinstance(generator, np.random.Generator):
        return pickle.dumps(generator.bit_generator.state)
    return pickle.dumps(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and bool(one == other))


_MOST_COPIED, _MOST_READ = 2**22, 2**28
_PLAIN = (bool, int, float, complex, str, bytes)
