"""Noise floors: how much of an error rounding explains, in the dtype under test.

What is asked of it:

* the unit is measured: how far the float64 result moves when what goes in moves by one unit in the last place;
* the few constants of the verdict stand here, each with the measurement that set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["LOW_PRECISION", "NOISY", "noise_floors", "rms", "verdict_of"]

Arrays = dict[str, np.ndarray]

NOISY = 30.0
"""Noise floors above which a gradient is worse than arithmetic costs; sound ones stay below ten."""
LOW_PRECISION = 1000.0
"""Noise floors above which only another arithmetic explains it, such as TF32 (13 bits fewer: 8,000)."""


def noise_floors(truth: Arrays, moved: list[Arrays], dtypes: Mapping[str, Any]) -> dict[str, float]:
    """Returns, for each array, the error that rounding what goes in and what comes out explains.

    It is the root of the mean square, over elements and twins, of how far the twins moved, and half a unit in the last
    place of the array itself. Where an exact zero comes about by cancellation, such as the gradient by the key's bias
    of attention, no twin moves: no floor is lower than the roundoff of the largest of the arrays.

    Args:
        truth: Arrays in float64, by name.
        moved: The same from inputs that were moved by one unit in the last place of the dtype under test.
        dtypes: The dtype under test of each.

    Example:
        >>> truth = {"w": np.array([1.0, 1.0])}
        >>> noise_floors(truth, [{"w": np.array([1.0 + 3e-7, 1.0 - 3e-7])}], {"w": "float32"})["w"] < 4e-7
        True
    """
    largest = max((rms(each) for each in truth.values()), default=0.0)
    floors = {}
    for name, array in truth.items():
        eps = float(np.finfo(dtypes[name]).eps)
        twins = max(rms(np.stack([each[name] - array for each in moved])), eps * largest)
        floors[name] = float(np.hypot(twins, eps / 2 * rms(array))) or float(np.finfo(dtypes[name]).tiny)
    return floors


def rms(array: np.ndarray) -> float:
    """Returns the root of the mean square; 0 of no elements."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def verdict_of(floors: float) -> str:
    """Returns what an error of so many noise floors is called, where the meaning is the same.

    Example:
        >>> verdict_of(3.0), verdict_of(100.0), verdict_of(8000.0)
        ('rounding', 'noisy', 'precision')
    """
    return "rounding" if floors <= NOISY else "noisy" if floors <= LOW_PRECISION else "precision"
