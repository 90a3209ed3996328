"""Differences between backends that are known: defects of Keras or of a framework, each with what shows it.

What is asked of it:

* they are data, in one file: where, since which versions, why, and the smallest code that shows the difference;
* a test runs what shows each, and fails when it no longer does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["KnownDifference", "known_differences"]


@dataclass(frozen=True)
class KnownDifference:
    """One entry of `known_differences.toml`.

    Args:
        name: Short, for people.
        stages: Where it shows; none where nothing that is compared does.
        backends: Whose it is.
        reason: One sentence.
        shows: Code that sets ``found``, an array or a number or a list of them, each of which differs between these
            backends and the others; on these it may raise.
        versions: Where it was seen.
        layers: Classes; none means any.
        optimizers: Likewise.
        variable: A regular expression that the variable's name holds.
        config: What the layer's configuration says; of words and lists, a regular expression.
        functions: Of Keras's backend, such as ``"nn.average_pool"``: whoever calls one has the difference too, be it a
            layer of somebody's own, an activation or a loss.
        arguments: Of such a function, as `config`; ``clipped`` is whether it is given numbers within
            1e-7 of zero or one, ``unseeing`` whether its mask leaves a row without anything.
        assigned: Whether it is of a trainable variable that is assigned to in `call`.
        lost: Whether it is of a gradient that is not finite.
        metrics: Whether it is of a metric that a layer holds.
        training: Whether it is of a model whose `call` takes `training`, and of layers that draw, as Dropout does.
        repeated_path: Whether it is of a variable whose path another has.
        sparse: ``"variable"`` where it is of one whose gradient is sparse there, ``"model"`` where the model has one.
        upstream: Where it was reported.
        raises: A regular expression that the error holds, where it raises on these backends.
    """

    name: str
    stages: tuple[str, ...]
    backends: tuple[str, ...]
    reason: str
    shows: str
    versions: Mapping[str, str]
    layers: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    variable: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    assigned: bool = False
    lost: bool = False
    metrics: bool = False
    training: bool = False
    repeated_path: bool = False
    sparse: str = ""
    upstream: str = ""
    raises: str = ""


@cache
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
