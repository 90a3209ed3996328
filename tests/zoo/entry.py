"""The parts of the zoo: cases, which are written by hand, and entries, made from the cases and Keras's public names.

Requirements:

* every public name in Keras is an entry: tested, untested, or not applicable with the reason; none is missing silently;
* a class or function with several names in Keras is one entry, under its own name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dlf.parity.options import STAGES

__all__ = ["Case", "Entry", "build_function", "entries_of", "public_classes", "public_functions"]


@dataclass(frozen=True)
class Case:
    """One way to use a class or function of Keras.

    Args:
        build: A function that builds a compiled model that uses it.
        data: Made-up data that fit, as ``module:function``; None where normal numbers and token ids do.
        stages: The stages of parity that make sense for it.
        steps: The number of training steps.
    """

    build: Callable[[], Any]
    data: str | None = None
    stages: tuple[str, ...] = STAGES
    steps: int = 3


@dataclass(frozen=True)
class Entry:
    """One line of the zoo.

    Args:
        kind: ``layers``, ``losses`` and so on.
        name: The name in Keras.
        case: The name of the case; empty for the plain one.
        target: The target of `dlf parity`; None where there is nothing to compare.
        data: As in `Case`.
        stages: As in `Case`.
        steps: As in `Case`.
        reason: Why it is not applicable.

    Example:
        >>> Entry("layers", "Newcomer").status, Entry("layers", "Wrapper", reason="a base class").status
        ('untested', 'not applicable')
    """

    kind: str
    name: str
    case: str = ""
    target: str | None = None
    data: str | None = None
    stages: tuple[str, ...] = ()
    steps: int = 3
    reason: str | None = None

    @property
    def status(self) -> str:
        """``tested``, ``untested`` or ``not applicable``."""
        return "tested" if self.target else "not applicable" if self.reason else "untested"


def entries_of(
    kind: str, module: str, names: Collection[str], cases: Mapping[str, Case], not_applicable: Mapping[str, str]
) -> Iterator[Entry]:
    """Yields the entries of one kind.

    Args:
        kind: The kind of the entries, such as ``layers``.
        module: The module that the cases can be imported from.
        names: The names in Keras.
        cases: The cases, by ``Name`` or ``Name__case``.
        not_applicable: The reason why there is nothing to compare, by name.

    Example:
        >>> cases = {"Add": Case(list), "Add__three": Case(list)}
        >>> [each.target for each in entries_of("layers", "m", ["Add", "Dot"], cases, {})]
        ['m:Add', 'm:Add__three', None]
    """
    for name in names:
        own = {key: case for key, case in cases.items() if key.partition("__")[0] == name}
        for key, case in own.items():
            yield Entry(kind, name, key.partition("__")[2], f"{module}:{key}", case.data, case.stages, case.steps)
        if not own:
            yield Entry(kind, name, reason=not_applicable.get(name))


def build_function(cases: Mapping[str, Case], name: str) -> Callable[[], Any]:
    """Returns the function that builds the model of a case, for the ``__getattr__`` of a module.

    Args:
        cases: The cases, by name.
        name: The name that was looked up.

    Raises:
        AttributeError: There is no such case.

    Example:
        >>> build_function({"Add": Case(list)}, "Add")()
        []
    """
    if name not in cases:
        raise AttributeError(f"the zoo has no case of the name {name!r} here")
    return cases[name].build


def public_classes(module: ModuleType, base: type) -> list[str]:
    """Returns the names of the public classes in a module of Keras, each class once.

    Args:
        module: A module such as ``keras.layers``.
        base: The class that they inherit from.

    Example:
        >>> import keras
        >>> [each for each in public_classes(keras.initializers, keras.initializers.Initializer) if "rth" in each]
        ['Orthogonal']
    """
    return _names(module, lambda each: inspect.isclass(each) and issubclass(each, base))


def public_functions(module: ModuleType) -> list[str]:
    """Returns the names of the public functions in a module of Keras, each once, without `get` and serialization.

    Args:
        module: A module such as ``keras.activations``.

    Example:
        >>> import keras
        >>> [each for each in public_functions(keras.activations) if each in ("get", "silu", "swish")]
        ['silu']
    """
    return [each for each in _names(module, inspect.isfunction) if each not in ("deserialize", "get", "serialize")]


def _names(module: ModuleType, is_wanted: Callable[[Any], bool]) -> list[str]:
    names: dict[Any, list[str]] = {}
    for name in sorted(dir(module)):
        if not name.startswith("_") and is_wanted(getattr(module, name)):
            names.setdefault(getattr(module, name), []).append(name)
    # Its own name rather than an alias; some are public under another name only.
    return sorted(each.__name__ if each.__name__ in known else known[0] for each, known in names.items())
