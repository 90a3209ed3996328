"""Which engine runs a training, and why.

What is asked of it:

* the fused engine wherever it means the same as Keras's own loop, and that loop with its reason elsewhere;
* the choice is made before the first step, and leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import psutil

from dlf.backend.keras_internals import build_for, builds_while_tracing, call_symbolically, waits_for_a_batch
from dlf.backend.protocol import EpochRunner
from dlf.backend.registry import current_backend
from dlf.training.engine._batch_hooks import watchers
from dlf.training.engine.feeds import Feed, NotFedError, Piece, Resident, check_readable, find_feed
from dlf.training.engine.python_state import leaving_no_trace
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = [
    "ENGINES",
    "MEMORY_SHARE",
    "NotFusedError",
    "check_engine",
    "find_room",
    "forget_runner",
    "fused_feed",
    "not_fused_here",
    "refuse_steps_per_execution",
    "refuse_unless_fed",
    "runner_of",
]

ENGINES = ("auto", "fused", "keras")

MEMORY_SHARE = 0.5
"""Of the memory that is free on the device, what examples may take there."""


class NotFusedError(Exception):
    """Only Keras's own loop can do this; the message says why."""


def not_fused_here(reason: NotFusedError) -> InvalidArgumentError:
    """Returns the error for somebody who asked for the fused engine and no other."""
    return InvalidArgumentError(
        "engine",
        expected="'auto' or 'keras' for this model and these data",
        received="fused",
        advice=f"The reason: {reason}.",
    )


def check_engine(engine: Any, memory_share: Any) -> None:
    """Raises unless there is such an engine, and the share lies between 0 and 1.

    Args:
        engine: ``"auto"``, ``"fused"`` or ``"keras"``.
        memory_share: A part of the free memory.

    Raises:
        InvalidArgumentError: There is none, or it does not.
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


def find_room(memory_share: float) -> int:
    """Returns the bytes that examples may take on the device."""
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


def refuse_unless_fed(data: Any) -> None:
    """Raises where the fused engine cannot read batches that somebody makes.

    Args:
        data: Anything that Keras's `fit` takes.

    Raises:
        NotFusedError: It cannot.
    """
    try:
        check_readable(data)
    except NotFedError as error:
        raise NotFusedError(str(error)) from error


def refuse_steps_per_execution(model: keras.Model, callbacks: Iterable[keras.callbacks.Callback], phase: str) -> None:
    """Raises where a model is to run several steps in one call, and that shows.

    Args:
        model: A compiled model.
        callbacks: The callbacks.
        phase: ``"train"`` or ``"test"``.

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


def fused_feed(model: keras.Model, data: Any, runner: EpochRunner, room: int, phase: str) -> Feed:
    """Finds how to feed the data, builds the model for them, and traces a step where it is trained.

    Args:
        model: A compiled model.
        data: Batches.
        runner: What runs its steps.
        room: The bytes that the examples may take on the device.
        phase: ``"train"``, ``"test"`` or ``"predict"``.

    Returns:
        The feed.

    Raises:
        NotFusedError: Only Keras's own loop can do this.
    """
    try:
        feed = find_feed(data, runner, room)
        builds = waits_for_a_batch(model, compiled=phase != "predict")
        feed.look(builds=builds)
        if phase == "train" or builds or isinstance(feed, Resident):
            feed, piece = _sampled(feed, runner)
            if phase == "train" or builds:
                _build(model, piece, runner, phase)
    except NotFedError as error:
        raise NotFusedError(str(error)) from error
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
