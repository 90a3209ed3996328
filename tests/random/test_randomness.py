from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from random_cases import COMPUTING, MASKS, NOISE, build, digest, draw_with_layer, seen, to_numpy

from dlf.random._initializers import uninstall
from dlf.random.seed import common_randomness, current_seed, randomness_report, set_seed, was_seeded
from dlf.utils.errors import InvalidArgumentError

BACKEND = keras.config.backend()
FITTED = "d634cdb16668970f"
GOLDEN = json.loads((Path(__file__).parent / "random_golden.json").read_text())


@pytest.fixture(autouse=True)
def _stock_initializers() -> Iterator[None]:
    yield
    uninstall()


def draw() -> list[float]:
    layer = keras.layers.Dense(2)
    layer.build((None, 2))
    return [
        random.random(),  # noqa: S311
        float(np.random.rand()),  # noqa: NPY002
        float(keras.random.uniform(())),
        *np.ravel(keras.ops.convert_to_numpy(layer.kernel)).tolist(),
    ]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    drawn = []
    for seed in (5, 5, 6):
        set_seed(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", True, None])
def test_a_seed_is_an_integer_that_numpy_takes(seed: object) -> None:
    with pytest.raises(InvalidArgumentError, match="seed: expected an integer from 0 to 4294967295"):
        set_seed(seed)  # type: ignore[arg-type]  # That is the point.


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] == "tensorflow", reason="TensorFlow is the backend")
def test_neither_seeding_nor_saving_imports_tensorflow(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Keras asks whether TensorFlow is available, which imports it; here, a stand-in prints when it is imported."""
    code = """
import sys, pathlib
stand_in = "import types; random = types.SimpleNamespace(set_seed=lambda seed: print('SEED', seed)); print('IMPORTED')"
pathlib.Path("tensorflow.py").write_text(stand_in)
sys.path.insert(0, ".")
import keras
from dlf.backend.keras_internals import tensorflow_hidden
from dlf.random.seed import set_seed
set_seed(1)
set_seed(2)
with tensorflow_hidden():
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save("model.keras")
print("tensorflow" in sys.modules)
keras.utils.set_random_seed(3)
"""
    ended = run_python("-c", code)
    # The last call is Keras's own, without dlf's guard. If it prints nothing, Keras no longer imports TensorFlow there,
    # and the guard can be removed.
    assert ended.stdout.split()[:2] == ["False", "IMPORTED"], ended.stdout + ended.stderr
    # A TensorFlow that is imported later is seeded all the same.
    assert ended.stdout.split()[2:4] == ["SEED", "2"], ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed beside the backend")
def test_a_shuffle_of_tf_data_draws_as_if_keras_had_set_the_seed(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = """
import sys
if sys.argv[1] == "keras":
    from keras.utils import set_random_seed as set_seed
else:
    from dlf import set_seed
set_seed(7)
import tensorflow as tf
print([int(each) for each in tf.data.Dataset.range(20).shuffle(20)])
"""
    ours, keras_s = (run_python("-c", code, who).stdout for who in ("dlf", "keras"))
    assert ours.startswith("[")
    assert ours == keras_s


def test_a_change_of_keras_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from keras.src.utils import module_utils

    from dlf.backend.keras_internals import tensorflow_hidden
    from dlf.utils.errors import BackendError

    if keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow is the backend")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(module_utils, "tensorflow", object())
    with pytest.raises(BackendError, match="which is gone"), tensorflow_hidden():
        pass


def check(name: str, drawn: np.ndarray) -> None:
    if name in COMPUTING:
        np.testing.assert_allclose(np.ravel(drawn)[:60], GOLDEN[name], atol=3e-6)
    else:
        assert digest(drawn) == GOLDEN[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MASKS, *NOISE, *COMPUTING])
def test_layers_draw_the_golden_numbers(name: str) -> None:
    with common_randomness():
        check(name, draw_with_layer(name))


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="the masks are JAX's")
@pytest.mark.parametrize("name", [*MASKS, *COMPUTING])
def test_the_golden_masks_are_those_of_unpatched_keras_on_jax(name: str) -> None:
    if name == "RandomErasing":
        pytest.skip("it draws normal numbers, of which JAX's own differ in the last bits")
    check(name, draw_with_layer(name))


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX they are the same")
def test_without_the_context_masks_are_others() -> None:
    assert digest(draw_with_layer("Dropout")) != GOLDEN["Dropout"]


def compilers() -> dict[str, Callable[[Any], Callable[[Any], Any]]]:
    """Returns ways of compiling a layer's call that keep the state of its seed from call to call."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {
            "tf.function": lambda layer: tf.function(lambda x: layer(x, training=True)),
            "XLA": lambda layer: tf.function(lambda x: layer(x, training=True), jit_compile=True),
        }
    if BACKEND == "jax":
        return {"jax.jit": _jitted}
    import torch

    # PyTorch's default compiler needs a minute and a C++ compiler. This backend traces in the same way, and then runs
    # the operations as they are.
    return {"torch.compile": lambda layer: torch.compile(lambda x: layer(x, training=True), backend="aot_eager")}


