"""Named arrays on disk, one file each, and one index: written and read an array at a time.

What is asked of it:

* no pickle, ever; a name is any text, and never a path;
* a record that is half written is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes  # noqa: F401 - it gives NumPy the name bfloat16.
import numpy as np

from dlf.files import whole_file

__all__ = ["Records"]


class Records:
    """Arrays by name in a folder.

    Args:
        folder: Where; it is made where it is not there.

    Example:
        >>> import tempfile
        >>> records = Records(Path(tempfile.mkdtemp()) / "jax")
        >>> records["forward/dense"] = np.ones(3)
        >>> records.close()
        >>> list(Records(records.folder)), float(Records(records.folder)["forward/dense"].sum())
        (['forward/dense'], 3.0)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / "index.json"
        self._files: dict[str, tuple[str, str]] = json.loads(self._index.read_text()) if self._index.exists() else {}

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Numbered: a layer's name may hold anything.
        file, _ = self._files.get(name, (f"{len(self._files)}.npy", ""))
        # Of bfloat16, NumPy's format keeps the bits and forgets what they mean.
        self._files[name] = (file, array.dtype.name)
        with whole_file(self.folder / file) as place:
            np.save(place, array, allow_pickle=False)

    def __getitem__(self, name: str) -> np.ndarray:
        file, dtype = self._files[name]
        array: np.ndarray = np.load(self.folder / file, allow_pickle=False)
        return array if array.dtype.kind != "V" else array.view(dtype)

    def get(self, name: str) -> np.ndarray | None:
        """Returns the array of this name, or None where there is none."""
        return self[name] if name in self._files else None

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def close(self) -> None:
        """Writes the index: what was recorded before is there from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._index) as place:
            place.write_text(json.dumps(self._files))
