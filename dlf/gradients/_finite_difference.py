"""Derivatives by central differences with Richardson extrapolation, with their uncertainty, and detection of kinks.

Requirements:

* everything is in float64; several step sizes are tried, and the result with the least uncertainty is used;
* where the slope on the left differs from the one on the right, both are returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Slope", "slope_at_zero"]

_STEPS = (2.0**-10, 2.0**-14, 2.0**-18, 2.0**-22)
"""Step sizes in units of `scale`: the first is best for a smooth function; the last reaches few kinks nearby."""
_CERTAIN = 1e-6
"""Relative uncertainty at which no shorter step is tried: gradients of different functions differ by more."""
_ROUNDINGS = 8.0
"""How far a value may be off, in units of the last place of float64: measured values have that much noise."""
_KINK = 1e-5
"""A jump of the slope, relative to the slope itself, above which a function has a kink; a smooth one shows 1e-10."""


@dataclass(frozen=True)
class Slope:
    """A derivative, how far it can be off, and the slopes on both sides."""

    value: float
    uncertainty: float
    left: float
    right: float
    has_kink: bool


def slope_at_zero(function: Callable[[float], float], scale: float = 1.0) -> Slope:
    """Returns the derivative of a function of one number at zero.

    With ``D(h) = (f(h) - f(-h)) / 2h``, the value is ``(4 D(h/2) - D(h)) / 3``, whose error is of the order of ``h⁴``.

    Args:
        function: ``f``, computed in float64.
        scale: A distance over which the function changes noticeably.

    Returns:
        The slope.

    Example:
        >>> import math
        >>> slope = slope_at_zero(math.sin)
        >>> abs(slope.value - 1) < 1e-10, slope.has_kink
        (True, False)
        >>> slope = slope_at_zero(lambda t: max(t, 0.0))
        >>> round(slope.left, 6), round(slope.right, 6), slope.has_kink
        (0.0, 1.0, True)

    Source: L. F. Richardson, The approximate arithmetical solution by finite differences, 1911.
    """
    at_zero = function(0.0)
    tried = []
    for step in _STEPS:
        tried.append(_slope(function, at_zero, step * scale))
        if not tried[-1].has_kink and tried[-1].uncertainty <= _CERTAIN * abs(tried[-1].value):
            break
    best = min(tried, key=lambda each: each.uncertainty)
    # A kink at zero shows at every step size, a kink nearby only at the long ones.
    return Slope(best.value, best.uncertainty, best.left, best.right, all(each.has_kink for each in tried))


def _slope(function: Callable[[float], float], at_zero: float, step: float) -> Slope:
    far_left, left, right, far_right = (function(t) for t in (-step, -step / 2, step / 2, step))
    coarse, fine = (far_right - far_left) / (2 * step), (right - left) / step
    value = (4 * fine - coarse) / 3
    rounding = _ROUNDINGS * float(np.finfo(np.float64).eps) * max(map(abs, (at_zero, far_left, far_right))) / step
    to_right = (4 * (right - at_zero) - (far_right - at_zero)) / step
    to_left = (4 * (at_zero - left) - (at_zero - far_left)) / step
    jump, size = abs(to_right - to_left), max(abs(to_right), abs(to_left))
    return Slope(value, abs(value - fine) + rounding, to_left, to_right, jump > _KINK * size + 8 * rounding)
