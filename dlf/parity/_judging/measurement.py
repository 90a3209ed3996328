"""The measurement of one tensor, in JSON's types: the verdict is based on it, and a report keeps it."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["Beside", "Element", "Lost", "Measurement", "Moves"]


class Moves(TypedDict):
    """How an output moves with its inputs, on one backend: see `_moves` in `dlf.parity._judging.measure`."""

    bent: float
    bent_widely: float
    bent_units: float
    widened_units: float
    moved: float


class Beside(TypedDict):
    """How far apart the backends are for slightly moved inputs: it tells a tie from a difference."""

    distances: dict[str, float | None]
    floor: float
    dtype: str


class Lost(TypedDict):
    """The backends on which a tensor holds NaN or infinity, in float64 and in the dtype under test."""

    float64: dict[str, str]
    tested: dict[str, str]


class Element(TypedDict):
    """One element that differs: its index, and its values by backend."""

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
    """The name of a variable, or words for another tensor."""
    kind: str
    """Of another tensor: ``"input"``, ``"mask"``, ``"input mask"`` or ``"metric"``; `of` is its call or its metric."""
    of: str
    mode: str | None
    """``"inference"``, ``"whole"``, ``"resynchronised"`` or ``"free"``; None is a part by itself, in training mode."""
    step: int | None
    update: int
    """Of a gradient that a model's own step takes: the number of the update in the step."""
    name: str
    """The name of the record, until its place is known."""

    # What it is.
    dtype: str
    shape: list[int]
    size: float | None
    """The root mean square; None for integers, and where an element is not finite."""
    backends: list[str]
    absent: list[str]
    """The backends that do not have it."""
    kinds: dict[str, str]
    """The name of the dtype by backend, as `kind_of` gives it, where the backends differ."""
    shapes: dict[str, str]
    digests: dict[str, str]
    not_finite: Lost
    from_numbers: bool
    """Whether all inputs were finite."""
    of_data: bool
    """Whether it is a gradient by the model's own data, which training does not take."""
    elements: list[Element]

    # How far apart it is.
    floor: float
    """The noise floor in the dtype under test."""
    distances: dict[str, float | None]
    """The root mean square of the difference in float64, by pair (``"jax|torch"``); None where it cannot be taken."""
    differences: dict[str, float | None]
    """The largest difference in float64, relative to the largest element, by pair."""
    errors: dict[str, float | None]
    """The root mean square of the difference between the dtype under test and float64, by backend."""
    beside: Beside

    # How it is computed.
    moves: dict[str, list[Moves]]
    longest: int
    """How many terms the longest sum in the layer may have."""
    own_dtype: int
    """The same, where the tensor has no float64 form and is judged in its own dtype."""
    inherited: dict[str, int]
    """The same by backend, where parts inside it have no float64 form."""
    roundoff: float
    """How far the roundoff of float64 moves it."""
    scale: float
    cancelled: bool
    """Whether its gradient is zero but for roundoff."""
    one_step: float
    """The noise floor of a single step, for a tensor of a free run."""
