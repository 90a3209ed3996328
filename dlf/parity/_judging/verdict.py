"""Judges measurements: whether backends compute the same, and what the dtype under test costs.

Requirements:

* whether backends compute the same (have the same meaning) is judged in float64, in units of float64's own noise floor;
  the majority decides which backend differs, and of two backends neither is blamed;
* the cost is judged in the dtype under test, in noise floors; it is reported, and is not a defect;
* NaN and infinity are never right where a backend has a finite result; a tensor that cannot be judged is reported as
  such; neither counts as the same;
* a difference is named once, where it begins: in the innermost layer, and in a part rather than in the whole model;
* verdicts depend only on the measurements and a few thresholds, so that a report can be judged again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dlf.numerics.noise_floor import LOW_PRECISION, NOISY, STEPS, eps_of, verdict_of
from dlf.parity._judging.measurement import Measurement, Moves
from dlf.parity.options import STAGES

__all__ = [
    "PLACE",
    "Finding",
    "Thresholds",
    "is_suspect",
    "judge",
    "judge_each",
    "judged_in_own_dtype",
    "outvoted",
    "own_dtypes",
    "with_context",
]


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the verdict; the fault bench measures what smaller and larger values of each would change.

    Args:
        same: Noise floors of float64 within which backends count as the same. Sound layers stay below a hundred; an
            epsilon of 1e-3 that is wrong by 1% is 1e10 away, one of 1e-6 1e7.
        noisy: Noise floors of the dtype under test above which an error is larger than arithmetic has to cost.
        low_precision: Noise floors above which only arithmetic of lower precision explains an error.
        alike: If every backend is noisy, and none by this factor more than another, it is the layer that loses bits.
        roundoff: How many times as far apart two backends may be as float64's roundoff moves a perturbed run: in a
            model that amplifies, another order of summation moves them that far. Likewise with the error that every
            backend has in the dtype under test, in proportion.
        whole: How many times as far apart the results of a whole model may be as those of one layer: roundoff grows
            from layer to layer.
        bent: The relative difference between an output's slopes over a tiny and over a larger step above which part of
            the layer computes in float32. It is as large as that part's share, and 1e-6 without such a part.
        bent_widely: The same for the 95th percentile of the elements: 0.003 for a masked attention in a block, and for
            a layer in float64 1e-6 plus its curvature.
        bent_apart: How many times as large the difference between slopes has to be as on another backend, since a kink
            shows on every backend. Where an attention's weights are nearly equal, float32 moves few elements, and the
            difference is a thousand times as large.
        rounded: Units in the last place of float64 by which an output may be off before it counts as changed, or its
            slope as bent.
        amplified: The relative change of a layer's output, for a step of 2^-40 in its inputs, above which the layer
            amplifies: float64's roundoff is no longer small behind it.
    """

    same: float = 1e5
    noisy: float = NOISY
    low_precision: float = LOW_PRECISION
    alike: float = 10.0
    whole: float = 1e3
    roundoff: float = 1e3
    bent: float = 0.01
    bent_widely: float = 1e-4
    bent_apart: float = 100.0
    rounded: float = 16.0
    amplified: float = 1e-4


_FAR = 0.1
"""A share of a tensor's scale: where every backend is further from the float64 form, that computes something else."""
_JUMPS = 0.01
"""A share of a tensor's scale: what a step of 2^-40 moves further than this, roundoff may move anywhere."""


_OF_STEPS = ("resynchronised", "free")
"""The modes of what is taken from steps of training: each from where the truth was before it, or all freely."""


PLACE = ("stage", "layer", "variable", "kind", "of", "call", "mode", "step")
"""The fields of a finding that say where it is; the others say what was found there, and on which backend."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one tensor on one backend, or on all where none is blamed."""

    stage: str
    layer: str | None
    variable: str | None
    backend: str | None
    verdict: str
    relative_difference: float | None = 0.0
    noise_floors: float | None = None
    call: str | None = None
    mode: str | None = None
    step: int | None = None
    reason: str | None = None
    detail: str | None = None
    """What to report beside the distance, such as that the tensor holds NaN or is missing."""
    from_numbers: bool = False
    """For a tensor that is not finite: whether all inputs were finite."""
    kind: str | None = None
    """What it is, if it is no variable: as in a `Measurement`, ``"output"`` of a model or a layer, or ``"fit"``."""
    of: str | None = None
    """The call or the metric that the kind is of."""
    lost: bool = False
    """Whether it is NaN or infinite."""
    of_data: bool = False
    """Whether it is a gradient by the model's own data, which training does not take."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding in JSON's types."""
        return asdict(self)


