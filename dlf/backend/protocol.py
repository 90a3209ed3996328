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
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "Backend",
    "Batch",
    "CustomGradients",
    "EpochRunner",
    "GradientPath",
    "Lesson",
    "Loss",
    "Parameters",
    "SecondDerivatives",
    "TrainingLoop",
]

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
class SecondDerivatives(Protocol):
    """What a gradient path may supply besides: derivatives of its gradients, in the framework's own idiom."""

    def hessian_vector_product(
        self, loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters
    ) -> dict[str, Any]:
        """Returns ``H v``: how the gradients change as the parameters move along the vector."""
        ...

    def per_example_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> dict[str, Any]:
        """Returns the gradients of `loss(parameters, example)` for a batch of each example, along a first axis."""
        ...


@runtime_checkable
class TrainingLoop(Protocol):
    """A plain loop over any Keras model, for people to read: five functions, of a module or an object."""

    def find_optimizer(self, optimizer: Any, model: Any) -> Any:
        """Returns the framework's own optimizer for a Keras optimizer of this model, and refuses what is none."""
        ...

    def start(self, model: Any, optimizer: Any) -> Any:
        """Returns the state to train from."""
        ...

    def make_step(self, model: Any, loss: Callable[[Any, Any], Any], optimizer: Any) -> Callable[..., Any]:
        """Returns a function ``(state, x, y) -> (state, loss, finite)`` that takes one step on one batch."""
        ...

    def names(self, model: Any, state: Any) -> Sequence[str]:
        """Returns the names of the trainable variables, in the order of the step's `finite`."""
        ...

    def finish(self, model: Any, state: Any) -> None:
        """Gives the model what was learnt."""
        ...


@runtime_checkable
class Lesson(GradientPath, Protocol):
    """A gradient path that `dlf gradients` can show at work: two problems in its own words, and a step to compile."""

    @property
    def training_loop(self) -> TrainingLoop:
        """The path's loop over any Keras model."""
        ...

    def start(self, parameters: Parameters, problem: str = "") -> Any:
        """Returns the parameters in the path's own form, a module, say, for ``"line"``, ``"mlp"`` or anything else."""
        ...

    def read(self, parameters: Any) -> Mapping[str, Any]:
        """Returns the parameters by name, as NumPy's arrays."""
        ...

    def line_loss(self, parameters: Any, batch: Batch) -> Any:
        """Returns the mean squared error of ``w x + b``."""
        ...

    def mlp_loss(self, parameters: Any, batch: Batch) -> Any:
        """Returns the mean cross-entropy of the lab's MLP, ``logits = relu(x hidden/kernel + hidden/bias) ...``."""
        ...

    def step(self, loss: Any, parameters: Any, batch: Batch, learning_rate: float) -> tuple[Any, Any]:
        """Returns the loss, and the parameters after one step of gradient descent."""
        ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `step`, or another function of ``(loss, parameters, batch, ...)``, as the framework compiles it."""
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

    @property
    def ways(self) -> Mapping[str, int]:
        """How many steps were run in which way, and how many were recorded: what a test reads to say what it tested."""
        ...

    def put(self, arrays: Any) -> Any:
        """Returns the arrays on the device."""
        ...

    def begin_reading(self) -> None:
        """Called where Keras's own loop makes an iterator of the data; draws the random numbers that this draws."""
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
class CustomGradients(Protocol):
    """What the backend of one of Keras's frameworks may supply besides; one that runs on it needs none of its own."""

    def custom_gradients_undone(self, note: Callable[[], None]) -> AbstractContextManager[None]:
        """A context in which what `keras.ops.custom_gradient` has decorated is derived as it computes.

        `note` is called whenever such a function is.
        """
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

    def cpu_environment(self) -> Mapping[str, str]:
        """The variables that hide GPUs from its process, besides those."""
        ...

    def devices(self) -> Sequence[str]:
        """The devices that it computes on, the default one first, such as ``"cpu:0"`` and ``"gpu:0 NVIDIA H100"``."""
        ...

    def numeric_settings(self) -> Mapping[str, str]:
        """What decides its float32 arithmetic and its determinism, by the framework's own names."""
        ...

    def tensor_float_32(self) -> str | None:
        """Returns what turns TF32 off, where float32 products may be computed in it on the default device, or None."""
        ...

    @property
    def gradient_path_names(self) -> tuple[str, ...]:
        """The names of its ways of taking a gradient, which are known before the framework is imported."""
        ...

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        """Its ways of taking a gradient, by name."""
        ...

    def hand_written_loops(self) -> Mapping[str, Callable[[Any], Any]]:
        """Training loops as the framework's users write them, by name, which `dlf bench` times; there may be none.

        Each takes a `dlf.bench.models.Task`, and has ``epoch() -> loss`` and ``weights()``.
        """
        ...

    def float64(self) -> AbstractContextManager[Any]:
        """A context in which the framework computes in float64 what is asked for in float64."""
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
