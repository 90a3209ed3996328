"""What the records of several backends amount to: a few numbers for each tensor, enough to judge it, and again.

What is asked of it:

* distances in float64 between every two backends, errors in the dtype under test on each, and the noise floor: no
  verdict, and no constant of one;
* one tensor is in memory at a time;
* of what differs, the first elements are kept, for people to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from dlf.noise_floor import eps_of, floor_of, rms, widened
from dlf.parity.records import Records

__all__ = ["Measurement", "measure", "measure_calls", "measure_training", "measure_trajectory", "measure_whole"]

Measurement: TypeAlias = dict[str, Any]
Arrays: TypeAlias = Mapping[str, np.ndarray | None]

_LOOKED_AT = 1e3
"""Noise floors of float64 above which elements are kept; what is judged is far above."""
_ELEMENTS = 5


def measure_calls(
    records: Mapping[str, Records],
    truth: str,
    calls: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Records] | None = None,
) -> list[Measurement]:
    """Measures what every layer gives, by itself.

    Args:
        records: Of each backend, what the worker's `replay` wrote.
        truth: The backend that has the twins.
        calls: As the worker describes them.
        beside: Of each backend, what `replay_beside` wrote, where it was asked to.

    Example:
        >>> measure_calls({}, "jax", [])
        []
    """
    found: list[Measurement] = []
    for call in calls:
        names = _names(records[truth], call["key"])
        own_dtype = bool(beside) and all(_is_in_own_dtype(each, call["key"]) for each in (beside or {}).values())
        for kind in ("forward", "inference", "gradient", "state", "loss"):
            group = [name for name in names if name.startswith(f"{kind}/")]
            for one in _measure_group(records, truth, call["key"], group, call["dtype"]):
                place = {
                    "stage": "forward" if kind == "inference" else kind,
                    "layer": call["layer"],
                    "call": call["key"],
                    "variable": _variable(kind, one.pop("name")),
                    "mode": "inference" if kind == "inference" else None,
                }
                if own_dtype:
                    place["own_dtype"] = call["longest"]
                found.append(place | one)
    if beside and truth in beside:
        _add_beside(found, beside, truth, calls)
    return found


def _add_beside(
    found: list[Measurement], beside: Mapping[str, Records], truth: str, calls: Sequence[Mapping[str, Any]]
) -> None:
    """Adds to each gradient how far apart the backends are beside the point."""
    at = {(each["call"], each["variable"]): each for each in found if each["stage"] == "gradient"}
    for call in calls:
        names = [name for name in _names(beside[truth], call["key"]) if name.startswith("gradient/")]
        for one in _measure_group(beside, truth, call["key"], names, call["dtype"]):
            key = (call["key"], _variable("gradient", one["name"]))
            if key in at:
                at[key]["beside"] = {part: one[part] for part in ("same", "floor", "dtype")}


def measure_training(
    records: Mapping[str, Records], truth: str, dtypes: Mapping[str, str], dtype: str
) -> list[Measurement]:
    """Measures the loss and the optimizer, by themselves.

    Args:
        records: Of each backend, what `replay_training` wrote.
        truth: The backend that has the twins.
        dtypes: Of each variable, by its path.
        dtype: The dtype under test.
    """
    found: list[Measurement] = []
    for kind, stage in (("loss", "loss"), ("update", "update"), ("slot", "update")):
        names = [name for name in _names(records[truth], "") if name.startswith(f"{kind}/")]
        for one in _measure_group(
            records, truth, "", names, dtypes.get(names[0].split("/", 1)[1], dtype) if names else dtype
        ):
            variable = one.pop("name").split("/", 1)[1]
            if kind == "slot":
                variable = variable.split(":", 1)[1]
            found.append({"stage": stage, "layer": None, "call": None, "variable": variable, "mode": None} | one)
    return found


def measure_whole(
    records: Mapping[str, Records], truth: str, calls: Sequence[Mapping[str, Any]], dtype: str
) -> list[Measurement]:
    """Measures the whole model, with all that a layer inherits: outputs, loss and gradients, and the cost of them all.

    Args:
        records: Of each backend, what `trace` wrote.
        truth: The backend that is taken for the truth.
        calls: As the worker describes them.
        dtype: The dtype under test.
    """
    found: list[Measurement] = []
    exact = records[truth]

    def add(stage: str, name: str, variable: str | None, largest: float | None = None) -> Measurement:
        wide = {backend: each.get(name) for backend, each in records.items()}
        there = name.startswith("wide/")
        narrow = {b: each.get(name.replace("wide/", "narrow/", 1)) for b, each in records.items()} if there else wide
        size = rms(exact[name]) if largest is None else largest
        place = {"stage": stage, "layer": None, "call": None, "variable": variable, "mode": "whole"}
        found.append(place | measure(wide, narrow, floor_of(exact[name], [], size, dtype), dtype))
        return found[-1]

    names = list(exact)
    outputs = [add("forward", name, name.split("/", 1)[1]) for name in names if name.startswith("wide/")]
    if any(_is_apart(each) for each in outputs):
        # Where no layer is to blame, what is between them is: the first that gets something else says where.
        for call in calls:
            inputs = [name for name in names if name.startswith(f"{call['key']}/in:")]
            if any(_is_apart(add("forward", name, f"the input of {call['key']}")) for name in inputs):
                break
    if "loss" in exact:
        add("loss", "loss", None)
    gradients = [name for name in names if name.startswith("gradient/")]
    largest = max((rms(exact[name]) for name in gradients), default=0.0)
    for name in gradients:
        add("gradient", name, name.removeprefix("gradient/"), largest)
    return found


def measure_trajectory(  # noqa: PLR0913, PLR0917 - three kinds of runs.
    free: Mapping[str, Records],
    single: Mapping[str, Records],
    twins: Records,
    truth: str,
    steps: int,
    dtype: str,
    updates: Mapping[str, float],
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures training: each step from where the truth was, and free runs against perturbed twins.

    Args:
        free: Of each backend, what `train` wrote.
        single: Of each backend, what `train_from` wrote.
        twins: What `train_twins` wrote.
        truth: The backend that is taken for the truth.
        steps: How many were taken.
        dtype: The dtype under test.
        updates: The noise floor of one update of each variable: the optimizer may blow up a gradient that is zero but
            for roundoff, as Adam does.

    Returns:
        The measurements, and the curves: losses, distances from the truth, and the envelope of the twins.
    """
    found: list[Measurement] = []
    names = [name.split("/", 2)[2] for name in free[truth] if name.startswith("wide/0/")]
    distance: dict[str, list[float | None]] = {backend: [] for backend in free}
    envelope: list[float | None] = []
    for step in range(steps):
        squares, spread = dict.fromkeys(free, 0.0), 0.0
        exact = {name: free[truth][f"wide/{step}/{name}"] for name in names}
        # One scale for all: a bias that stays at zero but for roundoff, which Adam blows up, is no larger for it.
        largest = {
            kind: max(
                (rms(each) for name, each in exact.items() if _is_slot(name) is kind and each.dtype.kind == "f"),
                default=0.0,
            )
            for kind in (True, False)
        }
        for name in names:
            place: dict[str, Any] = {
                "stage": "trajectory",
                "layer": None,
                "call": None,
                "variable": name.split(":", 2 if _is_slot(name) else 1)[-1],
                "step": step,
            }
            moved = [single[truth][key] for n in range(2) if (key := f"twin{n}/{step}/{name}") in single[truth]]
            wide = {backend: each.get(f"wide/{step}/{name}") for backend, each in single.items()}
            narrow = {backend: each.get(f"narrow/{step}/{name}") for backend, each in single.items()}
            floor = floor_of(exact[name], moved, largest[_is_slot(name)], dtype)
            floor = max(floor, updates.get(place["variable"], 0.0))
            found.append(place | {"mode": "resynchronised"} | measure(wide, narrow, floor, dtype))
            apart = [twins[key] for n in range(2) if (key := f"twin{n}/{step}/{name}") in twins]
            wide = {backend: each.get(f"wide/{step}/{name}") for backend, each in free.items()}
            narrow = {backend: each.get(f"free/{step}/{name}") for backend, each in single.items()}
            wandered = floor_of(exact[name], apart, largest[_is_slot(name)], dtype)
            found.append(place | {"mode": "free", "one_step": floor} | measure(wide, narrow, wandered, dtype))
            if exact[name].dtype.kind == "f" and not _is_slot(name):
                for backend, value in narrow.items():
                    if value is not None:
                        squares[backend] += float(np.sum((widened(value) - exact[name]) ** 2))
                spread += max((float(np.sum((each - exact[name]) ** 2)) for each in apart), default=0.0)
        for backend, square in squares.items():
            distance[backend].append(_number(square**0.5))
        envelope.append(_number(spread**0.5))
    losses = {
        "float64": {backend: _numbers(each["wide/losses"]) for backend, each in free.items()},
        "narrow": {backend: _numbers(each["free/losses"]) for backend, each in single.items()},
    }
    return found, {"losses": losses, "distance": distance, "envelope": envelope}


