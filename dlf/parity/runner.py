"""Runs models on several backends in parallel, each in a process of its own, and measures what they recorded.

Requirements:

* the parent imports no framework; the workers start at once, share the cores, and wait for one another only where they
  must;
* a backend that fails is reported with its error, and the others are compared without it;
* records are removed at the end, whatever happens, unless the caller keeps them;
* one set of workers can answer for many models, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from dlf.backend.registry import load_backend
from dlf.backend.report import backend_environment
from dlf.numerics.noise_floor import scale_of
from dlf.parity._answers import BackendAnswer, BuildAnswer, CallAnswer, Evidence, Measured, Report, TraceAnswer
from dlf.parity._judging.build import judge_build
from dlf.parity._judging.measure import is_apart, measure_calls, measure_training, measure_whole
from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.reasons import with_reasons
from dlf.parity._judging.trajectory import Runs, measure_trajectory
from dlf.parity._judging.verdict import Thresholds, is_suspect, judge_each
from dlf.parity._records import Records
from dlf.parity.evidence import SCHEMA, is_frozen, judged, last_line
from dlf.parity.options import ParityOptions
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError, OutputError, UnknownInputsError, revive
from dlf.utils.files import temporary_folder
from dlf.utils.words import listed
from dlf.utils.workers import Session, WorkerProgress, cores_of_machine, memory_of_machine

__all__ = ["Workers", "run_parity"]

CANCELLED = 1e-10
"""A share of the largest gradient: a smaller one is roundoff of float64, or does not matter. Those that cancel are at
1e-16."""
BYTES = 3 * (4 + 8)
"""Bytes that a worker needs for each element of a variable: value, gradient and a copy, in model and reference."""
OnProgress = Callable[[str, WorkerProgress], None]


def _ignore(backend: str, progress: WorkerProgress) -> None:
    """Ignores the progress."""


def run_parity(
    options: ParityOptions,
    on_progress: OnProgress = _ignore,
    keep: Path | None = None,
    workers: Workers | None = None,
    thresholds: Thresholds | None = None,
) -> Report:
    """Compares a model across backends.

    Args:
        options: What to compare.
        on_progress: Called with a backend's name and what it is doing.
        keep: A folder where the records are left; by default they are removed.
        workers: Running workers of the same backends, whose device and time limit apply; they are left running.
        thresholds: The thresholds of the verdict.

    Returns:
        The report, in JSON's types.

    Raises:
        DlfError: Of several backends, fewer than two could be run; if none could, the error of the first.
    """
    with temporary_folder("dlf-parity-") if keep is None else nullcontext(_checked(keep)) as folder:
        mine = workers or Workers(options.backends, device=options.device, timeout=options.timeout)
        try:
            return _Run(options, folder, mine, on_progress, thresholds).report()
        finally:
            if workers is None:
                mine.close()


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


def _checked(keep: Path) -> Path:
    """Creates the folder and returns it; it has to be empty, so that no earlier record is taken for this run's."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        found = sorted(each.name for each in keep.iterdir())
    except OSError as error:
        raise OutputError(f"{keep}: cannot be written ({error.strerror or error}). Name another folder.") from error
    if found:
        raise InvalidArgumentError("--keep", expected="a folder that is empty or not there", received=found[:5])
    return keep


