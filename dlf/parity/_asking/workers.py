"""The worker processes of a comparison: one for each backend, kept for as many comparisons as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from dlf.backend.registry import load_backend
from dlf.backend.report import backend_environment
from dlf.utils.workers import Session, cores_of_machine

__all__ = ["Workers"]


class Workers:
    """One worker process for each backend.

    Args:
        backends: Their names.
        device: ``"cpu"`` hides GPUs from them.
        timeout: Seconds after which a request without an answer ends a worker.
    """

    def __init__(self, backends: Sequence[str], device: str | None = None, timeout: float = 600.0) -> None:
        self._device, self._timeout = device, timeout
        # Workers run in parallel: threads of one that wait actively would take the cores from the others.
        self._threads = max(1, cores_of_machine() // max(1, len(backends)))
        self.sessions = {name: self._start(name) for name in backends}

    def _start(self, name: str) -> Session:
        backend = load_backend(name)
        # A script that draws when it is imported must not wait for somebody to close its window.
        shared = {"OMP_NUM_THREADS": str(self._threads), "MPLBACKEND": "Agg"}
        environment = shared | backend_environment(backend)
        if self._device == "cpu":
            environment |= backend.cpu_environment()
        return Session("dlf.parity._recording.worker", environment, title=name, timeout=self._timeout)

    def revive(self) -> None:
        """Restarts the workers that have ended since."""
        for name, session in self.sessions.items():
            if not session.is_alive:
                session.close()
                self.sessions[name] = self._start(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        for session in self.sessions.values():
            session.close()
