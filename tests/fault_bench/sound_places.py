"""Sound models with lengths, indices and constants, whose dtypes Keras decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of, tokens_model
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find


def formula(function: Callable[[Any], Any], shape: tuple[int | None, ...] = (6, 4), **keywords: Any) -> Any:
    return model_of(Formula(function, name="formula"), shape=shape, **keywords)


class Lengths(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    def call(self, x: Any, lengths: Any) -> Any:
        steps = ops.expand_dims(ops.arange(ops.shape(x)[1]), 0)
        seen = steps < ops.expand_dims(ops.cast(lengths, "int32"), -1)
        return x * ops.expand_dims(ops.cast(seen, x.dtype), -1)


@sound()
def length_masks() -> Any:
    """Steps beyond a length are set to zero."""
    x, lengths = keras.Input((6, 4)), keras.Input((), dtype="int32")
    return compiled([x, lengths], layers.Dense(1, name="last")(Lengths(name="lengths")(x, lengths)))


class Places(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Embeds positions, counted where there is a token, and plain ones."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.table = layers.Embedding(8, 4, name="table")

    def call(self, tokens: Any) -> Any:
        seen = ops.cast(ops.not_equal(tokens, 0), "int32")
        counted = ops.cumsum(seen, axis=1) * seen
        plain = ops.arange(0, ops.shape(tokens)[1], 1)
        return self.table(counted) + self.table(plain)


@sound()
def counted_places() -> Any:
    """Positions by a cumulative sum, and by a range."""
    x = keras.Input((5,), dtype="int32")
    return compiled(x, layers.Dense(2, name="last")(Places(name="places")(x)))


@sound()
def classes_from_scores() -> Any:
    """The argmax is compared with integers, and becomes a one-hot vector."""

    def chosen(x: Any) -> Any:
        best = ops.argmax(x, axis=-1)
        first = ops.cast(ops.equal(best, ops.zeros(ops.shape(best), "int32")), x.dtype)
        return x * ops.one_hot(best, 4) + ops.expand_dims(first, -1)

    return formula(chosen)


@sound()
def constants_without_a_dtype() -> Any:
    """Matrices and numbers that are made without giving a dtype."""

    def made(x: Any) -> Any:
        x = x @ ops.eye(4) + ops.full((4,), 0.1) + ops.linspace(0.0, 1.0, 4)
        return ops.transpose(ops.transpose(x, (0, 2, 1)) @ ops.tri(6), (0, 2, 1)) + ops.ones((6, 4)) * 0.3

    return formula(made)


@sound()
def numbers_in_choices() -> Any:
    """Python numbers where tensors are selected, compared and clipped."""
    return formula(
        lambda x: ops.where(x > 0.1, x, 0.3) + ops.maximum(x, 0.2) + ops.clip(x, -0.7, 0.9) + ops.minimum(0.4, x * 3)
    )


@sound()
def halves_of_lengths() -> Any:
    """Lengths are divided and used in slices, and a square root is taken of one."""

    def cut(x: Any) -> Any:
        half = ops.shape(x)[1] // 2
        scale = ops.sqrt(ops.cast(ops.shape(x)[-1], x.dtype))
        return ops.concatenate([x[:, half:] / scale, x[:, :half] * (half / 3)], axis=1)

    return formula(cut)


@sound()
def range_of_floats() -> Any:
    """A range of floating-point numbers."""
    return formula(lambda x: x * ops.arange(0.0, 1.0, 0.25) + ops.cast(ops.arange(4), x.dtype) / 4)


@sound()
def buckets_of_distances() -> Any:
    """Relative positions in buckets, by a logarithm that is truncated to an integer."""

    def bucketed(x: Any) -> Any:
        at = ops.arange(ops.shape(x)[1])
        apart = ops.abs(at[:, None] - at[None, :])
        large = 2 + ops.cast(ops.log(ops.cast(ops.maximum(apart, 1), "float32") / 2 + 0.1) * 2, "int32")
        bucket = ops.where(apart < 2, ops.cast(apart, "int32"), ops.minimum(large, 5))
        return ops.transpose(ops.transpose(x, (0, 2, 1)) @ ops.cast(bucket, x.dtype), (0, 2, 1)) / 5

    return formula(bucketed)


@sound()
def largest_by_their_places() -> Any:
    """The indices of the largest are found, and used to gather elements."""

    def taken(x: Any) -> Any:
        _, places = ops.top_k(x, 2)
        kept = ops.take_along_axis(x, places, axis=-1)
        return ops.concatenate([kept, ops.cast(places, x.dtype)], axis=-1)

    return formula(taken)


@sound()
def sums_of_segments() -> Any:
    """Rows are summed by integer segments, as in a graph network."""

    def summed(x: Any) -> Any:
        nodes = ops.convert_to_tensor(np.array([0, 2, 1, 2, 0, 1], "int32"))
        each = ops.segment_sum(ops.transpose(x, (1, 0, 2)), nodes, num_segments=3)
        degree = ops.cast(ops.segment_sum(ops.ones_like(nodes), nodes, num_segments=3), x.dtype)
        return ops.transpose(each / ops.reshape(degree, (3, 1, 1)), (1, 0, 2))

    return formula(summed)


@sound()
def share_of_truths() -> Any:
    """The mean of booleans, and how many are true."""

    def shared(x: Any) -> Any:
        seen = x > 0
        count = ops.cast(ops.sum(ops.cast(seen, "int32"), axis=-1, keepdims=True), x.dtype)
        return x * ops.mean(ops.cast(seen, x.dtype), axis=-1, keepdims=True) + count / 4

    return formula(shared)


@sound()
def masked_means() -> Any:
    """A mean whose divisor is counted in integers."""

    def mean(x: Any) -> Any:
        count = ops.maximum(ops.count_nonzero(ops.sum(ops.abs(x), axis=-1) > 0.5, axis=1), 1)
        return ops.sum(x, axis=1) / ops.cast(ops.expand_dims(count, -1), x.dtype)

    return tokens_model(Formula(mean, name="mean"), mask_zero=False)
