"""The common random stream on PyTorch: Threefry-2x32 in int32, which wraps around as unsigned integers do.

Requirements:

* the words are the same as on every other backend, on any device, eagerly and compiled;
* Threefry runs once for each number that is drawn, and not more often.

Source: J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

__all__ = ["look_up", "random_bits", "threefry_2x32"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
# By the `id` of a NumPy array, which is kept here, too: if it were freed, another array could get the same `id`.
_TABLES: dict[Any, Any] = {}

# Up to this size, an operation's time is mostly the overhead of its call, which is smaller in NumPy than in PyTorch.
_CALLS_DOMINATE = 1 << 17


def threefry_2x32(key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Returns the two Threefry words of each counter under one key."""
    key, first, second = _word(key), _word(counter[0]), _word(counter[1])
    shape = torch.broadcast_shapes(first.shape, second.shape)
    # The counters are copied by adding 0, since `_mix` works in place. Each word of the key has shape (1,).
    return _mix(key[0:1], key[1:2], first.broadcast_to(shape) + 0, second.broadcast_to(shape) + 0)


def random_bits(key: Any, shape: Any) -> Any:
    """Returns 32 bits for each element: the XOR of the two words of its index in row-major order."""
    shape = tuple(int(each) for each in shape)
    return _bits(_word(key), math.prod(shape)).reshape(shape)


def look_up(table: Any, indices: Any) -> Any:
    """Returns the entry of a table at each index; the table is a NumPy array that must not change."""
    place = (id(table), indices.device)
    if place not in _TABLES:
        _TABLES[place] = (torch.from_numpy(table).to(indices.device), table)
    # `table[indices]` takes five hundred times as long with int32 indices.
    return _TABLES[place][0].index_select(0, indices.reshape(-1)).reshape(indices.shape)


# A custom operation: a recording or a compiler of a step sees one operation in place of 130.
@torch.library.custom_op("dlf::random_bits", mutates_args=())
def _bits(key: torch.Tensor, size: int) -> torch.Tensor:
    if size <= _CALLS_DOMINATE and key.device.type == "cpu":
        # NumPy computes the same on the same memory. Measured for 64 by 128 numbers on two busy cores: 0.3 ms here,
        # 0.8 ms with PyTorch's operations. For many numbers PyTorch is faster, since it uses both cores.
        pair = key.detach().numpy()
        first, second = _mix(pair[0:1], pair[1:2], np.zeros(size, np.int32), np.arange(size, dtype=np.int32))
        return torch.from_numpy(first ^ second)
    second = torch.arange(size, dtype=torch.int32, device=key.device)
    first, second = _mix(key[0:1], key[1:2], torch.zeros_like(second), second)
    return torch.bitwise_xor(first, second)


@_bits.register_fake
def _bits_of_that_shape(key: torch.Tensor, size: int) -> torch.Tensor:
    return key.new_empty(size, dtype=torch.int32)


def _word(value: Any) -> Any:
    value = torch.as_tensor(value)
    # By way of int64: a number beyond int32 keeps its lowest 32 bits.
    return value if value.dtype == torch.int32 else value.to(torch.int64).to(torch.int32)


def _mix(key_1: Any, key_2: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Returns the two words after the twenty rounds of Threefry-2x32, in place, on tensors or NumPy arrays."""
    keys = (key_1, key_2, key_1 ^ key_2 ^ _PARITY)
    first += key_1
    second += key_2
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            first += second
            carried = second >> (32 - turn)
            carried &= (1 << turn) - 1  # The shift is arithmetic and has filled with the sign bit.
            second <<= turn
            second |= carried
            second ^= first
        first += keys[(group + 1) % 3]
        second += keys[(group + 2) % 3]
        second += group + 1
    return first, second
