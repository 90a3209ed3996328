"""The ways of training that `dlf bench` compares, behind one interface.

Requirements:

* each can train from given weights in a given order, so that the results can be compared;
* each can train one epoch whenever it is its turn, so that the epochs can be timed in alternation;
* each draws dropout masks in its own way, whether `dlf.set_seed` was called in this process or not;
* one that is not available here says why, and is listed all the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from dlf.backend.default import is_importable
from dlf.backend.registry import current_backend
from dlf.bench._turns import Turns
from dlf.bench.models import Task, build_model, compile_options
from dlf.bench.options import EXPLICIT, FUSED, REFERENCE
from dlf.gradients.training_loop import TrainingLoop
from dlf.random.seed import common_randomness, seed_set_aside
from dlf.training.fit import compile_and_fit

__all__ = ["Contestant", "HandWritten", "KerasFit", "Running", "Trained", "contestants"]


@dataclass(frozen=True)
class Trained:
    """The results of a training."""

    losses: list[float]
    """The mean loss of each epoch."""
    weights: list[np.ndarray]
    """In Keras's order and layout."""


Context = Callable[[], AbstractContextManager[Any]]


class Running(Protocol):
    """A training that runs one epoch at a time."""

    def epoch(self) -> None:
        """Trains for one epoch, and waits for the device."""
        ...

    def close(self) -> None:
        """Ends the training."""
        ...


class Contestant(Protocol):
    """One way of training."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    @property
    def absent(self) -> str:
        """Why it is not available here; empty if it is."""
        ...

    @property
    def same_masks(self) -> bool:
        """Whether it can be made to use the same dropout masks as the reference."""
        ...

    @property
    def context(self) -> Context:
        """Makes the context manager in which it trains; the reference is trained in one too, to be compared with it."""
        ...

    def train(self, task: Task, epochs: int) -> Trained:
        """Trains from the task's weights."""
        ...

    def start(self, task: Task) -> Running:
        """Starts a training that trains one epoch whenever it is told to."""
        ...


@dataclass(frozen=True)
class HandWritten:
    """A hand-written loop: one from the backend's `loops.py`, or one with `dlf.TrainingLoop`."""

    name: str
    loop: Callable[[Task], Any]
    absent: str = ""
    same_masks: bool = True
    context: Context = seed_set_aside

    def train(self, task: Task, epochs: int) -> Trained:
        """Trains from the task's weights."""
        loop = self.loop(task)
        with self.context():
            losses = [loop.epoch() for _ in range(epochs)]
        return Trained(losses, loop.weights())

    def start(self, task: Task) -> Running:
        """Starts a training that trains one epoch whenever it is told to."""
        return _HandWrittenRunning(self.loop(task), self.context)


@dataclass(frozen=True)
class _HandWrittenRunning:
    loop: Any
    context: Context

    def epoch(self) -> None:
        with self.context():
            self.loop.epoch()

    def close(self) -> None:
        pass


class _Explicit:
    """A hand-written loop over batches of NumPy arrays, each step by `dlf.TrainingLoop`."""

    def __init__(self, task: Task) -> None:
        options = compile_options(task)
        self._task, self._model = task, _prepared(task)
        self._loop = TrainingLoop(self._model, options["loss"], options["optimizer"])
        self._random = np.random.default_rng(task.seed)

    def epoch(self) -> float:
        """Trains for one epoch, waits for the device, and returns the mean loss."""
        task = self._task
        rows, size = len(task.labels), task.batch_size
        order = self._random.permutation(rows) if task.shuffle else np.arange(rows)
        parts = [order[start : start + size] for start in range(0, rows, size)]
        if keras.config.backend() == "torch":
            _SeedEpochs(task.seed).on_epoch_begin(0)
        losses = [self._loop.step(task.scaled[part], task.labels[part]) for part in parts]
        # All at once: reading each loss would make each step wait for the device.
        means = keras.ops.convert_to_numpy(keras.ops.stack(losses))
        return float(np.average(means, weights=[len(part) for part in parts]))

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in Keras's order and layout."""
        model = self._loop.finish()
        return [np.array(keras.ops.convert_to_numpy(each.value)) for each in model.trainable_variables]


Fit = Callable[[keras.Model, Task, int, list[keras.callbacks.Callback]], Any]


