"""What the records of several backends say: the same meaning or another, and what the dtype costs.

What is asked of it:

* meaning is judged in float64, in units of float64's own noise floor; the majority names the odd one out, and of two
  backends neither is blamed;
* cost is judged in the dtype under test, in noise floors, and is news, not a defect;
* where a layer holds others, the innermost one that differs is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlf.noise_floor import NOISY, rms, verdict_of
from dlf.parity.records import Records

__all__ = ["SAME", "Finding", "judge_calls", "judge_simple", "with_ties"]

SAME = 1e5
"""Noise floors of float64 within which results mean the same. Sound ones stay below a hundred; an epsilon of 1e-3 that
is 1% off is 1e10 away, one of 1e-6 1e7."""
ALIKE = 10.0
"""Where every backend loses bits, and none ten times as many as another, it is the layer that loses them."""
SMALLER = 2.0**-29
"""A unit in the last place of float64, in those of float32."""


@dataclass(frozen=True)
class Finding:
    """What is known of one tensor on one backend."""

    stage: str
    layer: str | None
    variable: str | None
    backend: str | None
    verdict: str
    relative_difference: float
    noise_floors: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns it in JSON's types."""
        return {
            "stage": self.stage,
            "layer": self.layer,
            "variable": self.variable,
            "backend": self.backend,
            "verdict": self.verdict,
            "relative_difference": self.relative_difference if np.isfinite(self.relative_difference) else None,
            "noise_floors": None
            if self.noise_floors is None or not np.isfinite(self.noise_floors)
            else self.noise_floors,
        }


def judge_calls(
    records: Mapping[str, Records], truth: str, keys: Sequence[str], paths: Mapping[str, str]
) -> list[Finding]:
    """Judges every call of every layer.

    Args:
        records: Of each backend, what `replay` wrote.
        truth: The backend that has the twins.
        keys: The calls, in their order.
        paths: The path of each call's layer.
    """
    findings: list[Finding] = []
    for key in keys:
        names = [name.split("|", 1)[1] for name in records[truth] if name.startswith(f"float64/{key}|")]
        for stage in ("forward", "gradient", "state"):
            group = [name for name in names if name.startswith(f"{stage}/")]
            findings += _judge_group(records, truth, key, group, stage, paths[key])
    return _innermost(findings)


def _judge_group(  # noqa: PLR0913, PLR0917 - which tensors, of what.
    records: Mapping[str, Records], truth: str, key: str, names: Sequence[str], stage: str, layer: str
) -> Iterator[Finding]:
    """The tensors of one stage of one call, which share a scale."""
    exact = {name: records[truth][f"float64/{key}|{name}"] for name in names}
    largest = max((rms(each) for each in exact.values() if each.dtype.kind == "f"), default=0.0)
    for name, value in exact.items():
        twins = [records[truth][f"twin{n}/{key}|{name}"] for n in range(2) if f"twin{n}/{key}|{name}" in records[truth]]
        floor = floor_of(value, twins, largest)
        part = name.split("/", 1)[1]
        variable = None if stage == "forward" else part.removeprefix("variable/")
        wide = {backend: each.get(f"float64/{key}|{name}") for backend, each in records.items()}
        narrow = {backend: each.get(f"float32/{key}|{name}") for backend, each in records.items()}
        yield from judge_tensor(stage, layer, variable, wide, narrow, floor)


def judge_simple(records: Mapping[str, Records], stage: str, prefix: str) -> list[Finding]:
    """Judges tensors that belong to no layer: of the loss, the update and the optimizer's slots.

    Args:
        records: Of each backend, what `replay` wrote.
        stage: What the findings are of.
        prefix: What their names begin with, after the dtype.
    """
    first = next(iter(records.values()))
    names = [name.split("/", 1)[1] for name in first if name.startswith(f"float64/{prefix}/")]
    findings: list[Finding] = []
    for name in names:
        wide = {backend: each.get(f"float64/{name}") for backend, each in records.items()}
        narrow = {backend: each.get(f"float32/{name}") for backend, each in records.items()}
        value = next(each for each in wide.values() if each is not None)
        findings += judge_tensor(
            stage, None, name.removeprefix(f"{prefix}/"), wide, narrow, floor_of(value, [], rms(value))
        )
    return findings


def with_ties(findings: Sequence[Finding], beside: Sequence[Finding]) -> list[Finding]:
    """Tells ties from defects: where gradients differ at a point, and nowhere beside it, any of them is right.

    Args:
        findings: Of each layer from its own inputs.
        beside: Of the same layers from inputs that were moved a little, where there was a gradient to look into.

    Example:
        >>> at = Finding("gradient", "relu", "input/0", "jax", "diverged", 0.5)
        >>> beside = Finding("gradient", "relu", "input/0", "jax", "rounding", 1e-16)
        >>> with_ties([at], [beside])[0].verdict
        'tie'
    """
    known = {(each.layer, each.variable) for each in beside}
    wrong = {(each.layer, each.variable) for each in beside if each.verdict == "diverged"}
    return [
        replace(each, verdict="tie")
        if is_suspect(each) and (each.layer, each.variable) in known - wrong and np.isfinite(each.relative_difference)
        else each
        for each in findings
    ]


