"""Runs many steps of a Keras model in one call on JAX, as a compiled loop over the model's own step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

from dlf.backend.keras_internals import random_functions_replaced
from dlf.backend.registry import current_backend
from dlf.models.layers import layers_by_path
from dlf.random.keras_random import replacements
from dlf.training.engine.python_state import PythonState, leaving_no_trace
from dlf.training.engine.remade import StepFunction, makes_its_own_functions

__all__ = ["JaxEpochRunner", "free_memory"]


class JaxEpochRunner:
    """The `EpochRunner` of JAX: the loop takes and returns the model's state, and does not return to Python between."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._functions = {kind: StepFunction(model, kind) for kind in ("train", "test", "predict")}
        self._traced_with: PythonState | None = None
        self.ways: Counter[str] = Counter()
        self._make_train()
        self._make_evaluate()
        self._make_predict()

    def refusal(self) -> str | None:
        """Returns the reason why the model's steps cannot be run here, or None if they can."""
        if not self._model.jit_compile:
            # Keras's default is not to compile a model with a layer that says of itself that it cannot be compiled.
            alone = [path for path, each in layers_by_path(self._model).items() if not each.supports_jit]
            return f"{alone[0]} cannot be compiled" if alone else "the model is not to be compiled (jit_compile=False)"
        if keras.distribution.distribution() is not None:
            return "keras.distribution is in use"
        if any(layer.metrics for layer in layers_by_path(self._model).values() if not isinstance(layer, keras.Model)):
            return "a layer holds a metric, whose values get lost in a step on JAX"
        return "the model makes its step's functions by itself" if makes_its_own_functions(self._model) else None

    def put(self, arrays: Any) -> Any:
        """Returns the arrays as tensors on the device."""
        # JAX copies a large array while Python goes on. Wait for it: the caller may write to the array afterwards.
        return jax.block_until_ready(jax.tree.map(_copy_on_device, arrays))

    def begin_reading(self) -> None:
        """Does nothing: on JAX, Keras's own loop draws no random number when it makes an iterator over the data."""

    def trace(self, data: Any, rows: Any) -> None:
        """Traces a training step without changing any state; raises the errors of the step."""
        self._functions["train"].begin()
        state, batch = _state(self._model), _batch(data, rows[0])
        self._traced_with = leaving_no_trace(self._model, lambda: jax.eval_shape(self._train_step, state, batch))

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches `rows[start:stop]`; returns the last step's logs."""
        # Keras's own loop traces a step after the callbacks of the first batch, which may have changed Python's state.
        is_stale = self._traced_with is not None and self._traced_with.changed()
        self._traced_with = None
        if self._functions["train"].was_made_anew() or is_stale:
            self._make_train()
        state, logs = self._train(_state(self._model), data, rows, start, stop)
        _assign(_variables(self._model), state)
        return dict(logs)

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches `rows[start:stop]`; returns the last step's logs."""
        if self._functions["test"].was_made_anew():
            self._make_evaluate()
        trainable, non_trainable, _, metrics = _variables(self._model)
        variables = (trainable, non_trainable, metrics)
        state, logs = self._evaluate(_values(variables), data, rows, start, stop)
        _assign(variables, state)
        return dict(logs)

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for all batches, concatenated along the first axis, as NumPy arrays."""
        if self._functions["predict"].was_made_anew():
            self._make_predict()
        variables = _variables(self._model)[:2]
        self.ways["predict_step in a loop"] += len(rows)
        state, outputs = self._predict(_values(variables), data, rows)
        _assign(variables, state)
        return jax.tree.map(np.asarray, outputs)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error means that the device is out of memory."""
        return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)

    def _make_train(self) -> None:
        # With a `jit` of its own, the step is traced once, and not again to find its shapes or to compile the loop.
        self._train_step = jax.jit(_with_fast_masks(self._counted("train_step", self._model.train_step)))
        self._train = _runs(self._train_step, self.ways, "train_step")

    def _make_evaluate(self) -> None:
        self._evaluate = _runs(jax.jit(self._counted("test_step", self._model.test_step)), self.ways, "test_step")

    def _make_predict(self) -> None:
        self._predict = jax.jit(_map(self._counted("predict_step", self._model.predict_step)))

    def _counted(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a step in a new function, which counts its traces.

        JAX reuses the trace of a function that compares equal. A bound method stays equal to itself when the model is
        compiled again with another loss, but a new function does not.
        """

        def run(state: Any, batch: Any) -> Any:
            self.ways[f"{name} traced"] += 1
            return step(state, batch)

        return run


def free_memory() -> int | None:
    """Returns the free bytes on the device, or None if it uses the host's memory."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["bytes_limit"] - statistics["bytes_in_use"] if statistics else None


def _copy_on_device(array: np.ndarray) -> jax.Array:
    # `jax.numpy.asarray` would copy the array in the host's memory first: on a CPU that is twice the data for a while.
    held = jax.device_put(array)
    # On a CPU, JAX shares the memory of an array that begins at a multiple of 64 bytes, even with `may_alias=False`.
    # A callback that writes to the array would then change the data of the training.
    is_shared = jax.default_backend() == "cpu" and array.size and held.unsafe_buffer_pointer() == array.ctypes.data
    return jax.numpy.array(held, copy=True) if is_shared else held


def _with_fast_masks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the step with a dropout that draws the same bits as Keras's on JAX, but faster on a CPU."""

    def run(state: Any, batch: Any) -> Any:
        if jax.default_backend() != "cpu" or "dropout" not in current_backend().common_draws():
            return step(state, batch)
        # The replacement is needed only while the step is traced.
        with random_functions_replaced({"dropout": replacements()["dropout"]}):
            return step(state, batch)

    return run


def _runs(step: Any, ways: Counter[str], name: str) -> Callable[..., Any]:
    """Returns a function that runs steps `start` to `stop - 1`, in one loop on the device unless that is slower."""
    loop, single = jax.jit(_loop(step)), jax.jit(_single(step))
    slow_in_a_loop: dict[Any, bool] = {}

    def run(state: Any, data: Any, rows: Any, start: int, stop: int) -> Any:
        size = rows.shape[1]
        if size not in slow_in_a_loop:
            slow_in_a_loop[size] = _is_slow_in_a_loop(step, state, _batch(data, rows[0]))
        ways[f"{name} {'by itself' if slow_in_a_loop[size] else 'in a loop'}"] += stop - start
        if not slow_in_a_loop[size]:
            return loop(state, data, rows, start, stop)
        logs: Any = {}
        for index in range(start, stop):
            # This does not wait for the result: JAX computes while Python makes the next call.
            state, logs = single(state, data, rows, index)
        return state, logs

    return run


def _is_slow_in_a_loop(step: Any, state: Any, batch: Any) -> bool:
    """Tells whether the step holds a convolution and runs on a CPU.

    On a CPU, XLA does not use its fast library for a convolution inside a loop. Measured on two cores, a small
    convolutional net took seven times as long in `lax.scan` as step by step, here and in a loop written by hand.
    """
    on_cpu = jax.default_backend() == "cpu"
    return on_cpu and "conv_general_dilated" in str(step.trace(state, batch).jaxpr)


def _single(step: Callable[..., Any]) -> Callable[..., Any]:
    def run(state: Any, data: Any, rows: Any, index: Any) -> Any:
        logs, new_state = step(state, _batch(data, rows[index]))
        return _like(state, new_state), logs

    return run


def _loop(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the loop over a step; its bounds are arguments, so that one compilation serves any number of steps."""

    def run(state: Any, data: Any, rows: Any, start: Any, stop: Any) -> Any:
        logs, _ = jax.eval_shape(step, state, _batch(data, rows[0]))
        logs = jax.tree.map(lambda log: jax.numpy.zeros(log.shape, log.dtype), logs)

        def body(index: Any, carry: Any) -> Any:
            new_logs, new_state = step(carry[0], _batch(data, rows[index]))
            return _like(carry, (new_state, new_logs))

        return jax.lax.fori_loop(start, stop, body, (state, logs))

    return run


def _map(step: Callable[..., Any]) -> Callable[..., Any]:
    def run(state: Any, data: Any, rows: Any) -> Any:
        def body(state: Any, batch_rows: Any) -> Any:
            outputs, non_trainable = step(state, _batch(data, batch_rows))
            return _like(state, (state[0], non_trainable)), outputs

        state, outputs = jax.lax.scan(body, state, rows)
        return state, jax.tree.map(lambda each: each.reshape(-1, *each.shape[2:]), outputs)

    return run


def _batch(data: Any, rows: Any) -> Any:
    # dlf made the row numbers, and all are in bounds: JAX need not check them at each step.
    return jax.tree.map(lambda array: array.at[rows].get(mode="promise_in_bounds"), data)


def _like(old: Any, new: Any) -> Any:
    """Returns the new values in the structure and dtypes of the old ones, as `Variable.assign` casts them, too."""
    leaves, structure = jax.tree.flatten(old)
    return structure.unflatten(
        [jax.numpy.asarray(b, a.dtype) for a, b in zip(leaves, jax.tree.leaves(new), strict=True)]
    )


def _variables(model: keras.Model) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Returns the variables that form the state of Keras's `train_step` on JAX, in its order."""
    optimizer = model.optimizer.variables if model.optimizer is not None else []
    return model.trainable_variables, model.non_trainable_variables, optimizer, model.metrics_variables


def _values(variables: Any) -> tuple[list[Any], ...]:
    return tuple([variable.value for variable in group] for group in variables)


def _state(model: keras.Model) -> tuple[list[Any], ...]:
    return _values(_variables(model))


def _assign(variables: Any, values: Any) -> None:
    for group, new in zip(variables, values, strict=True):
        for variable, value in zip(group, new, strict=True):
            variable.assign(value)
