"""What measurements are judged beside: which backend is the truth, and what is known of the place of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dlf.numerics.noise_floor import scale_of
from dlf.parity._answers import BuildAnswer, CallAnswer, TraceAnswer
from dlf.parity._judging.measure import is_apart
from dlf.parity._judging.measurement import Measurement
from dlf.parity._records import Records

__all__ = ["before_any_difference", "cancelled_gradients", "choose_truth", "note_data", "note_origins"]

_CANCELLED = 1e-10
"""A share of the largest gradient: a smaller one is roundoff of float64, or does not matter. Those that cancel are at
1e-16."""


def choose_truth(traced: Mapping[str, TraceAnswer], records: Mapping[str, Records]) -> str:
    """The backend whose numbers the others are given: the one with the most finite results.

    Among those with as many, it is one whose loss, or else output, the most others share.
    """
    # Where the model's own step comes through, there are the calls of all layers; and where its loss does, what layers
    # are given from behind.
    traced = {name: each for name, each in traced.items() if each["step_heard"]} or traced
    traced = {name: each for name, each in traced.items() if not each["loss_fails"]} or traced
    name = "loss" if all("loss" in each for each in records.values()) else "float64/prediction:0"
    if not all(name in each for each in records.values()):
        return next(iter(traced))  # A model that is only trained has neither.
    values = {backend: records[backend][name] for backend in traced}

    def numbers(backend: str) -> int:
        found = records[backend]
        return sum(
            bool(np.isfinite(found[each]).all())
            for each in found
            if each == name or each.startswith(("gradient/", "float64/prediction")) or "/incoming:" in each
        )

    def shared(backend: str) -> int:
        alike = [each.shape == values[backend].shape for each in values.values()]
        return sum(
            same and bool(np.allclose(values[backend], each, rtol=1e-9, atol=0.0, equal_nan=True))
            for same, each in zip(alike, values.values(), strict=True)
        )

    return max(values, key=lambda backend: (numbers(backend), shared(backend)))


def note_origins(measurements: Iterable[Measurement], truth: Records, calls: Iterable[CallAnswer]) -> None:
    """Notes for each tensor that is not finite whether all inputs of its layer were: if so, it began there."""
    called = {call["key"]: call for call in calls}
    for each in measurements:
        if "not_finite" not in each or each["call"] not in called:
            continue
        incoming = f"call/{each['call']}/incoming:"
        given = [name for name in truth if name.startswith(incoming)] if each["stage"] == "gradient" else []
        each["from_numbers"] = called[each["call"]]["given_numbers"] and all(
            np.isfinite(truth[name]).all() for name in given
        )


def note_data(measurements: Iterable[Measurement], built: Iterable[BuildAnswer], calls: Iterable[CallAnswer]) -> None:
    """Notes for each gradient by a layer's input whether no trained variable comes before: it goes nowhere then."""
    variables = [each for answer in built for each in answer["variables"] if each["trainable"]]
    before = _before_any_variable({each["layer"] for each in variables}, calls)
    for each in measurements:
        if each["stage"] == "gradient" and each["call"] in before and str(each["variable"]).startswith("input/"):
            each["of_data"] = True


def _before_any_variable(holding: Collection[Any], calls: Iterable[CallAnswer]) -> set[str]:
    """The calls that come before any layer that holds a trained variable; none if one is held by no layer."""
    before: set[str] = set()
    if not all(holding):
        return before
    for call in calls:
        layer = call["layer"]
        if not any(layer.startswith(f"{each}/") for each in holding):
            before.add(call["key"])
        if any(each == layer or each.startswith(f"{layer}/") for each in holding):
            break  # What is called later may get what this layer gives, by whatever operations.
    return before


def before_any_difference(whole: Iterable[Measurement], calls: Sequence[CallAnswer]) -> set[str]:
    """The layers right before the place where the whole model starts to differ.

    One of them may only round to float32, which does not show when it is replayed from rounded inputs.
    """
    apart = [each for each in whole if each["stage"] == "forward" and is_apart(each)]
    if not apart:
        return set()
    given = {call["key"]: call["sources"] for call in calls}
    before = [source for each in apart if each.get("kind") == "input" for source in given[each["of"]]]
    taken = {source for sources in given.values() for source in sources}
    return {call["layer"] for call in calls if call["key"] in (before or {call["key"]} - taken)}


def cancelled_gradients(trace: Records) -> set[str]:
    """The variables whose gradients are zero but for roundoff, where others are not."""
    sizes = {name.removeprefix("gradient/"): scale_of(trace[name]) for name in trace if name.startswith("gradient/")}
    largest = max(sizes.values(), default=0.0)
    return {name for name, size in sizes.items() if size <= _CANCELLED * largest}