def _jitted(layer: Any) -> Callable[[Any], Any]:
    import jax

    weights = [each.value for each in layer.trainable_variables]
    step = jax.jit(lambda state, x: layer.stateless_call(weights, state, x, training=True))

    def call(x: Any) -> Any:
        state = [each.value for each in layer.non_trainable_variables]
        output, state = step(state, x)
        for variable, value in zip(layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return output

    return call


# PyTorch's compiler takes ten seconds for each.
COMPILED = ["Dropout", "Dropout, noise_shape", "GaussianNoise"] if BACKEND == "torch" else [*MASKS, *NOISE]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("compiler", list(compilers()))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # PyTorch's compiler has its own.
def test_compiled_layers_draw_the_golden_numbers_step_after_step(compiler: str, name: str) -> None:
    layer, tensors = build(name)
    with common_randomness():
        call = compilers()[compiler](layer)
        check(name, np.stack([seen(name, call(tensors)) for _ in range(2)]))


def summed_masks(*, ways: Any) -> tuple[str, list[int]]:
    """Takes three steps of `fit` with the mean output as loss, so that the kernel sums up the means of the masks."""
    keras.utils.set_random_seed(11)
    kernel = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    dropout = keras.layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((16,)), dropout, kernel])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda _, predicted: keras.ops.mean(predicted), **ways)
    model.fit(np.ones((12, 16), np.float32), np.zeros((12, 1), np.float32), batch_size=4, shuffle=False, verbose=0)
    state = np.asarray(keras.ops.convert_to_numpy(dropout.seed_generator.state.value))
    return digest(to_numpy(kernel.kernel)), state.tolist()


WAYS: list[dict[str, bool]] = [{"run_eagerly": True}, {"jit_compile": False}]


@pytest.mark.parametrize("ways", WAYS if BACKEND == "torch" else [*WAYS, {"jit_compile": True}], ids=str)
def test_three_steps_of_fit_see_the_same_masks(ways: dict[str, bool]) -> None:
    with common_randomness():
        kernel, state = summed_masks(ways=ways)
    assert kernel == FITTED
    assert state == [485738844, 3]


def test_a_batch_without_a_fixed_size_draws_its_masks_too() -> None:
    with common_randomness():
        layer = keras.layers.Dropout(0.5, seed=1)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
        model.compile("sgd", "mse")
        model.fit(np.ones((5, 3), np.float32), np.ones((5, 1), np.float32), batch_size=2, shuffle=False, verbose=0)
    assert to_numpy(layer.seed_generator.state).tolist() == [1, 3]


def test_the_gradient_passes_through_the_mask() -> None:
    with common_randomness():
        kernel, _ = summed_masks(ways={"jit_compile": False})
    assert kernel != digest(np.zeros((16, 1), np.float32))


def test_what_was_seeded_is_known(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = """
from dlf.random.seed import current_seed, set_seed, was_seeded
print(was_seeded(), current_seed())
set_seed(3)
print(was_seeded(), current_seed())
"""
    ended = run_python("-c", code)
    # set_seed itself prints nothing in a script.
    assert ended.stdout.split() == ["False", "None", "True", "3"], ended.stderr
    set_seed(8)
    assert was_seeded()
    assert current_seed() == 8


def test_the_report_is_short_plain_and_complete() -> None:
    class Mine(keras.initializers.Initializer):  # type: ignore[misc]  # Keras has no types.
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return keras.ops.ones(shape, dtype)

    class Noisy(keras.layers.Layer):  # type: ignore[misc]
        def call(self, values: Any) -> Any:
            return values * keras.random.gamma((1,), 2.0, seed=1)

    class Foreign(keras.layers.Layer):  # type: ignore[misc]
        def call(self, values: Any) -> Any:
            return values + np.random.normal()  # noqa: NPY002 - that is what is found.

    report = set_seed(4)
    assert str(report).count("\n") < 12
    assert "seed 4" in str(report)
    assert "gamma, beta, binomial, categorical" in str(report)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Dense(2, kernel_initializer=Mine(), name="a"),
            layers.BatchNormalization(name="b"),
            keras.Sequential([Noisy(name="c"), layers.Dropout(0.1)]),
            Foreign(name="d"),
            layers.MixUp(name="e"),
        ]
    )
    assert randomness_report(model).not_common_in_model == (
        "a (Dense): kernel_initializer is Mine, which draws by itself",
        "c (Noisy): draws by random.gamma, which is not common",
        "d (Foreign): draws by NumPy's own random.normal, which is not common",
        "e (MixUp): draws by random.beta, which is not common",
    )
    assert "in this model: all common" in str(randomness_report(keras.Sequential([layers.Dense(2)])))
    assert json.loads(json.dumps(randomness_report(model).as_dict()))["seed"] == 4
