"""The conformance suite for backends: what dlf relies on, checked.

What is asked of it:

* a backend's author writes one test, ``check_backend("name")``, and learns which promise is broken and how;
* the numbers are held against derivatives derived on paper, within what float32 arithmetic can lose and no more.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import keras
import numpy as np

from dlf.backend_protocol import Backend, Batch, GradientPath, Parameters
from dlf.backend_registry import load_backend
from dlf.backend_report import ask_backend, backend_environment, describe_backend

__all__ = ["check_backend"]


def check_backend(name: str) -> None:
    """Checks that a backend keeps every promise of `dlf.backend_protocol`; run it in that backend's process.

    Args:
        name: The backend's entry point in the group ``dlf.backends``.

    Raises:
        AssertionError: A promise is broken; the message says which, what was expected and what was received.
        DlfError: There is no such backend, or its framework is not installed.

    Example:
        >>> from dlf.backend_registry import current_backend
        >>> check_backend(current_backend().name)
    """
    backend = load_backend(name)
    for check in (_check_loading, _check_environment, _check_description, _check_gradient_paths):
        check(backend)


def _expect(promise: str, *, expected: object, received: object, kept: bool | None = None) -> None:
    if not (expected == received if kept is None else kept):
        raise AssertionError(f"{promise}: expected {expected}, received {received}")


def _check_loading(backend: Backend) -> None:
    """Loading imports no framework: `dlf backends` and the choice of a backend must stay quick."""
    code = (
        "import json, sys; from dlf.backend_registry import load_backend; "
        f"requires = load_backend({backend.name!r}).requires; "
        "print(json.dumps([name for name in requires if name in sys.modules]))"
    )
    command = [sys.executable, "-c", code]
    environment = backend_environment(backend)
    worker = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    _expect(
        "loading works in a fresh process",
        expected=0,
        received=worker.stderr or worker.returncode,
        kept=worker.returncode == 0,
    )
    _expect("loading imports none of `requires`", expected=[], received=json.loads(worker.stdout))


def _check_environment(backend: Backend) -> None:
    environment = dict(backend.environment())
    _expect("`environment` holds text", expected="str to str", received=environment, kept=_is_text(environment))
    _expect(
        "`environment` leaves KERAS_BACKEND to `keras_backend`",
        expected="no KERAS_BACKEND",
        received=environment,
        kept="KERAS_BACKEND" not in environment,
    )
    _expect("Keras runs on it in this process", expected=backend.keras_backend, received=keras.config.backend())


def _check_description(backend: Backend) -> None:
    devices = list(backend.devices())
    _expect(
        "`devices` are written kind:number",
        expected="one or more such as 'cpu:0' and 'gpu:0 NVIDIA H100'",
        received=devices,
        kept=bool(devices) and all(re.fullmatch(r"[a-z]+:\d+( .+)?", device) for device in devices),
    )
    settings = dict(backend.numeric_settings())
    _expect("`numeric_settings` hold text", expected="str to str", received=settings, kept=_is_text(settings))
    described = describe_backend(backend)
    _expect("its own process describes it alike", expected=described, received=dict(ask_backend(backend.name)))


def _check_gradient_paths(backend: Backend) -> None:
    paths = dict(backend.gradient_paths())
    _expect("there is a gradient path", expected="one or more", received=list(paths), kept=bool(paths))
    for name, path in paths.items():
        _expect(
            f"the path {name!r} has both verbs",
            expected="a GradientPath",
            received=path,
            kept=isinstance(path, GradientPath),
        )
        for problem in _PROBLEMS:
            _check_gradients(f"the path {name!r} on the {problem}", path, problem)
        _check_apply(f"the path {name!r}", path)


def _check_gradients(
    title: str,
    path: GradientPath,
    problem: str,
) -> None:
    loss, parameters, batch, truth = _PROBLEMS[problem]
    before = {name: value.copy() for name, value in parameters.items()}
    value, gradients = path.loss_and_gradients(loss, parameters, batch)
    true_value, true_gradients, bound = truth(parameters, batch)
    _expect(f"{title} names the gradients", expected=sorted(parameters), received=sorted(gradients))
    pairs = {"loss": (value, true_value)} | {k: (gradients[k], true_gradients[k]) for k in parameters}
    for name, (received, expected) in pairs.items():
        array = _to_numpy(received)
        _expect(f"{title}, shape of {name}", expected=np.shape(expected), received=array.shape)
        error = float(np.max(np.abs(array - expected)))
        _expect(f"{title}, error of {name}", expected=f"at most {bound:.1e}", received=error, kept=error <= bound)
    unchanged = all(np.array_equal(before[name], parameters[name]) for name in before)
    _expect(f"{title} leaves the parameters alone", expected=before, received=parameters, kept=unchanged)


def _check_apply(title: str, path: GradientPath) -> None:
    parameters = {"w": np.array([1.0, -2.0], np.float32), "b": np.array(0.5, np.float32)}
    gradients = {"w": np.array([4.0, 8.0], np.float32), "b": np.array(-2.0, np.float32)}
    updated = path.apply(parameters, gradients, 0.25)
    # Every number here is a short binary fraction, so there is no rounding to allow for.
    for name, expected in {"w": [0.0, -4.0], "b": 1.0}.items():
        received = _to_numpy(updated[name]).tolist()
        _expect(f"{title} applies parameter - learning_rate * gradient to {name}", expected=expected, received=received)


def _line_loss(parameters: Parameters, batch: Batch) -> Any:
    x, y = batch
    return keras.ops.mean(keras.ops.square(parameters["w"] * x + parameters["b"] - y))


def _line_truth(parameters: Any, batch: Any) -> tuple[float, dict[str, np.ndarray], float]:
    """With `r = w x + b - y`: `mean(r²)`, `mean(2 r x)` and `mean(2 r)`."""
    w, b, x, y = (np.asarray(each, np.float64) for each in (parameters["w"], parameters["b"], *batch))
    r = w * x + b - y
    gradients = {"w": np.asarray(np.mean(2 * r * x)), "b": np.asarray(np.mean(2 * r))}
    return float(np.mean(r**2)), gradients, _rounding(len(x), np.abs(2 * r * x), r**2, np.abs(2 * r))


def _tanh_loss(parameters: Parameters, batch: Batch) -> Any:
    x, y = batch
    return keras.ops.mean(keras.ops.square(keras.ops.tanh(keras.ops.matmul(x, parameters["w"])) - y))


def _tanh_truth(parameters: Any, batch: Any) -> tuple[float, dict[str, np.ndarray], float]:
    """With `t = tanh(x w)` and `r = t - y`: `mean(r²)` and `xᵀ (2 r (1 - t²)) / n`."""
    w, x, y = (np.asarray(each, np.float64) for each in (parameters["w"], *batch))
    t = np.tanh(x @ w)
    r = t - y
    inner = 2 * r * (1 - t**2)
    gradients = {"w": x.T @ inner / len(x)}
    return float(np.mean(r**2)), gradients, _rounding(len(x), np.abs(x) * np.abs(inner)[:, None], r**2)


def _rounding(terms: int, *magnitudes: np.ndarray) -> float:
    """The most that a float32 mean of so many terms can be off: each term a few roundings, the sum one for each term.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2: ``γₙ Σ|xᵢ|``.
    """
    largest = max(float(np.max(each)) for each in magnitudes)
    return (terms + 8) * float(np.finfo(np.float32).eps) * largest


_RANDOM = np.random.default_rng(2025)
_X = _RANDOM.normal(size=64).astype(np.float32)
_TABLE = _RANDOM.normal(size=(32, 3)).astype(np.float32)
_PROBLEMS: dict[str, Any] = {
    "line": (
        _line_loss,
        {"w": np.array(0.3, np.float32), "b": np.array(-0.7, np.float32)},
        (_X, (2 * _X - 1).astype(np.float32)),
        _line_truth,
    ),
    "neuron": (
        _tanh_loss,
        {"w": np.array([0.5, -0.25, 1.0], np.float32)},
        (_TABLE, np.tanh(_TABLE.sum(axis=1)).astype(np.float32)),
        _tanh_truth,
    ),
}


def _is_text(mapping: dict[Any, Any]) -> bool:
    return all(isinstance(each, str) for pair in mapping.items() for each in pair)


def _to_numpy(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value))
