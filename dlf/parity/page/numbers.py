"""Numbers as pages show and sort them: errors in noise floors, and relative differences."""

from __future__ import annotations

import math

__all__ = ["difference_order", "difference_text", "finite", "floors_text"]


def floors_text(floors: float | None) -> str:
    """Returns an error in noise floors as text, in about three digits; an empty string where it is not finite.

    Args:
        floors: The error.

    Example:
        >>> floors_text(1.234), floors_text(88.2), floors_text(None)
        ('1.23', '88', '')
    """
    floors = finite(floors)
    if floors is None:
        return ""
    if floors >= 1e6:  # noqa: PLR2004 - more digits than anybody reads.
        return f"{floors:.0e}"
    return "0" if floors == 0 else f"{floors:.2f}" if floors < 10 else f"{floors:,.0f}"  # noqa: PLR2004 - three digits.


def difference_text(value: float | None) -> str:
    """Returns a relative difference as text; None is one between other shapes or between finite and non-finite numbers.

    Args:
        value: The difference.

    Example:
        >>> difference_text(0.25), difference_text(None)
        ('2.5e-01', 'no measure')
    """
    if value is None or math.isinf(value):
        return "no measure"
    return "0" if value == 0 else f"{value:.1e}"


def difference_order(value: float | None) -> str:
    """Returns the text that relative differences are sorted by.

    Args:
        value: The difference.

    Example:
        >>> difference_order(0.25), difference_order(None)
        ('0.25', '-1')
    """
    return "-1" if value is None else f"{min(value, 1e308):.4g}"


def finite(value: float | None) -> float | None:
    """Returns a finite number, or None for anything else.

    Args:
        value: The number.

    Example:
        >>> finite(2.0), finite(float("inf"))
        (2.0, None)
    """
    return value if value is not None and math.isfinite(value) else None
