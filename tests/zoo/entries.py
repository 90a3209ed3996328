"""All entries of the zoo.

Requirements:

* they are listed on any backend, without building a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zoo import activations, applications, initializers, layers, losses, metrics, optimizers
from zoo.entry import Entry

__all__ = ["KINDS", "all_entries"]

KINDS: dict[str, Callable[[], Iterator[Entry]]] = {
    "layers": layers.entries,
    "losses": losses.entries,
    "metrics": metrics.entries,
    "optimizers": optimizers.entries,
    "initializers": initializers.entries,
    "activations": activations.entries,
    "applications": applications.entries,
}
"""The function that yields the entries of each kind."""


def all_entries() -> list[Entry]:
    """Returns every entry of every kind.

    Returns:
        The entries, by kind and by Keras's own names: tested, untested and not applicable.

    Example:
        >>> [each.name for each in all_entries() if each.status == "untested"]
        []
    """
    return [entry for entries in KINDS.values() for entry in entries()]
