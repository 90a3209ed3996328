"""What measurements say: the same meaning or another, and what the dtype costs.

What is asked of it:

* meaning is judged in float64, in units of float64's own noise floor; the majority names the odd one out, and of two
  backends neither is blamed;
* cost is judged in the dtype under test, in noise floors, and is news, not a defect;
* what is wrong is named once, where it begins: the innermost layer, the part and not the whole;
* it is a function of the measurements and a few constants: it can be asked again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dlf.noise_floor import LOW_PRECISION, NOISY, eps_of, kind_of, verdict_of
from dlf.parity.measure import Measurement
from dlf.parity.options import STAGES

__all__ = [
    "Constants",
    "Finding",
    "is_suspect",
    "judge",
    "judge_build",
    "judge_each",
    "judge_values",
    "judged_in_own_dtype",
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
        shaken: How many times as far as a run that was shaken by the roundoff of float64 another may be, or as what
            every backend loses in the dtype under test explains: in one that amplifies, what is summed in another order
            does.
        whole: How many times as far apart as one layer's results those of a whole model may be: roundoff grows on its
            way through the layers.
        bent: How far apart slopes are, over a tiny step and over a larger one, where part of a layer computes in
            float32: by all that this part is; else by 1e-6.
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
    shaken: float = 1e3
    bent: float = 0.01
    rounded: float = 16.0
    amplified: float = 1e-4


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
    parts = [each for each in measurements if _is_part(each)]
    told = _told([each for each in measurements if not _is_part(each)], parts, constants)
    whole = [each for each in told if each["mode"] == "whole"]
    steps = [each for each in told if each["stage"] == "trajectory"]
    findings = _innermost([each for one in parts for each in judge_each(one, backends, constants)])
    broken = any(each.verdict == "diverged" for each in findings)
    tied = any(each.verdict == "tie" for each in findings)
    if not broken:
        # Where a part is wrong, the whole is wrong too; and what rounding costs was said of the parts.
        wrong = [each for one in whole for each in judge_each(one, backends, constants) if each.verdict == "diverged"]
        # A tie makes gradients differ, and nothing that comes before them.
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
        call=measured["call"],
        mode=measured["mode"],
        step=measured.get("step"),
    )
    odd, apart = _odd_ones(measured, there, _bound(measured, there, constants))
    wrong = "tie" if odd and _is_tie(measured, there, constants) else "diverged"
    if not odd and _is_stepwise(measured, constants):
        odd = _odd_beside(measured, there, constants)
    for name in odd:
        yield replace(place, backend=name, verdict=wrong, relative_difference=apart)
    if None in odd:
        return
    costs = {name: _cost(measured, name) for name in there if name not in odd}
    noisy = [name for name, cost in costs.items() if cost > constants.noisy]
    lost = [name for name, cost in costs.items() if not math.isfinite(cost)]
    # Where no digit is left, that one run overflows and another does not is chance.
    chaotic = float(measured.get("shaken", 0.0)) >= (measured["size"] or math.inf)
    same_bits = len({measured["digests"].get(name) for name in there}) == 1 < len(there) and not noisy
    for name, cost in costs.items():
        verdict = "identical" if same_bits else verdict_of(cost, constants.noisy, constants.low_precision)
        if lost and len(lost) < len(costs) and not chaotic:
            # No number on one backend, where others have one, is no matter of cost.
            verdict = "diverged" if name in lost else verdict
        elif lost or (len(noisy) == len(costs) > 1 and max(costs.values()) <= constants.alike * min(costs.values())):
            verdict = "unstable"
        if measured["mode"] == "free" and verdict in {"rounding", "identical"}:
            # Within what the twins show: but is it more than one step costs?
            verdict = "chaos" if cost * measured["floor"] > constants.noisy * measured["one_step"] else verdict
        yield replace(
            place,
            backend=name,
            verdict=verdict,
            relative_difference=apart,
            noise_floors=cost if math.isfinite(cost) else None,
        )


def judged_in_own_dtype(measured: Mapping[str, Any], constants: Constants) -> int | None:
    """Returns how long the sums may be where a layer or a loss has no float64 form, or None where it has one.

    Args:
        measured: One tensor of it.
        constants: What the verdict rests on.

    Example:
        >>> moves = [{"bent": 1.0, "bent_units": 1e6, "widened_units": 0.0, "moved": 1e-12}]
        >>> judged_in_own_dtype({"moves": moves, "longest": 8}, Constants())
        8
    """
    if "own_dtype" in measured or not _is_part(measured):
        return measured.get("own_dtype")
    asks = any(each["widened_units"] > constants.rounded for each in measured.get("moves", ()))
    return measured["longest"] if asks or _is_bent(measured, constants) else None


def is_suspect(finding: Finding) -> bool:
    """Tells whether this has to be looked into: a layer that differs may be at a tie, or have no float64 form."""
    return finding.verdict == "diverged" and finding.layer is not None and finding.stage in {"forward", "gradient"}


def judge_build(built: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Compares what each backend has built: layers, variables, outputs; who is in the minority is named.

    Args:
        built: Of each backend, what the worker says: ``layers``, ``variables`` and ``outputs``.

    Example:
        >>> def one(dtype):
        ...     return {"layers": [], "variables": [], "outputs": [["", [8, 2], dtype]]}
        >>> [(each.variable, each.backend) for each in judge_build({"a": one("float32"), "b": one("float16")})]
        [('output', None)]
    """
    names = list(built)
    rows = {name: dict(_rows(built[name])) for name in names}
    findings = []
    for place in dict.fromkeys(place for each in rows.values() for place in each):
        having: dict[Any, list[str]] = {}
        for name in names:
            having.setdefault(rows[name].get(place), []).append(name)
        if len(having) > 1:
            most = max(having.values(), key=len)
            _, layer, variable = place
            findings += [Finding("build", layer, variable, name, "diverged", None) for name in _outvoted(names, most)]
    # Of a layer that is not there, its variables are not either.
    absent = {each.layer for each in findings if each.variable is None}
    findings = [each for each in findings if each.variable is None or each.layer not in absent]
    return findings or [Finding("build", None, None, name, "identical", 0.0) for name in names]


