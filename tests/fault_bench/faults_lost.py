"""NaN and infinity: on one backend only, hidden on one backend, or on all backends alike."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from faults_states import Running
from faults_training import OwnLoss
from faults_updates import Guarded, optimizers
from keras import layers, ops
from parts import Formula, Projection, compiled, model_of, nested
from planting import Faults, planted
from sound_losses import pairs

__all__ = ["FAULTS", "pairs"]

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

LOST = "not finite"


def guarded(x: Any) -> float:
    """What keeps a divisor away from zero; 0 where the fault is planted."""
    return 0.0 if planted() else 1e-6


# On one backend only.


@fault(stage="forward", layer="unit")
def divided_by_a_norm() -> Any:
    """A row of zeros is divided by its length."""

    def unit(x: Any) -> Any:
        x = ops.relu(x - ops.max(x, axis=0, keepdims=True))
        return x / (ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True)) + guarded(x))

    return model_of(Formula(unit, name="unit"))


@fault(stage="forward", layer="level_2/level_1/log")
def log_of_zero() -> Any:
    """The logarithm of zero, two layers deep."""
    log = Formula(lambda x: ops.log(ops.relu(x) + guarded(x)), name="log")
    return model_of(nested(log, 2), Formula(ops.exp, name="back"))


@fault(stage="forward", layer="softmax")
def softmax_overflows() -> Any:
    """A softmax of large scores that does not subtract the largest first."""

    def softmax(x: Any) -> Any:
        x = x * 1000.0
        e = ops.exp(x if planted() else x - ops.max(x, axis=-1, keepdims=True))
        return e / ops.sum(e, axis=-1, keepdims=True)

    return model_of(Formula(softmax, name="softmax"))


@fault(stage="forward", layer="half")
def half_overflows() -> Any:
    """Large numbers go through float16, whose largest number is 65504."""

    def scaled(x: Any) -> Any:
        large = x * 1e5
        return ops.cast(ops.cast(large, "float16") if planted() else large, x.dtype) / 1e5

    return model_of(Formula(scaled, name="half"))


@fault(stage="forward", layer="attention")
def nothing_is_seen() -> Any:
    """A row of attention that sees nothing is masked with minus infinity instead of a large negative number."""

    def attend(x: Any) -> Any:
        seen = ops.convert_to_tensor(np.tri(4, k=-1, dtype=bool))
        hidden = ops.cast(float("-inf") if planted() else -1e9, x.dtype)
        return ops.softmax(ops.where(seen, x @ ops.transpose(x, (0, 2, 1)), hidden)) @ x

    return model_of(Formula(attend, name="attention"), shape=(4, 3))


class Apart(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """The distance between two codes."""

    def call(self, one: Any, other: Any) -> Any:
        squares = ops.sum(ops.square(one - other), axis=-1, keepdims=True)
        return self.root(squares)

    def root(self, x: Any) -> Any:
        return ops.sqrt(x)


class ApartOnOne(Apart):
    def root(self, x: Any) -> Any:
        return ops.sqrt(x + guarded(x))


def positive(x: Any) -> Any:
    """A ReLU by a product with zeros and ones: where it is zero, an incoming gradient is multiplied by zero.

    An infinite gradient then becomes NaN, except on JAX: there XLA turns such a product into a selection.
    """
    return x * ops.cast(x > 0, x.dtype)


def siamese(apart: Any) -> Any:
    """A siamese model of two inputs."""
    one, other = keras.Input((4,)), keras.Input((4,))
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh", name="code")], name="tower")
    return compiled([one, other], apart(tower(one), tower(other)))


@fault(stage="gradient", layer="log", where=("tensorflow", "torch"))
def gradient_of_a_choice() -> Any:
    """The gradient of the branch that `where` does not choose is infinite, times zero."""

    def log(x: Any) -> Any:
        x = positive(x)
        safe = x if planted() else ops.where(x > 0, x, 1.0)
        return ops.where(x > 0, ops.log(safe), 0.0)

    return model_of(Formula(log, name="log"))


@fault(stage="gradient", layer="root", where=("tensorflow", "torch"))
def gradient_of_a_root() -> Any:
    """The derivative of a square root at zero, whose value is right."""

    def root(x: Any) -> Any:
        x = positive(x)
        return ops.sqrt(x) if planted() else ops.where(x > 0, ops.sqrt(ops.where(x > 0, x, 1.0)), 0.0)

    return model_of(Formula(root, name="root"))


@fault(stage="loss")
def log_in_a_loss() -> Any:
    """A loss takes the logarithm of a probability that is zero."""

    def entropy(y: Any, p: Any) -> Any:
        return -ops.sum(ops.log(ops.relu(p) + guarded(p)), axis=-1)

    return model_of(loss=OwnLoss(entropy))


@fault(stage="loss", layer="penalty")
def lost_penalty() -> Any:
    """The penalty that a layer adds to the loss is infinite."""

    class Penalty(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            self.add_loss(0.01 / (ops.stop_gradient(ops.min(ops.relu(x))) + guarded(x) * 1e3))
            return ops.tanh(x)

    return model_of(Penalty(name="penalty"))


class Unguarded(Guarded):
    """An optimizer that divides by the root of a second moment, which is zero where the gradient is."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        mean, g = self.means[self._get_variable_index(variable)], ops.cast(gradient, variable.dtype)
        self.assign(mean, 0.9 * mean + 0.1 * g**2)
        step = g / (ops.sqrt(mean) + guarded(g))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)


