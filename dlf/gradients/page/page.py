"""The page of `dlf gradients --html`: one file with everything in it, to be read, projected or printed.

Requirements:

* the answer comes first, followed by the numbers that it rests on;
* it loads nothing and runs no script: names of layers and messages of errors are text, whatever they contain;
* its libraries are imported when a page is written, and not before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from dlf.gradients.page._source import highlight_styles, source_rows
from dlf.gradients.report import answer_of
from dlf.numerics.noise_floor import LOW_PRECISION, NOISY
from dlf.utils.words import duration
from dlf.visualization.html.curves import MARKS, differences, plot_differences, plot_losses, steps_together
from dlf.visualization.html.page import write_template
from dlf.visualization.html.style import COLOURS, SIGNS

__all__ = ["write_page"]

_VERDICTS = {
    "not finite": ("bad", "infinite, or not a number"),
    "diverged": ("bad", "the gradient of something else"),
    "precision": ("warn", f"above {LOW_PRECISION:,.0f}: only another arithmetic explains it, such as TF32"),
    "noisy": ("warn", f"above {NOISY:.0f}: more than arithmetic costs"),
    "tie": ("good", "the function has a kink here, such as a ReLU at 0, and both of its slopes are right"),
    "cut": ("good", "stop_gradient or a custom gradient cuts it on purpose: finite differences are no judge of it"),
    "untouched": ("good", "the loss does not depend on it"),
    "rounding": ("good", f"up to {NOISY:.0f}: what rounding to float32 explains"),
}
"""The verdicts, worst first, each with its level of alarm and its meaning."""
_ANSWERS = {"agree": ("good", "Agree"), "diverge": ("bad", "Diverge"), "incomplete": ("warn", "Incomplete")}
_NONE = "—"


def write_page(report: Mapping[str, Any], file: Path) -> None:
    """Writes the report of `run_gradients` as one HTML page that needs nothing else.

    Args:
        report: What `run_gradients` returned, or its JSON.
        file: The file to write.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from dlf.gradients.options import GradientsOptions
        >>> from dlf.gradients.runner import run_gradients
        >>> report = run_gradients(GradientsOptions("line", paths=("closed-form", "numpy")))
        >>> file = Path(tempfile.mkdtemp()) / "gradients.html"
        >>> write_page(report, file)
        >>> file.read_text(encoding="utf-8").splitlines()[0]
        '<!doctype html>'
    """
    write_template(Path(__file__).with_name("page.html.jinja"), _view(report), file)


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns everything that the template shows."""
    paths = report["paths"]
    trained = [each for each in paths if each.get("losses")]
    reference = next((each for each in trained if each["path"] == "numpy"), trained[0] if trained else None)
    level, word = _ANSWERS[report["verdict"]]
    light, dark = highlight_styles()
    is_model = any("loop" in each.get("seconds", {}) and "eager" not in each["seconds"] for each in trained)
    return {
        "answer": answer_of(report),
        "level": level,
        "word": word,
        "signs": SIGNS,
        "problem": report["problem"],
        "has_closed_form": any("last_places" in one for each in paths for one in each.get("found", {}).values()),
        "facts": _facts(report),
        "truth": report["truth"],
        "is_model": is_model,
        "failures": [(each["path"], click.unstyle(each["reason"])) for each in paths if each["status"] == "failed"],
        "remarks": _remarks(paths),
        "paths": [_path(each, reference) for each in paths],
        "reference": reference["path"] if reference else "",
        **_plots(trained, reference),
        "variables": _variables(paths),
        "judged": [each["path"] for each in paths if each.get("gradients")],
        "verdicts": [(name, level, meaning) for name, (level, meaning) in reversed(_VERDICTS.items())],
        **_source(paths),
        "places": [_place(each) for each in paths if "versions" in each],
        "light": light,
        "dark": dark,
    }


def _facts(report: Mapping[str, Any]) -> list[str]:
    facts = [f"{report['steps']} step{'s' * (report['steps'] != 1)}"]
    if report["learning_rate"] is not None:
        facts.append(f"gradient descent, learning rate {report['learning_rate']:g}")
    return [*facts, f"seed {report['seed']}"]


def _remarks(paths: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    remarks = []
    for each in paths:
        error = each.get("seconds", {}).get("compile_error")
        if error:
            remarks.append((each["path"], f"was not compiled: {click.unstyle(error)}"))
        lost = sum(not math.isfinite(value) for value in each.get("losses", ()))
        if lost:
            remarks.append((each["path"], f"has {lost} losses that are not finite; the plots leave them out"))
    return remarks


def _path(each: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, Any]:
    seconds = each.get("seconds", {})
    times = [seconds.get(name) for name in ("eager", "compiled", "compile")]
    if "eager" not in seconds and "loop" in seconds:
        times = [seconds["loop"], None, seconds.get("compile")]
    losses = each.get("losses", ())
    gradients = [_gradient(one) for one in each.get("gradients", ())]
    order = list(_VERDICTS)
    return {
        "name": each["path"],
        "framework": _framework(each),
        "title": _title(each),
        "failed": each["status"] == "failed",
        "loss": _digits(losses[-1], reference["losses"][-1]) if losses and reference else None,
        "worst": min(
            gradients,
            key=lambda one: (order.index(one["verdict"]) if one["verdict"] in order else -1, -one["size"]),
            default=None,
        ),
        "found": _found(each.get("found", {})),
        "times": [_NONE if time is None else duration(time) for time in times],
    }


def _digits(loss: float, reference: float) -> tuple[str, str]:
    """Splits a loss into the digits that agree with the reference and the rest; nine digits identify any float32."""
    mine, theirs = f"{loss:.9g}", f"{reference:.9g}"
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False))))
    return mine[:same], mine[same:]


