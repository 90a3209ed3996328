"""Makes the feed for a model, and the model ready for its steps.

Requirements:

* the model is built from the first batch where Keras would build it, and a training step is traced;
* examples that turn out not to fit on the device are fed in blocks instead.
"""

from __future__ import annotations

from typing import Any

import keras

from dlf.backend.keras_internals import build_for, builds_while_tracing, call_symbolically, waits_for_a_batch
from dlf.backend.protocol import EpochRunner
from dlf.training.engine._refusals import NotFusedError
from dlf.training.engine.feeds import Feed, Piece, Resident, find_feed
from dlf.training.engine.python_state import leaving_no_trace

__all__ = ["prepared_feed"]


def prepared_feed(model: keras.Model, data: Any, runner: EpochRunner, room: int, phase: str) -> Feed:
    """Returns the feed for these data, after building the model for them if needed.

    Args:
        model: A compiled model, or any to predict with.
        data: Batches.
        runner: Runs the model's steps.
        room: The bytes that the examples may take on the device.
        phase: ``"train"``, ``"test"`` or ``"predict"``.

    Raises:
        NotFusedError: Only Keras's own loop can read these data, or take this step.
    """
    builds = waits_for_a_batch(model, compiled=phase != "predict")
    feed = find_feed(data, runner, room)
    feed.look(builds=builds)
    if phase == "train" or builds or isinstance(feed, Resident):
        feed, piece = feed.sampled()
        if phase == "train" or builds:
            _build(model, piece, runner, phase)
    return feed


def _build(model: keras.Model, piece: Piece, runner: EpochRunner, phase: str) -> None:
    """Creates the model's variables and, for training, traces a step."""
    batch = keras.tree.map_structure(lambda array: array[: piece.rows.shape[1]], piece.data)
    # Where Keras itself builds the model at this point, an error of the build is raised as it is.
    is_keras_s = phase != "predict" and keras.config.backend() != "tensorflow"
    if is_keras_s:
        build_for(model, batch, runner.begin_reading)
    try:
        if not is_keras_s:
            if phase == "train" and builds_while_tracing(model):
                # Side effects of a call must be found before the build: after it, Keras would trace more or less often.
                leaving_no_trace(model, lambda: call_symbolically(model, batch))
            build_for(model, batch, runner.begin_reading)
        if phase == "train":
            runner.trace(piece.data, piece.rows)
    except Exception as error:
        message = (str(error).strip().splitlines() or [""])[0][:200]
        raise NotFusedError(f"the step cannot be traced ({type(error).__name__}: {message})") from error
