"""Faults of dtypes, shapes and masks: a layer's outputs have another one, or it computes differently with integers."""

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


# Outputs have another dtype, and the layers behind accept any.


@fault(stage="forward", layer="cast")
def half_outputs() -> Any:
    """A layer gives float16."""
    return model_of(Formula(lambda x: ops.cast(x, "float16") if planted() else x * 1, name="cast"))


@fault(stage="forward", layer="level_2/level_1/cast")
def half_outputs_two_deep() -> Any:
    """A layer gives bfloat16, two layers deep; the layers around it cast back."""

    class Cast(Formula):
        def call(self, x: Any) -> Any:
            return ops.cast(x, "bfloat16") if planted() else x * 1

    return model_of(nested(Cast(lambda x: x, name="cast"), 2))


@fault(stage="build", layer="last")
def half_predictions() -> Any:
    """The model's own output is float16."""
    end = Formula(lambda x: ops.cast(x, "float16") if planted() else x * 1, name="last")
    return model_of(layers.Dense(2, name="hidden"), end, last=False)


@fault(stage="forward", layer="step_0")
def integer_outputs() -> Any:
    """A layer gives integers where others give rounded floats."""

    def rounded(x: Any) -> Any:
        return ops.cast(ops.round(x * 3), "int32") if planted() else ops.round(x * 3)

    return between(rounded, lambda x: ops.cast(x, "float32") / 3)


@fault(stage="forward", layer="step_0")
def truth_outputs() -> Any:
    """A layer gives booleans instead of zeros and ones."""
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
    """A layer drops an axis of size one, and broadcasting hides it."""
    x = keras.Input((1, 4))
    score = Formula(lambda x: x[:, 0] if planted() else x * 1, name="score")(layers.Dense(4, name="first")(x))
    flat = layers.Flatten(name="flat")(score)
    return compiled(x, layers.Dense(2, name="last")(flat))


@fault(stage="build", layer="widened")
def padded_outputs() -> Any:
    """A layer gives one more step, which the pooling behind it takes in."""
    return model_of(
        Formula(lambda x: ops.pad(x, [[0, 0], [0, 1 if planted() else 0], [0, 0]]), name="widened"),
        layers.GlobalMaxPooling1D(name="largest"),
        shape=(4, 3),
    )


class Passing(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Passes on tanh of its inputs, and its mask as `passed` returns it."""

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
    """A layer in the middle passes on a mask that is a step late."""
    return tokens_model(Shifting(name="shifting"), layers.LSTM(3, name="lstm"))


# Integers are computed differently.


@fault(stage="forward", layer="step_0")
def wrapped_bytes() -> Any:
    """Numbers that do not fit into a byte wrap around instead of being cut off."""

    def fitted(x: Any) -> Any:
        large = ops.cast(ops.round(ops.abs(x) * 300), "int32")
        return ops.cast(large % 256 if planted() else ops.minimum(large, 255), "uint8")

    return between(fitted, lambda x: ops.cast(x, "float32") / 255)


@fault(stage="forward", layer="step_1")
def divided_otherwise() -> Any:
    """Integer division rounds towards zero instead of down."""

    def halves(x: Any) -> Any:
        return ops.where(x < 0, -((-x) // 2), x // 2) if planted() else x // 2

    return between(
        lambda x: ops.cast(ops.floor(x * 5), "int32"),
        halves,
        lambda x: ops.cast(x, "float32") / 5,
    )


@fault(stage="forward", layer="step_0")
def truncated_for_rounded() -> Any:
    """Numbers are truncated to integers instead of rounded to the nearest."""

    def rounded(x: Any) -> Any:
        return ops.cast(x * 4 if planted() else ops.round(x * 4), "int32")

    return between(rounded, lambda x: ops.cast(x, "float32") / 4)


class Inclusive(Lengths):
    def call(self, x: Any, lengths: Any) -> Any:
        return super().call(x, lengths + (1 if planted() else 0))


@fault(stage="forward", layer="lengths")
def lengths_from_zero() -> Any:
    """A mask made of lengths lets one more step through."""
    x, lengths = keras.Input((6, 4)), keras.Input((), dtype="int32")
    return compiled([x, lengths], layers.Dense(1, name="last")(Inclusive(name="lengths")(x, lengths)))


@fault(stage="forward", layer="step_0")
def last_of_equals() -> Any:
    """Of equal numbers, argmax gives the index of the last instead of the first."""

    def place(x: Any) -> Any:
        signs = ops.sign(x)
        last = 3 - ops.argmax(ops.flip(signs, axis=-1), axis=-1) if planted() else ops.argmax(signs, axis=-1)
        return ops.one_hot(ops.cast(last, "int32"), 4)

    return between(place)