def judge(
    measurements: Sequence[Measurement], backends: Sequence[str], thresholds: Thresholds | None = None
) -> list[Finding]:
    """Judges measurements on some of the backends that were measured.

    Args:
        measurements: The measurements, in the order of the stages.
        backends: The backends to compare.
        thresholds: The thresholds of the verdict.

    Returns:
        The findings, in the order of the measurements; each difference is named once, where it begins.
    """
    thresholds = thresholds or Thresholds()
    in_context = with_context(measurements, thresholds)
    parts = [each for each in in_context if _is_part(each)]
    whole = [each for each in in_context if each["mode"] == "whole"]
    steps = [each for each in in_context if each["mode"] in _OF_STEPS]
    findings = _innermost([each for one in parts for each in judge_each(one, backends, thresholds)])
    broken = any(each.verdict == "diverged" and not each.of_data for each in findings)
    tied = any(each.verdict == "tie" for each in findings)
    of_whole = [each for one in whole for each in judge_each(one, backends, thresholds)]
    # The cost of rounding is reported of the parts, where there are any.
    of_parts = {each.stage for each in findings}
    findings += [
        each
        for each in of_whole
        if each.verdict in {"not finite", "not judged"} or (each.verdict != "diverged" and each.stage not in of_parts)
    ]
    if not broken:
        # Only here: where a part differs, the whole model differs too.
        wrong = [each for each in of_whole if each.verdict == "diverged"]
        # A tie makes gradients differ, but nothing before them; steps are taken with slightly moved weights too.
        wrong = [each for each in wrong if each.stage != "gradient" or not tied]
        findings += _where_it_begins(wrong)
        broken = bool(wrong)
    trained = _where_a_step_begins([(one, each) for one in steps for each in judge_each(one, backends, thresholds)])
    # Where a step by itself differs or meets a tie, the free run differs because of it.
    apart = any(each.verdict in {"diverged", "tie"} and each.mode == "resynchronised" for each in trained)
    return findings + [
        each for each in trained if each.verdict != "diverged" or not (broken or (apart and each.mode == "free"))
    ]


def judge_each(measured: Measurement, backends: Sequence[str], thresholds: Thresholds) -> Iterator[Finding]:
    """Judges one tensor: whether backends agree in float64 and, on each that does, what the dtype costs."""
    there = [name for name in backends if name in measured["backends"]]
    if not there:
        return
    place = Finding(
        measured["stage"],
        measured["layer"],
        measured["variable"],
        None,
        "diverged",
        None,
        call=measured["call"],
        mode=measured["mode"],
        step=measured.get("step"),
        from_numbers=bool(measured.get("from_numbers")),
        of_data=bool(measured.get("of_data")),
        kind=measured.get("kind"),
        of=measured.get("of"),
    )
    absent = [name for name in backends if name in measured.get("absent", ())]
    yield from (replace(place, backend=name, detail="which is not there") for name in absent)
    if _is_blind(measured, thresholds):
        # At a tie, roundoff decides which side is taken; for slightly moved inputs, backends can be compared.
        measured = {**measured, "roundoff": 0.0}
        if "beside" not in measured or _odd_beside(measured, there, thresholds):
            blind = replace(place, verdict="not judged", detail="float64's own roundoff takes it as far as it is large")
            yield from (replace(blind, backend=name) for name in there)
            return
    best = "identical" if len({measured["digests"].get(name) for name in there}) == 1 < len(there) else "rounding"
    lost = {name: what for name, what in _not_finite(measured, "float64").items() if name in there}
    if lost and measured.get("from_numbers") is False:
        # What a layer makes of inputs that are not finite, as a ReLU of a gradient of NaN, says nothing of the layer.
        yield from (
            replace(place, backend=name, verdict="not finite", detail=what, lost=True) for name, what in lost.items()
        )
        return
    if len(lost) < len(there):
        # Where one backend has a finite result, NaN and infinity are wrong, however many backends have them.
        yield from (replace(place, backend=name, detail=what, lost=True) for name, what in lost.items())
        there, lost = [name for name in there if name not in lost], {}
    odd, apart = _odd_ones(measured, there, thresholds)
    wrong = "tie" if odd and _is_tie(measured, there, thresholds) else "diverged"
    if not odd and _is_stepwise(measured, thresholds):
        odd = _odd_beside(measured, there, thresholds)
    yield from (_another(measured, replace(place, backend=name, verdict=wrong), apart) for name in odd)
    if None not in odd:
        same = [name for name in there if name not in odd]
        yield from _alike(measured, same, lost, replace(place, verdict=best, relative_difference=apart), thresholds)


