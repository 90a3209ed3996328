"""What measurements say: the same meaning or another, and what the dtype costs.

What is asked of it:

* meaning is judged in float64, in units of float64's own noise floor; the majority names the odd one out, and of two
  backends neither is blamed;
* cost is judged in the dtype under test, in noise floors, and is news, not a defect;
* what is no number is never the truth and never a majority, and what cannot be judged is said to be so: neither is
  counted as the same;
* what is wrong is named once, where it begins: the innermost layer, the part and not the whole;
* it is a function of the measurements and a few constants: it can be asked again.
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
    "Constants",
    "Finding",
    "is_suspect",
    "judge",
    "judge_each",
    "judged_in_own_dtype",
    "outvoted",
    "own_dtypes",
    "told",
]


@dataclass(frozen=True)
class Constants:
    """What the verdict rests on; the fault bench measures what each buys, smaller and larger.

    Args:
        same: Noise floors of float64 within which results mean the same. Sound ones stay below a hundred; an epsilon
            of 1e-3 that is 1% off is 1e10 away, one of 1e-6 1e7.
        noisy: Noise floors of the dtype under test above which arithmetic costs more than it has to.
        low_precision: Noise floors above which only another arithmetic explains it.
        alike: Where every backend loses bits, and none so many times as another, it is the layer that loses them.
        roundoff: How many times as far apart as a run perturbed by float64's roundoff two backends may be: in a model
            that amplifies, another order of summation takes them that far. The same of what every backend loses in the
            dtype under test.
        whole: How many times as far apart as one layer's results those of a whole model may be: roundoff grows on its
            way through the layers.
        bent: How far apart slopes are, over a tiny step and over a larger one, where part of a layer computes in
            float32: by all that this part is; else by 1e-6.
        bent_widely: The same of one element in twenty at least: of a masked attention in a block, 0.003; of one that is
            exact, 1e-6 and what it curves.
        bent_apart: How many times as far as on another backend, since a kink is there on each: where the weights of an
            attention are nearly equal, float32 moves few elements, and bends a slope a thousand times as far.
        rounded: Units in the last place of float64 that an output may be off by before it counts as another, or its
            slope as bent.
        amplified: How far a step of 2^-40 moves a layer's output, of its scale, where the layer amplifies it: then what
            float64 rounds is not small after it either.
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
"""Of its scale: further from its float64 form is what has none."""
_JUMPS = 0.01
"""Of its scale: what a step of 2^-40 moves so far, roundoff may move anywhere."""


@dataclass(frozen=True)
class Finding:
    """What is known of one tensor on one backend."""

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
    """What is to be said of it beside its distance: that it is NaN, or not there."""
    from_numbers: bool = False
    """Of what is not finite: whether everything that went in was."""
    kind: str | None = None
    """What it is, if it is no variable: as in a `Measurement`, ``"output"`` of a model or a layer, or ``"fit"``."""
    of: str | None = None
    """The call or the metric that the kind is of."""
    lost: bool = False
    """Whether it is NaN or infinite."""

    def as_dict(self) -> dict[str, Any]:
        """Returns it in JSON's types."""
        return asdict(self)


