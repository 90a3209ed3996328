"""Runs work in a process of its own: one backend, one request at a time, and each answer as a line of JSON.

Requirements:

* the parent imports no framework;
* an answer arrives intact, whatever a model or a framework prints meanwhile, from any thread or process;
* the error for a worker that died shows the last lines of its stderr, and a worker that hangs is ended;
* a worker ends when its parent ends, in whatever way.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NoReturn, TextIO

from dlf.utils import errors
from dlf.utils.errors import BackendError, revive
from dlf.utils.interrupts import undone
from dlf.utils.tracebacks import own_traceback

__all__ = [
    "Session",
    "WorkerProgress",
    "cores_of_machine",
    "memory_of_machine",
    "peak_memory",
    "report_progress",
    "run_worker",
    "serve",
]

_LAST_WORDS = 12
"""How many lines of a dead worker's stderr are shown."""
_LOGGED = re.compile(r"[IW]\d{4} \d\d:\d\d:\d\d|WARNING: All log messages before absl::InitializeLog")
"""What TensorFlow logs as information or a warning, which explains no end."""
_CRASHES = {
    int(getattr(signal, name)): name
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")
    if hasattr(signal, name)
}
"""Signals by which a process ends itself, by number: nobody sends them from outside."""
_MARK = "DLF_IS_WORKER"
"""The environment variable that is set in a worker process."""
_START = """
import gc, runpy, sys
from dlf.backend.quick_import import import_keras_quickly
gc.disable()
import_keras_quickly()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module like ``python -m``, but lets it import Keras quickly, and with garbage collection off, since the many
objects that imports make stay: collection takes a fifth of the time to import TensorFlow or PyTorch. `serve` turns it
on again."""


@dataclass(frozen=True)
class WorkerProgress:
    """What a worker is doing.

    Args:
        text: What it is doing.
        done: Which part of it, where it has parts: from 1 to `total`.
        total: How many parts it has.

    Example:
        >>> str(WorkerProgress("layer", 3, 10)), str(WorkerProgress("training in float64"))
        ('layer 3 of 10', 'training in float64')
    """

    text: str
    done: int | None = None
    total: int | None = None

    def __str__(self) -> str:
        return self.text if self.total is None else f"{self.text} {self.done} of {self.total}"