def _another(measured: Measurement, place: Finding, apart: float | None) -> Finding:
    """The finding on a backend that differs: how far apart it is, or which other dtype or shape it has."""
    other: Mapping[str, str] = measured.get("shapes") or measured.get("kinds") or {}
    if place.backend is None or place.backend not in other:
        return replace(place, relative_difference=apart)
    return replace(place, detail=f"which is {other[place.backend]} there")


def _alike(
    measured: Measurement, names: Sequence[str], lost: Mapping[str, str], place: Finding, thresholds: Thresholds
) -> Iterator[Finding]:
    """The findings on backends that agree: not finite, or what the dtype costs; the best verdict is that of `place`."""
    if lost:
        yield from (replace(place, backend=name, verdict="not finite", detail=lost[name], lost=True) for name in names)
        return
    for name, verdict, cost, detail in _costs(measured, names, thresholds):
        floors, said = cost if math.isfinite(cost) else None, place.verdict if verdict == "rounding" else verdict
        yield replace(
            place,
            backend=name,
            verdict=said,
            noise_floors=floors,
            detail=detail,
            lost=detail is not None and verdict != "not judged",
        )


def _costs(
    measured: Measurement, names: Sequence[str], thresholds: Thresholds
) -> Iterator[tuple[str, str, float, str | None]]:
    """What the dtype costs on each of the backends that agree: its name, verdict, noise floors and detail."""
    costs = {name: _cost(measured, name) for name in names}
    noisy = [name for name, cost in costs.items() if cost > thresholds.noisy]
    lost = [name for name, cost in costs.items() if not math.isfinite(cost)]
    # Where roundoff is as large as the result, it is chance that one run overflows and another does not.
    chaotic = float(measured.get("roundoff", 0.0)) >= (measured["size"] or math.inf)
    roundoff = "cancelled" in measured and _odd_ones(measured, names, thresholds, strictly=True)[0]
    for name, cost in costs.items():
        verdict = verdict_of(cost, thresholds.noisy, thresholds.low_precision)
        what = _not_finite(measured, "tested").get(name)
        if lost and len(lost) < len(costs) and not chaotic:
            # NaN or infinity on one backend, where others are finite, is a difference and not a cost.
            verdict = "diverged" if name in lost else verdict
        elif lost:
            verdict = "not finite" if what else "unstable"
        elif _is_of_another(measured, costs, thresholds):
            verdict, what = "not judged", "float64 gives something else than the model on every backend"
        elif roundoff or (
            len(noisy) == len(costs) > 1 and max(costs.values()) <= thresholds.alike * min(costs.values())
        ):
            verdict = "unstable"
        if measured["mode"] == "free" and verdict == "rounding":
            # The error is within the spread of the perturbed runs: it is chaos if it is more than one step explains.
            verdict = "chaos" if cost * measured["floor"] > thresholds.noisy * measured["one_step"] else verdict
        detail = f"{what} in {measured['dtype']}" if what and name in lost else what
        yield name, verdict, cost, detail


def _is_of_another(measured: Measurement, costs: Mapping[str, float], thresholds: Thresholds) -> bool:
    """Whether every backend is further from the float64 form than rounding explains: then that computes something else.

    Never where all backends have the same bits, as where each takes a tiny number for zero.
    """
    if len({measured.get("digests", {}).get(name, name) for name in costs}) == 1:
        return False
    size = measured["size"] or 0.0
    far = [cost > thresholds.same and cost * measured["floor"] > _FAR * size > 0.0 for cost in costs.values()]
    return all(far) and len(far) > 1 and _is_part(measured)


