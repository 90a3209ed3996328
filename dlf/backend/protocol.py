"""What a backend supplies to dlf: a few primitives, from which dlf derives everything else, once for all backends.

Requirements:

* a backend is found by its entry point in the group ``dlf.backends``; adding one needs no change to dlf;
* loading a backend imports no framework: its methods import the framework when they are called, and
  `Backend.requires` is enough to tell whether it is installed;
* methods that import the framework run only in a process that was started for this backend;
* a gradient path has two methods, and stores neither parameters nor an optimizer.

Keras supports a fixed list of frameworks. A plug-in therefore runs on one of them (`Backend.keras_backend`) and adds a
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
"""Arrays by name: NumPy arrays as arguments, and the framework's tensors or NumPy arrays as results."""

Batch: TypeAlias = tuple[Any, Any]
"""Inputs and targets."""

Loss: TypeAlias = Callable[[Parameters, Batch], Any]
"""A function of parameters and a batch, given as the framework's own tensors, that returns a scalar."""


@runtime_checkable
class GradientPath(Protocol):
    """One of a framework's own ways to compute gradients."""

    def loss_and_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Returns `loss(parameters, batch)` and its gradient with respect to each parameter, by parameter name."""
        ...

    def apply(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> dict[str, Any]:
        """Returns the parameters after one step of gradient descent: `parameter - learning_rate * gradient`."""
        ...


@runtime_checkable
class SecondDerivatives(Protocol):
    """Optional methods of a gradient path: derivatives of its gradients, in the framework's own idiom."""

    def hessian_vector_product(
        self, loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters
    ) -> dict[str, Any]:
        """Returns ``H v``, the Hessian of the loss times the vector, by parameter name."""
        ...

    def per_example_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> dict[str, Any]:
        """Returns the gradients of the loss of each example, as a batch of one, stacked along a new first axis."""
        ...


@runtime_checkable
class TrainingLoop(Protocol):
    """A plain training loop for any Keras model, written to be read: five functions of a module or an object."""

    def find_optimizer(self, optimizer: Any, model: Any) -> Any:
        """Returns the optimizer in the form that this loop uses; raises an error if it is not an optimizer."""
        ...

    def start(self, model: Any, optimizer: Any) -> Any:
        """Returns the initial state of a training."""
        ...

    def make_step(self, model: Any, loss: Callable[[Any, Any], Any] | None, optimizer: Any) -> Callable[..., Any]:
        """Returns a function ``(state, x, y) -> (state, loss, finite)`` that takes one step on one batch.

        A loss of None stands for the model's own `compute_loss`.
        """
        ...

    def names(self, model: Any, state: Any) -> Sequence[str]:
        """Returns the names of the trainable variables, in the order of the step's `finite`."""
        ...

    def finish(self, model: Any, state: Any) -> None:
        """Writes the trained values into the model."""
        ...


@runtime_checkable
class Lesson(GradientPath, Protocol):
    """A gradient path that `dlf gradients` can demonstrate: two example losses, and a step to compile."""

    @property
    def training_loop(self) -> TrainingLoop:
        """The path's training loop for any Keras model."""
        ...

    def start(self, parameters: Parameters, problem: str = "") -> Any:
        """Returns the parameters in the path's own form, such as a module.

        `problem` is ``"line"`` or ``"mlp"`` where the parameters belong to one of the two example losses.
        """
        ...

    def read(self, parameters: Any) -> Mapping[str, Any]:
        """Returns the parameters by name, as NumPy arrays."""
        ...

    def line_loss(self, parameters: Any, batch: Batch) -> Any:
        """Returns the mean squared error of ``w x + b``."""
        ...

    def mlp_loss(self, parameters: Any, batch: Batch) -> Any:
        """Returns the mean cross-entropy of the lab's MLP.

        The logits are ``relu(x hidden/kernel + hidden/bias) logits/kernel + logits/bias``.
        """
        ...

    def step(self, loss: Any, parameters: Any, batch: Batch, learning_rate: float) -> tuple[Any, Any]:
        """Returns the loss, and the parameters after one step of gradient descent."""
        ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `step`, or another function of ``(loss, parameters, batch, ...)``, compiled by the framework."""
        ...


@runtime_checkable
class EpochRunner(Protocol):
    """Runs many steps of one compiled and built model in one call.

    Each step is the model's own `train_step`, `test_step` or `predict_step`. `data` is what `put` returned for a
    structure of arrays of equal length, such as ``(x, y)``. `rows` is what `put` returned for an integer array of shape
    ``(batches, examples in a batch)``: for each batch, the indices of its examples in `data`.
    """

    def refusal(self) -> str | None:
        """Returns the reason why this model's steps cannot be run here, or None if they can."""
        ...

    @property
    def ways(self) -> Mapping[str, int]:
        """Counts of the steps that were traced, recorded, or run in each way, for tests to read."""
        ...

    def put(self, arrays: Any) -> Any:
        """Returns the arrays as tensors on the device."""
        ...

    def begin_reading(self) -> None:
        """Draws the random numbers that Keras's own loop draws when it makes an iterator over the data.

        Called wherever that loop would make one.
        """
        ...

    def trace(self, data: Any, rows: Any) -> None:
        """Traces a training step without changing any state; raises an error if the step cannot be traced."""
        ...

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches `rows[start:stop]`; returns the last step's logs."""
        ...

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches `rows[start:stop]`; returns the last step's logs."""
        ...

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for all batches, concatenated along the first axis, as NumPy arrays."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error means that the device is out of memory."""
        ...


