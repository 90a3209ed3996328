"""Faults of the steps of training: every layer, the loss and the optimizer's first two updates are right."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from parts import model_of, own_model
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

optimizers: Any = keras.optimizers


class OwnLoss(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        return super().compute_loss(*arguments, **keywords) * off(1.001)


@fault(stage="loss")
def own_compute_loss() -> Any:
    """A model's own `compute_loss` is 0.1% off."""
    return own_model(OwnLoss)


class OwnStep(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Trains on a batch that `changed` returns; on JAX, a step is given the state too."""

    def train_step(self, *arguments: Any) -> Any:
        *state, data = arguments
        return super().train_step(*state, self.changed(*keras.utils.unpack_x_y_sample_weight(data)))

    def changed(self, x: Any, y: Any, weights: Any) -> Any:
        return x, y * off(1.001), weights


@fault(stage="gradient")
def scaled_targets() -> Any:
    """A model's own `train_step` scales the targets."""
    return own_model(OwnStep)


class Shifted(OwnStep):
    def changed(self, x: Any, y: Any, weights: Any) -> Any:
        return x, ops.roll(y, 1, axis=0) if planted() else y, weights


@fault(stage="gradient")
def targets_of_the_next() -> Any:
    """A model's own `train_step` gives each example the targets of the one before it."""
    return own_model(Shifted)


class Weighted(OwnStep):
    def changed(self, x: Any, y: Any, weights: Any) -> Any:
        return x, y, ops.where(y[:, 0] > 0, off(1.01), 1.0)


@fault(stage="gradient")
def sample_weights() -> Any:
    """A model's own `train_step` weights some examples by 1% more."""
    return own_model(Weighted)


class Meddling(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Changes variables after a training step; by default it undoes the second step."""

    def train_on_batch(self, *arguments: Any, **keywords: Any) -> Any:
        before = [ops.convert_to_numpy(each) for each in self.variables]
        steps = int(ops.convert_to_numpy(self.optimizer.iterations))
        logs = super().train_on_batch(*arguments, **keywords)
        if planted():
            self.meddle(before, steps)
        return logs

    def meddle(self, before: Any, steps: int) -> None:
        if steps == 1:
            self.restore(before, self.variables)

    def restore(self, before: Any, variables: Any) -> None:
        """Restores the earlier values of some of the variables."""
        chosen = {id(each) for each in variables}
        for variable, value in zip(self.variables, before, strict=True):
            if id(variable) in chosen:
                variable.assign(value)


@fault(stage="trajectory")
def skipped_step() -> Any:
    """The second update is dropped."""
    return own_model(Meddling)


class Freezing(Meddling):
    def meddle(self, before: Any, steps: int) -> None:
        if steps >= 1:
            self.restore(before, self.get_layer("hidden").variables)


@fault(stage="trajectory")
def frozen_later() -> Any:
    """From the second step on, a layer is not trained."""
    return own_model(Freezing)


class Shrinking(Meddling):
    def meddle(self, before: Any, steps: int) -> None:
        for each in self.trainable_variables:
            each.assign(each * 0.999)


@fault(stage="trajectory")
def shrunk_between_steps() -> Any:
    """After each step, weights shrink by 0.1%."""
    return own_model(Shrinking)


class Forgetting(Meddling):
    def meddle(self, before: Any, steps: int) -> None:
        # All of the optimizer's variables but the step count and the learning rate.
        for each in self.optimizer.variables[2:]:
            each.assign(ops.zeros(each.shape, each.dtype))


@fault(stage="trajectory")
def forgotten_momentum() -> Any:
    """The optimizer's momentum is lost after each step."""
    return own_model(Forgetting, optimizers.SGD(0.1, momentum=0.9))


@fault(stage="update")
def late_schedule() -> Any:
    """The learning rate differs from the third step on."""
    rate = optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.05 * off(1.01)])
    return model_of(optimizer=optimizers.SGD(rate))


@fault(stage="update")
def late_average() -> Any:
    """After three steps, weights are overwritten with their mean."""
    return model_of(optimizer=optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=3 if planted() else None))
