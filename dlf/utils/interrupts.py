"""Ctrl-C that is deferred to a good moment, and clean-up that also runs when a signal ends the process at once."""

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
    """Calls `undo` when the context ends, or earlier if a signal handler calls `undo_all` to end the process.

    Args:
        undo: A function that ends a worker or removes a folder, say; it may be called in a signal handler.

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
    """Calls `undo` of every open `undone` context, the last first: workers end before their folders are removed."""
    for undo in reversed(_UNDO):
        with suppress(Exception):
            undo()


@dataclass
class Interrupt:
    """Tells, in `pressed`, whether Ctrl-C was pressed."""

    pressed: bool = False


@contextmanager
def deferred_interrupt(remark: str, on_press: Callable[[], None] = lambda: None) -> Iterator[Interrupt]:
    """Records the first Ctrl-C instead of raising `KeyboardInterrupt`; a second one acts as without this context.

    Args:
        remark: What is being finished, for the line that the first Ctrl-C prints on stderr.
        on_press: Called at the first Ctrl-C, inside the signal handler; it can ask the work to end early.

    Yields:
        An `Interrupt`. The caller has to check it, and to raise an error at the right moment.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # Python delivers signals to the main thread alone.
        return
    before = signal.getsignal(signal.SIGINT)
    note = _Note(remark, on_press, interrupt, before.original if isinstance(before, _Note) else before)
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        # After the first Ctrl-C, the original handler stays in place, also inside an outer deferral.
        if not interrupt.pressed or not isinstance(before, _Note):
            signal.signal(signal.SIGINT, before)


@dataclass
class _Note:
    remark: str
    on_press: Callable[[], None]
    interrupt: Interrupt
    original: Any
    """The handler of Ctrl-C before the outermost deferral."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.interrupt.pressed = True
        signal.signal(signal.SIGINT, self.original)
        print(f"\n{self.remark}; press Ctrl-C again to stop at once.", file=sys.stderr)
        self.on_press()
