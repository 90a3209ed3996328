"""Compiles and trains a Keras model, the same way on every backend.

Requirements:

* `compile`, the callbacks and the `History` are Keras's own: nothing here changes what a model means;
* many steps run in one call where that means the same; elsewhere Keras's own `fit` runs, and the reason is logged;
* the order of the examples is the same on every backend and with either engine;
* requests that cannot work fail before the first batch, with one clear error;
* Ctrl-C keeps what was learnt: the batch and the epoch's validation are finished, then `KeyboardInterrupt` is raised.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import keras

from dlf.models.by_name import check_loss, find_optimizer
from dlf.random.seed import randomness_as_seeded
from dlf.training._validation import build_if_deferred, check_data, check_labels, sort_options
from dlf.training.engine.plan import MEMORY_SHARE, check_engine, forget_runner
from dlf.training.engine.training import run_training
from dlf.training.tensorboard import TensorBoard
from dlf.utils.errors import InvalidArgumentError, OutputError, TrainingError, check_positive
from dlf.utils.interrupts import Interrupt, deferred_interrupt

__all__ = ["TrainingInterrupted", "build_callbacks", "compile_and_fit", "make_run_folder"]


def build_callbacks(
    patience: int = 3,
    *,
    monitor: str = "val_loss",
    logdir: str | os.PathLike[str] | None = None,
) -> tuple[list[keras.callbacks.Callback], str]:
    """Returns early stopping that restores the best weights, and a writer of event files for TensorBoard.

    Args:
        patience: Epochs without improvement after which training stops.
        monitor: The metric whose improvement counts.
        logdir: The folder for the event files; by default a new one, ``runs/<time>``.

    Returns:
        The callbacks, and the folder that ``tensorboard --logdir`` takes.

    Raises:
        InvalidArgumentError: The patience is not a positive integer.
        OutputError: The folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> callbacks, logdir = build_callbacks(patience=3, logdir=tempfile.mkdtemp())
        >>> [type(callback).__name__ for callback in callbacks]
        ['EarlyStopping', 'TensorBoard']
    """
    check_positive("patience", patience)
    folder = make_run_folder(logdir)
    stopping = keras.callbacks.EarlyStopping(monitor=monitor, patience=patience, restore_best_weights=True)
    return [stopping, TensorBoard(folder)], str(folder)


def make_run_folder(path: str | os.PathLike[str] | None = None) -> Path:
    """Makes a folder for a run's files, and makes sure that it can be written to.

    Args:
        path: The folder; by default a new one, ``runs/<time>``.

    Returns:
        The folder.

    Raises:
        OutputError: It cannot be made or written to.
    """
    try:
        folder = _new_folder() if path is None else Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # Under a unique name: another run may be testing the same folder at this moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"the run folder: expected a folder that can be written to, received {str(path or 'runs')!r} "
            f"({error.strerror}). Name another one."
        ) from error
    return folder


def _new_folder() -> Path:
    """Makes ``runs/<time>``, with a number added to the name if another run began within the same second."""
    folder = Path("runs") / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder.parent.mkdir(exist_ok=True)
    for name in itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2))):
        with suppress(FileExistsError):
            folder.with_name(name).mkdir()
            return folder.with_name(name)
    raise AssertionError  # Never reached: the numbers do not end.


def compile_and_fit(  # noqa: PLR0913 - the names that Keras uses, in one call.
    model: keras.Model,
    train: Any,
    *,
    loss: Any,
    optimizer: Any = "adam",
    metrics: Any = None,
    epochs: int = 1,
    validation_ds: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    engine: str = "auto",
    memory_share: float = MEMORY_SHARE,
    **options: Any,
) -> keras.callbacks.History:
    """Compiles the model and trains it.

    After `dlf.set_seed` the same seed gives the same order of examples and the same masks on every backend.

    Args:
        model: Any Keras model.
        train: Batches (what `prepare_for_training` returns, or any `tf.data.Dataset`, `keras.utils.PyDataset` or
            iterator of batches), or a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``.
        loss: As in Keras's `compile`.
        optimizer: As in Keras's `compile`: a name or an optimizer.
        metrics: As in Keras's `compile`.
        epochs: How many times to go through the training data.
        validation_ds: Batches or arrays, like `train`.
        callbacks: As in Keras's `fit`.
        engine: ``"fused"`` runs many steps of the model's own `train_step` in one call on the device, ``"keras"`` is
            Keras's `fit`; ``"auto"`` uses ``"fused"`` wherever it means the same, and otherwise logs why not.
        memory_share: What share of the device's free memory the examples may take; if they need more, they are copied
            to the device in blocks.
        **options: Anything else that Keras's `compile` or `fit` takes, such as ``batch_size=64`` or ``verbose=0``.

    Returns:
        Keras's `History`; its attribute `engine` is the engine that was used, and `engine_reason` says why that is
        Keras's where it was not asked for.

    Raises:
        InvalidArgumentError: An argument is invalid, the labels do not fit the model's output, or ``engine="fused"`` is
            given for what only Keras's `fit` can do.
        TrainingError: The loss became NaN or infinite; ``model.history`` keeps the epochs so far.
        TrainingInterrupted: Ctrl-C was pressed; a `KeyboardInterrupt`, raised once the running steps are finished.

    Example:
        >>> import numpy as np
        >>> x, y = np.linspace(-1, 1, 64).reshape(-1, 1), np.linspace(-1, 3, 64).reshape(-1, 1)
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> history = compile_and_fit(model, (x, y), loss="mse", epochs=2, batch_size=16, verbose=0)
        >>> len(history.history["loss"]), history.engine
        (2, 'fused')
    """
    check_engine(engine, memory_share)
    check_positive("epochs", epochs)
    check_positive("batch_size", options.get("batch_size") or 1)
    check_loss(loss)
    compile_options, fit_options = sort_options(model, options)
    checked = {"train": train} if validation_ds is None else {"train": train, "validation_ds": validation_ds}
    for argument, data in checked.items():
        check_data(argument, data)
    build_if_deferred(model, train)
    for argument, data in checked.items():
        check_labels(argument, data, model, loss)
    optimizer = find_optimizer(optimizer)
    metrics = [metrics] if isinstance(metrics, str) else list(metrics) if isinstance(metrics, tuple) else metrics
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, **compile_options)
    forget_runner(model)

    def stop() -> None:
        model.stop_training = True

    with deferred_interrupt("Stopping after this batch and its epoch's validation", stop) as interrupt:
        watch = _Watch(interrupt)
        fit_options |= {"epochs": epochs, "callbacks": [*_as_callbacks(callbacks), watch]}
        with _labels_out_of_range_named(), randomness_as_seeded():
            history = run_training(
                model,
                train,
                validation_ds,
                fit_options,
                engine=engine,
                memory_share=memory_share,
                check_first=partial(check_labels, "train", model=model, loss=loss),
            )
    if interrupt.pressed:
        raise TrainingInterrupted
    if watch.not_finite:
        raise TrainingError(
            f"the {watch.not_finite}: expected a number, received NaN or infinity. Lower the learning rate, look for "
            "NaN in the inputs, and see that a loss of logits is told so (from_logits=True)."
        )
    return history


def _as_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    listed = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or ())
    if not all(isinstance(each, keras.callbacks.Callback) for each in listed):
        raise InvalidArgumentError(
            "callbacks",
            expected="a list of Keras callbacks",
            received=callbacks,
            advice="build_callbacks returns two things: callbacks, logdir = build_callbacks().",
        )
    return listed


@contextmanager
def _labels_out_of_range_named() -> Iterator[None]:
    """Turns the errors of TensorFlow and PyTorch for a label out of range in a stream into `InvalidArgumentError`."""
    try:
        yield
    except Exception as error:
        found = re.search(r"label value of (-?\d+) which is outside|Target (-?\d+) is out of bounds", str(error))
        if not found:
            raise
        raise InvalidArgumentError(
            "train or validation_ds",
            expected="labels from 0 to one less than the model's outputs",
            received=int(found[1] or found[2]),
            advice="Give the last layer more units, or check the labels.",
        ) from error


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the training after a whole batch: the model and `model.history` hold what was learnt."""


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Stops training at Ctrl-C, or when the loss is NaN or infinite.

    It looks only at epochs: Keras's `TerminateOnNaN` looks at every batch, which makes JAX wait for the device each
    time.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        super().__init__()
        self._interrupt = interrupt
        self.not_finite = ""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # `fit` resets `stop_training` while it starts up, which can take a while: Ctrl-C may have come before that.
        self.model.stop_training = self.model.stop_training or self._interrupt.pressed

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for name, value in (logs or {}).items():
            if name in ("loss", "val_loss") and not math.isfinite(value):
                self.not_finite = f"{name} of epoch {epoch + 1}"
                self.model.stop_training = True
                return
