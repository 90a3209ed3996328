"""Files that are written completely or not at all, and temporary folders that are always removed."""

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
    """Makes a temporary folder, which is removed when the context ends, or by Ctrl-C on the command line.

    Args:
        prefix: The beginning of its name.

    Raises:
        OutputError: The folder cannot be made.

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
    """Yields a temporary path beside `path` to write to, and renames that file to `path` if there was no error.

    A full disk, an error or a killed process thus never leaves half a file at `path`.

    Args:
        path: The file to make.

    Yields:
        The temporary path, with the same suffix.

    Raises:
        OutputError: The file cannot be written; the temporary file is removed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "history.json"
        >>> with whole_file(path) as place:
        ...     _ = place.write_text("{}")
        >>> path.read_text()
        '{}'
    """
    # A random name, since a process id is the same for all threads, and often the same in two containers.
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
    """Returns a value as JSON text; NaN and infinity, which JSON does not have, become null.

    Example:
        >>> as_json({"loss": float("nan")}, indent=None)
        '{"loss": null}'
    """
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def write_json(value: Any, path: Path, *, indent: int | None = 2) -> None:
    """Writes a JSON file, completely or not at all.

    Args:
        value: The value, as for `as_json`.
        path: The file.
        indent: The indentation of each level; None writes one line.

    Raises:
        OutputError: The file cannot be written.
    """
    with whole_file(path) as place:
        place.write_text(as_json(value, indent=indent) + "\n")


def check_place(path: Path) -> None:
    """Raises an error if a file could not be written, so that this is known before hours of work and not after.

    Args:
        path: The file.

    Raises:
        OutputError: Its folder does not exist, or may not be written to.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written. Name a folder that exists and may be written to.")


def without_nan(value: Any) -> Any:
    """Returns the same lists and dictionaries with None in place of NaN and infinity, which JSON does not have.

    Example:
        >>> without_nan({"loss": [1.0, float("nan")]})
        {'loss': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
