"""Checks in float64 what a gradient path promises, against derivatives derived on paper: a part of `dlf.testing`.

Requirements:

* float64 is float64: one float32 on the way makes an error of ten million times the bound;
* what a path may leave out, a lesson or second derivatives, is checked if the path has it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import float64_kept
from dlf.backend.protocol import Backend, Batch, GradientPath, Lesson, Parameters, SecondDerivatives, TrainingLoop
from dlf.models.model_loss import to_numpy

__all__ = ["check_paths_in_float64", "expect"]

Truth = dict[str, np.ndarray]


def expect(promise: str, *, expected: object, received: object, kept: bool | None = None) -> None:
    """Raises AssertionError unless both are equal or, if `kept` is given, unless that is true."""
    if not (expected == received if kept is None else kept):
        raise AssertionError(f"{promise}: expected {expected}, received {received}")


def check_paths_in_float64(backend: Backend) -> None:
    """Checks `Backend.float64`, and inside it the lessons and second derivatives of each gradient path.

    Args:
        backend: The backend, on which Keras runs in this process.

    Raises:
        AssertionError: A promise is broken.
    """
    with backend.float64(), float64_kept():
        _check_float64()
        for name, path in backend.gradient_paths().items():
            if isinstance(path, Lesson):
                _check_lesson(f"the path {name!r}", path)
            if isinstance(path, SecondDerivatives):
                _check_second_derivatives(f"the path {name!r}", path)


def _check_float64() -> None:
    third = keras.ops.divide(keras.ops.convert_to_tensor(np.array([1.0])), keras.ops.convert_to_tensor(np.array([3.0])))
    product = keras.ops.matmul(keras.ops.reshape(third, (1, 1)), keras.ops.reshape(third, (1, 1)))
    for title, tensor, expected in (("a third", third, 1 / 3), ("its square", product, (1 / 3) ** 2)):
        expect(f"`float64`, the dtype of {title}", expected="float64", received=_dtype(tensor))
        _expect_close(f"`float64` computes {title}", np.ravel(to_numpy(tensor)), np.array([expected]), 1)


def _dtype(tensor: Any) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _expect_close(title: str, received: np.ndarray, expected: np.ndarray, terms: int, largest: float = 0.0) -> None:
    """Raises unless the error is within what float64 sums of so many terms can be off by, as in `dlf.testing`."""
    expect(f"{title}, shape", expected=expected.shape, received=received.shape)
    bound = (terms + 8) * float(np.finfo(np.float64).eps) * max(largest, float(np.abs(expected).max()))
    error = float(np.abs(received - expected).max())
    expect(f"{title}, error", expected=f"at most {bound:.1e}", received=error, kept=error <= bound)


def _expect_all_close(title: str, received: Any, expected: Truth, terms: int, largest: float) -> None:
    expect(f"{title} names the parameters", expected=sorted(expected), received=sorted(received))
    for name, array in expected.items():
        _expect_close(f"{title}, {name}", to_numpy(received[name]), array, terms, largest)


def _check_lesson(title: str, path: Lesson) -> None:
    expect(
        f"{title} has a training loop",
        expected="the five functions of a TrainingLoop",
        received=path.training_loop,
        kept=isinstance(path.training_loop, TrainingLoop),
    )
    lessons = {"line": (path.line_loss, _LINE, _line_truth), "mlp": (path.mlp_loss, _MLP, _mlp_truth)}
    for problem, (loss, (parameters, batch), truth) in lessons.items():
        value, gradients, largest = truth(parameters, batch)
        terms, called = len(batch[0]), f"{title}, `{problem}_loss`"
        started = path.start(parameters, problem)
        expect(
            f"{title}, `read` of `start`",
            expected=parameters,
            received=dict(path.read(started)),
            kept=all(np.array_equal(array, path.read(started)[name]) for name, array in parameters.items()),
        )
        found, received = path.loss_and_gradients(loss, started, batch)
        _expect_close(called, to_numpy(found), np.asarray(value), terms, largest)
        _expect_all_close(f"the gradients of {called}", received, gradients, terms, largest)
        rate = 0.125
        found, after = path.step(loss, path.start(parameters, problem), batch, rate)
        moved = {name: array - rate * gradients[name] for name, array in parameters.items()}
        _expect_close(
            f"{title}, the loss of a step of the {problem}", to_numpy(found), np.asarray(value), terms, largest
        )
        _expect_all_close(f"{title}, a step of the {problem}", path.read(after), moved, terms, largest)


def _check_second_derivatives(title: str, path: GradientPath) -> None:
    assert isinstance(path, SecondDerivatives)  # noqa: S101 - asked before.
    parameters, batch = _LINE
    x, y = batch
    r, largest = parameters["w"] * x + parameters["b"] - y, _line_truth(parameters, batch)[2]
    v = {"w": np.array(0.5), "b": np.array(-2.0)}
    # With L = mean((w x + b - y)²), the second derivatives are 2 mean(x²) by w, 2 by b, and 2 mean(x) by both.
    product = {
        "w": np.asarray(2 * np.mean(x * x) * v["w"] + 2 * np.mean(x) * v["b"]),
        "b": np.asarray(2 * np.mean(x) * v["w"] + 2 * v["b"]),
    }
    received = path.hessian_vector_product(_line_loss, parameters, batch, v)
    _expect_all_close(f"{title}, `hessian_vector_product`", received, product, len(x), 4 * largest)
    each = path.per_example_gradients(_line_loss, parameters, batch)
    _expect_all_close(f"{title}, `per_example_gradients`", each, {"w": 2 * r * x, "b": 2 * r}, 1, largest)


def _line_loss(parameters: Parameters, batch: Batch) -> Any:
    x, y = batch
    return keras.ops.mean(keras.ops.square(parameters["w"] * x + parameters["b"] - y))


def _line_truth(parameters: Any, batch: Any) -> tuple[float, Truth, float]:
    """Returns, with `r = w x + b - y`: `mean(r²)`; `mean(2 r x)` and `mean(2 r)`; the largest term of these sums."""
    x, y = batch
    r = parameters["w"] * x + parameters["b"] - y
    gradients = {"w": np.asarray(np.mean(2 * r * x)), "b": np.asarray(np.mean(2 * r))}
    return float(np.mean(r**2)), gradients, float(max(np.abs(2 * r * x).max(), np.abs(2 * r).max(), (r**2).max()))


def _mlp_truth(parameters: Any, batch: Any) -> tuple[float, Truth, float]:
    """Returns the loss, its gradients, and a bound for the terms of their sums.

    With `h = relu(x W + b)`, `z = h V + c` and `p = softmax(z)`, the gradient by z is `(p - onehot) / n`, and so on.
    """
    x, labels = batch
    before = x @ parameters["hidden/kernel"] + parameters["hidden/bias"]
    h = np.maximum(before, 0)
    z = h @ parameters["logits/kernel"] + parameters["logits/bias"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    by_z = p.copy()
    by_z[rows, labels] -= 1
    by_z /= len(x)
    by_before = (by_z @ parameters["logits/kernel"].T) * (before > 0)
    gradients = {
        "hidden/kernel": x.T @ by_before,
        "hidden/bias": by_before.sum(axis=0),
        "logits/kernel": h.T @ by_z,
        "logits/bias": by_z.sum(axis=0),
    }
    # A sum is off by some units in the last place of its largest terms, and no factor of a term is larger than these.
    largest = float(max(1.0, *(np.abs(each).max() for each in (x, before, z, *parameters.values()))))
    return float(-np.mean(np.log(p[rows, labels]))), gradients, largest**2


_RANDOM = np.random.default_rng(2025)
_X = _RANDOM.normal(size=32)
_LINE: tuple[Truth, tuple[np.ndarray, np.ndarray]] = (
    {"w": np.array(0.3), "b": np.array(-0.7)},
    (_X, 2 * _X - 1 + 0.1 * _RANDOM.normal(size=32)),
)
_MLP: tuple[Truth, tuple[np.ndarray, np.ndarray]] = (
    {
        "hidden/kernel": _RANDOM.normal(size=(5, 4)),
        "hidden/bias": _RANDOM.normal(size=4),
        "logits/kernel": _RANDOM.normal(size=(4, 3)),
        "logits/bias": _RANDOM.normal(size=3),
    },
    (_RANDOM.normal(size=(16, 5)), _RANDOM.integers(0, 3, 16).astype(np.int32)),
)
