"""What options of several commands have in common."""

from __future__ import annotations

__all__ = ["names"]


def names(text: str | None) -> list[str]:
    """Returns the names in a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