def _not_finite(measured: Measurement, precision: Literal["float64", "tested"]) -> Mapping[str, str]:
    """The backends on which a tensor holds NaN or infinity, in float64 or in the dtype under test."""
    return measured["not_finite"][precision] if "not_finite" in measured else {}


def _is_blind(measured: Measurement, thresholds: Thresholds) -> bool:
    """Whether the roundoff of float64 alone may move a tensor by its whole scale: then it cannot be judged.

    Free runs are left out: they may go anywhere, since each step is judged by itself.
    """
    scale = max(measured["size"] or 0.0, measured.get("scale", 0.0))
    may = thresholds.roundoff * float(measured.get("roundoff", 0.0)) >= scale > 0.0
    return may and measured["mode"] in {"whole", "resynchronised"} and "cancelled" not in measured


def own_dtypes(measured: Measurement, thresholds: Thresholds) -> dict[str, int]:
    """Returns the backends on which a tensor has no float64 form, each with how many terms its sums may have.

    Args:
        measured: One tensor of a layer, a loss or a whole model.
        thresholds: The thresholds of the verdict.

    Example:
        >>> half = {"bent": 0.5, "bent_widely": 0.5, "bent_units": 1e6, "widened_units": 0.0, "moved": 1e-12}
        >>> own_dtypes({"moves": {"jax": [half], "torch": []}, "longest": 8}, Thresholds())
        {'jax': 8}
    """
    # A variable that has a dtype of its own has it on every backend.
    found = dict.fromkeys(measured["backends"], measured["own_dtype"]) if "own_dtype" in measured else {}
    bent = _bent_ones(measured, thresholds)
    for name, moves in measured.get("moves", {}).items():
        if name in bent or any(each["widened_units"] > thresholds.rounded for each in moves):
            found[name] = measured["longest"]
    # What holds a layer without a float64 form has none either.
    for name, longest in measured.get("inherited", {}).items():
        found[name] = max(found.get(name, 0), longest)
    return found


def judged_in_own_dtype(measured: Measurement, thresholds: Thresholds) -> int | None:
    """Returns how many terms the sums of a tensor may have, if it lacks a float64 form on a backend, or None.

    Args:
        measured: One tensor of a layer, a loss or a whole model.
        thresholds: The thresholds of the verdict.
    """
    return max(own_dtypes(measured, thresholds).values(), default=None)


def is_suspect(finding: Finding) -> bool:
    """Tells whether a finding has to be looked into: a layer that differs may be at a tie, or have no float64 form."""
    # A layer's "loss" is the penalty that it adds to the loss.
    looked_into = {"forward", "gradient", "loss"}
    return finding.verdict == "diverged" and finding.layer is not None and finding.stage in looked_into


def _is_part(measured: Measurement) -> bool:
    """Whether a tensor is of a layer, the loss or the optimizer by itself."""
    return measured.get("mode") not in {"whole", *_OF_STEPS}


def with_context(measurements: Sequence[Measurement], thresholds: Thresholds) -> list[Measurement]:
    """Returns the measurements, each with what others show: which parts lack a float64 form, and what amplifies.

    A layer gets what the layers inside it show; the whole model and its training get what all parts show.

    Args:
        measurements: Of the layers, the loss and the optimizer, of the whole model, and of its training.
        thresholds: The thresholds of the verdict.
    """
    own: dict[str | None, dict[str, int]] = {}
    for each in measurements:
        # What a model computes between its layers shows in its outputs.
        if _is_part(each) or each["mode"] == "whole":
            mine = own.setdefault(each["layer"], {})
            mine |= {name: max(mine.get(name, 0), longest) for name, longest in own_dtypes(each, thresholds).items()}
    own = {layer: found for layer, found in own.items() if found}
    if not own and not any("moves" in each for each in measurements):
        return list(measurements)
    everywhere = _joined(own.values())
    moved = max(
        (
            move["moved"]
            for each in measurements
            if each["layer"] is not None
            for moves in each.get("moves", {}).values()
            for move in moves
        ),
        default=0.0,
    )
    # How far the roundoff of float64 goes behind a layer that amplifies: anywhere, where a tiny step makes it jump.
    roundoff = (
        1.0 if moved > _JUMPS else moved / STEPS["nudged"] * eps_of("float64") if moved > thresholds.amplified else 0.0
    )

    def told_one(each: Measurement) -> Measurement:
        if not _is_part(each):
            more: Measurement = {"inherited": everywhere} if everywhere else {}
            return each | more | ({"roundoff": roundoff * (each["size"] or 0.0)} if each["mode"] == "whole" else {})
        held = _joined(found for layer, found in own.items() if str(layer).startswith(f"{each['layer']}/"))
        return each | {"inherited": held} if held else each

    return [told_one(each) for each in measurements]


