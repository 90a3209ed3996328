"""What `check_parity` returns: a report with types, which prints as text and is JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.verdict import Finding
from dlf.parity.evidence import read_report
from dlf.parity.report import exit_code, report_text, write_report

__all__ = ["ParityReport"]


class ParityReport(dict[str, Any]):
    """What a comparison found: it prints as `dlf parity` does, and its items are those of ``dlf parity --json``.

    Example:
        >>> report = ParityReport(verdict="agree", findings=[], divergences=[], first_divergence=None)
        >>> report.verdict, report.first_divergence, report["verdict"]
        ('agree', None, 'agree')
    """

    @property
    def ok(self) -> bool:
        """Whether everything was compared, is the same and finite: exit code 0 of `dlf parity`."""
        return exit_code(self) == 0

    @property
    def verdict(self) -> str:
        """``"agree"``, ``"diverge"``, ``"not finite"`` or ``"not compared"``."""
        return str(self["verdict"])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is known of each tensor, on each backend."""
        return tuple(Finding(**each) for each in self["findings"])

    @property
    def divergences(self) -> tuple[Finding, ...]:
        """The findings that are another meaning, in the order of the stages."""
        return tuple(Finding(**each) for each in self["divergences"])

    @property
    def first_divergence(self) -> Finding | None:
        """At which stage, in which layer and variable and on which backend it starts."""
        first = self["first_divergence"]
        return None if first is None else Finding(**first)

    @property
    def measurements(self) -> list[Measurement]:
        """What the verdict rests on."""
        found: list[Measurement] = self["measurements"]
        return found

    def to_json(self, file: Path) -> None:
        """Writes what ``dlf parity --json FILE`` writes.

        Raises:
            OutputError: It cannot be written.
        """
        write_report(self, file)

    @classmethod
    def from_json(cls, file: Path) -> ParityReport:
        """Reads what ``dlf parity --json FILE`` wrote.

        Raises:
            InvalidArgumentError: It is not there, or is no such report.
        """
        return cls(read_report(file))

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return report_text(self)
