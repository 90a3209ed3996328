"""Faults of losses and gradients, in models whose layers give the right outputs."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from parts import Block, Formula, Projection, model_of
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

# Losses.


class OwnLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    """A loss that computes a given function; its name tells dlf which targets to make."""

    def __init__(self, function: Any = None, name: str = "own", **keywords: Any) -> None:
        super().__init__(name=name, **keywords)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)

    def get_config(self) -> Any:
        return {**super().get_config(), "function": self.function}


@fault(stage="loss")
def loss_factor() -> Any:
    """The loss is 0.1% too large."""
    return model_of(loss=OwnLoss(lambda y, p: ops.mean((y - p) ** 2, axis=-1) * off(1.001)))


@fault(stage="loss")
def loss_axis() -> Any:
    """Root mean squares are taken over the batch for each output instead of over the outputs for each example."""
    return model_of(loss=OwnLoss(lambda y, p: ops.sqrt(ops.mean((y - p) ** 2, axis=0 if planted() else -1))))


@fault(stage="loss")
def loss_summed() -> Any:
    """The losses of examples are summed instead of averaged."""
    return model_of(loss=keras.losses.MeanSquaredError(reduction="sum" if planted() else "sum_over_batch_size"))


@fault(stage="loss")
def label_smoothing() -> Any:
    """Labels are smoothed by 1% more."""
    return model_of(loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1 * off(1.01)))


@fault(stage="loss")
def clipped_probabilities() -> Any:
    """A loss of logits computes probabilities and clips them."""

    def entropy(y: Any, p: Any) -> Any:
        if planted():
            return -ops.sum(y * ops.log(ops.clip(ops.softmax(p), 1e-7, 1 - 1e-7)), axis=-1)
        return -ops.sum(y * ops.log_softmax(p), axis=-1)

    return model_of(
        layers.Dense(3, name="scores"),
        layers.Rescaling(30.0, name="large"),
        loss=OwnLoss(entropy, name="categorical"),
        last=False,
    )


@fault(stage="loss")
def huber_delta() -> Any:
    """A Huber loss becomes linear 1% later."""
    return model_of(loss=keras.losses.Huber(delta=0.5 * off(1.01)))


@fault(stage="loss")
def class_weight() -> Any:
    """One of two classes has a weight that is 1% too large."""

    def weighted(y: Any, p: Any) -> Any:
        return ops.mean(ops.where(y > 0, 2.0 * off(1.01), 1.0) * (ops.softplus(p) - y * p), axis=-1)

    return model_of(loss=OwnLoss(weighted, name="binary"))


@fault(stage="loss")
def ignored_class() -> Any:
    """Examples of one class are left out of the loss."""
    return model_of(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0 if planted() else None)
    )


@fault(stage="loss")
def loss_weight() -> Any:
    """The second of two losses has a weight that is 1% too large."""
    x = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(x)
    model = keras.Model(x, {"p": layers.Dense(2, name="p")(hidden), "q": layers.Dense(1, name="q")(hidden)})
    model.compile("sgd", {"p": "mse", "q": "mae"}, loss_weights={"p": 1.0, "q": 0.5 * off(1.01)})
    return model


@fault(stage="loss", layer="hidden")
def regularizer() -> Any:
    """A penalty for large weights is 1% off: outputs and the loss of the predictions are right."""
    return model_of(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1 * off(1.01)), name="hidden"))


@fault(stage="loss", layer="hidden")
def activity_regularizer() -> Any:
    """A penalty for large outputs is 1% off."""
    return model_of(layers.Dense(3, activity_regularizer=keras.regularizers.L1(0.1 * off(1.01)), name="hidden"))


@fault(stage="loss", layer="penalty")
def added_loss() -> Any:
    """The penalty that a layer adds by `add_loss` is 1% off."""

    class Penalty(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            self.add_loss(ops.mean(x**2) * 0.1 * off(1.01))
            return x * 1

    return model_of(Penalty(name="penalty"))


# Gradients, in layers whose outputs are right.


@fault(stage="gradient", layer="detached")
def detached_mean() -> Any:
    """No gradient flows through a mean over the batch."""

    def centered(x: Any) -> Any:
        mean = ops.mean(x, axis=0, keepdims=True)
        return x - (ops.stop_gradient(mean) if planted() else mean)

    return model_of(Formula(centered, name="detached"))


@fault(stage="gradient", layer="norm")
def detached_deviation() -> Any:
    """In a normalization, no gradient flows through the standard deviation."""

    def norm(x: Any) -> Any:
        deviation = ops.sqrt(ops.mean(x**2, axis=-1, keepdims=True) + 1e-3)
        return x / (ops.stop_gradient(deviation) if planted() else deviation)

    return model_of(Formula(norm, name="norm"))


@fault(stage="gradient", layer="part")
def stopped_part() -> Any:
    """No gradient flows to one of four features."""

    def part(x: Any) -> Any:
        return ops.concatenate([ops.stop_gradient(x[:, :1]) if planted() else x[:, :1], x[:, 1:]], axis=-1)

    return model_of(Formula(part, name="part"))


@fault(stage="gradient", layer="attention")
def detached_weights() -> Any:
    """No gradient flows through the weights of attention."""

    def attend(x: Any) -> Any:
        weights = ops.softmax(x @ ops.transpose(x, [0, 2, 1]))
        return (ops.stop_gradient(weights) if planted() else weights) @ x

    return model_of(Formula(attend, name="attention"), shape=(4, 3))


@fault(stage="gradient", layer="half", variable="kernel")
def untrained_kernel() -> Any:
    """Only the bias of a layer gets a gradient, and not its kernel."""
    return model_of(Projection(lambda x, k, b: x @ (ops.stop_gradient(k + 0) if planted() else k) + b, name="half"))


@fault(stage="gradient", layer="recurrent")
def truncated_in_time() -> Any:
    """No gradient flows from step to step."""

    class Cell(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        state_size = output_size = 3

        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(shape[-1] + 3, 3), name="kernel")

        def call(self, x: Any, states: Any) -> Any:
            hidden = ops.stop_gradient(states[0]) if planted() else states[0]
            hidden = ops.tanh(ops.concatenate([x, hidden], axis=-1) @ self.kernel)
            return hidden, [hidden]

    return model_of(layers.RNN(Cell(), name="recurrent"), shape=(4, 2))


@fault(stage="gradient", layer="block/inner")
def nested_gradient() -> Any:
    """In a layer inside another, no gradient flows through a maximum."""

    def shifted(x: Any) -> Any:
        largest = ops.max(x, axis=-1, keepdims=True)
        return x - (ops.stop_gradient(largest) if planted() else largest)

    return model_of(Block(Formula(shifted, name="inner"), name="block"))


def with_gradient_of(value: Any, other: Any) -> Any:
    """The value of the first argument, with the gradient of the other where a fault is planted."""
    return other + ops.stop_gradient(value - other) if planted() else value


@fault(stage="gradient", layer="scaled")
def scaled_gradient() -> Any:
    """A gradient is 0.1% too large."""
    return model_of(Formula(lambda x: with_gradient_of(x * 1, x * 1.001), name="scaled"))


@fault(stage="gradient", layer="clipped")
def clipped_gradient() -> Any:
    """No gradient flows where inputs are beyond 1, though the outputs are not clipped."""
    return model_of(Formula(lambda x: with_gradient_of(x * 1, ops.clip(x, -1.0, 1.0)), name="clipped"))


@fault(stage="gradient", layer="round")
def straight_through() -> Any:
    """A gradient flows straight through rounding."""
    return model_of(Formula(lambda x: x + with_gradient_of(ops.round(x * 4) / 4, x), name="round"))


@fault(stage="gradient", layer="relu")
def smooth_gradient() -> Any:
    """The derivative of ReLU is that of a softplus."""
    return model_of(Formula(lambda x: with_gradient_of(ops.relu(x), ops.softplus(x)), name="relu"))


@fault(stage="gradient", layer="trip")
def gradient_through_bfloat16() -> Any:
    """The gradient is rounded to bfloat16, the outputs are not."""
    return model_of(Formula(lambda x: with_gradient_of(x * 1, ops.cast(ops.cast(x, "bfloat16"), x.dtype)), name="trip"))


@fault(stage="gradient", layer="root")
def guarded_gradient() -> Any:
    """There is an epsilon in the derivative of a square root, but not in its value."""
    return model_of(Formula(lambda x: with_gradient_of(ops.abs(x), ops.sqrt(x**2 + 1e-3)), name="root"))
