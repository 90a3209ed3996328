"""Compiles and trains a Keras model, the same way on every backend.

What is asked of it:

* Keras's own `compile`, `fit` and `History`: nothing here changes what a model means;
* requests that cannot work fail before the first batch, with one clear error;
* Ctrl-C keeps what was learnt: the batch is finished, the state is whole, then `KeyboardInterrupt` goes on.
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError, OutputError, TrainingError, did_you_mean
from dlf.pipelines import ArrayDataset, as_backend_holds
from dlf.tensorboard import TensorBoard

__all__ = ["TrainingInterrupted", "build_callbacks", "compile_and_fit"]


def build_callbacks(
    patience: int = 3,
    *,
    monitor: str = "val_loss",
    logdir: str | os.PathLike[str] | None = None,
) -> tuple[list[keras.callbacks.Callback], str]:
    """Returns early stopping that restores the best weights, and a writer of event files for TensorBoard.

    Args:
        patience: Epochs without improvement after which training stops.
        monitor: The metric that is watched.
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
    folder = (
        Path(path)
        if path is not None
        else _unused(Path("runs") / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S"))
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".dlf-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"the run folder: expected a folder that can be written to, received {str(folder)!r} "
            f"({error.strerror}). Name another one."
        ) from error
    return folder


def _unused(folder: Path) -> Path:
    """The folder, or where a run began within the same second, the same name with a number."""
    names = itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2)))
    return next(each for each in map(folder.with_name, names) if not each.exists())


def compile_and_fit(  # noqa: PLR0913 - the names that Keras uses, in one call.
    model: keras.Model,
    train: Any,
    *,
    loss: Any,
    optimizer: Any = "adam",
    metrics: Any = None,
    epochs: int = 1,
    validation_ds: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    **options: Any,
) -> keras.callbacks.History:
    """Compiles the model and trains it.

    Args:
        model: Any Keras model.
        train: Batches (what `prepare_for_training` returns, or any `tf.data.Dataset`, `keras.utils.PyDataset` or
            iterator of batches), or a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``.
        loss: As in Keras's `compile`.
        optimizer: As in Keras's `compile`: a name or an optimizer.
        metrics: As in Keras's `compile`.
        epochs: How often the training data are gone through.
        validation_ds: Batches or arrays, like `train`.
        callbacks: As in Keras's `fit`.
        **options: Anything else that Keras's `compile` or `fit` takes, such as ``batch_size=64`` or ``verbose=0``.

    Returns:
        Keras's `History`.

    Raises:
        InvalidArgumentError: An argument, or labels that the model's output does not fit.
        TrainingError: The loss is not a number any more; ``model.history`` keeps the epochs.
        TrainingInterrupted: Ctrl-C, once the batch is finished; a `KeyboardInterrupt`.

    Example:
        >>> x, y = np.linspace(-1, 1, 64).reshape(-1, 1), np.linspace(-1, 3, 64).reshape(-1, 1)
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> history = compile_and_fit(model, (x, y), loss="mse", epochs=2, batch_size=16, verbose=0)
        >>> len(history.history["loss"])
        2
    """
    check_positive("epochs", epochs)
    compile_options, fit_options = _sort_options(model, options)
    for argument, data in (("train", train), ("validation_ds", validation_ds)):
        _check_data(argument, data, model, loss)
    if not isinstance(train, tuple):
        # Batches come in an order of their own already; Keras would shuffle them as batches, or warn that it cannot.
        fit_options.setdefault("shuffle", False)
    model.compile(optimizer=find_optimizer(optimizer), loss=loss, metrics=_as_list(metrics), **compile_options)
    train, validation_ds = as_backend_holds(train), as_backend_holds(validation_ds)
    arrays = dict(zip(("x", "y", "sample_weight"), train, strict=False)) if isinstance(train, tuple) else {"x": train}
    stop_on_nan = _StopOnNaN()
    with _finishing_the_batch_on_interrupt(model):
        history = model.fit(
            **arrays,
            epochs=epochs,
            validation_data=validation_ds,
            callbacks=[*(callbacks or ()), stop_on_nan],
            **fit_options,
        )
    if stop_on_nan.found:
        raise TrainingError(
            f"the {stop_on_nan.found}: expected a number, received NaN or infinity. Lower the learning rate, "
            "look for NaN in the inputs, and see that a loss of logits is told so (from_logits=True)."
        )
    return history


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the training after a whole batch: the model and `model.history` hold what was learnt."""


class _StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Stops at the end of the epoch: Keras's TerminateOnNaN looks at every batch, and JAX then waits for each."""

    found = ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for name, value in (logs or {}).items():
            if name in ("loss", "val_loss") and not math.isfinite(value):
                self.found = f"{name} of epoch {epoch + 1}"
                self.model.stop_training = True
                return


