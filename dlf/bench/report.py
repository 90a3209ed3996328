"""Summarises the rounds of `dlf bench`: medians, spreads and ratios, as a table and as JSON.

Requirements:

* every figure can be computed again from the raw rounds beside it;
* a ratio is taken within a round, in which both ran on the same machine in the same minute; the median is quoted,
  with the smallest and the largest;
* for a contestant without a speed, the reason is given.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlf.bench.options import FUSED, REFERENCE
from dlf.utils.console import result_console
from dlf.visualization.html.summary import Summary, SummaryTable

__all__ = ["SCHEMA", "exit_code", "print_bench", "summarise"]

SCHEMA = 1


def summarise(result: dict[str, Any], rows: int) -> dict[str, Any]:
    """Adds to the result of one backend and model the figures that follow from its rounds.

    Args:
        result: The result of a worker; changed in place.
        rows: Images in an epoch.

    Returns:
        The same result. Each contestant that was timed has a ``summary``: the median, the smallest and the largest of
        its seconds, of its speed relative to the reference, and of that relative to the fastest hand-written loop.

    Example:
        >>> slow = {"name": "Keras fit, NumPy arrays", "status": "timed", "first_epoch_seconds": 5, "rounds": [2, 4, 4]}
        >>> fast = {"name": "dlf fused", "status": "timed", "first_epoch_seconds": 3, "rounds": [1, 2, 1]}
        >>> summarise({"contestants": [slow, fast]}, rows=10)["contestants"][1]["summary"]["against_reference"]
        {'median': 2.0, 'min': 2.0, 'max': 4.0}
    """
    timed = {each["name"]: each for each in result.get("contestants", ()) if each["status"] == "timed"}
    by_hand = [each for name, each in timed.items() if name.startswith("hand-written")]
    fastest = min(by_hand, key=lambda each: statistics.median(each["rounds"]), default=None)
    for each in timed.values():
        median = statistics.median(each["rounds"])
        each["summary"] = {
            "seconds": _spread(each["rounds"]),
            "images_per_second": rows / median,
            "startup_seconds": max(each["first_epoch_seconds"] - median, 0.0),
            "against_reference": _ratio(timed.get(REFERENCE), each),
            "against_hand_written": _ratio(fastest, each),
        }
    growth, memory = result.get("growth", {}), result.get("memory", {})
    if "rounds" in growth:
        scale = growth["large_rows"] / growth["rows"]
        pairs = zip(growth["large_rounds"], growth["rounds"], strict=True)
        growth["time_per_example"] = _spread([large / scale / small for large, small in pairs])
    if memory and all("peak" in found for sizes in memory.values() for found in sizes.values()):
        extra = {size: memory[FUSED][size]["peak"] - memory[REFERENCE][size]["peak"] for size in ("few", "all")}
        more = memory[FUSED]["all"]["data"] - memory[FUSED]["few"]["data"]
        result["extra_memory"] = {
            "bytes": extra["all"],
            "bytes_at_few_rows": extra["few"],
            "over_data": extra["all"] / memory[FUSED]["all"]["data"],
            "growing_over_data": (extra["all"] - extra["few"]) / more if more > 0 else None,
        }
    return result


def _ratio(base: dict[str, Any] | None, each: dict[str, Any]) -> dict[str, float] | None:
    if base is None:
        return None
    return _spread([theirs / ours for theirs, ours in zip(base["rounds"], each["rounds"], strict=True)])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def exit_code(report: dict[str, Any]) -> int:
    """Returns 1 if a contestant did not agree or failed, or a worker died, and 0 otherwise."""
    bad = {"does not agree", "failed"}
    statuses = {each["status"] for result in report["results"] for each in result.get("contestants", ())}
    return int(bool(bad & statuses) or any("error" in result for result in report["results"]))


def print_bench(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints a table for each backend and model.

    Args:
        report: What `run_bench` returned.
        console: Where to print; by default stdout.
    """
    console = console or result_console()
    options = report["options"]
    for result in report["results"]:
        title = f"[bold]{escape(result['backend'])}, {escape(result['model'])}[/]"
        if "error" in result:
            console.print(f"{title}: [red]no figures[/]\n{escape(result['error'])}", soft_wrap=True)
            continue
        console.print(f"{title}: {escape(_conditions(result, options))}")
        console.print(_table(result))
        for line in _remarks(result):
            console.print(f"  {escape(line)}", soft_wrap=True)
        console.print()