def judge(
    measurements: Sequence[Measurement], backends: Sequence[str], constants: Constants | None = None
) -> list[Finding]:
    """Judges what was measured, on some of the backends that were.

    Args:
        measurements: In the order of the stages.
        backends: Which are compared.
        constants: What the verdict rests on.

    Returns:
        Findings, in the order of the measurements; what is wrong once, where it begins.
    """
    constants = constants or Constants()
    told_ones = told(measurements, constants)
    parts = [each for each in told_ones if _is_part(each)]
    whole = [each for each in told_ones if each["mode"] == "whole"]
    steps = [each for each in told_ones if each["stage"] == "trajectory"]
    findings = _innermost([each for one in parts for each in judge_each(one, backends, constants)])
    broken = any(each.verdict == "diverged" for each in findings)
    tied = any(each.verdict == "tie" for each in findings)
    of_whole = [each for one in whole for each in judge_each(one, backends, constants)]
    # What rounding costs was said of the parts, where there are any.
    of_parts = {each.stage for each in findings}
    findings += [
        each
        for each in of_whole
        if each.verdict in {"not finite", "not judged"} or (each.verdict != "diverged" and each.stage not in of_parts)
    ]
    if not broken:
        # Where a part is wrong, the whole is wrong too.
        wrong = [each for each in of_whole if each.verdict == "diverged"]
        # A tie makes gradients differ, and nothing that comes before them; steps are taken beside it too.
        wrong = [each for each in wrong if each.stage != "gradient" or not tied]
        findings += _where_it_begins(wrong)
        broken = bool(wrong)
    trained = [each for one in steps for each in judge_each(one, backends, constants)]
    # A step by itself that goes wrong, or meets a tie, takes the free run with it.
    apart = any(each.verdict in {"diverged", "tie"} and each.mode == "resynchronised" for each in trained)
    return findings + [
        each for each in trained if each.verdict != "diverged" or not (broken or (apart and each.mode == "free"))
    ]


def judge_each(measured: Measurement, backends: Sequence[str], constants: Constants) -> Iterator[Finding]:
    """Judges one tensor: its meaning by float64, and on each backend that means the same what the dtype costs."""
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
        kind=measured.get("kind"),
        of=measured.get("of"),
    )
    absent = [name for name in backends if name in measured.get("absent", ())]
    yield from (replace(place, backend=name, detail="which is not there") for name in absent)
    if _is_blind(measured, constants):
        # At a tie roundoff decides which side is taken, and beside it there is no doubt.
        measured = {**measured, "roundoff": 0.0}
        if "beside" not in measured or _odd_beside(measured, there, constants):
            blind = replace(place, verdict="not judged", detail="float64's own roundoff takes it as far as it is large")
            yield from (replace(blind, backend=name) for name in there)
            return
    best = "identical" if len({measured["digests"].get(name) for name in there}) == 1 < len(there) else "rounding"
    lost = {name: what for name, what in _not_finite(measured, "float64").items() if name in there}
    if lost and measured.get("from_numbers") is False:
        # What a layer makes of what is no number, as a ReLU of the gradient NaN, says nothing of the layer.
        yield from (
            replace(place, backend=name, verdict="not finite", detail=what, lost=True) for name, what in lost.items()
        )
        return
    if len(lost) < len(there):
        # Where one has a number, no number is never right, however many have none.
        yield from (replace(place, backend=name, detail=what, lost=True) for name, what in lost.items())
        there, lost = [name for name in there if name not in lost], {}
    odd, apart = _odd_ones(measured, there, constants)
    wrong = "tie" if odd and _is_tie(measured, there, constants) else "diverged"
    if not odd and _is_stepwise(measured, constants):
        odd = _odd_beside(measured, there, constants)
    yield from (_another(measured, replace(place, backend=name, verdict=wrong), apart) for name in odd)
    if None not in odd:
        same = [name for name in there if name not in odd]
        yield from _alike(measured, same, lost, replace(place, verdict=best, relative_difference=apart), constants)


def _another(measured: Measurement, place: Finding, apart: float | None) -> Finding:
    """What is said of another meaning: how far it is apart; of another dtype or shape there is no distance."""
    other: Mapping[str, str] = measured.get("shapes") or measured.get("kinds") or {}
    if place.backend is None or place.backend not in other:
        return replace(place, relative_difference=apart)
    return replace(place, detail=f"which is {other[place.backend]} there")


