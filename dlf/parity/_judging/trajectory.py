"""Measures the records of training: each step by itself, free runs against perturbed ones, and the curves.

Requirements:

* a step is measured as a layer is: distances in float64, errors in the dtype under test, the noise floor of one step;
* a free run is compared with the spread of the perturbed runs, and that spread with the noise floor of one step;
* a gradient that is only roundoff excuses differences of its own variable, and those that it is measured to cause, but
  no others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlf.numerics.noise_floor import PERTURBATIONS, floor_of, moved_by_how_much, scale_of, widened
from dlf.parity._judging.measure import Arrays, beside_of, distance, finite, measure, of_variables
from dlf.parity._judging.measurement import Measurement
from dlf.parity._records import Records

__all__ = ["Runs", "measure_trajectory"]

_METRIC, _GRADIENT = "metric:", "gradient:"
"""What the names of records begin with that are neither variables nor slots."""
_SUMS_OF_A_METRIC = 100_000_000
"""How many terms the sums of a metric are taken to have. How a metric computes in float32 is not known: this leaves
room for a relative difference of a thousandth."""


@dataclass(frozen=True)
class Runs:
    """The records of training.

    Args:
        truth: The backend that is taken for the truth.
        free: What the worker's `train` wrote, by backend.
        single: What `train_from` wrote, by backend.
        perturbed: What `train_perturbed` wrote.
        trainable: The paths of the trainable variables, which share a scale.
        updates: The noise floor of one update of each variable: an optimizer may amplify a gradient that is zero but
            for roundoff, as Adam does.
        cancelled: The variables with such gradients: the direction of their updates means nothing.
    """

    truth: str
    free: Mapping[str, Records]
    single: Mapping[str, Records]
    perturbed: Records
    trainable: Collection[str]
    updates: Mapping[str, float]
    cancelled: Collection[str]

    def exact(self, step: int) -> dict[str, np.ndarray]:
        """Returns the truth's variables and slots after a step, by name."""
        records, before = self.free[self.truth], f"float64/{step}/"
        names = [name for name in records if name.startswith(before) and not name.startswith(f"{before}{_METRIC}")]
        return {name.removeprefix(before): records[name] for name in names}

    def of(self, kind: Mapping[str, Records], name: str) -> Arrays:
        """Returns one array of each backend, or None where it was not recorded."""
        return {backend: records.get(name) for backend, records in kind.items()}

    def moved(self, records: Records, name: str) -> list[np.ndarray]:
        """Returns one array of each perturbed run that recorded it."""
        found = [records.get(f"perturbed{n}/{name}") for n in range(PERTURBATIONS)]
        return [each for each in found if each is not None]


def measure_trajectory(runs: Runs, steps: int, dtype: str) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures the steps of training, by themselves and in free runs.

    Args:
        runs: The records.
        steps: The number of steps.
        dtype: The dtype under test.

    Returns:
        The measurements; and the curves, for people to look at: ``losses`` of each backend in float64 and in the dtype
        under test; the ``distance`` of all weights from the truth on each backend; the ``envelope``, which is the
        largest such distance of the perturbed runs.
    """
    found: list[Measurement] = []
    distance: dict[str, list[float | None]] = {backend: [] for backend in runs.single}
    envelope: list[float | None] = []
    for step in range(steps):
        exact = runs.exact(step)
        # Trainable variables share one scale: a bias that stays at zero but for roundoff has none of its own.
        largest = max((scale_of(each) for name, each in exact.items() if _path(name) in runs.trainable), default=0.0)
        taken = [
            one for name, value in exact.items() for one in _measure_variable(runs, step, name, value, largest, dtype)
        ]
        found += taken + _measure_metrics(runs, step, dtype) + _measure_gradients(runs, step, dtype)
        weights = [name for name in exact if not _is_slot(name)]
        for backend, records in runs.single.items():
            distance[backend].append(_distance(exact, {name: records.get(f"free/{step}/{name}") for name in weights}))
        perturbed = [
            {name: runs.perturbed.get(f"perturbed{n}/{step}/{name}") for name in weights} for n in range(PERTURBATIONS)
        ]
        envelope.append(max((_distance(exact, each) or 0.0 for each in perturbed), default=None))
    found += _measure_reported(runs, steps, dtype)
    losses = {
        "float64": {
            backend: [finite(each) for each in records["float64/losses"]] for backend, records in runs.free.items()
        },
        "tested": {
            backend: [finite(each) for each in records["free/losses"]] for backend, records in runs.single.items()
        },
    }
    return found, {"losses": losses, "distance": distance, "envelope": envelope}


def _measure_variable(  # noqa: PLR0913, PLR0917 - of what, where.
    runs: Runs, step: int, name: str, exact: np.ndarray, largest: float, dtype: str
) -> list[Measurement]:
    """Measures one variable or slot after one step, taken by itself and in a free run."""
    path, place = _path(name), f"{step}/{name}"
    scale = largest if path in runs.trainable else scale_of(exact)
    where: Measurement = {"stage": "trajectory", "layer": None, "call": None, "variable": path, "step": step}
    if _is_cancelled(name, runs.cancelled):
        where["cancelled"] = True
    floor = max(floor_of(exact, runs.moved(runs.single[runs.truth], place), scale, dtype), runs.updates.get(path, 0.0))
    alone = measure(
        runs.of(runs.single, f"float64/{place}"), of_variables(runs.of(runs.single, f"tested/{place}")), floor, dtype
    )
    aside = runs.of(runs.single, f"aside/{place}")
    if any(each is not None for each in aside.values()):
        alone["beside"] = beside_of(measure(aside, aside, floor, dtype))
    spread = floor_of(exact, runs.moved(runs.perturbed, place), scale, dtype)
    alone["roundoff"] = _roundoff(runs.single[runs.truth], place, exact)
    free = measure(
        runs.of(runs.free, f"float64/{place}"),
        of_variables(runs.of(runs.single, f"free/{place}")),
        max(spread, floor),
        dtype,
    )
    free["roundoff"] = _roundoff(runs.perturbed, place, exact)
    where["scale"] = scale
    return [where | {"mode": "resynchronised"} | alone, where | {"mode": "free", "one_step": floor} | free]


def _measure_metrics(runs: Runs, step: int, dtype: str) -> list[Measurement]:
    """Measures what a step by itself reports in float64: the loss, and metrics that layers hold.

    A float64 reference that is recreated has none of the metrics that the model was compiled with.
    """
    names = _recorded(runs.single.values(), f"float64/{step}/", _METRIC)
    return [_of_metric(name, step) | _measure_reported_once(runs, step, name, dtype) for name in names]


def _measure_gradients(runs: Runs, step: int, dtype: str) -> list[Measurement]:
    """Measures the gradients that a model's own step gives its optimizers; those of one update share a scale."""
    names = _recorded(runs.single.values(), f"float64/{step}/", _GRADIENT)
    largest: dict[str, float] = {}
    for name in names:
        exact = runs.single[runs.truth].get(f"float64/{step}/{name}")
        update = name.split(":")[1]
        largest[update] = max(largest.get(update, 0.0), 0.0 if exact is None else scale_of(exact))
    found = []
    for name in names:
        _, update, _, path = name.split(":", 3)
        where: Measurement = {
            "stage": "gradient",
            "layer": None,
            "call": None,
            "variable": path,
            "mode": "resynchronised",
            "step": step,
            "update": int(update),
        }
        found.append(where | _measure_reported_once(runs, step, name, dtype, largest[update]))
    return found


