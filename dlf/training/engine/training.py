"""Runs one training: by the fused engine where that means the same as Keras's `fit`, and by `fit` elsewhere."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import keras

from dlf.training.engine._batch_hooks import watchers
from dlf.training.engine._refusals import refuse_training
from dlf.training.engine.arrays import as_batches, split_off
from dlf.training.engine.by_keras import fit_by_keras
from dlf.training.engine.loop import fit
from dlf.training.engine.plan import plan
from dlf.training.engine.validation import validation_of

__all__ = ["run_training"]

_log = logging.getLogger("dlf")


def run_training(  # noqa: PLR0913 - as many things make up a training.
    model: keras.Model,
    train: Any,
    validation: Any,
    options: dict[str, Any],
    *,
    engine: str,
    memory_share: float,
    check_first: Callable[[Any], None],
) -> keras.callbacks.History:
    """Trains a compiled model.

    Args:
        model: The model.
        train: Batches or arrays.
        validation: Batches or arrays, or None.
        options: Further arguments of Keras's `fit`.
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: How much of the device's free memory the examples may take.
        check_first: Called with the first batch of a stream, before the first step; raises if the model cannot take it.

    Returns:
        Keras's `History`; its attribute `engine` is the engine that was used, `engine_reason` why it is Keras's.

    Raises:
        InvalidArgumentError: ``engine="fused"`` for what only Keras's `fit` can do.
    """
    train, validation, options = _with_dlf_order(train, validation, options)
    callbacks = options["callbacks"]
    chosen = plan(
        model,
        train,
        "train",
        engine=engine,
        memory_share=memory_share,
        callbacks=callbacks,
        check=functools.partial(refuse_training, model, train, validation, options),
    )
    feed = chosen.feed
    if feed is None:
        return fit_by_keras(model, train, validation, options, chosen.reason)
    check_first(feed.first)
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
        validation=validation_of(model, validation, options, memory_share),
    )
    history.engine, history.engine_reason = "fused", ""
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


def _batches(steps: int) -> str:
    return "batch" if steps == 1 else f"{steps} batches"
