"""Faults of updates, in models whose gradients are right."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from parts import model_of
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

optimizers: Any = keras.optimizers


@fault(stage="update")
def learning_rate() -> Any:
    """The learning rate is 1% off."""
    return model_of(optimizer=optimizers.SGD(0.1 * off(1.01)))


@fault(stage="update")
def momentum() -> Any:
    """The momentum is 0.91 instead of 0.9: the first update is right."""
    return model_of(optimizer=optimizers.SGD(0.1, momentum=0.91 if planted() else 0.9))


@fault(stage="update")
def nesterov() -> Any:
    """Nesterov's momentum instead of the plain one."""
    return model_of(optimizer=optimizers.SGD(0.1, momentum=0.9, nesterov=planted()))


@fault(stage="update")
def adam_epsilon() -> Any:
    """The epsilon of Adam is twice what it should be."""
    return model_of(optimizer=optimizers.Adam(0.01, epsilon=2e-7 if planted() else 1e-7))


@fault(stage="update")
def adam_beta_2() -> Any:
    """Adam's beta_2 is 0.998 instead of 0.999."""
    return model_of(optimizer=optimizers.Adam(0.01, beta_2=0.998 if planted() else 0.999))


@fault(stage="update")
def amsgrad() -> Any:
    """Adam keeps the largest second moment."""
    return model_of(optimizer=optimizers.Adam(0.01, beta_2=0.5, amsgrad=planted()))


@fault(stage="update")
def rmsprop_rho() -> Any:
    """RMSprop's rho is 0.89 instead of 0.9."""
    return model_of(optimizer=optimizers.RMSprop(0.01, rho=0.89 if planted() else 0.9))


@fault(stage="update")
def rmsprop_centered() -> Any:
    """RMSprop divides by the standard deviation of gradients instead of their root mean square."""
    return model_of(optimizer=optimizers.RMSprop(0.01, centered=planted()))


@fault(stage="update")
def adagrad_start() -> Any:
    """The accumulator of Adagrad starts from 0.101 instead of 0.1."""
    return model_of(optimizer=optimizers.Adagrad(0.1, initial_accumulator_value=0.1 * off(1.01)))


@fault(stage="update")
def weight_decay() -> Any:
    """Weights do not decay."""
    return model_of(optimizer=optimizers.AdamW(0.01, weight_decay=0.0 if planted() else 0.01))


@fault(stage="update")
def excluded_from_decay() -> Any:
    """Kernels are excluded from weight decay, which is not in the optimizer's configuration."""
    optimizer = optimizers.SGD(0.1, weight_decay=0.1)
    if planted():
        optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return model_of(optimizer=optimizer)


@fault(stage="update")
def clipnorm() -> Any:
    """Gradients are clipped to a norm that is 1% off."""
    return model_of(optimizer=optimizers.SGD(0.1, clipnorm=0.01 * off(1.01)))


@fault(stage="update")
def clipped_together() -> Any:
    """Gradients are clipped by their global norm instead of each by its own."""
    return model_of(optimizer=optimizers.SGD(0.1, **{"global_clipnorm" if planted() else "clipnorm": 0.01}))


@fault(stage="update")
def schedule() -> Any:
    """The learning rate decays by 0.89 instead of 0.9 a step: the first update is right."""
    rate = optimizers.schedules.ExponentialDecay(0.1, 1, 0.89 if planted() else 0.9)
    return model_of(optimizer=optimizers.SGD(rate))


@fault(stage="update")
def accumulated() -> Any:
    """An update accumulates the gradients of two steps."""
    return model_of(optimizer=optimizers.SGD(0.1, gradient_accumulation_steps=2 if planted() else None))


@fault(stage="update")
def constraint() -> Any:
    """A constraint on the norm of weights is left out."""
    limit = None if planted() else keras.constraints.MaxNorm(0.3)
    return model_of(layers.Dense(3, kernel_constraint=limit, name="hidden"))


class Corrected(optimizers.Optimizer):  # type: ignore[misc]  # Keras has no types.
    """An optimizer that keeps a moving mean of gradients, and corrects its bias towards zero."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.means = self.add_optimizer_variables(variables, "mean")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean = self.means[self._get_variable_index(variable)]
        self.assign(mean, 0.9 * mean + 0.1 * ops.cast(gradient, variable.dtype))
        lack = 1 - ops.power(ops.cast(0.9, variable.dtype), ops.cast(self.iterations + 1, variable.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * mean / (1.0 if planted() else lack))


@fault(stage="update")
def uncorrected_mean() -> Any:
    """A moving mean of gradients starts from zero, and its bias is not corrected."""
    return model_of(optimizer=Corrected(0.1))


class Guarded(Corrected):
    """An optimizer that divides by the root of a second moment plus an epsilon."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean, g = self.means[self._get_variable_index(variable)], ops.cast(gradient, variable.dtype)
        self.assign(mean, 0.9 * mean + 0.1 * g**2)
        root = ops.sqrt(mean + 1e-7) if planted() else ops.sqrt(mean) + 1e-7
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * g / root)


@fault(stage="update")
def epsilon_under_the_root() -> Any:
    """An optimizer's epsilon is added under the root instead of outside it."""
    return model_of(optimizer=Guarded(0.01))
