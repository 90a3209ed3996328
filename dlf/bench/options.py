"""The options of `dlf bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlf.backend.registry import backend_names, check_installed, installed_backends, load_backend
from dlf.utils.errors import InvalidArgumentError, check_positive, did_you_mean

__all__ = ["EXPLICIT", "FUSED", "GROWTH", "MODELS", "REFERENCE", "BenchOptions"]

MODELS = ("mlp", "cnn", "transformer")
REFERENCE = "Keras fit, NumPy arrays"
"""The contestant with whose results the others have to agree, and whose speed is 1 in the table."""
FUSED = "dlf fused"
EXPLICIT = "dlf.TrainingLoop, a step"
GROWTH = 10
"""With `growth`, how many times as many rows the second measurement has."""


@dataclass(frozen=True)
class BenchOptions:
    """The options of a run of `dlf bench`.

    Args:
        backends: Names of backends; by default all that are installed.
        models: Some of `MODELS`; by default all.
        rows: Images in an epoch.
        batch_size: Images in a batch; the last batch holds what remains.
        repeats: Rounds; in each, every contestant trains one epoch.
        growth: Whether to measure how the time per example changes at ten times the rows.
        memory: Whether to measure the peak memory, each contestant in a process of its own.
        startup: Whether to measure the start-up time with an empty and with a filled compilation cache.

    Raises:
        InvalidArgumentError: A number is not positive, or a model does not exist.
        MissingPackageError: A backend that was named is not installed.

    Example:
        >>> BenchOptions(models=("mlp",)).rows
        60000
    """

    backends: Sequence[str] = ()
    models: Sequence[str] = MODELS
    rows: int = 60_000
    batch_size: int = 64
    repeats: int = 5
    growth: bool = False
    memory: bool = False
    startup: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "batch_size", "repeats"):
            check_positive(name, getattr(self, name))
        for model in self.models:
            if model not in MODELS:
                expected = f"some of {', '.join(MODELS)}"
                raise InvalidArgumentError(
                    "models", expected=expected, received=model, advice=did_you_mean(model, MODELS)
                )
        for name in self.backends:
            check_installed(load_backend(name), f"the backend {name!r}")
        if not self.backends:
            # If none is installed, the error says how to install the first one that is declared.
            check_installed(load_backend((*installed_backends(), *backend_names())[0]), "dlf bench")
            object.__setattr__(self, "backends", installed_backends())