@runtime_checkable
class CustomGradients(Protocol):
    """An optional method of the backends named after Keras's frameworks; plug-ins that run on these use theirs."""

    def custom_gradients_undone(self, note: Callable[[], None]) -> AbstractContextManager[None]:
        """Returns a context in which custom gradients are ignored.

        A function decorated with `keras.ops.custom_gradient` is then differentiated through its own operations. `note`
        is called at each call of such a function.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A framework, or one way of running it, on which Keras models compute."""

    @property
    def name(self) -> str:
        """The name for ``--backend``; also the name of its entry point."""
        ...

    @property
    def keras_backend(self) -> str:
        """The value that ``KERAS_BACKEND`` must have: one of Keras's own backend names."""
        ...

    @property
    def requires(self) -> tuple[str, ...]:
        """The import names of the packages that it needs, the framework first."""
        ...

    @property
    def install_command(self) -> str:
        """The command that installs what it requires."""
        ...

    def environment(self) -> Mapping[str, str]:
        """The environment variables that its process must start with, except ``KERAS_BACKEND``."""
        ...

    def cpu_environment(self) -> Mapping[str, str]:
        """The additional environment variables that hide GPUs from its process."""
        ...

    def devices(self) -> Sequence[str]:
        """The available devices, the default one first, such as ``"gpu:0 NVIDIA H100"`` and ``"cpu:0"``."""
        ...

    def numeric_settings(self) -> Mapping[str, str]:
        """The settings that decide its float32 arithmetic and its determinism, by the framework's own names."""
        ...

    def tensor_float_32(self) -> str | None:
        """Returns the setting that turns TF32 off, or None if the default device does not use TF32 for float32."""
        ...

    @property
    def gradient_path_names(self) -> tuple[str, ...]:
        """The names of its gradient paths, known without importing the framework."""
        ...

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        """Its gradient paths, by name."""
        ...

    def hand_written_loops(self) -> Mapping[str, Callable[[Any], Any]]:
        """Training loops as the framework's users write them, by name, for `dlf bench` to time; may be empty.

        Each value takes a `dlf.bench.models.Task` and returns an object with ``epoch() -> loss`` and ``weights()``.
        """
        ...

    def float64(self) -> AbstractContextManager[Any]:
        """Returns a context in which the framework computes float64 operations in float64 throughout."""
        ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function of arrays that is compiled as a whole, if the framework compiles single operations.

        JAX does, which takes long outside of `jax.jit`. A function that cannot be compiled raises when it is called. A
        framework that runs operations one by one returns the function itself. So does a backend whose gradient paths
        cannot be traced, since they are compiled by this, as layers and losses are.
        """
        ...

    def epoch_runner(self, model: Any) -> EpochRunner:
        """Returns the `EpochRunner` of this Keras model."""
        ...

    def free_memory(self) -> int | None:
        """Returns the free bytes on the device, or None if it uses the host's memory or does not report them."""
        ...

    def threefry_2x32(self, key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
        """Returns the two words of Threefry-2x32 for each counter.

        Only the lowest 32 bits of each integer count, in arguments and results.
        """
        ...

    def random_bits(self, key: Any, shape: Any) -> Any:
        """Returns 32 random bits for each element: the XOR of the two Threefry words of the counter (0, its index)."""
        ...

    def look_up(self, table: Any, indices: Any) -> Any:
        """Returns the entry of a NumPy array at each index, without embedding the array in each compiled function."""
        ...

    def common_draws(self) -> Collection[str]:
        """The names of the functions in Keras's random module that draw JAX's numbers already, without replacement."""
        ...
