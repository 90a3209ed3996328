"""PyTorch: many steps of a Keras model in one call, each a recording of the model's own step that is played back."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Any

import keras
import numpy as np
import torch

from dlf_torch.recording import NotRecordedError, Recording, python_attributes, record

__all__ = ["TorchEpochRunner", "free_memory"]

_log = logging.getLogger("dlf")


class TorchEpochRunner:
    """A step is recorded once it has been run often enough, if it can be; until then it is run as Keras runs it."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._runs: Counter[Any] = Counter()
        self._recordings: dict[Any, Recording | None] = {}

    def refusal(self) -> str | None:
        """Says why the model's steps cannot be run here, or returns None."""
        return "the model is compiled with jit_compile=True" if self._model.jit_compile else None

    def put(self, arrays: Any) -> Any:
        """Returns the arrays on the device."""
        return keras.tree.map_structure(keras.ops.convert_to_tensor, arrays)

    def trace(self, data: Any, rows: Any) -> None:
        """Nothing is to be done: a step that cannot be recorded is still run."""

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches `rows[start:stop]`; returns the last step's logs."""
        self._model.train()
        try:
            return dict(self._run("train_step", data, rows[start:stop])[-1])
        finally:
            self._model.eval()

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches `rows[start:stop]`; returns the last step's logs."""
        self._model.eval()
        return dict(self._run("test_step", data, rows[start:stop])[-1])

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for each of the batches, joined, as NumPy's arrays."""
        self._model.eval()
        outputs = self._run("predict_step", data, rows, keep=len(rows))
        return keras.tree.map_structure(
            lambda *parts: np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]), *outputs
        )

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error says that the device has no memory left."""
        return isinstance(error, torch.OutOfMemoryError)

    def _run(self, kind: str, data: Any, rows: Any, keep: int = 1) -> deque[Any]:
        """Runs a step on each row of `rows`; returns the results of the last `keep` steps."""
        results: deque[Any] = deque(maxlen=keep)
        shape = (kind, rows.shape[1], *((leaf.shape[1:], leaf.dtype) for leaf in keras.tree.flatten(data)))
        shape += tuple((*place, _by_value(value)) for place, value in python_attributes(self._model).items())
        unrecorded = max(0, _RUNS_BEFORE_RECORDING - self._runs[shape])
        self._runs[shape] += len(rows)
        self._run_as_keras_does(kind, data, rows[:unrecorded], results)
        if len(rows) > unrecorded:
            recording = self._recording(shape, kind, _batch(data, rows[unrecorded]))
            if recording is None:
                self._run_as_keras_does(kind, data, rows[unrecorded:], results)
            else:
                self._play(recording, data, rows[unrecorded:], results)
        return results

    def _run_as_keras_does(self, kind: str, data: Any, rows: Any, results: deque[Any]) -> None:
        step = getattr(self._model, kind)
        with torch.set_grad_enabled(kind == "train_step"):
            for batch_rows in rows:
                # Keras does so by the variables' paths, and misses one where two have the same.
                for variable in self._model.trainable_variables:
                    variable.value.grad = None
                results.append(step(_batch(data, batch_rows)))

    def _play(self, recording: Recording, data: Any, rows: Any, results: deque[Any]) -> None:
        values = [variable.value.detach() for variable in recording.variables]
        try:
            with torch.no_grad():
                for batch_rows in rows:
                    result, values = recording.play(values, _batch(data, batch_rows))
                    results.append(result)
        finally:
            for variable, value in zip(recording.variables, values, strict=True):
                variable.assign(value)

    def _recording(self, shape: Any, kind: str, batch: Any) -> Recording | None:
        if shape not in self._recordings:
            try:
                # No `torch.compile`; measured (CPU, 784-128-10, batch 64, Adam): 1.2 times as fast on one thread, 1.4
                # on two, but 9 to 11 s to compile, where 20 epochs of 60,000 rows win 3 to 6 s. Keras's own step under
                # it (`jit_compile=True`) has 0.65 times the playback's speed on one thread.
                self._recordings[shape] = record(self._model, kind, batch)
            except NotRecordedError as error:
                _log.info("dlf: each %s is run as Keras runs it, since it cannot be recorded: %s.", kind, error)
                self._recordings[shape] = None
        return self._recordings[shape]


def _by_value(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else id(value)


_RUNS_BEFORE_RECORDING = 20
"""Recording takes as long as about 25 steps (measured: a dense, a convolutional and a recurrent net)."""


def free_memory() -> int | None:
    """Returns the bytes that are free on the device, or None where it is the host's memory."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def _batch(data: Any, rows: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], data)
