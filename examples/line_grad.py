"""Fit the line y = w·x + b by minibatch SGD, with jax.value_and_grad.

The maths of one step, on a minibatch of m examples, at learning rate η:

    x, y            (m,)    inputs and targets
    w, b            ()      the parameters
    prediction      p = w·x + b                      (m,)
    loss            L = 1/m Σ (p_i - y_i)²           ()
    gradients       ∂L/∂w = 2/m Σ (p_i - y_i)·x_i    ()
                    ∂L/∂b = 2/m Σ (p_i - y_i)        ()
    update          w ← w - η·∂L/∂w,  b ← b - η·∂L/∂b

Who finds the gradients: a transformation, which makes from the pure function `loss` one that returns gradients too.

Run it: python examples/line_grad.py --steps 200 --learning-rate 0.1 --seed 0
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from line_closed_form import Fit, Line, Problem, arguments, make_problem, minibatches, report

Tensor: TypeAlias = jax.Array
Parameters: TypeAlias = tuple[Tensor, Tensor]
Gradients: TypeAlias = tuple[Tensor, Tensor]


def start() -> Parameters:
    """Return w = 0 and b = 0, each of shape ()."""
    return jnp.float32(0.0), jnp.float32(0.0)


def predict(parameters: Parameters, x: Tensor) -> Tensor:
    """Return w·x + b, of shape (m,)."""
    w, b = parameters
    return w * x + b


def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error, of shape ()."""
    return jnp.mean((predict(parameters, x) - y) ** 2)


@jax.jit
def loss_and_gradients(parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Gradients]:
    """Return the loss, and its gradients by w and by b."""
    value, gradients = jax.value_and_grad(loss)(parameters, x, y)
    return value, gradients


@jax.jit
def apply(parameters: Parameters, gradients: Gradients, learning_rate: float) -> Parameters:
    """Return the parameters after one step against the gradients."""
    optimizer = optax.sgd(learning_rate)
    # Plain SGD remembers nothing: with momentum, the optimizer's state would be an argument and a result too.
    updates, _ = optimizer.update(gradients, optimizer.init(parameters))
    w, b = optax.apply_updates(parameters, updates)
    return w, b


def train(problem: Problem, steps: int, learning_rate: float) -> Fit:
    """Return the line that SGD finds, and what it saw on the first minibatch and on the last."""
    parameters = start()
    seen = []
    for x, y in minibatches(problem, steps):
        value, gradients = loss_and_gradients(parameters, jnp.asarray(x), jnp.asarray(y))
        parameters = apply(parameters, gradients, learning_rate)
        # Kept as tensors: turning each into a Python number here would make every step wait for the device.
        seen.append((value, gradients))
    (first_loss, (by_w, by_b)), (last_loss, _) = seen[0], seen[-1]
    w, b = parameters
    return Fit(Line(float(w), float(b)), Line(float(by_w), float(by_b)), float(first_loss), float(last_loss))


def main(argv: Sequence[str] | None = None) -> Fit:
    """Train, print what was found next to the closed form, and return it."""
    options = arguments(argv, "Fit the line y = w*x + b by minibatch SGD with jax.value_and_grad.")
    problem = make_problem(options.seed)
    fit = train(problem, options.steps, options.learning_rate)
    report("jax.value_and_grad", fit, problem, options)
    return fit


if __name__ == "__main__":
    main()
