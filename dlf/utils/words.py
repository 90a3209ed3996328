"""Puts words together."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["duration", "listed"]


def listed(words: Sequence[str]) -> str:
    """Returns words as a list in a sentence.

    Args:
        words: Words, or names.

    Example:
        >>> listed(["jax"]), listed(["jax", "torch"]), listed(["jax", "tensorflow", "torch"])
        ('jax', 'jax and torch', 'jax, tensorflow and torch')
    """
    words = list(words)
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """Returns a time in milliseconds, the one unit of all tables, in about three digits.

    Args:
        seconds: The time; less than nothing, as a difference of two may be, is nothing.

    Example:
        >>> duration(0.0016743), duration(3.18), duration(-0.1)
        ('1.67 ms', '3,180 ms', '0 ms')
    """
    number = max(seconds, 0.0) * 1e3
    return f"{number:,.0f} ms" if number >= 100 else f"{number:.3g} ms"  # noqa: PLR2004 - three digits.
