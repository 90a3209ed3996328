"""The gradient path `grad`: `jax.value_and_grad` of a pure function, and an optax update.

The parameters are a dictionary of arrays. Arrays are immutable, so each step returns a new dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlf.backend.protocol import Batch, Loss, Parameters
from dlf_jax import training_loop

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

Tensors: TypeAlias = dict[str, jax.Array]


def start(parameters: Parameters, problem: str = "") -> Tensors:  # noqa: ARG001 - other paths make a module of it.
    """Returns the parameters as JAX arrays."""
    return {name: jnp.asarray(value) for name, value in parameters.items()}


def read(parameters: Tensors) -> dict[str, np.ndarray]:
    """Returns the parameters by name, as NumPy arrays."""
    return {name: np.asarray(value) for name, value in parameters.items()}


def line_loss(parameters: Parameters, batch: Batch) -> jax.Array:
    """Returns the mean squared error of ``w x + b``, for x and y of shape ``(m,)``."""
    x, y = batch
    prediction = parameters["w"] * x + parameters["b"]
    return jnp.mean((prediction - y) ** 2)


def mlp_loss(parameters: Parameters, batch: Batch) -> jax.Array:
    """Returns the mean cross-entropy of the lab's MLP, for x of shape ``(m, features)`` and labels ``(m,)``."""
    x, labels = batch
    hidden = jax.nn.relu(x @ parameters["hidden/kernel"] + parameters["hidden/bias"])
    logits = hidden @ parameters["logits/kernel"] + parameters["logits/bias"]
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def loss_and_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> tuple[jax.Array, Tensors]:
    """Returns the loss and its gradient with respect to each parameter."""
    value, gradients = jax.value_and_grad(loss)(start(parameters), _tensors(batch))
    return value, gradients


def apply(parameters: Parameters, gradients: Parameters, learning_rate: float) -> Tensors:
    """Returns the parameters after one step of gradient descent."""
    values = start(parameters)
    optimizer = optax.sgd(learning_rate)
    updates, _ = optimizer.update(start(gradients), optimizer.init(values))
    updated: Tensors = optax.apply_updates(values, updates)
    return updated


def step(loss: Loss, parameters: Tensors, batch: Batch, learning_rate: float) -> tuple[jax.Array, Tensors]:
    """Returns the loss, and the parameters after one step."""
    value, gradients = loss_and_gradients(loss, parameters, batch)
    return value, apply(parameters, gradients, learning_rate)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of ``(loss, parameters, batch, ...)``, compiled by XLA with the loss as a constant."""
    return jax.jit(function, static_argnums=0)


def hessian_vector_product(loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters) -> Tensors:
    """Returns the Hessian times a vector, by forward-mode differentiation of the gradient."""
    tensors = _tensors(batch)

    def gradient(values: Tensors) -> Tensors:
        return jax.grad(loss)(values, tensors)

    _, product = jax.jvp(gradient, (start(parameters),), (start(vector),))
    return product


def per_example_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> Tensors:
    """Returns the gradients of the loss of each example, stacked along a new first axis."""
    alone = jax.tree.map(lambda part: part[:, None], _tensors(batch))
    gradients: Tensors = jax.vmap(jax.grad(loss), in_axes=(None, 0))(start(parameters), alone)
    return gradients


def _tensors(batch: Batch) -> Any:
    return jax.tree.map(jnp.asarray, batch)
