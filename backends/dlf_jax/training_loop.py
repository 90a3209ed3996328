"""A plain training loop for any Keras model: a call without side effects, `jax.value_and_grad`, an optax update.

Requirements:

* it can be read in one go, copied and changed: it uses nothing of dlf but what the imports show;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import keras
import optax

from dlf.utils.errors import InvalidArgumentError
from dlf_jax.optimizers import optax_for

__all__ = ["find_optimizer", "finish", "make_step", "names", "start"]

State: TypeAlias = tuple[list[jax.Array], list[jax.Array], Any]
"""The values of the trainable variables and of all others (batch statistics, seeds), and the optimizer's state."""


def find_optimizer(optimizer: Any, model: keras.Model) -> optax.GradientTransformation:
    """Returns the optax equivalent of a Keras optimizer; an optax transformation is returned unchanged."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return optax_for(optimizer, model.trainable_variables)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InvalidArgumentError(
            "optimizer", expected="an optimizer of Keras or optax, or a name of Keras's", received=optimizer
        )
    return optimizer


def start(model: keras.Model, optimizer: optax.GradientTransformation) -> State:
    """Returns the initial state."""
    # Copies, since each step donates its arrays, and the model's own must stay valid.
    trainable = [jnp.array(variable.value) for variable in model.trainable_variables]
    others = [jnp.array(variable.value) for variable in model.non_trainable_variables]
    return trainable, others, optimizer.init(trainable)


def make_step(
    model: keras.Model, loss: Callable[[Any, Any], Any] | None, optimizer: optax.GradientTransformation
) -> Callable[[State, Any, Any], tuple[State, Any, Any]]:
    """Returns the compiled training step; it returns the state, the loss, and which gradients are finite.

    Without a loss, the model's own `compute_loss` is taken.
    """

    def compute_loss(trainable: Any, others: Any, x: Any, y: Any) -> tuple[Any, Any]:
        variables = model.trainable_variables + model.non_trainable_variables
        values = list(zip(variables, trainable + others, strict=True))
        # `model.stateless_call` is shorter, but bypasses `Layer.__call__`: in a model whose `call` has no argument
        # `training`, dropout would be off, and a layer that is called twice would lose the losses of its first call.
        with keras.StatelessScope(values, collect_losses=True) as scope:
            predictions = model(x, training=True)
            if loss:  # A layer may add a loss of each example.
                value = loss(y, predictions) + sum(map(keras.ops.sum, model.losses))
            else:
                value = model.compute_loss(x, y, predictions)
        return value, [scope.get_current_value(variable) for variable in model.non_trainable_variables]

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, x: Any, y: Any) -> tuple[State, Any, Any]:
        trainable, others, memory = state
        value_and_grad = jax.value_and_grad(compute_loss, has_aux=True)
        (value, others), gradients = value_and_grad(trainable, others, x, y)
        updates, memory = optimizer.update(gradients, memory, trainable)
        trainable = [
            value if variable.constraint is None else variable.constraint(value)
            for variable, value in zip(model.trainable_variables, optax.apply_updates(trainable, updates), strict=True)
        ]
        # If an element is not finite, the sum is not finite either.
        finite = jnp.stack([jnp.isfinite(jnp.sum(gradient)) for gradient in gradients])
        return (trainable, others, memory), value, finite

    return step


def names(model: keras.Model, state: State) -> list[str]:  # noqa: ARG001 - of the model alone.
    """Returns the names of the trainable variables, in the order of the step's `finite`."""
    return [variable.path for variable in model.trainable_variables]


def finish(model: keras.Model, state: State) -> None:
    """Writes the trained values into the model."""
    trainable, others, _ = state
    for variables, values in ((model.trainable_variables, trainable), (model.non_trainable_variables, others)):
        for variable, value in zip(variables, values, strict=True):
            # A copy, since a further step would donate the array.
            variable.assign(jnp.array(value))
