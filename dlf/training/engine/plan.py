"""How a training, an evaluation or a prediction is run: by the fused engine, or by Keras's own loop, and why.

What is asked of it:

* the fused engine wherever it means the same as Keras's own loop, and that loop with its reason elsewhere;
* the choice is made before the first step, and leaves the model as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import psutil

from dlf.backend.keras_internals import build_for, builds_while_tracing, call_symbolically, waits_for_a_batch
from dlf.backend.protocol import EpochRunner
from dlf.backend.registry import current_backend
from dlf.training.engine._batch_hooks import watchers
from dlf.training.engine.feeds import Feed, NotFusedError, Piece, Resident, find_feed
from dlf.training.engine.python_state import leaving_no_trace
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["ENGINES", "MEMORY_SHARE", "Plan", "check_engine", "forget_runner", "plan", "refuse_steps_per_execution"]

ENGINES = ("auto", "fused", "keras")

MEMORY_SHARE = 0.5
"""Of the memory that is free on the device, what examples may take there."""


_log = logging.getLogger("dlf")


@dataclass(frozen=True)
class Plan:
    """What the fused engine reads, and runs steps on; or why Keras's own loop has to do it.

    Args:
        feed: The batches of each epoch, with what runs the model's steps; None where it is Keras's own loop.
        reason: Why it is that; empty where it was asked for.
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
    """Decides how batches are run; builds the model for them, and traces a step where it is trained.

    Args:
        model: A compiled model, or any to predict with.
        data: Batches.
        phase: ``"train"``, ``"test"`` or ``"predict"``.
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: How much of the device's free memory the examples may take.
        callbacks: The callbacks.
        check: Raises `NotFusedError` where what else was asked for is Keras's alone.
        instead: What is said where it is Keras's own loop, before the reason.

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
        return Plan(_find_feed(model, data, runner, _find_room(memory_share), phase))
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
    """Raises unless there is such an engine, and the share lies from 0 to 1.

    Args:
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: A part of the free memory.

    Raises:
        InvalidArgumentError: The engine is another, or the share is not a number from 0 to 1.
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


def _find_room(memory_share: float) -> int:
    """The bytes that examples may take on the device."""
    free = current_backend().free_memory()
    return int(memory_share * (psutil.virtual_memory().available if free is None else free))


def runner_of(model: keras.Model) -> EpochRunner:
    """Returns what runs this model's steps; the same as long as the model is not compiled anew.

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
        # On the model, and past Keras's tracking of attributes: both go together.
        model.__dict__[_ATTRIBUTE] = (made_for, runner)
    found: EpochRunner = runner
    return found


def refuse_steps_per_execution(model: keras.Model, callbacks: Iterable[keras.callbacks.Callback], phase: str) -> None:
    """Raises where a model is to run several steps in one call, and that shows.

    Args:
        model: A compiled model.
        callbacks: The callbacks.
        phase: ``"train"``, ``"test"`` or ``"predict"``.

    Raises:
        NotFusedError: Keras refuses it, or a callback sees after how many steps Keras looks.
    """
    steps = getattr(model, "steps_per_execution", 1)
    if steps > 1 and (keras.config.backend() == "torch" or watchers(callbacks, phase)):
        raise NotFusedError(f"the model is compiled with steps_per_execution={steps}")


def forget_runner(model: keras.Model) -> None:
    """Called where a model was compiled: what runs its steps has to be made anew."""
    model.__dict__.pop(_ATTRIBUTE, None)


_ATTRIBUTE = "_dlf_epoch_runner"


def _find_feed(model: keras.Model, data: Any, runner: EpochRunner, room: int, phase: str) -> Feed:
    """The feed of these data, once the model is built for them."""
    feed = find_feed(data, runner, room)
    builds = waits_for_a_batch(model, compiled=phase != "predict")
    feed.look(builds=builds)
    if phase == "train" or builds or isinstance(feed, Resident):
        feed, piece = _sampled(feed, runner)
        if phase == "train" or builds:
            _build(model, piece, runner, phase)
    return feed


def _sampled(feed: Feed, runner: EpochRunner) -> tuple[Feed, Piece]:
    """A piece with the first batch, and the feed: one that needs less memory where the device has none left."""
    try:
        piece = feed.sample()
    except Exception as error:
        smaller = feed.without_room() if runner.is_out_of_memory(error) else None
        if smaller is None:
            raise
        feed, piece = smaller, smaller.sample()
    if piece is None:
        raise NotFusedError("there is no batch")
    return feed, piece


def _build(model: keras.Model, piece: Piece, runner: EpochRunner, phase: str) -> None:
    """Makes the model's variables and, where it is trained, traces a step."""
    batch = keras.tree.map_structure(lambda array: array[: piece.rows.shape[1]], piece.data)
    # Where Keras builds at this place, what that raises is raised.
    is_keras_s = phase != "predict" and keras.config.backend() != "tensorflow"
    if is_keras_s:
        build_for(model, batch, runner.begin_reading)
    try:
        if not is_keras_s:
            if phase == "train" and builds_while_tracing(model):
                # What a call draws or counts has to be seen before: afterwards Keras would trace more or less often.
                leaving_no_trace(model, lambda: call_symbolically(model, batch))
            build_for(model, batch, runner.begin_reading)
        if phase == "train":
            runner.trace(piece.data, piece.rows)
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0][:200]
        raise NotFusedError(f"the step cannot be traced ({type(error).__name__}: {message})") from error
