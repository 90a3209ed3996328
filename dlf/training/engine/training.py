"""Runs one training: by the fused engine where that means the same as Keras's `fit`, and by `fit` elsewhere."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras

from dlf.data.array_dataset import BatchedDataset
from dlf.data.tf_data import rows_of
from dlf.training._validation import check_labels
from dlf.training.engine._batch_hooks import watchers
from dlf.training.engine.arrays import as_batches, read_by_keras_alone, split_off
from dlf.training.engine.by_keras import as_arguments, as_read
from dlf.training.engine.feeds import NotFusedError, check_readable
from dlf.training.engine.loop import Validation, evaluate, fit
from dlf.training.engine.plan import plan, refuse_steps_per_execution

__all__ = ["run_training"]

_log = logging.getLogger("dlf")


def run_training(  # noqa: PLR0913, PLR0917 - as many things make up a training.
    model: keras.Model, train: Any, validation: Any, options: dict[str, Any], engine: str, memory_share: float
) -> keras.callbacks.History:
    """Trains a compiled model.

    Args:
        model: The model.
        train: Batches or arrays.
        validation: Batches or arrays, or None.
        options: Further arguments of Keras's `fit`.
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: How much of the device's free memory the examples may take.

    Returns:
        Keras's `History`.

    Raises:
        InvalidArgumentError: ``engine="fused"`` for what only Keras's `fit` can do.
    """
    train, validation, options = _with_dlf_order(train, validation, options)
    callbacks = options["callbacks"]
    feed = plan(
        model,
        train,
        "train",
        engine=engine,
        memory_share=memory_share,
        callbacks=callbacks,
        check=functools.partial(_refuse_what_is_keras_s, model, train, validation, options),
    ).feed
    if feed is None:
        return _fit_by_keras(model, train, validation, options)
    check_labels("train", feed.first, model, getattr(model, "loss", None))
    if feed.remark:
        _log.warning("dlf: the examples are brought to the device in blocks: %s.", feed.remark)
    for name, steps in watchers(callbacks, "train").items():
        _log.warning("dlf: %s looks at every %s, so the calls end there.", name, _batches(steps))
    history = fit(
        model,
        feed,
        epochs=options["epochs"],
        callbacks=callbacks,
        initial_epoch=options.get("initial_epoch", 0),
        verbose=options.get("verbose", "auto"),
        validation=_validation(model, validation, options, memory_share),
    )
    history.engine = "fused"
    return history


def _with_dlf_order(train: Any, validation: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Turns arrays into batches in dlf's order, unless the options mean other batches; leaves batches as they are."""
    options = dict(options)
    if not isinstance(train, tuple):
        # Batches have an order already; Keras would shuffle whole batches, or warn that it cannot.
        return train, _batched(validation, options), {"shuffle": False, **options}
    split = options.pop("validation_split", 0)
    if split and validation is None:
        if options.get("sample_weight") is not None:
            inputs, labels, *_ = (*train, None)
            train = (inputs, labels, options.pop("sample_weight"))
        train, validation = split_off(train, split)
    steps = options.get("steps_per_epoch") or keras.config.max_steps_per_epoch()
    if steps is not None or options.get("shuffle", True) not in (True, False):
        return train, validation, options  # Such an epoch is not one pass over the shuffled examples.
    taken = ("batch_size", "sample_weight", "class_weight")
    batches = as_batches(
        train,
        options.get("batch_size"),
        shuffle=options.get("shuffle", True),
        sample_weight=options.get("sample_weight"),
        class_weight=options.get("class_weight"),
    )
    if batches is None:
        return train, validation, options
    validation = _batched(validation, options)
    if isinstance(validation, tuple) and options.get("validation_batch_size") is None:
        options["validation_batch_size"] = options.get("batch_size")
    return batches, validation, {name: each for name, each in options.items() if name not in taken} | {"shuffle": False}


def _batched(validation: Any, options: Mapping[str, Any]) -> Any:
    """Turns validation arrays into batches, unless the number of steps is limited; leaves batches as they are."""
    limited = options.get("validation_steps") is not None or keras.config.max_steps_per_epoch()
    if limited or not isinstance(validation, tuple):
        return validation
    size = options.get("validation_batch_size") or options.get("batch_size")
    return as_batches(validation, size, shuffle=False) or validation


