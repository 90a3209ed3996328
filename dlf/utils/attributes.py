"""Replaces attributes of classes for a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]


@contextmanager
def replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    """Gives a class another attribute, for as long as the context lasts.

    Args:
        owner: The class, which may have inherited the attribute.
        name: The attribute's name.
        value: What it is meanwhile.

    Example:
        >>> class Dog:
        ...     def speak(self): return "woof"
        >>> with replaced(Dog, "speak", lambda self: "meow"):
        ...     print(Dog().speak())
        meow
        >>> Dog().speak()
        'woof'
    """
    inherited, before = name not in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