def write_page(report: dict[str, Any], file: Path) -> None:
    """Writes the page of `dlf bench --html`.

    Args:
        report: What `run_bench` returned.
        file: The page.

    Raises:
        OutputError: The file cannot be written.
    """
    tables = []
    for result in report["results"]:
        title = f"{result['backend']}, {result['model']}"
        if "error" in result:
            tables.append(SummaryTable(title, remarks=[result["error"]]))
            continue
        rows = [_cells(each) for each in result["contestants"]]
        tables.append(SummaryTable(title, _conditions(result, report["options"]), _COLUMNS, rows, _remarks(result)))
    failed = exit_code(report)
    Summary(
        "dlf bench",
        "Speed beside Keras's own fit and loops written by hand",
        "Not all agree" if failed else "All agree",
        "bad" if failed else "good",
        tables=tables,
    ).write(file)


def _conditions(result: dict[str, Any], options: dict[str, Any]) -> str:
    return (
        f"{options['rows']:,} images, batches of {options['batch_size']}, {options['repeats']} rounds, "
        f"{', '.join(result['description']['devices'])}, {result['machine']['usable_cpus']} CPUs"
    )


_COLUMNS = ("trained with", "images/s", "epoch, s", "× Keras fit", "× by hand", "start-up, s")


def _cells(each: dict[str, Any]) -> list[str]:
    """The cells of a contestant: its name, and its figures or why there are none."""
    if each["status"] != "timed":
        return [each["name"], each["status"]]
    summary = each["summary"]
    return [
        each["name"],
        f"{summary['images_per_second']:,.0f}",
        _shown(summary["seconds"]),
        _shown(summary["against_reference"]),
        _shown(summary["against_hand_written"]),
        f"{summary['startup_seconds']:.2f}",
    ]


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(_COLUMNS[0], min_width=24)
    for head in _COLUMNS[1:]:
        table.add_column(head, justify="right")
    for each in result["contestants"]:
        name, *figures = map(escape, _cells(each))
        colour = {"timed": "", "absent": "dim"}.get(each["status"], "red")
        table.add_row(name, *(f"[{colour}]{figure}[/]" if colour else figure for figure in figures))
    return table


def _remarks(result: dict[str, Any]) -> list[str]:
    lines = []
    for each in result["contestants"]:
        verdict = each.get("agreement", {})
        if each["status"] == "does not agree":
            lines.append(
                f"{each['name']} does not agree: losses {_losses(verdict['losses'])}, Keras "
                f"{_losses(verdict['reference_losses'])}; apart by {verdict['loss_distance']:.1e} (bound "
                f"{verdict['loss_bound']:.1e}), weights by {verdict['weight_distance']:.1e} (bound "
                f"{verdict['weight_bound']:.1e}). No speed is given."
            )
        elif each["status"] in {"absent", "failed"}:
            lines.append(f"{each['name']}: {each['status']}: {each['reason']}")
        elif verdict["dropout"] == "off":
            lines.append(f"{each['name']}: compared with dropout off, because its masks are its own")
    growth, memory = result.get("growth", {}), result.get("memory", {})
    if "time_per_example" in growth:
        times = growth["large_rows"] // growth["rows"]
        lines.append(
            f"{FUSED}: time for an example at {times} times the rows: {_shown(growth['time_per_example'])} times"
        )
    if "extra_memory" in result:
        extra, few = (result["extra_memory"][name] for name in ("over_data", "bytes_at_few_rows"))
        lines.append(
            f"{FUSED}: memory beyond the data and Keras fit's: {extra:.2f} times the data, of which "
            f"{few / 2**20:,.0f} MiB at a few rows already"
        )
    tried = {f"memory, {name}, {size} rows": found for name, sizes in memory.items() for size, found in sizes.items()}
    for kind, found in {"growth": growth, **tried}.items():
        why = found.get("absent") or found.get("error")
        lines += [f"{kind}: no figure: {why}"] if why else []
    for name, found in result.get("startup", {}).items():
        cold, warm = (found[kind].get("seconds") for kind in ("cold", "warm"))
        figures = "no figure" if cold is None or warm is None else f"{cold:.2f} s, cache filled {warm:.2f} s"
        lines.append(f"{name}: start-up, cache empty {figures}")
    return lines


def _shown(spread: dict[str, float] | None) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f}–{spread['max']:.2f})" if spread else "–"


def _losses(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.6f}" for loss in losses)
