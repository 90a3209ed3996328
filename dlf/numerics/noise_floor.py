"""Noise floors: how large an error rounding explains, in the dtype under test.

Requirements:

* the unit is measured: how far the float64 result moves when its inputs move by one unit in the last place;
* the thresholds and step sizes that are defined here each state the measurement or the reason that set them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

__all__ = [
    "INEXACT",
    "LOW_PRECISION",
    "NOISY",
    "PERTURBATIONS",
    "STEPS",
    "eps_of",
    "floor_of",
    "is_floating",
    "kind_of",
    "moved",
    "moved_by_how_much",
    "noise_floors",
    "rms",
    "scale_of",
    "verdict_of",
    "widened",
    "with_whole_kept",
]

Arrays = dict[str, np.ndarray]

NOISY = 30.0
"""Noise floors above which an error is larger than arithmetic has to cost; gradients of sound layers stay below ten."""
LOW_PRECISION = 1000.0
"""Noise floors above which only a lower precision explains an error, such as that of TF32 (13 bits fewer: 8,000)."""

INEXACT = "fc"
"""The kinds (`dtype.kind`) of NumPy's dtypes whose values are rounded: floating-point and complex numbers."""
STEPS = {"nudged": 2.0**-40, "leaned": 2.0**-30, "pushed": 2.0**-20}
"""Relative steps by which inputs are moved. The first shows whether a layer amplifies small changes. Over the other
two, only a layer that computes in float64 has the same slope: in float32, the smaller one moves hardly an element."""
_SMALLEST_SQUARE = 1e-280
"""Below this, squares in float64 lose digits."""
PERTURBATIONS = 2
"""The number of perturbed runs: their inputs are moved by a unit in the last place of the dtype under test."""


def noise_floors(truth: Arrays, moved: list[Arrays], dtypes: Mapping[str, Any]) -> dict[str, float]:
    """Returns, for each array, the error that rounding of its inputs and of itself explains: see `floor_of`.

    Args:
        truth: Arrays in float64, by name, which share a scale.
        moved: The same arrays, computed from inputs moved by one unit in the last place of the dtype under test.
        dtypes: The dtype under test of each array.

    Example:
        >>> truth = {"w": np.array([1.0, 1.0])}
        >>> noise_floors(truth, [{"w": np.array([1.0 + 3e-7, 1.0 - 3e-7])}], {"w": "float32"})["w"] < 4e-7
        True
    """
    largest = max((rms(each) for each in truth.values()), default=0.0)
    return {name: floor_of(each, [one[name] for one in moved], largest, dtypes[name]) for name, each in truth.items()}


def floor_of(truth: np.ndarray, perturbed: Sequence[np.ndarray], largest: float, dtype: Any) -> float:
    """Returns the noise floor of one array: how far it moves when its inputs do, at least its scale's roundoff.

    It is the root mean square of the difference from the truth, over all elements of all perturbed results. Where
    cancellation gives an exact zero, such as the gradient of an attention's key bias, no perturbed result moves.
    Therefore the floor is at least the roundoff of the largest array in the group, and at least the smallest normal
    number of the dtype, below which digits are lost.

    Args:
        truth: The array in float64.
        perturbed: The same array, computed from inputs moved by one unit in the last place of the dtype under test.
        largest: The root mean square of the largest array in the group that shares a scale.
        dtype: The dtype under test.

    Example:
        >>> floor_of(np.zeros(2), [], 1.0, "float32") == 2.0**-23
        True
        >>> floor_of(np.array([True]), [np.array([False])], 0.0, "float32") < 1e-37
        True
    """
    # NaN and infinity, in the truth or a perturbed result, do not show how far rounding goes, nor do integers.
    moved_ones = perturbed if truth.dtype.kind in INEXACT else []
    there = np.isfinite(truth)
    there = ... if there.all() else there  # Indexing with `...` does not copy the array.
    apart = [each[there] - truth[there] for each in moved_ones if np.isfinite(each[there]).all()]
    distance = rms(np.stack(apart)) if apart else 0.0
    return max(distance, eps_of(dtype) * largest, _smallest_normal(dtype))


