"""Python's state around a model: a change in it shows that a traced or recorded step is out of date.

A step that was traced, recorded or compiled contains the values that Python's numbers, functions and objects had then.

Requirements:

* everything that the model reaches counts: layers at any depth, the optimizer, losses and metrics, the attributes of
  each, lists and dictionaries in them, what functions close over, and the globals that a user's own code names;
* a comparison is cheap, since there is one before each call to the device;
* changes that a trace makes to Python's state, including its random number generators, can be undone.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

import keras
import numpy as np

from dlf.training.engine.places import (
    GONE,
    PASSING,
    Array,
    Cell,
    Generator,
    Items,
    Names,
    Place,
    Settings,
    Slots,
    contents,
)

__all__ = ["PythonState", "TracedInVainError", "UnseenStateError", "leaving_no_trace"]


class UnseenStateError(Exception):
    """The model reaches something whose state cannot be seen; the message says what."""


class TracedInVainError(Exception):
    """A trace changed Python's state; the message says what changed."""


class PythonState:
    """Python's state around a model at this moment.

    Args:
        model: A model that is built.
        *more: Further places to compare, such as a framework's settings.

    Raises:
        UnseenStateError: The model reaches something whose changes cannot be seen, such as an iterator.
    """

    def __init__(self, model: Any, *more: Place) -> None:
        self.objects: list[Any] = []
        found = [
            *_walk(model, self.objects),
            *_values_elsewhere(model, self.objects),
            *_global_generators(),
            Settings("keras.config", _keras_settings),
            *more,
        ]
        self._generators = [each for each in found if isinstance(each, Generator)]
        self._places: list[Place] = [each for each in found if not isinstance(each, Generator)]
        # Most places are compared in one pass, without Python code for each: a tenth of the time, as measured.
        self._parts = [part for each in self._places for part in each.parts or ()]
        self._others = [each for each in self._places if each.parts is None]
        self._kept = self._now()
        self.array_bytes = sum(each.size for each in self._places if isinstance(each, Array))
        """How many bytes of NumPy arrays each comparison reads."""

    def changed(self) -> str:
        """Returns the name of a place that has changed, or ``""``; random number generators are not compared."""
        if all(map(is_, chain(chain.from_iterable(self._parts), (_END,)), self._kept)):
            return next((each.name for each in self._others if not each.is_as_it_was()), "")
        changed = next((each.name for each in self._places if not each.is_as_it_was()), "")
        if not changed:
            self._kept = self._now()  # An ignored name changed, or an equal number is now another object.
        return changed

    def _now(self) -> tuple[Any, ...]:
        return (*chain.from_iterable(self._parts), _END)

    def drawn_from(self) -> str:
        """Returns the name of a generator of Python or NumPy that was drawn from, or ``""``."""
        return next((each.name for each in self._generators if each.is_host and not each.is_as_it_was()), "")

    def keeps_tensors_alone(self) -> bool:
        """Tells whether every change is a name that now holds a tensor, such as an output kept for inspection."""
        changed = [each for each in self._places if not each.is_as_it_was()]
        return all(isinstance(each, Names) and all(map(_is_tensor, each.new_values())) for each in changed)

    def put_back(self) -> None:
        """Restores everything that has changed."""
        places: list[Place] = [*self._places, *self._generators]
        for each in places:
            if not each.is_as_it_was():
                each.put_back()


def leaving_no_trace(model: Any, trace: Callable[[], Any]) -> PythonState:
    """Traces a step, and undoes what the trace did to Python's state; raises if that was more than keeping tensors.

    Keras's own loop may trace at other moments and another number of times, so that whatever a trace draws or counts
    would differ.

    Args:
        model: A model that is built.
        trace: Traces its step.

    Returns:
        Python's state from before the trace.

    Raises:
        TracedInVainError: The trace changed something, such as an attribute, or drew a random number from Python or
            NumPy.
        UnseenStateError: As for `PythonState`.
    """
    state = PythonState(model)
    try:
        trace()
        # Keeping a tensor of the trace is allowed: it has no value that Python could use later.
        changed, drawn = "" if state.keeps_tensors_alone() else state.changed(), state.drawn_from()
    finally:
        state.put_back()
    if changed or drawn:
        raise TracedInVainError(f"it changes {changed}" if changed else f"it draws random numbers from {drawn}")
    return state


