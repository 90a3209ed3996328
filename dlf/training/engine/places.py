"""The places in Python's state that a model's step depends on, and how to compare each with an earlier moment.

A place is a namespace, a list, a variable that a function closes over, an array, a random number generator or a
setting. It keeps its state at creation, tells whether that has changed since, and restores it where that is possible.
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
"""Stands for the value of a name that does not exist."""

PASSING = frozenset(
    (
        # What a training loop sets, and what Keras keeps from one call for the next.
        *("stop_training", "stop_evaluating", "stop_predicting", "history", "_initial_epoch", "_eval_epoch_iterator"),
        *("train_function", "test_function", "predict_function", "_jax_state", "_jax_state_synced"),
        *("_losses", "_loss_ids", "_losses_override", "_called", "_dlf_epoch_runner"),
        # Keras's records of objects that can be reached elsewhere, too.
        *("_tracker", "_torch_params", "_inbound_nodes", "_outbound_nodes", "_compile_config", "_auto_config"),
        "_exclude_from_weight_decay_cache",
        # What TensorFlow, and Keras on TensorFlow, record about an object that holds variables and lists.
        "_tracked",
        *("_self_setattr_tracking", "_self_unconditional_checkpoint_dependencies", "_self_update_uid"),
        *("_self_unconditional_dependency_names", "_self_unconditional_deferred_dependencies"),
        *("_self_name_based_restores", "_self_saveable_object_factories"),
    )
)
"""Attributes that a step does not depend on: changes of them are ignored."""


class Place(Protocol):
    """A place where Python keeps state."""

    @property
    def name(self) -> str:
        """The name that a message uses for this place."""
        ...

    @property
    def parts(self) -> tuple[Iterable[Any], ...] | None:
        """Iterables that yield the same objects in the same order until something changes; None if there are none."""
        ...

    def is_as_it_was(self) -> bool:
        """Tells whether nothing has changed here since this object was made."""
        ...

    def put_back(self) -> None:
        """Restores the state at the time when this object was made."""
        ...


class Names:
    """The values of names: an object's attributes, a module's globals, a dictionary's entries.

    Args:
        name: The namespace's name in messages.
        live: The namespace.
        names: The names to compare; by default all that exist, and then a new name is a change, too.
        passing: Names to ignore.
        owner: The class, if this is the namespace of a class, which can only be changed through the class itself.
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
        """The namespace's name in messages, followed by the first name that changed, if one did."""
        changed = next((key for key, now, was in self._pairs() if not _is_same(now, was)), None)
        return self._name if changed is None else f"{self._name}.{changed}"

    @property
    def parts(self) -> tuple[Iterable[Any], ...] | None:
        """All values, and the keys too if no name is ignored; None if only some names are compared."""
        if not self._is_whole:
            return None
        return (self._live.values(),) if self._passing else (self._live.values(), self._live.keys())

    def is_as_it_was(self) -> bool:
        """Tells whether each name has the value that it had, and, if all names are compared, whether none is new."""
        if not all(_is_same(now, was) for _, now, was in self._pairs()):
            return False
        return not self._is_whole or len(self._live) == len(self._keys) or set(self._lasting()) == set(self._keys)

    def new_values(self) -> list[Any]:
        """Returns the current values of the names that changed."""
        return [now for _, now, was in self._pairs() if not _is_same(now, was)]

    def put_back(self) -> None:
        """Gives each name its former value, and, if all names are compared, removes new ones."""
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
    """Attributes of an object that are compared by name, such as those in its `__slots__`.

    Args:
        name: The object's name in messages.
        live: The object.
        slots: The names of the attributes.
    """

    def __init__(self, name: str, live: Any, slots: Iterable[str]) -> None:
        self.name, self._live = name, live
        self._kept = {each: getattr(live, each, GONE) for each in slots}

    @property
    def parts(self) -> None:
        """None: there is no iterable to compare."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether each attribute has the value that it had."""
        return all(_is_same(getattr(self._live, name, GONE), was) for name, was in self._kept.items())

    def put_back(self) -> None:
        """Gives each attribute the value that it had."""
        for name, was in self._kept.items():
            if was is not GONE:
                object.__setattr__(self._live, name, was)