def rms(array: np.ndarray) -> float:
    """Returns the root mean square, of complex numbers over both of their parts; 0 for an empty array."""
    if array.dtype.kind == "c":
        # The real and the imaginary part lie side by side in memory.
        array = np.ascontiguousarray(array, np.complex128).ravel().view(np.float64)
    flat = array.astype(np.float64, copy=False).ravel()
    # The same as `np.dot`, but without its threads, which take a core while they wait.
    total = float(np.einsum("i,i->", flat, flat))
    if _SMALLEST_SQUARE < total < math.inf:
        return math.sqrt(total / flat.size)
    largest = float(np.abs(flat).max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    # Relative to the largest element: squares of very large or very small numbers overflow or underflow.
    return largest * math.sqrt(np.mean(np.square(flat / largest)))


def scale_of(array: np.ndarray) -> float:
    """Returns the root mean square of the finite elements of an array; 0 for integers.

    Example:
        >>> scale_of(np.array([3.0, -np.inf])), scale_of(np.arange(3))
        (3.0, 0.0)
    """
    if array.dtype.kind not in INEXACT:
        return 0.0
    found = rms(array)
    return found if math.isfinite(found) else rms(array[np.isfinite(array)])


def moved_by_how_much(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the scale of the difference of two arrays, where it is finite; 0 for integers and for other shapes.

    Example:
        >>> moved_by_how_much(np.array([1.0, np.inf]), np.array([3.0, np.inf]))
        2.0
    """
    if one.dtype.kind not in INEXACT or other.dtype.kind not in INEXACT or one.shape != other.shape:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # Infinity minus infinity is NaN.
        return scale_of(one - other)


def verdict_of(floors: float, noisy: float = NOISY, low_precision: float = LOW_PRECISION) -> str:
    """Returns the verdict on an error in the dtype under test, where backends agree in float64.

    Args:
        floors: The error, in noise floors.
        noisy: Above it, the error is larger than arithmetic has to cost.
        low_precision: Above it, only arithmetic of lower precision explains the error.

    Example:
        >>> verdict_of(3.0), verdict_of(100.0), verdict_of(8000.0)
        ('rounding', 'noisy', 'precision')
    """
    return "rounding" if floors <= noisy else "noisy" if floors <= low_precision else "precision"


def is_floating(dtype: Any) -> bool:
    """Tells whether a dtype is floating point, bfloat16 included, which NumPy does not count as such.

    Example:
        >>> is_floating("float32"), is_floating(ml_dtypes.bfloat16), is_floating("int32"), is_floating("string")
        (True, True, False, False)
    """
    return "float" in _name_of(dtype)


def with_whole_kept(array: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the other array, with the whole numbers of the first one in their places.

    Whole numbers in floating-point data are often tokens, or a value that marks a gap and that a mask looks for. They
    are not rounded, and moving them by a unit in the last place would change their meaning.

    Example:
        >>> with_whole_kept(np.array([-99.0, 0.5]), np.array([-99.1, 0.6])).tolist()
        [-99.0, 0.6]
    """
    return np.where(array == np.rint(array), array, other) if array.dtype.kind == "f" else other


def kind_of(dtype: Any) -> str:
    """Returns the name of a dtype, and ``"integer"`` for all integers, whose width depends on the framework.

    JAX without x64 has no int64.

    Example:
        >>> kind_of("int64"), kind_of("uint8"), kind_of(ml_dtypes.bfloat16)
        ('integer', 'integer', 'bfloat16')
    """
    name = _name_of(dtype)
    return "integer" if "int" in name else name


def _name_of(dtype: Any) -> str:
    # Keras's "string" is no dtype of NumPy's.
    return dtype if isinstance(dtype, str) else np.dtype(dtype).name


def widened(array: Any) -> np.ndarray:
    """Returns a floating-point array in float64, and any other array as it is."""
    found = np.asarray(array)
    return found.astype(np.float64) if is_floating(found.dtype) else found


def moved(array: np.ndarray, dtype: Any, random: np.random.Generator) -> np.ndarray:
    """Returns an array in float64 with every element moved by one unit in the last place of a dtype, up or down.

    Args:
        array: The array.
        dtype: The dtype under test; where it is not floating point, nothing is moved.
        random: Draws the directions.

    Example:
        >>> float(abs(moved(np.ones(1), "float32", np.random.default_rng(0))[0] - 1)) == 2.0**-23
        True
    """
    if not is_floating(dtype):
        return array
    step = np.spacing(np.abs(array).astype(dtype)).astype(np.float64)
    return np.asarray(array + random.choice([-1.0, 1.0], array.shape) * step)


def _smallest_normal(dtype: Any) -> float:
    finfo: Any = ml_dtypes.finfo
    return float(finfo(np.dtype(dtype)).smallest_normal)


def eps_of(dtype: Any) -> float:
    """Returns the distance from 1 to the next number of a floating-point dtype, bfloat16 among them.

    Example:
        >>> eps_of("float32") == 2.0**-23, eps_of(ml_dtypes.bfloat16) == 2.0**-7
        (True, True)
    """
    finfo: Any = ml_dtypes.finfo
    return float(finfo(np.dtype(dtype)).eps)
