"""For test suites: the conformance check of a backend, and the parity of a model across backends.

Requirements:

* a backend's author writes one test, ``check_backend("name")``, and its error says which promise is broken and how;
* gradients are compared with derivatives derived on paper, and may differ by the rounding of float32 but no more;
* a model's author writes one line, ``assert_parity(build)``, and its error is the report of `dlf parity`;
* the optional lessons and second derivatives of a path are checked in float64: see `dlf.gradients.conformance`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import build_for, random_functions
from dlf.backend.protocol import Backend, Batch, EpochRunner, GradientPath, Parameters
from dlf.backend.registry import load_backend
from dlf.backend.report import ask_backend, backend_environment, describe_backend
from dlf.gradients.conformance import check_paths_in_float64, expect
from dlf.utils.errors import BackendError

__all__ = ["assert_parity", "check_backend"]


def assert_parity(build: str | Callable[[], Any], *, strict: bool = False, **options: Any) -> dict[str, Any]:
    """Asserts that a Keras model computes and trains the same on every backend that is installed.

    Args:
        build: As in `dlf.check_parity`: a function at the top level of a module that returns a model, or its place as
            text, such as ``"models.py:build"``.
        strict: Whether imprecision is a failure, too.
        **options: As in `dlf.check_parity`, such as backends, data, batch_size, steps and seed.

    Returns:
        The report of `dlf.check_parity`.

    Raises:
        AssertionError: The model differs between backends, or its numbers are NaN or infinite; the message is the
            report that `dlf parity` prints.
        DlfError: Not everything could be compared: there is only one backend, a backend is absent or failed, a stage
            could not be judged, or an argument is wrong.

    Example:
        >>> assert_parity("models.py:build", backends=["jax", "torch"])  # doctest: +SKIP
    """
    from dlf.parity.check import check_parity
    from dlf.parity.report import exit_code, report_text

    report = check_parity(build, **options)
    code = exit_code(report, strict=strict)
    if code in {1, 4}:
        raise AssertionError(report_text(report))
    if code:
        raise BackendError(report_text(report))
    return report


def check_backend(name: str) -> None:
    """Checks that a backend keeps every promise of `dlf.backend.protocol`; run it in that backend's process.

    Args:
        name: The backend's entry point in the group ``dlf.backends``.

    Raises:
        AssertionError: A promise is broken; the message says which, what was expected and what was received.
        DlfError: There is no such backend, or its framework is not installed.

    Example:
        >>> from dlf.backend.registry import current_backend
        >>> check_backend(current_backend().name)
    """
    backend = load_backend(name)
    for check in (
        _check_loading,
        _check_environment,
        _check_description,
        _check_compiled,
        _check_gradient_paths,
        check_paths_in_float64,
        _check_random_stream,
        _check_epoch_runner,
    ):
        check(backend)


def _check_loading(backend: Backend) -> None:
    """Checks that loading imports no framework, since `dlf backends` and the choice of a backend must be fast."""
    code = (
        "import json, sys; from dlf.backend.registry import load_backend; "
        f"requires = load_backend({backend.name!r}).requires; "
        "print(json.dumps([name for name in requires if name in sys.modules]))"
    )
    command = [sys.executable, "-c", code]
    environment = backend_environment(backend)
    worker = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    expect(
        "loading works in a fresh process",
        expected=0,
        received=worker.stderr or worker.returncode,
        kept=worker.returncode == 0,
    )
    expect("loading imports none of `requires`", expected=[], received=json.loads(worker.stdout))


def _check_environment(backend: Backend) -> None:
    environment, hiding = dict(backend.environment()), dict(backend.cpu_environment())
    expect("`environment` holds text", expected="str to str", received=environment, kept=_is_text(environment))
    expect("`cpu_environment` holds text", expected="str to str", received=hiding, kept=_is_text(hiding))
    expect(
        "`environment` leaves KERAS_BACKEND to `keras_backend`",
        expected="no KERAS_BACKEND",
        received=environment,
        kept="KERAS_BACKEND" not in environment,
    )
    expect("Keras runs on it in this process", expected=backend.keras_backend, received=keras.config.backend())


def _check_description(backend: Backend) -> None:
    devices = list(backend.devices())
    expect(
        "`devices` are written kind:number",
        expected="one or more such as 'cpu:0' and 'gpu:0 NVIDIA H100'",
        received=devices,
        kept=bool(devices) and all(re.fullmatch(r"[a-z]+:\d+( .+)?", device) for device in devices),
    )
    settings = dict(backend.numeric_settings())
    expect("`numeric_settings` hold text", expected="str to str", received=settings, kept=_is_text(settings))
    switch = backend.tensor_float_32()
    on_cpu = devices[0].startswith("cpu")
    expect(
        "`tensor_float_32` says what turns it off, and is None on a CPU",
        expected="a text, or None",
        received=switch,
        kept=switch is None or (isinstance(switch, str) and not on_cpu),
    )
    described = describe_backend(backend)
    expect("its own process describes it alike", expected=described, received=dict(ask_backend(backend.name)))


def _check_compiled(backend: Backend) -> None:
    compiled = backend.compiled(lambda values: {name: 2 * each + 1 for name, each in values.items()})
    received = _to_numpy(compiled({"x": keras.ops.ones(2)})["x"]).tolist()
    expect("`compiled` changes no result", expected=[3.0, 3.0], received=received)


def _check_gradient_paths(backend: Backend) -> None:
    paths = dict(backend.gradient_paths())
    expect("there is a gradient path", expected="one or more", received=list(paths), kept=bool(paths))
    names = backend.gradient_path_names
    expect("`gradient_path_names` are those of `gradient_paths`", expected=tuple(paths), received=tuple(names))
    for name, path in paths.items():
        expect(
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
    expect(f"{title} names the gradients", expected=sorted(parameters), received=sorted(gradients))
    pairs = {"loss": (value, true_value)} | {k: (gradients[k], true_gradients[k]) for k in parameters}
    for name, (received, expected) in pairs.items():
        array = _to_numpy(received)
        expect(f"{title}, shape of {name}", expected=np.shape(expected), received=array.shape)
        error = float(np.max(np.abs(array - expected)))
        expect(f"{title}, error of {name}", expected=f"at most {bound:.1e}", received=error, kept=error <= bound)
    unchanged = all(np.array_equal(before[name], parameters[name]) for name in before)
    expect(f"{title} leaves the parameters alone", expected=before, received=parameters, kept=unchanged)


def _check_apply(title: str, path: GradientPath) -> None:
    parameters = {"w": np.array([1.0, -2.0], np.float32), "b": np.array(0.5, np.float32)}
    gradients = {"w": np.array([4.0, 8.0], np.float32), "b": np.array(-2.0, np.float32)}
    updated = path.apply(parameters, gradients, 0.25)
    # Every number here is a short binary fraction, so the result is exact.
    for name, expected in {"w": [0.0, -4.0], "b": 1.0}.items():
        received = _to_numpy(updated[name]).tolist()
        expect(f"{title} applies parameter - learning_rate * gradient to {name}", expected=expected, received=received)


def _check_epoch_runner(backend: Backend) -> None:
    """Compares the training of one weight with hand-computed values: `w - rate * 2 (w - y)` for inputs of 1.

    Almost all numbers are short binary fractions, and therefore exact.
    """
    free = backend.free_memory()
    expect(
        "`free_memory` is a number of bytes", expected="an int, or None", received=free, kept=free is None or free > 0
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.25), "mse", metrics=["mse"])
    x, y = np.ones((3, 1), np.float32), np.array([[2.0], [2.0], [3.0]], np.float32)
    build_for(model, (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)))
    runner = backend.epoch_runner(model)
    expect(
        "`epoch_runner` has every verb",
        expected="an EpochRunner",
        received=runner,
        kept=isinstance(runner, EpochRunner),
    )
    expect("`refusal` of a plain model", expected=None, received=runner.refusal())
    data, rows = runner.put((x, y)), runner.put(np.arange(3, dtype=np.int32)[:, np.newaxis])
    model.reset_metrics()
    runner.trace(data, rows)
    expect("`trace` changes nothing", expected=[[0.0]], received=_to_numpy(model.weights[0]).tolist())
    for start, stop, weight, loss in ((0, 1, 1.0, 4.0), (1, 3, 2.25, (4 + 1 + 2.25) / 3)):
        logs = runner.train(data, rows, start, stop)
        expect(f"`train` to step {stop}", expected=[[weight]], received=_to_numpy(model.weights[0]).tolist())
        # The metrics accumulate from call to call. The mean of three steps is no binary fraction, so it is rounded.
        received = float(_to_numpy(logs["loss"]))
        expect("`train` returns the logs", expected=loss, received=received, kept=abs(received - loss) < 1e-6)  # noqa: PLR2004
    model.reset_metrics()
    evaluated = float(_to_numpy(runner.evaluate(data, rows, 0, 2)["loss"]))
    expect("`evaluate` of the first two", expected=0.0625, received=evaluated)
    expect("`predict`", expected=[[2.25]] * 3, received=runner.predict(data, rows).tolist())
    expect("`is_out_of_memory` of another error", expected=False, received=runner.is_out_of_memory(ValueError("no")))


def _line_loss(parameters: Parameters, batch: Batch) -> Any:
    x, y = batch
    return keras.ops.mean(keras.ops.square(parameters["w"] * x + parameters["b"] - y))


def _line_truth(parameters: Any, batch: Any) -> tuple[float, dict[str, np.ndarray], float]:
    """Returns the loss, its gradients and a bound of their rounding.

    With `r = w x + b - y`, the loss is `mean(r²)`, and the gradients are `mean(2 r x)` and `mean(2 r)`.
    """
    w, b, x, y = (np.asarray(each, np.float64) for each in (parameters["w"], parameters["b"], *batch))
    r = w * x + b - y
    gradients = {"w": np.asarray(np.mean(2 * r * x)), "b": np.asarray(np.mean(2 * r))}
    return float(np.mean(r**2)), gradients, _rounding(len(x), np.abs(2 * r * x), r**2, np.abs(2 * r))


def _tanh_loss(parameters: Parameters, batch: Batch) -> Any:
    x, y = batch
    return keras.ops.mean(keras.ops.square(keras.ops.tanh(keras.ops.matmul(x, parameters["w"])) - y))


def _tanh_truth(parameters: Any, batch: Any) -> tuple[float, dict[str, np.ndarray], float]:
    """Returns the loss, its gradient and a bound of their rounding.

    With `t = tanh(x w)` and `r = t - y`, the loss is `mean(r²)`, and the gradient is `xᵀ (2 r (1 - t²)) / n`.
    """
    w, x, y = (np.asarray(each, np.float64) for each in (parameters["w"], *batch))
    t = np.tanh(x @ w)
    r = t - y
    inner = 2 * r * (1 - t**2)
    gradients = {"w": x.T @ inner / len(x)}
    return float(np.mean(r**2)), gradients, _rounding(len(x), np.abs(x) * np.abs(inner)[:, None], r**2)


def _rounding(terms: int, *magnitudes: np.ndarray) -> float:
    """Returns a bound of the error of a float32 mean: a few roundings in each term, and one for each term of the sum.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2: ``γₙ Σ|xᵢ|``.
    """
    largest = max(float(np.max(each)) for each in magnitudes)
    return (terms + 8) * float(np.finfo(np.float32).eps) * largest


def _check_random_stream(backend: Backend) -> None:
    for key, counter, words in _THREEFRY:
        pair = (np.array([counter[0]], np.uint32), np.array([counter[1]], np.uint32))
        received = [_low_32(each) for each in backend.threefry_2x32(np.array(key, np.uint32), pair)]
        expect(
            f"`threefry_2x32` of key {key} and counter {counter}",
            expected=[[each] for each in words],
            received=received,
        )
    for shape in ((), (5,), (2, 3)):
        words_of_key = np.array([7, 2**32 - 1], np.uint32)
        numbers = np.arange(np.prod(shape, dtype=int), dtype=np.uint32)
        first, second = (
            np.array(_low_32(each)) for each in backend.threefry_2x32(words_of_key, (0 * numbers, numbers))
        )
        bits = backend.random_bits(words_of_key, shape)
        expect(f"`random_bits` of shape {shape}", expected=shape, received=tuple(bits.shape))
        expect(f"`random_bits` of shape {shape}", expected=(first ^ second).tolist(), received=_low_32(bits))
    table = np.array([0.5, -1.5, 2.0], np.float32)
    looked_up = _to_numpy(backend.look_up(table, keras.ops.convert_to_tensor(np.array([[2, 0]], np.int32)))).tolist()
    expect("`look_up` takes the entries", expected=[[2.0, 0.5]], received=looked_up)
    unknown = sorted(set(backend.common_draws()) - set(random_functions()))
    expect("`common_draws` names functions of Keras's random module", expected=[], received=unknown)


def _low_32(words: Any) -> list[int]:
    return [int(each) % 2**32 for each in np.ravel(_to_numpy(words))]


# Source: kat_vectors of Random123, threefry2x32 with 20 rounds.
_THREEFRY = (
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
)

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
