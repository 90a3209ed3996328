"""Runs each gradient path in a process of its own, and compares the results.

Requirements:

* the parent imports no framework; one path runs at a time, so that their times can be compared;
* a path that dies is reported with the end of its stderr, and does not affect the results of the others.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlf.backend.registry import load_backend
from dlf.backend.report import backend_environment
from dlf.gradients import _numpy_path as numpy_path
from dlf.gradients._problems import Problem, make_problem, save_problem
from dlf.gradients._references import closed_form, finite_differences, on_paper, perturbed_truths
from dlf.gradients.options import GradientsOptions
from dlf.numerics.noise_floor import noise_floors, rms, verdict_of
from dlf.utils.errors import DlfError
from dlf.utils.files import temporary_folder
from dlf.utils.workers import run_worker

__all__ = ["SCHEMA", "run_gradients"]

SCHEMA = 1
MODEL_STEPS = 50
SAME_MEANING = 1e-9
"""Two paths agree up to this difference, in float64 and relative to the largest gradient: correct paths are 1e-15
apart, a wrong factor makes 1e-6 and more."""

Arrays = dict[str, np.ndarray]


def run_gradients(options: GradientsOptions, on_progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Runs every path that was asked for.

    Args:
        options: What to compare.
        on_progress: Called with the name of each path when it starts.

    Returns:
        The report, in JSON's types: the problem, and for each path how its gradients compare with the truth, its
        losses, seconds and source; a path that failed has a ``reason`` instead.
    """
    with temporary_folder("dlf-gradients-") as folder:
        problem = None if options.is_model else make_problem(options.problem, steps=options.steps, seed=options.seed)
        if problem is not None:
            save_problem(problem, folder / "problem.npz")
        results: list[dict[str, Any]] = []
        arrays: dict[str, Arrays] = {}
        refused: list[DlfError] = []
        for path, backend in options.chosen():
            on_progress(path)
            result: dict[str, Any] = {"path": path, "backend": backend, "status": "ok"}
            try:
                if backend is None:
                    assert problem is not None  # noqa: S101 - there are no references for models.
                    found, arrays[path] = _reference(path, problem)
                else:
                    found, arrays[path] = _ask(options, path, backend, folder)
                result |= found
            except DlfError as error:
                result |= {"status": "failed", "reason": str(error)}
                refused.append(error)
            results.append(result)
    if refused and all(each["status"] == "failed" for each in results):
        raise refused[0]
    report = {
        "schema": SCHEMA,
        "problem": options.problem,
        "seed": options.seed,
        "steps": _steps(options, problem),
        "learning_rate": problem.learning_rate if problem else None,
        "truth": "derived on paper, in float64" if problem else "finite differences, in float64",
        "paths": results,
    }
    if problem is not None:
        _judge_problem(problem, results, arrays)
    else:
        _judge_model(results, arrays)
    failed = any(each["status"] == "failed" for each in results)
    wrong = any(each["verdict"] in ("diverged", "not finite") for one in results for each in one.get("gradients", ()))
    return report | {"verdict": "diverge" if wrong else "incomplete" if failed else "agree"}


def _steps(options: GradientsOptions, problem: Problem | None) -> int:
    return problem.steps if problem is not None else options.steps or MODEL_STEPS


def _ask(options: GradientsOptions, path: str, backend: str, folder: Path) -> tuple[dict[str, Any], Arrays]:
    request = {
        "path": path,
        "folder": str(folder),
        "is_model": options.is_model,
        "problem": options.problem,
        "data": options.data,
        "loss": options.loss,
        "seed": options.seed,
        "steps": options.steps or MODEL_STEPS,
        "batch_size": options.batch_size,
        "compile": options.compile,
    }
    environment = backend_environment(load_backend(backend))
    found = run_worker("dlf.gradients._worker", request, environment, title=path, timeout=options.timeout)
    with np.load(folder / f"{path}.npz", allow_pickle=False) as stored:
        return found, dict(stored)


def _reference(path: str, problem: Problem) -> tuple[dict[str, Any], Arrays]:
    x, y = next(problem.batches())
    if path == "closed-form":
        found = {f"found/{name}": value for name, value in closed_form(problem).items()}
        return {"title": "The least mean squared error, solved for w and b.", "source": [_source(closed_form)]}, found
    if path == "finite-difference":
        slopes: Arrays = {}
        for name, (elements, values) in finite_differences(problem, x, y).items():
            slopes |= {f"elements/{name}": elements, f"float64/{name}": values}
        title = "Central differences with a Richardson step, in float64."
        return {"title": title, "source": [_source(finite_differences)]}, slopes
    return _by_numpy(problem)


