"""What the page of `dlf parity` shows of each tensor and of each layer: measurements with the verdicts on them.

Requirements:

* each tensor has a row with a cell for each backend, which is the same in the full table and in that of its layer;
* a layer has the worst verdict of its tensors;
* what is missing from a report is shown as a gap and never as an error, since a run may have ended early.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, cast

from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.verdict import PLACE, Thresholds, judged_in_own_dtype
from dlf.parity.page.numbers import difference_order, difference_text, finite, floors_text
from dlf.parity.report import name_of

__all__ = ["MEANINGS", "Cell", "Element", "Layer", "Row", "layers_of", "rows_of", "worst_of"]

MEANINGS = {
    "diverged": ("bad", "another meaning: a defect, even in float64"),
    "not finite": ("warn", "the same, and NaN or infinity: no number to compare"),
    "not judged": ("warn", "the roundoff of float64 alone takes it as far as it is large: nothing can be said of it"),
    "known": ("warn", "another meaning, and a known difference of Keras between backends"),
    "precision": ("warn", "the same meaning, in a mode of lower precision, such as TF32 or bfloat16"),
    "noisy": ("warn", "the same meaning, but this backend loses more bits than arithmetic costs"),
    "unstable": ("mild", "the same meaning, and every backend loses as many bits: the layer itself does"),
    "untaken": ("mild", "a known difference of the gradient by the data, which training does not take"),
    "tie": ("mild", "a point without a derivative, such as a ReLU at 0: any of the answers is right"),
    "chaos": ("mild", "trajectories come apart, and no further than rounding takes perturbed runs of one backend"),
    "rounding": ("good", "the same meaning, and the error is what arithmetic in this dtype costs"),
    "identical": ("good", "the same bits"),
}
"""The verdicts, worst first, each with its level (how alarming it is) and its meaning."""
_ORDER = {verdict: number for number, verdict in enumerate(MEANINGS)}
_UNKNOWN = len(_ORDER)
_MOST_OF_A_MODEL = 500
"""The most harmless rows that belong to no layer: a thousand layers have tens of thousands of updates and slots."""


@dataclass(frozen=True)
class Cell:
    """One tensor on one backend: its verdict and its error."""

    verdict: str
    number: str
    floors: float | None

    @property
    def level(self) -> str:
        """How alarming the verdict is; an empty string where there is none."""
        return MEANINGS.get(self.verdict, ("", ""))[0]

    @property
    def order(self) -> str:
        """The text to sort by: a verdict without a number comes out worst, and no verdict least."""
        if self.floors is not None:
            return f"{self.floors:.4g}"
        return "1e308" if self.verdict else "-1"


@dataclass(frozen=True)
class Element:
    """One element of a tensor: the true value and, for each backend, three texts.

    These are the digits in float64 that agree with the true value, the digits after them, and the value in the dtype
    under test.
    """

    index: str
    truth: str
    values: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Row:
    """One tensor, as a row of a table."""

    number: int
    stage: str
    layer: str | None
    call: str | None
    variable: str
    mode: str
    details: str
    """Its call, step and mode, where they are not the usual ones, and what the findings add."""
    shape: str
    cells: list[Cell]
    apart: float | None
    pairs: list[tuple[str, bool]]
    """For every two backends, their relative difference in float64, and whether it is a defect."""
    elements: list[Element]
    reason: str

    @property
    def verdict(self) -> str:
        """The worst verdict of its cells."""
        return worst_of(cell.verdict for cell in self.cells)

    @property
    def level(self) -> str:
        """How alarming the verdict is."""
        return MEANINGS.get(self.verdict, ("", ""))[0]

    @property
    def rank(self) -> int:
        """The number to sort by verdict: the worst is 0."""
        return _ORDER.get(self.verdict, _UNKNOWN)

    @property
    def apart_text(self) -> str:
        """The largest difference in float64, as text."""
        return difference_text(self.apart)

    @property
    def apart_order(self) -> str:
        """The text to sort by that difference."""
        return difference_order(self.apart)

    @property
    def floors(self) -> float:
        """The largest number of noise floors."""
        return max((cell.floors or 0.0 for cell in self.cells), default=0.0)


@dataclass
class Layer:
    """One layer, or the model as a whole."""

    number: int
    path: str | None
    facts: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The worst verdict of its rows."""
        return worst_of(row.verdict for row in self.rows)

    @property
    def level(self) -> str:
        """How alarming the verdict is."""
        return MEANINGS.get(self.verdict, ("", ""))[0]


