"""What a backend supplies to dlf: a few primitives, from which everything else is derived once.

What is asked of it:

* a backend is found by its entry point in the group ``dlf.backends``; another one needs no edit to dlf;
* loading a backend imports no framework: `Backend.requires` is looked up, and the methods import on use;
* methods that do import the framework run only in a process that was started for this backend;
* a gradient path has two verbs, and no way of its own to keep parameters or an optimizer.

Keras's list of frameworks is closed, so a plug-in runs on one of Keras's own (`Backend.keras_backend`) and adds a
gradient path, a reference or a numeric mode to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = ["Backend", "Batch", "EpochRunner", "GradientPath", "Loss", "Parameters"]

Parameters: TypeAlias = Mapping[str, Any]
"""Arrays by name: NumPy's going in, the framework's own or NumPy's coming out."""

Batch: TypeAlias = tuple[Any, Any]
"""Inputs and targets."""

Loss: TypeAlias = Callable[[Parameters, Batch], Any]
"""A scalar from parameters and a batch, which reach it as the framework's own tensors."""


@runtime_checkable
class GradientPath(Protocol):
    """One framework's own way of taking a gradient."""

    def loss_and_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Returns `loss(parameters, batch)` and its derivative by each parameter, under the parameter's name."""
        ...

    def apply(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> dict[str, Any]:
        """Returns the parameters after one step of gradient descent: `parameter - learning_rate * gradient`."""
        ...


@runtime_checkable
class EpochRunner(Protocol):
    """Runs many steps of one compiled and built model in one call, each the model's own public step.

    `data` is what `put` returned for a structure of arrays of equal length, such as ``(x, y)``; `rows` is what `put`
    returned for integers of the shape ``(batches, examples in a batch)``: the examples of each batch.
    """

    def refusal(self) -> str | None:
        """Says why this model's steps cannot be run so, or returns None."""
        ...

    def put(self, arrays: Any) -> Any:
        """Returns the arrays on the device."""
        ...

    def trace(self, data: Any, rows: Any) -> None:
        """Traces a training step and changes nothing; raises where the step cannot be traced."""
        ...

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches from `start` to before `stop`; returns the last step's logs, when all is computed."""
        ...

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches from `start` to before `stop`; returns the last step's logs."""
        ...

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for all batches, joined, as NumPy's arrays."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error says that the device has no memory left."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One framework, or one way of running it, that Keras models compute on."""

    @property
    def name(self) -> str:
        """What ``--backend`` calls it; the same as its entry point."""
        ...

    @property
    def keras_backend(self) -> str:
        """What ``KERAS_BACKEND`` has to say for it: one of Keras's own names."""
        ...

    @property
    def requires(self) -> tuple[str, ...]:
        """The packages that it imports, the framework first."""
        ...

    @property
    def install_command(self) -> str:
        """The command that installs what it requires."""
        ...

    def environment(self) -> Mapping[str, str]:
        """The variables that its process must start with, ``KERAS_BACKEND`` aside."""
        ...

    def devices(self) -> Sequence[str]:
        """The devices that it computes on, the default one first, such as ``"cpu:0"`` and ``"gpu:0 NVIDIA H100"``."""
        ...

    def numeric_settings(self) -> Mapping[str, str]:
        """What decides its float32 arithmetic and its determinism, by the framework's own names."""
        ...

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        """Its ways of taking a gradient, by name."""
        ...

    def epoch_runner(self, model: Any) -> EpochRunner:
        """What runs this Keras model's steps, many in one call."""
        ...

    def free_memory(self) -> int | None:
        """The bytes that are free on the device, or None where it uses the host's memory, or does not tell."""
        ...

    def threefry_2x32(self, key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
        """Returns both words of Threefry-2x32 for each counter; of every integer, going in or out, 32 bits count."""
        ...

    def random_bits(self, key: Any, shape: Any) -> Any:
        """Returns 32 bits for each element: the exclusive or of both words for the counter (0, its number)."""
        ...

    def look_up(self, table: Any, indices: Any) -> Any:
        """Returns the entry of a NumPy array at each index, without a copy of it in each compiled function."""
        ...

    def common_draws(self) -> Collection[str]:
        """The functions of Keras's random module that draw JAX's numbers as they are, and need no replacement."""
        ...
