"""Compiles functions of arrays as a whole, and each program once, however many layers of a model share it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of arrays that XLA compiles as a whole; JAX would compile each operation by itself."""
    jitted, programs = jax.jit(function), {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, *map(jax.typeof, leaves))
        if signature not in programs:
            programs[signature] = _program(jitted.lower(*args), signature)
        return programs[signature](*args)

    return call


_KEPT = 256
"""The number of programs that are kept: the layers of a block recur a few dozen programs later, those of another model
hardly ever."""

_programs: OrderedDict[Any, Any] = OrderedDict()


def _program(lowered: Any, signature: Any) -> Any:
    """Compiles a program, or returns what the same text was compiled to: deep models repeat the same few layers.

    Programs are told apart by their text, which holds all that they compute. A layer's class and configuration do not:
    the layer may have been changed since it was made.
    """
    text = lowered.as_text()
    # The text only refers to two things: a function in Python that is called back and, with some settings of JAX, a
    # large array that the function holds.
    if "callback" in text or "jax.const" in text:
        return lowered.compile()
    # An argument that is not used is in no text, and has to be of the same type all the same.
    key = (hashlib.sha256(text.encode()).digest(), signature, lowered.out_tree)
    if key not in _programs:
        _programs[key] = lowered.compile()
    _programs.move_to_end(key)
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[key]