def is_suspect(finding: Finding) -> bool:
    """Tells whether this may be a tie: a gradient that differs."""
    return finding.stage == "gradient" and finding.verdict == "diverged"


def floor_of(truth: np.ndarray, twins: Sequence[np.ndarray], largest: float) -> float:
    """Returns the noise floor of float32 for one tensor: as `dlf.noise_floor.noise_floors`, from what was recorded."""
    eps = float(np.finfo(np.float32).eps)
    moved = rms(np.stack([each - truth for each in twins])) if twins and truth.dtype.kind == "f" else 0.0
    return max(moved, eps * largest, eps / 2 * rms(truth)) or float(np.finfo(np.float32).tiny)


def judge_tensor(  # noqa: PLR0913, PLR0917 - where it is, what it is, and how far apart it may be.
    stage: str,
    layer: str | None,
    variable: str | None,
    wide: Mapping[str, np.ndarray | None],
    narrow: Mapping[str, np.ndarray | None],
    floor: float,
) -> Iterator[Finding]:
    """Judges one tensor: its meaning by float64, and on each backend that means the same what the dtype costs."""
    there = {backend: value for backend, value in wide.items() if value is not None}
    odd, apart = odd_ones(there, floor)
    for backend in odd or ():
        yield Finding(stage, layer, variable, backend, "diverged", apart)
    if odd is None:
        yield Finding(stage, layer, variable, None, "diverged", apart)
        return
    sound = {backend: value for backend, value in there.items() if backend not in odd}
    costs = {backend: _floors(narrow[backend], value, floor) for backend, value in sound.items()}
    noisy = [backend for backend, cost in costs.items() if cost > NOISY]
    lost = [backend for backend, cost in costs.items() if not np.isfinite(cost)]
    for backend, cost in costs.items():
        verdict = verdict_of(cost)
        if lost and len(lost) < len(costs):
            # No number on one backend, where others have one, is no matter of cost.
            verdict = "diverged" if backend in lost else verdict
        elif lost or (len(noisy) == len(costs) > 1 and max(costs.values()) <= ALIKE * min(costs.values())):
            verdict = "unstable"
        yield Finding(stage, layer, variable, backend, verdict, apart, cost)


def odd_ones(values: Mapping[str, np.ndarray], floor: float) -> tuple[list[str] | None, float]:
    """Returns the backends that mean something else than the majority, and by how much relative to the tensor.

    Args:
        values: In float64, by backend.
        floor: The noise floor of float32.

    Returns:
        The odd ones, none where all mean the same, or None where there is no majority.

    Example:
        >>> odd_ones({"a": np.ones(2), "b": np.ones(2), "c": np.full(2, 1.001)}, 1e-7)[0]
        ['c']
    """
    names = list(values)
    same = {name: [other for other in names if is_same(values[name], values[other], floor)] for name in names}
    largest = max(same.values(), key=len)
    apart = max((difference(values[name], values[largest[0]]) for name in names), default=0.0)
    if len(largest) == len(names):
        return [], apart
    if 2 * len(largest) <= len(names):
        return None, apart
    return [name for name in names if name not in largest], apart


def is_same(one: np.ndarray, other: np.ndarray, floor: float) -> bool:
    """Tells whether two results in float64 mean the same."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f" or other.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    # Where one is infinite or no number, the other has to be the same.
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    return rms(one[finite] - other[finite]) <= SAME * SMALLER * floor


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference relative to the largest element; infinity for other shapes or no numbers."""
    if one.shape != other.shape:
        return float("inf")
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    one, other = one[finite], other[finite]
    apart = np.abs(one - other).max(initial=0.0)
    size = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return float(apart / size) if size else float(apart)


def _floors(narrow: np.ndarray | None, truth: np.ndarray, floor: float) -> float:
    if narrow is None or truth.dtype.kind != "f":
        return 0.0
    finite = np.isfinite(truth)
    if not np.isfinite(narrow[finite]).all():
        return float("inf")
    return rms(narrow[finite] - truth[finite]) / floor


def _innermost(findings: list[Finding]) -> list[Finding]:
    """Without what a layer has from one that it holds: that one has it too."""
    wrong = {(each.layer, each.backend) for each in findings if each.verdict == "diverged"}

    def is_inherited(each: Finding) -> bool:
        return each.verdict == "diverged" and any(
            layer is not None and layer.startswith(f"{each.layer}/") and backend == each.backend
            for layer, backend in wrong
        )

    return [each for each in findings if not is_inherited(each)]
