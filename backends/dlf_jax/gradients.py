"""The path `grad`: `jax.value_and_grad` of a pure function, and an optax update."""

from __future__ import annotations

from typing import Any

import jax
import optax

from dlf.backend_protocol import Batch, Loss, Parameters

__all__ = ["GradPath"]


class GradPath:
    """The loss is a function of the parameters, and JAX transforms the function."""

    def loss_and_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Returns the loss and its derivative by each parameter."""
        value, gradients = jax.value_and_grad(loss)(_arrays(parameters), jax.tree.map(jax.numpy.asarray, batch))
        return value, gradients

    def apply(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> dict[str, Any]:
        """Returns the parameters after one step of gradient descent."""
        values = _arrays(parameters)
        optimizer = optax.sgd(learning_rate)
        updates, _ = optimizer.update(_arrays(gradients), optimizer.init(values))
        updated: dict[str, Any] = optax.apply_updates(values, updates)
        return updated


def _arrays(parameters: Parameters) -> dict[str, jax.Array]:
    return {name: jax.numpy.asarray(value) for name, value in parameters.items()}
