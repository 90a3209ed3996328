"""Runs many steps of a Keras model in one call on TensorFlow, as a graph with a loop over the model's own step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dlf.training.engine.python_state import PythonState, leaving_no_trace
from dlf.training.engine.remade import StepFunction, makes_its_own_functions

__all__ = ["TensorFlowEpochRunner", "free_memory"]


class TensorFlowEpochRunner:
    """The `EpochRunner` of TensorFlow: the loop updates variables in place, and does not return to Python between."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions = {kind: StepFunction(model, kind) for kind in ("train", "test", "predict")}
        self._traced_with: PythonState | None = None
        self.ways: Counter[str] = Counter()
        self._make_train()
        self._make_evaluate()
        self._make_predict()

    def refusal(self) -> str | None:
        """Returns the reason why the model's steps cannot be run here, or None if they can."""
        if tf.distribute.has_strategy() or self._model.distribute_strategy.num_replicas_in_sync > 1:
            return "a tf.distribute strategy is in use"
        return "the model makes its step's functions by itself" if makes_its_own_functions(self._model) else None

    def put(self, arrays: Any) -> Any:
        """Returns the arrays as tensors on the device."""
        return tf.nest.map_structure(tf.convert_to_tensor, arrays)

    def begin_reading(self) -> None:
        """Does nothing: on TensorFlow, Keras's own loop draws no random number when it makes an iterator."""

    def trace(self, data: Any, rows: Any) -> None:
        """Traces a training step without changing any state; raises the errors of the step."""
        self._functions["train"].begin()
        batch = tf.nest.map_structure(_any_number, _batch(data, rows[0]))
        self._traced_with = leaving_no_trace(self._model, lambda: self._train_step.get_concrete_function(batch))
        outputs = self._train_step.get_concrete_function(batch).structured_outputs
        if not all(log.shape.is_fully_defined() for log in tf.nest.flatten(outputs)):
            raise ValueError("train_step returns a tensor whose shape is not known")

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches `rows[start:stop]`; returns the last step's logs."""
        # Keras's own loop traces a step after the callbacks of the first batch, which may have changed Python's state.
        is_stale = self._traced_with is not None and self._traced_with.changed()
        self._traced_with = None
        if self._functions["train"].was_made_anew() or is_stale:
            self._make_train()
        self.ways["train_step in a loop"] += stop - start
        return dict(self._train(data, rows, start, stop))

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches `rows[start:stop]`; returns the last step's logs."""
        if self._functions["test"].was_made_anew():
            self._make_evaluate()
        self.ways["test_step in a loop"] += stop - start
        return dict(self._evaluate(data, rows, start, stop))

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for all batches, concatenated along the first axis, as NumPy arrays."""
        if self._functions["predict"].was_made_anew():
            self._make_predict()
        self.ways["predict_step by itself"] += len(rows)
        outputs = [self._predict(_batch(data, batch_rows)) for batch_rows in rows]
        return tf.nest.map_structure(lambda *parts: np.concatenate([part.numpy() for part in parts]), *outputs)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error means that the device is out of memory."""
        # A copy to a full GPU raises this InternalError.
        no_copy = isinstance(error, tf.errors.InternalError) and "Dst tensor is not initialized" in str(error)
        return isinstance(error, tf.errors.ResourceExhaustedError) or no_copy

    def _make_train(self) -> None:
        self._train_step = _compiled(self._counted("train_step", self._model.train_step), self._model)
        self._train = _loop(self._train_step)

    def _make_evaluate(self) -> None:
        self._evaluate = _loop(_compiled(self._counted("test_step", self._model.test_step), self._model))

    def _make_predict(self) -> None:
        self._predict = _compiled(self._counted("predict_step", self._model.predict_step), self._model)

    def _counted(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(batch: Any) -> Any:
            self.ways[f"{name} traced"] += 1
            return step(batch)

        return run


def free_memory() -> int | None:
    """Returns None, since TensorFlow does not report the free memory of a device."""
    return None  # It reports how much of a GPU's memory it uses, but not how much there is.


def _compiled(step: Callable[..., Any], model: Any) -> Any:
    """Returns the step compiled as in Keras."""
    unconverted = tf.autograph.experimental.do_not_convert(step)
    return tf.function(unconverted, jit_compile=model.jit_compile, reduce_retracing=True)


def _loop(step: Any) -> Callable[..., Any]:
    """Returns the loop over a step; one graph serves any bounds and number of examples, since both are arguments."""

    def run(data: Any, rows: Any, start: Any, stop: Any) -> Any:
        specification = step.get_concrete_function(_batch(data, rows[0])).structured_outputs
        logs = tf.nest.map_structure(lambda log: tf.zeros(log.shape, log.dtype), specification)

        def body(index: Any, _: Any) -> Any:
            return index + 1, step(_batch(data, rows[index]))

        return tf.while_loop(lambda index, _: index < stop, body, (start, logs))[1]

    compiled = tf.function(tf.autograph.experimental.do_not_convert(run))
    graphs: dict[Any, Any] = {}

    def call(data: Any, rows: Any, start: int, stop: int) -> Any:
        signature = tf.nest.map_structure(_any_number, data)
        key = str(signature)
        if key not in graphs:
            bound = tf.TensorSpec((), tf.int32)
            graphs[key] = compiled.get_concrete_function(signature, _ROWS, bound, bound)
        return graphs[key](*tf.nest.flatten(data), rows, tf.constant(start), tf.constant(stop))

    return call


_ROWS = tf.TensorSpec((None, None), tf.int32)


def _any_number(array: Any) -> Any:
    return tf.TensorSpec((None, *array.shape[1:]), array.dtype)


def _batch(data: Any, rows: Any) -> Any:
    return tf.nest.map_structure(lambda array: tf.gather(array, rows), data)