def _refuse_what_is_keras_s(model: keras.Model, train: Any, validation: Any, options: Mapping[str, Any]) -> None:
    """Raises `NotFusedError` if the data or the options need Keras to make, weight or read the batches."""
    kind = read_by_keras_alone(train) if isinstance(train, tuple) else ""
    if kind:
        raise NotFusedError(f"the data hold a {kind}, which Keras alone cuts into batches")
    _refuse_given(options, "steps_per_epoch", "class_weight", "sample_weight", "batch_size")
    if options.get("validation_split"):
        raise NotFusedError("validation_split is given for batches")
    if options.get("shuffle") and isinstance(train, keras.utils.PyDataset):
        raise NotFusedError("shuffle is given for batches")
    if validation is None:
        return
    if not isinstance(validation, tuple | BatchedDataset) and not hasattr(validation, "element_spec"):
        # With these, Keras's `fit` may go on reading where the last validation ended, or read the data only once.
        _refuse_given(options, "validation_steps")
        check_readable(validation)
    refuse_steps_per_execution(model, options["callbacks"], "test")


def _validation(model: keras.Model, data: Any, options: Mapping[str, Any], memory_share: float) -> Validation | None:
    """Returns how to validate: by the fused engine where it can, otherwise by Keras's `evaluate`; None without data."""
    if data is None:
        return None
    # Prepared at the first validation: Keras does not read the data before that either.
    prepared = functools.cache(lambda: _evaluation(model, data, options, memory_share))

    def run(hooks: keras.callbacks.CallbackList) -> Mapping[str, float]:
        return prepared()(hooks)

    return Validation(run, options.get("validation_freq", 1))


def _evaluation(
    model: keras.Model, data: Any, options: Mapping[str, Any], memory_share: float
) -> Callable[[keras.callbacks.CallbackList], Mapping[str, float]]:
    feed = plan(
        model,
        data,
        "test",
        memory_share=memory_share,
        check=lambda: _refuse_given(options, "validation_steps"),
        instead="Keras's own loop evaluates",
    ).feed
    if feed is not None:
        return functools.partial(evaluate, model, feed)
    arrays, steps = as_arguments(data), options.get("validation_steps")
    size = options.get("validation_batch_size") or options.get("batch_size")
    return lambda hooks: model.evaluate(**arrays, batch_size=size, steps=steps, callbacks=hooks, return_dict=True)


def _fit_by_keras(model: keras.Model, train: Any, validation: Any, options: dict[str, Any]) -> keras.callbacks.History:
    rows = train if isinstance(train, BatchedDataset) else rows_of(train)
    if rows is not None:
        options["callbacks"] = [*options["callbacks"], _EpochOrder(rows)]
    weighed = any(options.get(name) is not None for name in ("class_weight", "sample_weight")) or options.get("shuffle")
    arguments = {"x": train} if weighed and isinstance(train, BatchedDataset) else as_arguments(train)
    history = model.fit(**arguments, validation_data=as_read(validation), **options)
    history.engine = "keras"
    return history


class _EpochOrder(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Gives each epoch its own order, although Keras may begin and end an additional epoch while it builds the model.

    The order is set before an epoch's iterator is made, since tf.data reads ahead from then on. It is set again when
    the epoch begins, since Keras calls `on_epoch_end` of a `PyDataset` in between.
    """

    def __init__(self, rows: BatchedDataset) -> None:
        super().__init__()
        self._rows, self._next = rows, rows.epoch

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._next += 1
        self._rows.begin(self._next)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._rows.begin(self._next)


def _refuse_given(options: Mapping[str, Any], *names: str) -> None:
    """Raises `NotFusedError` if one of these options is given, since it changes the batches."""
    for name in names:
        if options.get(name) is not None:
            raise NotFusedError(f"{name} is given for data that Keras alone cuts into batches or weighs")


def _batches(steps: int) -> str:
    return "batch" if steps == 1 else f"{steps} batches"
