"""Every optimizer and schedule of Keras, training a small perceptron.

Requirements:

* each option that changes the update has a case, and so has each way to transform gradients before it;
* each optimizer also trains an embedding, whose gradients some backends keep sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
from keras import optimizers
from keras.optimizers import schedules

from zoo.entry import Case, Entry, build_function, entries_of, public_classes
from zoo.models import trained_by

__all__ = ["CASES", "NOT_APPLICABLE", "entries"]

NOT_APPLICABLE = {"LearningRateSchedule": "a base class", "Optimizer": "a base class"}

_PLAIN: dict[str, Callable[[], Any]] = {
    "Adadelta": lambda: optimizers.Adadelta(0.5),
    "Adafactor": lambda: optimizers.Adafactor(0.01),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adam": lambda: optimizers.Adam(0.01),
    "AdamW": lambda: optimizers.AdamW(0.01),
    "Adamax": lambda: optimizers.Adamax(0.01),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "Lion": lambda: optimizers.Lion(0.01),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1), dynamic_growth_steps=2),
    "MultiOptimizer": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(0.1), {".*last/.*": optimizers.Adam(0.01)})
    ),
    "Muon": lambda: optimizers.Muon(0.01),
    "Nadam": lambda: optimizers.Nadam(0.01),
    "RMSprop": lambda: optimizers.RMSprop(0.01),
    "SGD": lambda: optimizers.SGD(0.1),
    "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(0.01),
}

_VARIANTS: dict[str, Callable[[], Any]] = {
    "Adafactor__relative_step_off": lambda: optimizers.Adafactor(0.01, relative_step=False, beta_2_decay=-0.5),
    "Adam__amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True),
    "Adam__clipvalue": lambda: optimizers.Adam(0.01, clipvalue=0.05),
    "Adam__ema": lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2),
    "Adam__accumulated": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "Adam__weight_decay": lambda: optimizers.Adam(0.01, weight_decay=0.1),
    "AdamW__amsgrad": lambda: optimizers.AdamW(0.01, weight_decay=0.1, amsgrad=True),
    "Ftrl__l1_l2": lambda: optimizers.Ftrl(
        0.1,
        learning_rate_power=-0.6,
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.02,
        l2_shrinkage_regularization_strength=0.03,
        beta=0.1,
    ),
    "Lamb__weight_decay": lambda: optimizers.Lamb(0.01, weight_decay=0.1),
    "Lion__weight_decay": lambda: optimizers.Lion(0.01, beta_1=0.8, weight_decay=0.1),
    "LossScaleOptimizer__adam": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01), initial_scale=8.0),
    "Muon__plain": lambda: optimizers.Muon(0.01, nesterov=False, ns_steps=3, weight_decay=None),
    "Muon__no_adam": lambda: optimizers.Muon(0.01, exclude_layers=["last"], adam_lr_ratio=0.5),
    "RMSprop__centered": lambda: optimizers.RMSprop(0.01, centered=True),
    "RMSprop__momentum": lambda: optimizers.RMSprop(0.01, momentum=0.9, rho=0.8),
    "SGD__accumulated": lambda: optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "SGD__clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.1),
    "SGD__ema": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8),
    "SGD__global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
    "SGD__loss_scale_factor": lambda: optimizers.SGD(0.1, loss_scale_factor=4.0),
    "SGD__momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "SGD__nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "SGD__weight_decay": lambda: optimizers.SGD(0.1, weight_decay=0.1),
    "ScheduleFreeAdamW__warmup": lambda: optimizers.ScheduleFreeAdamW(0.01, warmup_steps=3, weight_decay=0.1),
}

_SCHEDULES: dict[str, Callable[[], Any]] = {
    "CosineDecay": lambda: schedules.CosineDecay(0.1, 4, alpha=0.1),
    "CosineDecay__warmup": lambda: schedules.CosineDecay(0.01, 4, warmup_target=0.1, warmup_steps=2),
    "CosineDecayRestarts": lambda: schedules.CosineDecayRestarts(0.1, 2, t_mul=1.5, m_mul=0.8),
    "CosineDecayRestarts__even": lambda: schedules.CosineDecayRestarts(0.1, 2, t_mul=1.0, alpha=0.1),
    "ExponentialDecay": lambda: schedules.ExponentialDecay(0.1, 2, 0.7),
    "ExponentialDecay__staircase": lambda: schedules.ExponentialDecay(0.1, 2, 0.7, staircase=True),
    "InverseTimeDecay": lambda: schedules.InverseTimeDecay(0.1, 2, 0.7),
    "InverseTimeDecay__staircase": lambda: schedules.InverseTimeDecay(0.1, 2, 0.7, staircase=True),
    "PiecewiseConstantDecay": lambda: schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.05, 0.02]),
    "PolynomialDecay": lambda: schedules.PolynomialDecay(0.1, 3, 0.01, power=2.0),
    "PolynomialDecay__cycle": lambda: schedules.PolynomialDecay(0.1, 2, 0.01, cycle=True),
}


def _trained(make: Callable[[], Any], *, embedding: bool = False) -> Any:
    return trained_by(make(), embedding=embedding)


def _scheduled(make: Callable[[], Any]) -> Any:
    return trained_by(optimizers.SGD(make(), momentum=0.5))


CASES: dict[str, Case] = {
    **{name: Case(partial(_trained, make), steps=5) for name, make in {**_PLAIN, **_VARIANTS}.items()},
    **{f"{name}__embedding": Case(partial(_trained, make, embedding=True), steps=5) for name, make in _PLAIN.items()},
    **{
        f"{name}_embedding": Case(partial(_trained, make, embedding=True), steps=5)
        for name, make in _VARIANTS.items()
        if name.endswith(("accumulated", "amsgrad", "clipnorm", "momentum"))
    },
    **{name: Case(partial(_scheduled, make), steps=5) for name, make in _SCHEDULES.items()},
}


def entries() -> Iterator[Entry]:
    """Yields every optimizer of Keras, and every schedule of learning rates.

    Example:
        >>> [each.steps for each in entries() if each.name == "Lion"][0]
        5
    """
    names = public_classes(keras.optimizers, optimizers.Optimizer)
    names += public_classes(keras.optimizers.schedules, schedules.LearningRateSchedule)
    return entries_of("optimizers", __name__, names, CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
