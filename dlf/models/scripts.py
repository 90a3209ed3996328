"""Runs a script or a notebook for what it makes: without arguments, without training, and without what fails.

Requirements:

* a file is run under its own name, with its folder first on ``sys.path``, once for all that is asked of it;
* Keras's `fit` does nothing but note what it is given, and a loop of the file's own ends at the first step that one of
  Keras's optimizers would take; a file is run up to the training of the model that is asked for, since what follows
  counts on a trained model, and may change it;
* what a file does under ``if __name__ == "__main__":`` alone is run where it makes what is asked for;
* a statement that fails, such as one that reads data that are not there, is left out, and that is said; the model may
  not need it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import functools
import importlib
import inspect
import json
import linecache
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from dlf.utils.attributes import replaced
from dlf.utils.tracebacks import original, own_traceback, without_colours
from dlf.utils.words import listed

__all__ = [
    "FILES",
    "Failure",
    "Fit",
    "Script",
    "TrainedError",
    "cells_of",
    "fit_instead",
    "names_of_expression",
    "script_of",
    "script_run",
    "source_of",
]

FILES = (".py", ".ipynb")
"""The endings of the names of scripts and notebooks."""


@dataclass(frozen=True)
class Fit:
    """A training that was left out: the model, and what Keras's `fit` is given by its name; nothing in a loop."""

    model: Any
    arguments: dict[str, Any]


@dataclass(frozen=True)
class _Statement:
    """A statement of a file, compiled by itself: its first line, and the names that it makes or adds to."""

    line: int
    code: Any
    names: frozenset[str]


@dataclass(frozen=True)
class Failure:
    """A statement of a file that failed: its first line, and its error."""

    line: int
    error: BaseException
    traceback: str
    """The error with the user's own lines."""
    names: frozenset[str]
    """The names that it would have made."""


@dataclass
class Script:
    """A file that was run."""

    module: ModuleType
    fits: list[Fit] = field(default_factory=list)
    """The calls of `fit` that were left out, in their order."""
    failed: list[Failure] = field(default_factory=list)
    """The statements that failed, in their order."""
    ahead: list[_Statement] = field(default_factory=list)
    """The statements that were not run yet."""
    guarded: list[_Statement] = field(default_factory=list)
    """Those under ``if __name__ == "__main__":``, which are run for what they alone make."""

    def run_for(self, name: str) -> None:
        """Runs the statements ahead up to the training of the model of this name, or else all.

        Args:
            name: The name of what is asked for, or an expression. If it is there, and stays as it is, nothing more is
                run.
        """
        names = names_of_expression(name)
        elsewhere = {*vars(self.module), *_bound_in(self.ahead)}
        if names & _bound_in(self.guarded) and not names <= elsewhere:
            self.ahead, self.guarded = [*self.ahead, *self.guarded], []

        def is_bound_again() -> bool:
            return bool(names & _bound_in(self.ahead))

        def is_enough(trained: Any) -> bool:
            return _is_named(trained, name, vars(self.module)) and not is_bound_again()

        # What is None as yet may be made by a function that names it global.
        there = {each for each, value in vars(self.module).items() if value is not None}
        if names <= there and not is_bound_again():
            return
        with suppress(_EnoughError), self.called(is_enough):
            while self.ahead:
                self._step()

    def _step(self) -> None:
        statement = self.ahead.pop(0)
        try:
            exec(statement.code, vars(self.module))  # noqa: S102 - that is what running is.
        except TrainedError:
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a script may raise anything.
            text = own_traceback(error)
            # Without the traceback itself, which would keep all that its functions hold.
            self.failed.append(Failure(statement.line, original(error).with_traceback(None), text, statement.names))
            for name in statement.names:
                vars(self.module).pop(name, None)  # What an earlier statement made is not what is meant.
            if isinstance(error, SystemExit):
                self.ahead.clear()

    def failure_behind(self, names: Collection[str]) -> Failure:
        """Returns the failure because of which some names are not there.

        Args:
            names: The names; some statement has failed.
        """
        making = [each for each in self.failed if each.names & set(names)]
        found = making[-1] if making else self.failed[0]
        # A name that is not there either has a failure of its own.
        while isinstance(found.error, NameError):
            before = [each for each in self.failed if found.error.name in each.names and each.line < found.line]
            if not before:
                break
            found = before[-1]
        return found

    @property
    def remarks(self) -> list[str]:
        """What of it was not run, in words."""
        said = [f"the training is left out{', and what follows' * bool(self.ahead)}"] if self.fits else []
        if self.failed:
            first, lines = self.failed[0], [str(each.line) for each in self.failed[1:]]
            shown = [*lines[:_SHOWN], *(["others"] if len(lines) > _SHOWN else [])]
            also = f", nor did line{'s' * (len(lines) > 1)} {listed(shown)}" if lines else ""
            what = f"{type(first.error).__name__}: {_shortened(without_colours(str(first.error)))}"
            said.append(f"line {first.line} did not run ({what}){also}")
        return said

    @contextmanager
    def called(self, is_enough: Callable[[Any], bool] = lambda _: False) -> Iterator[None]:
        """Leaves training out, and gives no arguments, while a function of the file is called.

        Args:
            is_enough: Whether the training of a model, which it is given, ends the file.
        """
        given, sys.argv = sys.argv, [str(getattr(self.module, "__file__", ""))]
        try:
            with _left_out(self.fits, is_enough):
                yield
        finally:
            sys.argv = given


