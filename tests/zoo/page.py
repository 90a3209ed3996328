"""The page of the zoo: one file that shows at a glance what in Keras differs between backends.

Requirements:

* the counts come first, then the unknown differences, then the known ones with their reasons, then everything;
* it fetches nothing; error messages and reasons are shown as text, whatever they hold, and no script but its own runs;
* without scripts everything can still be read;
* its libraries are imported when a page is written, and not before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlf.parity.options import STAGES
from dlf.parity.page.rows import MEANINGS
from dlf.visualization.html.page import DATATABLES, write_scripted_page
from dlf.visualization.html.style import SIGNS
from zoo.page_rows import VERDICTS, Line, level_of, lines_of, linked

__all__ = ["write_zoo_page"]

_NAMED = 200
"""The most diverging entries that are listed at the top; the table has all."""
_OPEN = 3
"""The number of failures whose messages are shown unfolded."""
_ALWAYS = ("diverge", "known", "agree")
"""Verdicts that are counted even where there are none."""
_COMPARED = ("agree", "known", "diverge", "failed")
_ANSWERS = {"bad": "Diverge", "warn": "Known", "good": "Agree", "mild": "Incomplete"}


def write_zoo_page(summary: Mapping[str, Any], file: Path) -> None:
    """Writes the summary of `run_zoo` as one HTML page that needs nothing else.

    Args:
        summary: What `run_zoo` returned, or its JSON.
        file: The file to write.

    Raises:
        OutputError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> row = {"kind": "layers", "name": "Wrapper", "case": "", "target": None, "verdict": "not applicable"}
        >>> row |= {"answer": "a base class", "findings": [], "news": []}
        >>> file = Path(tempfile.mkdtemp()) / "zoo.html"
        >>> write_zoo_page({"backends": {}, "counts": {"not applicable": 1}, "rows": [row]}, file)
        >>> file.read_text(encoding="utf-8").splitlines()[0]
        '<!doctype html>'
    """
    write_scripted_page(
        Path(__file__).with_name("page.html.jinja"),
        _view(summary),
        [*DATATABLES, Path(__file__).with_name("page.js")],
        file,
    )


def _view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows."""
    lines = lines_of(summary)
    backends = list(summary["backends"])
    counts = Counter(line.verdict for line in lines)
    verdicts = [name for name in [*VERDICTS, *sorted(set(counts) - set(VERDICTS))] if counts[name]]
    kinds = list(dict.fromkeys(line.kind for line in sorted(lines, key=lambda line: line.number)))
    diverging = [line for line in lines if line.verdict == "diverge"]
    level = _level(counts)
    return {
        "level": level,
        "word": "Failed" if level == "bad" and not diverging else _ANSWERS[level],
        "answer": _answer(counts, backends),
        "signs": SIGNS,
        "counts": [
            (name, level_of(name) if counts[name] else "", counts[name])
            for name in dict.fromkeys([*VERDICTS, *verdicts])
            if counts[name] or name in _ALWAYS
        ],
        "compared": any(counts[name] for name in _COMPARED),
        "places": [
            (name, each["framework"], each["keras"], each["device"]) for name, each in summary["backends"].items()
        ],
        "diverging": diverging[:_NAMED],
        "more": max(len(diverging) - _NAMED, 0),
        "failed": [line for line in lines if line.verdict == "failed"],
        "open": _OPEN,
        "known": _known(lines),
        "idle": _idle(lines),
        "kinds": kinds,
        "verdicts": [(name, level_of(name), VERDICTS.get(name, ("", ""))[1]) for name in verdicts],
        "per_kind": Counter((line.kind, line.verdict) for line in lines),
        "totals": counts,
        "stages": list(STAGES),
        "backends": backends,
        "news": [name for name in MEANINGS if any(each.verdict == name for line in lines for each in line.news)],
        "meanings": MEANINGS,
        "lines": lines,
    }


def _level(counts: Mapping[str, int]) -> str:
    if counts["diverge"] or counts["failed"]:
        return "bad"
    if counts["known"]:
        return "warn"
    return "good" if counts["agree"] and not counts["not run"] else "mild"


def _answer(counts: Mapping[str, int], backends: Sequence[str]) -> str:
    """The answer in one sentence."""
    compared = sum(counts[name] for name in _COMPARED)
    if not compared:
        return "Nothing was compared yet."
    where = " and ".join([", ".join(backends[:-1])] * (len(backends) > 1) + list(backends[-1:])) or "no backend"
    parts = [
        f"{counts[name]:,} {words[counts[name] > 1]}"
        for name, words in {
            "diverge": ("diverges, and it is not known why", "diverge, and it is not known why"),
            "known": ("differs as is known", "differ as is known"),
            "failed": ("did not come through", "did not come through"),
        }.items()
        if counts[name]
    ]
    if not parts:
        return f"All {compared:,} cases compute and train the same on {where}."
    return f"{counts['agree']:,} of {compared:,} cases compute and train the same on {where}; {', '.join(parts)}."


def _known(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """For each reason of a known difference: its parts, the backends and stages where it shows, and its entries."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        for start in line.starts:
            if start.reason:
                of = found.setdefault(
                    start.reason, {"parts": linked(start.reason), "on": {}, "stages": {}, "lines": {}}
                )
                of["on"][start.on] = of["stages"][start.stage] = None
                of["lines"][line.number] = line
    return [
        each | {"stages": [name for name in STAGES if name in each["stages"]], "lines": list(each["lines"].values())}
        for each in found.values()
    ]


def _idle(lines: Sequence[Line]) -> list[tuple[str, str, list[Line]]]:
    """The entries that were not compared, grouped by verdict and reason."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.verdict not in _COMPARED:
            found.setdefault((line.verdict, line.answer), []).append(line)
    return [(verdict, reason, own) for (verdict, reason), own in found.items()]
