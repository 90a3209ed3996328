"""Shortens tracebacks to the part that the author of a model needs.

Requirements:

* the frames of dlf, of installed packages and of Python's import machinery are left out.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

__all__ = ["is_of_package", "original", "own_traceback", "without_colours"]

_DLF = Path(__file__).parents[1]


def own_traceback(error: BaseException) -> str:
    """Returns the traceback without the frames of dlf, of installed packages and of Python's import machinery.

    If there are no other frames, those of installed packages stay.
    """
    error = original(error)
    ours = {_DLF, *_backends()}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and not ours.intersection(Path(frame.filename).parents)
    ]
    own = [frame for frame in frames if not is_of_package(frame.filename)] or frames
    # JAX's note about the frames that it has filtered is no part of the error.
    said = [line for line in traceback.format_exception_only(error) if "JAX_TRACEBACK_FILTERING" not in line]
    message = _FRAME.sub(lambda found: "" if _is_foreign(found[2], ours) else found[0], "".join(said))
    message = _NO_FRAMES.sub("", message)
    text = "".join([*traceback.format_list(own), _shortened(message)]).rstrip().removesuffix("-" * 20).rstrip()
    return without_colours(text)


def without_colours(text: str) -> str:
    """Returns a text without the escape codes of a terminal's colours, which Keras writes into its messages.

    Args:
        text: The text.

    Example:
        >>> without_colours(chr(27) + "[1mwrong")
        'wrong'
    """
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


_FRAME = re.compile(r'^( *)File "(.+)", line \d+, in .*\n(?:\1 +\S.*\n|\n)?', re.MULTILINE)
"""A frame in the message of an error that TensorFlow raises where it makes or runs a graph, with its line of code."""


_NO_FRAMES = re.compile(r"^Stack trace for op definition: *\n(?!File )", re.MULTILINE)
"""What is before such frames, where none of them is left."""


_FIRST, _LAST = 15, 8
"""The lines that are shown of a long message, such as one that holds an array."""


def _shortened(message: str) -> str:
    lines = message.splitlines(keepends=True)
    left_out = len(lines) - _FIRST - _LAST
    return message if left_out <= 1 else "".join([*lines[:_FIRST], f"[{left_out} lines]\n", *lines[-_LAST:]])


def _is_foreign(file: str, ours: set[Path]) -> bool:
    return file.startswith("<") or is_of_package(file) or bool(ours.intersection(Path(file).parents))


def is_of_package(file: str) -> bool:
    """Whether a file is one of an installed package, or made by a framework.

    Args:
        file: Its path.

    Example:
        >>> is_of_package("/venv/lib/site-packages/keras/__init__.py"), is_of_package("model.py")
        (True, False)
    """
    # TensorFlow writes a copy of a user's function, whose own lines are in its message.
    return "site-packages" in Path(file).parts or "__autograph_generated_file" in file


def original(error: BaseException) -> BaseException:
    """Returns the error that Keras has hidden, if it has.

    Keras adds its own text to an error by making a new error of the same class. For JAX's errors about tracers that
    fails, and the error about the failure takes the place of the original one.

    Args:
        error: An error.
    """
    while error.__context__ is not None and "has no attribute '_error_repr'" in str(error):
        error = error.__context__
    return error


def _backends() -> set[Path]:
    """The folders of the backends that are loaded: packages ``dlf_NAME`` that offer a ``backend``."""
    loaded = [each for name, each in sys.modules.items() if re.fullmatch(r"dlf_\w+", name)]
    return {Path(str(each.__file__)).parent for each in loaded if hasattr(each, "backend")}
