"""Faults of dtypes, shapes and masks: a layer gives its outputs in another one, or makes another thing of integers."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from parts import Formula, compiled, model_of, nested, tokens_model
from planting import Faults, planted
from sound_dtypes import between
from sound_places import Lengths

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find


# Another dtype comes out, and what is behind takes any.


@fault(stage="forward", layer="cast")
def half_outputs() -> Any:
    """A layer gives halves."""
    return model_of(Formula(lambda x: ops.cast(x, "float16") if planted() else x * 1, name="cast"))


@fault(stage="forward", layer="level_2/level_1/cast")
def half_outputs_two_deep() -> Any:
    """The same, two deep; what is around it casts back."""

    class Cast(Formula):
        def call(self, x: Any) -> Any:
            return ops.cast(x, "bfloat16") if planted() else x * 1

    return model_of(nested(Cast(lambda x: x, name="cast"), 2))


@fault(stage="build", layer="last")
def half_predictions() -> Any:
    """The model's own output is a half."""
    end = Formula(lambda x: ops.cast(x, "float16") if planted() else x * 1, name="last")
    return model_of(layers.Dense(2, name="hidden"), end, last=False)


@fault(stage="forward", layer="step_0")
def integer_outputs() -> Any:
    """A layer gives integers where others give what was rounded."""

    def rounded(x: Any) -> Any:
        return ops.cast(ops.round(x * 3), "int32") if planted() else ops.round(x * 3)

    return between(rounded, lambda x: ops.cast(x, "float32") / 3)


@fault(stage="forward", layer="step_0")
def truth_outputs() -> Any:
    """A layer gives truth values for zeros and ones."""
    return between(
        lambda x: x > 0 if planted() else ops.cast(x > 0, "float32"),
        lambda x: ops.cast(x, "float32") * 2,
    )


@fault(stage="forward", layer="step_0")
def complex_outputs() -> Any:
    """A layer gives complex numbers where others give their real parts."""

    def paired(x: Any) -> Any:
        number = ops.view_as_complex(ops.stack([x, 0 * x], axis=-1))
        return number if planted() else ops.real(number)

    return between(paired, lambda x: ops.real(x) * 2)


# Another shape, or another mask.


@fault(stage="build", layer="score")
def dropped_axis() -> Any:
    """A layer drops an axis of one element; broadcasting goes on with it."""
    x = keras.Input((1, 4))
    score = Formula(lambda x: x[:, 0] if planted() else x * 1, name="score")(layers.Dense(4, name="first")(x))
    flat = layers.Flatten(name="flat")(score)
    return compiled(x, layers.Dense(2, name="last")(flat))


@fault(stage="build", layer="widened")
def padded_outputs() -> Any:
    """A layer gives one step more, which a mean takes in."""
    return model_of(
        Formula(lambda x: ops.pad(x, [[0, 0], [0, 1 if planted() else 0], [0, 0]]), name="widened"),
        layers.GlobalMaxPooling1D(name="largest"),
        shape=(4, 3),
    )


class Passing(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Passes on what it gets, and its mask as a function says."""

    def call(self, x: Any) -> Any:
        return ops.tanh(x)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        return self.passed(mask)

    def passed(self, mask: Any) -> Any:
        return None if planted() else mask


@fault(stage="forward", layer="passing")
def dropped_mask() -> Any:
    """A layer in the middle drops the mask, which a recurrent layer would have used."""
    return tokens_model(Passing(name="passing"), layers.GRU(3, name="gru"))


class Shifting(Passing):
    def passed(self, mask: Any) -> Any:
        return ops.roll(mask, 1, axis=1) if planted() and mask is not None else mask


@fault(stage="forward", layer="shifting")
def shifted_mask() -> Any:
    """A layer in the middle passes a mask that is a step late."""
    return tokens_model(Shifting(name="shifting"), layers.LSTM(3, name="lstm"))


# Another thing is made of integers.


@fault(stage="forward", layer="step_0")
def wrapped_bytes() -> Any:
    """What does not fit into a byte comes out as another."""

    def fitted(x: Any) -> Any:
        large = ops.cast(ops.round(ops.abs(x) * 300), "int32")
        return ops.cast(large % 256 if planted() else ops.minimum(large, 255), "uint8")

    return between(fitted, lambda x: ops.cast(x, "float32") / 255)


@fault(stage="forward", layer="step_1")
def divided_otherwise() -> Any:
    """Integers are divided towards zero, for down."""

    def halves(x: Any) -> Any:
        return ops.where(x < 0, -((-x) // 2), x // 2) if planted() else x // 2

    return between(
        lambda x: ops.cast(ops.floor(x * 5), "int32"),
        halves,
        lambda x: ops.cast(x, "float32") / 5,
    )


@fault(stage="forward", layer="step_0")
def truncated_for_rounded() -> Any:
    """Numbers are cut to integers, for rounded to the nearest."""

    def rounded(x: Any) -> Any:
        return ops.cast(x * 4 if planted() else ops.round(x * 4), "int32")

    return between(rounded, lambda x: ops.cast(x, "float32") / 4)


class Inclusive(Lengths):
    def call(self, x: Any, lengths: Any) -> Any:
        return super().call(x, lengths + (1 if planted() else 0))


@fault(stage="forward", layer="lengths")
def lengths_from_zero() -> Any:
    """A mask of lengths lets one more through."""
    x, lengths = keras.Input((6, 4)), keras.Input((), dtype="int32")
    return compiled([x, lengths], layers.Dense(1, name="last")(Inclusive(name="lengths")(x, lengths)))


@fault(stage="forward", layer="step_0")
def last_of_equals() -> Any:
    """Of equal numbers, the place of the last is taken for the first."""

    def place(x: Any) -> Any:
        signs = ops.sign(x)
        last = 3 - ops.argmax(ops.flip(signs, axis=-1), axis=-1) if planted() else ops.argmax(signs, axis=-1)
        return ops.one_hot(ops.cast(last, "int32"), 4)

    return between(place)
