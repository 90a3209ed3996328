"""The terminal that results are printed to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["result_console"]

_WIDE = 10_000
"""The width of a line that nobody looks at: whoever reads a pipe or a file wants it whole."""


def result_console() -> Console:
    """Returns the console that results go to: stdout, whose lines are wrapped only where it is a terminal.

    Example:
        >>> print(type(result_console()).__name__)
        Console
    """
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(highlight=False, width=_WIDE)
