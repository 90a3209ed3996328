"""Keeps the recordings of a step on PyTorch, and chooses the one that is valid for the present state of Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import torch

from dlf.training.engine.places import Settings
from dlf.training.engine.python_state import PythonState, UnseenStateError
from dlf_torch.recording import NotRecordedError, OtherNumbersError, Recording, record, try_beside

__all__ = ["Followed"]

_log = logging.getLogger("dlf")


class Followed:
    """One kind of step on batches of one shape, and its recordings.

    A recording is valid while Python's objects around the model are as they were when it was made.

    Args:
        model: A built model.
        kind: ``"train_step"``, ``"test_step"`` or ``"predict_step"``.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        self._model, self._kind = model, kind
        self._known: list[_Known] = []
        self._refusal = ""

    def now(self) -> _Known | None:
        """Returns the entry of the step for Python's present state, or None if the step is left to Keras."""
        found = next((each for each in self._known if not each.state.changed()), None)
        if found is not None or self._refusal:
            return found
        if len(self._known) == _MOST_STATES:
            changed = self._known[-1].state.changed()
            # A state without a recording costs a comparison at each call, and will hardly return.
            self._known = [each for each in self._known if each.recording is not None]
            return self._leave(f"{changed} changes again and again")
        try:
            state = PythonState(self._model, Settings("a setting of PyTorch", _settings))
        except UnseenStateError as error:
            return self._leave(str(error))
        if state.array_bytes > _MOST_BYTES:
            return self._leave("it reaches arrays of NumPy that are too large to be looked at again and again")
        self._known.append(_Known(state))
        return self._known[-1]

    def record(self, known: _Known, batch: Any, step: Callable[[], Any]) -> Any:
        """Runs a step as Keras does, records it if that is possible, and returns the step's result.

        Args:
            known: The entry that `now` returned.
            batch: The batch of the step.
            step: A function that runs the step.
        """
        try:
            recording = record(self._model, self._kind, batch)
        except NotRecordedError as error:
            known.is_refused = True
            self._say(str(error))
            return step()
        try:
            result = try_beside(recording, self._model, step, batch)
        except OtherNumbersError as error:
            known.is_refused = True
            self._say(str(error))
            return error.result
        known.recording = recording
        return result

    def _leave(self, reason: str) -> _Known | None:
        self._refusal = reason
        self._say(reason)
        return None

    def _say(self, reason: str) -> None:
        _log.info("dlf: each %s is run as Keras runs it, since it cannot be recorded: %s.", self._kind, reason)


class _Known:
    """A state of Python, with the number of runs of the step in this state and its recording."""

    def __init__(self, state: PythonState) -> None:
        self.state = state
        self.runs = 0
        self.is_refused = False
        self.recording: Recording | None = None


_MOST_STATES = 8
"""The most states for which a step is kept; with more, as for a rate that changes in every epoch, Keras runs it."""

_MOST_BYTES = 2**22


def _settings() -> tuple[Any, ...]:
    """Returns the settings that decide which PyTorch operations a step runs."""
    kinds = ("cpu", "cuda")
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.mkldnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        *(torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in kinds),
        keras.config.is_flash_attention_enabled(),
    )
