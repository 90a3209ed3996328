"""Reads IDX files, the format in which MNIST and its relatives are published.

Requirements:

* the size that a header gives is compared with the size of the file before an array is made;
* the error for a file that is absent, cut short or not IDX names the file and what was found in it.

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

from dlf.utils.errors import DatasetError

__all__ = ["read_idx", "read_idx_shape"]

_UNSIGNED_BYTE = 0x08  # The only type in which these images and labels are published.


def read_idx(path: str | Path, *, axes: int) -> np.ndarray:
    """Reads one IDX file, gzipped or not.

    Args:
        path: The file; it is read as gzipped if its name ends in ``.gz``.
        axes: How many axes the array must have: 3 for images, 1 for labels.

    Returns:
        The array of unsigned bytes, read-only.

    Raises:
        DatasetError: The file is absent, shorter or longer than its header says, or not an IDX file of that many axes.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        >>> read_idx(path, axes=1)
        array([7, 8, 9], dtype=uint8)
    """
    content = _content(Path(path))
    shape = _shape(Path(path), content, axes)
    expected, received = math.prod(shape), len(content) - _header_size(axes)
    if received != expected:
        raise DatasetError(
            f"{path}: expected {expected:,} bytes of values for the shape {shape}, received {received:,}. "
            "The file is damaged: fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=_header_size(axes)).reshape(shape)


def read_idx_shape(path: str | Path, *, axes: int) -> tuple[int, ...]:
    """Reads the shape from the header of an IDX file, without reading the values.

    Args:
        path: The file.
        axes: How many axes it must have.

    Returns:
        The shape.

    Raises:
        DatasetError: As for `read_idx`, except that the length of the values is not checked.
    """
    return _shape(Path(path), _content(Path(path), _header_size(axes)), axes)


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


def _header_size(axes: int) -> int:
    return 4 + 4 * axes


def _shape(path: Path, content: bytes, axes: int) -> tuple[int, ...]:
    magic, expected = content[:4], bytes([0, 0, _UNSIGNED_BYTE, axes])
    if magic != expected:
        kind = "images" if axes == _IMAGE_AXES else "labels"
        raise DatasetError(
            f"{path}: expected an IDX file of {kind}, which begins with the bytes {expected.hex(' ')}, "
            f"received {magic.hex(' ') or 'an empty file'}. Check that each file has its own name."
        )
    if len(content) < _header_size(axes):
        raise DatasetError(
            f"{path}: expected {_header_size(axes)} bytes of header, received {len(content)}. Fetch the file again."
        )
    return struct.unpack(f">{axes}I", content[4 : _header_size(axes)])


_IMAGE_AXES = 3
