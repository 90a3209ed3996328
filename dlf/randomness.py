"""One seed for everything that draws random numbers."""

from __future__ import annotations

import keras

from dlf.errors import InvalidArgumentError
from dlf.keras_internals import tensorflow_hidden

__all__ = ["set_seed"]


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy, Keras and the backend's own generator, and thereby dlf's shuffling.

    The same seed gives the same run on the same backend and machine. Between backends the initial weights, the
    dropout masks and the shuffling inside Keras's `fit` differ; the order in which an `ArrayDataset` is shuffled is
    the same.

    Args:
        seed: An integer from 0 to 2³² - 1.

    Raises:
        InvalidArgumentError: The seed is not such an integer.

    Example:
        >>> set_seed(2025)
        >>> first = float(keras.random.uniform(()))
        >>> set_seed(2025)
        >>> first == float(keras.random.uniform(()))
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidArgumentError("seed", expected="an integer from 0 to 4294967295", received=seed)
    with tensorflow_hidden():
        keras.utils.set_random_seed(seed)
