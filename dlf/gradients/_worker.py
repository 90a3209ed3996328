"""A process for one path: run as a module, it reads one request from stdin and writes lines of JSON.

Requirements:

* it computes gradients at the first step, in float32 and in float64; trains; and times a step, compiled and not;
* compilation is timed by itself, and if it fails, the reason is given;
* arrays are returned in a file, everything else in the last line.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlf.backend.protocol import Lesson
from dlf.backend.registry import current_backend
from dlf.backend.report import describe_backend
from dlf.check.advice import explained
from dlf.gradients._problems import load_problem
from dlf.gradients.check import GradientCheck, check_gradients
from dlf.gradients.training_loop import TrainingLoop
from dlf.gradients.value_and_grad import find_path
from dlf.models.model_loss import as_batch, check_model, parameters_of, to_numpy
from dlf.models.synthetic_data import make_batch
from dlf.models.targets import load_target
from dlf.numerics.float64 import float64_everywhere
from dlf.random.seed import set_seed
from dlf.utils.errors import DlfError, InvalidArgumentError
from dlf.utils.workers import serve

__all__ = ["solve_model", "solve_problem"]

EAGER_STEPS = 20
"""How many steps are timed without compilation; the first of them is not counted."""


def solve_problem(path: Lesson, file: Path, *, compiled: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Solves the line or the MLP; returns the path's part of the report, and arrays.

    Args:
        path: The gradient path.
        file: A file that `save_problem` wrote.
        compiled: Whether to train with the compiled step.
    """
    problem = load_problem(file)
    loss = getattr(path, f"{problem.name}_loss")
    first = next(problem.batches())
    arrays: dict[str, np.ndarray] = {}
    for dtype, context in (("float32", nullcontext()), ("float64", float64_everywhere())):
        values = {name: value.astype(dtype) for name, value in problem.parameters.items()}
        x, y = (part.astype(dtype) if part.dtype.kind == "f" else part for part in first)
        with context:
            _, gradients = path.loss_and_gradients(loss, path.start(values, problem.name), (x, y))
        arrays |= {f"{dtype}/{name}": to_numpy(value) for name, value in gradients.items()}

    batches = list(problem.batches())
    parameters: Any = path.start(problem.parameters, problem.name)
    seconds: dict[str, Any] = {
        "eager": _time_eager(path, loss, parameters, batches[:EAGER_STEPS], problem.learning_rate)
    }
    step = path.step
    if compiled:
        step, seconds["compile"], seconds["compile_error"] = _compiled(path, loss, problem, batches[0])
    parameters = path.start(problem.parameters, problem.name)
    losses = []
    began = time.perf_counter()
    for batch in batches:
        value, parameters = step(loss, parameters, batch, problem.learning_rate)
        losses.append(value)
    found = path.read(parameters)  # Waits for the device.
    seconds["compiled" if step is not path.step else "loop"] = (time.perf_counter() - began) / len(batches)
    arrays |= {f"found/{name}": np.asarray(value) for name, value in found.items()}
    names = (f"{problem.name}_loss", "loss_and_gradients", "apply", "step")
    return {
        "losses": [float(to_numpy(value)) for value in losses],
        "seconds": seconds,
        "source": [*_module_source(path, problem.name), *(_source(name, getattr(path, name)) for name in names)],
    }, arrays


def _time_eager(path: Lesson, loss: Any, parameters: Any, batches: list[Any], rate: float) -> float:
    taken = []
    for batch in batches:
        began = time.perf_counter()
        value, parameters = path.step(loss, parameters, batch, rate)
        to_numpy(value)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:] or taken))


def _compiled(path: Lesson, loss: Any, problem: Any, batch: Any) -> tuple[Callable[..., Any], float | None, str | None]:
    """Returns the compiled step and its first call's seconds beyond the second's; or the plain step and the error."""
    step, taken = path.compiled(path.step), []
    try:
        for _ in range(2):
            parameters = path.start(problem.parameters, problem.name)
            began = time.perf_counter()
            value, _ = step(loss, parameters, batch, problem.learning_rate)
            to_numpy(value)
            taken.append(time.perf_counter() - began)
    except Exception as error:  # noqa: BLE001 - torch.compile needs a C++ compiler, and fails in many ways.
        return path.step, None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return step, taken[0] - taken[1], None


