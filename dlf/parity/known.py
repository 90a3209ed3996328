"""Differences between backends that are known: defects of Keras or of a framework, each with what shows it.

What is asked of it:

* they are data, in one file: where, since which versions, why, and the smallest code that shows the difference;
* a report says that a difference is known, and why; it stays a difference;
* a test runs what shows each, and fails when it no longer does.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlf.parity.verdict import Finding

__all__ = ["KnownDifference", "known_differences", "with_reasons"]


@dataclass(frozen=True)
class KnownDifference:
    """One entry of `known_differences.toml`.

    Args:
        name: Short, for people.
        stages: Where it shows.
        backend: Whose it is.
        reason: One sentence.
        shows: Code that sets ``found``, an array or a number, which differs between this backend and the others.
        versions: Where it was seen.
        layers: Classes; none means any.
        optimizers: Likewise.
        variable: A regular expression that the variable's name holds.
        config: What the layer's configuration says.
        upstream: Where it was reported.
    """

    name: str
    stages: tuple[str, ...]
    backend: str
    reason: str
    shows: str
    versions: Mapping[str, str]
    layers: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    variable: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    upstream: str = ""


def known_differences() -> list[KnownDifference]:
    """Returns all of them.

    Example:
        >>> all(each.reason and each.shows for each in known_differences())
        True
    """
    found = tomllib.loads(Path(__file__).with_name("known_differences.toml").read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = [
        {name: tuple(each) if isinstance(each, list) else each for name, each in entry.items()}
        for entry in found["difference"]
    ]
    return [KnownDifference(**entry) for entry in entries]


def with_reasons(
    findings: Sequence[Finding], layers: Sequence[Mapping[str, Any]], optimizer: str | None, backends: Sequence[str]
) -> list[Finding]:
    """Returns findings with the reason, where a divergence is a known one.

    Args:
        findings: Of one model.
        layers: Of the model, as the report has them.
        optimizer: The class of the model's.
        backends: Which were compared.
    """
    if not any(each.verdict == "diverged" for each in findings):
        return list(findings)
    known, by_path = known_differences(), {each["path"]: each for each in layers}

    def reason_of(finding: Finding) -> str | None:
        for each in known:
            # Of two backends none is blamed; that the known one is among them has to do.
            blamed = finding.backend in {each.backend, None} and each.backend in backends
            if blamed and finding.stage in each.stages and _is_of(each, finding, by_path, optimizer):
                return f"{each.reason} {each.upstream}".strip()
        return None

    return [replace(each, reason=reason_of(each)) if each.verdict == "diverged" else each for each in findings]


def _is_of(
    known: KnownDifference, finding: Finding, layers: Mapping[str, Mapping[str, Any]], optimizer: str | None
) -> bool:
    layer = layers.get(finding.layer or "", {})
    config = layer.get("config", {})
    return (
        (not known.layers or layer.get("class") in known.layers)
        and (not known.optimizers or optimizer in known.optimizers)
        and all(config.get(name) == value for name, value in known.config.items())
        and re.search(known.variable, finding.variable or "") is not None
    )