def _alike(
    measured: Measurement, names: Sequence[str], lost: Mapping[str, str], place: Finding, constants: Constants
) -> Iterator[Finding]:
    """What is said of the same meaning: that it is no number, or what the dtype costs; at best the verdict of place."""
    if lost:
        yield from (replace(place, backend=name, verdict="not finite", detail=lost[name], lost=True) for name in names)
        return
    for name, verdict, cost, detail in _costs(measured, names, constants):
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
    measured: Measurement, names: Sequence[str], constants: Constants
) -> Iterator[tuple[str, str, float, str | None]]:
    """What the dtype costs on each of some backends that mean the same: verdict, noise floors, and what is lost."""
    costs = {name: _cost(measured, name) for name in names}
    noisy = [name for name, cost in costs.items() if cost > constants.noisy]
    lost = [name for name, cost in costs.items() if not math.isfinite(cost)]
    # Where no digit is left, that one run overflows and another does not is chance.
    chaotic = float(measured.get("roundoff", 0.0)) >= (measured["size"] or math.inf)
    roundoff = "cancelled" in measured and _odd_ones(measured, names, constants, strictly=True)[0]
    for name, cost in costs.items():
        verdict = verdict_of(cost, constants.noisy, constants.low_precision)
        what = _not_finite(measured, "tested").get(name)
        if lost and len(lost) < len(costs) and not chaotic:
            # No number on one backend, where others have one, is no matter of cost.
            verdict = "diverged" if name in lost else verdict
        elif lost:
            verdict = "not finite" if what else "unstable"
        elif _is_of_another(measured, costs, constants):
            verdict, what = "not judged", "float64 gives something else than the model on every backend"
        elif roundoff or (
            len(noisy) == len(costs) > 1 and max(costs.values()) <= constants.alike * min(costs.values())
        ):
            verdict = "unstable"
        if measured["mode"] == "free" and verdict == "rounding":
            # Within what the perturbed runs show: but is it more than one step costs?
            verdict = "chaos" if cost * measured["floor"] > constants.noisy * measured["one_step"] else verdict
        detail = f"{what} in {measured['dtype']}" if what and name in lost else what
        yield name, verdict, cost, detail


def _is_of_another(measured: Measurement, costs: Mapping[str, float], constants: Constants) -> bool:
    """Whether every backend is further from the float64 form than rounding goes: then it is the form of another.

    Where all have the same bits, as where each takes a tiny number for zero, there is no more to ask.
    """
    if len({measured.get("digests", {}).get(name, name) for name in costs}) == 1:
        return False
    size = measured["size"] or 0.0
    far = [cost > constants.same and cost * measured["floor"] > _FAR * size > 0.0 for cost in costs.values()]
    return all(far) and len(far) > 1 and _is_part(measured)


def _not_finite(measured: Measurement, precision: Literal["float64", "tested"]) -> Mapping[str, str]:
    """On which backends something is NaN or infinite, in float64 or in the dtype under test."""
    return measured["not_finite"][precision] if "not_finite" in measured else {}


def _is_blind(measured: Measurement, constants: Constants) -> bool:
    """Whether the roundoff of float64 alone may take it as far as it is large: then nothing can be said of it.

    A free run may go anywhere, if each step by itself is judged.
    """
    scale = max(measured["size"] or 0.0, measured.get("scale", 0.0))
    may = constants.roundoff * float(measured.get("roundoff", 0.0)) >= scale > 0.0
    return may and measured["mode"] in {"whole", "resynchronised"} and "cancelled" not in measured


def own_dtypes(measured: Measurement, constants: Constants) -> dict[str, int]:
    """Returns where a layer or a loss has no float64 form: how long its sums may be, by backend.

    Args:
        measured: One tensor of it.
        constants: What the verdict rests on.

    Example:
        >>> half = {"bent": 0.5, "bent_widely": 0.5, "bent_units": 1e6, "widened_units": 0.0, "moved": 1e-12}
        >>> own_dtypes({"moves": {"jax": [half], "torch": []}, "longest": 8}, Constants())
        {'jax': 8}
    """
    # A variable that has a dtype of its own has it everywhere.
    found = dict.fromkeys(measured["backends"], measured["own_dtype"]) if "own_dtype" in measured else {}
    bent = _bent_ones(measured, constants)
    for name, moves in measured.get("moves", {}).items():
        if name in bent or any(each["widened_units"] > constants.rounded for each in moves):
            found[name] = measured["longest"]
    # Whoever holds what computes in another dtype does so too.
    for name, longest in measured.get("inherited", {}).items():
        found[name] = max(found.get(name, 0), longest)
    return found


