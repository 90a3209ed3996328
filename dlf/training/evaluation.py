"""Evaluation and prediction as in Keras's `evaluate` and `predict`, with many steps in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from dlf.models.model_loss import check_is_model
from dlf.training._compiling import check_compiled
from dlf.training._validation import are_arrays, as_given, check_data, check_labels
from dlf.training.engine import loop
from dlf.training.engine.arrays import as_batches
from dlf.training.engine.by_keras import as_arguments, as_read
from dlf.training.engine.plan import MEMORY_SHARE, check_engine, plan
from dlf.utils.errors import check_positive

__all__ = ["evaluate", "predict"]


def evaluate(  # noqa: PLR0913 - the names that Keras uses.
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    engine: str = "auto",
    memory_share: float = MEMORY_SHARE,
) -> dict[str, float]:
    """Returns the loss and the metrics of a compiled model.

    Args:
        model: A compiled model.
        data: Batches, a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``, or inputs alone.
        batch_size: Examples in a batch, for arrays.
        callbacks: As in Keras's `evaluate`.
        engine: As in `compile_and_fit`.
        memory_share: As in `compile_and_fit`.

    Returns:
        The values by name, including ``"loss"``.

    Raises:
        InvalidArgumentError: An argument is invalid, the model is not compiled, or ``engine="fused"`` is given for what
            only Keras's `evaluate` can do.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        >>> model.compile(loss="mse")
        >>> evaluate(model, (np.ones((8, 1)), np.full((8, 1), 3.0)))
        {'loss': 9.0}
    """
    check_compiled(model)
    check_engine(engine, memory_share)
    data = as_given(data)
    check_data("data", data)
    if isinstance(data, tuple):
        check_labels("data", data, model, model.loss)
        check_positive("batch_size", batch_size)
        data = as_batches(data, batch_size, shuffle=False) or data
    feed = plan(model, data, "test", engine=engine, memory_share=memory_share, callbacks=callbacks).feed
    if feed is not None:
        hooks = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=1, steps=feed.steps)
        return loop.evaluate(model, feed, hooks)
    size = batch_size if isinstance(data, tuple) else None
    found: dict[str, float] = model.evaluate(
        **as_arguments(data), batch_size=size, callbacks=list(callbacks), verbose=0, return_dict=True
    )
    return found


def predict(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    engine: str = "auto",
    memory_share: float = MEMORY_SHARE,
) -> Any:
    """Returns the model's outputs for all examples.

    Args:
        model: A model.
        data: Batches, an array of inputs, or, for a model with several inputs, a structure of arrays.
        batch_size: Examples in a batch, for arrays.
        engine: As in `compile_and_fit`.
        memory_share: As in `compile_and_fit`.

    Returns:
        A NumPy array ``(examples, ...)``, or a structure of such arrays.

    Raises:
        InvalidArgumentError: An argument is invalid, or ``engine="fused"`` is given for what only Keras's `predict` can
            do.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="ones")])
        >>> predict(model, np.array([[1.0], [2.0]])).tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """
    check_is_model(model)
    check_engine(engine, memory_share)
    inputs = data
    if isinstance(data, list | dict) or are_arrays(data):
        check_positive("batch_size", batch_size)
        inputs = as_batches((data,), batch_size, shuffle=False) or data
    feed = plan(model, inputs, "predict", engine=engine, memory_share=memory_share).feed
    if feed is not None:
        return loop.predict(feed)
    size = batch_size if inputs is data else None
    return model.predict(as_read(inputs), batch_size=size, verbose=0)
