"""Measures the records of several backends: a few numbers for each tensor, enough to judge it, now and later.

Requirements:

* it gives the distances in float64 between every two backends, each backend's error in the dtype under test, and the
  noise floor, but no verdict;
* only one tensor of each of a few layers is in memory at a time;
* of tensors that differ, the first elements are kept, for people to look at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from dlf.numerics.noise_floor import (
    INEXACT,
    NOISY,
    PERTURBATIONS,
    STEPS,
    eps_of,
    floor_of,
    kind_of,
    moved_by_how_much,
    rms,
    scale_of,
    widened,
)
from dlf.parity._answers import CallAnswer
from dlf.parity._judging.measurement import Beside, Element, Lost, Measurement, Moves
from dlf.parity._records import Records
from dlf.utils.workers import cores_of_machine

__all__ = [
    "Arrays",
    "beside_of",
    "finite",
    "is_apart",
    "measure",
    "measure_calls",
    "measure_training",
    "measure_whole",
    "of_variables",
]

Arrays: TypeAlias = Mapping[str, np.ndarray | None]

_LOOKED_AT = 1e3
"""Noise floors of float64 above which elements are kept; backends count as different only far above it."""
_AT_ONCE = min(4, cores_of_machine())
"""The number of layer calls that are measured in parallel."""
_ELEMENTS = 5
_MOST = 1e300
"""Stands for infinity, which JSON does not have."""


def measure_calls(
    records: Mapping[str, Records],
    truth: str,
    calls: Sequence[CallAnswer],
    beside: Mapping[str, Records] | None = None,
) -> list[Measurement]:
    """Measures every call of a layer, replayed by itself.

    Args:
        records: What the worker's `replay` wrote, by backend.
        truth: The backend that replayed from perturbed inputs too.
        calls: The calls, as the worker describes them.
        beside: What `replay_beside` wrote, by backend, if it was called.

    Example:
        >>> measure_calls({}, "jax", [])
        []
    """
    names = _names(records, truth) if calls else {}

    def measured(call: CallAnswer) -> list[Measurement]:
        return list(_measure_call(records, truth, call, names.get(call["key"], []), beside or {}))

    # NumPy and zlib let other threads run while they compute.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [each for one in pool.map(measured, calls) for each in one]
    if beside and truth in beside:
        _add_beside(found, beside, truth, calls)
    return found


def _measure_call(
    records: Mapping[str, Records],
    truth: str,
    call: CallAnswer,
    names: Sequence[str],
    beside: Mapping[str, Records],
) -> Iterator[Measurement]:
    penalty = f"float64/{call['key']}|loss/penalty"
    moves = _moves_of(beside, f"float64/{call['key']}|forward/")
    # A layer's penalty may be computed in float32 where its outputs are not.
    moves_of_loss = {backend: moves[backend] + of_loss for backend, of_loss in _moves_of(beside, penalty).items()}
    for kind in ("forward", "inference", "gradient", "state", "state_in_inference", "loss"):
        group = [name for name in names if name.startswith(f"{kind}/")]
        if kind == "loss" and not any(np.any(each.get(penalty)) for each in records.values()):
            continue  # No backend has a penalty.
        for one in _measure_group(records, truth, call["key"], group, call["dtype"]):
            place: Measurement = {
                "stage": {"inference": "forward", "state_in_inference": "state"}.get(kind, kind),
                "layer": call["layer"],
                "call": call["key"],
                "variable": _variable(kind, one.pop("name")),
                "mode": "inference" if "inference" in kind else None,
            }
            if kind == "gradient" and str(place["variable"]).startswith("input/") and not call["sources"]:
                one.pop("absent", None)  # A framework may lack gradients of data, which training does not need.
            if call.get("own_dtype", False):
                place["own_dtype"] = call["longest"]
            mine = moves_of_loss if kind in {"gradient", "loss"} else moves
            if any(mine.values()):
                place |= {"moves": mine, "longest": call["longest"]}
            yield place | one


def _moves_of(beside: Mapping[str, Records], begin: str) -> dict[str, list[Moves]]:
    """How the results whose names begin with `begin` move with the inputs, on each backend."""
    return {
        backend: [found for name in each if name.startswith(begin) and (found := _moves(each, name))]
        for backend, each in beside.items()
    }


def _add_beside(
    found: list[Measurement], beside: Mapping[str, Records], truth: str, calls: Sequence[CallAnswer]
) -> None:
    """Adds to each gradient and each output how far apart the backends are for slightly moved inputs ("beside").

    There are no perturbed runs for these inputs to show how far rounding moves an output. Instead, its floor is at
    least as large as its change where float32 inside the layer is replaced by float64.
    """
    at = {(each["call"], each["stage"], each["variable"], each["mode"]): each for each in found}
    recorded = _names(beside, truth)
    for call in calls:
        for kind in ("gradient", "forward"):
            names = [name for name in recorded.get(call["key"], ()) if name.startswith(f"{kind}/")]
            for one in _measure_group(beside, truth, call["key"], names, call["dtype"]):
                if (key := (call["key"], kind, _variable(kind, one["name"]), None)) not in at:
                    continue
                place = f"{call['key']}|{one['name']}"
                widened = [
                    moved_by_how_much(each[f"widened/{place}"], each[f"float64/{place}"])
                    for each in beside.values()
                    if kind == "forward" and f"widened/{place}" in each
                ]
                at[key]["beside"] = beside_of(one) | {"floor": max([one["floor"], *widened])}


def measure_training(
    records: Mapping[str, Records],
    truth: str,
    dtypes: Mapping[str, str],
    dtype: str,
    own_dtype_variables: Sequence[str] = (),
) -> list[Measurement]:
    """Measures the loss and the optimizer, each replayed by itself.

    Args:
        records: What `replay_training` wrote, by backend.
        truth: The backend that replayed from perturbed inputs too.
        dtypes: The dtype of each variable, by its path.
        dtype: The dtype under test.
        own_dtype_variables: The variables that are not float64 even in the float64 reference.
    """
    found: list[Measurement] = []
    moves = {
        backend: [moved]
        for backend, each in records.items()
        if "aside/|loss/value" in each and (moved := _moves(each, "aside/|loss/value"))
    }
    recorded = _names(records, truth).get("", [])
    gradients = [
        name for name in recorded if name.startswith("loss/gradient/") and f"float64/|{name}" in records[truth]
    ]
    longest = max((records[truth][f"float64/|{name}"].size for name in gradients), default=1)
    # A loss is one number, which steps too small for float32 may not move at all.
    in_float32 = [name for name, each in records.items() if _has_digits_of_float32(each.get("float64/|loss/value"))]
    for kind, stage in (("loss", "loss"), ("update", "update"), ("slot", "update")):
        names = [name for name in recorded if name.startswith(f"{kind}/")]
        own = dtypes.get(names[0].split("/", 1)[1], dtype) if names else dtype
        for one in _measure_group(records, truth, "", names, own):
            variable = one.pop("name").split("/", 1)[1]
            if kind == "slot":
                variable = variable.split(":", 1)[1]
            place: Measurement = {"stage": stage, "layer": None, "call": None, "variable": variable, "mode": None}
            if kind == "loss" and moves:
                place |= {"moves": moves, "longest": longest}
            if kind == "loss" and in_float32:
                place["inherited"] = dict.fromkeys(in_float32, longest)
            if kind != "loss" and own_dtype_variables:
                # Where gradients are clipped by their global norm, one such variable affects every update.
                place["own_dtype"] = 1
            if kind == "loss":
                # A loss may have a point without a derivative, as the hinge loss has.
                aside = {backend: each.get(f"aside/|loss/{variable}") for backend, each in records.items()}
                if any(each is not None for each in aside.values()):
                    place["beside"] = beside_of(measure(aside, aside, one["floor"], one["dtype"]))
            found.append(place | one)
    return found


def _has_digits_of_float32(value: np.ndarray | None) -> bool:
    """Whether a number of float64 has no more digits than float32 holds, but more than a short one, as 0.5, has."""
    if value is None or value.dtype.kind not in INEXACT:
        return False
    with np.errstate(over="ignore"):
        return np.array_equal(value, value.astype(np.float32)) and not np.array_equal(value, value.astype(np.float16))


def measure_whole(
    records: Mapping[str, Records],
    truth: str,
    calls: Sequence[CallAnswer],
    dtype: str,
    beside: Mapping[str, Records] | None = None,
) -> list[Measurement]:
    """Measures the whole model, in which errors carry over from layer to layer: its outputs, loss and gradients.

    Args:
        records: What `trace` wrote, by backend.
        truth: The backend that is taken for the truth.
        calls: The calls, as the worker describes them.
        dtype: The dtype under test.
        beside: What `trace_beside` wrote, by backend, if it was called.
    """
    found: list[Measurement] = []
    exact = records[truth]
    with_loss = {backend: each for backend, each in records.items() if "loss" in each}

    def add(
        stage: str, name: str, variable: str | None, largest: float | None = None, what: Measurement | None = None
    ) -> Measurement:
        mine = records if stage == "forward" else with_loss
        float64: dict[str, Any] = {backend: each.get(name) for backend, each in mine.items()}
        if "/mask:" in name:
            float64 = _masks(float64)
        there = name.startswith("float64/")
        # In float64 on every backend: a layer without a float64 form does not count as one of another dtype.
        alike = {backend: None if value is None else widened(value) for backend, value in float64.items()}
        tested = {b: each.get(name.replace("float64/", "tested/", 1)) for b, each in mine.items()} if there else alike
        size = scale_of(float64[truth]) if largest is None else largest
        place: Measurement = {"stage": stage, "layer": None, "call": None, "variable": variable, "mode": "whole"}
        title = f"float64/{name.removeprefix('float64/')}"
        moves = {b: [one] for b, each in (beside or {}).items() if title in each and (one := _moves(each, title))}
        if moves:
            # How long the sums between layers are is not known.
            place |= {"moves": moves, "longest": 1}
        place |= what or {}
        found.append(place | measure(float64, tested, floor_of(float64[truth], [], size, dtype), dtype))
        return found[-1]

    names = list(exact)
    outputs = [add("forward", name, name.split("/", 1)[1]) for name in names if name.startswith("float64/")]
    if any(is_apart(each) for each in outputs):
        # Where no layer differs by itself, code between layers does: before the first that is given another input.
        layers = {call["key"]: call["layer"] for call in calls}
        masks = list(dict.fromkeys(name for each in records.values() for name in each if "/mask:" in name))
        for call in calls:
            # A layer may give the same numbers with another mask.
            mine = [name for name in masks if name.startswith(f"call/{call['key']}/mask:")]
            made_by = layers.get(call["sources"][0]) if len(call["sources"]) == 1 else None
            of_input: Measurement = {"kind": "input mask", "of": call["key"]}
            mask: Measurement = {"kind": "mask", "layer": made_by} if made_by else of_input
            if any(is_apart(add("forward", name, None, what=mask)) for name in mine):
                break
            # A mask that is passed as an argument is one of the inputs, and may be missing on some backends.
            given = [name for name in names if name.startswith(f"call/{call['key']}/in:")]
            inputs = [name for name in given if all(name in each for each in records.values())]
            of_call: Measurement = {"kind": "input", "of": call["key"]}
            if any(is_apart(add("forward", name, None, what=of_call)) for name in inputs):
                break
    if not with_loss or len(with_loss) == 1 < len(records):
        return found  # There is nothing to compare a loss and gradients with.
    add("loss", "loss", None)
    gradients = [name for name in names if name.startswith("gradient/")]
    largest = max((scale_of(exact[name]) for name in gradients), default=0.0)
    for name in gradients:
        add("gradient", name, name.removeprefix("gradient/"), largest)
    return found


def _masks(found: Arrays) -> dict[str, np.ndarray]:
    """The masks of one tensor; a backend without a mask gets one of ones."""
    one = next(each for each in found.values() if each is not None)
    return {backend: np.ones_like(one) if each is None else each for backend, each in found.items()}


def measure(float64: Arrays, tested: Arrays, floor: float, dtype: str) -> Measurement:
    """Measures one tensor.

    Args:
        float64: The tensor in float64, by backend.
        tested: The tensor in the dtype under test, by backend.
        floor: The noise floor.
        dtype: The dtype under test.

    Returns:
        The measurement, in JSON's types; a number is None where two arrays cannot be compared, or it is not finite.

    Example:
        >>> one = {"a": np.ones(2), "b": np.ones(2) + 1e-3}
        >>> measure(one, one, 1e-7, "float32")["distances"]
        {'a|b': 0.001}
    """
    there = {backend: value for backend, value in float64.items() if value is not None}
    # Other backends may have larger values than the truth, whose scale is 0 where it stays at zero.
    floor = max(floor, eps_of(dtype) * max(map(scale_of, there.values())))
    first = next(iter(there.values()))
    kinds = {backend: kind_of(value.dtype) for backend, value in tested.items() if value is not None}
    pairs = list(combinations(there, 2))
    distances = {f"{a}|{b}": distance(there[a], there[b]) if kinds.get(a) == kinds.get(b) else None for a, b in pairs}
    found: Measurement = {
        "dtype": dtype,
        "shape": list(first.shape),
        "size": finite(rms(first)) if first.dtype.kind in INEXACT else None,
        "floor": floor,
        "backends": list(there),
        "distances": {pair: _rounded(value) for pair, value in distances.items()},
        "differences": {f"{a}|{b}": _rounded(difference(there[a], there[b])) for a, b in pairs},
        "errors": {backend: _rounded(_error(tested.get(backend), value)) for backend, value in there.items()},
        "digests": {backend: _digest(value) for backend, value in tested.items() if value is not None},
    }
    shapes = {name: str(value.shape) for name, value in there.items()}
    if len(set(kinds.values())) > 1:
        found["kinds"] = kinds
    if len(set(shapes.values())) > 1:
        found["shapes"] = shapes
    if absent := [backend for backend, value in float64.items() if value is None]:
        found["absent"] = absent
    lost: Lost = {"float64": _no_numbers(there), "tested": _no_numbers(tested)}
    if any(lost.values()):
        found["not_finite"] = lost
    costly = any(each is None or each > NOISY * floor for each in found["errors"].values())
    if costly or is_apart(found):
        found["elements"] = list(_elements(there, tested, _limit(found), costly=costly))
    return found


def _no_numbers(arrays: Arrays) -> dict[str, str]:
    """The backends whose array holds NaN or infinity, each with the word for it."""
    found = {}
    for backend, array in arrays.items():
        float64 = None if array is None else widened(array)
        if float64 is not None and float64.dtype.kind in INEXACT and not math.isfinite(rms(float64)):
            found[backend] = "NaN" if np.isnan(float64).any() else "infinity"
    return found


def beside_of(found: Measurement) -> Beside:
    """Returns the part of a measurement from moved inputs that is kept: it tells a tie from a difference."""
    return {"distances": found["distances"], "floor": found["floor"], "dtype": found["dtype"]}


def distance(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the root mean square of the difference, or None where the arrays cannot be compared.

    Shapes have to be the same, infinity and NaN have to be the same in both arrays, and integers have to be equal.

    Example:
        >>> distance(np.array([1.0, np.inf]), np.array([1.5, np.inf]))
        0.5
        >>> distance(np.ones(2), np.ones(3)) is None
        True
    """
    if one.shape != other.shape:
        return None
    if one.dtype.kind not in INEXACT or other.dtype.kind not in INEXACT:
        return 0.0 if np.array_equal(one, other) else None
    if math.isfinite(found := _distance(one, other)):
        return found
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(
        one[~finite], other[~finite], equal_nan=True
    ):
        return None
    return _distance(one[finite], other[finite])


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore"):  # Infinity minus infinity is NaN.
        return rms(one - other)


