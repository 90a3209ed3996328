"""What the zoo is made of: cases that were written down, and the entries that come of them and of Keras's own names.

What is asked of it:

* whatever Keras names is an entry: tested, untested, or not applicable with the reason; nothing is missing silently;
* one thing with several names in Keras is one entry, under its own name.
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
    """One way to use one thing.

    Args:
        build: Makes a compiled model that holds the thing.
        data: Made-up data that fit, as ``module:function``; None where normal numbers and token ids do.
        stages: Those of parity that mean something for it.
        steps: Of training.
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
        name: Keras's.
        case: Which use of it; empty for the plain one.
        target: What `dlf parity` is given; None where there is nothing to compare.
        data: As in `Case`.
        stages: Likewise.
        steps: Likewise.
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
        kind: What they are.
        module: Where the cases can be imported from.
        names: Keras's own.
        cases: By ``Name`` or ``Name__case``.
        not_applicable: By name, the reason.

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
    """Returns what builds the model of a case: for a module's own ``__getattr__``.

    Args:
        cases: By name.
        name: What was asked for.

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
    """Returns the names of the classes that a module of Keras has, each class once.

    Args:
        module: As ``keras.layers``.
        base: What they inherit from.

    Example:
        >>> import keras
        >>> [each for each in public_classes(keras.initializers, keras.initializers.Initializer) if "rth" in each]
        ['Orthogonal']
    """
    return _names(module, lambda each: inspect.isclass(each) and issubclass(each, base))


def public_functions(module: ModuleType) -> list[str]:
    """Returns the names of the functions that a module of Keras has, each once, without those that serve its classes.

    Args:
        module: As ``keras.activations``.

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
    # Its own name before aliases; some are public under another name alone.
    return sorted(each.__name__ if each.__name__ in known else known[0] for each, known in names.items())
