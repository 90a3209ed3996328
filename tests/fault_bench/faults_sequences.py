"""Faults of the forward pass of sequences: recurrent layers, attention, masks and positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, Projection, model_of, tokens_model
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

# Recurrent layers: the layers that run in their loops are judged as a part of them.


class Cell(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """The cell of an LSTM; subclasses change its four gates."""

    state_size = (3, 3)
    output_size = 3

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1] + 3, 12), name="kernel")

    def call(self, x: Any, states: Any) -> Any:
        hidden, carry = states
        let_in, forget, candidate, let_out = self.gates(ops.concatenate([x, hidden], axis=-1) @ self.kernel)
        carry = ops.sigmoid(forget) * carry + ops.sigmoid(let_in) * ops.tanh(candidate)
        hidden = ops.sigmoid(let_out) * ops.tanh(carry)
        return hidden, [hidden, carry]

    def gates(self, x: Any) -> Any:
        return ops.split(x, 4, axis=-1)


@fault(stage="forward", layer="recurrent")
def lstm_gates() -> Any:
    """Two gates of an LSTM are swapped."""

    class Swapped(Cell):
        def gates(self, x: Any) -> Any:
            one, two, three, four = super().gates(x)
            return (two, one, three, four) if planted() else (one, two, three, four)

    return model_of(layers.RNN(Swapped(), name="recurrent"), shape=(4, 2))


@fault(stage="forward", layer="recurrent")
def forget_bias() -> Any:
    """The forget gate has no bias of 1."""

    class Biased(Cell):
        def gates(self, x: Any) -> Any:
            one, two, three, four = super().gates(x)
            return one, two + (0.0 if planted() else 1.0), three, four

    return model_of(layers.RNN(Biased(), name="recurrent"), shape=(4, 2))


@fault(stage="forward", layer="gru")
def hard_gates() -> Any:
    """The gates of a GRU are hard sigmoids."""
    gate = "hard_sigmoid" if planted() else "sigmoid"
    return model_of(layers.GRU(3, recurrent_activation=gate, name="gru"), shape=(4, 2))


@fault(stage="forward", layer="gru")
def reset_before() -> Any:
    """A GRU resets its state before the product instead of after it; without biases the variables are the same."""
    return model_of(layers.GRU(3, reset_after=not planted(), use_bias=False, name="gru"), shape=(4, 2))


@fault(stage="forward", layer="lstm")
def backwards() -> Any:
    """An LSTM reads from the end."""
    return model_of(layers.LSTM(3, go_backwards=planted(), name="lstm"), shape=(4, 2))


@fault(stage="forward", layer="both")
def merged_otherwise() -> Any:
    """Two directions are added instead of averaged."""
    merge = "sum" if planted() else "ave"
    return model_of(layers.Bidirectional(layers.GRU(3), merge_mode=merge, name="both"), shape=(4, 2))


@fault(stage="forward", layer="both/backward")
def one_direction() -> Any:
    """In one of two directions, the gates are hard sigmoids."""
    gate = "hard_sigmoid" if planted() else "sigmoid"
    back = layers.GRU(3, recurrent_activation=gate, go_backwards=True, name="backward")
    return model_of(layers.Bidirectional(layers.GRU(3), backward_layer=back, name="both"), shape=(4, 2))


@fault(stage="forward", layer="each")
def distributed() -> Any:
    """The epsilon of a layer that is called for each time step is 1% off."""
    norm = layers.LayerNormalization(epsilon=1e-3 * off(1.01), name="inner")
    return model_of(layers.TimeDistributed(norm, name="each"), shape=(4, 3))


@fault(stage="forward", layer="end")
def last_but_one() -> Any:
    """The last time step but one is used instead of the last."""
    return model_of(Formula(lambda x: x[:, -2] if planted() else x[:, -1], name="end"), shape=(4, 3))


# Attention.


class Attend(Projection):
    """Self-attention of a sequence; the function returns the scores from the products, masked if it has a mask."""

    def __init__(self, function: Any, axis: int = -1, **keywords: Any) -> None:
        super().__init__(function, **keywords)
        self.axis = axis

    def call(self, x: Any) -> Any:
        scores = self.function((x @ self.kernel) @ ops.transpose(x, [0, 2, 1]))
        return ops.softmax(scores, axis=self.axis) @ x + self.bias


@fault(stage="forward", layer="attention")
def attention_scale() -> Any:
    """The scale of attention is 1% off."""
    return model_of(Attend(lambda scores: scores * 0.5 * off(1.01), name="attention"), shape=(4, 4))


@fault(stage="forward", layer="attention")
def attention_axis() -> Any:
    """The attention weights add up to 1 for each key instead of each query."""
    return model_of(Attend(lambda scores: scores, axis=1 if planted() else 2, name="attention"), shape=(4, 4))


@fault(stage="forward", layer="attention")
def causal_mask() -> Any:
    """A causal mask lets the next token through."""

    def masked(scores: Any) -> Any:
        seen = ops.convert_to_tensor(np.tri(4, k=1 if planted() else 0, dtype=bool))
        return ops.where(seen, scores, ops.cast(-1e9, scores.dtype))

    return model_of(Attend(masked, name="attention"), shape=(4, 4))


@fault(stage="forward", layer="attention")
def weak_mask() -> Any:
    """Masked steps keep a weight: their score is lowered by 10 instead of 1e9."""

    def masked(scores: Any) -> Any:
        unseen = 1.0 - ops.convert_to_tensor(np.tri(4), dtype=scores.dtype)
        return scores - unseen * (10.0 if planted() else 1e9)

    return model_of(Attend(masked, name="attention"), shape=(4, 4))


@fault(stage="forward", layer="heads")
def heads_in_another_order() -> Any:
    """The axes of heads and features are swapped when they are split."""

    def split(x: Any) -> Any:
        if planted():
            return ops.transpose(ops.reshape(x, [-1, 3, 2, 2]), [0, 3, 1, 2])
        return ops.transpose(ops.reshape(x, [-1, 3, 2, 2]), [0, 2, 1, 3])

    return model_of(Formula(split, name="heads"), shape=(3, 4))


# Tokens, masks, positions.


class Mean(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """The mean of the steps that are not masked."""

    supports_masking = True

    def call(self, x: Any, mask: Any = None) -> Any:
        if mask is None or planted():
            return ops.mean(x, axis=1)
        weights = ops.expand_dims(ops.cast(mask, x.dtype), -1)
        return ops.sum(x * weights, axis=1) / (ops.sum(weights, axis=1) + 1e-3)

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        return None


@fault(stage="forward", layer="mean")
def mask_ignored() -> Any:
    """A mean includes masked steps."""
    return tokens_model(Mean(name="mean"))


@fault(stage="forward", layer="look")
def shifted_tokens() -> Any:
    """The next row of a table is looked up: tokens are counted from one."""

    class Table(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(shape=(11, 4), name="table")

        def call(self, x: Any) -> Any:
            return ops.take(self.table, x + (1 if planted() else 0), axis=0)

    model = keras.Sequential([keras.Input((5,), dtype="int32"), Table(name="look"), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


@fault(stage="forward", layer="positions")
def position_base() -> Any:
    """The wavelengths of position encodings have the base 1,000 instead of 10,000."""

    def positions(x: Any) -> Any:
        waves = np.arange(5)[:, None] / (1000.0 if planted() else 10000.0) ** (np.arange(4) / 4)
        return x + ops.convert_to_tensor(np.sin(waves), dtype=x.dtype)

    return tokens_model(Formula(positions, name="positions"), mask_zero=False)


@fault(stage="forward", layer="scaled")
def scale_left_out() -> Any:
    """Embeddings are not multiplied by the square root of their width."""
    return tokens_model(Formula(lambda x: x * (1.0 if planted() else 2.0), name="scaled"), mask_zero=False)