def _claimed(file: Path) -> str:
    """Creates the file and returns its name; an error where it exists, since another run then writes to the folder."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError as error:
        raise InvalidArgumentError(
            "--keep", expected="a folder that no other run has", received=str(file.parent), advice="Name another one."
        ) from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror or error}). Name another folder.") from error
    return str(file)


class _Run:
    """One comparison: the requests to the workers, and their answers."""

    def __init__(
        self,
        options: ParityOptions,
        folder: Path,
        workers: Workers,
        on_progress: OnProgress,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._options, self._folder, self._workers, self._on_progress = options, folder, workers, on_progress
        self._thresholds = thresholds or Thresholds()
        self._truth: str | None = None
        self._stages = set(options.stages)
        self._failed: dict[str, DlfError] = {}
        self._asked: dict[str, bool] = {}
        self._built: dict[str, BuildAnswer] = {}
        self._calls: list[CallAnswer] = []

    def report(self) -> Report:
        """Runs the comparison, and returns the report."""
        try:
            evidence = self._evidence()
        except DlfError as error:
            if not self._has_enough():
                self._ask_keras(self._failed)
                raise self._why_not() from error
            raise
        report = judged(evidence, (), self._thresholds)
        if report["verdict"] == "diverge":
            # A backend that fails now has answered everything else before.
            with suppress(BackendError):
                self._check_repeats()
        return report

    def _evidence(self) -> Evidence:
        """What the verdict rests on."""
        self._workers.revive()
        self._built = self._ask_all(self._request_to_build(), self._workers.sessions, of_all=True)
        self._share_training()
        self._check_enough()
        self._check_lines()
        self._note_draws()
        built = next(iter(self._built.values()))
        found = with_reasons(judge_build(self._built), self._built, built["optimizer"])
        # With a known difference in the build, it is still the same model.
        same_model = all(each.verdict != "diverged" or each.reason for each in found)
        if len({each["digest"] for each in self._built.values()}) > 1:
            # Most likely the target draws or counts: then nothing of it can be compared.
            self._check_repeats()
        if same_model:
            # Otherwise the rest would compare two different models.
            self._check_batches()
        measured: Measured = {
            "measurements": [],
            "trajectory": None,
            "given_up": {},
            "called_unevenly": [],
            "fits": {},
        }
        while same_model and self._stages - {"build"}:
            try:
                measured = self._measured()
                break
            except _TruthLostError:
                # The others were given the numbers of the truth: they begin again without that backend.
                self._folder, self._truth = self._folder / "again", None
                self._folder.mkdir()
        asked = self._options
        self._ask_keras(self._failed)
        return {
            "schema": SCHEMA,
            "target": asked.target,
            "seed": asked.seed,
            "dtype": asked.dtype,
            "batch_size": asked.batch_size,
            "steps": asked.steps,
            "stages_asked": list(asked.stages),
            "backends": {name: _introduction(each) for name, each in self._built.items()},
            "compiled": all(each["compiled"] for each in self._built.values()),
            "optimizer": built["optimizer"],
            "remarks": self._remarks(),
            "data_not_finite": built["data_not_finite"],
            "by_keras_alone": [name for name, comes_through in self._asked.items() if comes_through],
            "failed": {name: str(error) for name, error in self._failed.items()},
            "calls": self._calls,
            **measured,
        }

    def _request_to_build(self, **more: str) -> dict[str, Any]:
        return {"do": "build", "options": asdict(self._options), **more}

    def _share_training(self) -> None:
        """Gives all backends the batches that the script trains on on one of them.

        A pipeline of TensorFlow's may not come through on another backend, or gives others where it shuffles.
        """
        # One that knows what the model's step calls it on comes first.
        having = [name for name, each in self._built.items() if each["batches_of_training"]]
        having.sort(key=lambda name: not self._built[name]["called_by_step"])
        if not having:
            return
        called = self._built[having[0]]["called_by_step"]
        lacking = [name for name, each in self._failed.items() if called or isinstance(each, UnknownInputsError)]
        lacking += [
            name
            for name, each in self._built.items()
            if name not in having and (called or each["training_refused"] is None) and not self._options.data
        ]
        unlike = [name for name in having if self._built[name]["batches"] != self._built[having[0]]["batches"]]
        if not (lacking or unlike):
            return
        file = _claimed(self._folder / "batches.npz")
        self._ask_all({"do": "save_batches", "file": file}, having[:1], of_all=True)
        self._failed = {name: each for name, each in self._failed.items() if name not in lacking}
        self._built |= self._ask_all(self._request_to_build(batches=file), lacking, of_all=True)
        self._built = {name: self._built[name] for name in self._workers.sessions if name in self._built}
        for name in self._ask_all({"do": "load_batches", "file": file}, unlike, of_all=True):
            self._built[name]["batches"] = self._built[having[0]]["batches"]

    def _ask_keras(self, errors: Mapping[str, DlfError]) -> None:
        """Adds to the errors of backends that failed whether Keras comes through there by itself, once for each."""
        names = [name for name in errors if name in self._built and self._workers.sessions[name].is_alive]
        names = [name for name in names if name not in self._asked]
        if not names:
            return
        self._asked |= dict.fromkeys(names, False)
        failed, self._failed, found = self._failed, {}, {}
        with suppress(_TruthLostError):
            found = self._ask_all({"do": "by_keras_alone"}, names, of_all=True)
        self._failed = failed
        for name, each in found.items():
            self._asked[name] = each["error"] is None
            if each["error"] is None:
                said = "Keras by itself comes through there: what fails is the comparison."
            elif _is_same_error(each["error"], str(failed[name])):
                said = "Keras by itself ends with the same there."
            else:
                said = f"Keras by itself does not come through there:\n{each['error']}"
            self._failed[name] = revive(type(failed[name]), f"{failed[name]}\n{said}", {})

    def _check_lines(self) -> None:
        """Leaves out backends whose model differs where lines of the file failed that the others have run."""
        fewest = min((each["lines_left_out"] for each in self._built.values()), key=len)
        for name, each in list(self._built.items()):
            other = set(each["lines_left_out"]) - set(fewest)
            if other and any(found.verdict == "diverged" for found in judge_build(self._built)):
                said = "; ".join(each["remarks"])
                self._failed[name] = BackendError(f"In the target's file, {said}; and the model is another there.")
                del self._built[name]
        self._check_enough()

    def _note_draws(self) -> None:
        """Notes that values are not drawn alike where a pipeline, say, has drawn on some backends alone.

        Where more lines of the file have run on one, its model has come further: then they are not compared at all.
        """
        built = list(self._built.values())
        further = len({(*each["lines_left_out"], each["trainings"]) for each in built}) > 1
        if further or len({each["draws"] for each in built}) > 1:
            for each in built:
                each["drawn_alike"] = False
                each["values"] = built[0]["values"] if further else each["values"]

    def _remarks(self) -> list[str]:
        """What has to be known of the file: each remark once, with the backends where it is not of all."""
        whose: dict[str, list[str]] = {}
        for name, each in self._built.items():
            for remark in each["remarks"]:
                whose.setdefault(remark, []).append(name)
        return [
            remark if len(names) == len(self._built) else f"{remark}, on {listed(names)}"
            for remark, names in whose.items()
        ]

    def _measured(self) -> Measured:
        leader = self._alive(self._built)[0]
        file = _claimed(self._folder / "values.npz")
        self._ask_all({"do": "save_values", "file": file}, [leader])
        self._ask_all({"do": "load_values", "file": file}, self._built)
        # For the trajectory too: the gradients show which of them are only roundoff, and the update how far these go.
        trained_by = self._built[leader]["trained_by"]
        gradients = trained_by != "nothing" and bool(self._stages & {"loss", "gradient", "update", "trajectory"})
        traced = self._ask_all({"do": "trace", "gradients": gradients}, self._built, to="trace")
        truth = self._truth = self._choose_truth(traced)
        self._share_calls(traced, truth)
        everywhere = set.intersection(*map(_keys, traced.values()))
        # Where a backend unrolls a loop, a layer inside is called more often: only the layer around it is judged.
        uneven = {
            call["layer"]: None for each in traced.values() for call in each["calls"] if call["key"] not in everywhere
        }
        self._calls = [call for call in traced[truth]["calls"] if call["key"] in everywhere]
        given = {"truth": str(self._at("trace", truth))}
        layers = bool(self._stages & {"forward", "gradient", "state"})
        if layers:
            request = {"do": "replay", **given, "keys": [call["key"] for call in self._calls], "gradients": gradients}
            self._ask_all(request, traced, to="replay", leader=truth)
        has_loss = gradients and trained_by != "train_step"
        if has_loss:
            stages = self._stages | ({"update"} if "trajectory" in self._stages else set())
            request = {"do": "replay_training", **given, "stages": list(stages)}
            self._ask_all(request, traced, to="training", leader=truth)
        dtype = self._built[truth]["dtype"]
        whole = measure_whole(self._records("trace"), truth, self._calls, dtype)
        if any(each["stage"] == "forward" and is_apart(each) for each in whole):
            self._ask_all({"do": "trace_beside"}, traced, to="trace_beside")
            whole = measure_whole(self._records("trace"), truth, self._calls, dtype, self._records("trace_beside"))
        measurements = self._measure_layers(traced, truth, whole, gradients=gradients) if layers else []
        self._note_origins(measurements, truth)
        self._note_data(measurements)
        if has_loss:
            dtypes = {each["path"]: each["dtype"] for each in self._built[truth]["variables"]}
            measurements += measure_training(
                self._records("training"), truth, dtypes, dtype, traced[truth]["own_dtype_variables"]
            )
        measurements += whole
        curves, given_up, built = None, {}, self._built[truth]
        if "trajectory" in self._stages and all(self._built[name]["compiled"] for name in self._alive(traced)):
            before = dict(self._failed)
            try:
                steps, curves = self._train(traced, dtype, measurements)
                measurements += steps
            except (BackendError, _TruthLostError):
                # What was measured before is kept.
                self._ask_keras({name: each for name, each in self._failed.items() if name not in before})
                given_up = {name: str(error) for name, error in self._failed.items() if name not in before}
                if not self._alive(traced):
                    # Where no backend can train the model, that is not the failure of one backend.
                    self._failed = before
        return {
            "measurements": [each for each in measurements if each["stage"] in self._stages],
            "trajectory": curves,
            "given_up": {"trajectory": given_up} if given_up else {},
            "called_unevenly": list(uneven),
            "fits": self._fits(traced) if curves or ("trajectory" in self._stages and is_frozen(built)) else {},
        }

    def _share_calls(self, traced: dict[str, TraceAnswer], truth: str) -> None:
        """Lets backends on which the model's own step does not come through replay the layers that it calls elsewhere.

        Each is replayed from the truth's numbers, and so need not be called there by the model.
        """
        lacking = [name for name, each in traced.items() if not each["step_heard"]]
        if not lacking or not traced[truth]["step_heard"]:
            return
        file = _claimed(self._folder / "calls.pickle")
        self._ask_all({"do": "save_calls", "file": file}, [truth])
        for name, answer in self._ask_all({"do": "load_calls", "file": file}, lacking).items():
            traced[name]["calls"] = answer["calls"]

    def _fits(self, names: Any) -> dict[str, Any]:
        """What Keras's own `fit` returns on each backend, after all the steps have been taken by themselves."""
        before = dict(self._failed)
        try:
            return self._ask_all({"do": "fit"}, self._alive(names))
        except (BackendError, _TruthLostError):
            # A backend that fails in `fit` has answered everything else.
            found = {name: {"error": str(error)} for name, error in self._failed.items() if name not in before}
            self._failed = before
            return found

    def _measure_layers(
        self, names: Any, truth: str, whole: Sequence[Measurement], *, gradients: bool
    ) -> list[Measurement]:
        """Measures each layer; those that differ are measured again, also with slightly moved inputs."""
        records = self._records("replay")
        measurements = measure_calls(records, truth, self._calls)
        found = [each for one in measurements for each in judge_each(one, list(records), self._thresholds)]
        suspects = {each.layer for each in found if is_suspect(each)} | self._layers_before(whole)
        again = [call for call in self._calls if call["layer"] in suspects]
        if not again:
            return measurements
        request = {
            "do": "replay_beside",
            "truth": str(self._at("trace", truth)),
            "keys": [call["key"] for call in again],
            "gradients": gradients,
        }
        self._ask_all(request, self._alive(names), to="beside")
        looked_into = measure_calls(self._records("replay"), truth, again, self._records("beside"))
        keys, order = {call["key"] for call in again}, {call["key"]: n for n, call in enumerate(self._calls)}
        return sorted(
            [each for each in measurements if each["call"] not in keys] + looked_into,
            key=lambda each: order[str(each["call"])],
        )

    def _note_origins(self, measurements: Sequence[Measurement], truth: str) -> None:
        """Notes for each tensor that is not finite whether all inputs of its layer were: if so, it began there."""
        records, calls = Records(self._at("trace", truth)), {call["key"]: call for call in self._calls}
        for each in measurements:
            if "not_finite" not in each or each["call"] not in calls:
                continue
            incoming = f"call/{each['call']}/incoming:"
            given = [name for name in records if name.startswith(incoming)] if each["stage"] == "gradient" else []
            each["from_numbers"] = calls[each["call"]]["given_numbers"] and all(
                np.isfinite(records[name]).all() for name in given
            )

    def _note_data(self, measurements: Sequence[Measurement]) -> None:
        """Notes for each gradient by a layer's input whether no trained variable comes before: it goes nowhere then."""
        variables = [each for built in self._built.values() for each in built["variables"] if each["trainable"]]
        holding = {str(each["layer"]) for each in variables}
        before: set[str] = set()
        if all(each["layer"] for each in variables):
            for call in self._calls:
                layer = call["layer"]
                if not any(layer.startswith(f"{each}/") for each in holding):
                    before.add(call["key"])
                if any(each == layer or each.startswith(f"{layer}/") for each in holding):
                    break  # What is called later may get what this layer gives, by whatever operations.
        for each in measurements:
            if each["stage"] == "gradient" and each["call"] in before and str(each["variable"]).startswith("input/"):
                each["of_data"] = True

    def _layers_before(self, whole: Sequence[Measurement]) -> set[str]:
        """The layers right before the place where the whole model starts to differ.

        One of them may only round to float32, which does not show when it is replayed from rounded inputs.
        """
        apart = [each for each in whole if each["stage"] == "forward" and is_apart(each)]
        if not apart:
            return set()
        given = {call["key"]: call["sources"] for call in self._calls}
        before = [source for each in apart if each.get("kind") == "input" for source in given[each["of"]]]
        taken = {source for sources in given.values() for source in sources}
        return {call["layer"] for call in self._calls if call["key"] in (before or {call["key"]} - taken)}

    def _train(
        self, names: Any, dtype: str, measured: Sequence[Measurement]
    ) -> tuple[list[Measurement], dict[str, Any]]:
        """Trains the model on all backends; once more, where the truth cannot train it, and others may."""
        try:
            return self._train_from("", names, dtype, measured)
        except _TruthLostError:
            alive = self._alive(names)
            if len(alive) < 2:  # noqa: PLR2004 - a comparison takes two.
                raise
            self._truth = alive[0]
        return self._train_from("-again", names, dtype, measured)

    def _train_from(
        self, attempt: str, names: Any, dtype: str, measured: Sequence[Measurement]
    ) -> tuple[list[Measurement], dict[str, Any]]:
        alive, truth = self._alive(names), str(self._truth)
        free, single, perturbed = (f"{each}{attempt}" for each in ("free", "single", "perturbed"))
        found = [each for one in measured for each in judge_each(one, alive, self._thresholds)]
        for name, answer in self._ask_all({"do": "train"}, alive, to=free).items():
            for number in answer["sparse"]:
                self._built[name]["variables"][number]["sparse"] = True
        request = {
            "do": "train_from",
            "truth": str(self._at(free, truth)),
            "aside": any(each.verdict == "tie" for each in found),
        }
        self._ask_all(request, self._alive(names), to=single, leader=truth)
        steps = [str(self._at(single, name)) for name in self._alive(names)]
        updates = {str(each["variable"]): each["floor"] for each in measured if each["stage"] == "update"}
        cancelled = _cancelled(Records(self._at("trace", truth)))
        roundoff = {name: updates[name] for name in cancelled if name in updates}
        request = {
            "do": "train_perturbed",
            "truth": str(self._at(free, truth)),
            "steps": steps,
            "roundoff": roundoff,
        }
        self._ask_all(request, [truth], to=perturbed)
        runs = Runs(
            truth,
            self._records(free),
            self._records(single),
            Records(self._at(perturbed, truth)),
            trainable={each["path"] for each in self._built[truth]["variables"] if each["trainable"]},
            updates=updates,
            cancelled=cancelled,
        )
        return measure_trajectory(runs, self._options.steps, dtype)

    def _records(self, what: str) -> dict[str, Records]:
        return {name: Records(self._at(what, name)) for name in self._alive(self._built)}

    def _at(self, what: str, backend: str) -> Path:
        return self._folder / what / backend

    def _alive(self, names: Any) -> list[str]:
        return [name for name in names if name not in self._failed]

    def _ask_all(
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
        alive = self._alive(names)

        def ask(name: str) -> None:
            own = dict(request)
            if to is not None:
                own["to"] = str(self._at(to, name))
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
        self._failed |= {name: failed[name] for name in alive if name in failed}
        for error in self._failed.values():
            if isinstance(error, OutputError):
                raise error  # All backends write to one folder.
        if not of_all:
            self._check_enough()
        if self._truth in self._failed:
            raise _TruthLostError
        return {name: answers[name] for name in alive if name in answers}

    def _at_once(self, count: int) -> int:
        """How many workers run at a time: one, where the variables of all together would not fit into memory."""
        variables = next(iter(self._built.values()))["variables"] if self._built else []
        elements = sum(math.prod(each["shape"]) for each in variables)
        return max(1, count) if count * BYTES * elements < memory_of_machine() else 1

    def _has_enough(self) -> bool:
        return len(self._workers.sessions) - len(self._failed) >= min(2, len(self._workers.sessions))

    def _check_enough(self) -> None:
        if not self._has_enough():
            raise self._why_not()

    def _why_not(self) -> DlfError:
        reasons = "\n".join(f"{name}: {error}" for name, error in self._failed.items())
        if len(self._failed) == len(self._workers.sessions):
            first, *others = self._failed.values()
            # Each may have a reason of its own, such as code that is another framework's.
            return first if all(str(each) == str(first) for each in others) else revive(type(first), reasons, {})
        return BackendError(
            f"a comparison takes two backends, and there is one left of {len(self._workers.sessions)}.\n{reasons}"
        )

    def _check_batches(self) -> None:
        trains = any(each["batches_of_training"] for each in self._built.values())
        for name, each in self._built.items():
            refused = each["training_refused"] if trains else each["refused"]
            if refused is not None:
                self._failed[name] = revive(InvalidArgumentError, refused, {})
        self._check_enough()
        digests = {name: self._built[name]["batches"] for name in self._alive(self._built)}
        if len({tuple(each) for each in digests.values()}) > 1:
            raise InvalidArgumentError(
                "--data",
                expected="the same batches on every backend",
                received=digests,
                advice="Draw from the generator that the function is given, with NumPy alone.",
            )

    def _check_repeats(self) -> None:
        """Raises if the target builds another model at each call: then a difference between backends says nothing."""
        again = self._ask_all({"do": "build_again"}, self._built)
        other = [name for name, each in again.items() if each["changed"]]
        if other:
            changed = "; ".join(again[other[0]]["changed"])
            raise InvalidArgumentError(
                "TARGET",
                expected="a function that builds the same model at each call",
                received=self._options.target,
                advice=f"On {', '.join(other)} its second model differs from its first: {changed}. "
                "See what it draws or counts.",
            )

    def _choose_truth(self, traced: Mapping[str, Any]) -> str:
        """The backend whose numbers the others are given: the one with the most finite results.

        Among those with as many, it is one whose loss, or else output, the most others share.
        """
        records = self._records("trace")
        # Where the model's own step comes through, there are the calls of all layers.
        traced = {name: each for name, each in traced.items() if each["step_heard"]} or traced
        name = "loss" if all("loss" in each for each in records.values()) else "float64/prediction:0"
        if not all(name in each for each in records.values()):
            return next(iter(traced))  # A model that is only trained has neither.
        values = {backend: records[backend][name] for backend in traced}

        def numbers(backend: str) -> int:
            found = records[backend]
            return sum(
                bool(np.isfinite(found[each]).all())
                for each in found
                if each == name or each.startswith(("gradient/", "float64/prediction")) or "/incoming:" in each
            )

        def shared(backend: str) -> int:
            alike = [each.shape == values[backend].shape for each in values.values()]
            return sum(
                same and bool(np.allclose(values[backend], each, rtol=1e-9, atol=0.0, equal_nan=True))
                for same, each in zip(alike, values.values(), strict=True)
            )

        return max(values, key=lambda backend: (numbers(backend), shared(backend)))


def _is_same_error(one: str, other: str) -> bool:
    """Whether an error is another one, raised at the same lines, but for the numbers in its message."""
    return one.rstrip().rpartition("\n")[0] in other or last_line(one) == last_line(other)


class _TruthLostError(Exception):
    """The backend that is taken for the truth has failed."""


def _cancelled(trace: Records) -> set[str]:
    """The variables whose gradients are zero but for roundoff, where others are not."""
    sizes = {name.removeprefix("gradient/"): scale_of(trace[name]) for name in trace if name.startswith("gradient/")}
    largest = max(sizes.values(), default=0.0)
    return {name for name, size in sizes.items() if size <= CANCELLED * largest}


def _keys(traced: TraceAnswer) -> set[str]:
    return {call["key"] for call in traced["calls"]}


def _introduction(built: BuildAnswer) -> BackendAnswer:
    settings = built["numeric_settings"]
    return {
        "keras": built["versions"]["keras"],
        "framework": next(version for package, version in built["versions"].items() if package != "keras"),
        "device": built["devices"][0].split(":")[0],
        "tensor_float_32": built["tensor_float_32"],
        "matmul_precision": next(iter(settings.values()), "unset"),
        "numeric_settings": settings,
        "layers": built["layers"],
        "variables": built["variables"],
        "outputs": built["outputs"],
        "given": built["given"],
        "refused": built["refused"],
        "functions": built["functions"],
        "assigned": built["assigned"],
        "own_train_step": built["own_train_step"],
        "lookups": built["lookups"],
        "trained_by": built["trained_by"],
        "has_call": built["has_call"],
        "takes_training": built["takes_training"],
        "values": built["values"],
        "own_draws": built["own_draws"],
        "drawn_alike": built["drawn_alike"],
        "optimizer_config": built["optimizer_config"],
    }