class TrainedError(BaseException):
    """A model would be trained now by a loop of the file's own, which cannot go on without."""


class _EnoughError(BaseException):
    """The model that is asked for would be trained now."""


_SCRIPTS: dict[str, Script] = {}
"""What was run or imported, by the path of the file or the name of the module."""


def script_of(place: str) -> Script:
    """Returns a file that was run or a module that was imported; an empty one if it was not.

    Args:
        place: The name of a file or of a module.

    Example:
        >>> script_of("nowhere.py").remarks
        []
    """
    return _SCRIPTS.get(_key(place)) or Script(ModuleType(place))


def script_run(place: str, name: str, *, anew: bool = False) -> Script:
    """Runs a file or imports a module, unless that was done already.

    Args:
        place: The name of a script, a notebook or a module.
        name: What is asked for: the file is run up to the training of a model of this name, or else to its end.
        anew: Whether to run it once more.

    Raises:
        Exception: What a module raises; a file only where it is no Python code.

    Example:
        >>> script_run("math", "sqrt").module.sqrt(4)
        2.0
    """
    if anew or _key(place) not in _SCRIPTS:
        begin = _begun if place.endswith(FILES) else _imported
        _SCRIPTS[_key(place)] = begin(place)
    script = _SCRIPTS[_key(place)]
    script.run_for(name)
    return script


def _key(place: str) -> str:
    return str(Path(place).resolve()) if place.endswith(FILES) else place


def _begun(file: str) -> Script:
    place = Path(file).resolve()
    if str(place.parent) not in sys.path[:1]:
        sys.path.insert(0, str(place.parent))
    module = ModuleType(place.stem)
    module.__file__ = str(place)
    if place.suffix == ".ipynb":
        module.__dict__["display"] = print  # As in every notebook.
    statements, guarded = _statements(*source_of(place))
    # Keras looks classes up in sys.modules by the name of their module, when it saves a model, say.
    sys.modules[place.stem] = module
    _count_from_the_beginning()
    return Script(module, ahead=statements, guarded=guarded)


def _count_from_the_beginning() -> None:
    """Lets Keras number names from the beginning: a script may name some layers, and leave others to Keras."""
    keras = sys.modules.get("keras")
    if keras is not None:
        from dlf.backend.keras_internals import dtype_policy_kept

        with dtype_policy_kept():
            # Freeing memory would take a second where the heap is large.
            keras.utils.clear_session(free_memory=False)


def _imported(name: str) -> Script:
    # `python -m` puts the working directory on the path, but a console script does not.
    sys.path.insert(0, str(Path.cwd()))
    there = sys.modules.get(name) if name in _SCRIPTS else None
    return Script(importlib.import_module(name) if there is None else importlib.reload(there))


