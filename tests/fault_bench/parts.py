"""Layers and functions that build models, for several files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

__all__ = [
    "Around",
    "Block",
    "Formula",
    "ModeFormula",
    "Projection",
    "compiled",
    "model_of",
    "nested",
    "own_model",
    "tokens_model",
]


def model_of(
    *middle: Any, shape: tuple[int | None, ...] = (4,), optimizer: Any = "sgd", loss: Any = "mse", last: bool = True
) -> Any:
    """A model with a trainable layer before and, unless `last` is false, after its middle."""
    first = layers.Dense(shape[-1], name="first")
    end = [layers.Dense(2, name="last")] if last else []
    model = keras.Sequential([keras.Input(shape), first, *middle, *end])
    model.compile(optimizer, loss)
    return model


def tokens_model(
    *middle: Any, vocabulary: int = 6, mask_zero: bool = True, optimizer: Any = "sgd", **keywords: Any
) -> Any:
    """A model of five tokens, 0 among them."""
    table = layers.Embedding(vocabulary, 4, mask_zero=mask_zero, name="table")
    ends = [layers.Dense(2, name="last")]
    model = keras.Sequential([keras.Input((5,), dtype="int32", **keywords), table, *middle, *ends])
    model.compile(optimizer, "mse")
    return model


def own_model(kind: Any, optimizer: Any = "sgd", loss: Any = "mse", *middle: Any) -> Any:
    """A functional model of a user's own class."""
    x = keras.Input((4,))
    hidden = layers.Dense(3, activation="tanh", name="hidden")(x)
    for each in middle:
        hidden = each(hidden)
    model = kind(x, layers.Dense(2, name="last")(hidden))
    model.compile(optimizer, loss)
    return model


def compiled(inputs: Any, outputs: Any, loss: Any = "mse", optimizer: Any = "sgd", **keywords: Any) -> Any:
    """A model from its inputs to its outputs."""
    model = keras.Model(inputs, outputs)
    model.compile(optimizer, loss, **keywords)
    return model


class Formula(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A layer without variables that computes a given function."""

    def __init__(self, function: Callable[..., Any], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


class ModeFormula(Formula):
    """A layer without variables that computes a given function of the inputs and the mode."""

    def call(self, x: Any, training: bool = False) -> Any:
        return self.function(x, bool(training))


class Projection(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A layer with a square kernel and a bias that computes a given function of the inputs and both."""

    def __init__(self, function: Callable[..., Any], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.function = function

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")
        self.bias = self.add_weight(shape=(shape[-1],), initializer="ones", name="bias")

    def call(self, x: Any) -> Any:
        return self.function(x, self.kernel, self.bias)


class Block(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds another layer as `inner`."""

    def __init__(self, inner: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = inner

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return ops.tanh(self.inner(x)) + x


class Around(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds another layer, which may be built already."""

    def __init__(self, inner: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = inner

    def build(self, shape: Any) -> None:
        if not self.inner.built:
            self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x) * 0.5


def nested(inner: Any, depth: int) -> Any:
    """The layer inside others: `level_1` holds it, `level_2` holds `level_1`, and so on."""
    for number in range(1, depth + 1):
        inner = Around(inner, name=f"level_{number}")
    return inner
