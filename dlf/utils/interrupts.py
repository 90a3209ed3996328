"""Ctrl-C that waits for a good moment, and what has to go where the process is ended at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "deferred_interrupt", "undo_all", "undone"]

_UNDO: list[Callable[[], object]] = []


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` at the end, also where a signal handler ends the process at once, by way of `undo_all`.

    Args:
        undo: Ends a worker or removes a folder; it may be called in a signal handler.

    Example:
        >>> with undone(lambda: print("gone")):
        ...     print("there")
        there
        gone
    """
    _UNDO.append(undo)
    try:
        yield
    finally:
        try:
            undo()
        finally:
            _UNDO.remove(undo)


def undo_all() -> None:
    """Undoes what is inside `undone` now, the last first: workers end before the folder that they write to goes."""
    for undo in reversed(_UNDO):
        with suppress(Exception):
            undo()


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed: bool = False


@contextmanager
def deferred_interrupt(remark: str, on_press: Callable[[], None] = lambda: None) -> Iterator[Interrupt]:
    """Notes the first Ctrl-C instead of raising `KeyboardInterrupt`; the second does what it did before.

    Args:
        remark: What is being finished, for the one line on stderr.
        on_press: Called at the first Ctrl-C, in a signal handler: to ask for an early end.

    Yields:
        Whether it was pressed; it is for the caller to raise once the good moment has come.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # Python hands signals to the main thread alone.
        return
    before = signal.getsignal(signal.SIGINT)
    note = _Note(remark, on_press, interrupt, before.original if isinstance(before, _Note) else before)
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        # Once pressed, Ctrl-C stays what it was at first, also for a deferral around this one.
        if not interrupt.pressed or not isinstance(before, _Note):
            signal.signal(signal.SIGINT, before)


@dataclass
class _Note:
    remark: str
    on_press: Callable[[], None]
    interrupt: Interrupt
    original: Any
    """What Ctrl-C did before the outermost deferral."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.interrupt.pressed = True
        signal.signal(signal.SIGINT, self.original)
        print(f"\n{self.remark}; press Ctrl-C again to stop at once.", file=sys.stderr)
        self.on_press()