class Items:
    """The elements of a list, a deque or a set.

    Args:
        name: The collection's name in messages.
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
        """Gives the collection the elements that it had."""
        # By the methods of the built-in class: a subclass, such as Keras's tracked list, does more at each change.
        kind: Any = next(each for each in (list, set, deque) if isinstance(self._live, each))
        kind.clear(self._live)
        (kind.update if kind is set else kind.extend)(self._live, self._kept)


class Cell:
    """A variable that a function closes over.

    Args:
        name: The variable's name.
        cell: The closure's cell, which holds its value.
    """

    def __init__(self, name: str, cell: types.CellType) -> None:
        self.name, self._cell, self._kept = name, cell, contents(cell)

    @property
    def parts(self) -> None:
        """None: there is no iterable to compare."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether the variable has the value that it had."""
        return _is_same(contents(self._cell), self._kept)

    def put_back(self) -> None:
        """Gives the variable the value that it had, if it had one."""
        if self._kept is not GONE:
            self._cell.cell_contents = self._kept


class Array:
    """A NumPy array, whose elements can be changed in place.

    Args:
        name: The array's name in messages.
        live: The array.
    """

    def __init__(self, name: str, live: np.ndarray) -> None:
        self.name, self._live, self._kept = name, live, _digest(live)
        self.size = live.nbytes
        self._copy = live.copy() if live.nbytes <= _MOST_COPIED else None

    @property
    def parts(self) -> None:
        """None: there is no iterable to compare."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether the array holds the same bits, by a checksum."""
        return _digest(self._live) == self._kept

    def put_back(self) -> None:
        """Restores the elements, unless the array was too large for a copy to be kept."""
        if self._copy is not None:
            self._live[...] = self._copy


class Generator:
    """A random number generator of Python, NumPy or PyTorch, or a module that acts as one.

    Args:
        name: The generator's name in messages.
        live: The generator, or the module `random` or `numpy.random`.
        is_host: Whether it is Python's or NumPy's: a number drawn from it becomes a constant of the trace.
    """

    def __init__(self, name: str, live: Any, *, is_host: bool) -> None:
        self.name, self.is_host, self._live, self._kept = name, is_host, live, _drawn(live)

    @property
    def parts(self) -> None:
        """None: there is no iterable to compare."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether nothing was drawn."""
        return _drawn(self._live) == self._kept

    def put_back(self) -> None:
        """Restores the state, so that the same numbers are drawn again."""
        state = pickle.loads(self._kept)  # noqa: S301 - made by this very object.
        if isinstance(self._live, np.random.Generator):
            self._live.bit_generator.state = state
        else:
            (self._live.setstate if hasattr(self._live, "setstate") else self._live.set_state)(state)


class Settings:
    """Settings of a framework.

    Args:
        name: Their name in messages.
        read: Returns their current values.
    """

    def __init__(self, name: str, read: Callable[[], Any]) -> None:
        self.name, self._read, self._kept = name, read, read()

    @property
    def parts(self) -> None:
        """None: there is no iterable to compare."""
        return None

    def is_as_it_was(self) -> bool:
        """Tells whether the settings have the values that they had."""
        return bool(self._read() == self._kept)

    def put_back(self) -> None:
        """Does nothing: a step does not change global settings."""


def contents(cell: types.CellType) -> Any:
    """Returns the value in a cell, or `GONE` if nothing has been assigned yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return GONE


def _digest(array: np.ndarray) -> tuple[Any, ...]:
    """Returns the shape with a checksum, or with the ids of objects; only the shape of an array too large to read."""
    if array.dtype == object:
        return (array.shape, tuple(map(id, array.ravel())))
    return array.shape, zlib.crc32(np.ascontiguousarray(array).data) if array.nbytes <= _MOST_READ else 0


def _drawn(generator: Any) -> bytes:
    """Returns a generator's state."""
    if isinstance(generator, np.random.Generator):
        return pickle.dumps(generator.bit_generator.state)
    return pickle.dumps(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and bool(one == other))


_MOST_COPIED, _MOST_READ = 2**22, 2**28
_PLAIN = (bool, int, float, complex, str, bytes)