def _measure_reported_once(runs: Runs, step: int, name: str, dtype: str, largest: float | None = None) -> Measurement:
    """Measures what one step by itself reports."""
    place = f"{step}/{name}"
    float64, tested = runs.of(runs.single, f"float64/{place}"), runs.of(runs.single, f"tested/{place}")
    exact = next(each for each in (float64[runs.truth], *float64.values()) if each is not None)
    scale = scale_of(exact) if largest is None else largest
    floor = floor_of(exact, runs.moved(runs.single[runs.truth], place), scale, dtype)
    one = measure(float64, tested, floor, dtype)
    one |= {"roundoff": _roundoff(runs.single[runs.truth], place, exact), "scale": scale}
    aside = runs.of(runs.single, f"aside/{place}")
    if any(each is not None for each in aside.values()):
        one["beside"] = beside_of(measure(aside, aside, floor, dtype))
    return one


def _measure_reported(runs: Runs, steps: int, dtype: str) -> list[Measurement]:
    """Measures the metrics that every step reports in the dtype under test only, and not in float64.

    Near a threshold, rounding may flip an example at some step. Therefore the distance is the smallest of all steps: a
    metric that differs at every step is another metric.
    """
    first = _recorded(runs.single.values(), "tested/0/", _METRIC)
    in_float64 = set(_recorded(runs.single.values(), "float64/0/", _METRIC))
    found = []
    for name in (each for each in first if each not in in_float64):
        values = [runs.of(runs.single, f"tested/{step}/{name}") for step in range(steps)]
        together: dict[str, np.ndarray | None] = dict.fromkeys(runs.single)
        for backend in runs.single:
            reported = [widened(each[backend]) for each in values if each[backend] is not None]
            together[backend] = np.stack(reported) if len(reported) == steps else None
        if all(each is None for each in together.values()):
            continue  # A user's own training step, which does not report it at every step on any backend.
        # A metric may be zero at every step: the floor is at least the dtype's smallest normal number.
        one = measure(together, together, floor_of(np.zeros(0), [], 0.0, dtype), dtype)
        for pair in one["distances"]:
            a, b = (together[backend] for backend in pair.split("|"))
            distances = [distance(*each) for each in zip(a, b, strict=True)]  # type: ignore[arg-type]  # Both are there.
            one["distances"][pair] = None if None in distances else min(each for each in distances if each is not None)
        found.append(_of_metric(name, None) | {"own_dtype": _SUMS_OF_A_METRIC} | one)
    return found


def _of_metric(name: str, step: int | None) -> Measurement:
    return {
        "stage": "trajectory",
        "layer": None,
        "call": None,
        "variable": None,
        "kind": "metric",
        "of": name.removeprefix(_METRIC),
        "mode": "resynchronised",
        "step": step,
    }


def _recorded(records: Iterable[Records], before: str, kind: str) -> list[str]:
    """The names of the metrics, or of the gradients, of a step that any backend has recorded."""
    names = [name.removeprefix(before) for each in records for name in each if name.startswith(before)]
    return list(dict.fromkeys(name for name in names if name.startswith(kind)))


def _roundoff(records: Records, place: str, exact: np.ndarray) -> float:
    """How far the roundoff of float64 moves a tensor: the largest distance of a few runs."""
    found = [records.get(f"roundoff{n}/{place}") for n in range(PERTURBATIONS)]
    return max((moved_by_how_much(each, exact) for each in found if each is not None), default=0.0)


def _is_cancelled(name: str, cancelled: Collection[str]) -> bool:
    """Whether a variable's gradient is zero but for roundoff, or a slot belongs to such a variable."""
    if not _is_slot(name):
        return _path(name) in cancelled
    # A slot has the path of its variable in its name, with its slashes replaced.
    return any(f"/{path}_".replace("/", "_") in f"_{_path(name)}_".replace("/", "_") for path in cancelled)


def _distance(exact: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray | None]) -> float | None:
    """The distance of all weights from the truth, or None where it is not finite."""
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