def measure(wide: Arrays, narrow: Arrays, floor: float, dtype: str) -> Measurement:
    """Measures one tensor.

    Args:
        wide: In float64, by backend.
        narrow: In the dtype under test, by backend.
        floor: The noise floor.
        dtype: The dtype under test.

    Returns:
        Numbers in JSON's types; None where two are not to be compared, or one is not finite.

    Example:
        >>> one = {"a": np.ones(2), "b": np.ones(2) + 1e-3}
        >>> measure(one, one, 1e-7, "float32")["same"]
        {'a|b': 0.001}
    """
    there = {backend: value for backend, value in wide.items() if value is not None}
    first = next(iter(there.values()))
    kinds = {backend: _kind(value) for backend, value in narrow.items() if value is not None}
    pairs = list(combinations(there, 2))
    same = {f"{a}|{b}": distance(there[a], there[b]) if kinds.get(a) == kinds.get(b) else None for a, b in pairs}
    found: Measurement = {
        "dtype": dtype,
        "shape": list(first.shape),
        "size": _number(rms(first)) if first.dtype.kind == "f" else None,
        "floor": floor,
        "backends": list(there),
        "same": {pair: _rounded(value) for pair, value in same.items()},
        "apart": {f"{a}|{b}": _rounded(difference(there[a], there[b])) for a, b in pairs},
        "errors": {backend: _rounded(_error(narrow.get(backend), value)) for backend, value in there.items()},
        "digests": {backend: _digest(value) for backend, value in narrow.items() if value is not None},
    }
    limit = _LOOKED_AT * eps_of("float64") / eps_of(dtype) * floor
    costly = any(each is None or each > 30 * floor for each in found["errors"].values())
    if costly or any(each is None or each > limit for each in same.values()):
        found["elements"] = list(_elements(there, narrow, limit, costly=costly))
    return found


