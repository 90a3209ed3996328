"""Runs many steps of a Keras model in one call on PyTorch, each by playing back a recording of the model's own step."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import keras
import numpy as np
import torch

from dlf.training.engine.remade import StepFunction, makes_its_own_functions
from dlf_torch.following import Followed
from dlf_torch.recording import Recording

__all__ = ["TorchEpochRunner", "free_memory"]


class TorchEpochRunner:
    """The `EpochRunner` of PyTorch: it runs a step as Keras does, and records it once it has been run often enough.

    A step that cannot be recorded is always run as Keras does.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._steps: dict[Any, Followed] = {}
        self._functions = {kind: StepFunction(model, kind) for kind in ("train", "test", "predict")}
        self.ways: Counter[str] = Counter()

    def refusal(self) -> str | None:
        """Returns the reason why the model's steps cannot be run here, or None if they can."""
        if self._model.jit_compile:
            return "the model is compiled with jit_compile=True"
        return "the model makes its step's functions by itself" if makes_its_own_functions(self._model) else None

    def put(self, arrays: Any) -> Any:
        """Returns the arrays as tensors on the device."""
        return keras.tree.map_structure(keras.ops.convert_to_tensor, arrays)

    def begin_reading(self) -> None:
        """Draws the random number that PyTorch's `DataLoader`, which Keras's own loop uses, draws for its workers."""
        torch.empty((), dtype=torch.int64).random_()

    def trace(self, data: Any, rows: Any) -> None:  # noqa: ARG002 - what the others trace.
        """Traces nothing, since a step that cannot be recorded can still be run as Keras does."""
        self._functions["train"].begin()

    def train(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Trains on the batches `rows[start:stop]`; returns the last step's logs."""
        self._functions["train"].was_made_anew()
        self._model.train()
        try:
            return dict(self._run("train_step", data, rows[start:stop])[-1])
        finally:
            self._model.eval()

    def evaluate(self, data: Any, rows: Any, start: int, stop: int) -> dict[str, Any]:
        """Evaluates the batches `rows[start:stop]`; returns the last step's logs."""
        self._functions["test"].was_made_anew()
        self._model.eval()
        return dict(self._run("test_step", data, rows[start:stop])[-1])

    def predict(self, data: Any, rows: Any) -> Any:
        """Returns the outputs for all batches, concatenated along the first axis, as NumPy arrays."""
        self._functions["predict"].was_made_anew()
        self._model.eval()
        outputs = self._run("predict_step", data, rows, keep=len(rows))
        return keras.tree.map_structure(
            lambda *parts: np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]), *outputs
        )

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tells whether the error means that the device is out of memory."""
        return isinstance(error, torch.OutOfMemoryError)

    def _run(self, kind: str, data: Any, rows: Any, keep: int = 1) -> deque[Any]:
        """Runs a step on each row of `rows`; returns the results of the last `keep` steps."""
        results: deque[Any] = deque(maxlen=keep)
        shape = (kind, rows.shape[1], *((leaf.shape[1:], leaf.dtype) for leaf in keras.tree.flatten(data)))
        if shape not in self._steps:
            self._steps[shape] = Followed(self._model, kind)
        followed = self._steps[shape]
        known = followed.now()
        if known is not None and known.recording is None and not known.is_refused:
            count = max(0, _RUNS_BEFORE_RECORDING - known.runs)
            known.runs += len(rows)
            self._run_as_keras_does(kind, data, rows[:count], results)
            rows = rows[count:]
            if len(rows) and not known.state.changed():
                self.ways[f"{kind} recorded"] += 1
                batch = _batch(data, rows[0])
                results.append(followed.record(known, batch, lambda: self._step(kind, batch)))
                rows = rows[1:]
        if known is None or known.recording is None or known.state.changed():
            self._run_as_keras_does(kind, data, rows, results)
        else:
            self._play(kind, known.recording, data, rows, results)
        return results

    def _run_as_keras_does(self, kind: str, data: Any, rows: Any, results: deque[Any]) -> None:
        for batch_rows in rows:
            results.append(self._step(kind, _batch(data, batch_rows)))
        self.ways[f"{kind} by Keras"] += len(rows)

    def _step(self, kind: str, batch: Any) -> Any:
        with torch.set_grad_enabled(kind == "train_step"):
            # Keras resets gradients by the variables' paths, and misses one of two variables with the same path.
            for variable in self._model.trainable_variables:
                variable.value.grad = None
            return getattr(self._model, kind)(batch)

    def _play(self, kind: str, recording: Recording, data: Any, rows: Any, results: deque[Any]) -> None:
        values = [variable.value.detach() for variable in recording.variables]
        try:
            with torch.no_grad():
                for batch_rows in rows:
                    result, values = recording.play(values, _batch(data, batch_rows))
                    results.append(result)
        finally:
            for variable, value in zip(recording.variables, values, strict=True):
                variable.assign(value)
        self.ways[f"{kind} played back"] += len(rows)


_RUNS_BEFORE_RECORDING = 20
"""A recording takes as long as about 25 steps (measured for a dense, a convolutional and a recurrent net)."""


def free_memory() -> int | None:
    """Returns the free bytes on the device, or None if it uses the host's memory."""
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def _batch(data: Any, rows: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], data)