@dataclass(frozen=True)
class KerasFit:
    """Keras's `fit`, or dlf's `compile_and_fit`."""

    name: str
    fit: Fit
    absent: str = ""
    same_masks: bool = True
    context: Context = seed_set_aside

    def train(self, task: Task, epochs: int) -> Trained:
        """Trains from the task's weights."""
        model = _prepared(task)
        # On PyTorch only. Because of this batch hook, each call of the fused engine ends after one step.
        seeding = [_SeedBatches(task.seed)]
        with self.context():
            history = self.fit(model, task, epochs, seeding if keras.config.backend() == "torch" else [])
        weights = [np.array(keras.ops.convert_to_numpy(each.value)) for each in model.trainable_variables]
        return Trained([float(loss) for loss in history.history["loss"]], weights)

    def start(self, task: Task) -> Running:
        """Starts a training that trains one epoch whenever it is told to."""
        model = _prepared(task)
        return Turns(lambda callback: self.fit(model, task, _WITHOUT_END, [callback]), self.context)


def _prepared(task: Task) -> keras.Model:
    """Returns the model with the task's weights, and with dropout seeds like those of the hand-written loops."""
    model = build_model(task.model, dropout=task.dropout)
    for variable, weight in zip(model.trainable_variables, task.weights, strict=True):
        variable.assign(weight)
    generators = [layer.seed_generator for layer in model.layers if getattr(layer, "seed_generator", None)]
    for generator, seed in zip(generators, task.seeds, strict=False):
        generator.state.assign([seed, 0])
    return model


class _SeedEpochs(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Seeds PyTorch's global generator, from which Keras draws dropout masks, at the start of each epoch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        importlib.import_module("torch").manual_seed(self.seed)


class _SeedBatches(_SeedEpochs):
    """Seeds at each epoch's first batch instead: PyTorch's data loader draws a number of its own when it starts."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self.on_epoch_begin(0)


def contestants() -> list[Contestant]:
    """Returns every way of training on this backend; the reference comes first."""
    loops = current_backend().hand_written_loops()
    return [
        KerasFit(REFERENCE, _fit_arrays),
        KerasFit(
            "Keras fit, tf.data", _fit_tf_data, "" if is_importable("tensorflow") else "TensorFlow is not installed"
        ),
        KerasFit(FUSED, _fit_fused),
        KerasFit(f"{FUSED}, common masks", _fit_fused, context=_common_masks),
        HandWritten(EXPLICIT, _Explicit),
        *(HandWritten(name, loop) for name, loop in loops.items()),
    ]


@contextmanager
def _common_masks() -> Iterator[None]:
    # Without the seed, dlf opens no such context of its own inside `fit`, which would stay open between the turns.
    with seed_set_aside(), common_randomness():
        yield


def _fit_arrays(model: keras.Model, task: Task, epochs: int, callbacks: list[Any]) -> Any:
    model.compile(**compile_options(task))
    return model.fit(
        task.scaled,
        task.labels,
        batch_size=task.batch_size,
        epochs=epochs,
        shuffle=task.shuffle,
        callbacks=callbacks,
        verbose=0,
    )


def _fit_tf_data(model: keras.Model, task: Task, epochs: int, callbacks: list[Any]) -> Any:
    import tensorflow as tf

    if keras.config.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # TensorFlow would take all memory of the other framework's GPU.
    data = tf.data.Dataset.from_tensor_slices((task.images, task.labels))
    data = data.shuffle(10_000) if task.shuffle else data
    data = data.map(lambda image, label: (tf.cast(image, tf.float32) / 255.0, label))
    model.compile(**compile_options(task))
    return model.fit(
        data.batch(task.batch_size).prefetch(-1), epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0
    )


def _fit_fused(model: keras.Model, task: Task, epochs: int, callbacks: list[Any]) -> Any:
    return compile_and_fit(
        model,
        (task.scaled, task.labels),
        engine="fused",
        batch_size=task.batch_size,
        epochs=epochs,
        shuffle=task.shuffle,
        callbacks=callbacks,
        verbose=0,
        **compile_options(task),
    )


_WITHOUT_END = 1_000_000
"""A number of epochs that is never reached: `Turns.close` ends the training before that."""
