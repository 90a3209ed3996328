"""The loop over epochs: Keras's callbacks, metrics and validation, around calls that run many steps each.

Requirements:

* the callbacks, the history and the metrics are Keras's own and see what they would see in Keras's `fit`;
* a callback that needs every batch, or every n-th, gets it: the calls end where it has to look;
* a call takes about half a second, so that progress is shown, Ctrl-C is noticed, and a NaN does not cost an epoch;
* when the device runs out of memory, no step is lost: the rest of the epoch is streamed.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import as_logs, epoch_to_resume_at
from dlf.training.engine._batch_hooks import steps_between_looks
from dlf.training.engine.feeds import Feed

__all__ = ["Validation", "evaluate", "fit", "predict"]

_log = logging.getLogger("dlf")


@dataclass(frozen=True)
class Validation:
    """How to validate, and after which epochs."""

    evaluate: Callable[[keras.callbacks.CallbackList], Mapping[str, float]]
    frequency: Any = 1

    def is_due(self, epoch: int) -> bool:
        """Whether to validate after this epoch, counted from 0, by the rule of Keras's `validation_freq`."""
        if isinstance(self.frequency, int):
            return (epoch + 1) % self.frequency == 0
        return epoch + 1 in self.frequency


def fit(  # noqa: PLR0913 - as many things make up a training.
    model: keras.Model,
    feed: Feed,
    *,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
    initial_epoch: int = 0,
    verbose: Any = "auto",
    validation: Validation | None = None,
) -> keras.callbacks.History:
    """Trains as Keras's `fit` does, many steps in one call.

    Args:
        model: A compiled model that is built.
        feed: The training data.
        epochs: As in Keras: the last epoch, counted from 1.
        callbacks: As in Keras.
        initial_epoch: As in Keras: the first epoch, counted from 0.
        verbose: As in Keras.
        validation: How to evaluate after an epoch.

    Returns:
        Keras's `History`.
    """
    epochs, pace = _limited(epochs), _pace(feed, callbacks, "train")
    feed.reset()
    hooks = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=feed.steps,
        model=model,
    )
    model.stop_training = False
    hooks.on_train_begin()
    logs: dict[str, Any] = {}
    finished = False
    try:
        for epoch in range(epoch_to_resume_at(model) or initial_epoch, epochs):
            model.reset_metrics()
            hooks.on_epoch_begin(epoch)
            steps_logs, feed = _train_epoch(model, feed, hooks, pace)
            logs = dict(_results(model, steps_logs))
            if validation is not None and validation.is_due(epoch):
                logs |= {f"val_{name}": value for name, value in validation.evaluate(hooks).items()}
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        finished = True
    finally:
        # If an error ends the training, Keras still puts averaged weights into the model on JAX, but on JAX only.
        if (finished or keras.config.backend() == "jax") and isinstance(model.optimizer, keras.optimizers.Optimizer):
            model.optimizer.finalize_variable_values(model.trainable_variables)
    hooks.on_train_end(logs)
    return model.history


def _limited(epochs: int) -> int:
    """Returns the number of epochs, but at most the limit that `keras.config.set_max_epochs` sets."""
    most = keras.config.max_epochs()
    if not most or most >= epochs:
        return epochs
    warnings.warn(f"Limiting epochs to {most}", stacklevel=2)  # In Keras's words.
    return int(most)


def evaluate(model: keras.Model, feed: Feed, hooks: keras.callbacks.CallbackList) -> dict[str, float]:
    """Evaluates as Keras's `evaluate` does, many steps in one call.

    Args:
        model: A compiled model that is built.
        feed: The data.
        hooks: The callbacks.

    Returns:
        The loss and the metrics, by name.
    """
    pace = _pace(feed, hooks.callbacks, "test")
    feed.reset()
    model.stop_evaluating = False
    hooks.on_test_begin()
    model.reset_metrics()
    progress = _Progress(0)
    feed.begin_epoch()
    feed.runner.begin_reading()
    _evaluate_pieces(model, feed, hooks, pace, progress)
    _end_epoch(feed, progress, hooks.on_test_batch_begin, broken_off=model.stop_evaluating)
    results = as_logs(_results(model, progress.logs))
    hooks.on_test_end(results)
    return results


def _evaluate_pieces(
    model: keras.Model,
    feed: Feed,
    hooks: keras.callbacks.CallbackList,
    pace: _Pace,
    progress: _Progress,
) -> None:
    for piece in feed.pieces():
        for start, stop in pace.calls(piece.steps):
            hooks.on_test_batch_begin(progress.steps)
            progress.logs = feed.runner.evaluate(piece.data, piece.rows, start, stop)
            progress.steps += stop - start
            hooks.on_test_batch_end(progress.steps - 1, progress.logs)
            if model.stop_evaluating:
                return


