"""Puts words together."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed"]


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
