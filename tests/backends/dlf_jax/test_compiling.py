"""Functions that compute the same share one compiled program, and others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

if keras.config.backend() != "jax":
    pytest.skip("JAX alone compiles functions for dlf", allow_module_level=True)

import jax

from dlf.parity._recording.replay import compiled_if_possible
from dlf_jax import compiling
from dlf_jax.compiling import compiled

LARGE = np.linspace(0.0, 1.0, 5000)


@pytest.fixture(autouse=True)
def none_compiled() -> Iterator[None]:
    compiling._programs.clear()
    yield
    compiling._programs.clear()


def called(layer: keras.Layer) -> Callable[[Any], Any]:
    return compiled(lambda values: {"output": layer(values["input"])})


def test_layers_that_compute_the_same_are_compiled_once() -> None:
    x = {"input": np.array([-3.0, 2.0], "float32")}
    found = [called(keras.layers.LeakyReLU(0.25))(x)["output"] for _ in range(3)]
    assert len(compiling._programs) == 1
    assert all(np.array_equal(each, [-0.75, 2.0]) for each in found)


def test_a_layer_that_was_changed_after_it_was_made_is_another() -> None:
    x = {"input": np.array([-3.0, 2.0], "float32")}
    one, other = keras.layers.ReLU(), keras.layers.ReLU()
    other.call = lambda inputs: inputs * 2
    assert np.array_equal(called(one)(x)["output"], [0.0, 2.0])
    assert np.array_equal(called(other)(x)["output"], [-6.0, 4.0])


def test_what_is_called_back_in_python_is_never_taken_for_another() -> None:

    def calling_back(factor: float) -> Callable[[Any], Any]:
        return compiled(lambda x: jax.pure_callback(lambda each: np.asarray(each) * factor, x, x))

    x = np.ones(2, "float32")
    assert [float(calling_back(factor)(x)[0]) for factor in (2.0, 3.0)] == [2.0, 3.0]


@pytest.mark.parametrize("beside", [False, True], ids=["in the text", "beside the arguments"])
def test_arrays_that_functions_hold_tell_them_apart(beside: bool) -> None:

    name = "jax_use_simplified_jaxpr_constants"
    if not hasattr(jax.config, name):
        pytest.skip("this JAX passes no array beside the arguments")
    before = getattr(jax.config, name)
    jax.config.update(name, beside)
    try:
        functions = [compiled(lambda x, held=held: x + held) for held in (LARGE, LARGE + 1)]
        assert [float(function(np.zeros(5000))[0]) for function in functions] == [0.0, 1.0]
    finally:
        jax.config.update(name, before)


def test_an_argument_that_is_not_used_may_have_another_shape() -> None:
    for shape in ((8,), (8, 3)):
        ignoring = compiled(lambda x, _: x + 1)
        assert np.array_equal(ignoring(np.ones(2), np.zeros(shape)), [2.0, 2.0])


def test_other_shapes_are_other_programs() -> None:
    layer = called(keras.layers.LeakyReLU(0.25))
    for size in (2, 3, 2):
        assert layer({"input": np.full(size, -1.0, "float32")})["output"].shape == (size,)
    assert len(compiling._programs) == 2


def test_what_cannot_be_traced_runs_as_it_is_and_what_fails_fails() -> None:
    looks = compiled_if_possible(lambda x: x * 2 if float(x.sum()) > 0 else x)
    assert np.array_equal(looks(keras.ops.ones(2)), [2.0, 2.0])
    assert np.array_equal(looks(-keras.ops.ones(2)), [-1.0, -1.0])
    with pytest.raises(TypeError):
        compiled_if_possible(lambda x: x + "a")(np.ones(2))
    with pytest.raises(jax.errors.ConcretizationTypeError):
        compiled(lambda x: x * 2 if float(x.sum()) > 0 else x)(np.ones(2))


def test_no_more_programs_are_kept_than_a_model_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_KEPT", 2)
    for size in (1, 2, 3):
        compiled(lambda x: x + 1)(np.zeros(size))
    assert len(compiling._programs) == 2
