"""Every loss of Keras, each with predictions and targets that suit it.

Requirements:

* probabilities, logits, label smoothing, axes and each reduction to a scalar have cases;
* a loss function is tested by the class that calls it; one without a class has an entry of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
from keras import layers, losses

from zoo.data import CLASSES
from zoo.entry import Case, Entry, build_function, entries_of, public_classes, public_functions
from zoo.models import compiled_with

__all__ = ["CASES", "NOT_APPLICABLE", "entries"]

NOT_APPLICABLE = {"Loss": "a base class"}

_SEQUENCE, _IMAGE = (12, 4), (4, 3, 2)


def _judged(make: Callable[[], Any], activation: str | None, units: int, shape: tuple[int, ...]) -> Any:
    return compiled_with(make(), layers.Dense(units, activation=activation, name="last"), shape=shape)


def _given(
    data: str, activation: str | None, *, units: int = CLASSES, shape: tuple[int, ...] = (4,), **makers: Any
) -> dict[str, Case]:
    target = f"zoo.data:{data}"
    return {name: Case(partial(_judged, make, activation, units, shape), target) for name, make in makers.items()}


def _circle() -> Any:
    # The loss takes embeddings of length one.
    return compiled_with(
        losses.Circle(gamma=2.0), layers.Dense(CLASSES, name="last"), layers.UnitNormalization(name="unit")
    )


def _circle_diagonal() -> Any:
    loss = losses.Circle(gamma=2.0, margin=0.2, remove_diagonal=False)
    return compiled_with(loss, layers.Dense(CLASSES, name="last"), layers.UnitNormalization(name="unit"))


CASES: dict[str, Case] = {
    **_given(
        "positive",
        None,
        CosineSimilarity=losses.CosineSimilarity,
        CosineSimilarity__axis=lambda: losses.CosineSimilarity(axis=0),
        Huber=losses.Huber,
        Huber__delta=lambda: losses.Huber(delta=0.3),
        LogCosh=losses.LogCosh,
        MeanAbsoluteError=losses.MeanAbsoluteError,
        MeanAbsolutePercentageError=losses.MeanAbsolutePercentageError,
        MeanSquaredError=losses.MeanSquaredError,
        MeanSquaredError__sum=lambda: losses.MeanSquaredError(reduction="sum"),
        MeanSquaredError__mean_with_sample_weight=lambda: losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        MeanSquaredLogarithmicError=losses.MeanSquaredLogarithmicError,
    ),
    **_given("positive", "softplus", Poisson=losses.Poisson),
    **_given(
        "signs",
        None,
        Hinge=losses.Hinge,
        SquaredHinge=losses.SquaredHinge,
    ),
    **_given(
        "binary",
        None,
        BinaryCrossentropy__logits=lambda: losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
        BinaryFocalCrossentropy__logits=lambda: losses.BinaryFocalCrossentropy(from_logits=True),
        Hinge__binary=losses.Hinge,
        SquaredHinge__binary=losses.SquaredHinge,
    ),
    **_given(
        "binary",
        "sigmoid",
        BinaryCrossentropy=losses.BinaryCrossentropy,
        BinaryCrossentropy__smoothing=lambda: losses.BinaryCrossentropy(label_smoothing=0.1),
        BinaryFocalCrossentropy=losses.BinaryFocalCrossentropy,
        BinaryFocalCrossentropy__balanced=lambda: losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, alpha=0.3, gamma=1.5, label_smoothing=0.1
        ),
    ),
    **_given(
        "one_hot",
        None,
        CategoricalCrossentropy__logits=lambda: losses.CategoricalCrossentropy(from_logits=True),
        CategoricalFocalCrossentropy__logits=lambda: losses.CategoricalFocalCrossentropy(from_logits=True),
        CategoricalHinge=losses.CategoricalHinge,
    ),
    **_given(
        "one_hot",
        "softmax",
        CategoricalCrossentropy=losses.CategoricalCrossentropy,
        CategoricalCrossentropy__smoothing=lambda: losses.CategoricalCrossentropy(label_smoothing=0.1),
        CategoricalFocalCrossentropy=losses.CategoricalFocalCrossentropy,
        CategoricalFocalCrossentropy__smoothing=lambda: losses.CategoricalFocalCrossentropy(
            alpha=0.4, gamma=1.5, label_smoothing=0.1
        ),
        KLDivergence=losses.KLDivergence,
    ),
    **_given(
        "class_numbers",
        "softmax",
        CategoricalGeneralizedCrossEntropy=losses.CategoricalGeneralizedCrossEntropy,
        CategoricalGeneralizedCrossEntropy__q=lambda: losses.CategoricalGeneralizedCrossEntropy(q=0.8),
        SparseCategoricalCrossentropy=losses.SparseCategoricalCrossentropy,
    ),
    **_given(
        "class_numbers",
        None,
        SparseCategoricalCrossentropy__logits=lambda: losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
    **_given(
        "labels_with_ignored",
        None,
        SparseCategoricalCrossentropy__ignored_logits=lambda: losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=-1
        ),
    ),
    **_given(
        "labels_with_ignored",
        "softmax",
        SparseCategoricalCrossentropy__ignored=lambda: losses.SparseCategoricalCrossentropy(ignore_class=-1),
    ),
    **_given(
        "binary_images",
        "sigmoid",
        units=2,
        shape=_IMAGE,
        BinaryCrossentropy__images=losses.BinaryCrossentropy,
        Dice=losses.Dice,
        Dice__axes=lambda: losses.Dice(axis=(1, 2, 3)),
        Tversky=losses.Tversky,
        Tversky__axes=lambda: losses.Tversky(alpha=0.3, beta=0.7, axis=(1, 2)),
    ),
    **_given(
        "two_hot_images",
        "softmax",
        units=2,
        shape=_IMAGE,
        CategoricalCrossentropy__images=losses.CategoricalCrossentropy,
        CategoricalFocalCrossentropy__images=losses.CategoricalFocalCrossentropy,
    ),
    **_given("sequences", None, units=6, shape=_SEQUENCE, CTC=losses.CTC),
    "Circle": Case(_circle, "zoo.data:embedding_labels"),
    "Circle__with_diagonal": Case(_circle_diagonal, "zoo.data:embedding_labels"),
}


def entries() -> Iterator[Entry]:
    """Yields every loss of Keras.

    Example:
        >>> [each.case for each in entries() if each.name == "Dice"]
        ['', 'axes']
    """
    classes = public_classes(keras.losses, losses.Loss)
    with_class = {each.lower() for each in classes}
    alone = [each for each in public_functions(keras.losses) if each.replace("_", "") not in with_class]
    return entries_of("losses", __name__, [*classes, *alone], CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