def _by_numpy(problem: Problem) -> tuple[dict[str, Any], Arrays]:
    loss: Any = getattr(numpy_path, f"{problem.name}_loss")
    x, y = next(problem.batches())
    _, tested = numpy_path.loss_and_gradients(loss, problem.parameters, (x, y))
    arrays = {f"float32/{name}": np.asarray(value) for name, value in tested.items()}
    arrays |= {f"float64/{name}": value for name, value in on_paper(problem, problem.parameters, x, y).items()}
    parameters, losses = numpy_path.start(problem.parameters), []
    began = time.perf_counter()
    for batch in problem.batches():
        value, parameters = numpy_path.step(loss, parameters, batch, problem.learning_rate)
        losses.append(float(value))
    seconds = (time.perf_counter() - began) / problem.steps
    arrays |= {f"found/{name}": value for name, value in parameters.items()}
    functions = (loss, numpy_path.loss_and_gradients, numpy_path.apply, numpy_path.step)
    title = (inspect.getdoc(numpy_path) or "").splitlines()[0]
    source = [_source(each) for each in functions]
    return {"title": title, "losses": losses, "seconds": {"eager": seconds}, "source": source}, arrays


def _source(function: Any) -> dict[str, str]:
    return {"name": function.__name__, "code": inspect.getsource(function).rstrip()}


def _judge_problem(problem: Problem, results: list[dict[str, Any]], arrays: Mapping[str, Arrays]) -> None:
    """Adds to each result how its gradients compare with the derivation, and its parameters with the closed form."""
    x, y = next(problem.batches())
    truth = on_paper(problem, problem.parameters, x, y)
    dtypes = dict.fromkeys(truth, "float32")
    floors = noise_floors(truth, perturbed_truths(problem, x, y), dtypes)
    best = closed_form(problem) if problem.name == "line" else {}
    for result in results:
        own = arrays.get(result["path"], {})
        judged = []
        for name, expected in truth.items():
            if f"float64/{name}" in own:
                judged.append(_judged(name, expected, own, floors[name]))
        result["gradients"] = judged
        result["found"] = {
            name: _found(own[f"found/{name}"], best.get(name)) for name in truth if f"found/{name}" in own
        }


def _judged(name: str, truth: np.ndarray, own: Arrays, floor: float) -> dict[str, Any]:
    elements = own.get(f"elements/{name}")
    expected = truth if elements is None else truth.ravel()[elements]
    float64 = own[f"float64/{name}"]
    apart = float(np.max(np.abs(float64 - expected)) / (np.max(np.abs(truth)) or 1.0))
    # Finite differences have an uncertainty of their own, far above that of float64.
    same = apart <= (SAME_MEANING if elements is None else 1e-6)
    tested = own.get(f"float32/{name}")
    error = None if tested is None else rms(tested - truth) / floor
    finite = np.isfinite(float64).all() and (tested is None or np.isfinite(tested).all())
    verdict = "not finite" if not finite else "diverged" if not same else verdict_of(error or 0.0)
    return {
        "variable": name,
        "verdict": verdict,
        "noise_floors": error,
        "relative_difference": apart,
        "detail": "" if elements is None else f"{len(elements)} of {truth.size} elements",
    }


def _found(value: np.ndarray, best: np.ndarray | None) -> dict[str, Any]:
    if value.size > 1:
        return {"shape": list(value.shape), "norm": float(np.linalg.norm(value.astype(np.float64)))}
    number = float(value.item())
    if best is None:
        return {"value": number}
    last_place = float(np.spacing(np.float32(abs(best))))
    return {"value": number, "closed_form": float(best), "last_places": abs(number - float(best)) / last_place}


def _judge_model(results: list[dict[str, Any]], arrays: Mapping[str, Arrays]) -> None:
    """Compares each path's gradients with the first path's; finite differences were compared in each path's process."""
    ran = [each for each in results if each["status"] == "ok"]
    first = arrays[ran[0]["path"]]
    largest = max((float(np.max(np.abs(value))) for name, value in first.items() if name.startswith("float64/")))
    for result in ran:
        own = arrays[result["path"]]
        for gradient in result["gradients"]:
            name = gradient["variable"]
            if first.get(f"initial/{name}", np.zeros(0)).tobytes() != own[f"initial/{name}"].tobytes():
                gradient["detail"] = f"starts from other values than {ran[0]['path']}: see dlf.randomness_report"
            elif gradient["verdict"] in ("rounding", "noisy", "precision"):
                apart = float(np.max(np.abs(own[f"float64/{name}"] - first[f"float64/{name}"]))) / (largest or 1.0)
                if apart > SAME_MEANING:
                    detail = f"{apart:.1e} of the largest gradient apart from {ran[0]['path']}, in float64"
                    gradient |= {"verdict": "diverged", "relative_difference": apart, "detail": detail}
        prefix = "found/"
        result["found"] = {
            name.removeprefix(prefix): _found(value, None) for name, value in own.items() if name.startswith(prefix)
        }
