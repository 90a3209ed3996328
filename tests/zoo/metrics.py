"""Every metric of Keras, computed by a layer from true and predicted values.

Requirements:

* two updates and one result, by the metric's stateless functions, are compared as a model's forward pass;
* gradients are not compared, since a metric has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import metrics, ops

from zoo.data import CLASSES
from zoo.entry import Case, Entry, build_function, entries_of, public_classes, public_functions
from zoo.models import Spec, around

__all__ = ["CASES", "NOT_APPLICABLE", "Judge", "entries"]

NOT_APPLICABLE = {"Metric": "a base class"}


class Judge(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Gives each example the result of a metric over the batch.

    Args:
        case: A name in `CASES`.
        width: How many numbers the result has.
        **keywords: Arguments of a layer.

    Example:
        >>> float(Judge("Mean")(ops.ones((2, 3)))[0, 0])
        1.0
    """

    def __init__(self, case: str, width: int = 1, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.case, self.width = case, width
        metric = _METRICS[case]()
        # Behind a function: Keras takes the metrics that a layer holds for the model's own.
        self._metric: Callable[[], Any] = lambda: metric

    def build(self, input_shape: Any) -> None:
        """Updates the metric once, since some create their variables at the first update, and resets it."""
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        self._metric().update_state(*[np.ones((2, *shape[1:]), "float32") for shape in shapes])
        self._metric().reset_state()

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns the shape of the result, repeated for each example."""
        first = input_shape[0] if isinstance(input_shape, list) else input_shape
        return first[0], self.width

    def call(self, inputs: Any) -> Any:
        """Updates the metric twice, the second time with the first input in another order, and returns the result."""
        first, *others = inputs if isinstance(inputs, list) else [inputs]
        metric = self._metric()
        state = [each.value for each in metric.variables]
        state = metric.stateless_update_state(state, first, *others)
        state = metric.stateless_update_state(state, ops.flip(first, axis=0), *others)
        result = ops.cast(metric.stateless_result(state), self.compute_dtype)
        return ops.broadcast_to(ops.reshape(result, (1, self.width)), (ops.shape(first)[0], self.width))

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, from which it can be recreated in another precision."""
        return {**super().get_config(), "case": self.case, "width": self.width}


_METRICS: dict[str, Callable[[], Any]] = {}


def _given(data: str, *inputs: Spec, width: int = 1, **makers: Callable[[], Any]) -> dict[str, Case]:
    _METRICS.update(makers)
    return {
        name: Case(
            partial(around, partial(Judge, name, width), *inputs), f"zoo.data:{data}", ("build", "forward"), steps=1
        )
        for name in makers
    }


def _sum_of_squares(true: Any, predicted: Any) -> Any:
    return ops.sum(ops.square(true - predicted), axis=-1)


_THREE: Sequence[Spec] = (Spec((3,)), Spec((3,)))
_ALL_CLASSES: Sequence[Spec] = (Spec((CLASSES,)), Spec((CLASSES,)))
_MASKS: Sequence[Spec] = (Spec((4, 3), "int32"), Spec((4, 3), "int32"))

_NUMBERS = {
    **_given(
        "judged_values",
        *_THREE,
        ConcordanceCorrelation=metrics.ConcordanceCorrelation,
        ConcordanceCorrelation__axis=lambda: metrics.ConcordanceCorrelation(axis=0),
        CosineSimilarity=metrics.CosineSimilarity,
        LogCoshError=metrics.LogCoshError,
        MeanAbsoluteError=metrics.MeanAbsoluteError,
        MeanAbsolutePercentageError=metrics.MeanAbsolutePercentageError,
        MeanMetricWrapper=lambda: metrics.MeanMetricWrapper(_sum_of_squares),
        MeanSquaredError=metrics.MeanSquaredError,
        PearsonCorrelation=metrics.PearsonCorrelation,
        PearsonCorrelation__axis=lambda: metrics.PearsonCorrelation(axis=0),
        R2Score=metrics.R2Score,
        R2Score__adjusted=lambda: metrics.R2Score("variance_weighted_average", num_regressors=2),
        RootMeanSquaredError=metrics.RootMeanSquaredError,
    ),
    **_given("judged_values", *_THREE, width=3, R2Score__each=lambda: metrics.R2Score(class_aggregation=None)),
    **_given(
        "judged_weighted",
        *_THREE,
        Spec(()),
        MeanSquaredError__weighted=metrics.MeanSquaredError,
        R2Score__weighted=metrics.R2Score,
        RootMeanSquaredError__weighted=metrics.RootMeanSquaredError,
    ),
    **_given(
        "judged_positive",
        *_THREE,
        MeanSquaredLogarithmicError=metrics.MeanSquaredLogarithmicError,
        Mean__weighted=metrics.Mean,
        Poisson=metrics.Poisson,
        Sum__weighted=metrics.Sum,
    ),
    **{
        name: Case(partial(around, partial(Judge, name), Spec((3,))), None, ("build", "forward"), steps=1)
        for name in ("Mean", "Sum")
    },
}
_METRICS |= {"Mean": metrics.Mean, "Sum": metrics.Sum}

_ACCURACIES = {
    **_given("judged_classes", *_THREE, Accuracy=metrics.Accuracy),
    **_given(
        "judged_signs",
        *_THREE,
        CategoricalHinge=metrics.CategoricalHinge,
        Hinge=metrics.Hinge,
        SquaredHinge=metrics.SquaredHinge,
    ),
    **_given(
        "judged_one_hot",
        *_ALL_CLASSES,
        CategoricalAccuracy=metrics.CategoricalAccuracy,
        CategoricalCrossentropy=metrics.CategoricalCrossentropy,
        F1Score__macro=lambda: metrics.F1Score(average="macro"),
        FBetaScore__weighted=lambda: metrics.FBetaScore(average="weighted", beta=2.0, threshold=0.2),
        KLDivergence=metrics.KLDivergence,
        OneHotIoU=lambda: metrics.OneHotIoU(CLASSES, [0, 2]),
        OneHotMeanIoU=lambda: metrics.OneHotMeanIoU(CLASSES),
        Precision__class_id=lambda: metrics.Precision(class_id=1, top_k=2),
        Recall__class_id=lambda: metrics.Recall(class_id=1, top_k=2),
        TopKCategoricalAccuracy=lambda: metrics.TopKCategoricalAccuracy(2),
    ),
    **_given("judged_one_hot", *_ALL_CLASSES, width=CLASSES, F1Score=metrics.F1Score, FBetaScore=metrics.FBetaScore),
    **_given(
        "judged_class_numbers",
        Spec(()),
        Spec((CLASSES,)),
        SparseCategoricalAccuracy=metrics.SparseCategoricalAccuracy,
        SparseCategoricalCrossentropy=metrics.SparseCategoricalCrossentropy,
        SparseTopKCategoricalAccuracy=lambda: metrics.SparseTopKCategoricalAccuracy(2),
    ),
    **_given(
        "judged_masks",
        *_MASKS,
        IoU=lambda: metrics.IoU(3, [0, 2]),
        MeanIoU=lambda: metrics.MeanIoU(3),
        MeanIoU__ignored=lambda: metrics.MeanIoU(3, ignore_class=1),
    ),
}

_DECISIONS = {
    **_given(
        "judged_binary",
        *_THREE,
        AUC=metrics.AUC,
        AUC__minoring=lambda: metrics.AUC(20, summation_method="minoring"),
        AUC__multi_label=lambda: metrics.AUC(20, multi_label=True, num_labels=3),
        AUC__precision_recall=lambda: metrics.AUC(20, curve="PR"),
        BinaryAccuracy=metrics.BinaryAccuracy,
        BinaryCrossentropy=metrics.BinaryCrossentropy,
        BinaryIoU=metrics.BinaryIoU,
        FalseNegatives=metrics.FalseNegatives,
        FalsePositives=metrics.FalsePositives,
        Precision=metrics.Precision,
        PrecisionAtRecall=lambda: metrics.PrecisionAtRecall(0.6, num_thresholds=20),
        Recall=metrics.Recall,
        RecallAtPrecision=lambda: metrics.RecallAtPrecision(0.6, num_thresholds=20),
        SensitivityAtSpecificity=lambda: metrics.SensitivityAtSpecificity(0.6, num_thresholds=20),
        SpecificityAtSensitivity=lambda: metrics.SpecificityAtSensitivity(0.6, num_thresholds=20),
        TrueNegatives=metrics.TrueNegatives,
        TruePositives=metrics.TruePositives,
    ),
    **_given(
        "judged_scores",
        *_THREE,
        AUC__equal_scores=lambda: metrics.AUC(10),
        BinaryAccuracy__equal_scores=lambda: metrics.BinaryAccuracy(threshold=0.3),
        Precision__equal_scores=lambda: metrics.Precision(thresholds=0.3),
        TruePositives__equal_scores=lambda: metrics.TruePositives(thresholds=0.3),
    ),
    **_given(
        "judged_binary",
        *_THREE,
        width=2,
        Precision__thresholds=lambda: metrics.Precision(thresholds=[0.3, 0.7]),
        TruePositives__thresholds=lambda: metrics.TruePositives(thresholds=[0.3, 0.7]),
    ),
}

CASES: dict[str, Case] = {**_NUMBERS, **_ACCURACIES, **_DECISIONS}


def entries() -> Iterator[Entry]:
    """Yields every metric of Keras.

    Example:
        >>> [each.stages for each in entries() if each.name == "Sum"][0]
        ('build', 'forward')
    """
    classes = public_classes(keras.metrics, metrics.Metric)
    # keras.metrics also has the losses, as functions.
    with_class = {each.lower() for each in [*classes, *public_classes(keras.losses, keras.losses.Loss)]}
    alone = [each for each in public_functions(keras.metrics) if each.replace("_", "") not in with_class]
    return entries_of("metrics", __name__, [*classes, *alone], CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
