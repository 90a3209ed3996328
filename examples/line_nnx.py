"""Fit the line y = w·x + b by minibatch SGD, with Flax NNX.

The maths of one step, on a minibatch of m examples, at learning rate η:

    x, y            (m,)    inputs and targets
    w, b            ()      the parameters
    prediction      p = w·x + b                      (m,)
    loss            L = 1/m Σ (p_i - y_i)²           ()
    gradients       ∂L/∂w = 2/m Σ (p_i - y_i)·x_i    ()
                    ∂L/∂b = 2/m Σ (p_i - y_i)        ()
    update          w ← w - η·∂L/∂w,  b ← b - η·∂L/∂b

Who finds the gradients: a transformation of `loss`, which is given a module and knows its variables by their type.

Run it: python examples/line_nnx.py --steps 200 --learning-rate 0.1 --seed 0
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from line_closed_form import Fit, Line, Problem, arguments, make_problem, minibatches, report

Tensor: TypeAlias = jax.Array
Parameters: TypeAlias = nnx.Module
Gradients: TypeAlias = nnx.State


class Weights(nnx.Module):  # type: ignore[misc]  # flax is not looked into, so its classes are `Any`.
    """The two parameters, which a step changes in place."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        self.w, self.b = nnx.Param(w), nnx.Param(b)


def start() -> Parameters:
    """Return w = 0 and b = 0, each of shape ()."""
    return Weights(jnp.float32(0.0), jnp.float32(0.0))


def predict(parameters: Parameters, x: Tensor) -> Tensor:
    """Return w·x + b, of shape (m,)."""
    return parameters.w * x + parameters.b


def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error, of shape ()."""
    return jnp.mean((predict(parameters, x) - y) ** 2)


@nnx.jit
def loss_and_gradients(parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Gradients]:
    """Return the loss, and its gradients by w and by b."""
    value, gradients = nnx.value_and_grad(loss)(parameters, x, y)
    return value, gradients


@nnx.jit
def apply(parameters: Parameters, gradients: Gradients, learning_rate: float) -> Parameters:
    """Return the parameters after one step against the gradients."""
    optimizer = nnx.Optimizer(parameters, optax.sgd(learning_rate), wrt=nnx.Param)
    # Plain SGD remembers nothing: with momentum, the optimizer would have to live from step to step.
    optimizer.update(parameters, gradients)
    return parameters


def train(problem: Problem, steps: int, learning_rate: float) -> Fit:
    """Return the line that SGD finds, and what it saw on the first minibatch and on the last."""
    parameters = start()
    seen = []
    for x, y in minibatches(problem, steps):
        value, gradients = loss_and_gradients(parameters, jnp.asarray(x), jnp.asarray(y))
        parameters = apply(parameters, gradients, learning_rate)
        # Kept as tensors: turning each into a Python number here would make every step wait for the device.
        seen.append((value, gradients))
    (first_loss, by), (last_loss, _) = seen[0], seen[-1]
    w, b, by_w, by_b = (each[...] for each in (parameters.w, parameters.b, by["w"], by["b"]))
    return Fit(Line(float(w), float(b)), Line(float(by_w), float(by_b)), float(first_loss), float(last_loss))


def main(argv: Sequence[str] | None = None) -> Fit:
    """Train, print what was found next to the closed form, and return it."""
    options = arguments(argv, "Fit the line y = w*x + b by minibatch SGD with Flax NNX.")
    problem = make_problem(options.seed)
    fit = train(problem, options.steps, options.learning_rate)
    report("Flax NNX", fit, problem, options)
    return fit


if __name__ == "__main__":
    main()
