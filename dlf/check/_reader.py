"""Reads files as Keras would run them, with what is known of each value.

Requirements:

* only what Keras traces is held to the rules: the methods that it calls with tensors, what they call in turn, the
  functions that `compile` and layers are given, and code that builds a functional model;
* what is not known is left alone: a report that is wrong once is doubted always;
* code that first asks which backend, version or name there is knows what it does, and is left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from dlf.check._entries import ENTRIES, NO_TENSOR_ARGUMENTS, PREPARING, TENSOR_ARGUMENTS
from dlf.check._expressions import Expressions, Place
from dlf.check._findings import Finding
from dlf.check._guards import is_guard, leaves
from dlf.check._names import FRAMEWORKS, named
from dlf.check._outside import TAPE
from dlf.check._source import Source
from dlf.check._values import (
    Class,
    Function,
    Given,
    Kind,
    Name,
    Scope,
    Self,
    Value,
    element,
    element_at,
    holds_tensors,
    is_tensor,
    merged,
)
from dlf.check.equivalents import equivalent

__all__ = ["read"]


def read(sources: Sequence[Source]) -> list[Finding]:
    """Returns what is found in some files, which may import from one another, in the order of their lines."""
    return _Reader(sources).read() if sources else []


class _Reader(Expressions):
    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(Place(sources[0]))
        self._modules = {source.module: Scope(source) for source in sources}
        self._begun: set[str] = set()
        self._returned: dict[object, Value] = {}
        self._stack: list[ast.AST] = []
        self._traced: set[ast.AST] = set()
        self._piped: set[ast.AST] = set()
        self._compiled: list[tuple[Function, ast.expr, Place]] = []
        self._states: list[tuple[Class, ast.Attribute, ast.AST, Place]] = []
        self._called: set[ast.AST] = set()
        self._functions: list[Function] = []
        self._classes: list[Class] = []

    def read(self) -> list[Finding]:
        for module in self._modules:
            self._begin(module)
        self._read_compiled()
        for each in self._classes:
            self._read_class(each)
        for function in self._functions:
            names = [argument.arg for argument in function.node.args.args]
            if names[:2] == ["y_true", "y_pred"] and function.owner is None and not _is_of_numpy(function):
                self.call(function, traced=True)
        for each in self._classes:
            self._read_other_methods(each)
        for function in self._functions:  # What nobody calls may build a model, or train one.
            of_keras = function.owner is not None and function.owner.kind is not None
            if function.node not in self._called and not of_keras:
                self.call(function)
        self._report_states()
        return self.findings.in_order()

    # Files, and what they import.

    def _begin(self, module: str) -> Scope:
        scope = self._modules[module]
        if module not in self._begun:
            self._begun.add(module)
            before, self.place = self.place, Place(scope.module)
            self._block(scope.module.tree.body, scope)
            self.place = before
        return scope

    def _module(self, dotted: str, level: int) -> Scope | None:
        """A file that is read here, as another one imports it."""
        if level:
            source = self.place.source
            parts = source.module.split(".")
            package = parts if source.path.endswith("__init__.py") else parts[:-1]
            wanted = ".".join([*package[: len(package) - level + 1], *([dotted] if dotted else [])])
            return self._begin(wanted) if wanted in self._modules else None
        if not dotted or dotted.partition(".")[0] in {*FRAMEWORKS, "keras", "dlf"}:
            return None
        ends = [each for each in self._modules if each == dotted or each.endswith(f".{dotted}")]
        return self._begin(ends[0]) if len(ends) == 1 else None

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for each in node.names:
            module = self._module(each.name, 0) if each.asname else None
            first = each.name if each.asname else each.name.partition(".")[0]
            scope.names[each.asname or first] = module or named(first)
            if module is None:
                self.check_name(named(each.name), node)

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = self._module(node.module or "", node.level)
        for each in node.names:
            inner = self._module(f"{node.module}.{each.name}" if node.module else each.name, node.level)
            if each.name == "*":
                scope.names.update(module.names if module is not None else {})
            elif inner is not None or module is not None:
                found = module.names.get(each.name) if module is not None else None
                scope.names[each.asname or each.name] = inner if found is None else found
            elif node.level:
                scope.names[each.asname or each.name] = None
            else:
                name = named(f"{node.module}.{each.name}")
                self.check_name(name, node)
                scope.names[each.asname or each.name] = name

    # Statements.

    def _block(self, body: Sequence[ast.stmt], scope: Scope) -> Value:
        """Reads statements in their order, and returns what is returned by them."""
        returned: Value = None
        for index, statement in enumerate(body):
            returned = merged(returned, self._statement(statement, scope))
            if isinstance(statement, ast.Return | ast.Raise):
                break  # What follows is never reached.
            if isinstance(statement, ast.If) and is_guard(statement.test) and leaves(statement.body):
                with self.findings.unreported():
                    return merged(returned, self._block(body[index + 1 :], scope))
        return returned

    def _statement(self, node: ast.stmt, scope: Scope) -> Value:  # noqa: C901, PLR0911, PLR0912 - one for each kind.
        match node:
            case ast.Import():
                self._import(node, scope)
            case ast.ImportFrom():
                self._import_from(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                scope.names[node.name] = self._define(node, scope, None)
            case ast.ClassDef():
                scope.names[node.name] = self._class(node, scope)
            case ast.Return() | ast.Expr():
                value = self.value(node.value, scope)
                return value if isinstance(node, ast.Return) else None
            case ast.Assign():
                value = self.value(node.value, scope)
                for target in node.targets:
                    self.bind(target, value, scope)
                    _note_sharing(target, node.value, scope)
            case ast.AnnAssign(value=ast.expr() as assigned):
                self.bind(node.target, self.value(assigned, scope), scope)
            case ast.AugAssign():
                self._add_to(node, scope)
            case ast.If():
                if not is_guard(node.test):
                    self.condition(node.test, scope)
                with self.findings.unreported(is_guard(node.test)):
                    return merged(self._block(node.body, scope), self._block(node.orelse, scope))
            case ast.While():
                self.condition(node.test, scope)
                return self._loop(node, scope)
            case ast.For() | ast.AsyncFor():
                self.bind(node.target, element(self.value(node.iter, scope)), scope)
                return self._loop(node, scope)
            case ast.Assert():
                self.condition(node.test, scope)
            case ast.With() | ast.AsyncWith():
                return self._with(node, scope)
            case ast.Try() | ast.TryStar():
                return self._try(node, scope)
            case ast.Match():
                self.value(node.subject, scope)
                return self._block([each for case in node.cases for each in case.body], scope)
        return None

    def _loop(self, node: ast.While | ast.For | ast.AsyncFor, scope: Scope) -> Value:
        # Twice: what the end of the body makes is there at its beginning.
        return merged(self._block(node.body, scope), self._block([*node.body, *node.orelse], scope))

    def _with(self, node: ast.With | ast.AsyncWith, scope: Scope) -> Value:
        values = [self.value(item.context_expr, scope) for item in node.items]
        for item, value in zip(node.items, values, strict=True):
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value, scope)
        with self.at(inside=self.place.inside or TAPE in values):
            return self._block(node.body, scope)

    def _try(self, node: ast.Try | ast.TryStar, scope: Scope) -> Value:
        with self.at(trying=bool(node.handlers)):
            returned = self._block(node.body, scope)
        with self.findings.unreported():
            for handler in node.handlers:
                returned = merged(returned, self._block(handler.body, scope))
        return merged(returned, self._block([*node.orelse, *node.finalbody], scope))

    def bind(self, target: ast.expr, value: Value, scope: Scope) -> None:
        match target:
            case ast.Name():
                scope.names[target.id] = value
            case ast.Tuple() | ast.List():
                for index, each in enumerate(target.elts):
                    self.bind(each, element_at(value, index, len(target.elts)), scope)
            case ast.Starred():
                self.bind(target.value, value, scope)
            case ast.Attribute():
                self._set_attribute(target, self.value(target.value, scope), value)
            case ast.Subscript():
                self.value(target.slice, scope)
                if is_tensor(self.value(target.value, scope)) and self.place.inside and _is_of_tensor(target.slice):
                    advice = "keras.ops.slice_update, keras.ops.scatter_update or keras.ops.where"
                    self.report(target, "item-assignment", advice, f"{ast.unparse(target)} = ...")
                elif holds_tensors(value) and isinstance(target.value, ast.Name):
                    scope.names[target.value.id] = Kind.CONTAINER

    def _set_attribute(self, target: ast.Attribute, of: Value, value: Value) -> None:
        if isinstance(of, Class) and isinstance(value, Function):  # As a notebook adds methods.
            of.methods[target.attr] = Function(value.node, value.scope, of)
        if not isinstance(of, Self):
            return
        owner = of.of
        owner.attributes[target.attr] = merged(owner.attributes.get(target.attr), value)
        if holds_tensors(value) and value is not Kind.VARIABLE and self.place.inside and not self.findings.is_quiet:
            self._states.append((owner, target, self._stack[-1], self.place))

    def _report_states(self) -> None:
        """Reports attributes that outlive the trace they are set in: read before that, or where nothing is traced."""
        for owner, target, where, place in self._states:
            for method in (method.node for each in owner.ancestors() for method in each.methods.values()):
                lines = [
                    node.lineno
                    for node in ast.walk(method)
                    if isinstance(node, ast.Attribute) and (node.attr, type(node.ctx)) == (target.attr, ast.Load)
                ]
                if lines and (method not in self._traced or (method is where and min(lines) <= target.lineno)):
                    self.place = place
                    is_layer = owner.kind in {"model", "metric"}
                    kept = ", or keep it in self.add_weight(..., trainable=False) and assign to that" * is_layer
                    self.report(target, "state-in-call", f"return it{kept}", f"{ast.unparse(target)} = ...")

    def _add_to(self, node: ast.AugAssign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        match node.target:
            case ast.Name(id=name):
                if scope.find(name) is Kind.TENSOR and name in scope.shared and self.place.inside:
                    advice = f"{name} = {ast.unparse(ast.BinOp(node.target, node.op, node.value))}"
                    self.report(node, "item-assignment", advice)
                scope.names[name] = merged(scope.find(name), value)
                scope.shared.discard(name)
            case ast.Subscript():
                self.bind(node.target, value, scope)
            case ast.Attribute(value=owner):
                of_self = isinstance(self.value(owner, scope), Self)
                if of_self and self.place.inside and self.value(node.target, scope) is not Kind.CONTAINER:
                    advice = "self.add_weight(shape=(), initializer='zeros', trainable=False), and its assign_add"
                    self.report(node, "state-in-call", advice)

    # Functions and classes.

    def _define(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope, owner: Class | None
    ) -> Function | None:
        """Notes a function; returns None for one that a decorator gives something else."""
        function = Function(node, scope, owner)
        if not self.findings.is_quiet:
            self._functions.append(function)
        names = {self._decorator(each, scope): each for each in node.decorator_list}
        for name in names.keys() & _WRAPPING:
            self.report(names[name], "tensorflow-op", equivalent("tensorflow", name.partition(".")[2]), f"@{name}")
        if names.keys() & _WRAPPING - {"tensorflow.custom_gradient"}:
            self._called.add(node)
            return None  # It is given arrays.
        compiled = names.keys() & _COMPILING
        if compiled and not self.findings.is_quiet:
            self._compiled.append((function, names[compiled.pop()], self.place))
        return function

    def _read_compiled(self) -> None:
        """Reads functions that are compiled for a framework, but for those that a `tf.data` pipeline calls."""
        for function, decorator, place in self._compiled:
            if function.node not in self._piped:
                self.place = place
                self.report(decorator, "compiled-function", "nothing: leave it out", f"@{ast.unparse(decorator)}")
                if function.owner is None:
                    with self.at(inside=True):
                        self.call(function)

    def _decorator(self, node: ast.expr, scope: Scope) -> str:
        """The dotted name of a decorator from outside of the files."""
        with self.findings.unreported():
            found = self.value(node.func if isinstance(node, ast.Call) else node, scope)
            if isinstance(node, ast.Call) and node.args and found == Name("functools.partial"):
                found = self.value(node.args[0], scope)
        return found.dotted if isinstance(found, Name) else ""

    def _class(self, node: ast.ClassDef, scope: Scope) -> Class:
        inner = Scope(scope.module, scope)
        found = Class([self.value(each, scope) for each in node.bases])
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                method = self._define(each, scope, found)
                if method is not None:
                    found.methods[each.name] = method
            elif not isinstance(each, ast.ClassDef):
                self._statement(each, inner)
        found.attributes.update(inner.names)
        if not self.findings.is_quiet:
            self._classes.append(found)
        return found

    def _read_class(self, found: Class) -> None:
        kind = found.kind
        for name in PREPARING if kind else ():
            if name in found.methods:
                with self.at(preparing=True):
                    self.call(found.methods[name])
        for name in ENTRIES[kind] if kind else ():
            if name in found.methods and not self._is_wrapped(found.methods[name]):
                self.call(found.methods[name], traced=True)

    def _read_other_methods(self, found: Class) -> None:
        """Reads the methods of a model that nothing here calls, such as an `encode`."""
        if any(each in {"keras.Model", "keras.models.Model"} for each in found.outside_bases()):
            # Outside of a step, values may be asked for.
            with self.findings.only([*FRAMEWORKS.values()][:-1]):
                for method in found.methods.values():
                    if method.node not in self._called and not self._is_wrapped(method):
                        self.call(method, traced=True)

    def _is_wrapped(self, function: Function) -> bool:
        """Whether a decorator that is not known may give a function something else."""
        return function.is_static or any(
            self._decorator(each, function.scope).partition(".")[0] not in {*FRAMEWORKS, "keras", "typing", "abc"}
            and ast.unparse(each) not in {"override", "property"}
            for each in getattr(function.node, "decorator_list", ())
        )

    def call(
        self,
        function: Function,
        given: Given = Given(),  # noqa: B008 - it never changes.
        *,
        traced: bool = False,
        pipeline: bool = False,
        branch: bool = False,
    ) -> Value:
        self._called.add(function.node)
        scope = Scope(function.scope.module, function.scope)
        scope.names.update(_arguments(function, given, traced=traced))
        if traced:  # The caller's own tensors.
            scope.shared |= {name for name, value in scope.names.items() if value is Kind.TENSOR}
        place = Place(
            scope.module,
            inside=(traced or self.place.inside) and not pipeline,
            pipeline=pipeline or self.place.pipeline,
            branch=branch or self.place.branch,
            preparing=self.place.preparing and not traced,
        )
        key = function.node, tuple(scope.names.items()), place, self.findings.is_quiet
        if key in self._returned or len(self._stack) > _DEEPEST:
            return self._returned.get(key)
        self._traced |= {function.node} if place.inside else set()
        self._piped |= {function.node} if place.pipeline else set()
        self._returned[key] = None  # While it is read, since it may call itself.
        before, self.place = self.place, place
        self._stack.append(function.node)
        try:
            body = function.node.body
            returned = self._block(body, scope) if isinstance(body, list) else self.value(body, scope)
        finally:
            self._stack.pop()
            self.place = before
        self._returned[key] = returned
        return returned


_WRAPPING = frozenset({"tensorflow.custom_gradient", "tensorflow.numpy_function", "tensorflow.py_function"})
_COMPILING = frozenset({"tensorflow.function", "jax.jit", "torch.compile"})
_DEEPEST = 40


def _arguments(function: Function, given: Given, *, traced: bool) -> dict[str, Value]:
    """What is known of each argument of a function."""
    declared = function.node.args
    positional = [each.arg for each in (*declared.posonlyargs, *declared.args)]
    optional = {*positional[len(positional) - len(declared.defaults) :], *(each.arg for each in declared.kwonlyargs)}
    is_method = function.owner is not None and not function.is_static
    arguments = given.arguments or ((Self(function.owner),) if is_method and function.owner else ())
    known: dict[str, Value] = dict(zip(positional, arguments, strict=False))
    first = next((each for each in positional if each not in known), None)
    for name in (*positional, *(each.arg for each in declared.kwonlyargs)):
        if name not in known:
            is_first = name == first and name not in optional and name not in NO_TENSOR_ARGUMENTS
            other = Kind.SHAPE if name.endswith("shape") else None
            unknown = Kind.TENSOR if traced and (is_first or name in TENSOR_ARGUMENTS) else other
            known[name] = given.keywords.get(name, unknown)
    if declared.vararg is not None:
        known[declared.vararg.arg] = Kind.CONTAINER if traced else None
    if declared.kwarg is not None:
        known[declared.kwarg.arg] = None
    return known


def _note_sharing(target: ast.expr, value: ast.expr, scope: Scope) -> None:
    """Notes which names stand for a tensor that something else holds, and would change with it on PyTorch."""
    if isinstance(target, ast.Name):
        of_name = isinstance(value, ast.Name)
        # The gradient of these is computed from what they gave.
        function = ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""
        is_kept = function in {"exp", "relu", "sigmoid", "softmax", "sqrt", "tanh"}
        scope.shared = (scope.shared | {target.id}) if of_name or is_kept else scope.shared - {target.id}
        if isinstance(value, ast.Name):
            scope.shared.add(value.id)


def _is_of_numpy(function: Function) -> bool:
    """Whether a function computes with NumPy alone."""
    found = [function.scope.find(each.id) for each in ast.walk(function.node) if isinstance(each, ast.Name)]
    packages = {each.package for each in found if isinstance(each, Name)}
    return "numpy" in packages and not packages & {"jax", "keras", "tensorflow", "torch"}


def _is_of_tensor(index: ast.expr) -> bool:
    """Whether an index is one of a tensor and not the key of a dictionary."""
    return any(isinstance(each, ast.Slice | ast.Tuple) for each in (index, *ast.iter_child_nodes(index)))