def _framework(each: Mapping[str, Any]) -> str:
    return next((f"{name} {version}" for name, version in each.get("versions", {}).items() if name != "keras"), "")


def _title(each: Mapping[str, Any]) -> list[str]:
    """Returns the path's description split at backticks, so that every second part is code."""
    title: str = each.get("title", "").removeprefix(f"The path `{each['path']}`: ")
    return (title[:1].upper() + title[1:]).split("`")


def _gradient(one: Mapping[str, Any]) -> dict[str, Any]:
    floors, apart = one["noise_floors"], one["relative_difference"]
    has_floors = floors is not None and math.isfinite(floors)
    return {
        "variable": one["variable"],
        "verdict": one["verdict"],
        "level": _VERDICTS.get(one["verdict"], ("warn", ""))[0],
        "size": floors if has_floors else 0.0,
        "number": f"{floors:,.2f}" if has_floors and floors < NOISY else f"{floors:,.0f}" if has_floors else "",
        # Finite differences are taken in float64, where a noise floor of float32 is no measure.
        "apart": "" if has_floors or apart is None else f"{apart:.0e} relative",
        "detail": one["detail"],
    }


def _found(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns names, values and remarks: of each variable if all are numbers, otherwise one norm over all of them."""
    values = [(name, value) for name, value in found.items() if "value" in value]
    norms = [value["norm"] if "norm" in value else abs(value["value"]) for value in found.values()]
    if len(values) == len(found):
        return [(name, f"{value['value']:.9g}", _distance(value)) for name, value in values]
    return [("norm", f"{math.hypot(*norms):.9g}", f"of {len(norms)} variables")]


def _distance(value: Mapping[str, Any]) -> str:
    if "last_places" not in value:
        return ""
    return f"{value['last_places']:.2g} off" if value["last_places"] else "exact"


def _plots(trained: Sequence[Mapping[str, Any]], reference: Mapping[str, Any] | None) -> dict[str, Any]:
    from markupsafe import Markup

    curves = {number: each["losses"] for number, each in enumerate(trained)}
    apart = {
        number: differences(each["losses"], reference["losses"])
        for number, each in enumerate(trained)
        if reference is not None and each is not reference
    }
    return {
        # Markup that Matplotlib wrote, which contains no text of the report.
        "losses": Markup(plot_losses(curves)) if curves else "",  # noqa: S704
        "differences": Markup(plot_differences(apart)) if apart else "",  # noqa: S704
        "legend": [(each["path"], number % COLOURS, MARKS[number % len(MARKS)]) for number, each in enumerate(trained)],
        "together": steps_together(max(map(len, apart.values()), default=0)),
        "largest": max((value for values in apart.values() for value in values if math.isfinite(value)), default=0.0),
    }


def _variables(paths: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    judged = [{one["variable"]: _gradient(one) for one in each["gradients"]} for each in paths if each.get("gradients")]
    names = dict.fromkeys(name for each in judged for name in each)
    return [(name, [each.get(name) for each in judged]) for name in names]


def _source(paths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a column for each source of paths that take steps, and the source of each other path by itself."""
    from markupsafe import Markup

    together: dict[str, list[Mapping[str, Any]]] = {}
    # Frameworks first: all columns are compared with the first, and the derivation on paper resembles none of them.
    for each in sorted(paths, key=lambda each: each["backend"] is None):
        if each.get("losses") and each.get("source"):
            together.setdefault(str(each["source"]), []).append(each)
    groups = list(together.values())
    functions = [
        (name, [[(cell.kind, Markup(cell.html), cell.indent) for cell in row] for row in rows])  # noqa: S704
        for name, rows in source_rows([group[0]["source"] for group in groups])
    ]
    alone = [
        (each["path"], _title(each), [Markup(_code(each))])  # noqa: S704 - highlighted, which escapes.
        for each in paths
        if each.get("source") and not each.get("losses")
    ]
    columns = [
        (" and ".join(each["path"] for each in group), _framework(group[0]), _title(group[0])) for group in groups
    ]
    return {"columns": columns, "functions": functions, "alone": alone}


def _code(each: Mapping[str, Any]) -> str:
    rows = [row for _, rows in source_rows([each["source"]]) for row in rows]
    return "\n".join(row[0].html for row in rows)


def _place(each: Mapping[str, Any]) -> tuple[str, str, str, str]:
    versions, settings = each["versions"], each.get("numeric_settings", {})
    return (
        each["path"],
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        ", ".join(each.get("devices", ())),
        ", ".join(f"{name} = {value}" for name, value in settings.items()),
    )
