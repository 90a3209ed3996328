"""What an expression stands for, and what is wrong with it where Keras traces it."""

from __future__ import annotations

import ast
import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dlf.check._findings import Findings
from dlf.check._guards import is_guard
from dlf.check._names import below, fault_of_name
from dlf.check._outside import NO_TENSORS, Outside
from dlf.check._source import Source
from dlf.check._values import (
    Class,
    Function,
    Given,
    Instance,
    Kind,
    Name,
    Scope,
    Self,
    Several,
    Value,
    element,
    element_at,
    holds_tensors,
    is_tensor,
    merged,
)
from dlf.check.equivalents import TENSOR_METHODS

__all__ = ["Expressions", "Place"]


@dataclass(frozen=True)
class Place:
    """Where is read."""

    source: Source
    inside: bool = False
    """Whether Keras traces it."""
    pipeline: bool = False
    """Whether it is in a function of a `tf.data` pipeline."""
    preparing: bool = False
    """Whether it is in `__init__` or `build` of one of Keras's classes."""
    branch: bool = False
    """Whether it is in a function that `keras.ops.cond`, or one of its loops, is given."""
    trying: bool = False
    """Whether it is in the body of a ``try``, which knows what to do without."""


class Expressions(ABC):
    """Reads expressions."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.findings = Findings()
        self._outside = Outside(self)

    @abstractmethod
    def call(
        self,
        function: Function,
        given: Given = Given(),  # noqa: B008 - it never changes.
        *,
        traced: bool = False,
        pipeline: bool = False,
        branch: bool = False,
    ) -> Value:
        """Reads a function, and returns what its result stands for.

        Args:
            function: The function.
            given: What is known of its arguments.
            traced: Whether Keras calls it with tensors.
            pipeline: Whether a `tf.data` pipeline calls it.
            branch: Whether `keras.ops.cond`, or one of its loops, calls it.
        """

    @abstractmethod
    def bind(self, target: ast.expr, value: Value, scope: Scope) -> None:
        """Lets a name, an attribute or an element stand for a value."""

    @contextmanager
    def at(self, **changes: bool | Source) -> Iterator[None]:
        """Reads somewhere else for as long as it is entered."""
        before = self.place
        self.place = replace(before, **changes)  # type: ignore[arg-type]
        try:
            yield
        finally:
            self.place = before

    def report(self, node: ast.expr | ast.stmt, rule: str, advice: str, code: str | None = None) -> None:
        """Notes what is found at a node."""
        self.findings.report(self.place.source, node, rule, ast.unparse(node) if code is None else code, advice)

    def check_name(self, name: Name, node: ast.expr | ast.stmt) -> None:
        """Notes a name that Keras does not have."""
        fault = None if self.place.trying else fault_of_name(name)
        if fault is not None:
            self.report(node, *fault, code=name.dotted)

    def condition(self, test: ast.expr, scope: Scope) -> None:
        """Reads a condition, which may not be a tensor."""
        # While a layer is made, its variables have values.
        if self._asks_a_tensor(test, scope) and not self.place.preparing:
            self.report(test, "tensor-condition", "keras.ops.where, or keras.ops.cond")

    def _asks_a_tensor(self, test: ast.expr, scope: Scope) -> bool:
        match test:
            case ast.BoolOp() if any("isinstance(" in ast.unparse(each) for each in test.values):
                return False  # It knows what it asks.
            case ast.BoolOp():
                return max([self._asks_a_tensor(each, scope) for each in test.values])
            case ast.UnaryOp(op=ast.Not()):
                return self._asks_a_tensor(test.operand, scope)
        value = self.value(test, scope)
        # A structure of tensors, or None, may be asked for its truth too.
        return is_tensor(value) and not isinstance(test, ast.Name | ast.Subscript | ast.Attribute) and not _is_got(test)

    def value(self, node: ast.expr | None, scope: Scope) -> Value:  # noqa: C901, PLR0911, PLR0912 - one for each kind.
        """Returns what an expression stands for."""
        match node:
            case ast.Name():
                return scope.find(node.id)
            case ast.Attribute():
                return self._attribute(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Lambda():
                return Function(node, scope)
            case ast.BinOp():
                one, other = self.value(node.left, scope), self.value(node.right, scope)
                return Kind.TENSOR if is_tensor(one) or is_tensor(other) else merged(one, other)
            case ast.UnaryOp():
                value = self.value(node.operand, scope)
                return None if isinstance(node.op, ast.Not) else value
            case ast.BoolOp():
                for each in node.values[:-1]:
                    self.condition(each, scope)
                return self._any(node.values, scope)
            case ast.Compare():
                parts = (node.left, *node.comparators)
                compared = [self.value(each, scope) for each in parts]
                return Kind.TENSOR if any(map(is_tensor, compared)) and not _is_plain(node.ops, parts) else None
            case ast.IfExp():
                if not is_guard(node.test):
                    self.condition(node.test, scope)
                with self.findings.unreported(is_guard(node.test)):
                    return merged(self.value(node.body, scope), self.value(node.orelse, scope))
            case ast.Tuple() | ast.List() | ast.Set():
                return self._written_out(node.elts, scope)
            case ast.Dict():
                held = [holds_tensors(self.value(each, scope)) for each in node.values]
                return Kind.CONTAINER if any(held) else None
            case ast.Subscript():
                self.value(node.slice, scope)
                value = self.value(node.value, scope)
                if isinstance(value, Several) and isinstance(node.slice, ast.Constant):
                    return element_at(value, node.slice.value, len(value.values))
                return element(value)
            case ast.Starred() | ast.Await():
                return self.value(node.value, scope)
            case ast.NamedExpr():
                value = self.value(node.value, scope)
                self.bind(node.target, value, scope)
                return value
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._comprehension(node.elt, node.generators, scope)
            case ast.DictComp():
                return self._comprehension(node.value, node.generators, scope)
            case ast.Slice():
                self._any([each for each in (node.lower, node.upper, node.step) if each is not None], scope)
        return None

    def _any(self, nodes: Iterable[ast.expr], scope: Scope) -> Value:
        result: Value = None
        for each in nodes:
            result = merged(result, self.value(each, scope))
        return result

    def _written_out(self, nodes: list[ast.expr], scope: Scope) -> Value:
        values = [self.value(each, scope) for each in nodes]
        if 0 < len(values) <= _WRITTEN_OUT and not any(isinstance(each, ast.Starred) for each in nodes):
            return Several(tuple(values))
        return Kind.CONTAINER if any(map(holds_tensors, values)) else None

    def _comprehension(self, node: ast.expr, generators: list[ast.comprehension], scope: Scope) -> Value:
        inner = Scope(scope.module, scope)
        for each in generators:
            self.bind(each.target, element(self.value(each.iter, inner)), inner)
            for test in each.ifs:
                self.condition(test, inner)
        return Kind.CONTAINER if holds_tensors(self.value(node, inner)) else None

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value:  # noqa: PLR0911 - one for each kind of owner.
        match self.value(node.value, scope):
            case Name() as owner:
                name = below(owner, node.attr)
                if isinstance(node.ctx, ast.Load):
                    self.check_name(name, node)
                return name
            case Scope() as module:
                return module.names.get(node.attr)
            case Self() as owner:
                return self._of_self(owner, node.attr)
            case Kind.TENSOR | Kind.VARIABLE:
                if node.attr == "at" and not self.place.pipeline:
                    self.report(node, "tensor-method", TENSOR_METHODS["at"])
                return Kind.SHAPE if node.attr == "shape" else None
            case Kind.SHAPE if node.attr in {"rank", "ndims", "dims"}:
                self.report(node, "tensor-method", "len(x.shape)")
            case Instance(of=Name(package="keras")) if node.attr in {"input", "output"}:
                return Kind.TENSOR
            case Instance(of=Class() as made):
                return self._of_self(Self(made), node.attr)
        return None

    def _of_self(self, owner: Self, attribute: str) -> Value:
        method = owner.of.method(attribute)
        if method is None:
            found = (each.attributes.get(attribute) for each in owner.of.ancestors())
            return next((each for each in found if each is not None), None)
        decorators = {ast.unparse(each) for each in getattr(method.node, "decorator_list", ())}
        return self.call(method, Given((owner,))) if "property" in decorators else method

    def _call(self, node: ast.Call, scope: Scope) -> Value:  # noqa: PLR0911 - one for each kind of function.
        function = self.value(node.func, scope)
        keywords = {each.arg: self.value(each.value, scope) for each in node.keywords if each.arg}
        given = Given(tuple(self.value(each, scope) for each in node.args), keywords)
        match function:
            case Name():
                return self._outside.call(node, function, given)
            case Function():
                bound = (Self(function.owner),) if function.owner and not function.is_static else ()
                return self.call(function, Given((*bound, *given.arguments), keywords))
            case Class():
                return Instance(function)
            case Instance():
                return self._of_instance(function, given)
        match node.func:
            case ast.Name(id=name):
                return self._of_builtin(node, name, given)
            case ast.Attribute() as method:
                return self._of_method(node, method, given, scope)
        return Kind.TENSOR if given.has_tensor else None  # Such as `layers.Dense(3)(x)`, of layers from elsewhere.

    def _of_instance(self, called: Instance, given: Given) -> Value:
        if isinstance(called.of, Class) and called.of.kind is None and given.has_tensor:
            method = called.of.method("call") or called.of.method("__call__")
            if method is not None:
                self.call(method, Given((Self(called.of), *given.arguments), given.keywords))
        return Kind.TENSOR if given.has_tensor or self.place.inside else None

    def _of_method(  # noqa: PLR0911 - one for each kind of owner.
        self, node: ast.Call, function: ast.Attribute, given: Given, scope: Scope
    ) -> Value:
        """What a call of a method of some value stands for."""
        owner, name = self.value(function.value, scope), function.attr
        self._outside.check_method(node, function, owner, scope)
        if owner is Kind.DATASET:
            for each in given.functions:
                self.call(each, pipeline=True)
            return Kind.DATASET
        if is_tensor(owner) or owner is Kind.SHAPE:
            return self._of_tensor(function, owner)
        if owner is Kind.CONTAINER or isinstance(owner, Several) or name in _ADDING:
            if name in _ADDING and given.has_tensor:
                # As if it were bound again: to the name, or to the attribute, whose tensors outlive the trace.
                self.bind(function.value, Kind.CONTAINER, scope)
            if not holds_tensors(owner) or name in {"keys", "index", "count", *_ADDING}:
                return None
            return Kind.ITEMS if name == "items" else Kind.TENSOR if name in {"get", "pop"} else Kind.CONTAINER
        if name in {"add_weight", "add_variable"}:
            return Kind.VARIABLE
        if name[:1].isupper():
            return None  # Some class makes an object.
        of_super = isinstance(function.value, ast.Call) and ast.unparse(function.value.func) == "super"
        known = self.place.inside or isinstance(owner, Self) or of_super
        return Kind.TENSOR if given.has_tensor and known else None

    def _of_tensor(self, function: ast.Attribute, owner: Value) -> Value:
        name = function.attr
        if name in {"items", "keys"}:  # It is a dictionary of tensors.
            return Kind.ITEMS if name == "items" else None
        if owner is Kind.SHAPE and name != "as_list":
            return None
        if name in TENSOR_METHODS and not self.place.pipeline:
            self.report(function, "tensor-method", TENSOR_METHODS[name])
        return None if owner is Kind.SHAPE or name in _NO_LONGER_TENSORS else Kind.TENSOR

    def _of_builtin(self, node: ast.Call, name: str, given: Given) -> Value:
        first = given.arguments[0] if given.arguments else None
        if name in {"int", "float", "bool", "range"}:
            computed = [is_tensor(value) and not isinstance(each, ast.Name | ast.Subscript)
                        for each, value in zip(node.args, given.arguments, strict=True)]  # fmt: skip
            # What an argument or its element is may be a number; what was computed of tensors is none.
            if self.place.inside and any(computed):
                self.report(node, "tensor-condition", "keras.ops, which stay inside of the step")
            return None
        if name == "map" and isinstance(first, Name) and first.dotted.rpartition(".")[2] in NO_TENSORS:
            return None
        if name in {"enumerate", "list", "tuple", "zip", "reversed", "dict", "sorted", "map", "filter"}:
            several = Kind.ITEMS if name == "enumerate" else Kind.CONTAINER
            return several if given.has_tensor else None
        if name in {"sum", "max", "min", "abs", "pow", "round"}:
            return Kind.TENSOR if holds_tensors(first) else None
        return Kind.TENSOR if given.has_tensor and self.place.inside and not hasattr(builtins, name) else None


_WRITTEN_OUT = 16
"""Of how many elements of a tuple or a list each is known by itself."""
_ADDING = frozenset({"append", "extend", "insert"})
_NO_LONGER_TENSORS = frozenset({"numpy", "item", "get_shape", "tolist", "size", "dim"})


def _is_got(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"get", "pop"}


def _is_plain(operators: list[ast.cmpop], compared: Iterable[ast.expr]) -> bool:
    """Whether a comparison is one of objects and not of their elements."""
    return all(isinstance(each, ast.Is | ast.IsNot | ast.In | ast.NotIn) for each in operators) or any(
        isinstance(each, ast.Constant) and isinstance(each.value, str | None) for each in compared
    )
