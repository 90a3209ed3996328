"""Gives nested structures the same order on every backend, and changes what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

__all__ = ["mapped", "with_keys_as_in", "with_sorted_keys"]


def with_sorted_keys(structure: Any) -> Any:
    """Returns a structure with every dictionary sorted by its keys.

    `keras.tree.flatten` sorts by the keys on TensorFlow and JAX, but keeps the order of insertion on PyTorch.

    Args:
        structure: Dictionaries, lists and tuples of anything; other objects are returned unchanged.

    Example:
        >>> with_sorted_keys({"b": [1], "a": ({"d": 2, "c": 3},)})
        {'a': ({'c': 3, 'd': 2},), 'b': [1]}
    """
    if type(structure) is dict:
        return {key: with_sorted_keys(structure[key]) for key in sorted(structure, key=str)}
    if type(structure) in {list, tuple}:
        return type(structure)(with_sorted_keys(each) for each in structure)
    return structure


def with_keys_as_in(structure: Any, like: Any) -> Any:
    """Returns a structure with every dictionary in the order of another structure, to undo `with_sorted_keys`.

    Args:
        structure: A structure with the same keys and lengths as `like`.
        like: The structure that gives the order.

    Example:
        >>> with_keys_as_in({"a": 1, "b": 2}, {"b": None, "a": None})
        {'b': 2, 'a': 1}
    """
    if type(like) is dict:
        return {key: with_keys_as_in(structure[key], each) for key, each in like.items()}
    if type(like) in {list, tuple}:
        return type(like)(with_keys_as_in(one, other) for one, other in zip(structure, like, strict=True))
    return structure


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """Returns the structure with the function applied to every leaf but None.

    Args:
        function: A function of a leaf.
        structure: A structure of arrays and None.

    Example:
        >>> mapped(lambda each: each + 1, {"a": 1, "b": None})
        {'a': 2, 'b': None}
    """
    return keras.tree.map_structure(lambda each: None if each is None else function(each), structure)
