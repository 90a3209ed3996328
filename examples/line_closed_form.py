"""Fit the line y = w·x + b in closed form, with NumPy, and state the problem that the SGD examples share.

The problem: n examples, y_i = 2·x_i - 1 + noise. Which w and b have the least mean squared error?

    x, y            (n,)    inputs and targets
    w, b            ()      the parameters
    prediction      p = w·x + b                      (n,)
    loss            L = 1/n Σ (p_i - y_i)²           ()
    gradients       ∂L/∂w = 2/n Σ (p_i - y_i)·x_i    ()
                    ∂L/∂b = 2/n Σ (p_i - y_i)        ()

At the minimum both gradients are zero. The second one then says b = mean(y) - w·mean(x); put into the first one,

    w = Σ (x_i - mean(x))·(y_i - mean(y)) / Σ (x_i - mean(x))²

Run it: python examples/line_closed_form.py --seed 0
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating[Any]]


class Line(NamedTuple):
    """A value for w and a value for b: the parameters themselves, or a gradient by them."""

    w: float
    b: float


class Fit(NamedTuple):
    """What SGD found, and what it saw on the first minibatch and on the last."""

    line: Line
    first_gradient: Line
    first_loss: float
    last_loss: float


TRUE_LINE = Line(w=2.0, b=-1.0)
NOISE = 0.3
"""The standard deviation of what is added to each y."""
EXAMPLES = 512
BATCH_SIZE = 32


@dataclass(frozen=True)
class Problem:
    """The data, in float32 so that every framework is given the same bits, and the seed that they came from."""

    x: Array
    y: Array
    seed: int


def make_problem(seed: int = 0) -> Problem:
    """Return `EXAMPLES` noisy points, x and y of shape (n,), on the true line."""
    random = np.random.default_rng([seed, 0])
    x = random.standard_normal(EXAMPLES)
    y = TRUE_LINE.w * x + TRUE_LINE.b + NOISE * random.standard_normal(EXAMPLES)
    return Problem(x.astype(np.float32), y.astype(np.float32), seed)


def minibatches(problem: Problem, steps: int) -> Iterator[tuple[Array, Array]]:
    """Yield x and y, each (m,), for every step: the same ones, in the same order, to every framework."""
    # Drawn with replacement, so that minibatches are independent: `noise_spread` has its short formula from that.
    rows = np.random.default_rng([problem.seed, 1]).integers(EXAMPLES, size=(steps, BATCH_SIZE))
    for row in rows:
        yield problem.x[row], problem.y[row]


def loss_on_paper(line: Line, x: Array, y: Array) -> float:
    """Return the mean squared error, in float64."""
    return float(np.mean((line.w * x.astype(np.float64) + line.b - y) ** 2))


def gradient_on_paper(line: Line, x: Array, y: Array) -> Line:
    """Return the two gradients as derived above, in float64."""
    error = line.w * x.astype(np.float64) + line.b - y
    return Line(w=float(2 * np.mean(error * x)), b=float(2 * np.mean(error)))


def closed_form(x: Array, y: Array) -> Line:
    """Return the line of least mean squared error, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    centred = x - x.mean()
    w = float(centred @ (y - y.mean()) / (centred @ centred))
    return Line(w, b=float(y.mean() - w * x.mean()))


def noise_spread(learning_rate: float) -> float:
    """Return how far SGD's w and b stay from the closed form: the standard deviation of each, for a small step.

    Let e (2,) be the distance from the closed form, H (2, 2) the mean of (x, 1)ᵀ(x, 1), and s the noise in y. The mean
    gradient is 2·H·e; a minibatch of m adds an error ξ of covariance 4·s²·H/m. A step does e ← e - η·(2·H·e + ξ): it
    takes 4·η·H·cov(e) away from the covariance of e, and brings η²·4·s²·H/m in. They balance where cov(e) = η·s²/m.
    """
    return NOISE * float(np.sqrt(learning_rate / BATCH_SIZE))


