"""Initial weights: the same golden ones on every backend, with the distribution that Keras documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from random_cases import WEIGHTS, digest, to_numpy

from dlf.random._initializers import NOTES, common_initial_weights, install, is_common, uninstall
from dlf.random._orthogonal import orthonormal_columns

GOLDEN = json.loads((Path(__file__).parent / "random_golden.json").read_text())
MODEL = [
    "87df88690bc0e0f2",
    "de47c9b27eb8d300",
    "7e192cce7d70e9e7",
    "1621cc53b572e937",
    "3ede387409f4336a",
    "afe438c6597fe9e0",
    "af5570f5a1810b7a",
]
initializers: Any = keras.initializers


@pytest.fixture(autouse=True)
def _common() -> Iterator[None]:
    with common_initial_weights():
        yield


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_are_the_golden_ones(name: str) -> None:
    assert digest(to_numpy(WEIGHTS[name]())) == GOLDEN[name]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # JAX has no float64 unless asked.
def test_other_types_are_the_same_weights_rounded(dtype: str) -> None:
    weights = initializers.HeNormal(seed=5)((6, 5), dtype=dtype)
    as_float32 = initializers.HeNormal(seed=5)((6, 5))
    assert keras.backend.standardize_dtype(weights.dtype) in (dtype, "float32" if dtype == "float64" else dtype)
    assert np.array_equal(to_numpy(weights), to_numpy(keras.ops.cast(as_float32, dtype)))


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation", "least", "most"),
    [
        (initializers.RandomNormal(0.5, 2.0, seed=1), 0.5, 2.0, -12, 12),
        (initializers.TruncatedNormal(0.5, 2.0, seed=2), 0.5, 2 * 0.8796, -3.5, 4.5),
        (initializers.RandomUniform(-1.0, 3.0, seed=3), 1.0, 4 / 12**0.5, -1, 3),
        (initializers.GlorotUniform(seed=4), 0.0, (2 / 600) ** 0.5, -0.1, 0.1),
        (initializers.HeNormal(seed=5), 0.0, (2 / 200) ** 0.5, -0.2274, 0.2274),
        (initializers.LecunUniform(seed=6), 0.0, (1 / 200) ** 0.5, -0.1225, 0.1225),
        (initializers.VarianceScaling(1.0, "fan_out", "untruncated_normal", 7), 0.0, (1 / 400) ** 0.5, -1, 1),
        (initializers.Orthogonal(2.0, seed=8), 0.0, 2 / 400**0.5, -1, 1),
    ],
)
def test_weights_have_the_documented_distribution(
    initializer: Any, mean: float, deviation: float, least: float, most: float
) -> None:
    weights = to_numpy(initializer((200, 400))).astype(np.float64)
    assert abs(weights.mean() - mean) < 5 * deviation / weights.size**0.5
    assert abs(weights.std() / deviation - 1) < 0.01
    assert least <= weights.min() < weights.max() <= most


def test_orthogonal_weights_are_orthogonal_and_as_random_as_their_source() -> None:
    matrix = np.random.RandomState(3).standard_normal((90, 40))
    q = orthonormal_columns(matrix)
    assert q is not None
    reference, r = np.linalg.qr(matrix)
    np.testing.assert_allclose(q, reference * np.sign(np.diag(r)), atol=1e-11)
    wide = to_numpy(initializers.Orthogonal(seed=1)((2, 3, 40))).reshape(6, 40)
    np.testing.assert_allclose(wide @ wide.T, np.eye(6), atol=1e-6)
    assert orthonormal_columns(np.ones((3, 2))) is None


def test_the_same_seed_and_shape_are_the_same_numbers_and_others_are_not() -> None:
    first, again = (to_numpy(initializers.RandomNormal(seed=5)((40, 50))) for _ in range(2))
    assert np.array_equal(first, again)
    scaled = to_numpy(initializers.RandomNormal(stddev=0.1, seed=5)((40, 50)))
    np.testing.assert_allclose(scaled, 2 * first, rtol=1e-6)
    for other in (initializers.RandomNormal(seed=6)((40, 50)), initializers.RandomNormal(seed=5)((50, 40))):
        assert abs(np.corrcoef(first.ravel(), to_numpy(other).ravel())[0, 1]) < 0.1


def test_a_seed_generator_advances_as_keras_advances_it() -> None:
    generator = keras.random.SeedGenerator(9)
    initializer = initializers.GlorotUniform(seed=generator)
    first, second = to_numpy(initializer((3, 4))), to_numpy(initializer((3, 4)))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, to_numpy(initializers.GlorotUniform(seed=9)((3, 4))))
    assert to_numpy(generator.state).tolist() == [9, 2]


def test_layers_of_a_seeded_model_start_alike() -> None:
    def weights() -> list[str]:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((8, 4))
        hidden = keras.layers.LSTM(6)(keras.layers.Conv1D(5, 3)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
        return [digest(np.asarray(each)) for each in model.get_weights()]

    assert weights() == weights() == MODEL


def test_a_layer_that_is_built_while_a_function_is_compiled_starts_alike() -> None:
    layer = keras.layers.Dense(3, kernel_initializer=initializers.HeNormal(seed=5))
    expected = digest(to_numpy(initializers.HeNormal(seed=5)((4, 3))))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tf.function(layer)(tf.ones((2, 4)))
    elif keras.config.backend() == "jax":
        import jax

        assert digest(np.asarray(jax.jit(lambda: initializers.HeNormal(seed=5)((4, 3)))())) == expected
        layer.build((2, 4))
    else:
        keras.Sequential([keras.Input((4,)), layer])
    assert digest(to_numpy(layer.kernel)) == expected


@pytest.mark.skipif(keras.config.backend() == "torch", reason="PyTorch runs eagerly: a seed is always there")
def test_a_seed_that_is_not_known_yet_is_left_to_keras_and_noted() -> None:
    NOTES.clear()
    generator = keras.random.SeedGenerator(9)
    initializer = initializers.HeNormal(seed=generator)
    if keras.config.backend() == "jax":
        import jax

        def draw(state: Any) -> Any:
            with keras.StatelessScope(state_mapping=[(generator.state, state)]):
                return initializer((2, 2))

        jax.jit(draw)(generator.state.value)
    else:
        import tensorflow as tf

        tf.function(lambda: initializer((2, 2)))()
    assert NOTES == {"HeNormal": "its seed is known only when the compiled function runs"}


def test_initializers_of_users_are_left_alone() -> None:
    class Sevens(initializers.Initializer):  # type: ignore[misc]  # Keras has no types.
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return 7 * keras.ops.ones(shape, dtype)

    class Doubled(initializers.HeNormal):  # type: ignore[misc]
        pass

    assert to_numpy(Sevens()((2,))).tolist() == [7, 7]
    assert not is_common(Sevens())
    assert is_common(Doubled())
    assert is_common("zeros") is False


def test_undoing_gives_keras_its_own_draw_back() -> None:
    common = to_numpy(initializers.HeNormal(seed=5)((6, 5)))
    uninstall()
    own_call = initializers.VarianceScaling.__call__
    assert not np.array_equal(common, to_numpy(initializers.HeNormal(seed=5)((6, 5))))
    install()
    install()
    assert np.array_equal(common, to_numpy(initializers.HeNormal(seed=5)((6, 5))))
    uninstall()
    assert initializers.VarianceScaling.__call__ is own_call


def test_bad_shapes_are_still_refused() -> None:
    with pytest.raises(ValueError, match="at least two-dimensional"):
        initializers.Orthogonal(seed=1)((3,))
    with pytest.raises(ValueError, match="window"):
        initializers.STFT(window=np.ones(3))((16, 1, 9))
