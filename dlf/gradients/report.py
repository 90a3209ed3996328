"""What `dlf gradients` prints: the answer, a table of the paths, their loss curves, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlf.utils.console import result_console
from dlf.utils.words import duration

__all__ = ["answer_of", "exit_code", "print_gradients"]

_STYLES = {
    "rounding": "green",
    "untouched": "dim",
    "tie": "cyan",
    "cut": "cyan",
    "noisy": "yellow",
    "precision": "yellow",
}
_BARS = "▁▂▃▄▅▆▇█"


def exit_code(report: Mapping[str, Any]) -> int:
    """Returns 0 if all paths agree, 1 if one does not, and 3 if one did not run."""
    return {"agree": 0, "diverge": 1, "incomplete": 3}[report["verdict"]]


def answer_of(report: Mapping[str, Any]) -> str:
    """Returns the answer in one sentence.

    Args:
        report: What `run_gradients` returned.

    Example:
        >>> path = {"path": "grad", "gradients": [{"verdict": "rounding"}]}
        >>> answer_of({"verdict": "agree", "truth": "derived on paper", "paths": [path, path]})
        'All 2 paths take the same gradients as derived on paper.'
    """
    paths = report["paths"]
    wrong = [each for each in paths if any(_is_wrong(one) for one in each.get("gradients", ()))]
    failed = [each["path"] for each in paths if each.get("status") == "failed"]
    ran = sum(bool(each.get("gradients")) for each in paths)
    absent = f" {', '.join(failed)} did not run." if failed else ""
    if wrong:
        places = [
            f"{each['path']} by {one['variable']}" for each in wrong for one in each["gradients"] if _is_wrong(one)
        ]
        more = ", ..." if len(places) > _PLACES else ""
        return f"{len(wrong)} of {ran} paths: a gradient is wrong, {', '.join(places[:_PLACES])}{more}.{absent}"
    if not ran:
        return f"Nothing was compared.{absent}"
    if ran == 1:
        return f"The one path that ran takes the same gradients as {report['truth']}.{absent}"
    return f"All {ran} paths{' that ran' if failed else ''} take the same gradients as {report['truth']}.{absent}"


_PLACES = 4


def print_gradients(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a report.

    Args:
        report: What `run_gradients` returned.
        console: Where to print; by default the terminal.
    """
    console = console or result_console()
    console.print(f"[bold]{escape(answer_of(report))}[/]")
    rate = "" if report["learning_rate"] is None else f", learning rate {report['learning_rate']:g}"
    console.print(
        f"[dim]{escape(report['problem'])}, {report['steps']} steps{rate}, seed {report['seed']}; "
        f"gradients at step 0, in noise floors: what rounding inputs and parameters to float32 does by itself[/]"
    )
    console.print(_table(report, ("path", "found", "gradient", "loss"), _results))
    is_model = any("first" in each.get("seconds", {}) for each in report["paths"])
    columns = ("a step", "the first step") if is_model else ("a step, compiled", "not compiled", "compiling")
    console.print(_table(report, ("path", "framework", *columns), _seconds))
    for each in report["paths"]:
        for remark in _remarks(each):
            console.print(remark, soft_wrap=True)
    if report["verdict"] == "diverge":
        console.print("Next: dlf.check_gradients(model, batch) in that framework says where, and by how much.")


def _table(report: Mapping[str, Any], columns: tuple[str, ...], row: Callable[[Mapping[str, Any]], list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for each in report["paths"]:
        cells = ["[red]did not run[/]"] if each["status"] == "failed" else row(each)
        if any(cells):
            table.add_row(f"[bold]{escape(each['path'])}[/]", *cells)
    return table


def _results(each: Mapping[str, Any]) -> list[str]:
    return [
        escape(_found(each.get("found", {}))),
        _gradients(each.get("gradients", [])),
        _curve(each.get("losses", [])),
    ]


def _seconds(each: Mapping[str, Any]) -> list[str]:
    seconds = each.get("seconds", {})
    if not seconds:
        return []
    names = ("loop", "first") if "first" in seconds else ("compiled", "eager", "compile")
    versions = each.get("versions", {})
    framework = next((f"{name} {version}" for name, version in versions.items() if name != "keras"), "")
    return [escape(framework), *(_time(seconds.get(name)) for name in names)]


def _found(found: Mapping[str, Any]) -> str:
    numbers = [f"{name} {value['value']:.3f}" for name, value in found.items() if "value" in value]
    if not numbers:
        return f"{len(found)} variables" if found else ""
    apart = max((value.get("last_places", 0.0) for value in found.values()), default=0.0)
    return " ".join(numbers) + (f" ({apart:.1f} ulp)" if apart else "")


def _gradients(gradients: list[Mapping[str, Any]]) -> str:
    if not gradients:
        return ""
    wrong = [each for each in gradients if _is_wrong(each)]
    if wrong:
        return f"[red]{escape(wrong[0]['verdict'])}[/] {escape(wrong[0]['variable'])}"
    worst = max(gradients, key=lambda each: each["noise_floors"] or 0.0)
    if worst["noise_floors"] is None:
        apart = max(each["relative_difference"] for each in gradients)
        return f"[green]within {apart:.0e}[/]"
    style = _STYLES.get(worst["verdict"], "")
    return f"[{style}]{worst['verdict']}[/] {worst['noise_floors']:.1f}"


def _curve(losses: Sequence[float]) -> str:
    """Returns the curve as a few characters, with a cross for a loss that is not finite, and the last loss."""
    if not losses:
        return ""
    count = min(len(losses), 8)
    picked = [losses[round(i * (len(losses) - 1) / max(count - 1, 1))] for i in range(count)]
    known = [each for each in picked if math.isfinite(each)]
    low, span = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    bars = (_BARS[round((each - low) / span * (len(_BARS) - 1))] if math.isfinite(each) else "×" for each in picked)
    return f"{''.join(bars)} {losses[-1]:.4g}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _remarks(each: Mapping[str, Any]) -> list[str]:
    if each["status"] == "failed":
        return [f"[red]{escape(each['path'])}[/]: {escape(each['reason'])}"]
    remarks = []
    if each.get("seconds", {}).get("compile_error"):
        remarks.append(f"{escape(each['path'])} was not compiled: {escape(each['seconds']['compile_error'])}")
    for one in each.get("gradients", ()):
        if one["verdict"] not in ("rounding", "untouched"):
            style = _STYLES.get(one["verdict"], "red")
            name = f"{escape(each['path'])}, {escape(one['variable'])}"
            remarks.append(f"{name}: [{style}]{one['verdict']}[/] {escape(one['detail'])}".rstrip())
    return remarks


def _is_wrong(gradient: Mapping[str, Any]) -> bool:
    return gradient["verdict"] in ("diverged", "not finite")
