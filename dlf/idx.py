"""Reads IDX files, the format in which MNIST and its relatives are published.

What is asked of it:

* what a header promises is held against what the file holds, before any array is made;
* a file that is absent, cut short or not IDX is named, with what was found in it.

A file is four bytes (two zeros, a code for the type, the number of axes), one big-endian 32-bit length for each axis,
and the values. Source: the format's description on the MNIST page, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from dlf.errors import DatasetError

__all__ = ["read_idx", "read_idx_shape"]

_TYPES = {b"\x08": ">u1", b"\x09": ">i1", b"\x0b": ">i2", b"\x0c": ">i4", b"\x0d": ">f4", b"\x0e": ">f8"}


def read_idx(path: str | Path, *, axes: int) -> np.ndarray:
    """Reads one IDX file, gzipped or not.

    Args:
        path: The file; it is taken to be gzipped where its name ends in ``.gz``.
        axes: How many axes the array must have: 3 for images, 1 for labels.

    Returns:
        The array, read-only, in the machine's byte order.

    Raises:
        DatasetError: The file is absent, cut short, longer than it says, or not IDX of that many axes.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        >>> read_idx(path, axes=1)
        array([7, 8, 9], dtype=uint8)
    """
    content = _content(Path(path))
    dtype, shape, start = _header(Path(path), content, axes)
    expected, received = math.prod(shape) * dtype.itemsize, len(content) - start
    if received != expected:
        raise DatasetError(
            f"{path}: expected {expected:,} bytes of values for the shape {shape}, received {received:,}. "
            "The file is damaged: fetch it again."
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_idx_shape(path: str | Path, *, axes: int) -> tuple[int, ...]:
    """Reads the shape that an IDX file's header gives, and nothing after it.

    Args:
        path: The file.
        axes: How many axes it must have.

    Returns:
        The shape.

    Raises:
        DatasetError: As `read_idx`.
    """
    content = _content(Path(path), 4 + 4 * axes)
    return _header(Path(path), content, axes)[1]


def _content(path: Path, size: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: the file is not there. Put it beside the data set's other files.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(
            f"{path}: expected a whole gzip file, received one that cannot be unpacked ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _header(path: Path, content: bytes, axes: int) -> tuple[np.dtype, tuple[int, ...], int]:
    start = 4 + 4 * axes
    magic = content[:4]
    if magic[:2] != b"\0\0" or magic[2:3] not in _TYPES or magic[3:] != bytes([axes]):
        raise DatasetError(
            f"{path}: expected an IDX file with {axes} axes, which begins with the bytes 00 00 08 {axes:02x}, "
            f"received {magic.hex(' ') or 'an empty file'}. Check that each file has its own name."
        )
    if len(content) < start:
        raise DatasetError(f"{path}: expected {start} bytes of header, received {len(content)}. Fetch the file again.")
    return np.dtype(_TYPES[magic[2:3]]), struct.unpack(f">{axes}I", content[4:start]), start
