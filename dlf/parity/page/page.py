"""The page of `dlf parity --html`: one file with everything in it, where a layer that differs is found at a glance.

Requirements:

* the answer comes first, then where to look, then everything that the answer is based on;
* it fetches nothing; names of layers and error messages are shown as text, whatever they hold, and no script but its
  own two runs, even if one got in;
* without scripts everything can still be read: they only sort and filter the table, and point at cards;
* its libraries are imported when a page is written, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dlf.parity.options import STAGES
from dlf.parity.page._graph import draw_calls
from dlf.parity.page._plots import MARKS, plot_depth, plot_distance
from dlf.parity.page.numbers import difference_text
from dlf.parity.page.rows import MEANINGS, Layer, Row, layers_of, rows_of
from dlf.parity.report import (
    advice_of,
    advice_without_a_difference,
    answer_of,
    exit_code,
    is_foregone,
    known_of,
    name_of,
    remarks_of,
    why_empty,
    word_of,
)
from dlf.visualization.html.page import DATATABLES, write_scripted_page
from dlf.visualization.html.style import COLOURS, SIGNS

__all__ = ["write_page"]

_NAMED = 12
"""The most layers in the list of where to look."""
_ROWS_OF_A_LAYER = 200
_PRINTED = 20
"""The most layers whose details are printed."""


def write_page(report: Mapping[str, Any], file: Path) -> None:
    """Writes the report of `run_parity` as one HTML page that needs nothing else.

    Args:
        report: What `run_parity` returned, or its JSON.
        file: The file to write.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> report = {"verdict": "agree", "target": "model.py:build", "seed": 1, "dtype": "float32", "failed": {}}
        >>> report |= {"stages_asked": [], "stages": {}, "backends": {}, "findings": [], "divergences": []}
        >>> report |= {"first_divergence": None, "measurements": [], "initial_values": [], "compiled": True}
        >>> report |= {"known_failures": {}, "precision": [], "not_finite": None, "not_judged": []}
        >>> file = Path(tempfile.mkdtemp()) / "parity.html"
        >>> write_page(report, file)
        >>> file.read_text(encoding="utf-8").splitlines()[0]
        '<!doctype html>'
    """
    write_scripted_page(
        Path(__file__).with_name("page.html.jinja"),
        _view(report),
        [*DATATABLES, Path(__file__).with_name("page.js")],
        file,
    )


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows."""
    from markupsafe import Markup

    report = _odd_first(report)
    rows, left_out = rows_of(report)
    layers = layers_of(report, rows)
    numbers = {layer.path: layer.number for layer in layers}
    begins = report["first_divergence"] or report["not_finite"]
    backends = list(report["backends"])
    return {
        "answer": answer_of(report),
        "level": "bad" if report["verdict"] == "diverge" else "warn" if exit_code(report) else "good",
        "word": word_of(report),
        # Split at backticks: every second part is code. A backtick in the name of a layer is not shown.
        "advice": advice.split("`") if (advice := _advice(report)) else [],
        "signs": SIGNS,
        "target": report["target"],
        "dtype": report["dtype"],
        "facts": [report["dtype"], f"seed {report['seed']}", f"{len(layers) - 1:,} layers"],
        "backends": backends,
        "places": [_place(name, each) for name, each in report["backends"].items()],
        "remarks": [*(f"Known: {reason}" for reason in known_of(report)), *remarks_of(report)],
        "failures": [(name, click.unstyle(reason)) for name, reason in report["failed"].items()],
        "look": _where_to_look(report, numbers),
        "more": max(len({each["layer"] for each in report["divergences"]}) - _NAMED, 0),
        "stages": [_stage(stage, report, numbers) for stage in STAGES],
        "layers": layers,
        "shown": numbers.get(begins["layer"] if begins else _costliest(layers).path, 0),
        "printed": [layer.number for layer in layers[1:] if layer.level == "bad"][:_PRINTED],
        "most": _ROWS_OF_A_LAYER,
        "pairs": [f"{a} and {b}" for place, a in enumerate(backends) for b in backends[place + 1 :]],
        # Written from a tree of elements, which escapes its texts.
        "graph": Markup(draw_calls(report, layers)),  # noqa: S704
        "has_many_cards": len(report.get("calls", ())) > _PRINTED,
        "lines": {name: report.get("thresholds", {}).get(name) for name in ("noisy", "low_precision")},
        "depth": Markup(_depth(report, layers)),  # noqa: S704 - Matplotlib's own, without a word of the report.
        **_trajectory(report),
        "legend": [(name, number % COLOURS, MARKS[number % len(MARKS)]) for number, name in enumerate(backends)],
        "rows": rows,
        "numbers": numbers,
        "left_out": left_out,
        "verdicts": [(name, level, meaning) for name, (level, meaning) in MEANINGS.items()],
        "there": [name for name in MEANINGS if any(cell.verdict == name for row in rows for cell in row.cells)],
        "all_stages": [stage for stage in STAGES if any(row.stage == stage for row in rows)],
    }