def judged_in_own_dtype(measured: Measurement, constants: Constants) -> int | None:
    """Returns how long the sums may be where something has no float64 form on some backend, or None.

    Args:
        measured: One tensor of it.
        constants: What the verdict rests on.
    """
    return max(own_dtypes(measured, constants).values(), default=None)


def is_suspect(finding: Finding) -> bool:
    """Tells whether this has to be looked into: a layer that differs may be at a tie, or have no float64 form."""
    # Of what a layer adds to the loss, likewise.
    looked_into = {"forward", "gradient", "loss"}
    return finding.verdict == "diverged" and finding.layer is not None and finding.stage in looked_into


def _is_part(measured: Measurement) -> bool:
    """Whether it is of a layer, the loss or the optimizer by itself."""
    return measured.get("mode") != "whole" and measured.get("stage") != "trajectory"


def told(measurements: Sequence[Measurement], constants: Constants) -> list[Measurement]:
    """Returns measurements that know what others show: of what they hold, its own dtype; of the whole, amplification.

    Args:
        measurements: Of the layers, the loss and the optimizer, of the whole model, and of its training.
        constants: What the verdict rests on.
    """
    own: dict[str | None, dict[str, int]] = {}
    for each in measurements:
        # What a model does between its layers is seen where it comes out.
        if _is_part(each) or each["mode"] == "whole":
            mine = own.setdefault(each["layer"], {})
            mine |= {name: max(mine.get(name, 0), longest) for name, longest in own_dtypes(each, constants).items()}
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
    # As far as the roundoff of float64 goes behind such a layer; where a next to nothing jumps, that is anywhere.
    roundoff = (
        1.0 if moved > _JUMPS else moved / STEPS["nudged"] * eps_of("float64") if moved > constants.amplified else 0.0
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


def _bound(measured: Measurement, names: Sequence[str], constants: Constants, pair: Sequence[str]) -> float:
    """How far apart the results of two of these backends in float64 may be."""
    room = constants.whole if measured["mode"] == "whole" else 1.0
    share = eps_of("float64") / eps_of(measured["dtype"])
    # What is rounded between two operations of a layer, no move of its inputs shows; but what every backend loses by it
    # in the dtype under test, it loses in float64 too, in proportion.
    lost = min((each for name in names if (each := measured["errors"].get(name)) is not None), default=0.0)
    roundoff = constants.roundoff * max(float(measured.get("roundoff", 0.0)), share * float(lost))
    own = own_dtypes(measured, constants)
    longest = max((own[name] for name in pair if name in own), default=None)
    if longest is not None:
        # It has no float64 form: what is left is the dtype's own roundoff, with room for the length of its sums.
        return roundoff + room * max(constants.noisy, math.sqrt(longest)) * float(measured["floor"])
    return roundoff + room * constants.same * share * float(measured["floor"])


def outvoted(names: Sequence[str], most: Sequence[str]) -> Sequence[str | None]:
    """Those that are not of the largest group; None stands for them all where that is no majority."""
    return [name for name in names if name not in most] if 2 * len(most) > len(names) else [None]


def _odd_ones(
    measured: Measurement, names: Sequence[str], constants: Constants, *, strictly: bool = False
) -> tuple[Sequence[str | None], float | None]:
    """The backends that mean something else than the majority; and how far apart they are."""
    # Zero but for roundoff, and blown up by the optimizer: neither sign nor size of it means anything.
    roundoff = constants.noisy * float(measured["floor"]) if "cancelled" in measured and not strictly else 0.0

    def is_same(one: str, other: str) -> bool:
        if one == other:
            return True
        apart = _of_pair(measured["distances"], one, other)
        return apart is not None and apart <= roundoff + _bound(measured, names, constants, (one, other))

    def groups(of: Sequence[str]) -> tuple[Sequence[str | None], Sequence[str]]:
        largest = max(([other for other in of if is_same(one, other)] for one in of), key=len)
        return outvoted(of, largest), largest

    odd, largest = groups(names)
    own = own_dtypes(measured, constants)
    exact = [name for name in names if name not in own]
    if not odd and len(exact) > 1:
        # One that has no float64 form agrees with more than mean the same; but it is nearer to one that is right.
        odd, _ = groups(exact)
        near = {_nearest(measured, name, exact, constants) for name in names if name in own} if None in odd else {None}
        right = near.pop() if len(near) == 1 else None
        odd = odd if right is None else [name for name in exact if not is_same(right, name)]
    every = [_of_pair(measured["apart"], largest[0], name) for name in names if name != largest[0]]
    apart = None if None in every else max((each for each in every if each is not None), default=0.0)
    return odd, apart


def _nearest(measured: Measurement, name: str, others: Sequence[str], constants: Constants) -> str | None:
    """The backend that one is much nearer to than to the rest, or None."""
    apart = {other: _of_pair(measured["distances"], name, other) for other in others}
    distances = sorted((math.inf if each is None else each, other) for other, each in apart.items())
    (first, nearest), (second, _) = distances[:2]
    return nearest if constants.alike * first < second else None


def _is_tie(measured: Measurement, names: Sequence[str], constants: Constants) -> bool:
    """Whether gradients differ at a point and nowhere beside it: any of them is right then."""
    if measured["stage"] == "forward" or "beside" not in measured or None in measured["apart"].values():
        return False
    return not _odd_beside(measured, names, constants)


def _is_stepwise(measured: Measurement, constants: Constants) -> bool:
    """Whether an output is to be compared beside the point too: float32 inside a layer may make steps of it.

    At a step, as where a pixel becomes an integer, a unit in the last place moves an output by so much that no
    difference would stand out.
    """
    is_own = judged_in_own_dtype(measured, constants) is not None
    return measured["stage"] == "forward" and "beside" in measured and is_own and not _bent_ones(measured, constants)


def _bent_ones(measured: Measurement, constants: Constants) -> list[str]:
    """The backends on which a slope is another over a tiny step than over a larger one: there, it is in float32."""
    moves = measured.get("moves", {})

    def is_bent(name: str, number: int, one: Moves) -> bool:
        others = [each[number]["bent"] for other, each in moves.items() if other != name and number < len(each)]
        return one["bent_units"] > constants.rounded and (
            one["bent"] > constants.bent
            or one["bent_widely"] > constants.bent_widely
            or one["bent"] > constants.bent_apart * min(others, default=math.inf)
        )

    return [name for name, each in moves.items() if any(is_bent(name, n, one) for n, one in enumerate(each))]


def _odd_beside(measured: Measurement, names: Sequence[str], constants: Constants) -> Sequence[str | None]:
    return _odd_ones({**measured, **measured["beside"]}, names, constants)[0]


def _of_pair(table: Mapping[str, float | None], one: str, other: str) -> float | None:
    return table[f"{one}|{other}"] if f"{one}|{other}" in table else table.get(f"{other}|{one}")


def _cost(measured: Measurement, name: str) -> float:
    error = measured["errors"].get(name)
    return math.inf if error is None else float(error) / float(measured["floor"])


def _where_it_begins(wrong: Sequence[Finding]) -> list[Finding]:
    """Of what differs in the whole model: what follows from the rest is left out."""
    first = min((STAGES.index(each.stage) for each in wrong), default=None)
    found = [each for each in wrong if STAGES.index(each.stage) == first]
    # Where outputs differ and no layer does by itself, something between them does: in front of the first layer that
    # gets something else, or a mask that is another.
    between = [each for each in found if each.stage == "forward" and each.kind in {"input", "mask", "input mask"}]
    return [each for each in between if _what(each) == _what(between[0])] if between else found


def _what(finding: Finding) -> tuple[str | None, ...]:
    return finding.kind, finding.layer, finding.of


def _innermost(findings: list[Finding]) -> list[Finding]:
    """Without what a layer has from one that it holds: that one has it too, at this stage or before."""
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
