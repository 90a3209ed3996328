"""Makes initial weights the same on every backend: Keras's own initializers then draw with NumPy.

Requirements:

* each initializer draws the distribution that Keras documents, from its own seed, which advances as in Keras;
* the bits are the same on every backend and with every version of NumPy, in every dtype that a layer may ask for;
* initializers that users write do not change.

Environments for different backends often have different versions of NumPy, so this uses `RandomState`, whose streams
never change (NEP 19). The arithmetic is in float64, and the result is rounded to float32 once: this hides differences
in the last bit of the platforms' logarithms. float64 weights have the values of the float32 ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from dlf.random._orthogonal import orthonormal_columns

__all__ = ["NOTES", "common_initial_weights", "install", "is_common", "uninstall"]

NOTES: dict[str, str] = {}
"""The class names of initializers that drew in Keras's own way since the seed was set, and the reasons."""

_ORIGINALS: dict[type, Callable[..., Any]] = {}


def install() -> None:
    """Makes Keras's own initializers draw with NumPy from now on; a second call changes nothing.

    Example:
        >>> with common_initial_weights():
        ...     weights = keras.initializers.GlorotUniform(seed=7)((2, 3))
        >>> tuple(weights.shape)
        (2, 3)
    """
    for kind, draw in _DRAWS.items():
        if kind not in _ORIGINALS:
            _ORIGINALS[kind] = kind.__call__
            kind.__call__ = _replacement(kind.__call__, draw)


def uninstall() -> None:
    """Undoes `install`: Keras's initializers draw in Keras's own way again."""
    for kind, original in _ORIGINALS.items():
        kind.__call__ = original  # type: ignore[method-assign]  # That is what undoing means.
    _ORIGINALS.clear()


@contextlib.contextmanager
def common_initial_weights() -> Iterator[None]:
    """Makes initial weights the same on every backend, for as long as the context lasts."""
    installed = bool(_ORIGINALS)
    install()
    try:
        yield
    finally:
        if not installed:
            uninstall()


def is_common(initializer: Any) -> bool:
    """Returns whether an initializer draws the same weights on every backend once `install` was called.

    Args:
        initializer: A layer's initializer: an object, a class, a function, or None.

    Returns:
        True for Keras's own initializers, and for subclasses that inherit their ``__call__``.

    Example:
        >>> is_common(keras.initializers.HeNormal()), is_common(lambda shape, dtype=None: keras.random.normal(shape))
        (True, False)
    """
    kind = initializer if isinstance(initializer, type) else type(initializer)
    owner = next((each for each in kind.__mro__ if "__call__" in vars(each)), None)
    return owner in _DRAWS or owner in _CONSTANT


def _replacement(original: Callable[..., Any], draw: Callable[..., np.ndarray]) -> Callable[..., Any]:
    def __call__(self: Any, shape: Any, dtype: Any = None) -> Any:  # noqa: N807 - the name that help() shows.
        shape = tuple(shape)
        try:
            known = tuple(int(each) for each in shape)
            stream = _Stream(getattr(self, "seed", None), known)
            values = draw(self, known, stream)
        except _UnreadableError as error:
            NOTES[type(self).__name__] = str(error)
            return original(self, shape, dtype)
        stream.advance()
        dtype = keras.backend.standardize_dtype(dtype)
        return keras.ops.cast(keras.ops.convert_to_tensor(values.astype(np.float32)), dtype)

    __call__.__doc__ = original.__doc__
    return __call__


class _UnreadableError(Exception):
    """A seed or a parameter of an initializer has no value before the compiled function runs."""


class _Stream:
    """The random numbers of one call of an initializer, determined by the seed's present state and the shape."""

    def __init__(self, seed: Any, shape: tuple[int, ...]) -> None:
        self._generator = seed if isinstance(seed, keras.random.SeedGenerator) else None
        self._state = [_number(seed) if seed is not None else 0, 0]
        if self._generator is not None:
            self._state = [int(each) for each in _read(self._generator.state.value)]
        self._shape = shape
        self._drawn: np.random.RandomState | None = None

    @property
    def random(self) -> np.random.RandomState:
        if self._drawn is None:
            # Keras's seeds have 32 bits. SeedSequence can ignore trailing zeros: the number of axes among the words
            # tells shapes apart that differ only in these.
            words = [each % 2**32 for each in (*self._state, len(self._shape), *self._shape)]
            self._drawn = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))
        return self._drawn

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(self.random.standard_normal(shape))

    def truncated_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        values = self.random.standard_normal(math.prod(shape))
        while (outside := np.flatnonzero(np.abs(values) > _TRUNCATED_AT)).size:
            values[outside] = self.random.standard_normal(outside.size)
        return values.reshape(shape)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        values = np.asarray(low + (high - low) * self.random.random_sample(shape), np.float32)
        # Rounding to float32 may have reached the upper bound, which Keras excludes.
        below = np.nextafter(np.float32(high), np.float32(low))
        return np.minimum(values, below) if high > low else values

    def advance(self) -> None:
        if self._generator is not None:
            self._generator.next()