@contextmanager
def _finishing_the_batch_on_interrupt(model: keras.Model) -> Iterator[None]:
    """Turns the first Ctrl-C into a request to stop after this batch, and raises it once the state is whole.

    An interrupt in the middle of a step would lose the model on JAX, where the step has taken the old state's memory
    and not yet returned the new one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread alone.
        return
    before = signal.getsignal(signal.SIGINT)
    interrupted = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        model.stop_training = True
        signal.signal(signal.SIGINT, before)
        print("\nStopping after this batch; press Ctrl-C again to stop at once.", file=sys.stderr)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise TrainingInterrupted


def check_positive(argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidArgumentError(argument, expected="a positive integer", received=value)


def _sort_options(model: keras.Model, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hands each option to `compile` or to `fit`, whichever knows it."""
    known_compile, known_fit = (set(inspect.signature(call).parameters) for call in (model.compile, model.fit))
    for name, value in options.items():
        if name not in known_compile | known_fit:
            raise InvalidArgumentError(
                name,
                expected="an argument of keras.Model.compile or keras.Model.fit",
                received=value,
                advice=did_you_mean(name, known_compile | known_fit),
            )
    return (
        {name: value for name, value in options.items() if name in known_compile},
        {name: value for name, value in options.items() if name not in known_compile},
    )


def find_optimizer(optimizer: Any) -> Any:
    if not isinstance(optimizer, str):
        return optimizer
    try:
        return keras.optimizers.get(optimizer)
    except ValueError as error:
        classes = [value for value in vars(keras.optimizers).values() if inspect.isclass(value)]
        known = sorted(each.__name__.lower() for each in classes if _can_be_named(each))
        raise InvalidArgumentError(
            "optimizer",
            expected=f"an optimizer, or one of {', '.join(known)}",
            received=optimizer,
            advice=did_you_mean(optimizer, known),
        ) from error


def _can_be_named(optimizer: type) -> bool:
    """Whether Keras can make it without arguments: those that wrap other optimizers cannot be asked for by name."""
    required = [
        p
        for p in inspect.signature(optimizer).parameters.values()
        if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    return issubclass(optimizer, keras.optimizers.Optimizer) and not required


def _as_list(metrics: Any) -> Any:
    # Keras takes a list or a dictionary; `metrics=("accuracy",)` is a natural thing to write.
    return list(metrics) if isinstance(metrics, tuple) else metrics


def _check_data(argument: str, data: Any, model: keras.Model, loss: Any) -> None:
    """Raises where the labels cannot be what the model's output stands for; what cannot be looked at, passes."""
    if isinstance(data, ArrayDataset):
        raise InvalidArgumentError(
            argument, expected="batches", received=data, advice="Call prepare_for_training on it first."
        )
    if isinstance(data, tuple) and len(data) not in (2, 3):
        raise InvalidArgumentError(argument, expected="(x, y) or (x, y, sample_weight)", received=data)
    labels = _labels(data)
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    shape = getattr(model, "output_shape", None) if model.built else None
    if labels is None or not labels.size or not isinstance(shape, tuple) or not isinstance(shape[-1], int):
        return
    if isinstance(data, tuple) and len(labels) != len(keras.tree.flatten(data[0])[0]):
        raise InvalidArgumentError(
            argument,
            expected="as many labels as inputs",
            received=(len(keras.tree.flatten(data[0])[0]), len(labels)),
        )
    if name == "sparse_categorical_crossentropy":
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= shape[-1]:
            raise InvalidArgumentError(
                argument,
                expected=f"labels from 0 to {shape[-1] - 1}, for the model's {shape[-1]} outputs",
                received=lowest if lowest < 0 else highest,
                advice=f"Give the last layer {highest + 1} units, or check the labels." if lowest >= 0 else "",
            )
    elif name == "categorical_crossentropy" and labels.shape[-1] != shape[-1]:
        raise InvalidArgumentError(
            argument,
            expected=f"one-hot labels of length {shape[-1]}",
            received=labels.shape,
            advice="For labels that are class numbers, take the loss 'sparse_categorical_crossentropy'.",
        )


def _labels(data: Any) -> np.ndarray | None:
    """The labels that can be looked at without taking anything from a stream: all of them, or the first batch's."""
    if isinstance(data, tuple):
        labels = data[1]
    elif isinstance(data, keras.utils.PyDataset) and len(data):
        labels = data[0][1]
    elif type(data).__module__.startswith("tensorflow."):
        labels = next((batch[1] for batch in data.take(1) if isinstance(batch, tuple) and len(batch) > 1), None)
    else:
        return None
    if keras.ops.is_tensor(labels):
        return np.asarray(keras.ops.convert_to_numpy(labels))
    return np.asarray(labels) if isinstance(labels, np.ndarray | list) or hasattr(labels, "numpy") else None