def run_worker(  # noqa: PLR0913 - what a process needs to know.
    module: str,
    request: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    title: str,
    on_progress: Callable[[WorkerProgress], None] = lambda _: None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Starts a worker for one request, and returns its answer.

    Args:
        module: A module that calls `serve` when it is run.
        request: The request, as JSON types.
        environment: The environment variables of the worker.
        title: A name of the worker, for error messages.
        on_progress: Called with each progress that the worker reports.
        timeout: Seconds after which the worker is ended; None waits for ever.

    Raises:
        BackendError: The worker ended without an answer; the message holds the last lines of its stderr.
        DlfError: The worker answered with one of dlf's errors.
    """
    with closing(Session(module, environment, title=title, timeout=timeout)) as worker:
        return worker.ask(request, on_progress)


def cores_of_machine() -> int:
    """Returns how many cores this process may use.

    Example:
        >>> cores_of_machine() > 0
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Not on macOS and Windows.
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_of_machine() -> float:
    """Returns the machine's memory in bytes, or infinity if the system does not report it.

    Example:
        >>> memory_of_machine() > 2**20
        True
    """
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf.
        return math.inf


def peak_memory() -> int:
    """Returns the peak memory of this process so far, in bytes.

    Example:
        >>> peak_memory() > 2**20
        True
    """
    import resource  # Here and not above, since Windows does not have it.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak if sys.platform == "darwin" else peak * 1024


def _check_no_worker() -> None:
    # Each worker imports the user's script. If the script starts a comparison at import, workers would start workers
    # without end.
    if os.environ.get(_MARK):
        raise BackendError(
            "a worker of dlf was asked to start workers: the file that builds the model starts a comparison when it is "
            'imported. Put that under `if __name__ == "__main__":`.'
        )


def _ended(code: int) -> str:
    why = ""
    if code == -signal.SIGKILL:
        # A system that is out of memory kills processes with SIGKILL, which leaves no message on stderr.
        why = " (killed, as where memory runs out)"
    elif -code in _CRASHES:
        why = f" ({_CRASHES[-code]}: a crash in code that is not Python)"
    return f"ended with code {code}{why}"


class Session:
    """A worker that answers one request after the other, until it is closed.

    Args:
        module: A module that calls `serve` when it is run.
        environment: The environment variables of the worker.
        title: A name of the worker, for error messages.
        timeout: Seconds after which a request without an answer ends the worker; None waits for ever.
    """

    def __init__(self, module: str, environment: Mapping[str, str], *, title: str, timeout: float | None) -> None:
        _check_no_worker()
        self._title, self._timeout = title, timeout
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - it lives as long as the worker.
        # The length of stderr at the last answer: what was written before does not explain why the worker ended later.
        self._heard = 0
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

    def ask(
        self, request: Mapping[str, Any], on_progress: Callable[[WorkerProgress], None] = lambda _: None
    ) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
            BackendError: The worker ended, or was ended, without an answer; the message holds what it wrote to stderr
                last.
            DlfError: The worker answered with one of dlf's errors.
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
                pass  # The worker is dead; the error below shows its last lines.
            for line in self._worker.stdout or ():
                message: Any = _message(line)
                if "progress" in message:
                    on_progress(WorkerProgress(**message["progress"]))
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
        """Whether the worker still runs and can be asked."""
        return self._worker.poll() is None

    @property
    def has_crashed(self) -> bool:
        """Whether the worker has ended by a crash of compiled code, such as a framework's."""
        return -(self._worker.poll() or 0) in _CRASHES

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
        said = [line for line in self._stderr.read().strip().splitlines() if not _LOGGED.match(line)]
        return "\n  ".join(said[-_LAST_WORDS:]) or "nothing"


def serve(
    respond: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    once: bool = False,
    explained: Callable[[BaseException], str] = own_traceback,
) -> NoReturn:
    """Answers each request on stdin until the parent is gone; a worker's module calls this when it is run.

    Args:
        respond: Returns the answer to a request.
        once: Whether the worker ends after the first request.
        explained: Says of an unexpected error what the parent is told.
    """
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    stdin = _PIPES.taken()

    def read() -> None:
        for line in stdin:
            requests.put(line)
        os._exit(0)

    gc.freeze()
    gc.enable()
    # In a thread of its own, so that the worker ends with its parent even in the middle of a long request.
    threading.Thread(target=read, daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            said: dict[str, Any] = {"found": respond(dict(request))}
        except errors.DlfError as error:
            said = {"refused": [type(error).__name__, str(error)]}
        except Exception as error:
            if once:
                raise  # The traceback on stderr tells the parent why the worker died.
            # An error of a framework or a model fails this request, but does not end the worker.
            said = {"refused": ["BackendError", f"it failed to {request['do']}:\n{explained(error)}"]}
        _send(said)
        if once:
            # An ordinary exit could hang: threads of TensorFlow, or of an unfinished training, may still be waiting.
            os._exit(0)


def report_progress(text: str, done: int | None = None, total: int | None = None) -> None:
    """Reports to the parent what this worker is doing.

    Args:
        text: What it is doing.
        done: Which part of it, where it has parts: from 1 to `total`.
        total: How many parts it has.
    """
    _send({"progress": asdict(WorkerProgress(text, done, total))})


def _send(message: Mapping[str, Any]) -> None:
    # The first newline ends whatever was printed on stdout before the worker took it.
    _PIPES.write("\n" + json.dumps(message) + "\n")


class _Pipes:
    """The pipes between a worker and its parent: stdin and stdout, which no other code can use after `taken`."""

    def __init__(self) -> None:
        self._stdout: TextIO | None = None
        self._turn = threading.Lock()

    def taken(self) -> TextIO:
        """Takes both pipes away from all other code in this process, C code and child processes included.

        From then on, everything else that is printed is discarded, and stdin is empty.

        Returns:
            The pipe that was stdin.
        """
        stdin, self._stdout = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
        for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            nothing = os.open(os.devnull, mode)
            os.dup2(nothing, descriptor)
            os.close(nothing)
        return stdin

    def write(self, text: str) -> None:
        """Writes a text to the parent, undivided by the writes of other threads."""
        with self._turn:
            stdout = self._stdout or sys.stdout
            stdout.write(text)
            stdout.flush()


_PIPES = _Pipes()


def _end(worker: subprocess.Popen[str]) -> None:
    """Kills a worker and waits until it is gone.

    Not with `Popen.wait`, whose lock the interrupted thread may hold when this runs in a signal handler.
    """
    worker.kill()
    with suppress(ChildProcessError):
        os.waitpid(worker.pid, 0)


def _message(line: str) -> dict[str, Any]:
    """Returns the message in a line of the worker's output, or an empty dictionary if the line is no message."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