@fault(stage="update")
def optimizer_divides_by_zero() -> Any:
    """An optimizer without an epsilon divides by zero where a gradient is zero."""
    return model_of(layers.Rescaling(0.0, name="zeros"), optimizer=Unguarded(0.01))


@fault(stage="state", layer="running", variable="kept")
def lost_statistic() -> Any:
    """A moving mean of logarithms becomes infinite; outputs and gradients are right."""
    return model_of(
        Running(
            lambda old, x: 0.9 * old + 0.1 * ops.mean(ops.log(ops.relu(x) + guarded(x)), axis=0),
            name="running",
        )
    )


# On the other backends, while one hides it: that one must not be blamed.


@fault(stage="forward", layer="log", verdict=LOST)
def hidden_in_outputs() -> Any:
    """The logarithm of a negative number is NaN; one backend replaces it by zero."""

    def log(x: Any) -> Any:
        return ops.nan_to_num(ops.log(x)) if planted() else ops.log(x)

    return model_of(Formula(log, name="log"))


@fault(stage="loss", verdict=LOST)
def hidden_in_the_loss() -> Any:
    """The same fault, in a loss."""

    def entropy(y: Any, p: Any) -> Any:
        found = ops.log(p)
        return ops.mean(ops.where(ops.isnan(found), 0.0, found) if planted() else found, axis=-1)

    return model_of(loss=OwnLoss(entropy))


class Hiding(Apart):
    def root(self, x: Any) -> Any:
        safe = ops.where(x > 0, x, 1.0)
        return ops.where(x > 0, ops.sqrt(safe), 0.0) if planted() else ops.sqrt(x)


@fault(stage="gradient", layer="apart", data="pairs", verdict=LOST)
def hidden_in_gradients() -> Any:
    """The gradient of the distance of an equal pair is not finite; one backend takes it for zero."""
    return siamese(Hiding(name="apart"))


# On all backends alike: the verdict is not "agree", and the layer is named.


def with_a_hole(size: int, random: np.random.Generator) -> Any:
    x = random.normal(size=(size, 4)).astype("float32")
    x[1, 2] = np.nan
    return x, random.normal(size=(size, 2)).astype("float32")


@fault(stage="data", data="with_a_hole", verdict=LOST, planted=False)
def hole_in_the_data() -> Any:
    """One number of a batch is NaN."""
    return model_of(layers.Dense(3, name="hidden"))


def with_infinite_targets(size: int, random: np.random.Generator) -> Any:
    y = random.normal(size=(size, 2)).astype("float32")
    y[0, 0] = np.inf
    return random.normal(size=(size, 4)).astype("float32"), y


@fault(stage="data", data="with_infinite_targets", verdict=LOST, planted=False)
def infinite_target() -> Any:
    """One target is infinite."""
    return model_of(layers.Dense(3, name="hidden"))


@fault(stage="forward", layer="level_1/log", verdict=LOST, planted=False)
def log_of_zero_everywhere() -> Any:
    """The logarithm of zero, in a layer."""
    return model_of(nested(Formula(lambda x: ops.log(positive(x)), name="log"), 1))


