"""Runs models on several backends in parallel, each in a process of its own, and judges what they recorded.

Requirements:

* the parent imports no framework;
* records are removed at the end, whatever happens, unless the caller keeps them;
* one set of workers can answer for many models, one after the other.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

from dlf.parity._answers import BackendAnswer, BuildAnswer, CallAnswer, Evidence, Measured, Report
from dlf.parity._asking.measuring import Measuring, nothing_measured
from dlf.parity._asking.requests import OnProgress, Requests, TruthLostError
from dlf.parity._asking.same_model import build_everywhere, check_repeats, is_same_model, remarks
from dlf.parity._asking.workers import Workers
from dlf.parity._judging.verdict import Thresholds
from dlf.parity.evidence import SCHEMA, judged
from dlf.parity.options import ParityOptions
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError, OutputError
from dlf.utils.files import temporary_folder
from dlf.utils.workers import WorkerProgress

__all__ = ["Workers", "run_parity"]


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
            return compare(Requests(options, folder, mine, on_progress), thresholds or Thresholds())
        finally:
            if workers is None:
                mine.close()


def compare(requests: Requests, thresholds: Thresholds) -> Report:
    """Compares a model by requests to running workers, and judges the evidence.

    Args:
        requests: The requests of this comparison alone.
        thresholds: The thresholds of the verdict.

    Returns:
        The report, in JSON's types.

    Raises:
        DlfError: Too few backends could be run.
    """
    try:
        evidence = _evidence(requests, thresholds)
    except DlfError as error:
        if not requests.has_enough():
            requests.ask_keras(requests.failed)
            raise requests.why_not() from error
        raise
    report = judged(evidence, (), thresholds)
    if report["verdict"] == "diverge":
        # A backend that fails now has answered everything else before.
        with suppress(BackendError):
            check_repeats(requests)
    return report


def _evidence(requests: Requests, thresholds: Thresholds) -> Evidence:
    """What the verdict rests on."""
    build_everywhere(requests)
    built, asked = next(iter(requests.built.values())), requests.options
    comparable = is_same_model(requests) and set(asked.stages) - {"build"}
    measured, calls = _measured(requests, thresholds) if comparable else (nothing_measured(), [])
    requests.ask_keras(requests.failed)
    return {
        "schema": SCHEMA,
        "target": asked.target,
        "seed": asked.seed,
        "dtype": asked.dtype,
        "batch_size": asked.batch_size,
        "steps": asked.steps,
        "stages_asked": list(asked.stages),
        "backends": {name: _introduction(each) for name, each in requests.built.items()},
        "compiled": all(each["compiled"] for each in requests.built.values()),
        "optimizer": built["optimizer"],
        "remarks": remarks(requests),
        "data_not_finite": built["data_not_finite"],
        "by_keras_alone": [name for name, comes_through in requests.by_keras_alone.items() if comes_through],
        "failed": {name: str(error) for name, error in requests.failed.items()},
        "calls": calls,
        **measured,
    }


def _measured(requests: Requests, thresholds: Thresholds) -> tuple[Measured, list[CallAnswer]]:
    """The measurements, and the calls of layers that all backends have in common."""
    while True:
        measuring = Measuring(requests, thresholds)
        try:
            return measuring.measured(), measuring.calls
        except TruthLostError:
            # The others were given the numbers of the truth: they begin again without that backend.
            requests.begin_again()


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