def arguments(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Return the options of an SGD example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=200, help="minibatches to learn from (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="the step's size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and minibatches (default: %(default)s)")
    return checked(parser, argv)


def checked(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, or leave with exit code 2 and a message where a number is too small."""
    options = parser.parse_args(argv)
    for name, least in (("steps", 1), ("learning_rate", 0), ("seed", 0)):
        value = getattr(options, name, least)
        # Not `value < least`, which is false for nan.
        if not value >= least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}, received {value}")
    return options


def report(method: str, fit: Fit, problem: Problem, options: argparse.Namespace) -> None:
    """Print what SGD found next to the closed form, and the framework's first gradient next to the one on paper."""
    best = closed_form(problem.x, problem.y)
    on_paper = gradient_on_paper(Line(0.0, 0.0), *next(minibatches(problem, 1)))
    print(f"The line y = w*x + b by minibatch SGD with {method}")
    settings = f"{options.steps} steps of {BATCH_SIZE} examples, learning rate {options.learning_rate:g}"
    print(f"{settings}, seed {options.seed}\n")
    print(f"{'parameters':<28}{'w':>14}{'b':>14}")
    print_comparison("found by SGD", fit.line, "closed form", best)
    print(f"  (minibatch noise alone explains a difference of about {noise_spread(options.learning_rate):.1e})\n")
    print(f"{'first gradient':<28}{'by w':>14}{'by b':>14}")
    print_comparison(f"by {method}", fit.first_gradient, "on paper", on_paper)
    last_place = np.spacing(np.float32(max(map(abs, on_paper))))
    print(f"  (neighbouring float32 numbers of this size are {last_place:.1e} apart)\n")
    print(f"{'mean squared error':<28}{'loss':>14}")
    print(f"  {'first minibatch':<26}{fit.first_loss:>14.8f}")
    print(f"  {'last minibatch':<26}{fit.last_loss:>14.8f}")
    print(f"  {'closed form, all examples':<26}{loss_on_paper(best, problem.x, problem.y):>14.8f}")


def print_comparison(name: str, ours: Line, reference_name: str, reference: Line) -> None:
    """Print two lines of numbers, and their difference."""
    print(f"  {name:<26}{ours.w:>14.8f}{ours.b:>14.8f}")
    print(f"  {reference_name:<26}{reference.w:>14.8f}{reference.b:>14.8f}")
    print(f"  {'difference':<26}{ours.w - reference.w:>14.1e}{ours.b - reference.b:>14.1e}")


def main(argv: Sequence[str] | None = None) -> Line:
    """Solve the problem, print the line next to the true one, and return it."""
    parser = argparse.ArgumentParser(description="Fit the line y = w*x + b in closed form.")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default: %(default)s)")
    problem = make_problem(checked(parser, argv).seed)
    best = closed_form(problem.x, problem.y)
    gradient = gradient_on_paper(best, problem.x, problem.y)
    print(f"The line y = w*x + b in closed form: {EXAMPLES} examples, seed {problem.seed}\n")
    print(f"{'parameters':<28}{'w':>14}{'b':>14}")
    print_comparison("closed form", best, "true line", TRUE_LINE)
    print(f"  (the noise in the data alone explains a difference of about {NOISE / np.sqrt(EXAMPLES):.1e})\n")
    print(f"{'at the closed form':<28}{'by w':>14}{'by b':>14}")
    print(f"  {'gradient':<26}{gradient.w:>14.1e}{gradient.b:>14.1e}\n")
    print(f"{'mean squared error':<28}{'loss':>14}")
    print(f"  {'closed form':<26}{loss_on_paper(best, problem.x, problem.y):>14.8f}")
    print(f"  {'true line':<26}{loss_on_paper(TRUE_LINE, problem.x, problem.y):>14.8f}")
    return best


if __name__ == "__main__":
    main()