def difference(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the largest difference relative to the largest element; None where shapes, NaN or infinity differ.

    Example:
        >>> difference(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
        0.5
    """
    if one.shape != other.shape:
        return None
    one, other = (each if each.dtype.kind in INEXACT else each.astype(np.float64) for each in (one, other))
    finite = np.isfinite(one) & np.isfinite(other)
    if not finite.all():
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return None
        one, other = one[finite], other[finite]
    apart = np.abs(one - other).max(initial=0.0)
    size = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return float(apart / size) if size else float(apart)


def _measure_group(
    records: Mapping[str, Records], truth: str, key: str, names: Sequence[str], dtype: str
) -> Iterator[Measurement]:
    """Measures the tensors of one stage of one call, which share a scale."""
    mine = [records[truth].get(f"float64/{key}|{name}") for name in names]
    largest = max((scale_of(each) for each in mine if each is not None), default=0.0)
    for name, own in zip(names, mine, strict=True):
        places = [f"perturbed{n}/{key}|{name}" for n in range(PERTURBATIONS)]
        perturbed = [records[truth][place] for place in places if place in records[truth]]
        float64 = {b: own if b == truth else each.get(f"float64/{key}|{name}") for b, each in records.items()}
        # Another backend may have the tensor where the truth does not.
        exact = next(each for each in (own, *float64.values()) if each is not None)
        tested: Arrays = {b: each.get(f"tested/{key}|{name}") for b, each in records.items()}
        tested = of_variables(tested) if name.startswith("state") else tested
        yield {"name": name} | measure(float64, tested, floor_of(exact, perturbed, largest, dtype), dtype)


def of_variables(values: Arrays) -> Arrays:
    """Returns values of a variable by backend, of float64 in float32: its dtype is compared where it is built.

    Args:
        values: The values; None where a backend has none.
    """
    return {
        name: each.astype("float32") if each is not None and each.dtype.name == "float64" else each
        for name, each in values.items()
    }


def _names(records: Mapping[str, Records], truth: str) -> dict[str, list[str]]:
    """The names of what any backend recorded in float64, by call, in the order of the truth's."""
    found: dict[str, dict[str, None]] = {}
    for backend in [truth, *records]:
        for name in records[backend]:
            if name.startswith("float64/"):
                key, _, rest = name.removeprefix("float64/").partition("|")
                found.setdefault(key, {})[rest] = None
    return {key: list(names) for key, names in found.items()}


def _moves(records: Records, still: str) -> Moves | None:
    """How an output moves with its inputs: whether it is computed in float64, and whether it amplifies small changes.

    The inputs are slightly moved, away from any point without a derivative. A part that does not depend on them, such
    as a table that is made in float32, does not show in the slopes: it changes where float32 is replaced by float64.

    Returns:
        None for integers, else the following. A unit is one in the last place of float64 at the output's scale.

        - ``bent``: how far apart the output's slopes are over two steps, of which only float64 resolves the smaller,
          relative to the larger slope;
        - ``bent_widely``: the same for the 95th percentile of the elements: a kink within a step affects only few;
        - ``bent_units``: the same in units over the smaller step: where both slopes are nearly zero by chance, the
          roundoff of float64 makes ``bent`` large, but not this;
        - ``widened_units``: how many units it moves where float32 is replaced by float64;
        - ``moved``: how far a step of 2^-40 moves it, relative to its scale.
    """
    value = records[still]
    if value.dtype.kind not in INEXACT:
        return None
    place, scale = still.partition("/")[2], scale_of(value)
    unit, widened = eps_of("float64") * scale, records.get(f"widened/{place}")
    with np.errstate(invalid="ignore"):
        slopes = [(records[f"{step}/{place}"] - value) / STEPS[step] for step in ("leaned", "pushed")]
        differences = np.abs(slopes[0] - slopes[1])
    bent, steepest = moved_by_how_much(slopes[0], slopes[1]), max(scale_of(slope) for slope in slopes)
    finite_ones = differences[np.isfinite(differences)]
    return {
        "bent": _ratio(bent, steepest),
        "bent_widely": _ratio(float(np.quantile(finite_ones, 0.95)) if finite_ones.size else 0.0, steepest),
        "bent_units": _ratio(bent, unit / STEPS["leaned"]),
        "widened_units": 0.0 if widened is None else _ratio(moved_by_how_much(widened, value), unit),
        "moved": _ratio(moved_by_how_much(records[f"nudged/{place}"], value), scale),
    }


def _ratio(one: float, other: float) -> float:
    """Divides, to nine digits: infinity becomes `_MOST`, since JSON has none, and NaN, as of 0/0, becomes 0."""
    ratio = one / other if other else math.inf * one if one else 0.0
    return 0.0 if math.isnan(ratio) else float(f"{min(ratio, _MOST):.9g}")


def _variable(kind: str, name: str) -> str | None:
    part = name.split("/", 1)[1].removeprefix("variable/")
    if kind not in {"forward", "inference"}:
        return part
    # The first output needs no name.
    return None if part == "0" else f"output {part}"


def is_apart(found: Measurement) -> bool:
    """Tells whether two backends are so far apart that it is worth a look, which is not a verdict.

    Example:
        >>> one = {"a": np.ones(2), "b": np.ones(2) + 1e-3}
        >>> is_apart(measure(one, one, 1e-7, "float32"))
        True
    """
    return any(each is None or each > _limit(found) for each in found["distances"].values())


def _limit(found: Measurement) -> float:
    return _LOOKED_AT * eps_of("float64") / eps_of(found["dtype"]) * float(found["floor"])


def _error(tested: np.ndarray | None, truth: np.ndarray) -> float | None:
    if truth.dtype.kind not in INEXACT:
        return 0.0
    if tested is None or tested.shape != truth.shape:
        return None
    tested = widened(tested)
    if math.isfinite(found := _distance(tested, truth)):
        return found
    finite = np.isfinite(truth)
    return _distance(tested[finite], truth[finite]) if np.isfinite(tested[finite]).all() else None


def _elements(float64: Mapping[str, np.ndarray], tested: Arrays, limit: float, *, costly: bool) -> Iterator[Element]:
    """The first elements that differ, between backends or from float64, by a thousandth of the most that one does."""
    under_test = [widened(each) for each in tested.values() if each is not None]
    if len({each.shape for each in [*float64.values(), *under_test]}) > 1 or not under_test:
        return
    stacked = np.stack([np.asarray(each, np.float64) for each in float64.values()])
    with np.errstate(invalid="ignore"):
        apart = stacked.max(axis=0) - stacked.min(axis=0)
        if costly and not (apart > limit).any():
            apart = np.max([np.abs(each - stacked[0]) for each in under_test], axis=0)
    apart = np.where(np.isfinite(apart), apart, np.where(np.isnan(stacked).all(axis=0), 0.0, np.inf))
    most = apart[np.isfinite(apart)].max(initial=0.0)
    for index in np.argwhere(apart > max(most / 1000, 0.0))[:_ELEMENTS]:
        place = tuple(index)
        yield {
            "index": [int(each) for each in index],
            "float64": {backend: finite(float(each[place])) for backend, each in float64.items()},
            "tested": {backend: finite(float(each[place])) for backend, each in tested.items() if each is not None},
        }


def finite(value: float | None) -> float | None:
    """Returns a finite number as JSON has one, or None."""
    return None if value is None or not np.isfinite(value) else float(value)


def _rounded(value: float | None) -> float | None:
    """Rounds to nine digits, since a report holds many numbers; None for what is not finite."""
    found = finite(value)
    return None if found is None else float(f"{found:.9g}")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.dtype.name.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
