"""What `dlf check` says of the line at which some code failed."""

from __future__ import annotations

import re
import traceback
from functools import cache

from dlf.check._findings import Finding
from dlf.check._reader import read
from dlf.check._source import Source, read_sources
from dlf.check.rules import RULES
from dlf.models.scripts import FILES
from dlf.utils.errors import DlfError
from dlf.utils.tracebacks import is_of_package, original, own_traceback

__all__ = ["explained"]


def explained(error: BaseException) -> str:
    """Returns the traceback of an error without foreign frames, and below it what to write at the line that failed.

    Args:
        error: What was raised.

    Example:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError as error:
        ...     print(explained(error).splitlines()[-1])
        ZeroDivisionError: division by zero
    """
    said = [
        f"dlf check: {each.code} {RULES[each.rule].what}. Write {each.advice}."
        for each in _findings_behind(original(error))
    ]
    return "\n".join([own_traceback(error), *dict.fromkeys(said)])


def _findings_behind(error: BaseException) -> list[Finding]:
    """The findings at the innermost line of the user's own that a traceback goes through."""
    # TensorFlow runs a copy of the user's function; the lines of the function itself are in its message.
    frames = [(each.filename, each.lineno or 0) for each in traceback.extract_tb(error.__traceback__)]
    frames += [(found[1], int(found[2])) for found in _FRAME.finditer(str(error))]
    for file, line in reversed(frames):
        file = file.removesuffix(" (cells)")  # noqa: PLW2901 - a notebook; see `source_of`.
        if file.endswith(FILES) and not is_of_package(file):
            found = [each for source, findings in _read(file) for each in findings if _is_at(each, source, line)]
            if found:
                return found
    return []


_FRAME = re.compile(r'File "(.+?)", line (\d+), in ')


@cache
def _read(file: str) -> list[tuple[Source, list[Finding]]]:
    """A file and what is found in it; nothing where it cannot be read."""
    try:
        return [(source, read([source])) for source in read_sources([file])[0]]
    except (DlfError, RecursionError):
        return []


def _is_at(finding: Finding, source: Source, line: int) -> bool:
    return (finding.cell, finding.line) == source.place(line)
