"""Work in a process of its own: one backend, one job, its answer as a line of JSON.

Requirements:

* the parent imports no framework;
* an answer arrives whole, whatever a model or a framework prints meanwhile, from whichever thread or process;
* a worker that dies is reported with its last words, and one that hangs is ended;
* a worker ends when its parent does, however that ends.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any, NoReturn, TextIO

from dlf.utils import errors
from dlf.utils.errors import BackendError, revive
from dlf.utils.interrupts import undone
from dlf.utils.tracebacks import own_traceback

__all__ = [
    "Session",
    "cores_of_machine",
    "memory_of_machine",
    "peak_memory",
    "run_worker",
    "say",
    "serve",
]

_LAST_WORDS = 12
"""Lines of a dead worker's stderr that are shown."""
_MARK = "DLF_IS_WORKER"
"""Tells a process that it is one."""
_START = """
import gc, runpy, sys
gc.disable()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module like ``python -m``, but looks for no garbage among the many objects that imports make, which all stay:
that takes a fifth of the time that importing TensorFlow or PyTorch takes. `serve` looks again."""


def run_worker(  # noqa: PLR0913 - what a process needs to know.
    module: str,
    request: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    title: str,
    tell: Callable[[str], None] = lambda _: None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Starts a worker for one request, and returns what it answered.

    Args:
        module: A module that calls `serve` when it is run, for one request.
        request: What is asked of it, in JSON's types.
        environment: What it starts with.
        title: What the caller calls it.
        tell: Is told what the worker says that it is doing.
        timeout: Seconds after which it is ended.

    Raises:
        BackendError: It ended without an answer; the message holds its last words.
        DlfError: What the worker raised of dlf's own errors.
    """
    with closing(Session(module, environment, title=title, timeout=timeout)) as worker:
        return worker.ask(request, tell)


def cores_of_machine() -> int:
    """Returns how many cores this process may compute on.

    Example:
        >>> cores_of_machine() > 0
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Of Linux alone.
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_of_machine() -> float:
    """Returns the bytes of memory that there are, or infinity where the system does not say.

    Example:
        >>> memory_of_machine() > 2**20
        True
    """
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf.
        return math.inf


def peak_memory() -> int:
    """Returns the most memory that this process has held, in bytes.

    Example:
        >>> peak_memory() > 2**20
        True
    """
    import resource  # Which Windows does not have.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak if sys.platform == "darwin" else peak * 1024


def _check_no_worker() -> None:
    # A script that compares what it builds is imported by each worker, which would start workers without end.
    if os.environ.get(_MARK):
        raise BackendError(
            "a worker of dlf was asked to start workers: the file that builds the model starts a comparison when it is "
            'imported. Put that under `if __name__ == "__main__":`.'
        )


def _ended(code: int) -> str:
    # The system's own way to get memory back, which leaves no words of it.
    why = " (killed, as where memory runs out)" if code == -signal.SIGKILL else ""
    return f"ended with code {code}{why}"


class Session:
    """A worker that answers one request after the other, until it is closed.

    Args:
        module: A module that calls `serve` when it is run.
        environment: What it starts with.
        title: What the caller calls it.
        timeout: Seconds after which a request without an answer ends the worker; None waits for ever.
    """

    def __init__(self, module: str, environment: Mapping[str, str], *, title: str, timeout: float | None) -> None:
        _check_no_worker()
        self._title, self._timeout = title, timeout
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - it lives as long as the worker.
        self._heard = 0  # Of stderr, up to the last answer: what was said of that is no reason of what ends the next.
        self._worker = subprocess.Popen(
            [sys.executable, "-c", _START, module],
            env={**environment, _MARK: "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            errors="replace",
        )
        self._undone = ExitStack()
        self._undone.enter_context(undone(partial(_end, self._worker)))

    def ask(self, request: Mapping[str, Any], tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
            BackendError: The worker ended, or was ended, without one; the message holds its last words.
            DlfError: What the worker raised of dlf's own errors.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self._worker.kill()

        clock = threading.Timer(self._timeout or 0, end)
        if self._timeout is not None:
            clock.start()
        try:
            try:
                self._worker.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]  # It is a pipe.
                self._worker.stdin.flush()  # type: ignore[union-attr]
            except OSError:
                pass  # It is dead; its last words say why.
            for line in self._worker.stdout or ():
                message: Any = _message(line)
                if "doing" in message:
                    tell(message["doing"])
                if "refused" in message or "found" in message:
                    self._heard = os.fstat(self._stderr.fileno()).st_size
                if "refused" in message:
                    kind, text = message["refused"]
                    raise revive(getattr(errors, kind, errors.DlfError), text, {})
                if "found" in message:
                    found: dict[str, Any] = message["found"]
                    return found
        finally:
            clock.cancel()
        how = f"was ended after {self._timeout:.0f} s (see --timeout)" if late.is_set() else _ended(self._worker.wait())
        raise BackendError(f"the worker of {self._title} {how}, and said at last:\n  {self._last_words()}")

    @property
    def is_alive(self) -> bool:
        """Whether the worker can be asked."""
        return self._worker.poll() is None

    def close(self) -> None:
        """Ends the worker."""
        self._undone.close()
        self._worker.wait()
        for pipe in (self._worker.stdin, self._worker.stdout, self._stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _last_words(self) -> str:
        self._worker.wait()
        self._stderr.seek(self._heard)
        return "\n  ".join(self._stderr.read().strip().splitlines()[-_LAST_WORDS:]) or "nothing"


def serve(respond: Callable[[dict[str, Any]], dict[str, Any]], *, once: bool = False) -> NoReturn:
    """What a worker's module does when it is run: answers each line of stdin, until its parent is gone.

    Args:
        respond: Makes the answer to a request.
        once: Whether it ends after the first.
    """
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    stdin = _PIPES.taken()

    def read() -> None:
        for line in stdin:
            requests.put(line)
        os._exit(0)

    gc.freeze()
    gc.enable()
    # In a thread of its own, which sees that the parent is gone also in the midst of a long request.
    threading.Thread(target=read, daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            said: dict[str, Any] = {"found": respond(dict(request))}
        except errors.DlfError as error:
            said = {"refused": [type(error).__name__, str(error)]}
        except Exception as error:
            if once:
                raise  # Its last words say why it died.
            # What a framework or a model raises costs this answer, and not the worker.
            said = {"refused": ["BackendError", f"it failed to {request['do']}:\n{own_traceback(error)}"]}
        _tell(said)
        if once:
            # Threads of a training that still waits, and of TensorFlow, make an orderly end a matter of luck.
            os._exit(0)


def say(text: str) -> None:
    """Tells the parent what this worker is doing."""
    _tell({"doing": text})


def _tell(message: Mapping[str, Any]) -> None:
    # On a line of its own, whatever was printed on stdout before a worker took it.
    _PIPES.write("\n" + json.dumps(message) + "\n")


class _Pipes:
    """The pipes between a worker and its parent: its stdin and stdout, which are nobody else's once they are taken."""

    def __init__(self) -> None:
        self._stdout: TextIO | None = None
        self._turn = threading.Lock()

    def taken(self) -> TextIO:
        """Takes both from whatever runs in this process, from C and in its children too, and returns stdin.

        What is printed from then on goes nowhere, and nothing is there to be read.
        """
        stdin, self._stdout = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
        for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            nothing = os.open(os.devnull, mode)
            os.dup2(nothing, descriptor)
            os.close(nothing)
        return stdin

    def write(self, text: str) -> None:
        """Writes a text to stdout, in one piece."""
        with self._turn:
            stdout = self._stdout or sys.stdout
            stdout.write(text)
            stdout.flush()


_PIPES = _Pipes()


def _end(worker: subprocess.Popen[str]) -> None:
    """Ends a worker, and waits until it is gone; not by `Popen.wait`, whose lock a signal handler may not take."""
    worker.kill()
    with suppress(ChildProcessError):
        os.waitpid(worker.pid, 0)


def _message(line: str) -> dict[str, Any]:
    """A line of the worker's; whatever a framework prints among them is none."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
