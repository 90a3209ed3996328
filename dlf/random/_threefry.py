"""JAX's random numbers on every backend, computed from the 32 random bits that `Backend.random_bits` supplies.

Requirements:

* uniform numbers in [0, 1), masks, integers and permutations have the bits that JAX draws from the same key;
* float32 and float64 runs get the same numbers: 32 bits are drawn for each number, also where JAX would draw 64;
* normal numbers are the same on every device: each is the correctly rounded quantile of one of the 2²³ uniform numbers
  that JAX uses. JAX's own approximation differs from it in the last bits, and between kinds of device.

A key is two integers, of which the lowest 32 bits count, as `keras.random.SeedGenerator.next` returns them.

Source: JAX's `jax.random` with its default generator, ``threefry2x32``, in its default layout,
``threefry_partitionable``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from dlf.backend.registry import current_backend

__all__ = ["bernoulli", "normal", "randint", "shuffle", "split", "truncated_normal", "uniform"]

# For each floating type: how many bits are drawn, and how many are kept, which is the length of the mantissa. As in
# JAX, but float64 is drawn like float32.
_BITS = {"bfloat16": (8, 7), "float16": (16, 10), "float32": (32, 23), "float64": (32, 23)}


def split(key: Any) -> tuple[Any, Any]:
    """Returns two new keys, as `jax.random.split` does.

    Args:
        key: Two integers, shape (2,).

    Returns:
        Two keys, shape (2,) each.

    Example:
        >>> first, second = split(np.array([0, 7]))
        >>> first.shape == second.shape == (2,)
        True
    """
    first, second = current_backend().threefry_2x32(key, (np.zeros(2, np.uint32), np.arange(2, dtype=np.uint32)))
    return ops.stack([first[0], second[0]]), ops.stack([first[1], second[1]])


def uniform(key: Any, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: str = "float32") -> Any:
    """Returns uniform numbers: `max(minval, u (maxval - minval) + minval)`, where `u = b 2⁻²³` and `b` has 23 bits.

    Args:
        key: Two integers, shape (2,).
        shape: The shape of the result.
        minval: The lower bound, included.
        maxval: The upper bound; excluded, but rounding may reach it.
        dtype: A floating type. For float16, `b` has 10 bits, and for bfloat16 it has 7, as on JAX.

    Returns:
        A tensor of the shape.

    Example:
        >>> numbers = ops.convert_to_numpy(uniform(np.array([0, 7]), (3,)))
        >>> numbers.dtype.name, bool((numbers < 1).all())
        ('float32', True)
    """
    drawn, kept = _BITS[dtype]
    numbers = ops.cast(_fraction(key, shape, drawn, kept), dtype) * 2.0**-kept
    if _is(minval, 0) and _is(maxval, 1):
        return numbers
    low = ops.cast(ops.convert_to_tensor(minval), dtype)
    span = ops.cast(ops.convert_to_tensor(maxval), dtype) - low
    if dtype == "bfloat16":
        return ops.maximum(low, numbers * span + low)
    # In float64 the product is exact, so there is one rounding, as when JAX's compiler fuses the two operations.
    # Where float64 is not available, there are two.
    return ops.maximum(low, ops.cast(_wide(numbers) * _wide(span) + _wide(low), dtype))


def bernoulli(key: Any, probability: float, shape: Any) -> Any:
    """Returns booleans that are True with the given probability: `u < probability`, `u` uniform in [0, 1).

    Args:
        key: Two integers, shape (2,).
        probability: A number from 0 to 1, which is rounded to float32.
        shape: The shape of the result.

    Returns:
        A boolean tensor of the shape.

    Example:
        >>> bool(bernoulli(np.array([0, 7]), 1.0, ()))
        True
    """
    # Scaling by a power of two does not round, so this is `u < probability`.
    return ops.cast(_fraction(key, shape, 32, 23), "float32") < float(np.float32(probability)) * 2.0**23


def normal(key: Any, shape: Any) -> Any:
    """Returns standard normal numbers in float32: `√2 erfinv(u)`, `u` uniform in (-1, 1).

    Args:
        key: Two integers, shape (2,).
        shape: The shape of the result.

    Returns:
        A float32 tensor of the shape.

    Example:
        >>> normal(np.array([0, 7]), (2, 3)).shape == (2, 3)
        True
    """
    return current_backend().look_up(normal_quantiles(), _fraction(key, shape, 32, 23))


def truncated_normal(key: Any, shape: Any) -> Any:
    """Returns standard normal numbers between -2 and 2 in float32: `√2 erfinv(u)`, `|u| < erf(√2)`.

    Args:
        key: Two integers, shape (2,).
        shape: The shape of the result.

    Returns:
        A float32 tensor of the shape.

    Example:
        >>> truncated_normal(np.array([0, 7]), (2, 3)).shape == (2, 3)
        True
    """
    return current_backend().look_up(truncated_quantiles(), _fraction(key, shape, 32, 23))


def randint(key: Any, shape: Any, minval: int, maxval: int, dtype: str = "int32") -> Any:
    """Returns integers from [minval, maxval): `minval + (h (2³² mod s) + l) mod s`, `s = maxval - minval`.

    Args:
        key: Two integers, shape (2,).
        shape: The shape of the result.
        minval: The lower bound, included.
        maxval: The upper bound, excluded.
        dtype: An integer type. For a 64-bit type, 32 bits are drawn, as on JAX unless 64 bits are enabled there.

    Returns:
        A tensor of the shape.

    Example:
        >>> int(randint(np.array([0, 7]), (), 5, 6))
        5
    """
    drawn = "uint32" if dtype in ("uint32", "uint64") else "int32"
    limits = np.iinfo(drawn if dtype in ("int64", "uint64") else dtype)
    low, high = (int(np.clip(each, limits.min, limits.max + 1)) for each in (minval, maxval))
    low = min(low, limits.max)
    span = high - low if high > low else 1
    high_bits, low_bits = (_unsigned(current_backend().random_bits(each, shape)) for each in split(key))
    if span == 2**32:
        offset = low_bits
    else:
        divisor, multiplier = _like(span, low_bits), _like((2**16 % span) ** 2 % 2**32 % span, low_bits)
        # JAX's arithmetic has 32 bits and wraps around, so this does too.
        offset = _lowest_32(_lowest_32(high_bits % divisor * multiplier) + low_bits % divisor) % divisor
    offset = ops.cast(offset, drawn)
    return ops.cast(offset + _like(low, offset), dtype)


def shuffle(key: Any, values: Any, axis: int = 0) -> Any:
    """Returns the values sorted along an axis by random bits; each slice along the axis has bits of its own.

    Args:
        key: Two integers, shape (2,).
        values: A tensor of known shape.
        axis: The axis to sort along.

    Returns:
        A tensor of the same shape.

    Example:
        >>> sorted(ops.convert_to_numpy(shuffle(np.array([0, 7]), ops.arange(4))).tolist())
        [0, 1, 2, 3]
    """
    # Values with equal bits keep their order, so long arrays are sorted more than once.
    rounds = math.ceil(3 * math.log(max(1, math.prod(values.shape))) / math.log(2**32 - 1))
    for _ in range(rounds):
        key, subkey = split(key)
        bits = _unsigned(current_backend().random_bits(subkey, tuple(values.shape)))
        values = ops.take_along_axis(values, ops.argsort(bits, axis=axis), axis=axis)
    return values


@functools.cache
def normal_quantiles() -> np.ndarray:
    """Returns the table from 23 bits to a standard normal number; 32 MiB, computed at the first call."""
    from scipy.special import erfinv

    # 2 (b 2⁻²³) + (2⁻²⁴ - 1): never 0, -1 or 1.
    return _rounded(lambda bits: math.sqrt(2) * erfinv((4.0 * bits + 1 - 2.0**24) * 2.0**-24))


@functools.cache
def truncated_quantiles() -> np.ndarray:
    """Returns the table from 23 bits to a standard normal number between -2 and 2, both excluded."""
    from scipy.special import erf, erfinv

    edge = float(erf(math.sqrt(2)))
    below_two = np.nextafter(np.float32(2), np.float32(0))
    table = _rounded(lambda bits: math.sqrt(2) * erfinv((2.0**-22 * bits - 1) * edge))
    return np.asarray(np.clip(table, -below_two, below_two))


def _rounded(quantile: Any) -> np.ndarray:
    table = np.empty(2**23, np.float32)
    # In pieces, so that the float64 values take less memory than the table.
    for piece in np.split(np.arange(2**23), 32):
        table[piece] = quantile(piece)
    return table


def _fraction(key: Any, shape: Any, drawn: int, kept: int) -> Any:
    """Draws 32 bits for each element, and returns the `kept` highest of the `drawn` lowest ones as an integer."""
    bits = current_backend().random_bits(key, shape)
    # PyTorch's bits are a signed integer: the shift fills with the sign bit, and the mask removes it.
    return ops.bitwise_and(ops.right_shift(bits, _like(drawn - kept, bits)), _like(2**kept - 1, bits))


def _unsigned(bits: Any) -> Any:
    """Casts bits to a type that holds them unsigned.

    That is uint32 on JAX, where int64 has to be enabled, and int64 elsewhere, where uint32 lacks arithmetic.
    """
    return _lowest_32(ops.cast(bits, "uint32" if keras.config.backend() == "jax" else "int64"))


def _lowest_32(numbers: Any) -> Any:
    return ops.bitwise_and(numbers, _like(2**32 - 1, numbers))


def _like(number: int, tensor: Any) -> Any:
    """Returns a number as a constant of the tensor's dtype, so that type promotion does not change the dtype."""
    return ops.convert_to_tensor(np.asarray(number, keras.backend.standardize_dtype(tensor.dtype)))


def _wide(tensor: Any) -> Any:
    try:
        return ops.cast(tensor, "float64")
    except TypeError:
        return tensor


def _is(value: Any, number: int) -> bool:
    return isinstance(value, (int, float)) and value == number
