"""The ways of training that `dlf bench` compares, behind one interface.

What is asked of it:

* each can train from given weights in a given order, for the results to be compared;
* each can train epoch by epoch whenever it is its turn, for the epochs to be timed in alternation;
* where its masks come from is its own, whether `dlf.set_seed` was called in this process or not;
* one that cannot be had here says why, and is listed all the same.
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
    """What came out of training."""

    losses: list[float]
    """The mean loss of each epoch."""
    weights: list[np.ndarray]
    """In Keras's order and layout."""


Context = Callable[[], AbstractContextManager[Any]]


class Running(Protocol):
    """A training that goes on, one epoch at a time."""

    def epoch(self) -> None:
        """Trains for one epoch, and waits for the device."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class Contestant(Protocol):
    """One way of training."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def absent(self) -> str:
        """Why it cannot be had here; empty where it can."""
        ...

    @property
    def same_masks(self) -> bool:
        """Whether its dropout masks can be made the reference's."""
        ...

    @property
    def context(self) -> Context:
        """What it trains in; the reference is trained in it too, to be compared."""
        ...

    def train(self, task: Task, epochs: int) -> Trained:
        """Trains from the task's weights."""
        ...

    def start(self, task: Task) -> Running:
        """Starts a training that takes turns."""
        ...


@dataclass(frozen=True)
class HandWritten:
    """A loop of the backend's own `loops.py`."""

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
        """Starts a training that takes turns."""
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
    """`dlf.TrainingLoop` on raw arrays, batch by batch, as a hand-written loop has them."""

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
        # All at once: a look at each loss would make each step wait for the device.
        means = keras.ops.convert_to_numpy(keras.ops.stack(losses))
        return float(np.average(means, weights=[len(part) for part in parts]))

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in Keras's order and layout."""
        model = self._loop.finish()
        return [np.array(keras.ops.convert_to_numpy(each.value)) for each in model.trainable_variables]


Fit = Callable[[keras.Model, Task, int, list[keras.callbacks.Callback]], Any]


@dataclass(frozen=True)
class KerasFit:
    """Keras's `fit`, or dlf's."""

    name: str
    fit: Fit
    absent: str = ""
    same_masks: bool = True
    context: Context = seed_set_aside

    def train(self, task: Task, epochs: int) -> Trained:
        """Trains from the task's weights."""
        model = _prepared(task)
        # On PyTorch alone. The fused engine's calls end there, so each plays one step back.
        seeding = [_SeedBatches(task.seed)]
        with self.context():
            history = self.fit(model, task, epochs, seeding if keras.config.backend() == "torch" else [])
        weights = [np.array(keras.ops.convert_to_numpy(each.value)) for each in model.trainable_variables]
        return Trained([float(loss) for loss in history.history["loss"]], weights)

    def start(self, task: Task) -> Running:
        """Starts a training that takes turns."""
        model = _prepared(task)
        return Turns(lambda callback: self.fit(model, task, _WITHOUT_END, [callback]), self.context)


def _prepared(task: Task) -> keras.Model:
    """The model with the task's weights, and with dropout masks that begin where the hand-written ones do."""
    model = build_model(task.model, dropout=task.dropout)
    for variable, weight in zip(model.trainable_variables, task.weights, strict=True):
        variable.assign(weight)
    generators = [layer.seed_generator for layer in model.layers if getattr(layer, "seed_generator", None)]
    for generator, seed in zip(generators, task.seeds, strict=False):
        generator.state.assign([seed, 0])
    return model


class _SeedEpochs(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Starts torch's one stream of random numbers anew: Keras takes its dropout masks from there."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        importlib.import_module("torch").manual_seed(self.seed)


class _SeedBatches(_SeedEpochs):
    """The same once torch's data loader has drawn a number of its own, which it does as it starts."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self.on_epoch_begin(0)


def contestants() -> list[Contestant]:
    """Returns every way of training that this backend knows; the reference is the first."""
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
    # By this context alone: one that dlf opens inside `fit`, for a seed, would stay open between the turns.
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
        tf.config.set_visible_devices([], "GPU")  # It would take the whole memory of the other framework's GPU.
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
"""Epochs; whoever takes turns ends it before."""