def _statements(source: str | bytes, name: str) -> tuple[list[_Statement], list[_Statement]]:
    """The statements of a file, and those that it runs as a script alone."""
    flags = compile(source, name, "exec", dont_inherit=True).co_flags & _OF_FUTURE

    def compiled(node: ast.stmt) -> _Statement:
        code = compile(ast.Module([node], []), name, "exec", flags, dont_inherit=True)
        return _Statement(node.lineno, code, frozenset(_names_of(node)))

    nodes = ast.parse(source, name).body
    guards = [each for each in nodes if isinstance(each, ast.If) and ast.unparse(each.test) in _GUARDS]
    return (
        [compiled(each) for each in nodes if each not in guards],
        [compiled(each) for guard in guards for each in guard.body],
    )


_GUARDS = ("__name__ == '__main__'", "'__main__' == __name__")


def _bound_in(statements: list[_Statement]) -> frozenset[str]:
    return frozenset[str]().union(*(each.names for each in statements))


def names_of_expression(text: str) -> frozenset[str]:
    """Returns the names of a module that an expression is made of.

    Args:
        text: The expression, or a single name.

    Example:
        >>> sorted(names_of_expression("make(sizes[0], depth=len(sizes))"))
        ['make', 'sizes']
    """
    nodes = ast.walk(ast.parse(text, mode="eval"))
    return frozenset(each.id for each in nodes if isinstance(each, ast.Name) and not hasattr(builtins, each.id))


def _is_named(model: Any, expression: str, names: dict[str, Any]) -> bool:
    """Whether an expression stands for this model already; one that makes a call would make another."""
    if "(" in expression:
        return False
    try:
        return eval(expression, names) is model  # noqa: S307 - see `targets`.
    except Exception:  # noqa: BLE001 - it is not there yet.
        return False


