"""What the page of the zoo shows of each entry: where it starts to differ, and further remarks.

Requirements:

* differences are listed in the order of the stages, for a diverging entry the unknown ones first;
* a report that lacks something, or has a new verdict, is still shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from dlf.parity.options import STAGES
from dlf.parity.page.numbers import difference_order, difference_text, finite, floors_text
from dlf.parity.page.rows import MEANINGS
from dlf.parity.report import place_of

__all__ = ["VERDICTS", "Line", "News", "Start", "level_of", "lines_of", "linked"]

VERDICTS = {
    "diverge": ("bad", "another meaning on some backend, and it is not known why"),
    "failed": ("bad", "a backend did not come through: there is no answer"),
    "not finite": ("warn", "the same, and NaN or infinite"),
    "not judged": ("warn", "the same, as far as it could be judged"),
    "not compared": ("warn", "there is one backend alone"),
    "known": ("warn", "another meaning on some backend, and it is known why"),
    "untested": ("mild", "the zoo has no case of it"),
    "not run": ("mild", "the zoo has a case of it, which was not run"),
    "agree": ("good", "it computes and trains the same"),
    "not applicable": ("", "there is nothing to compare"),
}
"""The verdicts, worst first, each with its level (how alarming it is) and its meaning."""
_SILENT = {"untested": "No case in the zoo.", "not run": "Not run yet."}
"""The answer that is shown for a row without one."""
_CUT = 200
"""The most characters of an answer in the table: failures may have long messages, which are shown above it."""
_LINK = re.compile(r"https?://[\w.-]*\w(?:/(?:[^\s<>\"'`]*[\w/])?)?")


@dataclass(frozen=True)
class Start:
    """A place where an entry diverges."""

    stage: str
    place: str
    on: str
    difference: str
    order: str
    reason: str


@dataclass(frozen=True)
class News:
    """A verdict on tensors that agree in float64: the worst finding with it, and how many more there are."""

    verdict: str
    level: str
    floors: str
    order: float
    place: str
    more: int


@dataclass(frozen=True)
class Line:
    """One entry, as a line of the page's table."""

    number: int
    kind: str
    name: str
    case: str
    target: str
    verdict: str
    answer: str
    starts: list[Start]
    """The differences in the order of the stages; if the entry diverges, the unknown ones first."""
    news: list[News]
    backends: set[str]
    """The backends that have a finding."""

    @property
    def level(self) -> str:
        """How alarming the verdict is."""
        return level_of(self.verdict)

    @property
    def rank(self) -> int:
        """The number to sort by verdict: the worst is 0."""
        return _rank(self.verdict)

    @property
    def stage_order(self) -> int:
        """The number to sort by the stage where it starts to differ; an entry that does not differ comes last."""
        return _stage_order(self.starts[0].stage) if self.starts else len(STAGES) + 1

    @property
    def news_order(self) -> float:
        """The number to sort by news: the largest number of noise floors, and -1 where there is no news."""
        return max((each.order for each in self.news), default=-1.0)

    @property
    def title(self) -> str:
        """Its name and its case, as it is called among others of its kind."""
        return f"{self.name}, {self.case}" if self.case else self.name

    @property
    def search(self) -> str:
        """The words to search the table for to find it."""
        return " ".join(f'"{part}"' for part in (self.name, self.case) if part)

    @property
    def short_answer(self) -> str:
        """Its answer, cut off where it is very long."""
        return self.answer if len(self.answer) <= _CUT else f"{self.answer[:_CUT]}…"


def level_of(verdict: str) -> str:
    """Returns how alarming a verdict is.

    Args:
        verdict: The verdict of an entry.

    Example:
        >>> level_of("known")
        'warn'
    """
    return VERDICTS.get(verdict, ("", ""))[0]


def lines_of(summary: Mapping[str, Any]) -> list[Line]:
    """Returns the entries, worst first.

    Args:
        summary: What `run_zoo` returned.
    """
    backends = list(summary["backends"])
    lines = [_line(number, row, backends) for number, row in enumerate(summary["rows"])]
    return sorted(lines, key=lambda line: (line.rank, line.number))


def linked(text: str) -> list[tuple[str, bool]]:
    """Returns a text in parts, each with whether it is a web address.

    Args:
        text: The text, which may hold addresses.

    Example:
        >>> linked("It is mended: https://example.org/pull/1.")
        [('It is mended: ', False), ('https://example.org/pull/1', True), ('.', False)]
        >>> linked("javascript:alert(1) https://x.org.")[1:]
        [('https://x.org', True), ('.', False)]
    """
    parts: list[tuple[str, bool]] = []
    last = 0
    for found in _LINK.finditer(text):
        parts += [(text[last : found.start()], False), (found[0], True)]
        last = found.end()
    return [part for part in [*parts, (text[last:], False)] if part[0]]


def _line(number: int, row: Mapping[str, Any], backends: Sequence[str]) -> Line:
    known = row["verdict"] != "diverge"
    found = sorted(
        row["findings"], key=lambda each: (not known and bool(each.get("reason")), _stage_order(each["stage"]))
    )
    said = [*found, *row["news"]]
    # Where there is no majority, all backends are named.
    on = {name for each in said for name in ([each["backend"]] if each["backend"] else backends)}
    return Line(
        number=number,
        kind=row["kind"],
        name=row["name"],
        case=row["case"].replace("_", " "),
        target=row["target"] or "",
        verdict=row["verdict"],
        answer=click.unstyle(row["answer"]) or _SILENT.get(row["verdict"], ""),
        starts=[_start(each) for each in found],
        news=_news(row["news"]),
        backends=on,
    )


def _start(each: Mapping[str, Any]) -> Start:
    apart = each.get("relative_difference")
    return Start(
        stage=each["stage"],
        place=place_of(each),
        on=each["backend"] or "all",
        difference=difference_text(apart),
        order=difference_order(apart),
        reason=each.get("reason") or "",
    )


def _news(all_news: Sequence[Mapping[str, Any]]) -> list[News]:
    by_verdict: dict[str, list[Mapping[str, Any]]] = {}
    for each in all_news:
        by_verdict.setdefault(each["verdict"], []).append(each)
    found = []
    for verdict, (level, _) in MEANINGS.items():
        if own := by_verdict.get(verdict, []):
            worst = max(own, key=lambda each: each.get("noise_floors") or 0.0)
            on = f" on {worst['backend']}" if worst["backend"] else ""
            place = f"{worst['stage']} of {place_of(worst)}{on}"
            floors = finite(worst.get("noise_floors"))
            found.append(News(verdict, level, floors_text(floors), floors or 0.0, place, len(own) - 1))
    return found


def _rank(verdict: str) -> int:
    return list(VERDICTS).index(verdict) if verdict in VERDICTS else len(VERDICTS)


def _stage_order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