def solve_model(path_name: str, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains a user's Keras model by the path's plain loop; returns the path's part of the report, and arrays.

    Args:
        path_name: The name of the gradient path.
        request: The options of `dlf gradients`.
    """
    set_seed(request["seed"])
    build = load_target(request["problem"], "--problem")
    model, random = _built(build, request["problem"]), np.random.default_rng(request["seed"])
    make = load_target(request["data"], "--data") if request["data"] else None

    def batch() -> Any:
        size = request["batch_size"]
        return make(size, random) if make else make_batch(model, request["loss"] or model.loss, size, random)

    if make is not None and isinstance(model, keras.Model) and not model.built:
        model(as_batch(*batch())[0])
    check_model(model)
    # None stands for the loss that the model was compiled with, including its `loss_weights`.
    loss, first = request["loss"], batch()
    check = _checked(model, build, first, loss, path_name)
    # In mixed float16, Keras wraps the optimizer in another one, which scales the loss.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer) if model.compiled else "adam"
    arrays = {f"float64/{name}": value for name, value in check.in_float64[path_name].items()}
    arrays |= {f"initial/{name}": value for name, value in parameters_of(model).items()}
    loop = TrainingLoop(model, loss, optimizer, path=path_name)
    losses, taken = [], []
    for _ in range(request["steps"]):
        x, y = batch()
        began = time.perf_counter()
        losses.append(float(to_numpy(loop.step(x, y))))
        taken.append(time.perf_counter() - began)
    loop.finish()
    arrays |= {f"found/{name}": value for name, value in parameters_of(model).items()}
    module: Any = find_path(path_name)
    return {
        "losses": losses,
        "seconds": {"loop": float(np.median(taken[1:] or taken)), "first": taken[0]},
        "source": [_source(name, getattr(module.training_loop, name)) for name in ("start", "make_step", "finish")],
        "gradients": [asdict(each) for each in check.findings],
    }, arrays


def _checked(model: Any, build: Callable[[], Any], batch: Any, loss: Any, path: str) -> GradientCheck:
    """Checks the gradients of the model, or, if Keras cannot recreate it, of another one that `build` makes."""
    try:
        return check_gradients(model, batch, loss=loss, paths=(path,))
    except InvalidArgumentError as error:
        if error.argument != "model":
            raise
        check = check_gradients(build, batch, loss=loss, paths=(path,))
    # Keras numbers names across models, so the other model's variables are given the names of this one's.
    names = dict(zip(check.in_float64[path], parameters_of(model), strict=True))
    findings = tuple(replace(each, variable=names[each.variable]) for each in check.findings)
    truth = {names[name]: value for name, value in check.in_float64[path].items()}
    return GradientCheck(findings, {path: truth})


def _module_source(path: Any, problem: str) -> Iterator[dict[str, Any]]:
    """Yields the source of the model's class, for a path whose parameters are a module."""
    kind = getattr(path, {"line": "Line", "mlp": "MLP"}[problem], None)
    if kind is not None:
        yield _source("model", kind)


def _built(build: Callable[[], Any], target: str) -> Any:
    """Calls a user's function; what it raises is said as `dlf parity` says it."""
    try:
        return build()
    except DlfError:
        raise
    except Exception as error:
        raise InvalidArgumentError(
            "--problem",
            expected="a function without arguments, or a call, that returns a Keras model",
            received=target.rpartition(":")[2],
            advice=f"\n{explained(error)}",
        ) from error


def _source(name: str, what: Any) -> dict[str, Any]:
    return {"name": name, "code": inspect.getsource(what).rstrip()}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    folder, name = Path(request["folder"]), request["path"]
    path: Any = find_path(name)
    if request["is_model"]:
        found, arrays = solve_model(name, request)
    else:
        found, arrays = solve_problem(path, folder / "problem.npz", compiled=request["compile"])
    np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return {**describe_backend(current_backend()), **found, "title": (inspect.getdoc(path) or "").splitlines()[0]}


if __name__ == "__main__":
    serve(_answer, once=True)