def worst_of(verdicts: Iterable[str]) -> str:
    """Returns the worst of some verdicts, or an empty string if there are none.

    Example:
        >>> worst_of(["rounding", "tie", ""])
        'tie'
    """
    return min(verdicts, key=lambda verdict: _ORDER.get(verdict, _UNKNOWN), default="")


def rows_of(report: Mapping[str, Any]) -> tuple[list[Row], int]:
    """Returns a row for each tensor, worst first, and how many harmless ones of the whole model were left out.

    Args:
        report: What `run_parity` returned.
    """
    backends = list(report["backends"])
    said: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in report["findings"]:
        said.setdefault(_key(each), []).append(each)
    # Findings without a measurement are those of `build`; measurements without a finding are of the whole model, or
    # of a layer that has a defect from one inside it.
    measured = {_key(each): each for each in report.get("measurements", ())}
    thresholds = Thresholds(**report.get("thresholds", {}))
    rows = [
        _row(number, measured.get(key) or said[key][0], said.get(key, ()), backends, thresholds)
        for number, key in enumerate(dict.fromkeys([*measured, *said]))
    ]
    rows = _worst_steps(rows)
    ranked = sorted(rows, key=lambda row: (row.rank, row.number))
    harmless = [row for row in ranked if row.layer is None and row.level in ("good", "")]
    left_out = set(sorted(row.number for row in harmless)[_MOST_OF_A_MODEL:])
    return [row for row in ranked if row.number not in left_out], len(left_out)


def layers_of(report: Mapping[str, Any], rows: Sequence[Row]) -> list[Layer]:
    """Returns the model as a whole, and then its layers in the order that it holds them.

    Args:
        report: What `run_parity` returned.
        rows: What `rows_of` returned.
    """
    known = {each["path"]: each for each in report.get("layers", ())}
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for each in report.get("calls", ()):
        calls.setdefault(each["layer"], []).append(each)
    paths = dict.fromkeys([*known, *(row.layer for row in sorted(rows, key=lambda row: row.number) if row.layer)])
    whole = Layer(0, None, ["what no layer does by itself: loss, update, trajectory"])
    layers = {None: whole} | {path: Layer(number + 1, path) for number, path in enumerate(paths)}
    # A layer's rows are in the order in which it computes; of the whole model there are many, and the worst come first.
    for row in sorted(rows, key=lambda row: (0 if row.layer else row.rank, row.number)):
        layers[row.layer].rows.append(row)
    for path, each in known.items():
        layers[path].facts = [
            each["class"],
            f"layer {layers[path].number} of {len(paths)}",
            *([f"{each['parameters']:,} parameter{'s' * (each['parameters'] != 1)}"] if each["parameters"] else []),
            *_call_facts(calls.get(path, ())),
        ]
    return list(layers.values())