@fault(stage="forward", layer="up", verdict=LOST, planted=False)
def larger_than_float32_everywhere() -> Any:
    """Numbers that are subnormal in float32, times a factor that is infinity in float32."""
    return model_of(Formula(lambda x: (x * 1e-40) * 1e40, name="up"))


@fault(stage="trajectory", layer=None, verdict=LOST, planted=False)
def chaos_that_overflows_everywhere() -> Any:
    """So many steps of a chaotic map that float64 has no correct digit left; the gradient overflows in training."""

    def logistic(x: Any) -> Any:
        x = ops.sigmoid(x)
        for _ in range(90):
            x = 3.9 * x * (1 - x)
        return x

    return model_of(Formula(logistic, name="formula"))


@fault(stage="trajectory", layer=None, verdict=LOST, planted=False)
def depth_that_overflows_everywhere() -> Any:
    """Twenty layers, each of which triples a gradient, at a learning rate that is too large for such a gradient."""
    large = [Projection(lambda x, k, b: ops.sin(3 * (x @ k) + b), name=f"layer_{n}") for n in range(20)]
    return model_of(*large, optimizer=keras.optimizers.SGD(0.1))


@fault(stage="forward", layer="log", verdict=LOST, planted=False)
def log_of_the_negative_everywhere() -> Any:
    """The logarithm of numbers that may be negative."""
    return model_of(Formula(ops.log, name="log"))


@fault(stage="gradient", layer="inverse", verdict=LOST, planted=False)
def overflow_and_back_everywhere() -> Any:
    """exp overflows and the outputs are finite, but their gradient is not: infinity times zero."""
    return model_of(Formula(lambda x: 1 / (1 + ops.exp(1e4 * (ops.abs(x) + 0.1))) + x, name="inverse"))


@fault(stage="forward", layer="unit", verdict=LOST, planted=False)
def zero_by_zero_everywhere() -> Any:
    """A row of zeros is divided by its length."""

    def unit(x: Any) -> Any:
        x = x - ops.max(x, axis=0, keepdims=True)
        return x * 0 / ops.sum(x * 0, axis=-1, keepdims=True)

    return model_of(Formula(unit, name="unit"))


@fault(stage="forward", layer="exp", verdict=LOST, planted=False)
def overflow_everywhere() -> Any:
    """exp of large numbers."""
    return model_of(Formula(lambda x: ops.exp(x * 1e4), name="exp"))


@fault(stage="forward", layer="half", verdict=LOST, planted=False)
def half_overflows_everywhere() -> Any:
    """A layer in float16 whose outputs are beyond 65504, and infinite; in float64 they are finite."""
    ends = [layers.Dense(3, dtype="mixed_float16", name="half"), layers.Dense(3, dtype="float32", name="back")]
    return model_of(layers.Rescaling(1e5, name="large"), *ends)


@fault(stage="gradient", layer="apart", data="pairs", verdict=LOST, planted=False)
def gradient_at_zero_everywhere() -> Any:
    """The gradient of the distance of an equal pair: outputs and the loss are finite."""
    return siamese(Apart(name="apart"))


@fault(stage="loss", verdict=LOST, planted=False)
def loss_everywhere() -> Any:
    """A user's own loss takes the logarithm of negative numbers."""
    return model_of(loss=OwnLoss(lambda y, p: ops.mean(ops.log(p), axis=-1)))


@fault(stage="update", verdict=LOST, planted=False)
def update_everywhere() -> Any:
    """An optimizer divides zero by zero."""

    class Dividing(Unguarded):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            g = ops.cast(gradient, variable.dtype)
            self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * g / ops.abs(g))

    return model_of(layers.Rescaling(0.0, name="zeros"), optimizer=Dividing(0.01))


@fault(stage="state", layer="running", variable="kept", verdict=LOST, planted=False)
def statistic_everywhere() -> Any:
    """A moving mean becomes infinite, and nothing else is computed from it."""
    return model_of(Running(lambda old, x: old + ops.mean(ops.log(0 * x), axis=0), name="running"))


@fault(stage="trajectory", verdict=LOST, planted=False)
def training_overflows_everywhere() -> Any:
    """A learning rate so large that the second step's loss is beyond float32."""
    return model_of(layers.Dense(4, name="hidden"), optimizer=optimizers.SGD(1e15))
