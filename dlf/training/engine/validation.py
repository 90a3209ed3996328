"""The validation after an epoch of a training: by the fused engine where it can, otherwise by Keras's `evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from dlf.training.engine._refusals import refuse_given
from dlf.training.engine.by_keras import as_arguments
from dlf.training.engine.loop import Validation, evaluate
from dlf.training.engine.plan import plan

__all__ = ["validation_of"]


def validation_of(model: keras.Model, data: Any, options: Mapping[str, Any], memory_share: float) -> Validation | None:
    """Returns how to validate after an epoch, or None without data.

    Args:
        model: A compiled model.
        data: Batches or arrays, or None.
        options: The options of Keras's `fit`.
        memory_share: How much of the device's free memory the examples may take.
    """
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
        check=lambda: refuse_given(options, "validation_steps"),
        instead="Keras's own loop evaluates",
    ).feed
    if feed is not None:
        return functools.partial(evaluate, model, feed)
    arrays, steps = as_arguments(data), options.get("validation_steps")
    size = options.get("validation_batch_size") or options.get("batch_size")
    return lambda hooks: model.evaluate(**arrays, batch_size=size, steps=steps, callbacks=hooks, return_dict=True)
