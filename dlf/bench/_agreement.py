"""Checks whether two ways of training give the same results, before either is timed.

Requirements:

* from the same weights, in the same order, under the same dropout masks, the losses and the final weights must agree;
* how far apart rounding alone can bring two runs is measured, not assumed: the bound comes from perturbed runs of
  the reference, whose initial weights and inputs are moved by one unit in the last place;
* a rounding accident that no perturbed run had does not fail a contestant: one that disagrees in one order of the
  examples is compared again in another order, with a bound measured in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from dlf.bench._contestants import Contestant, Context, Trained
from dlf.bench.models import Task

__all__ = ["EPOCHS", "FACTOR", "Judge", "Verdict"]

EPOCHS = 2
STEPS = 16
"""Steps in an epoch of the comparison; the last batch is half a batch."""
FACTOR = 8.0
"""How many times as far apart as perturbed runs a contestant may be: it rounds in every sum, not only at the start."""
FLOOR = 1e-6
"""The smallest bound: about eight units in the last place of float32. The weights of a correct loop were 3.5e-7 apart
(30 sets of images, the MLP on JAX)."""


@dataclass(frozen=True)
class Verdict:
    """Whether a contestant's results agree with the reference's, and how far apart they are."""

    agrees: bool
    losses: list[float]
    reference_losses: list[float]
    loss_distance: float
    """The largest relative difference of an epoch's mean loss."""
    loss_bound: float
    weight_distance: float
    """The distance between the final weights, divided by the reference's distance from the initial weights."""
    weight_bound: float
    dropout: str
    """``"same masks"``, or ``"off"`` if the masks cannot be made the same."""


class Judge:
    """Compares contestants with the reference.

    Args:
        reference: The way of training with which the others are compared.
        task: The task that is timed; the comparison uses its first rows.
    """

    def __init__(self, reference: Contestant, task: Task) -> None:
        rows = np.arange(min(len(task.labels), (STEPS - 1) * task.batch_size + task.batch_size // 2))
        self._reference = reference
        # An input of a ReLU that is within rounding of 0 passes a gradient in one run and none in the other. In most
        # runs of the MLP, and then in the perturbed ones too, there is no such input; in about one run of 50 there is.
        # An example is the hand-written loop on JAX, where the input of 1 of 128 units was within 3e-7 of 0, for
        # 1 of 64 images. The final weights were 2.5e-4 apart, with a bound of 3.5e-5; in other orders 3.4e-7.
        self._tasks = [_in_order(task, order) for order in (rows, rows[::-1])]
        self._expected = cache(self._train_reference)

    def judge(self, contestant: Contestant) -> Verdict:
        """Trains the contestant and says whether it agrees.

        Args:
            contestant: Another way of training.

        Returns:
            The verdict.
        """
        first = self._judge(contestant, 0)
        if first.agrees:
            return first
        second = self._judge(contestant, 1)
        return second if second.agrees else first

    def _judge(self, contestant: Contestant, place: int) -> Verdict:
        task = replace(self._tasks[place], dropout=contestant.same_masks)
        expected, bounds = self._expected(contestant.context, place, dropout=contestant.same_masks)
        trained = expected if contestant is self._reference else contestant.train(task, EPOCHS)
        distances = _distances(trained, expected, task.weights)
        return Verdict(
            # A comparison with NaN is false, as it should be.
            agrees=all(distance <= bound for distance, bound in zip(distances, bounds, strict=True)),
            losses=trained.losses,
            reference_losses=expected.losses,
            loss_distance=distances[0],
            loss_bound=bounds[0],
            weight_distance=distances[1],
            weight_bound=bounds[1],
            dropout="same masks" if contestant.same_masks else "off",
        )

    def _train_reference(self, context: Context, place: int, *, dropout: bool) -> tuple[Trained, list[float]]:
        task = replace(self._tasks[place], dropout=dropout)
        with context():
            expected, *perturbed = (
                self._reference.train(each, EPOCHS) for each in (task, task.nudged(seed=1), task.nudged(seed=2))
            )
        apart = [_distances(each, expected, task.weights) for each in perturbed]
        return expected, [max(FLOOR, FACTOR * max(each)) for each in zip(*apart, strict=True)]


def _in_order(task: Task, rows: np.ndarray) -> Task:
    return replace(task, shuffle=False, images=task.images[rows], scaled=task.scaled[rows], labels=task.labels[rows])


def _distances(trained: Trained, expected: Trained, initial: Sequence[np.ndarray]) -> tuple[float, float]:
    losses = np.abs(np.subtract(trained.losses, expected.losses)) / np.abs(expected.losses)
    apart = _length([ours - theirs for ours, theirs in zip(trained.weights, expected.weights, strict=True)])
    way = _length([theirs - before for theirs, before in zip(expected.weights, initial, strict=True)])
    return float(losses.max()), apart / way


def _length(arrays: list[Any]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))