def _call_facts(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    if not calls:
        return ["not called"]
    sources = list(dict.fromkeys(source for each in calls for source in each["sources"]))
    return [
        *([f"called {len(calls)} times"] if len(calls) > 1 else []),
        *([f"from {', '.join(sources)}"] if sources else []),
        f"gives {' and '.join(_shape(shape) for shape in calls[0]['shape'])} {calls[0]['dtype']}",
    ]


def _key(each: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(each.get(name) for name in PLACE)


def _row(
    number: int,
    of: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]],
    backends: Sequence[str],
    thresholds: Thresholds,
) -> Row:
    verdicts = {name: worst_of(f["verdict"] for f in findings if f["backend"] in (name, None)) for name in backends}
    floors = {f["backend"]: f.get("noise_floors") for f in findings}
    if of.get("floor"):
        floors |= {name: None if error is None else error / of["floor"] for name, error in of["errors"].items()}
    # Where no backend is blamed, all are marked.
    wrong = {name for name in backends if verdicts[name] in ("diverged", "known")}
    floors |= {name: _off(of, name, wrong) for name in wrong if of.get("floor")}
    cells = [Cell(verdicts[name], floors_text(floors.get(name)), finite(floors.get(name))) for name in backends]
    apart = of.get("differences", {})
    pairs = []
    for a, b in _pairs(backends):
        key = next((key for key in (f"{a}|{b}", f"{b}|{a}") if key in apart), None)
        is_wrong = (a in wrong) != (b in wrong) or (a in wrong and len(wrong) == len(backends))
        pairs.append(("—" if key is None else difference_text(apart[key]), is_wrong and key is not None))
    largest = [math.inf if value is None else value for value in apart.values()]
    largest = largest or [value for f in findings if (value := f["relative_difference"]) is not None]
    is_own = judged_in_own_dtype(cast("Measurement", of), thresholds) is not None
    call, layer = of.get("call"), of.get("layer")
    step, mode = of.get("step"), of.get("mode")
    return Row(
        number=number,
        stage=of["stage"],
        layer=layer,
        call=call,
        variable=name_of(of) or ("output" if of["stage"] == "forward" else ""),
        mode=mode or "",
        details=", ".join(
            [
                *([f"call {call.rpartition('#')[2]}"] if call and call != layer and "#" in call else []),
                *([f"step {step + 1}"] if step is not None else []),
                *([mode] if mode else []),
                *(["judged in its own dtype"] if is_own else []),
                *dict.fromkeys(f["detail"] for f in findings if f.get("detail")),
            ]
        ),
        shape=_shape(of.get("shape")),
        cells=cells,
        apart=max(largest, default=None),
        pairs=pairs,
        elements=[_element(each, backends, wrong) for each in of.get("elements") or ()],
        reason=next((f["reason"] for f in findings if f.get("reason")), ""),
    )


def _off(of: Mapping[str, Any], name: str, wrong: set[str]) -> float | None:
    """How far a backend that differs is from those that are right, in noise floors of the dtype, or None.

    The distance is that in float64: what the dtype costs does not matter here.
    """
    pairs = {key: value for key, value in of["distances"].items() if name in key.split("|")}
    right = {key: value for key, value in pairs.items() if not set(key.split("|")) <= wrong} or pairs
    # Without a finite error in its own dtype, no distance is given either.
    values = [*right.values(), of["errors"].get(name)]
    return None if None in values or not right else max(right.values()) / of["floor"]


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]


def _worst_steps(rows: Sequence[Row]) -> list[Row]:
    """Leaves, of the rows of a variable at all steps of training, only the worst."""
    worst: dict[Any, Row] = {}
    for row in rows:
        of_steps = row.mode in {"resynchronised", "free"}
        place = (row.stage, row.variable, row.mode) if of_steps else row.number
        other = worst.get(place)
        if other is None or (row.rank, -row.floors) < (other.rank, -other.floors):
            worst[place] = row
    return list(worst.values())


def _element(each: Mapping[str, Any], backends: Sequence[str], wrong: set[str]) -> Element:
    float64, tested = each["float64"], each["tested"]
    # Where every backend is blamed there is no truth, and values are compared with those of the first.
    right = [name for name in backends if name in float64 and name not in wrong]
    reference = _value(float64[right[0] if right else next(iter(float64))]) if float64 else "—"
    values = []
    for name in backends:
        mine = _value(float64[name]) if name in float64 else "—"
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine, reference, strict=False))))
        # Nothing agrees if the number is only the beginning of the other, as 0 is of 0.5.
        same = 0 if mine != reference and same == len(mine) else same
        values.append((mine[:same], mine[same:], _value(tested[name], 9) if name in tested else "—"))
    return Element(f"[{', '.join(map(str, each['index']))}]", reference if right else "no majority", values)


def _value(value: Any, digits: int = 12) -> str:
    if value is None:
        return "not finite"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _shape(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return ""
    return "×".join("?" if size is None else str(size) for size in shape) or "scalar"
