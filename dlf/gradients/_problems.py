"""The two problems that every path solves: data, initial parameters and batches, drawn once, in NumPy.

Requirements:

* every path gets the same bits, in a file from the parent to each path's process;
* the line is solved with full batches, so that gradient descent ends at the closed form; the MLP learns real digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PROBLEMS", "Problem", "load_problem", "make_problem", "save_problem"]

PROBLEMS = ("line", "mlp")
STEPS = {"line": 100, "mlp": 200}
LEARNING_RATES = {"line": 0.25, "mlp": 0.2}
_EXAMPLES, _NOISE, _BATCH, _WIDTH, _CLASSES = 512, 0.3, 64, 128, 10


@dataclass(frozen=True)
class Problem:
    """The data, the initial parameters, and the examples that each step takes."""

    name: str
    parameters: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    """The row numbers of the examples that each step takes, ``(steps, batch)``."""
    learning_rate: float

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.rows)

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the batch of each step."""
        for rows in self.rows:
            yield self.x[rows], self.y[rows]


def make_problem(name: str, *, steps: int | None = None, learning_rate: float | None = None, seed: int = 0) -> Problem:
    """Makes a problem.

    Args:
        name: ``"line"`` or ``"mlp"``.
        steps: The number of steps; by default as many as the problem needs.
        learning_rate: The learning rate of gradient descent; by default the problem's own.
        seed: The seed of data, initial parameters and batches.

    Returns:
        The problem.

    Example:
        >>> problem = make_problem("line", steps=3)
        >>> problem.x.shape, problem.steps, sorted(problem.parameters)
        ((512,), 3, ['b', 'w'])
    """
    steps = STEPS[name] if steps is None else steps
    rate = LEARNING_RATES[name] if learning_rate is None else learning_rate
    random = np.random.default_rng(seed)
    return (_line if name == "line" else _mlp)(random, steps, rate)


def _line(random: np.random.Generator, steps: int, rate: float) -> Problem:
    x = random.standard_normal(_EXAMPLES)
    y = 2 * x - 1 + _NOISE * random.standard_normal(_EXAMPLES)
    parameters = {"w": np.zeros((), np.float32), "b": np.zeros((), np.float32)}
    rows = np.broadcast_to(np.arange(_EXAMPLES, dtype=np.int32), (steps, _EXAMPLES))
    return Problem("line", parameters, x.astype(np.float32), y.astype(np.float32), rows, rate)


def _mlp(random: np.random.Generator, steps: int, rate: float) -> Problem:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    sizes = {"hidden": (images.shape[1], _WIDTH), "logits": (_WIDTH, _CLASSES)}
    parameters = {}
    for layer, shape in sizes.items():
        limit = np.sqrt(6 / sum(shape))  # Glorot's uniform distribution, as in Keras's Dense.
        parameters[f"{layer}/kernel"] = random.uniform(-limit, limit, shape).astype(np.float32)
        parameters[f"{layer}/bias"] = np.zeros(shape[1], np.float32)
    rows = random.integers(len(labels), size=(steps, _BATCH), dtype=np.int32)
    # Grey levels go up to 16, a power of two, so that scaling rounds nothing.
    return Problem("mlp", parameters, (images / 16).astype(np.float32), labels.astype(np.int32), rows, rate)


def save_problem(problem: Problem, file: Path) -> None:
    """Writes a problem to a file, for another process to load."""
    arrays: dict[str, Any] = {f"parameters/{name}": value for name, value in problem.parameters.items()}
    arrays |= {"name": problem.name, "rate": problem.learning_rate, "x": problem.x, "y": problem.y}
    np.savez(file, rows=problem.rows, **arrays)


def load_problem(file: Path) -> Problem:
    """Reads a problem that `save_problem` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        parameters = {
            name.removeprefix("parameters/"): stored[name] for name in stored.files if name.startswith("parameters/")
        }
        return Problem(str(stored["name"]), parameters, stored["x"], stored["y"], stored["rows"], float(stored["rate"]))
