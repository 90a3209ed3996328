"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlf.errors import OutputError

__all__ = ["check_place", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to, and moves it to `path` once that went well.

    A full disk, an error or a kill leaves no half a file under the name that somebody will look for.

    Args:
        path: The file that is to be.

    Yields:
        Where to write, with the same suffix.

    Raises:
        OutputError: The file cannot be written; whatever was written so far is taken away.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "history.json"
        >>> with whole_file(path) as place:
        ...     _ = place.write_text("{}")
        >>> path.read_text()
        '{}'
    """
    place = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield place
        place.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}). Name a folder that exists, may be written to and "
            "has space left."
        ) from error
    finally:
        with suppress(OSError):
            place.unlink()


def check_place(path: Path) -> None:
    """Raises where a file could not be written: better before an hour of work than after it.

    Args:
        path: The file.

    Raises:
        OutputError: Its folder is not there, or may not be written to.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written. Name a folder that exists and may be written to.")
