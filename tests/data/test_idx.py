from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx_bytes, write_idx

from dlf.data._idx import read_idx, read_idx_shape
from dlf.utils.errors import DatasetError


@pytest.mark.parametrize("name", ["images.gz", "images"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (0, 4, 3)])
def test_what_was_written_is_read(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    path = write_idx(tmp_path / name, array)
    np.testing.assert_array_equal(read_idx(path, axes=3), array, strict=True)
    assert read_idx_shape(path, axes=3) == shape


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-1], "expected 6 bytes of values for the shape (1, 2, 3), received 5"),
        (GOOD + b"x", "expected 6 bytes of values for the shape (1, 2, 3), received 7"),
        (GOOD[:10], "expected 16 bytes of header, received 10"),
        (b"", "received an empty file"),
        (b"garbage of any kind", "expected an IDX file of images, which begins with the bytes 00 00 08 03"),
        (idx_bytes(np.zeros((1, 2, 3), ">f4"), 0x0D), "received 00 00 0d 03"),
        (idx_bytes(np.arange(3, dtype=np.uint8)), "received 00 00 08 01. Check that each file has its own name"),
        # A header that promises four exabytes must not make anything of that size.
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**16, 2**16), "received 0"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(content, mtime=0))
    with pytest.raises(DatasetError) as caught:
        read_idx(path, axes=3)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(GOOD, mtime=0)[:-9], gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 30]
)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        read_idx(path, axes=3)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.gz: the file is not there"):
        read_idx(tmp_path / "absent.gz", axes=1)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_idx(tmp_path, axes=1)
