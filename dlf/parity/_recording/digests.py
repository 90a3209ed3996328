"""What two builds are compared by: digests of values and configurations, alike on every backend."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dlf.numerics.noise_floor import scale_of
from dlf.parity._answers import ValueSummary

__all__ = ["digest", "digest_of_contents", "digest_of_random_state", "summary"]


def digest(*arrays: Any) -> str:
    """A digest of arrays that is the same on every backend."""
    whole = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        # Integers have another dtype on each backend.
        whole.update((array.astype("int64") if array.dtype.kind in "iu" else array).tobytes())
    return whole.hexdigest()[:16]


def digest_of_contents(contents: Mapping[str, str]) -> str:
    """A digest of what two builds have alike on every backend."""
    own = re.compile(r"compile_config\b|.*\.(dtype|module|registered_name)$")
    text = "\n".join(f"{place}: {each}" for place, each in contents.items() if not own.match(place))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_random_state() -> str:
    """A digest of the state of Python's own generator: whether a file has drawn the same numbers everywhere."""
    return hashlib.sha256(repr(random.getstate()).encode()).hexdigest()[:16]


def summary(array: np.ndarray) -> ValueSummary:
    """What initial values are compared by: a digest of their bits, their size, and whether they are constant."""
    float64 = array.astype("float64")
    return {
        "digest": digest(array),
        "rms": scale_of(float64),
        "size": array.size,
        # A single element does not show whether it is a constant.
        "constant": bool(array.size == 0 or (array.size > 1 and float64.min() == float64.max())),
    }