def _is_tensor(value: Any) -> bool:
    if isinstance(value, keras.Variable):
        return False  # On TensorFlow, `is_tensor` is true of a variable.
    return bool(keras.ops.is_tensor(value)) or isinstance(value, keras.KerasTensor)


def _keras_settings() -> tuple[Any, ...]:
    config = keras.config
    return config.floatx(), config.epsilon(), config.image_data_format(), id(config.dtype_policy())


def _values_elsewhere(model: Any, objects: list[Any]) -> Iterator[Place]:
    """Yields the values of variables that are not the model's: a step reads them, and a trace makes them constants."""
    optimizer = getattr(model, "optimizer", None)
    own = [*model.variables, *model.metrics_variables, *getattr(optimizer, "variables", ())]
    known = set(map(id, own))
    for each in objects:
        if isinstance(each, keras.Variable) and id(each) not in known:
            yield Slots(each.path, each, ("_value",))


def _global_generators() -> Iterator[Generator]:
    yield Generator("Python's random", random, is_host=True)
    yield Generator("numpy.random", np.random, is_host=True)
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        for each in (torch.default_generator, *torch.cuda.default_generators):
            yield Generator("PyTorch's own generator", each, is_host=False)


_Named: TypeAlias = tuple[str, Any]
_Look: TypeAlias = tuple["Place | None", Iterable[_Named]]


def _walk(model: Any, objects: list[Any]) -> Iterator[Place]:
    """Yields the places of every object that the model reaches, and appends the objects, each once, to `objects`."""
    coming: deque[_Named] = deque([(type(model).__name__, model)])
    seen: dict[int, Any] = {}
    while coming:
        name, value = coming.popleft()
        look = _look_for(value)
        if look is None or id(value) in seen:
            continue
        if len(seen) >= _MOST_OBJECTS:
            raise UnseenStateError(f"the model reaches more than {_MOST_OBJECTS:,} objects of Python")
        # The objects themselves are kept: once an object is gone, another may get its id.
        seen[id(value)] = value
        for place, held in look(name, value):
            if place is not None:
                yield place
            coming.extend(each for each in held if _look_for(each[1]) is not None)
    objects.extend(seen.values())


_looks: dict[type, Callable[[str, Any], Iterator[_Look]] | None] = {}


def _look_for(value: Any) -> Callable[[str, Any], Iterator[_Look]] | None:
    """Returns the function that looks at values of this type, or None if a step does not depend on their state."""
    kind = type(value)
    if kind not in _looks:
        is_leaf = value is GONE or isinstance(value, _LEAVES) or _is_tensor(value)
        is_opaque = kind.__module__.startswith(_OPAQUE)
        _looks[kind] = None if is_leaf or is_opaque else _look_at
    return _looks[kind]


def _look_at(name: str, value: Any) -> Iterator[_Look]:
    """Yields the places where a value keeps its state, each with the named objects that it holds."""
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        yield Generator(name, value, is_host=True), ()
    elif hasattr(value, "get_state") and hasattr(value, "initial_seed"):  # PyTorch's.
        yield Generator(name, value, is_host=False), ()
    elif isinstance(value, np.ndarray):
        yield Array(name, value), ((name, each) for each in (value.tolist() if value.dtype == object else ()))
    elif isinstance(value, dict):
        yield Names(name, value), ((name, each) for each in value.values())
    elif isinstance(value, list | deque | set):
        yield Items(name, value), ((name, each) for each in value)
    elif isinstance(value, tuple | frozenset):
        yield None, ((name, each) for each in value)
    elif isinstance(value, types.FunctionType):
        yield from _look_at_function(value)
    elif isinstance(value, type):
        yield from _look_at_class(value)
    elif isinstance(value, Iterator):
        raise UnseenStateError(f"{name} is an iterator, whose state cannot be seen")
    else:
        yield None, ((name, getattr(value, each, None)) for each in _HELD_BY.get(type(value), ()))
        yield from _look_at_object(name, value)


