"""What `check_parity` returns: a typed report, which prints as text and can be written as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.verdict import Finding
from dlf.parity.evidence import read_report
from dlf.parity.report import exit_code, report_text, write_report

__all__ = ["ParityReport"]


class ParityReport(dict[str, Any]):
    """The report of a comparison: it prints as `dlf parity` does, and its items are those of ``dlf parity --json``.

    Example:
        >>> report = ParityReport(verdict="agree", findings=[], divergences=[], first_divergence=None)
        >>> report.verdict, report.first_divergence, report["verdict"]
        ('agree', None, 'agree')
    """

    @property
    def ok(self) -> bool:
        """Whether everything was compared, is the same and is finite, as exit code 0 of `dlf parity` says."""
        return exit_code(self) == 0

    @property
    def verdict(self) -> str:
        """``"agree"``, ``"diverge"``, ``"not finite"`` or ``"not compared"``."""
        return str(self["verdict"])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The verdict on each tensor, on each backend."""
        return tuple(Finding(**each) for each in self["findings"])

    @property
    def divergences(self) -> tuple[Finding, ...]:
        """The findings whose verdict is ``"diverged"``, in the order of the stages."""
        return tuple(Finding(**each) for each in self["divergences"])

    @property
    def first_divergence(self) -> Finding | None:
        """The first of the divergences: the stage, layer, variable and backend where the difference starts; or None."""
        first = self["first_divergence"]
        return None if first is None else Finding(**first)

    @property
    def measurements(self) -> list[Measurement]:
        """The measurements that the verdict is based on."""
        found: list[Measurement] = self["measurements"]
        return found

    def to_json(self, file: Path) -> None:
        """Writes what ``dlf parity --json FILE`` writes.

        Raises:
            OutputError: The file cannot be written.
        """
        write_report(self, file)

    @classmethod
    def from_json(cls, file: Path) -> ParityReport:
        """Reads what ``dlf parity --json FILE`` wrote.

        Raises:
            InvalidArgumentError: The file cannot be read, or is not such a report.
        """
        return cls(read_report(file))

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return report_text(self)
