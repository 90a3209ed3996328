"""Sound models with integers, booleans, half precision and complex numbers inside, as Keras promotes their dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find


def between(*functions: Callable[[Any], Any], dtype: str = "float32", shape: tuple[int, ...] = (4,)) -> Any:
    """A model of layers that pass on the dtypes of their outputs, followed by a dense layer in float32."""
    x = keras.Input(shape, dtype=dtype, name="given")
    hidden = layers.Dense(shape[-1], name="first")(x) if dtype == "float32" else x
    for number, each in enumerate(functions):
        hidden = Formula(each, autocast=False, name=f"step_{number}")(hidden)
    return compiled(x, layers.Dense(2, name="last")(layers.Flatten(name="flat")(hidden)))


# Integers and booleans between layers.


@sound()
def small_integers() -> Any:
    """Integers of eight and sixteen bits, with and without a sign."""
    return between(
        lambda x: ops.cast(ops.clip(x * 20, -100, 100), "int8"),
        lambda x: ops.cast(x, "int16") * 5,
        lambda x: ops.cast(ops.abs(x) % 200, "uint8"),
        lambda x: ops.cast(x, "float32") / 200,
    )


@sound()
def large_integers() -> Any:
    """Integers of 32 and 64 bits, of which a backend may have fewer."""
    return between(
        lambda x: ops.cast(ops.floor(x * 3), "int64"),
        lambda x: ops.cast(x * x + 1, "int32"),
        lambda x: x // 2 - x % 3,
        lambda x: ops.cast(x, "float32") * 0.1,
    )


@sound()
def unsigned_integers() -> Any:
    """Unsigned integers, in place of which one backend takes a wider dtype."""
    return between(
        lambda x: ops.cast(ops.abs(x) * 9, "uint16"),
        lambda x: ops.cast(x, "uint32") + ops.cast(7, "uint32"),
        lambda x: ops.cast(x, "float32") * 0.05,
    )


@sound()
def truths_between() -> Any:
    """Booleans from layer to layer."""
    return between(
        lambda x: x > 0,
        lambda x: ops.logical_xor(x, ops.roll(x, 1, axis=-1)),
        lambda x: ops.where(x, ops.cast(0.7, "float32"), ops.cast(-0.2, "float32")),
    )


@sound()
def normalized_integers() -> Any:
    """A normalization of integers, whose results are truncated on every backend."""
    return between(
        lambda x: ops.rms_normalization(x * 7),
        lambda x: ops.cast(x, "float32"),
        dtype="int32",
        shape=(6,),
    )


@sound()
def bytes_of_an_image() -> Any:
    """An image of bytes, which a layer rescales."""
    x = keras.Input((6, 6, 3), dtype="uint8", name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(x)
    hidden = layers.Conv2D(3, 3, strides=2, name="conv")(scaled)
    return compiled(x, layers.Dense(2, name="last")(layers.Flatten(name="flat")(hidden)))


def bytes_and_classes(size: int, random: np.random.Generator) -> Any:
    return random.integers(256, size=(size, 4)).astype("uint8"), random.integers(2, size=(size, 2)).astype("int64")


class IntegerLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    """A loss whose mask is counted in integers of eight bits."""

    def __init__(self) -> None:
        super().__init__(dtype="float32")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        known = ops.cast(ops.not_equal(ops.cast(y_true, "int32"), 0), "int8")
        apart = ops.square(y_pred - ops.cast(y_true, y_pred.dtype))
        return ops.sum(apart * ops.cast(known, y_pred.dtype), axis=-1) / (1 + ops.cast(ops.sum(known), y_pred.dtype))


@sound(data="bytes_and_classes")
def integers_in_a_loss() -> Any:
    """Targets of 64 bits, and a mask of eight bits, in a loss."""
    x = keras.Input((4,), dtype="uint8", name="given")
    scaled = layers.Rescaling(1 / 255, name="scaled")(x)
    return compiled(x, layers.Dense(2, name="last")(scaled), IntegerLoss())


@sound()
def integers_for_a_mask() -> Any:
    """A mask of attention in integers of 32 bits, as tokenizers give it."""
    x, seen = keras.Input((4, 6)), keras.Input((4,), dtype="int32", name="seen")
    given = Formula(lambda m: ops.cast(m % 2, "bool")[:, None, :], autocast=False, name="given")(seen)
    attended = layers.MultiHeadAttention(2, 3, name="attention")(x, x, attention_mask=given)
    return compiled([x, seen], layers.Dense(2, name="last")(attended))


class Tables(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A table of bytes, and its scale."""

    def build(self, shape: Any) -> None:
        self.rows = self.add_weight(shape=(10, 4), dtype="int8", initializer="zeros", trainable=False, name="rows")
        self.rows.assign(np.arange(40).reshape(10, 4) - 18)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        return ops.cast(ops.take(self.rows, x, axis=0), self.scale.dtype) * self.scale / 18


@sound()
def table_of_bytes() -> Any:
    """Rows of bytes are looked up, and multiplied by a trainable scale."""
    x = keras.Input((5,), dtype="int32")
    rows = layers.GlobalAveragePooling1D(name="mean")(Tables(name="rows")(x))
    return compiled(x, layers.Dense(2, name="last")(rows))


@sound()
def integer_and_truth_outputs() -> Any:
    """A model with outputs of integers and booleans too, which have no loss."""
    x = keras.Input((4,))
    scores = layers.Dense(3, name="scores")(x)
    best = Formula(lambda x: ops.argmax(x, axis=-1), name="best")(scores)
    sure = Formula(lambda x: ops.max(x, axis=-1) > 0.5, name="sure")(scores)
    return compiled(x, {"scores": scores, "best": best, "sure": sure}, {"scores": "mse"})


# Half precision and complex numbers.


@sound()
def halves_between() -> Any:
    """bfloat16 in one layer, and float16 in the next."""
    return between(
        lambda x: ops.cast(ops.cast(x, "bfloat16"), "float32") * 2,
        lambda x: ops.cast(ops.cast(x, "float16"), "float32") + 1,
    )


@sound()
def complex_inside() -> Any:
    """A layer that squares its inputs as complex numbers."""

    def turned(x: Any) -> Any:
        number = ops.view_as_complex(ops.reshape(x, (-1, 2, 2)))
        return ops.reshape(ops.view_as_real(number * number), (-1, 4))

    return model_of(Formula(turned, name="turned"))


@sound()
def complex_between() -> Any:
    """Complex numbers from layer to layer."""
    return between(
        lambda x: ops.view_as_complex(ops.stack([x, x * x], axis=-1)),
        lambda x: ops.real(x) * ops.imag(x),
    )


@sound(backends=("jax", "tensorflow"))
def sparse_inputs() -> Any:
    """Inputs that are declared sparse, which PyTorch does not support."""
    x = keras.Input((6,), sparse=True)
    return compiled(x, layers.Dense(2, name="last")(layers.Dense(3, name="first")(x)))
