"""The options of `dlf gradients`, checked before a process is started; no framework is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlf.backend.registry import backend_names, check_installed, installed_backends, load_backend
from dlf.gradients._problems import PROBLEMS
from dlf.models.targets import check_target
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["REFERENCES", "GradientsOptions"]

REFERENCES = ("closed-form", "finite-difference", "numpy")
"""The names of the paths that need no framework."""


@dataclass(frozen=True)
class GradientsOptions:
    """The options of a comparison of gradient paths.

    Args:
        problem: ``"line"``, ``"mlp"``, or ``file.py:name`` or ``package.module:name`` of what builds a model.
        paths: The names of the paths; if empty, all that are installed.
        steps: The number of steps that each path takes; None is as many as the problem needs.
        seed: The seed of data, initial parameters and batches.
        data: For a model: a function ``(batch size, random) -> (x, y)``, as ``module:function``.
        loss: For a model that is not compiled: a loss of Keras, by name.
        batch_size: For a model: examples in a batch.
        compile: Whether to time compiled steps, too.
        timeout: Seconds after which a path's process is ended.
    """

    problem: str = "mlp"
    paths: Sequence[str] = ()
    steps: int | None = None
    seed: int = 2025
    data: str | None = None
    loss: str | None = None
    batch_size: int = 32
    compile: bool = True
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.is_model:
            if ":" not in self.problem:
                raise InvalidArgumentError(
                    "--problem",
                    expected=f"{', '.join(PROBLEMS)}, or file.py:name or package.module:name",
                    received=self.problem,
                    advice=did_you_mean(self.problem, PROBLEMS),
                )
            check_target(self.problem, "--problem")
        for name, value in (("--data", self.data), ("--loss", self.loss)):
            if value is not None and not self.is_model:
                raise InvalidArgumentError(name, expected="only with a model as --problem", received=value)
        if self.data is not None:
            check_target(self.data, "--data")
        self.chosen()

    @property
    def is_model(self) -> bool:
        """Whether the problem is a user's Keras model."""
        return self.problem not in PROBLEMS

    def chosen(self) -> list[tuple[str, str | None]]:
        """Returns the name of each path with that of its backend, which is None for a reference.

        Raises:
            InvalidArgumentError: There is no such path, or it does not work on this problem.
            MissingPackageError: Its framework is not installed.
        """
        references = {"line": REFERENCES, "mlp": REFERENCES[1:]}.get(self.problem, ())
        known: dict[str, str | None] = dict.fromkeys(references)
        for backend in backend_names():
            for path in load_backend(backend).gradient_path_names:
                known.setdefault(path, backend)
        if not self.paths:
            return [(path, name) for path, name in known.items() if name in (None, *installed_backends())]
        for path in self.paths:
            if path not in known:
                raise InvalidArgumentError(
                    "--paths",
                    expected=f"some of {', '.join(known)} for this problem",
                    received=path,
                    advice=did_you_mean(path, known),
                )
            owner = known[path]
            if owner is not None:
                check_installed(load_backend(owner), f"the path {path!r}")
        return [(path, known[path]) for path in dict.fromkeys(self.paths)]
