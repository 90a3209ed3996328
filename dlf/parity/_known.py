"""Known differences between backends: defects of Keras or of a framework, each with code that shows it.

Requirements:

* they are data in one file: where, in which versions, why, and the smallest code that shows the difference;
* a test runs the code of each, and fails when it no longer shows the difference.
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
        name: A short name, for people.
        stages: The stages at which it shows; none where parity does not get to see it.
        backends: The backends that have it.
        reason: The reason, in one sentence.
        shows: Code that sets ``found`` to an array, a number or a list of them, each of which differs between
            `backends` and the others; on `backends` it may raise.
        versions: The versions in which it was seen.
        layers: The classes of layers that have it; none means any.
        optimizers: The classes of optimizers that have it; none means any.
        variable: A regular expression that is found in the variable's name.
        config: Values in the layer's configuration; for strings and lists, a regular expression that matches the whole.
        functions: Functions of Keras's backend, such as ``"nn.average_pool"``: whatever calls one has the difference
            too, such as a user's own layer, an activation or a loss.
        arguments: Arguments of such a function, as in `config`. ``clipped`` is whether it is given numbers within 1e-7
            of zero or one, ``probabilities`` whether none is negative and they add up to one, ``unseeing`` whether its
            mask has a row that leaves nothing to attend to, ``distribution`` whether its targets add up to one.
        assigned: Whether it needs a trainable variable that is assigned to in `call`.
        lost: Whether it is a gradient that is not finite.
        metrics: Whether it is a metric that a layer holds.
        training: Whether it needs a model whose `call` takes `training`, and layers that draw, as Dropout does.
        repeated_path: Whether it is in variables that share a path with another.
        sparse: ``"variable"`` where it is in those with a sparse gradient, ``"model"`` where the model has to have one.
        wide: Whether it is in a variable that has float64 on the other backends.
        upstream: Where it was reported.
        raises: A regular expression that is found in the error, where it raises on `backends`.
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
    wide: bool = False
    upstream: str = ""
    raises: str = ""


@cache
def known_differences() -> list[KnownDifference]:
    """Returns all known differences.

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
