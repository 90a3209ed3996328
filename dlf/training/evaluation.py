"""Evaluates and predicts, many steps in one call, as Keras's `evaluate` and `predict` do a step at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from dlf.backend.protocol import EpochRunner
from dlf.training._validation import check_data
from dlf.training.engine import loop
from dlf.training.engine.arrays import as_batches
from dlf.training.engine.by_keras import as_arguments, as_read
from dlf.training.engine.choice import (
    MEMORY_SHARE,
    NotFusedError,
    check_engine,
    find_room,
    fused_feed,
    not_fused_here,
    refuse_steps_per_execution,
    runner_of,
)
from dlf.training.engine.feeds import Feed
from dlf.utils.errors import InvalidArgumentError, check_positive

__all__ = ["evaluate", "predict"]

_log = logging.getLogger("dlf")


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
        data: Batches, or a tuple of arrays ``(x, y)`` or ``(x, y, sample_weight)``.
        batch_size: Examples in a batch, for arrays.
        callbacks: As in Keras's `evaluate`.
        engine: As in `compile_and_fit`.
        memory_share: As in `compile_and_fit`.

    Returns:
        The values by name, ``"loss"`` among them.

    Raises:
        InvalidArgumentError: An argument, a model that is not compiled, or ``engine="fused"`` for what only Keras's
            `evaluate` can do.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        >>> model.compile(loss="mse")
        >>> evaluate(model, (np.ones((8, 1)), np.full((8, 1), 3.0)))
        {'loss': 9.0}
    """
    if not model.compiled:
        raise InvalidArgumentError(
            "model", expected="a compiled model", received=model.name, advice="Call model.compile(loss=...) first."
        )
    check_data("data", data)
    if isinstance(data, tuple):
        check_positive("batch_size", batch_size)
        data = as_batches(data, batch_size, shuffle=False) or data
    fused = _prepare(model, data, engine, memory_share, callbacks)
    if fused is not None:
        hooks = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=1, steps=fused[0].steps)
        return loop.evaluate(model, *fused, hooks)
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
        data: Batches, an array of inputs, or, for a model with several inputs, a list or a dictionary of arrays.
        batch_size: Examples in a batch, for arrays.
        engine: As in `compile_and_fit`.
        memory_share: As in `compile_and_fit`.

    Returns:
        NumPy's array, ``(examples, ...)``, or a structure of them.

    Raises:
        InvalidArgumentError: An argument, or ``engine="fused"`` for what only Keras's `predict` can do.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="ones")])
        >>> predict(model, np.array([[1.0], [2.0]])).tolist()
        [[1.0, 1.0], [2.0, 2.0]]
    """
    inputs = data
    if isinstance(data, np.ndarray | list | dict) or keras.ops.is_tensor(data):
        check_positive("batch_size", batch_size)
        inputs = as_batches((data,), batch_size, shuffle=False) or data
    fused = _prepare(model, inputs, engine, memory_share)
    if fused is not None:
        return loop.predict(*fused)
    size = batch_size if inputs is data else None
    return model.predict(as_read(inputs), batch_size=size, verbose=0)


def _prepare(
    model: keras.Model,
    data: Any,
    engine: str,
    memory_share: float,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
) -> tuple[Feed, EpochRunner] | None:
    """The feed and the runner; None where Keras's own loop has to do it."""
    check_engine(engine, memory_share)
    if engine == "keras":
        return None
    try:
        refuse_steps_per_execution(model, callbacks or (), "test")
        runner = runner_of(model)
        phase = "predict" if callbacks is None else "test"
        return fused_feed(model, data, runner, find_room(memory_share), phase), runner
    except NotFusedError as reason:
        if engine == "fused":
            raise not_fused_here(reason) from reason
        _log.warning("dlf: Keras's own loop is used, since %s.", reason)
        return None
