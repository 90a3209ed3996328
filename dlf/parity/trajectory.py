"""What the records of training amount to: each step by itself, free runs against perturbed twins, and the curves.

What is asked of it:

* a step is measured as a layer is: distances in float64, errors in the dtype under test, the noise floor of one step;
* a free run is measured against how far the twins have come apart, and that against what one step costs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlf.noise_floor import TWINS, floor_of, moved_by_how_much, scale_of, widened
from dlf.parity.measure import Arrays, Measurement, beside_of, finite, measure
from dlf.parity.records import Records

__all__ = ["Runs", "measure_trajectory"]

SEEN = 0.01
"""Of a tensor's size: thirteen digits are gone then."""


@dataclass(frozen=True)
class Runs:
    """The records of training.

    Args:
        truth: The backend that is taken for the truth.
        free: Of each backend, what the worker's `train` wrote.
        single: Of each backend, what `train_from` wrote.
        twins: What `train_twins` wrote.
        trainable: The paths of the trainable variables, which share a scale.
        updates: The noise floor of one update of each: the optimizer may blow up a gradient that is zero but for
            roundoff, as Adam does.
        cancelled: The variables of such gradients: what an optimizer makes of one's sign means nothing.
    """

    truth: str
    free: Mapping[str, Records]
    single: Mapping[str, Records]
    twins: Records
    trainable: Collection[str]
    updates: Mapping[str, float]
    cancelled: Collection[str]

    def exact(self, step: int) -> dict[str, np.ndarray]:
        """Returns the truth after a step, by the names of the records."""
        records, before = self.free[self.truth], f"wide/{step}/"
        return {name.removeprefix(before): records[name] for name in records if name.startswith(before)}

    def of(self, kind: Mapping[str, Records], name: str) -> Arrays:
        """Returns one array on each backend."""
        return {backend: records.get(name) for backend, records in kind.items()}

    def moved(self, records: Records, name: str) -> list[np.ndarray]:
        """Returns the twins of one array."""
        found = [records.get(f"twin{n}/{name}") for n in range(TWINS)]
        return [each for each in found if each is not None]


def measure_trajectory(runs: Runs, steps: int, dtype: str) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures training.

    Args:
        runs: The records.
        steps: How many were taken.
        dtype: The dtype under test.

    Returns:
        The measurements; and the curves, for people to look at: ``losses`` of each backend in float64 and in the dtype
        under test, and over all weights the ``distance`` from the truth of each and of the twins, the ``envelope``.
    """
    found: list[Measurement] = []
    distance: dict[str, list[float | None]] = {backend: [] for backend in runs.single}
    envelope: list[float | None] = []
    for step in range(steps):
        exact = runs.exact(step)
        # One scale for all that is trained: a bias that stays at zero but for roundoff is no larger for it.
        largest = max((scale_of(each) for name, each in exact.items() if _path(name) in runs.trainable), default=0.0)
        taken = [
            one for name, value in exact.items() for one in _measure_variable(runs, step, name, value, largest, dtype)
        ]
        for mode in ("resynchronised", "free"):
            _note_chaos([each for each in taken if each["mode"] == mode])
        found += taken
        weights = [name for name in exact if not _is_slot(name)]
        for backend, records in runs.single.items():
            distance[backend].append(_distance(exact, {name: records.get(f"free/{step}/{name}") for name in weights}))
        twins = [{name: runs.twins.get(f"twin{n}/{step}/{name}") for name in weights} for n in range(TWINS)]
        envelope.append(max((_distance(exact, twin) or 0.0 for twin in twins), default=None))
    losses = {
        "float64": {
            backend: [finite(each) for each in records["wide/losses"]] for backend, records in runs.free.items()
        },
        "narrow": {
            backend: [finite(each) for each in records["free/losses"]] for backend, records in runs.single.items()
        },
    }
    return found, {"losses": losses, "distance": distance, "envelope": envelope}


def _measure_variable(  # noqa: PLR0913, PLR0917 - of what, where.
    runs: Runs, step: int, name: str, exact: np.ndarray, largest: float, dtype: str
) -> list[Measurement]:
    """One variable or slot after one step, taken by itself and in a free run."""
    path, place = _path(name), f"{step}/{name}"
    scale = largest if path in runs.trainable else scale_of(exact)
    where = {"stage": "trajectory", "layer": None, "call": None, "variable": path, "step": step}
    if path in runs.cancelled:
        where["cancelled"] = True
    floor = max(floor_of(exact, runs.moved(runs.single[runs.truth], place), scale, dtype), runs.updates.get(path, 0.0))
    alone = measure(runs.of(runs.single, f"wide/{place}"), runs.of(runs.single, f"narrow/{place}"), floor, dtype)
    aside = runs.of(runs.single, f"aside/{place}")
    if any(each is not None for each in aside.values()):
        alone["beside"] = beside_of(measure(aside, aside, floor, dtype))
    spread = floor_of(exact, runs.moved(runs.twins, place), scale, dtype)
    shaken = runs.single[runs.truth].get(f"shaken/{place}")
    alone["shaken"] = 0.0 if shaken is None else moved_by_how_much(shaken, exact)
    free = measure(
        runs.of(runs.free, f"wide/{place}"), runs.of(runs.single, f"free/{place}"), max(spread, floor), dtype
    )
    shaken = runs.twins.get(f"shaken/{place}")
    free["shaken"] = 0.0 if shaken is None else moved_by_how_much(shaken, exact)
    if runs.cancelled:
        # What means nothing after one step is in everything after the next.
        free["cancelled"] = True
    return [
        where | {"mode": "resynchronised"} | alone,
        where | {"mode": "free", "one_step": floor} | free,
    ]


def _note_chaos(taken: list[Measurement]) -> None:
    """Where a run that was shaken by a unit in the last place of float64 is seen to move, no digit of any is left."""
    if any(each["shaken"] > SEEN * (each["size"] or math.inf) for each in taken):
        for each in taken:
            each["shaken"] = each["size"] or 0.0


def _distance(exact: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray | None]) -> float | None:
    """The distance of all weights from the truth, or None where one is no number."""
    distances = [
        moved_by_how_much(widened(each), exact[name]) * math.sqrt(each.size)
        for name, each in other.items()
        if each is not None and exact[name].dtype.kind == "f" and np.isfinite(exact[name]).all()
    ]
    return finite(math.hypot(*distances))


def _path(name: str) -> str:
    return name.split(":", 2 if _is_slot(name) else 1)[-1]


def _is_slot(name: str) -> bool:
    return name.startswith("slot:")