def judge_values(built: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Compares initial values, which dlf draws alike wherever they are drawn by Keras's own means.

    Where a model draws by a framework's own, as the worker finds, other numbers are no difference; but a constant is,
    and another size than chance explains: six standard deviations of that of a sample.

    Args:
        built: Of each backend, what the worker says: ``variables``, ``values`` and ``drawn_alike``.

    Example:
        >>> def one(digest, rms):
        ...     value = {"digest": digest, "rms": rms, "size": 100, "constant": False}
        ...     variables = [{"path": "d/kernel", "layer": "d"}]
        ...     return {"variables": variables, "values": {"0:d/kernel": value}, "drawn_alike": False}
        >>> judge_values({"a": one("1", 0.1), "b": one("2", 0.101)})
        []
        >>> [each.variable for each in judge_values({"a": one("1", 0.1), "b": one("2", 0.2)})]
        ['kernel']
    """
    names, findings = list(built), []
    together = all(each["drawn_alike"] for each in built.values())
    for place, each in zip(built[names[0]]["values"], built[names[0]]["variables"], strict=True):
        values = {name: built[name]["values"].get(place) for name in names}
        alike = {
            one: [other for other in names if _is_alike(values[one], values[other], drawn_alike=together)]
            for one in names
        }
        odd = _outvoted(names, max(alike.values(), key=len))
        variable = each["path"].rpartition("/")[2]
        findings += [Finding("build", each["layer"], variable, name, "diverged", None) for name in odd]
    return findings


def _is_alike(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None, *, drawn_alike: bool) -> bool:
    if one is None or other is None or one["digest"] == other["digest"]:
        return one is not None and other is not None
    if one["constant"] or other["constant"]:
        return False
    # Of the same numbers, scaling may round the last place otherwise.
    room = 1e-5 if drawn_alike else 6 / math.sqrt(2 * one["size"])
    return bool(abs(one["rms"] - other["rms"]) <= room * max(one["rms"], other["rms"]))


def _rows(described: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str | None, str | None], Any]]:
    """What has to be the same, by its place: of a layer its class and dtype, of a variable its shape, dtype and use."""
    for each in described["layers"]:
        yield ("layer", each["path"], None), (each["class"], each["dtype"])
    for each in described["variables"]:
        # How wide an integer is, as that of a seed or a count, is the framework's business.
        dtype = kind_of(each["dtype"])
        name = each["path"].rpartition("/")[2]
        yield (f"variable {each['path']}", each["layer"], name), (tuple(each["shape"]), dtype, each["trainable"])
    for place, shape, dtype in described["outputs"]:
        yield ("output", None, f"output {place}".strip()), (tuple(shape), dtype)


def _is_part(measured: Mapping[str, Any]) -> bool:
    """Whether it is of a layer, the loss or the optimizer by itself."""
    return measured.get("mode") != "whole" and measured.get("stage") != "trajectory"


def _told(measurements: Sequence[Measurement], parts: Sequence[Measurement], constants: Constants) -> list[Measurement]:
    """Measurements of the whole model and its training, that know what a part does: its own dtype, amplifying."""
    own = [longest for each in parts if (longest := judged_in_own_dtype(each, constants)) is not None]
    layers = [each for each in parts if each["layer"] is not None]
    amplifies = any(move["moved"] > constants.amplified for each in layers for move in each.get("moves", ()))
    return [
        each | ({"own_dtype": max(own)} if own else {}) | ({"shaken": each["size"] or 0.0} if amplifies else {})
        for each in measurements
    ]


def _bound(measured: Measurement, names: Sequence[str], constants: Constants) -> float:
    """How far apart the results of these backends in float64 may be."""
    room = constants.whole if measured["mode"] == "whole" else 1.0
    share = eps_of("float64") / eps_of(measured["dtype"])
    # What is rounded between two operations of a layer, no move of its inputs shows; but what every backend loses by it
    # in the dtype under test, it loses in float64 too, in proportion.
    lost = min((each for name in names if (each := measured["errors"].get(name)) is not None), default=0.0)
    shaken = constants.shaken * max(float(measured.get("shaken", 0.0)), share * float(lost))
    longest = judged_in_own_dtype(measured, constants)
    if longest is not None:
        # It has no float64 form: what is left is the dtype's own roundoff, with room for the length of its sums.
        return shaken + room * max(constants.noisy, math.sqrt(longest)) * float(measured["floor"])
    if "cancelled" in measured:
        # Zero but for roundoff, and blown up by the optimizer: neither sign nor size of it means anything.
        return shaken + constants.noisy * float(measured["floor"])
    return shaken + room * constants.same * share * float(measured["floor"])


def _outvoted(names: Sequence[str], most: Sequence[str]) -> Sequence[str | None]:
    """Those that are not of the largest group; None stands for them all where that is no majority."""
    return [name for name in names if name not in most] if 2 * len(most) > len(names) else [None]


def _odd_ones(measured: Measurement, names: Sequence[str], bound: float) -> tuple[Sequence[str | None], float | None]:
    """The backends that mean something else than the majority; and how far apart they are."""

    def is_same(one: str, other: str) -> bool:
        if one == other:
            return True
        apart = _of_pair(measured["same"], one, other)
        return apart is not None and apart <= bound

    alike = {one: [other for other in names if is_same(one, other)] for one in names}
    largest = max(alike.values(), key=len)
    every = [_of_pair(measured["apart"], largest[0], name) for name in names if name != largest[0]]
    apart = None if None in every else max((each for each in every if each is not None), default=0.0)
    return _outvoted(names, largest), apart


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
    return measured["stage"] == "forward" and "beside" in measured and is_own and not _is_bent(measured, constants)


def _is_bent(measured: Mapping[str, Any], constants: Constants) -> bool:
    return any(
        each["bent"] > constants.bent and each["bent_units"] > constants.rounded for each in measured.get("moves", ())
    )


def _odd_beside(measured: Measurement, names: Sequence[str], constants: Constants) -> Sequence[str | None]:
    aside = {**measured, **measured["beside"]}
    return _odd_ones(aside, names, _bound(aside, names, constants))[0]


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
    titles = ("mask", "the input of ", "the mask of ")
    between = [each for each in found if each.stage == "forward" and str(each.variable).startswith(titles)]
    return [each for each in found if each.variable == between[0].variable] if between else found


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
