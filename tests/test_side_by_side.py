"""What threads and processes share: records, files, and the answers of workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dlf.parity.records import Records

pytestmark = pytest.mark.once


def test_records_are_read_by_many_threads_at_once(tmp_path: Path) -> None:
    records = Records(tmp_path)
    arrays = {f"small {n}": np.full(50, float(n)) for n in range(200)}
    arrays |= {f"large {n}": np.random.default_rng(n).normal(size=2**18) for n in range(4)}
    arrays |= {"one": np.array(1.5), "none": np.zeros((0, 3)), "bfloat16": np.ones(7, "bfloat16")}
    for name, array in arrays.items():
        records[name] = array

    def is_read(name: str) -> bool:
        return np.array_equal(records[name], arrays[name])

    with ThreadPoolExecutor(8) as pool:
        # The first of them finish what was being written.
        assert all(pool.map(is_read, list(arrays) * 20))
