"""JAX's random numbers on every backend, derived once from the 32 bits that `Backend.random_bits` supplies.

Requirements:

* uniform numbers in [0, 1), masks, integers and permutations have the bits that JAX draws from the same key;
* float32 and float64 runs see the same numbers: 32 bits are drawn for each, also where JAX would draw 64;
* normal numbers are the same on every device: the correctly rounded quantile of each of the 2²³ uniform numbers that
  JAX takes them from. JAX's own approximation differs in the last bits, from one kind of device to another too.

A key is two integers, of which the lowest 32 bits count: what `keras.random.SeedGenerator.next` returns.

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

# What JAX draws for each floating type, and how many of these bits it keeps: those of the mantissa.
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
    """Returns numbers from [minval, maxval): `max(minval, u (maxval - minval) + minval)`, `u = b 2⁻²³`, `b` 23 bits.

    Args:
        key: Two integers, shape (2,).
        shape: The shape of the result.
        minval: The least number.
        maxval: The number that all are below, rounding aside.
        dtype: A floating type. float16 has 10 bits and bfloat16 has 7, as on JAX.

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
    # In float64 the product is exact and one rounding is left, as where JAX's compiler fuses the two operations.
    # A framework that has no float64 here rounds twice.
    return ops.maximum(low, ops.cast(_wide(numbers) * _wide(span) + _wide(low), dtype))


def bernoulli(key: Any, probability: float, shape: Any) -> Any:
    """Returns True where a uniform number is below the probability.

    Args:
        key: Two integers, shape (2,).
        probability: From 0 to 1; it is rounded to float32.
        shape: The shape of the result.

    Returns:
        A boolean tensor of the shape.

    Example:
        >>> bool(bernoulli(np.array([0, 7]), 1.0, ()))
        True
    """
    # A power of two scales without rounding, so this is `u < probability`.
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
        minval: The least integer.
        maxval: One above the greatest.
        dtype: An integer type. Of 64 bits there are 32, as on JAX unless it is told otherwise.

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
    """Returns the values sorted along an axis by random bits, each row by bits of its own.

    Args:
        key: Two integers, shape (2,).
        values: A tensor whose shape is known.
        axis: The axis to sort along.

    Returns:
        A tensor of the same shape.

    Example:
        >>> sorted(ops.convert_to_numpy(shuffle(np.array([0, 7]), ops.arange(4))).tolist())
        [0, 1, 2, 3]
    """
    # Equal bits leave two values in order, so long arrays are sorted more than once.
    rounds = math.ceil(3 * math.log(max(1, math.prod(values.shape))) / math.log(2**32 - 1))
    for _ in range(rounds):
        key, subkey = split(key)
        bits = _unsigned(current_backend().random_bits(subkey, tuple(values.shape)))
        values = ops.take_along_axis(values, ops.argsort(bits, axis=axis), axis=axis)
    return values


@functools.cache
def normal_quantiles() -> np.ndarray:
    """The standard normal number of each 23 bits: 32 MiB, computed when it is first asked for."""
    from scipy.special import erfinv

    # 2 (b 2⁻²³) + (2⁻²⁴ - 1): never 0, -1 or 1.
    return _rounded(lambda bits: math.sqrt(2) * erfinv((4.0 * bits + 1 - 2.0**24) * 2.0**-24))


@functools.cache
def truncated_quantiles() -> np.ndarray:
    """Likewise between -2 and 2, both excluded."""
    from scipy.special import erf, erfinv

    edge = float(erf(math.sqrt(2)))
    below_two = np.nextafter(np.float32(2), np.float32(0))
    table = _rounded(lambda bits: math.sqrt(2) * erfinv((2.0**-22 * bits - 1) * edge))
    return np.asarray(np.clip(table, -below_two, below_two))


def _rounded(quantile: Any) -> np.ndarray:
    table = np.empty(2**23, np.float32)
    # In pieces, so that the float64 values never take more room than the table.
    for piece in np.split(np.arange(2**23), 32):
        table[piece] = quantile(piece)
    return table


def _fraction(key: Any, shape: Any, drawn: int, kept: int) -> Any:
    """The `kept` highest of the `drawn` lowest bits, as an integer."""
    bits = current_backend().random_bits(key, shape)
    # PyTorch's are signed: the shift fills up with the sign, and the mask takes it away.
    return ops.bitwise_and(ops.right_shift(bits, _like(drawn - kept, bits)), _like(2**kept - 1, bits))


def _unsigned(bits: Any) -> Any:
    """In a type that holds them unsigned: JAX has no int64 unless asked, the others no arithmetic in uint32."""
    return _lowest_32(ops.cast(bits, "uint32" if keras.config.backend() == "jax" else "int64"))


def _lowest_32(numbers: Any) -> Any:
    return ops.bitwise_and(numbers, _like(2**32 - 1, numbers))


def _like(number: int, tensor: Any) -> Any:
    """A constant of the tensor's own type, which no rule of promotion then changes."""
    return ops.convert_to_tensor(np.asarray(number, keras.backend.standardize_dtype(tensor.dtype)))


def _wide(tensor: Any) -> Any:
    try:
        return ops.cast(tensor, "float64")
    except TypeError:
        return tensor


def _is(value: Any, number: int) -> bool:
    return isinstance(value, (int, float)) and value == number
