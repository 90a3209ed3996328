"""The errors that dlf raises, and the exit code each one means on the command line.

Requirements:

* every error that dlf raises on purpose derives from `DlfError`, so one ``except`` catches them all;
* each also derives from the built-in error that a Python user would catch (`ValueError`, `ImportError`, ...);
* a message names the argument, what was expected, what was received and what to do about it;
* the command line prints the message alone and exits with the error's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any, ClassVar

__all__ = [
    "BackendError",
    "DatasetError",
    "DlfError",
    "InvalidArgumentError",
    "MissingPackageError",
    "OutputError",
    "TrainingError",
    "UnknownInputsError",
    "check_positive",
    "did_you_mean",
    "gone",
    "revive",
]


class DlfError(Exception):
    """Base class of dlf's errors: a request cannot be met; the message says why and what to do."""

    exit_code: ClassVar[int] = 1
    """The exit code on the command line: 1 the answer is no, 2 the request is wrong, 3 something needed is missing."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send errors to their parent. By default an exception is unpickled by calling its class with the
        # message alone, and not all of these classes accept that.
        return revive, (type(self), str(self), vars(self))


class InvalidArgumentError(DlfError, ValueError):
    """An argument has a value that cannot be used.

    Args:
        argument: The argument's name, as the caller wrote it.
        expected: A description of the accepted values.
        received: The value; shown with `repr`, arrays by their shapes and dtypes alone, and cut if that is long.
        advice: What to do, as a full sentence.
    """

    exit_code = 2

    def __init__(self, argument: str, *, expected: str, received: object, advice: str = "") -> None:
        shown = repr(_without_numbers(received))
        if len(shown) > _LONGEST_REPR:
            shown = shown[:_LONGEST_REPR] + "..."
        message = f"{argument}: expected {expected}, received {shown}."
        super().__init__(f"{message} {advice}".rstrip())
        self.argument = argument


class UnknownInputsError(InvalidArgumentError):
    """A model does not show what it is called on; data would."""


class DatasetError(DlfError, OSError):
    """A data set is absent, or its files are damaged."""

    exit_code = 3


class MissingPackageError(DlfError, ImportError):
    """A required package is not installed; the message holds the command that installs it."""

    exit_code = 3

    def __init__(self, purpose: str, *, package: str, command: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed. Install it with: {command}")


class BackendError(DlfError, RuntimeError):
    """A backend is installed but cannot be used here."""

    exit_code = 3


class OutputError(DlfError, OSError):
    """A file or a folder cannot be written."""

    exit_code = 2


class TrainingError(DlfError, RuntimeError):
    """Training ran, but its numbers are useless: the loss is NaN, say."""

    exit_code = 1


def check_positive(argument: str, value: Any) -> None:
    """Raises an error unless the value is an integer above zero.

    Args:
        argument: The argument's name.
        value: The argument's value.

    Raises:
        InvalidArgumentError: The value is anything else.
    """
    # NumPy's integers are accepted. True is an int in Python, but certainly a mistake here.
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidArgumentError(argument, expected="a positive integer", received=value)


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """Returns the advice "Did you mean 'x'?" for the known name nearest to `received`, or an empty string.

    Args:
        received: The name as it was written.
        known: The accepted names.

    Returns:
        One sentence, or `""` if no name is similar.

    Example:
        >>> did_you_mean("fashon_mnist", ["digits", "fashion_mnist"])
        "Did you mean 'fashion_mnist'?"
        >>> did_you_mean("tf", ["jax", "tensorflow", "torch"])
        "Did you mean 'tensorflow'?"
    """
    names = list(known)
    near = [_OTHER_NAMES[received]] if _OTHER_NAMES.get(received) in names else []
    near = near or difflib.get_close_matches(received, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


_OTHER_NAMES = {
    "tf": "tensorflow",
    "pytorch": "torch",
    "flax": "jax",
    "fp32": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "amp": "mixed_bfloat16",
    "cuda": "gpu",
    "backward": "gradient",
}
"""What people call some things, and their names here."""


def gone(package: str, version: str, expected: str, what: str | None = None) -> BackendError:
    """Returns the error where a package no longer has what dlf takes from inside of it.

    Args:
        package: The name of the package, as people write it.
        version: Its version.
        expected: What it had.
        what: What has become of it.

    Example:
        >>> str(gone("Keras", "9.9", "keras.Model._initial_epoch"))[:57]
        'keras 9.9: expected keras.Model._initial_epoch, which is '
    """
    what = what or ("which are gone" if " and " in expected else "which is gone")
    return BackendError(
        f"{package.lower()} {version}: expected {expected}, {what}. "
        f"Install a version of {package} that this version of dlf was tested with, or report it to dlf."
    )


def revive(kind: type[DlfError], message: str, attributes: dict[str, Any]) -> DlfError:
    """Rebuilds an error that was raised in another process, with its message and attributes."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(attributes)
    return error


def _without_numbers(value: Any) -> Any:
    """Returns the same structure with a description in place of each array, tensor or list of numbers."""
    if isinstance(value, dict):
        return {name: _without_numbers(each) for name, each in value.items()}
    if (
        type(value) is list
        and len(value) > _LONGEST_LIST
        and all(isinstance(each, list | int | float) for each in value)
    ):
        return _Described(f"<list of {len(value)}>")
    if type(value) in (list, tuple):
        return type(value)(map(_without_numbers, value))
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return value if shape is None or dtype is None else _Described(f"<{dtype} array of shape {tuple(shape)}>")


class _Described(str):
    """A text that is its own `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


_LONGEST_LIST = 8
_LONGEST_REPR = 200