def _end_epoch(feed: Feed, progress: _Progress, begin: Callable[[int], None], *, broken_off: bool) -> None:
    """Ends an epoch; gives Keras's own warning if there were fewer batches than the data set promised."""
    if not broken_off and progress.steps < feed.steps:
        if keras.config.backend() != "torch":
            begin(progress.steps)  # On TensorFlow and JAX, Keras calls this hook before it fetches the batch.
        warnings.warn(
            "Your input ran out of data; interrupting training. Make sure that your dataset or generator can generate "
            "at least `steps_per_epoch * epochs` batches. You may need to use the `.repeat()` function when building "
            "your dataset.",
            stacklevel=2,
        )
    if not broken_off:
        feed.runner.begin_reading()  # Keras's own loop also creates an iterator for the next epoch.
    feed.end_epoch(broken_off=broken_off)


def predict(feed: Feed) -> Any:
    """Returns the model's outputs for all examples, as NumPy arrays."""
    outputs = []
    feed.begin_epoch()
    feed.runner.begin_reading()
    for piece in feed.pieces():
        for start in range(0, piece.steps, _STEPS_OF_OUTPUTS):
            rows = piece.rows[start : min(start + _STEPS_OF_OUTPUTS, piece.steps)]
            outputs.append(feed.runner.predict(piece.data, rows))
    feed.runner.begin_reading()  # Keras's own loop also creates an iterator for the next epoch.
    feed.end_epoch()
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


@dataclass
class _Progress:
    """How far an epoch has progressed: optimizer updates in total, steps in this epoch, and the last step's logs."""

    updates: int
    steps: int = 0
    logs: Mapping[str, Any] = field(default_factory=dict)


def _train_epoch(
    model: keras.Model, feed: Feed, hooks: keras.callbacks.CallbackList, pace: _Pace
) -> tuple[Mapping[str, Any], Feed]:
    """Trains one epoch; returns the last step's logs, and the feed to use from then on."""
    progress = _Progress(_updates(model))
    feed.begin_epoch()
    feed.runner.begin_reading()
    while True:
        try:
            _train_pieces(model, feed, hooks, pace, progress)
            break
        except Exception as error:
            smaller = feed.without_room() if feed.runner.is_out_of_memory(error) else None
            if smaller is None:
                raise
            # Some steps of the failed call may have updated the weights already.
            progress.steps += _updates(model) - progress.updates
            feed = smaller
            _log.warning("dlf: the device has no memory left; from here on the examples are brought there in blocks.")
    _end_epoch(feed, progress, hooks.on_train_batch_begin, broken_off=model.stop_training)
    return progress.logs, feed


def _train_pieces(
    model: keras.Model,
    feed: Feed,
    hooks: keras.callbacks.CallbackList,
    pace: _Pace,
    progress: _Progress,
) -> None:
    for piece in feed.pieces(skip=progress.steps):
        for start, stop in pace.calls(piece.steps):
            hooks.on_train_batch_begin(progress.steps)
            progress.logs = feed.runner.train(piece.data, piece.rows, start, stop)
            progress.steps, progress.updates = progress.steps + stop - start, _updates(model)
            hooks.on_train_batch_end(progress.steps - 1, progress.logs)
            if model.stop_training:
                return


def _pace(feed: Feed, callbacks: list[keras.callbacks.Callback], phase: str) -> _Pace:
    looks = steps_between_looks(callbacks, phase)
    if looks == 1:
        feed.read_one_at_a_time()
    return _Pace(looks)


class _Pace:
    """Decides how many steps go into one call: about half a second's worth, or fewer if a callback has to look."""

    def __init__(self, between_looks: int | None) -> None:
        self._between_looks = between_looks
        self._total = 0
        self._steps = _FIRST_CALL
        self._measured = False

    def calls(self, steps: int) -> Iterator[tuple[int, int]]:
        """Yields the start and stop of each call for so many steps, and learns from the time that each call takes."""
        start = 0
        while start < steps:
            stop = min(steps, start + self._steps)
            if self._between_looks:
                stop = min(stop, start + self._between_looks - self._total % self._between_looks)
            began = time.perf_counter()
            yield start, stop
            self._learn(stop - start, time.perf_counter() - began)
            start, self._total = stop, self._total + stop - start

    def _learn(self, steps: int, seconds: float) -> None:
        if self._measured:
            # Down to a quarter at most: a call that was delayed, or compiled another shape, says little about the next.
            self._steps = max(self._steps // 4, 1, math.ceil(_SECONDS_PER_CALL * steps / max(seconds, 1e-6)))
        # The first call's time is not used: it is mostly compilation.
        self._measured = True


_STEPS_OF_OUTPUTS = 64
"""How many batches' outputs are kept on the device before they are copied to the host."""

_FIRST_CALL = 8
_SECONDS_PER_CALL = 0.5


def _updates(model: keras.Model) -> int:
    """Returns how many updates the optimizer has made."""
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations)) if model.optimizer is not None else 0


def _results(model: keras.Model, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the epoch's metrics, or the last step's logs if the model's own step returns other names."""
    metrics = model.get_metrics_result()
    return metrics if set(metrics) == set(logs) else logs