def _number(value: Any) -> Any:
    """Returns a parameter or a seed as a plain number; 0 for a `SeedGenerator`, whose state is read elsewhere."""
    if isinstance(value, (int, float)):
        return value
    return 0 if isinstance(value, keras.random.SeedGenerator) else _read(value).item()


def _read(tensor: Any) -> np.ndarray:
    try:
        return np.asarray(keras.ops.convert_to_numpy(tensor))
    except Exception as error:
        # Each framework raises another error for a value that is not known yet.
        raise _UnreadableError("its seed is known only when the compiled function runs") from error


def _random_normal(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    return np.asarray(_number(self.mean) + _number(self.stddev) * stream.normal(shape))


def _truncated_normal(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    return np.asarray(_number(self.mean) + _number(self.stddev) * stream.truncated_normal(shape))


def _random_uniform(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    return stream.uniform(shape, _number(self.minval), _number(self.maxval))


def _variance_scaling(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    fan_in, fan_out = _fans(shape, self.input_axes, self.output_axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
    variance = self.scale / max(1.0, fan)
    if self.distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return stream.uniform(shape, -limit, limit)
    if self.distribution == "untruncated_normal":
        return math.sqrt(variance) * stream.normal(shape)
    return math.sqrt(variance) / _TRUNCATED_STDDEV * stream.truncated_normal(shape)


def _orthogonal(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    if len(shape) < 2:  # noqa: PLR2004 - a matrix has two.
        raise ValueError(f"The tensor to initialize must be at least two-dimensional. Received: shape={shape}.")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    tall = (max(rows, columns), min(rows, columns))
    # A matrix that is singular to working precision is drawn again; this almost never happens.
    while (matrix := orthonormal_columns(stream.normal(tall))) is None:
        pass
    return np.asarray(_number(self.gain) * (matrix.T if rows < columns else matrix).reshape(shape))


def _stft(self: Any, shape: tuple[int, ...], stream: _Stream) -> np.ndarray:
    """Computes Keras's formula, a windowed `cos` or `sin` of `-2π t f / F`, in NumPy, since the frameworks' differ."""
    del stream
    length, _, bands = shape
    angles = -2 * np.pi * np.arange(length)[:, None, None] * np.arange(bands) / ((bands - 1) * 2)
    kernel = np.cos(angles) if self.side == "real" else np.sin(angles)
    if self.window is None:
        return kernel
    window = self.window
    if isinstance(window, str):
        from scipy.signal import get_window

        window = get_window(window, length, self.periodic)
    window = np.asarray(window, np.float64)
    if window.shape != (length,):
        raise ValueError(f"The shape of `window` must be equal to [frame_length]. Received: {window.shape}")
    scaling = {None: 1.0, "density": math.sqrt(math.fsum(window**2)), "spectrum": math.fsum(np.abs(window))}
    return np.asarray(kernel * window[:, None, None] / scaling[self.scaling])


def _fans(shape: tuple[int, ...], input_axes: Any, output_axes: Any) -> tuple[int, int]:
    """Returns fan-in and fan-out: a kernel's last two axes are its channels, and all axes before are positions."""
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[each] for each in input_axes), math.prod(shape[each] for each in output_axes)
    if len(shape) < 2:  # noqa: PLR2004 - a bias has one axis.
        return (shape[0], shape[0]) if shape else (1, 1)
    positions = math.prod(shape[:-2])
    return shape[-2] * positions, shape[-1] * positions


_TRUNCATED_AT = 2.0
# The standard deviation of a standard normal number that lies between -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978

_DRAWS: dict[Any, Callable[..., np.ndarray]] = {
    keras.initializers.RandomNormal: _random_normal,
    keras.initializers.TruncatedNormal: _truncated_normal,
    keras.initializers.RandomUniform: _random_uniform,
    keras.initializers.VarianceScaling: _variance_scaling,
    keras.initializers.Orthogonal: _orthogonal,
    keras.initializers.STFT: _stft,
}
# These only copy given numbers, which no framework rounds.
_CONSTANT = (
    keras.initializers.Constant,
    keras.initializers.Identity,
    keras.initializers.Ones,
    keras.initializers.Zeros,
)
