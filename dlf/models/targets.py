"""Imports the target of a command: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.

Requirements:

* the name is that of a function that builds a model, say, or of a model;
* the error for a target that cannot be imported shows the traceback without the lines of dlf and of Python's importer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dlf.models.scripts import FILES, Script, script_of, script_run
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
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InvalidArgumentError(argument, expected=_FORM + ", or file.keras" * saved, received=target)
    if place.endswith(FILES) and not Path(place).is_file():
        raise InvalidArgumentError(argument, expected=_FORM, received=target, advice=f"There is no file {place}.")
    return place, name


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
    return target.rpartition(":")[0].endswith(FILES)


def load_target(target: str, argument: str = "TARGET", *, anew: bool = False) -> Callable[..., Any]:
    """Imports the module and returns the function.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``.
        argument: The name of the caller's argument, for the error message.
        anew: Whether a file or module that was imported already is run once more.

    Returns:
        The function. Where the name is that of a Keras model, a function that returns it, and from its second call on
        another, for which it runs the module once more.

    Raises:
        InvalidArgumentError: The module cannot be imported, or has nothing of this name.

    Example:
        >>> load_target("math:sqrt")(4)
        2.0
    """
    found, module = _load(target, argument, anew=anew)
    if _is_model(found):
        return _returning(found, target, argument)
    if not callable(found):
        known = [each for each in vars(module) if not each.startswith("_") and callable(getattr(module, each))]
        place, _, name = target.rpartition(":")
        raise InvalidArgumentError(
            argument,
            expected=f"a function or a model of {place}",
            received=name,
            advice=" ".join(
                [
                    did_you_mean(name, known) or f"It has {', '.join(known[:10]) or 'none'}.",
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
    place, name = check_target(target, argument)
    try:
        script = script_run(place, name, anew=anew)
    except Exception as error:
        raise _not_imported(target, argument, error, own_traceback(error)) from error
    if script.failed and not hasattr(script.module, name):
        first = script.failed[0]  # Most likely, all others follow from it.
        raise _not_imported(target, argument, first.error, first.traceback) from first.error
    return getattr(script.module, name, None), script.module


def _not_imported(target: str, argument: str, error: BaseException, traceback: str) -> InvalidArgumentError:
    aside = f"\n{_ASIDE}" if isinstance(error, OSError | SystemExit) else ""
    return InvalidArgumentError(
        argument,
        expected=f"{_FORM} that can be imported",
        received=target,
        advice=f"\n{traceback}{aside}",
    )


def script_behind(target: str) -> Script:
    """Returns the file or module of a target that was loaded: what of it was not run, and what it trains.

    Args:
        target: A target.

    Example:
        >>> script_behind("math:sqrt").remarks
        []
    """
    return script_of(target.rpartition(":")[0])


_ASIDE = (
    "The file is run without arguments. What the model does not need, such as data, arguments and training, belongs "
    'under `if __name__ == "__main__":`.'
)


def _is_model(value: Any) -> bool:
    # Who has made a model has imported Keras; dlf's own command has not.
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Model)


def _returning(model: Any, target: str, argument: str) -> Callable[[], Any]:
    """Returns a function that returns this model, and from its second call on one of the module run once more."""
    models = [model]

    def build() -> Any:
        return models.pop() if models else load_target(target, argument, anew=True)()

    return build
