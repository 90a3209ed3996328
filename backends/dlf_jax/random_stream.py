"""The common random stream on JAX, where it is the default generator: Threefry-2x32 in uint32.

Requirements:

* the words are the same as on every other backend, on any device, eagerly and compiled;
* Threefry runs once for each number that is drawn, and not more often.

Source: J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["look_up", "random_bits", "threefry_2x32"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MOST_NUMBERS = 2**32  # Beyond this, the index of an element takes both words of the counter.
# By the `id` of a NumPy array, which is kept here, too: if it were freed, another array could get the same `id`.
_TABLES: dict[Any, Any] = {}


def threefry_2x32(key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Returns the two Threefry words of each counter under one key."""
    key = _word(key)
    return _mix(key[0], key[1], _word(counter[0]), _word(counter[1]))


def random_bits(key: Any, shape: Any) -> Any:
    """Returns 32 bits for each element: the XOR of the two words of its index in row-major order."""
    shape = tuple(shape)
    # While Keras infers the shapes of a layer's outputs, a dimension may be symbolic.
    is_known = all(isinstance(each, int | np.integer) for each in shape)
    if is_known and jax.default_backend() == "cpu" and math.prod(shape) <= _MOST_NUMBERS:
        return _bits_in_one_pass(_word(key), shape)
    # JAX's own function, with layout and generator set here, since a user may have changed JAX's defaults.
    with jax.threefry_partitionable(True):
        return jax.random.bits(jax.random.wrap_key_data(_word(key), impl="threefry2x32"), shape, "uint32")


@partial(jax.jit, static_argnums=1)
def _bits_in_one_pass(key: Any, shape: tuple[int, ...]) -> Any:
    """Returns the same bits as JAX's own function, which is slower on a CPU.

    There JAX compiles the rounds as a loop of five iterations, each of which goes through memory. Measured on two
    cores, a training step of a small dense model took 196 µs with JAX's loop, 135 µs with this, and 125 µs without
    masks.
    """
    first, second = _mix(key[0], key[1], np.uint32(0), jax.lax.iota(np.uint32, math.prod(shape)))
    return (first ^ second).reshape(shape)


def look_up(table: Any, indices: Any) -> Any:
    """Returns the entry of a table at each index; the table is a NumPy array that must not change."""
    if id(table) not in _TABLES:
        # Outside of any trace, since an array that is made in a trace cannot be used after it.
        with jax.ensure_compile_time_eval():
            _TABLES[id(table)] = (jnp.asarray(table), table)
    return _TABLES[id(table)][0].at[indices].get(mode="promise_in_bounds")


def _word(value: Any) -> Any:
    # By way of NumPy, since JAX accepts no number beyond int32 in a list.
    return (value if isinstance(value, jax.Array) else jnp.asarray(np.asarray(value).astype(np.uint32))).astype(
        "uint32"
    )


def _mix(key_1: Any, key_2: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Returns the two words after the twenty rounds of Threefry-2x32."""
    keys = (key_1, key_2, key_1 ^ key_2 ^ np.uint32(_PARITY))
    first += key_1
    second += key_2
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            first += second
            second = (second << np.uint32(turn)) | (second >> np.uint32(32 - turn))
            second ^= first
        first += keys[(group + 1) % 3]
        second += keys[(group + 2) % 3] + np.uint32(group + 1)
    return first, second
