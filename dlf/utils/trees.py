"""Nested structures in one order on every backend."""

from __future__ import annotations

from typing import Any

__all__ = ["in_order", "ordered_like"]


def in_order(structure: Any) -> Any:
    """Returns a structure with every dictionary in the order of its keys.

    `keras.tree.flatten` goes by the keys on TensorFlow and JAX, and by the order of insertion on PyTorch.

    Args:
        structure: Dictionaries, lists and tuples of anything; others are left as they are.

    Example:
        >>> in_order({"b": [1], "a": ({"d": 2, "c": 3},)})
        {'a': ({'c': 3, 'd': 2},), 'b': [1]}
    """
    if type(structure) is dict:
        return {key: in_order(structure[key]) for key in sorted(structure, key=str)}
    if type(structure) in {list, tuple}:
        return type(structure)(in_order(each) for each in structure)
    return structure


def ordered_like(structure: Any, like: Any) -> Any:
    """Returns a structure with every dictionary in the order of another's: what `in_order` has changed, changed back.

    Args:
        structure: As another, but for the order.
        like: The other.

    Example:
        >>> ordered_like({"a": 1, "b": 2}, {"b": None, "a": None})
        {'b': 2, 'a': 1}
    """
    if type(like) is dict:
        return {key: ordered_like(structure[key], each) for key, each in like.items()}
    if type(like) in {list, tuple}:
        return type(like)(ordered_like(one, other) for one, other in zip(structure, like, strict=True))
    return structure
