"""What an expression stands for, as far as its source tells: a tensor, a function of the files, a name from outside."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from dlf.check._entries import kind_of_class
from dlf.check._source import Source

__all__ = [
    "Class",
    "Function",
    "Given",
    "Instance",
    "Kind",
    "Name",
    "Scope",
    "Self",
    "Several",
    "Value",
    "element",
    "element_at",
    "holds_tensors",
    "is_tensor",
    "merged",
]


class Kind(Enum):
    """Values of which no more needs to be known."""

    TENSOR = "a tensor, or some structure that the caller gives of tensors"
    VARIABLE = "a variable of Keras's"
    CONTAINER = "a list, a tuple or a dictionary with tensors in it"
    SHAPE = "the shape of a tensor"
    ITEMS = "pairs of something and a tensor"
    ITEM = "one of these pairs"
    DATASET = "a tf.data.Dataset"


@dataclass(frozen=True)
class Name:
    """Something from outside of the files, by its dotted name, such as ``tensorflow.concat``."""

    dotted: str
    by_tensorflow: bool = field(default=False, compare=False)
    """Whether it was reached through ``tensorflow.keras``, which has some names that Keras by itself has not."""
    private: bool = field(default=False, compare=False)
    """Whether it was reached through a module that is not public."""

    @property
    def package(self) -> str:
        return self.dotted.partition(".")[0]


@dataclass(eq=False)
class Scope:
    """The names of a module, a function or a class, and the scope around it."""

    module: Source
    around: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    """The names of tensors that have another name too, here or where they come from."""

    def find(self, name: str) -> Value:
        """Returns what a name stands for; None where that is unknown."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.around
        return None

    def imports(self, package: str) -> bool:
        """Whether a name here or around stands for something of a package."""
        names = self.names.values()
        here = any(isinstance(each, Name) and each.package == package for each in names)
        return here or (self.around is not None and self.around.imports(package))


@dataclass(frozen=True)
class Function:
    """A function or a lambda of the files, with the class whose method it is."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope = field(compare=False)
    owner: Class | None = field(default=None, compare=False)

    @property
    def is_static(self) -> bool:
        """Whether it is a method that is called without an object."""
        decorators = getattr(self.node, "decorator_list", ())
        return any(ast.unparse(each) in {"staticmethod", "classmethod"} for each in decorators)


@dataclass(eq=False)
class Class:
    """A class of the files."""

    bases: list[Value]
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)
    """What its own methods set on ``self``."""

    def ancestors(self) -> list[Class]:
        """Returns the class and those of the files that it derives from, nearest first."""
        found: list[Class] = [self]
        for each in found:
            found += [base for base in each.bases if isinstance(base, Class) and base not in found]
        return found

    def method(self, name: str) -> Function | None:
        """Returns a method of the class or of a class that it derives from."""
        return next((each.methods[name] for each in self.ancestors() if name in each.methods), None)

    @property
    def kind(self) -> str | None:
        """Which kind of Keras's classes it is; None of any other class."""
        return kind_of_class(self.outside_bases())

    def outside_bases(self) -> list[str]:
        """Returns the dotted names of the classes from outside of the files that it derives from."""
        return [base.dotted for each in self.ancestors() for base in each.bases if isinstance(base, Name)]


@dataclass(frozen=True)
class Instance:
    """An object of a class of the files, or of one from outside."""

    of: Class | Name


@dataclass(frozen=True)
class Several:
    """A tuple or a list that is written out."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Self:
    """The object whose method is read."""

    of: Class = field(compare=False)


Value = Kind | Name | Scope | Function | Class | Instance | Several | Self | None
"""None is what is not known. A scope stands for a module of the files."""


def merged(first: Value, second: Value) -> Value:
    """Returns what is one or the other: a tensor where either is one."""
    if first == second or second is None:
        return first
    if first is None:
        return second
    if isinstance(first, Several) and isinstance(second, Several) and len(first.values) == len(second.values):
        return Several(tuple(merged(*each) for each in zip(first.values, second.values, strict=True)))
    return next((each for each in (Kind.TENSOR, Kind.VARIABLE) if each in (first, second)), first)


def is_tensor(value: Value) -> bool:
    """Whether something is a tensor or a variable."""
    return value in (Kind.TENSOR, Kind.VARIABLE)


def element(value: Value) -> Value:
    """Returns what any element of a value stands for."""
    if isinstance(value, Several):
        return functools.reduce(merged, value.values)
    if value is Kind.ITEMS:
        return Kind.ITEM
    return Kind.TENSOR if holds_tensors(value) or value is Kind.ITEM else None


def element_at(value: Value, index: object, of: int) -> Value:
    """Returns what one of so many elements of a value stands for."""
    if isinstance(value, Several) and len(value.values) == of and isinstance(index, int) and -of <= index < of:
        return value.values[index]
    return None if value is Kind.ITEM and index == 0 else element(value)


def holds_tensors(value: Value) -> bool:
    """Whether something is a tensor, or has tensors in it."""
    if isinstance(value, Several):
        return any(map(holds_tensors, value.values))
    return value in (Kind.TENSOR, Kind.VARIABLE, Kind.CONTAINER)


@dataclass(frozen=True)
class Given:
    """What a call is given."""

    arguments: tuple[Value, ...] = ()
    keywords: Mapping[str, Value] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.arguments, *self.keywords.values())

    @property
    def has_tensor(self) -> bool:
        return any(map(holds_tensors, self.values))

    @property
    def functions(self) -> list[Function]:
        return [each for each in self.values if isinstance(each, Function)]
