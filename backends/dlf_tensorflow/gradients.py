"""The path `tape`: `tf.GradientTape` records what the variables went through, and plays it backwards."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dlf.backend_protocol import Batch, Loss, Parameters

__all__ = ["TapePath"]


class TapePath:
    """The parameters are tensors that a tape watches while the loss is computed."""

    def loss_and_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Returns the loss and its derivative by each parameter."""
        values, tensors = _tensors(parameters), tf.nest.map_structure(tf.convert_to_tensor, batch)
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = loss(values, tensors)
        return value, tape.gradient(value, values)

    def apply(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> dict[str, Any]:
        """Returns the parameters after one step of gradient descent."""
        values, steps = _tensors(parameters), _tensors(gradients)
        return {name: value - learning_rate * steps[name] for name, value in values.items()}


def _tensors(parameters: Parameters) -> dict[str, tf.Tensor]:
    return {name: tf.convert_to_tensor(value) for name, value in parameters.items()}
