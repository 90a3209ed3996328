"""One seed for everything that draws random numbers, and the same numbers on every backend.

Requirements:

* after `set_seed`, initial weights have the same bits on TensorFlow, JAX and PyTorch;
* inside `common_randomness`, masks and noise do too, and are JAX's own;
* the report says in words which random numbers are not the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import keras

from dlf.backend.keras_internals import random_functions_replaced, tensorflow_hidden
from dlf.backend.registry import current_backend
from dlf.random import _initializers as initializers
from dlf.random import keras_random
from dlf.random._report import RandomnessReport, describe
from dlf.utils.errors import InvalidArgumentError

__all__ = [
    "common_randomness",
    "current_seed",
    "randomness_as_seeded",
    "randomness_report",
    "seed_set_aside",
    "set_seed",
    "was_seeded",
]

_seed: list[int] = []


def set_seed(seed: int) -> RandomnessReport:
    """Seeds Python, NumPy, Keras and the backend's own generator, and makes initial weights the same on every backend.

    From here on Keras's own initializers draw with NumPy, each from its own seed; `dlf.random._initializers.uninstall`
    undoes this. Dropout masks and noise are the same on every backend inside `common_randomness`.

    Args:
        seed: An integer from 0 to 2³² - 1.

    Returns:
        A report of what is the same on every backend and what is not; it prints as text.

    Raises:
        InvalidArgumentError: The seed is not such an integer.

    Example:
        >>> report = set_seed(2025)
        >>> first = float(keras.random.uniform(()))
        >>> report = set_seed(2025)
        >>> first == float(keras.random.uniform(()))
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidArgumentError("seed", expected="an integer from 0 to 4294967295", received=seed)
    with tensorflow_hidden():
        keras.utils.set_random_seed(seed)
    _seed_tensorflow_as_it_is_imported()
    initializers.install()
    initializers.NOTES.clear()
    keras_random.NOTES.clear()
    _seed[:] = [seed]
    return randomness_report()


@cache
def _seed_tensorflow_as_it_is_imported() -> None:
    """Registers a hook that seeds TensorFlow if it is imported later.

    `tf.data` may be used, and shuffle, on any backend. Importing TensorFlow now, as Keras would, takes seconds.
    """
    if "tensorflow" in sys.modules or find_spec("tensorflow") is None:
        return
    import wrapt

    def seed_it(module: Any) -> None:
        if was_seeded():
            module.random.set_seed(current_seed())

    wrapt.register_post_import_hook(seed_it, "tensorflow")


def was_seeded() -> bool:
    """Returns whether `set_seed` was called in this process.

    Example:
        >>> report = set_seed(7)
        >>> was_seeded()
        True
    """
    return bool(_seed)


def current_seed() -> int | None:
    """Returns the seed that `set_seed` was last given, or None.

    Example:
        >>> report = set_seed(7)
        >>> current_seed()
        7
    """
    return _seed[0] if _seed else None


@contextmanager
def common_randomness() -> Iterator[None]:
    """Draws masks and noise from one stream on every backend, for as long as the context lasts.

    `keras.random.dropout`, `uniform`, `randint` and `shuffle`, and the layers that call them, draw what Keras on JAX
    draws from the same seeds, bit for bit. `normal` and `truncated_normal` are the same on every backend, and differ
    from JAX's own in the last bits (see `dlf.random._threefry`). `categorical`, `gamma`, `beta` and `binomial` are not
    changed.

    A function that was compiled outside the context does not change inside it, and one that was compiled inside does
    not change back outside. Therefore enter the context before a model is first trained.

    Raises:
        BackendError: This version of Keras has other random functions.

    Example:
        >>> with common_randomness():
        ...     mask = keras.random.dropout(keras.ops.ones((8,)), rate=0.5, seed=7)
        >>> [int(each) for each in mask]
        [2, 2, 0, 0, 2, 2, 2, 0]

    Source: JAX's default generator, Threefry-2x32: J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
    """
    drawn_already = current_backend().common_draws()
    functions = keras_random.replacements()
    with random_functions_replaced({name: each for name, each in functions.items() if name not in drawn_already}):
        yield


def randomness_as_seeded() -> AbstractContextManager[None]:
    """Returns `common_randomness()` if `set_seed` was called in this process, else a context that does nothing."""
    return common_randomness() if was_seeded() else nullcontext()


@contextmanager
def seed_set_aside() -> Iterator[None]:
    """Makes dlf draw masks as if `set_seed` had not been called in this process, for as long as the context lasts.

    The generators stay seeded, and initial weights stay common.

    Example:
        >>> report = set_seed(7)
        >>> with seed_set_aside():
        ...     was_seeded()
        False
        >>> current_seed()
        7
    """
    before = _seed[:]
    _seed.clear()
    try:
        yield
    finally:
        _seed[:] = before


def randomness_report(model: Any = None) -> RandomnessReport:
    """Reports which random numbers are the same on every backend and which are not, in general and for a model.

    Args:
        model: A Keras model, whose layers and initializers are inspected; None reports in general only.

    Returns:
        A report that prints as a few lines of text; `as_dict()` returns plain types, for JSON.

    Example:
        >>> report = randomness_report(keras.Sequential([keras.layers.Dense(2)]))
        >>> report.not_common_in_model
        ()
    """
    return describe(current_seed(), model, {**initializers.NOTES, **keras_random.NOTES})
