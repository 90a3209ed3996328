"""The gradient path `tape`: `tf.GradientTape` records the operations, and differentiates them in reverse order.

The parameters are a dictionary of variables, and a step changes them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from dlf.backend.protocol import Batch, Loss, Parameters
from dlf.utils.trees import mapped
from dlf_tensorflow import training_loop

__all__ = [
    "apply",
    "compiled",
    "hessian_vector_product",
    "line_loss",
    "loss_and_gradients",
    "mlp_loss",
    "per_example_gradients",
    "read",
    "start",
    "step",
    "training_loop",
]

Tensors: TypeAlias = dict[str, tf.Tensor]
Variables: TypeAlias = dict[str, tf.Variable]


def start(parameters: Parameters, problem: str = "") -> Variables:  # noqa: ARG001 - other paths make a module of it.
    """Returns the parameters as TensorFlow variables; values that are variables already are not copied."""
    return {name: value if isinstance(value, tf.Variable) else tf.Variable(value) for name, value in parameters.items()}


def read(parameters: Variables) -> dict[str, np.ndarray]:
    """Returns the parameters by name, as NumPy arrays."""
    return {name: variable.numpy() for name, variable in parameters.items()}


def line_loss(parameters: Parameters, batch: Batch) -> tf.Tensor:
    """Returns the mean squared error of ``w x + b``, for x and y of shape ``(m,)``."""
    x, y = batch
    prediction = parameters["w"] * x + parameters["b"]
    return tf.reduce_mean((prediction - y) ** 2)


def mlp_loss(parameters: Parameters, batch: Batch) -> tf.Tensor:
    """Returns the mean cross-entropy of the lab's MLP, for x of shape ``(m, features)`` and labels ``(m,)``."""
    x, labels = batch
    hidden = tf.nn.relu(x @ parameters["hidden/kernel"] + parameters["hidden/bias"])
    logits = hidden @ parameters["logits/kernel"] + parameters["logits/bias"]
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def loss_and_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> tuple[tf.Tensor, Tensors]:
    """Returns the loss and its gradient with respect to each parameter."""
    variables = start(parameters)
    with tf.GradientTape() as tape:
        value = loss(variables, _tensors(batch))
    # Without "zero", a variable that the loss does not depend on has the gradient None.
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    return value, _whole(gradients)


def apply(parameters: Parameters, gradients: Parameters, learning_rate: float) -> Variables:
    """Changes the parameters by one step of gradient descent, and returns them."""
    variables = start(parameters)
    for name, variable in variables.items():
        variable.assign_sub(learning_rate * gradients[name])
    return variables


def step(loss: Loss, parameters: Variables, batch: Batch, learning_rate: float) -> tuple[tf.Tensor, Variables]:
    """Returns the loss, and the parameters after one step."""
    value, gradients = loss_and_gradients(loss, parameters, batch)
    return value, apply(parameters, gradients, learning_rate)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of ``(loss, parameters, batch, ...)``, compiled to a graph with the loss as a constant."""
    graph = tf.function(function)

    def call(loss: Loss, parameters: Variables, *rest: Any) -> Any:
        result = graph(loss, parameters, *rest)
        # A graph returns tensors in place of variables; the variables that a step has changed are the arguments.
        return (result[0], parameters) if function is step else result

    return call


def hessian_vector_product(loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters) -> Tensors:
    """Returns the Hessian times a vector, by a second tape around the first."""
    variables = start(parameters)
    with tf.GradientTape() as outer:
        _, gradients = loss_and_gradients(loss, variables, batch)
    tensors = {name: tf.convert_to_tensor(value) for name, value in vector.items()}
    return _whole(outer.gradient(gradients, variables, tensors, unconnected_gradients="zero"))


def per_example_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> Tensors:
    """Returns the gradients of the loss of each example, stacked along a new first axis."""
    variables = start(parameters)
    alone = tf.nest.map_structure(lambda part: part[:, None], _tensors(batch))
    # `tf.vectorized_map` would be faster. But it turns a float32 product of ranks 3 and 2, as in attention, into one of
    # ranks 4 and 3, which on CPUs writes beyond its memory: https://github.com/tensorflow/tensorflow/issues/117700
    gradients: Tensors = tf.map_fn(
        lambda example: loss_and_gradients(loss, variables, example)[1],
        alone,
        fn_output_signature={name: variable.dtype for name, variable in variables.items()},
    )
    return gradients


def _whole(gradients: dict[str, Any]) -> Tensors:
    # The gradient of a table with lookups, such as an embedding, is a tf.IndexedSlices with the used rows alone.
    return {name: tf.convert_to_tensor(gradient) for name, gradient in gradients.items()}


def _tensors(batch: Batch) -> Any:
    return mapped(tf.convert_to_tensor, batch)
