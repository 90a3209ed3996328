"""The gradient path `nnx`: `nnx.value_and_grad` of a module, and an `nnx.Optimizer`.

The parameters are the `nnx.Param` variables of a module, and a step changes them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dlf.backend.protocol import Batch, Loss, Parameters
from dlf_jax import nnx_training_loop as training_loop

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


class Named(nnx.Module):  # type: ignore[misc]  # flax is not looked into, so its classes are `Any`.
    """A module that only holds parameters, by name."""

    def __init__(self, parameters: Parameters) -> None:
        self.named = nnx.Dict({name: nnx.Param(jnp.asarray(value)) for name, value in parameters.items()})


class Line(nnx.Module):  # type: ignore[misc]  # As above.
    """The line ``w x + b``."""

    def __init__(self) -> None:
        self.w, self.b = nnx.Param(jnp.zeros(())), nnx.Param(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.w * x + self.b


class MLP(nnx.Module):  # type: ignore[misc]  # As above.
    """The lab's MLP."""

    def __init__(self, features: int, width: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(features, width, rngs=rngs)
        self.logits = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.logits(nnx.relu(self.hidden(x)))


def start(parameters: Parameters, problem: str = "") -> nnx.Module:
    """Returns a module that holds the parameters."""
    if isinstance(parameters, nnx.Module):
        return parameters
    if problem == "line":
        return _filled(Line(), parameters)
    if problem == "mlp":
        sizes = (*parameters["hidden/kernel"].shape, parameters["logits/bias"].size)
        return _filled(MLP(*sizes, rngs=nnx.Rngs(0)), parameters)
    return Named(parameters)


def read(parameters: nnx.Module) -> dict[str, np.ndarray]:
    """Returns the parameters by name, as NumPy arrays."""
    return {name: np.asarray(value) for name, value in _by_name(nnx.state(parameters, nnx.Param)).items()}


def line_loss(model: Line, batch: Batch) -> jax.Array:
    """Returns the mean squared error of ``w x + b``, for x and y of shape ``(m,)``."""
    x, y = batch
    prediction = model(x)
    return jnp.mean((prediction - y) ** 2)


def mlp_loss(model: MLP, batch: Batch) -> jax.Array:
    """Returns the mean cross-entropy of the lab's MLP, for x of shape ``(m, features)`` and labels ``(m,)``."""
    x, labels = batch
    logits = model(x)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))


def loss_and_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> tuple[jax.Array, Tensors]:
    """Returns the loss and its gradient with respect to each parameter."""
    value, gradients = nnx.value_and_grad(_of_module(loss))(start(parameters), _tensors(batch))
    return value, _by_name(gradients)


def apply(parameters: Parameters, gradients: Parameters, learning_rate: float) -> Any:
    """Changes the parameters by one step of gradient descent; returns them as a module if given one, else by name."""
    model = start(parameters)
    optimizer = nnx.Optimizer(model, optax.sgd(learning_rate), wrt=nnx.Param)
    optimizer.update(model, _in_place_of(nnx.state(model, nnx.Param), gradients))
    return model if model is parameters else _by_name(nnx.state(model, nnx.Param))


def step(loss: Loss, parameters: Any, batch: Batch, learning_rate: float) -> tuple[jax.Array, Any]:
    """Returns the loss, and the parameters after one step."""
    value, gradients = loss_and_gradients(loss, parameters, batch)
    return value, apply(parameters, gradients, learning_rate)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of ``(loss, parameters, batch, ...)``, compiled by XLA with the loss as a constant."""
    return nnx.jit(function, static_argnums=0)


def hessian_vector_product(loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters) -> Tensors:
    """Returns the Hessian times a vector, by forward-mode differentiation of the gradient."""
    graph, values, rest = nnx.split(start(parameters), nnx.Param, ...)
    tensors = _tensors(batch)

    def gradient(values: nnx.State) -> nnx.State:
        return nnx.grad(_of_module(loss))(nnx.merge(graph, values, rest), tensors)

    _, product = jax.jvp(gradient, (values,), (_in_place_of(values, vector),))
    return _by_name(product)


def per_example_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> Tensors:
    """Returns the gradients of the loss of each example, stacked along a new first axis."""
    alone = jax.tree.map(lambda part: part[:, None], _tensors(batch))
    return _by_name(nnx.vmap(nnx.grad(_of_module(loss)), in_axes=(None, 0))(start(parameters), alone))


def _of_module(loss: Loss) -> Callable[[nnx.Module, Batch], Any]:
    """Returns the loss as a function of a module; for a `Named` module, the loss gets the parameters by name."""

    def compute(module: nnx.Module, batch: Batch) -> Any:
        return loss(_by_name(nnx.state(module)) if isinstance(module, Named) else module, batch)

    return compute


def _filled(model: nnx.Module, parameters: Parameters) -> nnx.Module:
    nnx.update(model, _in_place_of(nnx.state(model, nnx.Param), parameters))
    return model


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path[1:] if path[0] == "named" else path))


def _by_name(state: nnx.State) -> Tensors:
    return {_name(path): variable[...] for path, variable in nnx.to_flat_state(state)}


def _in_place_of(state: nnx.State, values: Parameters) -> nnx.State:
    """Returns a copy of the state with the values that are given by name."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state([(path, old.replace(jnp.asarray(values[_name(path)]))) for path, old in flat])


def _tensors(batch: Batch) -> Any:
    return jax.tree.map(jnp.asarray, batch)