def _look_at_object(name: str, value: Any) -> Iterator[_Look]:
    kind = type(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        passing = PASSING | {"_value"} if isinstance(value, keras.Variable) else PASSING
        yield Names(kind.__name__, attributes, passing=passing), _named(kind, attributes, passing)
    if not _is_library(kind.__module__):
        slots = [each for owner in kind.__mro__ for each in _slots(owner)]
        if slots:
            yield Slots(name, value, slots), ((f"{kind.__name__}.{each}", getattr(value, each, None)) for each in slots)
        yield None, ((kind.__name__, kind),)


def _look_at_class(kind: type) -> Iterator[_Look]:
    yield None, ((each.__name__, each) for each in kind.__mro__[1:])
    if not _is_library(kind.__module__):
        held = _named(kind, vars(kind), _OF_CLASSES)
        yield Names(kind.__name__, vars(kind), passing=_OF_CLASSES, owner=kind), held


def _named(kind: type, attributes: Any, passing: frozenset[str]) -> list[_Named]:
    lasting = ((name, held) for name, held in attributes.items() if _look_for(held) is not None and name not in passing)
    return [(f"{kind.__name__}.{name}", held) for name, held in lasting]


def _look_at_function(function: types.FunctionType) -> Iterator[_Look]:
    """Yields what a function closes over, its defaults and attributes, and the globals that a user's own code names."""
    is_library = _is_library(function.__globals__.get("__name__", ""))
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield None if is_library else Cell(variable, cell), ((variable, contents(cell)),)
    yield None, ((function.__name__, each) for each in (function.__defaults__, function.__kwdefaults__))
    if vars(function):
        yield Names(function.__name__, vars(function)), ((function.__name__, each) for each in vars(function).values())
    namespace = function.__globals__
    if is_library:
        return
    named = {each for code in _codes(function.__code__) for each in code.co_names}
    modules = (namespace.get(each) for each in named)
    own = [each for each in modules if isinstance(each, types.ModuleType) and not _is_library(each.__name__)]
    for each in (namespace, *(vars(module) for module in own)):
        used = [name for name in named if name in each]
        yield Names(function.__name__, each, used), [(name, each[name]) for name in used]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yields a function's code, and that of the functions inside it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _slots(kind: type) -> Iterable[str]:
    names = vars(kind).get("__slots__", ())
    return [each for each in ((names,) if isinstance(names, str) else names) if not each.startswith("__")]


def _is_library(module: str | None) -> bool:
    root = (module or "").split(".")[0]
    return root in _LIBRARIES or root in sys.stdlib_module_names


_END = object()
_MOST_OBJECTS = 200_000

# Nobody changes what the code of these libraries depends on, except settings, which are compared by name.
_LIBRARIES = frozenset(
    (
        *("keras", "numpy", "scipy", "torch", "tensorflow", "jax", "jaxlib", "optax", "ml_dtypes", "tree", "optree"),
        *("h5py", "dlf", "dlf_jax", "dlf_tensorflow", "dlf_torch"),
    )
)

# Modules whose objects hold much that no step depends on.
_OPAQUE = ("tensorflow.", "jax.", "jaxlib.", "weakref", "logging", "threading", "_thread", "inspect")

_LEAVES = (
    type(None), bool, int, float, complex, str, bytes, types.ModuleType, types.BuiltinFunctionType, types.CodeType,
    keras.initializers.Initializer,
)  # fmt: skip

# The attributes in which objects of these types hold what they wrap.
_HELD_BY: dict[type, tuple[str, ...]] = {
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    types.MethodType: ("__self__", "__func__"),
    property: ("fget",),
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
}

_OF_CLASSES = frozenset(("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "_abc_impl"))
