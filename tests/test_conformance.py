from __future__ import annotations

import contextlib
from typing import Any

import keras
import pytest

from dlf.backend.registry import current_backend
from dlf.gradients.conformance import check_paths_in_float64
from dlf.testing import check_backend


def test_this_backend_conforms() -> None:
    check_backend(current_backend().name)


def _float32_inside(path: Any) -> Any:
    right = path.loss_and_gradients

    def loss_and_gradients(loss: Any, parameters: Any, batch: Any) -> Any:
        value, gradients = right(loss, parameters, batch)
        return value, {name: keras.ops.cast(each, "float32") for name, each in gradients.items()}

    return "loss_and_gradients", loss_and_gradients


def _half_of_the_product(path: Any) -> Any:
    right = path.hessian_vector_product
    return "hessian_vector_product", lambda *arguments: {name: each / 2 for name, each in right(*arguments).items()}


def _mean_of_the_examples(path: Any) -> Any:
    right = path.per_example_gradients

    def per_example_gradients(*arguments: Any) -> Any:
        return {name: keras.ops.mean(each, axis=0) for name, each in right(*arguments).items()}

    return "per_example_gradients", per_example_gradients


def _twice_the_loss(path: Any) -> Any:
    right = path.mlp_loss
    return "mlp_loss", lambda parameters, batch: 2 * right(parameters, batch)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_float32_inside, r"the gradients of the path .*, `line_loss`, .*, error: expected at most"),
        (_half_of_the_product, r"`hessian_vector_product`, w, error: expected at most"),
        (_mean_of_the_examples, r"`per_example_gradients`, w, shape: expected \(32,\), received \(\)"),
        (_twice_the_loss, r"`mlp_loss`, error: expected at most"),
    ],
)
def test_a_broken_promise_is_found(fault: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = current_backend()
    path = next(iter(backend.gradient_paths().values()))
    monkeypatch.setattr(path, *fault(path))
    with pytest.raises(AssertionError, match=message):
        check_paths_in_float64(backend)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="elsewhere float64 needs no context")
def test_a_context_without_float64_is_found() -> None:
    class Stays:
        def float64(self) -> Any:
            return contextlib.nullcontext()

    backend: Any = Stays()
    with pytest.raises(AssertionError, match=r"`float64`, the dtype of a third: expected float64, received float32"):
        check_paths_in_float64(backend)
