"""What is found, and where."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dlf.check._source import Source

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True)
class Finding:
    """A place that ties code to one framework."""

    path: str
    line: int
    column: int
    rule: str
    code: str
    """What stands there."""
    advice: str
    """What to write instead."""
    cell: int | None = None
    """Of a notebook, the number of the cell of code; the line is then one of the cell."""

    @property
    def place(self) -> str:
        """The file, the cell, the line and the column, as tools write them."""
        cell = f"cell {self.cell}:" if self.cell else ""
        return f"{self.path}:{cell}{self.line}:{self.column}"


class Findings:
    """Collects what is found, each place once."""

    def __init__(self) -> None:
        self._found: set[Finding] = set()
        self._quiet = 0
        self._only: frozenset[str] | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is reported for now."""
        return self._quiet > 0

    @contextmanager
    def unreported(self, quiet: bool = True) -> Iterator[None]:
        """Reports nothing for as long as it is entered."""
        self._quiet += quiet
        try:
            yield
        finally:
            self._quiet -= quiet

    @contextmanager
    def only(self, rules: Iterable[str]) -> Iterator[None]:
        """Reports what breaks some rules alone for as long as it is entered."""
        before, self._only = self._only, frozenset(rules)
        try:
            yield
        finally:
            self._only = before

    def report(self, source: Source, node: ast.expr | ast.stmt, rule: str, code: str, advice: str) -> None:
        """Notes a place, unless a comment says to leave it out."""
        if self.is_quiet or (self._only is not None and rule not in self._only) or source.ignores(node.lineno, rule):
            return
        cell, line = source.place(node.lineno)
        if rule == "gone-name":  # Of `a.b.c`, where `a.b` is gone, both are met: the longer one is kept.
            there = [each for each in self._found if (each.path, each.line, each.rule) == (source.path, line, rule)]
            if any(each.code.startswith(f"{code}.") for each in there):
                return
            self._found -= {each for each in there if code.startswith(f"{each.code}.")}
        self._found.add(Finding(source.path, line, node.col_offset + 1, rule, _short(code), advice, cell))

    def in_order(self) -> list[Finding]:
        """Returns the findings by file and line."""
        return sorted(self._found, key=lambda each: (each.path, each.cell or 0, each.line, each.column, each.rule))


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


_LONGEST = 60