def _joined(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    joined: dict[str, int] = {}
    for each in found:
        joined |= {name: max(joined.get(name, 0), longest) for name, longest in each.items()}
    return joined


def _bound(measured: Measurement, names: Sequence[str], thresholds: Thresholds, pair: Sequence[str]) -> float:
    """The largest distance in float64 at which the results of a pair of these backends count as the same."""
    room = thresholds.whole if measured["mode"] == "whole" else 1.0
    share = eps_of("float64") / eps_of(measured["dtype"])
    # Moving a layer's inputs does not show what is rounded between its operations. But an error that every backend has
    # in the dtype under test, it has in float64 too, in proportion.
    lost = min((each for name in names if (each := measured["errors"].get(name)) is not None), default=0.0)
    roundoff = thresholds.roundoff * max(float(measured.get("roundoff", 0.0)), share * float(lost))
    own = own_dtypes(measured, thresholds)
    longest = max((own[name] for name in pair if name in own), default=None)
    if longest is not None:
        # Without a float64 form, the bound is the dtype's own roundoff, with room for the length of its sums.
        return roundoff + room * max(thresholds.noisy, math.sqrt(longest)) * float(measured["floor"])
    return roundoff + room * thresholds.same * share * float(measured["floor"])


def outvoted(names: Sequence[str], most: Sequence[str]) -> Sequence[str | None]:
    """Returns the names that are not in the largest group, or a single None where that group is no majority."""
    return [name for name in names if name not in most] if 2 * len(most) > len(names) else [None]


def _odd_ones(
    measured: Measurement, names: Sequence[str], thresholds: Thresholds, *, strictly: bool = False
) -> tuple[Sequence[str | None], float | None]:
    """The backends that differ from the majority, and how far apart they are."""
    # A gradient that is zero but for roundoff, amplified by the optimizer: neither its sign nor its size has a meaning.
    roundoff = thresholds.noisy * float(measured["floor"]) if "cancelled" in measured and not strictly else 0.0

    def is_same(one: str, other: str) -> bool:
        if one == other:
            return True
        apart = _of_pair(measured["distances"], one, other)
        return apart is not None and apart <= roundoff + _bound(measured, names, thresholds, (one, other))

    def groups(of: Sequence[str]) -> tuple[Sequence[str | None], Sequence[str]]:
        largest = max(([other for other in of if is_same(one, other)] for one in of), key=len)
        return outvoted(of, largest), largest

    odd, largest = groups(names)
    own = own_dtypes(measured, thresholds)
    exact = [name for name in names if name not in own]
    if not odd and len(exact) > 1:
        # A backend without a float64 form agrees with others by a wider bound, but is nearer to one that is right.
        odd, _ = groups(exact)
        near = {_nearest(measured, name, exact, thresholds) for name in names if name in own} if None in odd else {None}
        right = near.pop() if len(near) == 1 else None
        odd = odd if right is None else [name for name in exact if not is_same(right, name)]
    every = [_of_pair(measured["differences"], largest[0], name) for name in names if name != largest[0]]
    apart = None if None in every else max((each for each in every if each is not None), default=0.0)
    return odd, apart


def _nearest(measured: Measurement, name: str, others: Sequence[str], thresholds: Thresholds) -> str | None:
    """The backend to which `name` is much nearer than to the others, or None."""
    apart = {other: _of_pair(measured["distances"], name, other) for other in others}
    distances = sorted((math.inf if each is None else each, other) for other, each in apart.items())
    (first, nearest), (second, _) = distances[:2]
    return nearest if thresholds.alike * first < second else None


def _is_tie(measured: Measurement, names: Sequence[str], thresholds: Thresholds) -> bool:
    """Whether backends differ, but not for slightly moved inputs, as gradients may: each of them is right then."""
    if measured["stage"] == "forward" or "beside" not in measured or None in measured["differences"].values():
        return False
    return not _odd_beside(measured, names, thresholds)


def _is_stepwise(measured: Measurement, thresholds: Thresholds) -> bool:
    """Whether an output is to be compared for moved inputs too: float32 inside a layer may make it a step function.

    At a step, as where a pixel becomes an integer, a unit in the last place moves the output so far that no difference
    would stand out.
    """
    is_own = judged_in_own_dtype(measured, thresholds) is not None
    return measured["stage"] == "forward" and "beside" in measured and is_own and not _bent_ones(measured, thresholds)


def _bent_ones(measured: Measurement, thresholds: Thresholds) -> list[str]:
    """The backends on which a slope over a tiny step differs from that over a larger one: it is in float32 there."""
    moves = measured.get("moves", {})

    def is_bent(name: str, number: int, one: Moves) -> bool:
        others = [each[number]["bent"] for other, each in moves.items() if other != name and number < len(each)]
        return one["bent_units"] > thresholds.rounded and (
            one["bent"] > thresholds.bent
            or one["bent_widely"] > thresholds.bent_widely
            or one["bent"] > thresholds.bent_apart * min(others, default=math.inf)
        )

    return [name for name, each in moves.items() if any(is_bent(name, n, one) for n, one in enumerate(each))]


def _odd_beside(measured: Measurement, names: Sequence[str], thresholds: Thresholds) -> Sequence[str | None]:
    return _odd_ones({**measured, **measured["beside"]}, names, thresholds)[0]


def _of_pair(table: Mapping[str, float | None], one: str, other: str) -> float | None:
    return table[f"{one}|{other}"] if f"{one}|{other}" in table else table.get(f"{other}|{one}")


def _cost(measured: Measurement, name: str) -> float:
    error = measured["errors"].get(name)
    return math.inf if error is None else float(error) / float(measured["floor"])


def _where_it_begins(wrong: Sequence[Finding]) -> list[Finding]:
    """The differences of the whole model, without those that follow from others."""
    first = min((STAGES.index(each.stage) for each in wrong), default=None)
    found = [each for each in wrong if STAGES.index(each.stage) == first]
    # Where outputs differ and no layer does by itself, code between layers does: in front of the first layer that is
    # given another input or another mask.
    between = [each for each in found if each.stage == "forward" and each.kind in {"input", "mask", "input mask"}]
    return [each for each in between if _what(each) == _what(between[0])] if between else found


def _where_a_step_begins(trained: Sequence[tuple[Measurement, Finding]]) -> list[Finding]:
    """The findings on steps of training, without what follows from a gradient of the model's own step.

    One of a later update in the same step may itself follow from what an earlier one has updated.
    """
    wrong = [(one, each) for one, each in trained if each.verdict == "diverged" and one["stage"] == "gradient"]
    if not wrong:
        return [each for _, each in trained]
    step, update = first = min((one["step"] or 0, one["update"]) for one, _ in wrong)
    before = {one["variable"] for one, _ in trained if one.get("update", update) < update}
    follows = any(
        each.verdict == "diverged" and each.mode == "resynchronised" and each.step == step and each.variable in before
        for one, each in trained
        if one["stage"] == "trajectory"
    )

    def is_beginning(one: Measurement) -> bool:
        is_gradient = one["stage"] == "gradient"
        return not is_gradient if follows else is_gradient and (one["step"], one["update"]) == first

    return [each for one, each in trained if each.verdict != "diverged" or is_beginning(one)]


def _what(finding: Finding) -> tuple[str | None, ...]:
    return finding.kind, finding.layer, finding.of


def _innermost(findings: list[Finding]) -> list[Finding]:
    """Leaves out the differences that a layer has from one inside it, which differs at the same stage or before."""
    wrong = {(each.layer, each.backend, STAGES.index(each.stage)) for each in findings if each.verdict == "diverged"}

    def is_inherited(each: Finding) -> bool:
        return each.verdict == "diverged" and any(
            layer is not None
            and layer.startswith(f"{each.layer}/")
            and backend == each.backend
            and stage <= STAGES.index(each.stage)
            for layer, backend, stage in wrong
        )

    return [each for each in findings if not is_inherited(each)]
