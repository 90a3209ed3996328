"""One long `fit` that waits for its turn before each epoch.

Requirements:

* an epoch takes as long as in the middle of a `fit`: nothing is compiled or set up again at each turn;
* only one training computes at a time: the thread of a `fit` waits while another has its turn, and what it has changed
  for the whole process, such as where Keras's random numbers come from, is undone during that time;
* an error inside `fit` is raised by the call that gave it the turn.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import keras

__all__ = ["Turns"]


class Turns:
    """Runs `fit` in a thread of its own, one epoch for each call of `epoch`.

    Args:
        fit: Trains with the callback that it is given, until the callback ends the training.
        context: Returns the context manager in which `fit` trains.
    """

    def __init__(
        self,
        fit: Callable[[keras.callbacks.Callback], Any],
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._fit, self._context = fit, context
        self._turns: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        # A daemon thread: the process must not wait for an endless training when it exits.
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()
        self._wait()

    def epoch(self) -> None:
        """Trains for one epoch; returns when the next one is about to begin."""
        self._turns.put(True)
        self._wait()

    def close(self) -> None:
        """Ends the training before its next epoch."""
        self._turns.put(False)
        self._thread.join()

    def hand_over(self, inside: ExitStack) -> None:
        """Called by the thread: leaves the context, waits for the next turn, and enters the context again."""
        inside.close()
        self._answers.put(None)
        if not self._turns.get():
            raise _Over
        inside.enter_context(self._context())

    def _wait(self) -> None:
        error = self._answers.get()
        if error is not None:
            raise error

    def _train(self) -> None:
        try:
            with ExitStack() as inside:
                inside.enter_context(self._context())
                self._fit(_Stops(self, inside))
        except _Over:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the turn was given.
            self._answers.put(error)


class _Over(BaseException):
    """Ends a `fit`; not an `Exception`, so that nothing handles it as an error."""


class _Stops(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Gives the turn back before each epoch, including the first."""

    def __init__(self, turns: Turns, inside: ExitStack) -> None:
        super().__init__()
        self._turns, self._inside = turns, inside

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        torch = sys.modules.get("torch")
        if keras.config.backend() == "torch" and torch is not None and torch.cuda.is_available():
            # On the other backends, reading the epoch's metrics has waited for the device already.
            torch.cuda.synchronize()
        self._turns.hand_over(self._inside)
