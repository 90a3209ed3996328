"""A plain training loop for any Keras model: the model's own call under `tf.GradientTape`, and its optimizer.

Requirements:

* it can be read in one go, copied and changed: it uses nothing of dlf but what the imports show;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from dlf.utils.errors import InvalidArgumentError

__all__ = ["find_optimizer", "finish", "make_step", "names", "start"]

State: TypeAlias = None
"""None: the state is in the variables of the model and of the optimizer, which a step changes in place."""


def find_optimizer(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,  # noqa: ARG001 - other loops ask it what is to decay.
) -> keras.optimizers.Optimizer:
    """Returns the Keras optimizer unchanged: this loop uses it as it is."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InvalidArgumentError("optimizer", expected="an optimizer of Keras, or its name", received=optimizer)
    return optimizer


def start(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> State:
    """Creates the optimizer's variables."""
    optimizer.build(model.trainable_variables)


def make_step(
    model: keras.Model, loss: Callable[[Any, Any], Any] | None, optimizer: keras.optimizers.Optimizer
) -> Callable[[State, Any, Any], tuple[State, Any, Any]]:
    """Returns the compiled training step; it returns the state, the loss, and which gradients are finite.

    Without a loss, the model's own `compute_loss` is taken.
    """

    def compute_loss(x: Any, y: Any) -> Any:
        predictions = model(x, training=True)
        if not loss:
            return model.compute_loss(x, y, predictions)
        # A layer may add a loss of each example.
        return loss(y, predictions) + sum(map(keras.ops.sum, model.losses))

    @tf.function
    def step(state: State, x: Any, y: Any) -> tuple[State, Any, Any]:
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            value = compute_loss(x, y)
        gradients = tape.gradient(value, variables, unconnected_gradients="zero")
        optimizer.apply(gradients, model.trainable_variables)
        # If an element is not finite, the sum is not finite either.
        finite = tf.stack([tf.math.is_finite(tf.reduce_sum(gradient)) for gradient in gradients])
        return state, value, finite

    return step


def names(model: keras.Model, state: State) -> list[str]:  # noqa: ARG001 - of the model alone.
    """Returns the names of the trainable variables, in the order of the step's `finite`."""
    return [variable.path for variable in model.trainable_variables]


def finish(model: keras.Model, state: State) -> None:
    """Does nothing: the steps have changed the model's own variables."""
