"""Named arrays on disk, in one file of NumPy's own format: written and read an array at a time.

What is asked of it:

* no pickle, ever; a name is any text, and never a path;
* a file that is half written is none: its directory comes last.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ml_dtypes  # noqa: F401 - it gives NumPy the name bfloat16.
import numpy as np

from dlf.errors import OutputError

__all__ = ["Records"]

_ENDING = ".npy"


class Records:
    """Arrays by name, in a file that `numpy.load` reads too.

    Args:
        folder: Where the file is; it is made where it is not there.

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

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        info = zipfile.ZipInfo(name + _ENDING)
        # Of bfloat16, NumPy's format keeps the bits and forgets what they mean.
        info.comment = array.dtype.name.encode()
        try:
            with self._opened("a").open(info, "w", force_zip64=True) as place:
                np.lib.format.write_array(place, np.asanyarray(array), allow_pickle=False)
        except OSError as error:
            raise self._unwritable(error) from error

    def __getitem__(self, name: str) -> np.ndarray:
        archive = self._opened("r")
        info = archive.getinfo(name + _ENDING)
        with archive.open(info) as place:
            array: np.ndarray = np.lib.format.read_array(place, allow_pickle=False)
        return array if array.dtype.kind != "V" else array.view(info.comment.decode())

    def get(self, name: str) -> np.ndarray | None:
        """Returns the array of this name, or None where there is none."""
        return self[name] if name in self else None  # noqa: SIM401 - there is no other get.

    def __contains__(self, name: str) -> bool:
        try:
            return self._exists() and self._opened("r").getinfo(name + _ENDING) is not None
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        names = self._opened("r").namelist() if self._exists() else []
        return iter([name.removesuffix(_ENDING) for name in names])

    def close(self) -> None:
        """Writes the directory of the file: what was recorded before is there from now on."""
        try:
            self._opened("a").close()
        except OSError as error:
            raise self._unwritable(error) from error
        self._archive = None

    def _exists(self) -> bool:
        return self._archive is not None or zipfile.is_zipfile(self._file)

    def _opened(self, mode: str) -> zipfile.ZipFile:
        """The archive, to be read or added to: what it was opened for before is finished first."""
        if self._archive is not None and (self._archive.mode == mode):
            return self._archive
        if self._archive is not None:
            self._archive.close()
        if mode == "a":
            self.folder.mkdir(parents=True, exist_ok=True)
        self._archive = zipfile.ZipFile(self._file, mode)  # type: ignore[call-overload]  # A mode is one of two here.
        return self._archive

    def _unwritable(self, error: OSError) -> OutputError:
        if self._archive is not None:
            # What cannot be written needs no directory, which would be written when it is closed.
            file, self._archive.fp = self._archive.fp, None
            with suppress(OSError):
                file.close()  # type: ignore[union-attr]  # It was being written.
        return OutputError(
            f"{self._file}: cannot be written ({error.strerror or error}). Name a folder that exists, may be written "
            "to and has space left."
        )
