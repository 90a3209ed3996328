from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable

import keras
import numpy as np
import pytest

from dlf.errors import InvalidArgumentError
from dlf.randomness import set_seed


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
    """Keras asks whether it is available, and asking imports it; a stand-in raises the alarm."""
    code = """
import sys, pathlib
pathlib.Path("tensorflow.py").write_text("print('IMPORTED')")
sys.path.insert(0, ".")
import keras
from dlf.keras_internals import tensorflow_hidden
from dlf.randomness import set_seed
set_seed(1)
with tensorflow_hidden():
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save("model.keras")
print("tensorflow" in sys.modules)
keras.utils.set_random_seed(1)
"""
    ended = run_python("-c", code)
    # The last call is Keras's own, outside: if it prints nothing, Keras no longer does this and the guard can go.
    assert ended.stdout.split()[:2] == ["False", "IMPORTED"], ended.stdout + ended.stderr


def test_a_change_of_keras_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from keras.src.utils import module_utils

    from dlf.errors import BackendError
    from dlf.keras_internals import tensorflow_hidden

    if keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow is the backend")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(module_utils, "tensorflow", object())
    with pytest.raises(BackendError, match="which is gone"), tensorflow_hidden():
        pass
