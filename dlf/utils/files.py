"""Files that are whole or not there at all, and folders that are gone at the end."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlf.utils.errors import OutputError
from dlf.utils.interrupts import undone

__all__ = ["as_json", "check_place", "temporary_folder", "whole_file", "without_nan", "write_json"]


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Makes a folder for the time that the context lasts; Ctrl-C on the command line removes it too.

    Args:
        prefix: What its name begins with.

    Raises:
        OutputError: None can be made.

    Example:
        >>> with temporary_folder("dlf-") as folder:
        ...     folder.is_dir()
        True
        >>> folder.exists()
        False
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        raise OutputError(
            f"a temporary folder cannot be made ({error.strerror or error}). "
            "Set TMPDIR to a folder that may be written to and has space left."
        ) from error
    with undone(lambda: shutil.rmtree(folder, ignore_errors=True)):
        yield folder


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
    # By chance and not by the process's number, which is the same in many a container, and of all threads.
    place = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
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


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """Returns JSON; NaN and infinity, which it does not have, become null.

    Example:
        >>> as_json({"loss": float("nan")}, indent=None)
        '{"loss": null}'
    """
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def write_json(value: Any, path: Path, *, indent: int | None = 2) -> None:
    """Writes a file of JSON, whole or not at all.

    Args:
        value: As for `as_json`.
        path: The file.
        indent: Of each level; None writes one line.

    Raises:
        OutputError: It cannot be written.
    """
    with whole_file(path) as place:
        place.write_text(as_json(value, indent=indent) + "\n")


def check_place(path: Path) -> None:
    """Raises where a file could not be written: better before an hour of work than after it.

    Args:
        path: The file.

    Raises:
        OutputError: Its folder is not there, or may not be written to.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written. Name a folder that exists and may be written to.")


def without_nan(value: Any) -> Any:
    """Returns the same lists and dictionaries with None for what JSON has no number for: NaN and infinity.

    Example:
        >>> without_nan({"loss": [1.0, float("nan")]})
        {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
