"""One training, by whole epochs in one call where that means the same, by Keras's `fit` elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

from dlf.engine.arrays import as_arguments, as_batches, split_off
from dlf.engine.batch_hooks import watchers
from dlf.engine.choice import NotFusedError, find_room, fused_feed, not_fused_here, runner_of
from dlf.engine.loop import Validation, evaluate, fit
from dlf.pipelines import BatchedDataset, as_backend_holds
from dlf.tf_pipelines import rows_of

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
        options: What Keras's `fit` takes besides.
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: How much of the device's free memory the examples may take.

    Returns:
        Keras's `History`.

    Raises:
        InvalidArgumentError: ``engine="fused"`` for what only Keras's `fit` can do.
    """
    train, validation, options = _with_dlf_order(train, validation, options)
    if engine == "keras":
        return _fit_by_keras(model, train, validation, options)
    try:
        prepared = _prepare(model, train, validation, options, memory_share)
    except NotFusedError as reason:
        if engine == "fused":
            raise not_fused_here(reason) from reason
        _log.warning("dlf: Keras's own loop is used, since %s.", reason)
        return _fit_by_keras(model, train, validation, options)
    history = fit(model, **prepared)
    history.engine = "fused"
    return history


def _with_dlf_order(train: Any, validation: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Arrays as batches in dlf's order, where that leaves `fit` what it means; batches as they are."""
    options = dict(options)
    if not isinstance(train, tuple):
        # Batches come in an order of their own already; Keras would shuffle them as batches, or warn that it cannot.
        return train, validation, {"shuffle": False, **options}
    split = options.pop("validation_split", 0)
    if split and validation is None:
        if options.get("sample_weight") is not None:
            train = (*train, options.pop("sample_weight"))
        train, validation = split_off(train, split)
    if options.get("steps_per_epoch") is not None or options.get("shuffle", True) not in (True, False):
        return train, validation, options  # Such epochs do not begin and end with the arrays.
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
    if isinstance(validation, tuple) and options.get("validation_steps") is None:
        size = options.get("validation_batch_size") or options.get("batch_size")
        validation = as_batches(validation, size, shuffle=False) or validation
    if isinstance(validation, tuple) and options.get("validation_batch_size") is None:
        options["validation_batch_size"] = options.get("batch_size")
    return batches, validation, {name: each for name, each in options.items() if name not in taken} | {"shuffle": False}


def _prepare(
    model: keras.Model, train: Any, validation: Any, options: Mapping[str, Any], memory_share: float
) -> dict[str, Any]:
    """Everything that the fused loop needs; raises where it cannot be had."""
    _refuse_given(options, "steps_per_epoch", "class_weight", "sample_weight", "batch_size")
    if options.get("validation_split"):
        raise NotFusedError("validation_split is given for batches")
    runner = runner_of(model)
    feed = fused_feed(model, train, runner, find_room(memory_share), trains=True)
    callbacks = options["callbacks"]
    if feed.remark:
        _log.warning("dlf: the examples are brought to the device in blocks: %s.", feed.remark)
    for name, steps in watchers(callbacks, "train").items():
        _log.warning("dlf: %s looks at every %s, so the calls end there.", name, _batches(steps))
    return {
        "feed": feed,
        "runner": runner,
        "epochs": options["epochs"],
        "callbacks": callbacks,
        "initial_epoch": options.get("initial_epoch", 0),
        "verbose": options.get("verbose", "auto"),
        "validation": _validation(model, validation, options, memory_share),
    }


def _validation(model: keras.Model, data: Any, options: Mapping[str, Any], memory_share: float) -> Validation | None:
    """Evaluates by the fused engine where it can, and else by Keras's `evaluate`."""
    if data is None:
        return None
    frequency = options.get("validation_freq", 1)
    steps, size = options.get("validation_steps"), options.get("validation_batch_size") or options.get("batch_size")
    try:
        _refuse_given(options, "validation_steps", "validation_batch_size")
        runner = runner_of(model)
        feed = fused_feed(model, data, runner, find_room(memory_share), trains=False)
    except NotFusedError as reason:
        _log.warning("dlf: Keras's own loop evaluates, since %s.", reason)
        arrays = as_arguments(data)
        return Validation(
            lambda hooks: model.evaluate(**arrays, batch_size=size, steps=steps, callbacks=hooks, return_dict=True),
            frequency,
        )
    return Validation(lambda hooks: evaluate(model, feed, runner, hooks), frequency)


def _fit_by_keras(model: keras.Model, train: Any, validation: Any, options: dict[str, Any]) -> keras.callbacks.History:
    rows = train if isinstance(train, BatchedDataset) else rows_of(train)
    if rows is not None:
        options["callbacks"] = [*options["callbacks"], _EpochOrder(rows)]
    history = model.fit(**as_arguments(train), validation_data=as_backend_holds(validation), **options)
    history.engine = "keras"
    return history


class _EpochOrder(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Sees to it that each epoch has its own order: Keras may begin and end one more while it builds.

    The order is set before an epoch's iterator is made, since tf.data reads ahead from then on, and once more when the
    epoch begins, since of a `PyDataset` Keras itself says in between that an epoch has ended.
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
    """Raises where an option is left that changes which batches there are."""
    for name in names:
        if options.get(name) is not None:
            raise NotFusedError(f"{name} is given for data that Keras alone cuts into batches or weighs")


def _batches(steps: int) -> str:
    return "batch" if steps == 1 else f"{steps} batches"
