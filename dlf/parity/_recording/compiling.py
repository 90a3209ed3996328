"""Compiles what is replayed, on the backend that compiles: each program once, however many layers are that program."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import keras

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of arrays as XLA compiles it on JAX: an operation at a time, each is compiled by itself.

    What cannot be traced, and what another backend computes, is run as it is.
    """
    if keras.config.backend() != "jax":
        return function
    import jax

    jitted, programs, traced = jax.jit(function), {}, True

    def call(*args: Any) -> Any:
        nonlocal traced
        if not traced:
            return function(*args)
        try:
            leaves, structure = jax.tree.flatten(args)
            signature = (structure, *map(jax.typeof, leaves))
            if signature not in programs:
                programs[signature] = _program(jitted.lower(*args))
            return programs[signature](*args)
        except Exception:  # noqa: BLE001 - a layer of somebody's own may look at its numbers; or fail, once more.
            found = function(*args)
            traced = False
            return found

    return call


_KEPT = 256
"""Programs; the layers of a block come again a few dozen later, those of another model hardly ever."""

_programs: OrderedDict[Any, Any] = OrderedDict()


def _program(lowered: Any) -> Any:
    """Compiles, or returns what the same text was compiled to: deep models are the same few layers again and again.

    Not by class and configuration: a layer may have been changed since it was made, and the text holds all it computes.
    """
    text = lowered.as_text()
    # Of two things the text has no more than the place: a function in Python that is called back, and, where JAX is set
    # so, a large array that the function holds.
    if "callback" in text or "jax.const" in text:
        return lowered.compile()
    key = (hashlib.sha256(text.encode()).digest(), lowered.in_tree, lowered.out_tree)
    if key not in _programs:
        _programs[key] = lowered.compile()
    _programs.move_to_end(key)
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[key]
