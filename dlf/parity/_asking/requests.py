"""Asks the workers of one comparison, in parallel, and keeps what all its parts need to know of them.

Requirements:

* a backend that fails is left out from then on, with its error, and the others are compared without it;
* workers start at once, share the cores, and wait for one another only where memory is short.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlf.parity._answers import BuildAnswer
from dlf.parity._asking.workers import Workers
from dlf.parity._records import Records
from dlf.parity.evidence import last_line
from dlf.parity.options import ParityOptions
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError, OutputError, revive
from dlf.utils.workers import WorkerProgress, memory_of_machine

__all__ = ["OnProgress", "Requests", "TruthLostError"]

BYTES = 3 * (4 + 8)
"""Bytes that a worker needs for each element of a variable: value, gradient and a copy, in model and reference."""
OnProgress = Callable[[str, WorkerProgress], None]


class TruthLostError(Exception):
    """The backend that is taken for the truth has failed."""


class Requests:
    """The requests of one comparison, and the backends that still answer them.

    Args:
        options: What is compared.
        folder: Where the workers write their records.
        workers: Running workers.
        on_progress: Called with a backend's name and what it is doing.

    Attributes:
        built: What each backend has answered on building the model.
        failed: The errors of the backends that have failed.
        truth: The backend whose numbers the others are given, once it is chosen.
        by_keras_alone: For backends that have failed, whether Keras comes through there by itself.
    """

    def __init__(self, options: ParityOptions, folder: Path, workers: Workers, on_progress: OnProgress) -> None:
        self.options, self.folder = options, folder
        self.built: dict[str, BuildAnswer] = {}
        self.failed: dict[str, DlfError] = {}
        self.truth: str | None = None
        self.by_keras_alone: dict[str, bool] = {}
        self._workers, self._on_progress = workers, on_progress
        self._built_by: dict[str, Mapping[str, Any]] = {}
        workers.revive()

    @property
    def backends(self) -> list[str]:
        """All backends, also those that have failed."""
        return list(self._workers.sessions)

    def alive(self, names: Any) -> list[str]:
        """Those of the backends that have not failed."""
        return [name for name in names if name not in self.failed]

    def build(self, names: Any, **more: str) -> None:
        """Builds the model on backends, and keeps what they answer.

        Args:
            names: The backends to ask.
            more: Further arguments of the worker's `build`.
        """
        request = {"do": "build", "options": asdict(self.options), **more}
        self._built_by |= dict.fromkeys(names, request)
        built = self.built | self.ask(request, names, of_all=True)
        self.built = {name: built[name] for name in self.backends if name in built}

    def ask(
        self,
        request: Mapping[str, Any],
        names: Any,
        *,
        to: str | None = None,
        leader: str | None = None,
        of_all: bool = False,
    ) -> dict[str, Any]:
        """Asks the workers in parallel, as far as memory allows; one that fails is left out from then on.

        Args:
            request: The request to each.
            names: The backends to ask.
            to: The name of the folder for their records.
            leader: The backend that replays from perturbed inputs too.
            of_all: Whether to go on where too few are left for a comparison.
        """
        answers: dict[str, Any] = {}
        failed: dict[str, DlfError] = {}
        alive = self.alive(names)

        def ask(name: str) -> None:
            own = dict(request)
            if to is not None:
                own["to"] = str(self.at(to, name))
            if leader is not None:
                own["perturb"] = name == leader
            try:
                answers[name] = self._workers.sessions[name].ask(
                    own, lambda progress: self._on_progress(name, progress)
                )
            except DlfError as error:
                failed[name] = error

        with ThreadPoolExecutor(self._at_once(len(alive))) as pool:
            try:
                list(pool.map(ask, alive))
            except BaseException:
                # The pool waits for its threads, and these wait for the workers.
                self._workers.close()
                raise
        # In the order of the backends, and not of failing: the first one's error may be the only one that is reported.
        self.failed |= {name: failed[name] for name in alive if name in failed}
        for error in self.failed.values():
            if isinstance(error, OutputError):
                raise error  # All backends write to one folder.
        if not of_all:
            self.check_enough()
        if self.truth in self.failed:
            raise TruthLostError
        return {name: answers[name] for name in alive if name in answers}

    def _at_once(self, count: int) -> int:
        """How many workers run at a time: one, where the variables of all together would not fit into memory."""
        variables = next(iter(self.built.values()))["variables"] if self.built else []
        elements = sum(math.prod(each["shape"]) for each in variables)
        return max(1, count) if count * BYTES * elements < memory_of_machine() else 1

    def file(self, name: str) -> str:
        """Creates a file in the folder and returns its path; an error where it exists: another run writes there."""
        file = self.folder / name
        try:
            file.touch(exist_ok=False)
        except FileExistsError as error:
            raise InvalidArgumentError(
                "--keep",
                expected="a folder that no other run has",
                received=str(self.folder),
                advice="Name another one.",
            ) from error
        except OSError as error:
            raise OutputError(f"{file}: cannot be written ({error.strerror or error}). Name another folder.") from error
        return str(file)

    def at(self, what: str, backend: str) -> Path:
        """Where a backend writes its records of something."""
        return self.folder / what / backend

    def records(self, what: str) -> dict[str, Records]:
        """The records of something, of each backend that has not failed."""
        return {name: Records(self.at(what, name)) for name in self.alive(self.built)}

    def begin_again(self) -> None:
        """Makes a new folder for records, and gives up the truth."""
        self.folder, self.truth = self.folder / "again", None
        self.folder.mkdir()

    def ask_keras(self, errors: Mapping[str, DlfError]) -> None:
        """Adds to the errors of backends that failed whether Keras comes through there by itself, once for each.

        A worker that has crashed is started again for it; one that was killed, or took too long, would be again.
        """
        sessions = self._workers.sessions
        names = [name for name in errors if name in self.built and name not in self.by_keras_alone]
        crashed = [name for name in names if sessions[name].has_crashed]
        names = [name for name in names if name in crashed or sessions[name].is_alive]
        if not names:
            return
        self.by_keras_alone |= dict.fromkeys(names, False)
        failed, truth, found = self.failed, self.truth, {}
        self.failed, self.truth = {}, None
        if crashed:
            self._workers.revive()
        for name in crashed:
            self.ask(self._built_by[name], [name], of_all=True)
        found = self.ask({"do": "by_keras_alone"}, names, of_all=True)
        found |= {name: {"error": str(each)} for name, each in self.failed.items() if name in crashed}
        self.failed, self.truth = failed, truth
        for name, each in found.items():
            self.by_keras_alone[name] = each["error"] is None
            if each["error"] is None:
                said = "Keras by itself comes through there: what fails is the comparison."
            elif _is_same_error(each["error"], str(failed[name])):
                said = "Keras by itself ends with the same there."
            else:
                said = f"Keras by itself does not come through there:\n{each['error']}"
            self.failed[name] = revive(type(failed[name]), f"{failed[name]}\n{said}", {})

    def was_ended(self, name: str) -> bool:
        """Whether a backend's worker has ended, and not by a crash: as where memory or time ran out."""
        session = self._workers.sessions[name]
        return not session.is_alive and not session.has_crashed

    def has_enough(self) -> bool:
        """Whether enough backends are left for a comparison."""
        return len(self._workers.sessions) - len(self.failed) >= min(2, len(self._workers.sessions))

    def check_enough(self) -> None:
        """Raises if too few backends are left for a comparison."""
        if not self.has_enough():
            raise self.why_not()

    def why_not(self) -> DlfError:
        """The error that says why there is no comparison."""
        reasons = "\n".join(f"{name}: {error}" for name, error in self.failed.items())
        if len(self.failed) == len(self._workers.sessions):
            first, *others = self.failed.values()
            # Each may have a reason of its own, such as code that is another framework's.
            return first if all(str(each) == str(first) for each in others) else revive(type(first), reasons, {})
        return BackendError(
            f"a comparison takes two backends, and there is one left of {len(self._workers.sessions)}.\n{reasons}"
        )


def _is_same_error(one: str, other: str) -> bool:
    """Whether an error is another one, raised at the same lines, but for the numbers in its message."""
    named = [re.sub(r"\d+", "", last_line(each)) for each in (one, other)]
    return one.rstrip().rpartition("\n")[0] in other or named[0] == named[1]
