"""What the paths are compared with: the closed form, finite differences, and the derivation on paper, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dlf.gradients import _numpy_path as numpy_path
from dlf.gradients._finite_difference import slope_at_zero
from dlf.gradients._problems import Problem
from dlf.numerics.noise_floor import moved, widened

__all__ = ["closed_form", "finite_differences", "on_paper", "perturbed_truths"]

ELEMENTS = 24
"""How many elements of each parameter finite differences are taken of: for all of the MLP's, it would take minutes."""

Arrays = dict[str, np.ndarray]


def closed_form(problem: Problem) -> Arrays:
    """Returns the line of least mean squared error, in float64.

    ``w = Σ (xᵢ - mean(x)) (yᵢ - mean(y)) / Σ (xᵢ - mean(x))²`` and ``b = mean(y) - w mean(x)``.

    Args:
        problem: The line.

    Example:
        >>> from dlf.gradients._problems import make_problem
        >>> found = closed_form(make_problem("line"))
        >>> round(float(found["w"])), round(float(found["b"]))
        (2, -1)
    """
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    centred = x - x.mean()
    w = centred @ (y - y.mean()) / (centred @ centred)
    return {"w": np.asarray(w), "b": np.asarray(y.mean() - w * x.mean())}


def on_paper(problem: Problem, parameters: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> Arrays:
    """Returns the gradients for one batch by the formulas derived on paper, in float64."""
    float64 = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    _, gradients = _loss(problem)(float64, (x.astype(np.float64), widened(y)))
    return {name: np.asarray(value) for name, value in gradients.items()}


def perturbed_truths(problem: Problem, x: np.ndarray, y: np.ndarray, count: int = 4) -> list[Arrays]:
    """Returns gradients, `count` times, from inputs and parameters moved by one unit in the last place of float32."""
    random = np.random.default_rng(0)

    def perturbed(array: np.ndarray) -> np.ndarray:
        return moved(widened(array), array.dtype, random)

    return [
        on_paper(
            problem, {name: perturbed(value) for name, value in problem.parameters.items()}, perturbed(x), perturbed(y)
        )
        for _ in range(count)
    ]


def finite_differences(problem: Problem, x: np.ndarray, y: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns, for each parameter, which elements were moved, and the slopes of the loss along them, in float64."""
    float64 = {name: value.astype(np.float64) for name, value in problem.parameters.items()}
    batch = (x.astype(np.float64), widened(y))
    random = np.random.default_rng(0)
    found = {}
    for name, value in float64.items():
        chosen = np.sort(random.permutation(value.size)[:ELEMENTS])

        def along(distance: float, element: int, name: str = name, value: np.ndarray = value) -> float:
            moved = value.copy()
            moved.flat[element] += distance
            return float(_loss(problem)({**float64, name: moved}, batch)[0])

        slopes = [slope_at_zero(lambda t, e=int(e): along(t, e), 0.1).value for e in chosen]  # type: ignore[misc]
        found[name] = chosen, np.array(slopes)
    return found


def _loss(problem: Problem) -> numpy_path.Loss:
    return {"line": numpy_path.line_loss, "mlp": numpy_path.mlp_loss}[problem.name]
