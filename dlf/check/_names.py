"""Dotted names from outside of the files, under one spelling each."""

from __future__ import annotations

import difflib
import re

from dlf.check._values import Name
from dlf.check.equivalents import KERAS_BACKEND, NOTHING, equivalent
from dlf.check.gone import NAMES, RAISING
from dlf.check.keras_api import has_name, keras_version, names_in

__all__ = ["FRAMEWORKS", "below", "fault_of_name", "named"]

FRAMEWORKS = {"tensorflow": "tensorflow-op", "torch": "torch-op", "jax": "jax-op", "numpy": "numpy-op"}
"""The rule for the operations of each framework."""

_SYNONYMS = (
    ("keras.src", "keras"),
    ("keras.api", "keras"),
    ("tensorflow.compat.v2", "tensorflow"),
    ("tensorflow.python.keras", "keras"),
    ("tensorflow.keras", "keras"),
    ("torch.nn.functional", "torch"),
    ("jax.numpy", "jax"),
)
_PRIVATE = frozenset({"keras.src", "keras.api", "tensorflow.python.keras"})


def named(dotted: str, *, by_tensorflow: bool = False, private: bool = False) -> Name:
    """Returns a name from outside of the files under its usual spelling.

    Example:
        >>> named("tensorflow.keras.layers.Dense").dotted
        'keras.layers.Dense'
    """
    for long, short in _SYNONYMS:
        if dotted == long or dotted.startswith(f"{long}."):
            by_tensorflow = by_tensorflow or (short == "keras" and long.startswith("tensorflow"))
            return Name(short + dotted[len(long) :], by_tensorflow, private or long in _PRIVATE)
    return Name(dotted, by_tensorflow, private)


def below(owner: Name, attribute: str) -> Name:
    """Returns the name of an attribute of what has a name."""
    return named(f"{owner.dotted}.{attribute}", by_tensorflow=owner.by_tensorflow, private=owner.private)


def fault_of_name(name: Name) -> tuple[str, str] | None:  # noqa: PLR0911 - one for each kind of fault.
    """Returns the rule that a name of Keras breaks, and what to write; None of one that may be used."""
    if name.package != "keras" or name.private:
        return None
    dotted, (above, _, last) = name.dotted, name.dotted.rpartition(".")
    known = has_name(dotted, by_tensorflow=name.by_tensorflow) or dotted.startswith("keras.backend.")
    gone = max((each for each in NAMES if f"{dotted}.".startswith(f"{each}.")), key=len, default=None)
    if gone is not None and (not known or gone in RAISING):
        instead = NAMES[gone] + dotted[len(gone) :]
        is_name = re.fullmatch(r"keras(\.\w+)*", NAMES[gone]) and has_name(instead)
        return "gone-name", instead if is_name else NAMES[gone]
    if above == "keras.backend" and not has_name(dotted):
        return "keras-backend", KERAS_BACKEND.get(last) or equivalent("tensorflow", last) or NOTHING
    if known or not has_name(above, by_tensorflow=name.by_tensorflow):
        return None
    if name.by_tensorflow and has_name(dotted):
        return "gone-name", f"{dotted} of `import keras`, which tf.keras lacks"
    for package in ("keras", "keras.ops"):
        if has_name(f"{package}.{last}"):
            return "gone-name", f"{package}.{last}"
    near = difflib.get_close_matches(last, names_in(above), n=1)
    return "gone-name", f"{above}.{near[0]}" if near else f"a name that Keras {keras_version()} has"
