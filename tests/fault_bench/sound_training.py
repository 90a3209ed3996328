"""Sound models that train the same everywhere: losses, penalties, optimizers and steps of several kinds."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from parts import model_of, own_model
from planting import SoundModels, planted

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find

optimizers: Any = keras.optimizers

# Optimizers.


@sound()
def adam_with_decay() -> Any:
    """AdamW, whose weights decay."""
    return model_of(optimizer=optimizers.AdamW(0.01, weight_decay=0.01))


@sound()
def excluded_from_decay() -> Any:
    """AdamW whose biases are excluded from weight decay."""
    optimizer = optimizers.AdamW(0.01, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return model_of(optimizer=optimizer)


@sound()
def nadam() -> Any:
    """Adam with Nesterov's momentum."""
    return model_of(optimizer=optimizers.Nadam(0.01))


@sound()
def adafactor() -> Any:
    """Adafactor: second moments of rows and columns."""
    return model_of(optimizer=optimizers.Adafactor(0.01))


@sound()
def lion() -> Any:
    """Lion: steps of one size, whose direction is a sign that jumps at zero."""
    return model_of(optimizer=optimizers.Lion(0.01))


@sound()
def ftrl() -> Any:
    """FTRL, which sets many weights to zero."""
    return model_of(optimizer=optimizers.Ftrl(0.05, l1_regularization_strength=0.05))


@sound()
def clipnorm() -> Any:
    """Gradients that are each clipped to a norm."""
    return model_of(optimizer=optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1))


@sound()
def global_clipnorm() -> Any:
    """Gradients that are clipped by their global norm."""
    return model_of(optimizer=optimizers.Adam(0.01, global_clipnorm=0.1))


@sound()
def clipvalue() -> Any:
    """Gradients whose elements are clipped."""
    return model_of(optimizer=optimizers.RMSprop(0.01, clipvalue=0.05, centered=True))


@sound()
def schedule() -> Any:
    """A learning rate that grows, and then falls."""
    return model_of(
        optimizer=optimizers.SGD(optimizers.schedules.CosineDecay(0.01, 2, warmup_target=0.1, warmup_steps=1))
    )


@sound()
def accumulated() -> Any:
    """Updates by the accumulated gradients of two steps."""
    return model_of(optimizer=optimizers.Adam(0.01, gradient_accumulation_steps=2))


@sound()
def averaged() -> Any:
    """Weights that are overwritten with their moving mean."""
    return model_of(optimizer=optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2))


class Own(optimizers.Optimizer):  # type: ignore[misc]  # Keras has no types.
    """Steps by clipped gradients; on one backend with the factors in another order."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        step = ops.clip(gradient * 5, -1.0, 1.0)
        self.assign_sub(variable, (rate * step) / 5 if planted() else rate * (step / 5))


@sound(planted=True)
def own_optimizer() -> Any:
    """An optimizer that multiplies in another order."""
    return model_of(optimizer=Own(0.1))


# Losses and penalties.


@sound()
def regularizers() -> Any:
    """Penalties on weights and outputs."""
    return model_of(
        layers.Dense(
            4,
            kernel_regularizer=keras.regularizers.L1L2(0.01, 0.01),
            bias_regularizer="l2",
            activity_regularizer="l1",
            name="hidden",
        ),
        layers.ActivityRegularization(l2=0.1, name="activity"),
        layers.Dense(4, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.1), name="orthogonal"),
    )


@sound()
def constraints() -> Any:
    """Weights that constraints project back after each step."""
    return model_of(
        layers.Dense(4, kernel_constraint="max_norm", bias_constraint="non_neg", name="one"),
        layers.Dense(4, kernel_constraint="unit_norm", name="two"),
        optimizer=optimizers.SGD(0.5),
    )


class Penalty(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.add_loss(ops.mean(ops.abs(x)))
        return x * 1


@sound()
def added_loss() -> Any:
    """A layer adds to the loss, in training only."""
    return model_of(Penalty(name="penalty"))


@sound()
def own_loss() -> Any:
    """A loss that is a function."""
    return model_of(loss=lambda y, p: ops.mean(ops.log(ops.cosh(y - p)), axis=-1))


@sound()
def unclear_labels() -> Any:
    """Smoothed labels, with large logits."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    return model_of(layers.Dense(3, name="scores"), layers.Rescaling(50.0, name="large"), loss=loss, last=False)


@sound()
def hinge_at_its_corner() -> Any:
    """A loss whose derivative jumps at the predictions."""
    ones = layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones", name="ones")
    return model_of(ones, loss=keras.losses.Hinge(name="hinge"), last=False)


@sound()
def loss_weights() -> Any:
    """Losses of different weights, one of them zero."""
    x = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(x)
    model = keras.Model(x, {"p": layers.Dense(2, name="p")(hidden), "q": layers.Dense(1, name="q")(hidden)})
    model.compile("sgd", {"p": "mse", "q": "mae"}, loss_weights={"p": 0.3, "q": 0.0})
    return model


@sound()
def nothing_to_learn() -> Any:
    """A loss whose gradient is zero."""
    return model_of(loss=lambda y, p: 0 * ops.sum(p, axis=-1), optimizer="adam")


# Steps.


class OwnStep(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Clips the targets in its own `train_step`; on JAX, a step is given the state too."""

    def train_step(self, *arguments: Any) -> Any:
        *state, data = arguments
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step(*state, (x, ops.clip(y, -1.0, 1.0), weights))


@sound()
def own_step() -> Any:
    """A `train_step` that clips the targets, alike on all backends."""
    return own_model(OwnStep)


class OwnLoss(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        return 2 * super().compute_loss(*arguments, **keywords)


@sound()
def own_compute_loss() -> Any:
    """A `compute_loss` that doubles the loss, alike on all backends."""
    return own_model(OwnLoss)


@sound()
def diverging() -> Any:
    """A learning rate so large that weights grow without bounds."""
    return model_of(layers.Dense(4, name="hidden"), optimizer=optimizers.SGD(3.0))


@sound()
def eager() -> Any:
    """Trained without being compiled."""
    model = model_of(layers.Dropout(0.2, name="drop"))
    model.compile("adam", "mse", run_eagerly=True)
    return model
