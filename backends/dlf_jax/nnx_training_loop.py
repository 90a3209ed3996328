"""A plain training loop for any Keras model as a Flax NNX module: `nnx.value_and_grad` and an `nnx.Optimizer`.

Requirements:

* it can be read in one go, copied and changed: it uses nothing of dlf but what the imports show;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import keras
import optax
from flax import nnx

from dlf.utils.errors import InvalidArgumentError
from dlf_jax import training_loop
from dlf_jax.nnx_module import from_nnx, paired, to_nnx
from dlf_jax.optimizers import optax_for

__all__ = ["find_optimizer", "finish", "make_step", "names", "start"]

State: TypeAlias = tuple[nnx.Module, nnx.Optimizer]
"""The module, with its batch statistics and seeds, and the optimizer; a step changes both in place."""


def find_optimizer(optimizer: Any, model: keras.Model) -> optax.GradientTransformation:
    """Returns the optax equivalent of a Keras optimizer; an optax transformation is returned unchanged."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        # Keras's variables in place of the module's values, since `optax_for` looks up exclusions from weight decay.
        module = to_nnx(model)
        for ours, variable in paired(module):
            variable.set_value(ours)
        parameters = nnx.state(module, nnx.Param)
        leaves, structure = jax.tree.flatten(parameters, is_leaf=lambda each: isinstance(each, nnx.Variable))
        return optax_for(optimizer, structure.unflatten(each.get_value() for each in leaves))
    return training_loop.find_optimizer(optimizer, model)


def start(model: keras.Model, optimizer: optax.GradientTransformation) -> State:
    """Returns the initial state."""
    module = to_nnx(model)
    return module, nnx.Optimizer(module, optimizer, wrt=nnx.Param)


def make_step(
    model: keras.Model,  # noqa: ARG001 - the module stands for it.
    loss: Callable[[Any, Any], Any] | None,
    optimizer: optax.GradientTransformation,  # noqa: ARG001 - the state holds it.
) -> Callable[[State, Any, Any], tuple[State, Any, Any]]:
    """Returns the compiled training step; it returns the state, the loss, and which gradients are finite."""
    if loss is None:
        raise InvalidArgumentError(
            "loss",
            expected="a loss, since the model's own compute_loss reads the model and not the module",
            received=None,
            advice="Say loss=..., or take the path 'grad'.",
        )

    def compute_loss(module: nnx.Module, x: Any, y: Any) -> Any:
        predictions, extra = module(x, training=True, return_losses=True)
        return loss(y, predictions) + sum(map(keras.ops.sum, extra))

    @nnx.jit
    def update(module: nnx.Module, optimizer: nnx.Optimizer, x: Any, y: Any) -> tuple[Any, Any]:
        value, gradients = nnx.value_and_grad(compute_loss)(module, x, y)
        optimizer.update(module, gradients)
        for ours, variable in paired(module):
            if isinstance(variable, nnx.Param) and ours.constraint is not None:
                variable.set_value(ours.constraint(variable.get_value()))
        # If an element is not finite, the sum is not finite either.
        finite = jnp.stack([jnp.isfinite(jnp.sum(gradient)) for gradient in jax.tree.leaves(gradients)])
        return value, finite

    def step(state: State, x: Any, y: Any) -> tuple[State, Any, Any]:
        value, finite = update(*state, x, y)
        return state, value, finite

    return step


def names(model: keras.Model, state: State) -> list[str]:  # noqa: ARG001 - the module has its own.
    """Returns the names of the trainable variables, in the order of the step's `finite`."""
    module, _ = state
    return ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))]


def finish(model: keras.Model, state: State) -> None:  # noqa: ARG001 - the module knows where it comes from.
    """Writes the trained values into the model."""
    module, _ = state
    from_nnx(module)
