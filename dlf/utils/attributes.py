"""Replaces attributes for a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives a class or an object another attribute, for as long as the context lasts.

    Args:
        owner: The class or the object, which may have inherited the attribute.
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