def _odd_first(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same report with the backends first that differ: wide tables may be cut off at their right."""
    odd = {each["backend"] for each in report["divergences"]}
    names = sorted(report["backends"], key=lambda name: name not in odd)
    return {**report, "backends": {name: report["backends"][name] for name in names}}


def _advice(report: Mapping[str, Any]) -> str:
    if report["first_divergence"]:
        return advice_of(report["first_divergence"], report["backends"])
    return advice_without_a_difference(report)


def _place(name: str, each: Mapping[str, Any]) -> tuple[str, str, str, str]:
    settings = {"matmul precision": each.get("matmul_precision"), **each.get("numeric_settings", {})}
    shown = ", ".join(f"{key} = {value}" for key, value in settings.items() if value is not None)
    return name, f"{each['framework']}, keras {each['keras']}", each["device"], shown


def _where_to_look(
    report: Mapping[str, Any], numbers: Mapping[str | None, int]
) -> list[tuple[int, str, list[str], list[str]]]:
    """The layers that diverge, in the order of `divergences`: number, name, stages and backends of each."""
    found: dict[str | None, tuple[dict[str, None], dict[str, None]]] = {}
    for each in report["divergences"]:
        stages, backends = found.setdefault(each["layer"], ({}, {}))
        stages[each["stage"]] = None
        # Where there is no majority, all backends are named.
        backends |= dict.fromkeys([each["backend"]] if each["backend"] else report["backends"])
    return [
        (numbers.get(layer, 0), layer or "the model as a whole", list(stages), list(backends))
        for layer, (stages, backends) in list(found.items())[:_NAMED]
    ]


def _costliest(layers: Sequence[Layer]) -> Layer:
    """The layer to show first where nothing differs: with the worst verdict and, of those, the largest error."""
    order = list(MEANINGS)
    own = layers[1:] or layers

    def rank(layer: Layer) -> tuple[int, float]:
        place = order.index(layer.verdict) if layer.verdict in order else len(order)
        return place, -max((row.floors for row in layer.rows), default=0.0)

    return min(own, key=rank)


def _stage(stage: str, report: Mapping[str, Any], numbers: Mapping[str | None, int]) -> dict[str, Any]:
    each = report["stages"].get(stage, {"counts": {}, "worst": None})
    # What differs comes before what is the same and costs most.
    wrong = next((one for one in report["divergences"] if one["stage"] == stage), None)
    worst = wrong or each["worst"] or {}
    floors = worst.get("noise_floors")
    size = f"{floors:,.1f}" if floors else ""
    size = f"{difference_text(wrong['relative_difference'])} apart in float64" if wrong else size
    where = worst.get("layer") or name_of(worst) or "the model"
    counts = [(name, level, each["counts"][name]) for name, (level, _) in MEANINGS.items() if name in each["counts"]]
    other = [(name, "", count) for name, count in each["counts"].items() if name not in MEANINGS]
    foregone = is_foregone(stage, report)
    return {
        "name": stage,
        "counts": [] if foregone else counts + other,
        "note": "not judged: what differs above differs here too" if foregone else why_empty(stage, report),
        "floors": "" if foregone else size,
        "where": where,
        "number": numbers.get(worst.get("layer"), 0),
        "backend": worst.get("backend") or "",
    }


def _depth(report: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """Plots the worst error of all tensors of each call, on each backend."""
    calls = [call["key"] for call in report.get("calls", ())]
    places = {key: number for number, key in enumerate(calls)}
    rows: dict[int, list[Row]] = {}
    for layer in layers[1:]:
        for row in layer.rows:
            place = places.get(row.call if row.call is not None else row.layer)
            if place is not None:
                rows.setdefault(place, []).append(row)
    curves: dict[int, list[float | None]] = {number: [None] * len(calls) for number in range(len(report["backends"]))}
    wrong: dict[int, float | None] = {}
    for place, own in rows.items():
        for number, curve in curves.items():
            cells = [row.cells[number] for row in own]
            curve[place] = max((cell.floors for cell in cells if cell.floors is not None), default=None)
            if any(cell.level == "bad" for cell in cells):
                known = [value for value in (wrong.get(place), curve[place]) if value is not None]
                wrong[place] = max(known, default=None)
    thresholds = report.get("thresholds", {})
    lines = [thresholds[name] for name in ("noisy", "low_precision") if name in thresholds]
    return plot_depth(curves, sorted(wrong.items()), lines or [1.0])


def _trajectory(report: Mapping[str, Any]) -> dict[str, Any]:
    from markupsafe import Markup

    from dlf.visualization.html.curves import plot_losses

    found = report.get("trajectory")
    if not found:
        return {"losses": "", "distance": ""}
    numbers = {name: number for number, name in enumerate(report["backends"])}
    losses = {
        numbers[name]: [float("nan") if value is None else value for value in values]
        for name, values in found["losses"]["tested"].items()
        if name in numbers
    }
    distances = {numbers[name]: values for name, values in found["distance"].items() if name in numbers}
    return {
        # Matplotlib's own markup, without a word of the report in it.
        "losses": Markup(plot_losses(losses)) if any(losses.values()) else "",  # noqa: S704
        "distance": Markup(plot_distance(distances, found["envelope"])),  # noqa: S704
    }
