"""Imports the target of a command: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.

Requirements:

* the name is that of a function that builds a model, say, or of a model; or the call of a function, an element or an
  attribute, as the file itself could write it: ``file.py:build(width=32)``, ``file.py:models[0]``;
* the error for a target that cannot be imported shows the traceback without the lines of dlf and of Python's importer.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dlf.models.scripts import FILES, Script, names_of_expression, script_of, script_run
from dlf.models.target_names import models_in
from dlf.utils.errors import InvalidArgumentError, did_you_mean
from dlf.utils.tracebacks import own_traceback

__all__ = ["check_target", "is_file", "is_saved_model", "load_target", "load_value", "script_behind"]

_FORM = "file.py:name, notebook.ipynb:name or package.module:name"


def check_target(target: str, argument: str = "TARGET", *, saved: bool = False) -> tuple[str, str]:
    """Splits a target into its file or module and its function name, without importing anything.

    Args:
        target: The target.
        argument: The name of the caller's argument, for the error message.
        saved: Whether a saved model, ``file.keras``, is accepted, too; its function name is empty.

    Raises:
        InvalidArgumentError: The target is not of that form, or the file does not exist.

    Example:
        >>> check_target("package.module:build")
        ('package.module', 'build')
    """
    if saved and is_saved_model(target):
        if not Path(target).is_file():
            raise InvalidArgumentError(
                argument, expected=f"{_FORM}, or file.keras", received=target, advice=f"There is no file {target}."
            )
        return target, ""
    place, name = _split(target)
    if not place or not _is_expression(name):
        file = target.removesuffix(":")
        there = models_in(file)
        missing = f"There is no file {file}." if file.endswith(FILES) and not Path(file).is_file() else ""
        raise InvalidArgumentError(
            argument,
            expected=_FORM + ", or file.keras" * saved,
            received=target,
            advice=f"In it there may be: {', '.join(f'{file}:{each}' for each in there)}." if there else missing,
        )
    if place.endswith(FILES) and not Path(place).is_file():
        raise InvalidArgumentError(argument, expected=_FORM, received=target, advice=f"There is no file {place}.")
    return place, name


_OF_A_FILE = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, FILES))})):(.*)", re.DOTALL)
_EXPRESSION = (
    *(ast.Expression, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Call, ast.keyword, ast.Constant),
    *(ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub),
)


def _split(target: str) -> tuple[str, str]:
    """The file or module of a target, and the name or the expression; the first colon may be that of a drive."""
    of_a_file = _OF_A_FILE.fullmatch(target)
    if of_a_file:
        return of_a_file[1], of_a_file[2]
    place, _, name = target.partition(":")
    return place, name


def _is_expression(text: str) -> bool:
    try:
        return all(isinstance(each, _EXPRESSION) for each in ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:
        return False


def is_saved_model(target: str) -> bool:
    """Tells whether a target is the name of a saved Keras model, ``file.keras``.

    Example:
        >>> is_saved_model("model.keras"), is_saved_model("model.py:build")
        (True, False)
    """
    return target.endswith(".keras")


def is_file(target: str) -> bool:
    """Tells whether a target is in a file or a notebook, and not in a package.

    Example:
        >>> is_file("model.py:build"), is_file("package.module:build")
        (True, False)
    """
    return _split(target)[0].endswith(FILES)


def load_target(target: str, argument: str = "TARGET", *, anew: bool = False) -> Callable[..., Any]:
    """Imports the module and returns the function.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.
        argument: The name of the caller's argument, for the error message.
        anew: Whether a file or module that was imported already is run once more.

    Returns:
        The function, or one that makes the call which the target writes out. Where the name is that of a Keras model, a
        function that returns it, and from its second call on another, for which it runs the module once more.

    Raises:
        InvalidArgumentError: The module cannot be imported, or has nothing of this name.

    Example:
        >>> load_target("math:sqrt")(4)
        2.0
    """
    place, name = check_target(target, argument)
    if _is_call(name):
        return _calling(name, _run(target, argument, anew=anew))
    found, module = _load(target, argument, anew=anew)
    if _is_model(found):
        return _returning(found, target, argument)
    if not callable(found):
        known = [each for each in vars(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise InvalidArgumentError(
            argument,
            expected=f"a function or a model of {place}",
            received=name,
            advice=" ".join(
                [
                    _elements_of(found, name)
                    or did_you_mean(name, known)
                    or f"It has {', '.join(known[:10]) or 'none'}.",
                    *(f"In the file, {each}." for each in script_behind(target).remarks),
                ]
            ),
        )
    return found  # type: ignore[no-any-return]


def load_value(target: str, argument: str) -> Any:
    """Imports the module and returns what the name stands for, of any kind; None if there is nothing of this name.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.
        argument: The name of the caller's argument, for the error message.

    Raises:
        InvalidArgumentError: The module cannot be imported.

    Example:
        >>> load_value("math:pi", "--data")
        3.141592653589793
    """
    return _load(target, argument, anew=False)[0]


def _load(target: str, argument: str, *, anew: bool) -> tuple[Any, ModuleType]:
    """Imports the module, and returns what the name stands for there, and the module."""
    name, script = _split(target)[1], _run(target, argument, anew=anew)
    if name.isidentifier():
        return getattr(script.module, name, None), script.module
    try:
        return _evaluated(name, script), script.module
    except Exception as error:
        raise InvalidArgumentError(
            argument,
            expected=f"what can be evaluated in {_split(target)[0]}",
            received=name,
            advice=f"\n{own_traceback(error)}",
        ) from error


def _run(target: str, argument: str, *, anew: bool) -> Script:
    place, name = check_target(target, argument)
    try:
        script = script_run(place, name, anew=anew)
    except Exception as error:
        raise _failing(target, argument, f"{_FORM} that can be imported", error, own_traceback(error)) from error
    if script.failed and not names_of_expression(name) <= vars(script.module).keys():
        failure = script.failure_behind(names_of_expression(name))
        lines = f"a file whose lines run up to the one that makes {name!r}"
        raise _failing(target, argument, lines, failure.error, failure.traceback) from failure.error
    return script


def _evaluated(expression: str, script: Script) -> Any:
    # Of `_EXPRESSION` alone, as the user's own file could write it; what it calls may train.
    with script.called():
        return eval(compile(expression, "TARGET", "eval"), vars(script.module))  # noqa: S307


def _failing(target: str, argument: str, expected: str, error: BaseException, traceback: str) -> InvalidArgumentError:
    aside = f"\n{_ASIDE}" if isinstance(error, OSError | SystemExit) else ""
    return InvalidArgumentError(argument, expected=expected, received=target, advice=f"\n{traceback}{aside}")


def script_behind(target: str) -> Script:
    """Returns the file or module of a target that was loaded: what of it was not run, and what it trains.

    Args:
        target: A target.

    Example:
        >>> script_behind("math:sqrt").remarks
        []
    """
    return script_of(_split(target)[0])


_ASIDE = (
    "The file is run without arguments. What the model does not need, such as data, arguments and training, belongs "
    'under `if __name__ == "__main__":`.'
)


def _is_model(value: Any) -> bool:
    # Who has made a model has imported Keras; dlf's own command has not.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Model)


_NAMED = 4
"""How many of a list's models are named."""


def _elements_of(found: Any, name: str) -> str:
    """How a model is named that a list or a dictionary holds, or an object as its attribute; empty if there is none."""
    if isinstance(found, list | tuple | dict):
        pairs: Any = found.items() if isinstance(found, dict) else enumerate(found)
        models = [f"{name}[{key!r}]" for key, each in pairs if _is_model(each)]
    else:
        models = [f"{name}.{key}" for key, each in getattr(found, "__dict__", {}).items() if _is_model(each)]
    return (
        f"It holds {'models' if len(models) > 1 else 'a model'}: name {' or '.join(models[:_NAMED])}." if models else ""
    )


def _is_call(expression: str) -> bool:
    return any(isinstance(each, ast.Call) for each in ast.walk(ast.parse(expression, mode="eval")))


def _calling(expression: str, script: Script) -> Callable[[], Any]:
    """Returns a function that makes the call that a target writes out."""

    def build() -> Any:
        return _evaluated(expression, script)

    build.__name__ = expression
    return build


def _returning(model: Any, target: str, argument: str) -> Callable[[], Any]:
    """Returns a function that returns this model, and from its second call on one of the module run once more."""
    models = [model]

    def build() -> Any:
        return models.pop() if models else load_target(target, argument, anew=True)()

    return build
