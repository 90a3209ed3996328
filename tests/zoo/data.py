"""Made-up data where normal numbers do not fit: functions ``(size, random) -> (x, y)`` that draw by NumPy only.

Requirements:

* every function takes a batch size and a NumPy generator, and gives the same bits on every backend;
* shapes fit the models in this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "binary",
    "binary_images",
    "boxes",
    "class_numbers",
    "embedding_labels",
    "images",
    "judged_binary",
    "judged_class_numbers",
    "judged_classes",
    "judged_masks",
    "judged_one_hot",
    "judged_positive",
    "judged_scores",
    "judged_signs",
    "judged_values",
    "judged_weighted",
    "labels_with_ignored",
    "masked_attention",
    "masked_sequences",
    "one_hot",
    "padded_sequences",
    "positive",
    "sequences",
    "signs",
    "special_points",
    "two_hot_images",
]

Random = np.random.Generator
Data = tuple[Any, Any]

CLASSES = 5
_POINTS = (0.0, -0.0, 1e-8, -1e-8, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 6.0, 20.0, -20.0, 90.0, -90.0, 1e4, -1e4)


def _normal(size: int, random: Random, *shape: int) -> np.ndarray:
    return random.standard_normal((size, *shape)).astype("float32")


def _uniform(size: int, random: Random, *shape: int) -> np.ndarray:
    return random.uniform(0.05, 0.95, (size, *shape)).astype("float32")


def _one_hot(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(np.eye(CLASSES, dtype="float32")[numbers])


def _classes(size: int, random: Random) -> np.ndarray:
    return random.integers(CLASSES, size=size).astype("int32")


def _probabilities(size: int, random: Random) -> np.ndarray:
    found = _uniform(size, random, CLASSES)
    return np.asarray(found / found.sum(-1, keepdims=True))


def _mask(size: int, random: Random, length: int) -> np.ndarray:
    """A mask with holes, in which no row is empty."""
    mask = random.random((size, length)) < 0.6
    mask[:, 0] = True
    return mask


# For layers: the targets are two numbers.


def images(size: int, random: Random) -> Data:
    """Color images of 8 rows and 7 columns, with values from 0 to 255.

    Example:
        >>> x, y = images(2, np.random.default_rng(0))
        >>> x.shape, float(x.max()) <= 255
        ((2, 8, 7, 3), True)
    """
    return random.integers(256, size=(size, 8, 7, 3)).astype("float32"), _normal(size, random, 2)


def boxes(size: int, random: Random) -> Data:
    """Images with three bounding boxes each, as left, top, right and bottom, and the labels of the boxes."""
    corner = random.uniform(0, 3, (size, 3, 2))
    place = np.concatenate([corner, corner + random.uniform(1, 4, (size, 3, 2))], -1).astype("float32")
    labels = random.integers(4, size=(size, 3)).astype("float32")
    return [images(size, random)[0], place, labels], _normal(size, random, 2)


def padded_sequences(size: int, random: Random) -> Data:
    """Sequences of 7 steps of 4 numbers, which end in zeros."""
    x = _normal(size, random, 7, 4)
    x[np.arange(7) >= random.integers(2, 8, size=(size, 1))] = 0
    return x, _normal(size, random, 2)


def masked_sequences(size: int, random: Random) -> Data:
    """Sequences of 7 steps of 4 numbers, and which of the steps count."""
    return [_normal(size, random, 7, 4), _mask(size, random, 7)], _normal(size, random, 2)


def masked_attention(size: int, random: Random) -> Data:
    """Queries of 5 steps, values of 7, and which of the values count."""
    return [_normal(size, random, 5, 4), _normal(size, random, 7, 4), _mask(size, random, 7)], _normal(size, random, 2)


def special_points(size: int, random: Random) -> Data:
    """Numbers at which functions have corners, flat ends and overflows, six in each example."""
    return random.choice(np.array(_POINTS, "float32"), (size, 6)), _normal(size, random, 2)


# For losses: the inputs are four numbers, and predictions are of five classes.


def one_hot(size: int, random: Random) -> Data:
    """Targets that are one class of five, as one-hot vectors.

    Example:
        >>> one_hot(2, np.random.default_rng(0))[1].sum(-1).tolist()
        [1.0, 1.0]
    """
    return _normal(size, random, 4), _one_hot(_classes(size, random))


def class_numbers(size: int, random: Random) -> Data:
    """Targets that are integer class labels."""
    return _normal(size, random, 4), _classes(size, random)


def labels_with_ignored(size: int, random: Random) -> Data:
    """Targets that are integer class labels, or -1 for examples to ignore."""
    y = _classes(size, random)
    y[::3] = -1
    return _normal(size, random, 4), y


def embedding_labels(size: int, random: Random) -> Data:
    """Labels from 0 to 2, which repeat."""
    return _normal(size, random, 4), (np.arange(size) % 3).astype("int32")


def binary(size: int, random: Random) -> Data:
    """Targets that are zeros and ones."""
    return _normal(size, random, 4), random.integers(2, size=(size, CLASSES)).astype("float32")


def signs(size: int, random: Random) -> Data:
    """Targets that are -1 and 1."""
    return _normal(size, random, 4), random.choice(np.array([-1, 1], "float32"), (size, CLASSES))


def positive(size: int, random: Random) -> Data:
    """Targets above zero."""
    return _normal(size, random, 4), random.uniform(0.1, 3, (size, CLASSES)).astype("float32")


def binary_images(size: int, random: Random) -> Data:
    """Images of 4 rows, 3 columns and 2 channels, and a mask of the same shape."""
    return _normal(size, random, 4, 3, 2), random.integers(2, size=(size, 4, 3, 2)).astype("float32")


def two_hot_images(size: int, random: Random) -> Data:
    """Images of 4 rows, 3 columns and 2 channels, and masks in which one channel is on at each pixel."""
    return _normal(size, random, 4, 3, 2), np.eye(2, dtype="float32")[random.integers(2, size=(size, 4, 3))]


def sequences(size: int, random: Random) -> Data:
    """Sequences of 12 steps, and texts of two to four of the symbols 1 to 5, padded with 0."""
    y = random.integers(1, 6, size=(size, 4)).astype("int32")
    y[np.arange(4) >= random.integers(2, 5, size=(size, 1))] = 0
    return _normal(size, random, 12, 4), y


# For metrics: the inputs are true and predicted values.


def judged_values(size: int, random: Random) -> Data:
    """True and predicted numbers, three in each example.

    Example:
        >>> [each.shape for each in judged_values(2, np.random.default_rng(0))[0]]
        [(2, 3), (2, 3)]
    """
    true = _normal(size, random, 3)
    return [true, true + 0.5 * _normal(size, random, 3)], _normal(size, random, 2)


def judged_positive(size: int, random: Random) -> Data:
    """True and predicted numbers above zero."""
    return [3 * _uniform(size, random, 3), 3 * _uniform(size, random, 3)], _normal(size, random, 2)


def judged_classes(size: int, random: Random) -> Data:
    """True and predicted class labels, some of which agree."""
    true, other = random.integers(3, size=(2, size, 3)).astype("float32")
    return [true, np.where(random.random((size, 3)) < 0.5, true, other)], _normal(size, random, 2)


def judged_binary(size: int, random: Random) -> Data:
    """True zeros and ones, and predicted probabilities."""
    return [random.integers(2, size=(size, 3)).astype("float32"), _uniform(size, random, 3)], _normal(size, random, 2)


def judged_signs(size: int, random: Random) -> Data:
    """True signs, and predicted numbers."""
    return [random.choice(np.array([-1, 1], "float32"), (size, 3)), _normal(size, random, 3)], _normal(size, random, 2)


def judged_one_hot(size: int, random: Random) -> Data:
    """One true class of five as a one-hot vector, and the predicted probabilities."""
    return [_one_hot(_classes(size, random)), _probabilities(size, random)], _normal(size, random, 2)


def judged_class_numbers(size: int, random: Random) -> Data:
    """The label of a true class, and the predicted probabilities of each class."""
    return [_classes(size, random).astype("float32"), _probabilities(size, random)], _normal(size, random, 2)


def judged_scores(size: int, random: Random) -> Data:
    """True zeros and ones, and predicted probabilities, many of which are equal."""
    scores = (random.integers(1, 10, size=(size, 3)) / 10).astype("float32")
    return [random.integers(2, size=(size, 3)).astype("float32"), scores], _normal(size, random, 2)


def judged_masks(size: int, random: Random) -> Data:
    """True and predicted images of 4 rows and 3 columns, of the labels of three classes."""
    true, predicted = random.integers(3, size=(2, size, 4, 3)).astype("int32")
    return [true, predicted], _normal(size, random, 2)


def judged_weighted(size: int, random: Random) -> Data:
    """True and predicted numbers, and the weight of each example."""
    (true, predicted), y = judged_values(size, random)
    return [true, predicted, _uniform(size, random)], y
