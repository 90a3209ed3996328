"""The options of `dlf parity`, checked before a process is started; no framework is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlf.backend.registry import check_installed, installed_backends, load_backend
from dlf.models.targets import check_target
from dlf.utils.errors import InvalidArgumentError, check_positive, did_you_mean

__all__ = ["DEVICES", "DTYPES", "STAGES", "ParityOptions"]

STAGES = ("build", "forward", "loss", "gradient", "update", "state", "trajectory")
DTYPES = ("float32", "bfloat16", "mixed_bfloat16", "float16")
DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class ParityOptions:
    """A comparison of one model across backends.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name`` of a function that builds a Keras
            model, or of a model; or a ``.keras`` file.
        backends: The backends to compare; none means all that are installed. A single one is only compared with its own
            float64 reference.
        data: Data as Keras's `fit` takes them, or a function ``(batch size, random) -> (x, y)``,
            ``(x, y, sample_weight)`` or ``x`` alone, as ``file.py:name``; by default the first batches on which the
            target's file trains the model, and made-up ones where it does not.
        loss: For a model that is not compiled with one: a loss of Keras, by name.
        batch_size: The number of examples in a batch.
        steps: The number of training steps in the trajectory.
        stages: The stages to compare; none means all. `build` is always among them.
        dtype: The dtype policy under test; ``"float32"`` leaves the model's own policies as they are.
        device: ``"cpu"`` or ``"gpu"``; by default what each framework takes by itself.
        seed: The seed of weights, data and masks.
        timeout: Seconds after which a worker that does not answer is ended.
    """

    target: str
    backends: Sequence[str] = ()
    data: str | None = None
    loss: str | None = None
    batch_size: int = 8
    steps: int = 3
    stages: Sequence[str] = ()
    dtype: str = "float32"
    device: str | None = None
    seed: int = 2025
    timeout: float = 600.0

    def __post_init__(self) -> None:
        check_target(self.target, saved=True)
        if self.data is not None:
            check_target(self.data, "--data")
        check_positive("batch_size", self.batch_size)
        check_positive("steps", self.steps)
        for stage in self.stages:
            _check_choice("stages", stage, STAGES)
        _check_choice("dtype", self.dtype, DTYPES)
        if self.device is not None:
            _check_choice("device", self.device, DEVICES)
        for name in self.backends:
            check_installed(load_backend(name), f"the backend {name!r}")
        there = self.backends or installed_backends()
        object.__setattr__(self, "backends", tuple(dict.fromkeys(there)))
        object.__setattr__(
            self, "stages", tuple(each for each in STAGES if each in (*(self.stages or STAGES), "build"))
        )
        if not self.backends:
            raise InvalidArgumentError(
                "--backends",
                expected="a backend that is installed",
                received=list(self.backends),
                advice="See `dlf backends` for those that there are, and the commands that install them.",
            )


def _check_choice(argument: str, received: str, known: Sequence[str]) -> None:
    if received not in known:
        raise InvalidArgumentError(
            argument, expected=f"one of {', '.join(known)}", received=received, advice=did_you_mean(received, known)
        )
