"""What is measured of one tensor, in JSON's types: what the verdict rests on, and what a report keeps."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["Apart", "Element", "Lost", "Measurement", "Moves"]


class Moves(TypedDict):
    """How an output moves with what goes in, on one backend: see `dlf.parity._judging.measure`."""

    bent: float
    bent_widely: float
    bent_units: float
    widened_units: float
    moved: float


class Apart(TypedDict):
    """How far apart the backends are beside a point: what tells a tie from a difference."""

    distances: dict[str, float | None]
    floor: float
    dtype: str


class Lost(TypedDict):
    """On which backends something is NaN or infinite, in float64 and in the dtype under test."""

    float64: dict[str, str]
    tested: dict[str, str]


class Element(TypedDict):
    """One element that differs: its place, and its value by backend."""

    index: list[int]
    float64: dict[str, float | None]
    tested: dict[str, float | None]


class Measurement(TypedDict, total=False):
    """One tensor, at one place of one stage, on all backends."""

    # Where it is.
    stage: str
    layer: str | None
    call: str | None
    variable: str | None
    """What it is called: a variable, or in words what else it is."""
    kind: str
    """What else it is, of which call or metric: ``"input"``, ``"mask"``, ``"input mask"``, ``"metric"``."""
    of: str
    mode: str | None
    """``"inference"``, ``"whole"``, ``"resynchronised"`` or ``"free"``; None is training, by itself."""
    step: int | None
    name: str
    """Of the record, while its place is not known."""

    # What it is.
    dtype: str
    shape: list[int]
    size: float | None
    """The root of the mean square; None of integers, and where one element is not finite."""
    backends: list[str]
    absent: list[str]
    """Backends that do not have it."""
    kinds: dict[str, str]
    """By backend, where they are not the same: whether it is of floating point, of integers, ..."""
    shapes: dict[str, str]
    digests: dict[str, str]
    not_finite: Lost
    from_numbers: bool
    """Whether everything that went in was finite."""
    elements: list[Element]

    # How far apart it is.
    floor: float
    """The noise floor in the dtype under test."""
    distances: dict[str, float | None]
    """The distance in float64, by pair (``"jax|torch"``): the root of the mean square; None where there is none."""
    apart: dict[str, float | None]
    """The largest difference in float64, relative to the largest element, by pair."""
    errors: dict[str, float | None]
    """The distance of what the dtype under test gives from float64, by backend."""
    beside: Apart

    # What is known of how it is computed.
    moves: dict[str, list[Moves]]
    longest: int
    """The terms of the longest sum in the layer."""
    own_dtype: int
    """The same, where it has no float64 form."""
    inherited: dict[str, int]
    """The same by backend, of what it holds."""
    roundoff: float
    """How far the roundoff of float64 takes it."""
    scale: float
    cancelled: bool
    """Whether its gradient is zero but for roundoff."""
    one_step: float
    """The noise floor of one step, of a run of many."""
