"""Decides whether the fused engine or Keras's own loop trains, evaluates or predicts, and gives the reason.

Requirements:

* the fused engine is chosen wherever its results mean the same as those of Keras's own loop, and elsewhere that loop,
  with the reason;
* the choice is made before the first step; it may build the model, and leaves it otherwise as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import psutil

from dlf.backend.protocol import EpochRunner
from dlf.backend.registry import current_backend
from dlf.training.engine._preparing import prepared_feed
from dlf.training.engine._refusals import NotFusedError, refuse_steps_per_execution
from dlf.training.engine.feeds import Feed
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["ENGINES", "MEMORY_SHARE", "Plan", "check_engine", "forget_runner", "plan"]

ENGINES = ("auto", "fused", "keras")

MEMORY_SHARE = 0.5
"""The share of the device's free memory that examples may take, by default."""


_log = logging.getLogger("dlf")


@dataclass(frozen=True)
class Plan:
    """The feed for the fused engine, or the reason why Keras's own loop is used.

    Args:
        feed: The batches of each epoch, with the runner of the model's steps; None for Keras's own loop.
        reason: Why Keras's own loop is used; empty if it was asked for, or is not used.
    """

    feed: Feed | None = None
    reason: str = ""


def plan(  # noqa: PLR0913 - as many things decide.
    model: keras.Model,
    data: Any,
    phase: str,
    *,
    engine: str = "auto",
    memory_share: float,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    check: Callable[[], None] = lambda: None,
    instead: str = "Keras's own loop is used",
) -> Plan:
    """Chooses the engine; for the fused one, builds the model if needed and, for training, traces a step.

    Args:
        model: A compiled model, or any to predict with.
        data: Batches.
        phase: ``"train"``, ``"test"`` or ``"predict"``.
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: How much of the device's free memory the examples may take.
        callbacks: The callbacks.
        check: Raises `NotFusedError` if something else in the request needs Keras's own loop.
        instead: What the log says before the reason, if Keras's own loop is used.

    Returns:
        The plan.

    Raises:
        InvalidArgumentError: ``engine="fused"`` for what only Keras's own loop can do.
    """
    if engine == "keras":
        return Plan()
    try:
        runner = runner_of(model)
        check()
        refuse_steps_per_execution(model, callbacks, phase)
        return Plan(prepared_feed(model, data, runner, _memory_for_examples(memory_share), phase))
    except NotFusedError as reason:
        if engine == "fused":
            raise InvalidArgumentError(
                "engine",
                expected="'auto' or 'keras' for this model and these data",
                received="fused",
                advice=f"The reason: {reason}.",
            ) from reason
        _log.warning("dlf: %s, since %s.", instead, reason)
        return Plan(reason=str(reason))


def check_engine(engine: Any, memory_share: Any) -> None:
    """Raises unless the engine exists and the share is a number from 0 to 1.

    Args:
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: A share of the device's free memory.

    Raises:
        InvalidArgumentError: There is no such engine, or the share is not a number from 0 to 1.
    """
    if engine not in ENGINES:
        raise InvalidArgumentError(
            "engine",
            expected=f"one of {', '.join(ENGINES)}",
            received=engine,
            advice=did_you_mean(str(engine), ENGINES),
        )
    if isinstance(memory_share, bool) or not isinstance(memory_share, int | float) or not 0 <= memory_share <= 1:
        raise InvalidArgumentError("memory_share", expected="a number from 0 to 1", received=memory_share)


def _memory_for_examples(memory_share: float) -> int:
    """Returns how many bytes the examples may take on the device."""
    free = current_backend().free_memory()
    return int(memory_share * (psutil.virtual_memory().available if free is None else free))


def runner_of(model: keras.Model) -> EpochRunner:
    """Returns the runner of this model's steps; always the same one until the model is compiled again.

    Args:
        model: A compiled model.

    Returns:
        The runner, with what it has compiled so far.

    Raises:
        NotFusedError: This model's steps can only be run by Keras's own loop.
    """
    if keras.config.max_steps_per_epoch() is not None:
        raise NotFusedError("keras.config.set_max_steps_per_epoch limits the steps")
    if not model.compiled:
        raise NotFusedError("the model is not compiled")
    made_for = (getattr(model, "optimizer", None), getattr(model, "loss", None), *model.metrics)
    known, runner = model.__dict__.get(_ATTRIBUTE, ((), None))
    if runner is None or len(known) != len(made_for) or any(a is not b for a, b in zip(known, made_for, strict=True)):
        if getattr(model, "run_eagerly", False):
            raise NotFusedError("the model is compiled with run_eagerly=True")
        runner = current_backend().epoch_runner(model)
        reason = runner.refusal()
        if reason is not None:
            raise NotFusedError(reason)
        # Kept on the model, so that both are freed together; in `__dict__`, so that Keras does not track it.
        model.__dict__[_ATTRIBUTE] = (made_for, runner)
    found: EpochRunner = runner
    return found


def forget_runner(model: keras.Model) -> None:
    """Removes a model's runner; called after the model was compiled, since a new runner has to be made."""
    model.__dict__.pop(_ATTRIBUTE, None)


_ATTRIBUTE = "_dlf_epoch_runner"
