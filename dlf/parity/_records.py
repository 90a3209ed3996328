"""Named arrays on disk, in one file of NumPy's own format: written and read one array at a time.

Requirements:

* nothing is pickled; a name may be any text, and is never used as a path;
* a half-written file cannot be read, since its directory is written last;
* any number of threads may read at once, without waiting for one another.
"""

from __future__ import annotations

import math
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import ml_dtypes  # noqa: F401 - it gives NumPy the name bfloat16.
import numpy as np

from dlf.utils.errors import OutputError

__all__ = ["Records"]

_ENDING = ".npy"
_LENGTHS = struct.Struct("<26x2H")
"""The header of each file in a ZIP file, which ends with the lengths of the name and the extra field that follow it."""
_HEADER_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I"), (3, 0): struct.Struct("<I")}
"""How the versions of NumPy's format store the length of the header that follows."""


class Records:
    """Arrays by name, in a file that `numpy.load` reads too.

    Args:
        folder: The folder of the file; it is created when the first array is written.

    Example:
        >>> import tempfile
        >>> records = Records(Path(tempfile.mkdtemp()) / "jax")
        >>> records["forward/dense"] = np.ones(3)
        >>> records.close()
        >>> list(Records(records.folder)), float(Records(records.folder)["forward/dense"].sum())
        (['forward/dense'], 3.0)
        >>> float(np.load(records.folder / "records.npz")["forward/dense"].sum())
        3.0
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "records.npz"
        self._archive: zipfile.ZipFile | None = None
        self._directory: Mapping[str, zipfile.ZipInfo] | None = None
        self._turn = threading.Lock()

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        info = zipfile.ZipInfo(name + _ENDING)
        array = np.asarray(array, order="C")
        # NumPy's format keeps the bits of bfloat16, but not the name of the dtype.
        info.comment = " ".join([array.dtype.name, *map(str, array.shape)]).encode()
        with self._turn:
            try:
                with self._to_add_to().open(info, "w", force_zip64=True) as place:
                    np.lib.format.write_array(place, array, allow_pickle=False)
            except OSError as error:
                raise self._unwritable(error) from error

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._to_read()[name + _ENDING]
        # A handle of its own, and not `ZipFile.open`: on some Pythons, that moves the place where other threads read.
        # https://github.com/python/cpython/issues/128258
        with self._file.open("rb") as file:
            file.seek(info.header_offset)
            file.seek(sum(_LENGTHS.unpack(file.read(_LENGTHS.size))), 1)
            # Nor is NumPy's header parsed: on Python 3.11 that fails, rarely, where other threads parse one too.
            # https://github.com/python/cpython/issues/106905
            version = np.lib.format.read_magic(file)
            (length,) = _HEADER_LENGTHS[version].unpack(file.read(_HEADER_LENGTHS[version].size))
            file.seek(length, 1)
            name, *shape = info.comment.decode().split()
            dtype, sizes = np.dtype(name), [int(each) for each in shape]
            return np.fromfile(file, np.uint8, math.prod(sizes) * dtype.itemsize).view(dtype).reshape(sizes)

    def get(self, name: str) -> np.ndarray | None:
        """Returns the array of this name, or None where there is none."""
        return self[name] if name in self else None  # noqa: SIM401 - there is no other get.

    def __contains__(self, name: str) -> bool:
        return name + _ENDING in self._to_read()

    def __iter__(self) -> Iterator[str]:
        return iter([name.removesuffix(_ENDING) for name in self._to_read()])

    def close(self) -> None:
        """Writes the directory of the file, so that everything recorded before can be read."""
        with self._turn:
            try:
                self._to_add_to()
                self._finish()
            except OSError as error:
                raise self._unwritable(error) from error

    def _to_read(self) -> Mapping[str, zipfile.ZipInfo]:
        """Returns the directory of the file; a file that is being written is finished first."""
        with self._turn:
            self._finish()
            if self._directory is None and zipfile.is_zipfile(self._file):
                with zipfile.ZipFile(self._file) as archive:
                    self._directory = {info.filename: info for info in archive.infolist()}
            return self._directory or {}

    def _to_add_to(self) -> zipfile.ZipFile:
        if self._archive is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._archive, self._directory = zipfile.ZipFile(self._file, "a"), None
        return self._archive

    def _finish(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def _unwritable(self, error: OSError) -> OutputError:
        if self._archive is not None:
            # Closing the archive would write its directory to a file that cannot be written.
            file, self._archive.fp = self._archive.fp, None
            with suppress(OSError):
                file.close()  # type: ignore[union-attr]  # It was being written.
        return OutputError(
            f"{self._file}: cannot be written ({error.strerror or error}). Name a folder that exists, may be written "
            "to and has space left."
        )
