"""Fit the line y = w·x + b by minibatch SGD, with torch.autograd.

The maths of one step, on a minibatch of m examples, at learning rate η:

    x, y            (m,)    inputs and targets
    w, b            ()      the parameters
    prediction      p = w·x + b                      (m,)
    loss            L = 1/m Σ (p_i - y_i)²           ()
    gradients       ∂L/∂w = 2/m Σ (p_i - y_i)·x_i    ()
                    ∂L/∂b = 2/m Σ (p_i - y_i)        ()
    update          w ← w - η·∂L/∂w,  b ← b - η·∂L/∂b

Who finds the gradients: the loss itself, which remembers the operations that made it, back to w and b.

Run it: python examples/line_autograd.py --steps 200 --learning-rate 0.1 --seed 0
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from line_closed_form import Fit, Line, Problem, arguments, make_problem, minibatches, report

Tensor: TypeAlias = torch.Tensor
Parameters: TypeAlias = tuple[Tensor, Tensor]
Gradients: TypeAlias = tuple[Tensor, Tensor]


def start() -> Parameters:
    """Return w = 0 and b = 0, each of shape ()."""
    return torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)


def predict(parameters: Parameters, x: Tensor) -> Tensor:
    """Return w·x + b, of shape (m,)."""
    w, b = parameters
    return w * x + b


def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error, of shape ()."""
    return torch.mean((predict(parameters, x) - y) ** 2)


def loss_and_gradients(parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Gradients]:
    """Return the loss, and its gradients by w and by b."""
    value = loss(parameters, x, y)
    by_w, by_b = torch.autograd.grad(value, parameters)
    return value.detach(), (by_w, by_b)


def apply(parameters: Parameters, gradients: Gradients, learning_rate: float) -> Parameters:
    """Return the parameters after one step against the gradients."""
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(learning_rate * gradient)
    return parameters


def train(problem: Problem, steps: int, learning_rate: float) -> Fit:
    """Return the line that SGD finds, and what it saw on the first minibatch and on the last."""
    parameters = start()
    seen = []
    for x, y in minibatches(problem, steps):
        value, gradients = loss_and_gradients(parameters, torch.from_numpy(x), torch.from_numpy(y))
        parameters = apply(parameters, gradients, learning_rate)
        # Kept as tensors: turning each into a Python number here would make every step wait for the device.
        seen.append((value, gradients))
    (first_loss, (by_w, by_b)), (last_loss, _) = seen[0], seen[-1]
    w, b = (parameter.detach() for parameter in parameters)
    return Fit(Line(float(w), float(b)), Line(float(by_w), float(by_b)), float(first_loss), float(last_loss))


def main(argv: Sequence[str] | None = None) -> Fit:
    """Train, print what was found next to the closed form, and return it."""
    options = arguments(argv, "Fit the line y = w*x + b by minibatch SGD with torch.autograd.")
    problem = make_problem(options.seed)
    fit = train(problem, options.steps, options.learning_rate)
    report("torch.autograd", fit, problem, options)
    return fit


if __name__ == "__main__":
    main()
