"""What a command is pointed at: ``file.py:function`` or ``package.module:function``, a function that builds something.

What is asked of it:

* a target that cannot be imported is answered with its own lines of the traceback, not with dlf's or Python's;
* a file is imported under its own name, with its folder on the path, as Python runs a script.
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
    """Returns the place and the name, without importing anything.

    Args:
        target: What was asked for.
        argument: What the caller calls it.
        saved: Whether a file that Keras saved will do; it has a place and no name.

    Raises:
        InvalidArgumentError: It is not of that form, or the file does not exist.

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
    """Tells whether this names a file that Keras saved.

    Example:
        >>> is_saved_model("model.keras"), is_saved_model("model.py:build")
        (True, False)
    """
    return target.endswith(".keras")


def load_target(target: str, argument: str = "TARGET") -> Callable[..., Any]:
    """Imports the module and returns the function.

    Args:
        target: ``file.py:function`` or ``package.module:function``.
        argument: What the caller calls it.

    Returns:
        The function.

    Raises:
        InvalidArgumentError: It cannot be imported, or there is no such function.

    Example:
        >>> load_target("math:sqrt")(4)
        2.0
    """
    place, name = check_target(target, argument)
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
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
    # Where a class is looked up by the name of its module, as Keras does to save it.
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    # As `python -m` has it, and a console script has not.
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)
