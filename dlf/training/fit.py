"""Trains a Keras model, the same way on every backend.

Requirements:

* `compile`, the callbacks and the `History` are Keras's own: nothing here changes what a model means;
* many steps run in one call where that means the same; elsewhere Keras's own `fit` runs, and the reason is logged;
* the order of the examples is the same on every backend and with either engine;
* requests that cannot work fail before the first batch, with one clear error;
* Ctrl-C keeps what was learnt: the batch and the epoch's validation are finished, then `KeyboardInterrupt` is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from dlf.models.by_name import check_loss
from dlf.models.model_loss import check_is_model
from dlf.models.scripts import fit_instead
from dlf.random.seed import randomness_as_seeded
from dlf.training._compiling import check_compiled, check_fit_options, compiling, sort_options
from dlf.training._validation import (
    FORMS,
    as_arguments_of_fit,
    as_given,
    build_if_deferred,
    check_data,
    check_inputs,
    check_labels,
    check_metrics,
)
from dlf.training.engine.plan import MEMORY_SHARE, check_engine
from dlf.training.engine.training import run_training
from dlf.utils.errors import InvalidArgumentError, TrainingError, check_positive
from dlf.utils.interrupts import Interrupt, deferred_interrupt

__all__ = ["TrainingInterrupted", "compile_and_fit", "fit"]


def compile_and_fit(  # noqa: PLR0913 - the names that Keras uses, in one call.
    model: keras.Model,
    train: Any,
    *,
    loss: Any = None,
    optimizer: Any = None,
    metrics: Any = None,
    epochs: int = 1,
    validation_ds: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    engine: str = "auto",
    memory_share: float = MEMORY_SHARE,
    **options: Any,
) -> keras.callbacks.History:
    """Compiles the model and trains it.

    A model that is compiled already is trained as it is if no argument of `compile` is given. After `dlf.set_seed` the
    same seed gives the same order of examples and the same masks on every backend.

    Args:
        model: Any Keras model.
        train: Batches (what `prepare_for_training` returns, or any `tf.data.Dataset`, `keras.utils.PyDataset` or
            iterator of batches), a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``, or, for a model that is
            trained without labels, the inputs alone, as an array, a list or a dictionary of arrays.
        loss: As in Keras's `compile`.
        optimizer: As in Keras's `compile`: a name or an optimizer; by default Adam.
        metrics: As in Keras's `compile`.
        epochs: How many times to go through the training data.
        validation_ds: Batches or arrays, like `train`.
        callbacks: As in Keras's `fit`.
        engine: ``"fused"`` runs many steps of the model's own `train_step` in one call on the device, ``"keras"`` is
            Keras's `fit`; ``"auto"`` uses ``"fused"`` wherever it means the same, and otherwise logs why not.
        memory_share: What share of the device's free memory the examples may take; if they need more, they are copied
            to the device in blocks.
        **options: Anything else that the model's `compile` or Keras's `fit` takes, such as ``batch_size=64``,
            ``verbose=0`` or the ``g_optimizer`` of a `compile` of the model's own.

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
    check_is_model(model)
    check_loss(loss)
    check_metrics(metrics)
    check_engine(engine, memory_share)
    of_compile, of_fit = sort_options(model, options)
    compile_it = compiling(model, {"loss": loss, "optimizer": optimizer, "metrics": metrics} | of_compile)
    of_fit |= {"epochs": epochs, "callbacks": callbacks}
    request = _Request(engine, memory_share, ("train", "validation_ds"))
    return request.run(model, as_given(train), as_given(validation_ds), of_fit, compile_it, loss)


