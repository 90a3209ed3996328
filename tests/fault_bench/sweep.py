"""Shows what each constant of the verdict does: the same measurements are judged with smaller and larger values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from dlf.parity._answers import Report
from dlf.parity._judging.verdict import Thresholds
from dlf.parity.evidence import judged

__all__ = ["FACTORS", "swept"]

FACTORS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Factors by which one constant at a time is multiplied."""


def swept(report: Report, backends: Sequence[str]) -> Iterator[tuple[str, float, Report]]:
    """Yields the name of each constant, each factor, and the report with that constant multiplied by it."""
    thresholds = Thresholds()
    for name, value in asdict(thresholds).items():
        for factor in FACTORS:
            yield name, factor, judged(report, backends, replace(thresholds, **{name: value * factor}))
