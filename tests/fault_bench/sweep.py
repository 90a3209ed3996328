"""What each constant of the verdict buys: the same measurements, judged with it smaller and larger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from dlf.parity._answers import Report
from dlf.parity._judging.verdict import Constants
from dlf.parity.evidence import judged

__all__ = ["FACTORS", "swept"]

FACTORS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""By which one constant at a time is multiplied."""


def swept(report: Report, backends: Sequence[str]) -> Iterator[tuple[str, float, Report]]:
    """Yields each constant's name, the factor, and what the measurements are judged to be with it."""
    constants = Constants()
    for name, value in asdict(constants).items():
        for factor in FACTORS:
            yield name, factor, judged(report, backends, replace(constants, **{name: value * factor}))