def _names_of(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds in its module, or whose objects it adds to, as in ``model.add(layer)``."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name  # What is bound inside is not the module's.
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in _GROWING:
        yield node.value.id
    for each in ast.iter_child_nodes(node):
        yield from _names_of(each)


_GROWING = frozenset({"add", "append", "extend", "insert", "pop", "update"})
_OF_FUTURE = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
"""What ``from __future__ import`` may ask of the compiler, for the whole file."""


class _Curves(dict[str, list[float]]):
    """The curves of a training that was left out, which a script may draw: each of them is no number in every epoch."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def __missing__(self, name: str) -> list[float]:
        return [math.nan] * self._epochs


@contextmanager
def _left_out(fits: list[Fit], is_enough: Callable[[Any], bool]) -> Iterator[None]:
    """Lets `fit` do nothing: a script that trains wherever it is imported would do so in each backend's process."""
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    fit_of_keras = keras.Model.fit

    @functools.wraps(fit_of_keras)  # Its signature is asked for.
    def fit(model: Any, *args: Any, **options: Any) -> Any:
        given = inspect.signature(fit_of_keras).bind(model, *args, **options).arguments
        fits.append(Fit(given.pop("self"), given))
        if is_enough(model):
            raise _EnoughError
        model.history = keras.callbacks.History()
        model.history.history = _Curves(int(given.get("epochs", 1)))
        return model.history

    step_of_keras = keras.Model.train_on_batch

    @functools.wraps(step_of_keras)
    def train_on_batch(model: Any, *args: Any, **options: Any) -> Any:
        given = inspect.signature(step_of_keras).bind(model, *args, **options).arguments
        given.pop("self")
        as_dictionary, names = given.pop("return_dict", False), ["loss", *_names_of_metrics(model)]
        steps[model] = steps.get(model, 0) + 1
        if steps[model] > _STEPS or is_enough(model):
            trained(model, given | {"batch_size": len(keras.tree.flatten(given["x"])[0])})
        return dict.fromkeys(names, 0.0) if as_dictionary else [0.0] * len(names) if len(names) > 1 else 0.0

    steps = WeakKeyDictionary[Any, int]()
    optimizer_of_keras = keras.optimizers.Optimizer
    build_of_keras, built = optimizer_of_keras.build, WeakKeyDictionary[Any, Any]()

    def build(optimizer: Any, variables: Any) -> None:
        built[optimizer] = variables
        build_of_keras(optimizer, variables)

    def apply(optimizer: Any, grads: Any, trainable_variables: Any = None) -> None:  # noqa: ARG001 - Keras's signature.
        trained(_whose(trainable_variables or built.get(optimizer)), {})

    def trained(model: Any, arguments: dict[str, Any]) -> None:
        if model is not None:
            fits.append(Fit(model, arguments))
        raise _EnoughError if model is not None and is_enough(model) else TrainedError

    token = _fit_instead.set(fit)
    try:
        with (
            replaced(keras.Model, "fit", fit),
            replaced(keras.Model, "train_on_batch", train_on_batch),
            replaced(optimizer_of_keras, "build", build),
            replaced(optimizer_of_keras, "apply", apply),
        ):
            yield
    finally:
        _fit_instead.reset(token)


_STEPS = 2
"""How often each model may be trained on a batch before a loop ends: the parts of a GAN take turns."""


def _names_of_metrics(model: Any) -> list[str]:
    """The names of what `train_on_batch` returns beside the loss, as far as `compile` tells."""
    try:
        metrics = (model.get_compile_config() or {}).get("metrics")
    except Exception:  # noqa: BLE001 - what Keras cannot serialize.
        metrics = None
    return [str(each) for each in metrics] if isinstance(metrics, list) else []


def _whose(variables: Any) -> Any:
    """The model that these variables are trained of: the innermost one that a function on the stack names."""
    keras, wanted = sys.modules["keras"], {id(each) for each in variables or ()}
    frame = inspect.currentframe()
    while frame is not None and wanted:
        for value in (*frame.f_locals.values(), *(frame.f_globals.values() if _is_of_user(frame) else ())):
            if isinstance(value, keras.Model) and wanted <= {id(each) for each in value.trainable_variables}:
                return value
        frame = frame.f_back
    return None


def _is_of_user(frame: FrameType) -> bool:
    return "site-packages" not in frame.f_code.co_filename


def fit_instead() -> Callable[..., Any] | None:
    """Returns what stands for training while the file of a target is run; None at any other time."""
    return _fit_instead.get()


_fit_instead: ContextVar[Callable[..., Any] | None] = ContextVar("fit_instead", default=None)


def source_of(file: Path) -> tuple[str | bytes, str]:
    """Returns a file's source code, and the name that it is compiled by.

    Args:
        file: A script or a notebook. Of a notebook the code is that of its cells, without what only a notebook can run.
    """
    if file.suffix != ".ipynb":
        return file.read_bytes(), str(file)  # Python finds its encoding.
    code = "\n".join(cells_of(file))
    # For tracebacks, and for TensorFlow, which reads the code of functions. The lines of the file itself are JSON: no
    # file may have this name, or they would be read again.
    name = f"{file} (cells)"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    return code, name


def cells_of(notebook: Path) -> list[str]:
    """Returns the code of each of a notebook's cells of code, without what only a notebook can run.

    Args:
        notebook: The file.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]
    return [_MAGIC.sub("", _COMMAND.sub(_passed_over, _without_magic(text))) for text in texts]


def _passed_over(command: re.Match[str]) -> str:
    # As many lines as before, so that those after it keep their numbers.
    return f"{command[1]}pass" + "\n" * command[0].count("\n")


_COMMAND = re.compile(r"^([ \t]*)(?:(?:!(?!=)|%{1,2}[a-zA-Z])(?:.*\\\n)*.*|[\w.]+\?{1,2}[ \t]*$)", re.MULTILINE)
"""Lines for the shell or for IPython, such as ``!pip install keras``, ``%matplotlib inline`` or ``keras.Input?``."""
_MAGIC = re.compile(r"^@(\w+\.)*register_\w*magic\w*(\(.*\))?$", re.MULTILINE)
"""A line by which a function becomes a command of IPython's, which is not there."""
_TIMED = re.compile(r"^%%(time|timeit|capture)\b.*")


def _without_magic(cell: str) -> str:
    """Returns a cell without its first line if that only times or silences it; one of another language is empty."""
    cell = _TIMED.sub("", cell.lstrip())
    return "" if cell.startswith("%%") else cell


_LONGEST, _SHOWN = 200, 4


def _shortened(text: str) -> str:
    # TensorFlow puts the user's code before the error.
    _, _, inner = text.rpartition("Error: ") if text.startswith("in user code") else ("", "", text)
    line = " ".join(inner.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
