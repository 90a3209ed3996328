"""Nested structures in one order on every backend."""

from __future__ import annotations

from typing import Any

__all__ = ["in_order"]


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
