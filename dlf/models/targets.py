"""Imports the target of a command: ``file.py:function`` or ``package.module:function``, which builds a model, say.

Requirements:

* the error for a target that cannot be imported shows the traceback without the lines of dlf and of Python's importer;
* a file is imported under its own name, with its folder first on ``sys.path``, as for a script.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dlf.utils.errors import InvalidArgumentError, did_you_mean
from dlf.utils.tracebacks import own_traceback

__all__ = ["check_target", "is_saved_model", "load_target"]

_FORM = "file.py:function or package.module:function"


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
    if place.endswith(".py") and not Path(place).is_file():
        raise InvalidArgumentError(argument, expected=_FORM, received=target, advice=f"There is no file {place}.")
    return place, name


def is_saved_model(target: str) -> bool:
    """Tells whether a target is the name of a saved Keras model, ``file.keras``.

    Example:
        >>> is_saved_model("model.keras"), is_saved_model("model.py:build")
        (True, False)
    """
    return target.endswith(".keras")


def load_target(target: str, argument: str = "TARGET", *, anew: bool = False) -> Callable[..., Any]:
    """Imports the module and returns the function.

    Args:
        target: ``file.py:function`` or ``package.module:function``.
        argument: The name of the caller's argument, for the error message.
        anew: Whether a module that was imported already is run once more; a file always is.

    Returns:
        The function.

    Raises:
        InvalidArgumentError: The module cannot be imported, or has no such function.

    Example:
        >>> load_target("math:sqrt")(4)
        2.0
    """
    place, name = check_target(target, argument)
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place, anew=anew)
    except Exception as error:
        raise InvalidArgumentError(
            argument, expected=f"{_FORM} that can be imported", received=target, advice="\n" + own_traceback(error)
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [each for each in vars(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise InvalidArgumentError(
            argument,
            expected=f"a function of {place}",
            received=name,
            advice=did_you_mean(name, known) or f"It has {', '.join(known[:10]) or 'none'}.",
        )
    return function  # type: ignore[no-any-return]


def _from_file(file: Path) -> ModuleType:
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it ends in .py.
    module = importlib.util.module_from_spec(spec)
    # Keras looks classes up in sys.modules by the name of their module, when it saves a model, say.
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str, *, anew: bool) -> ModuleType:
    # `python -m` puts the working directory on the path, but a console script does not.
    sys.path.insert(0, str(Path.cwd()))
    module = importlib.import_module(name)
    return importlib.reload(module) if anew else module