def fit(  # noqa: PLR0913, PLR0917 - as Keras has it.
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = None,
    *,
    validation_data: Any = None,
    engine: str = "auto",
    memory_share: float = MEMORY_SHARE,
    **options: Any,
) -> keras.callbacks.History:
    """Trains a compiled model as Keras's `fit` does, with many steps in one call.

    Args:
        model: A compiled model: by Keras's own `compile`, or by one of the model's own.
        x: As in Keras's `fit`: inputs, as an array, a list, a tuple or a dictionary of arrays; or batches.
        y: As in Keras's `fit`: the labels, unless `x` are batches, or the model is trained without labels.
        batch_size: As in Keras's `fit`.
        epochs: As in Keras's `fit`.
        verbose: As in Keras's `fit`.
        callbacks: As in Keras's `fit`.
        validation_data: As in Keras's `fit`.
        engine: As in `compile_and_fit`.
        memory_share: As in `compile_and_fit`.
        **options: Anything else that Keras's `fit` takes, such as ``validation_split=0.2`` or ``class_weight``.

    Returns:
        As `compile_and_fit`.

    Raises:
        InvalidArgumentError: An argument is invalid, the model is not compiled, the labels do not fit the model's
            output, or ``engine="fused"`` is given for what only Keras's `fit` can do.
        TrainingError: The loss became NaN or infinite; ``model.history`` keeps the epochs so far.
        TrainingInterrupted: Ctrl-C was pressed; a `KeyboardInterrupt`, raised once the running steps are finished.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", loss="mse")
        >>> history = fit(model, x, 2 * x + 1, batch_size=16, epochs=2, verbose=0)
        >>> len(history.history["loss"]), history.engine
        (2, 'fused')
    """
    check_compiled(model)
    check_engine(engine, memory_share)
    check_fit_options(options)
    data = as_arguments_of_fit(x, y)
    options |= {"batch_size": batch_size, "epochs": epochs, "verbose": verbose, "callbacks": callbacks}
    request = _Request(engine, memory_share, ("x, y", "validation_data"))
    return request.run(model, data, as_given(validation_data), options, lambda: None, model.loss)


@dataclass(frozen=True)
class _Request:
    """How to train, and what the caller calls the data to train on and those to validate on."""

    engine: str
    memory_share: float
    names: tuple[str, str]

    def run(  # noqa: PLR0913, PLR0917 - as many things make up a training.
        self,
        model: keras.Model,
        train: Any,
        validation: Any,
        options: dict[str, Any],
        compile_it: Callable[[], None],
        loss: Any,
    ) -> keras.callbacks.History:
        """Checks the request, compiles the model, and trains it."""
        check_positive("epochs", options["epochs"])
        check_positive("batch_size", 1 if options.get("batch_size") is None else options["batch_size"])
        callbacks = _as_callbacks(options["callbacks"])
        data = [(name, each) for name, each in zip(self.names, (train, validation), strict=True) if each is not None]
        if train is None:
            raise InvalidArgumentError(self.names[0], expected=FORMS, received=None)
        for name, each in data:
            check_data(name, each)
        build_if_deferred(model, train)
        for name, each in data:
            check_inputs(name, each, model)
            check_labels(name, each, model, loss)
        compile_it()
        instead = fit_instead()
        if instead is not None:
            parts = train if isinstance(train, tuple) else (train,)
            arrays = dict(zip(("x", "y", "sample_weight"), parts, strict=False))
            history: keras.callbacks.History = instead(model, **{**options, **arrays})
            return history

        def stop() -> None:
            model.stop_training = True

        with deferred_interrupt("Stopping after this batch and its epoch's validation", stop) as interrupt:
            watch = _Watch(interrupt)
            with _labels_out_of_range_named(), randomness_as_seeded():
                history = run_training(
                    model,
                    train,
                    validation,
                    options | {"callbacks": [*callbacks, watch]},
                    engine=self.engine,
                    memory_share=self.memory_share,
                    check_first=partial(check_labels, self.names[0], model=model, loss=loss),
                )
        if interrupt.pressed:
            raise TrainingInterrupted
        if watch.not_finite:
            raise TrainingError(
                f"the {watch.not_finite}: expected a number, received NaN or infinity. Lower the learning rate, look "
                "for NaN in the inputs, and see that a loss of logits is told so (from_logits=True)."
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
