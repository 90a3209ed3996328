"""Whether two ways of training train the same: asked before either is timed.

What is asked of it:

* from the same weights, in the same order, under the same dropout masks, the losses and the weights have to agree;
* how far apart rounding alone can bring two runs is measured, not assumed: twins of the reference, whose weights and
  inputs were moved by one unit in the last place, set the bound;
* an accident of rounding that no twin had does not refuse anybody: who fails in one order of the examples is compared
  in another, with a bound of its own.
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
"""How much further apart than the twins: they were moved in weights and inputs, a contestant rounds in every sum."""
FLOOR = 1e-6
"""Below this nothing is called a difference: eight units in the last place of float32. A sound loop's weights were
3.5e-7 apart (30 sets of images, the MLP on JAX)."""


@dataclass(frozen=True)
class Verdict:
    """Whether a contestant's results are the reference's, and how far they are apart."""

    agrees: bool
    losses: list[float]
    reference_losses: list[float]
    loss_distance: float
    """The largest relative difference of an epoch's mean loss."""
    loss_bound: float
    weight_distance: float
    """The distance of the final weights, over the way that the reference went from the initial ones."""
    weight_bound: float
    dropout: str
    """``"same masks"``, or ``"off"`` where the masks cannot be made the same."""


class Judge:
    """Compares contestants with the reference.

    Args:
        reference: Whose results count.
        task: What is timed; its first rows are what is compared.
    """

    def __init__(self, reference: Contestant, task: Task) -> None:
        rows = np.arange(min(len(task.labels), (STEPS - 1) * task.batch_size + task.batch_size // 2))
        self._reference = reference
        # A ReLU's input that lies within rounding of 0 passes a gradient in one run and none in the other. The MLP has
        # so few of them that most runs, and then their twins too, meet none: once in some 50 runs one is met, as by
        # the hand-written loop on JAX, where the input of 1 of 128 units was -6e-8 here and -3e-7 there, for 1 of 64
        # images. Its weights were 2.5e-4 apart at the end, against a bound of 3.5e-5, and 3.4e-7 in other orders.
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
            expected, *twins = (
                self._reference.train(each, EPOCHS) for each in (task, task.nudged(seed=1), task.nudged(seed=2))
            )
        apart = [_distances(twin, expected, task.weights) for twin in twins]
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
