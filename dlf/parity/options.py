"""What `dlf parity` is asked for, checked before a process is started; no framework is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlf.backend_registry import backend_names, is_installed, load_backend
from dlf.errors import InvalidArgumentError, MissingPackageError, check_positive
from dlf.targets import check_target

__all__ = ["STAGES", "ParityOptions"]

STAGES = ("build", "forward", "loss", "gradient", "update", "state", "trajectory")


@dataclass(frozen=True)
class ParityOptions:
    """A comparison of one model across backends.

    Args:
        target: ``file.py:function`` or ``package.module:function``, which builds a Keras model.
        backends: Which; none means all that are installed.
        data: A function ``(batch size, random) -> (x, y)``, as ``module:function``; by default data are made.
        loss: For a model that is not compiled: a loss of Keras, by name.
        batch: Examples in a batch.
        steps: Steps of the trajectory.
        seed: Of weights, data and masks.
        timeout: Seconds after which a worker that does not answer is ended.
    """

    target: str
    backends: Sequence[str] = ()
    data: str | None = None
    loss: str | None = None
    batch: int = 8
    steps: int = 3
    seed: int = 2025
    timeout: float = 600.0

    def __post_init__(self) -> None:
        check_target(self.target)
        if self.data is not None:
            check_target(self.data, "--data")
        check_positive("batch", self.batch)
        check_positive("steps", self.steps)
        for name in self.backends:
            backend = load_backend(name)
            if not is_installed(backend):
                raise MissingPackageError(
                    f"the backend {name!r}", package=backend.requires[0], command=backend.install_command
                )
        if not self.backends:
            there = tuple(name for name in backend_names() if is_installed(load_backend(name)))
            object.__setattr__(self, "backends", there)
        if len(set(self.backends)) < 2:  # noqa: PLR2004 - two are what a comparison takes.
            raise InvalidArgumentError(
                "--backends",
                expected="two or more backends that are installed",
                received=list(self.backends),
                advice="See `dlf backends` for those that there are, and the commands that install them.",
            )