def distance(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the root of the mean square of the difference, or None where there is none to be had.

    Where one is infinite or no number, the other has to be the same; and integers have to be equal.

    Example:
        >>> distance(np.array([1.0, np.inf]), np.array([1.5, np.inf]))
        0.5
        >>> distance(np.ones(2), np.ones(3)) is None
        True
    """
    if one.shape != other.shape:
        return None
    if one.dtype.kind != "f" or other.dtype.kind != "f":
        return 0.0 if np.array_equal(one, other) else None
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(
        one[~finite], other[~finite], equal_nan=True
    ):
        return None
    return rms(one[finite] - other[finite])


def difference(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the largest difference relative to the largest element; None for other shapes or numbers that are none.

    Example:
        >>> difference(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
        0.5
    """
    if one.shape != other.shape:
        return None
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return None
    one, other = one[finite], other[finite]
    apart = np.abs(one - other).max(initial=0.0)
    size = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return float(apart / size) if size else float(apart)


def _measure_group(
    records: Mapping[str, Records], truth: str, key: str, names: Sequence[str], dtype: str
) -> Iterator[Measurement]:
    """The tensors of one stage of one call, which share a scale."""
    sizes = {name: records[truth][f"wide/{key}|{name}"] for name in names}
    largest = max((rms(each[np.isfinite(each)]) for each in sizes.values() if each.dtype.kind == "f"), default=0.0)
    for name in names:
        value = records[truth][f"wide/{key}|{name}"]
        twins = [records[truth][place] for n in range(2) if (place := f"twin{n}/{key}|{name}") in records[truth]]
        floor = floor_of(value, twins, largest, dtype)
        wide = {backend: each.get(f"wide/{key}|{name}") for backend, each in records.items()}
        narrow = {backend: each.get(f"narrow/{key}|{name}") for backend, each in records.items()}
        yield {"name": name} | measure(wide, narrow, floor, dtype)


def _names(records: Records, key: str) -> list[str]:
    return [name.split("|", 1)[1] for name in records if name.startswith(f"wide/{key}|")]


def _is_in_own_dtype(records: Records, key: str) -> bool:
    """Whether a layer does not see that its inputs have moved where only float64 can tell, and else does."""
    names = [name.split("|", 1)[1] for name in records if name.startswith(f"still/{key}|forward/")]

    def moves(title: str) -> bool:
        return any(
            not np.array_equal(records[f"still/{key}|{name}"], records[f"{title}/{key}|{name}"]) for name in names
        )

    return bool(names) and not moves("nudged") and moves("wide")


def _variable(kind: str, name: str) -> str | None:
    part = name.split("/", 1)[1].removeprefix("variable/")
    # Which output is of interest only where there are several.
    return (
        None
        if kind in {"forward", "inference"} and part == "0"
        else f"output {part}"
        if kind in {"forward", "inference"}
        else part
    )


def _is_slot(name: str) -> bool:
    return name.startswith("slot:")


def _is_apart(found: Measurement) -> bool:
    limit = _LOOKED_AT * eps_of("float64") / eps_of(found["dtype"]) * found["floor"]
    return any(each is None or each > limit for each in found["same"].values())


def _error(narrow: np.ndarray | None, truth: np.ndarray) -> float | None:
    if narrow is None or truth.dtype.kind != "f" or narrow.shape != truth.shape:
        return 0.0
    narrow, finite = widened(narrow), np.isfinite(truth)
    return rms(narrow[finite] - truth[finite]) if np.isfinite(narrow[finite]).all() else None


def _elements(
    wide: Mapping[str, np.ndarray], narrow: Arrays, limit: float, *, costly: bool
) -> Iterator[dict[str, Any]]:
    """The first elements that differ, between backends or from the truth, by a thousandth of what most do."""
    shapes = {each.shape for each in wide.values()}
    if len(shapes) > 1:
        return
    stacked = np.stack([np.asarray(each, np.float64) for each in wide.values()])
    with np.errstate(invalid="ignore"):
        apart = stacked.max(axis=0) - stacked.min(axis=0)
        if costly and not (apart > limit).any():
            apart = np.max([np.abs(widened(each) - stacked[0]) for each in narrow.values() if each is not None], axis=0)
    apart = np.where(np.isfinite(apart), apart, np.where(np.isnan(stacked).all(axis=0), 0.0, np.inf))
    most = apart[np.isfinite(apart)].max(initial=0.0)
    for index in np.argwhere(apart > max(most / 1000, 0.0))[:_ELEMENTS]:
        place = tuple(index)
        yield {
            "index": [int(each) for each in index],
            "float64": {backend: _plain(each[place]) for backend, each in wide.items()},
            "narrow": {backend: _plain(each[place]) for backend, each in narrow.items() if each is not None},
        }


def _plain(value: Any) -> float | int | bool | None:
    return _number(float(value))


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _numbers(array: np.ndarray) -> list[float | None]:
    return [_number(float(each)) for each in array]


def _rounded(value: float | None) -> float | None:
    """To nine digits: there are many."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.9g}")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.dtype.name.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def _kind(array: np.ndarray) -> str:
    # JAX without x64 has no int64: how wide integers are is the framework's business.
    return "integer" if array.dtype.kind in "iu" else array.dtype.name
