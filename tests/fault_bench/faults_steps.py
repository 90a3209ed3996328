"""Faults of custom and of stopped gradients, of metrics, and of variables that a call assigns to."""

from __future__ import annotations

from typing import Any

import keras
import sound_losses
from keras import layers, ops
from parts import Formula, model_of, own_model
from planting import Faults, off, planted
from sound_losses import Dictionary, classifier, reversal, with_metrics

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

# Gradients that are stopped or made by hand.


@fault(stage="gradient", layer="reversed")
def reversal_factor() -> Any:
    """A gradient is reversed, with a factor that is 1% off."""
    return model_of(Formula(reversal(0.3 * off(1.01)), name="reversed"))


@fault(stage="gradient", layer="reversed")
def reversal_left_out() -> Any:
    """A gradient is not reversed."""
    return model_of(Formula(reversal(-1.0 if planted() else 1.0), name="reversed"))


@fault(stage="gradient", layer="round")
def rounding_stops() -> Any:
    """A gradient that should go straight through rounding does not."""

    def rounded(x: Any) -> Any:
        return ops.round(x) + 0 * x if planted() else x + ops.stop_gradient(ops.round(x) - x)

    return model_of(Formula(rounded, name="round"))


class Commitment(sound_losses.Commitment):
    def constant(self, code: Any) -> Any:
        return code if planted() else ops.stop_gradient(code)


@fault(stage="gradient", layer="codes", variable="codes")
def commitment_of_both() -> Any:
    """In a VQ-VAE, the loss that should only move inputs towards their codes moves the codes too."""
    return model_of(Commitment(name="codes"))


@fault(stage="gradient", layer="chosen")
def soft_left_out() -> Any:
    """A hard choice does not have the gradient of the soft one."""

    def chosen(x: Any) -> Any:
        soft = ops.softmax(x)
        hard = ops.one_hot(ops.argmax(soft, axis=-1), 4, dtype=x.dtype)
        return hard + 0 * soft if planted() else hard + soft - ops.stop_gradient(soft)

    return model_of(Formula(chosen, name="chosen"))


# Losses of probabilities.


@fault(stage="loss")
def clipped_elsewhere() -> Any:
    """A crossentropy clips probabilities at 1e-6 instead of 1e-7."""

    def entropy(y: Any, p: Any) -> Any:
        return -ops.sum(y * ops.log(ops.clip(p, 1e-6 if planted() else 1e-7, 1.0)), axis=-1)

    return classifier(sound_losses.Own(entropy, "categorical"), 40.0)


@fault(stage="loss")
def margin() -> Any:
    """A loss of distances has a margin that is 1% off."""

    def contrastive(y: Any, p: Any) -> Any:
        return ops.mean((1 - y) * p**2 + y * ops.maximum(1.0 * off(1.01) - p, 0.0) ** 2, axis=-1)

    return model_of(loss=sound_losses.Own(contrastive, "binary"))


# Metrics.


class Factor(Dictionary):
    @property
    def factor(self) -> float:
        return off(1.01)


@fault(stage="trajectory")
def metric_by_name() -> Any:
    """A metric that gives a dictionary is 1% off; nothing else is."""
    return with_metrics("mae", Factor())


class Mean(keras.metrics.MeanMetricWrapper):  # type: ignore[misc]  # Keras has no types.
    def __init__(self, name: str = "mine", **keywords: Any) -> None:
        super().__init__(lambda y, p: ops.mean(ops.abs(ops.subtract(y, p)), axis=-1) * off(1.01), name=name, **keywords)


@fault(stage="trajectory")
def metric_of_a_function() -> Any:
    """A metric that is a function is 1% off."""
    return with_metrics(Mean(), "mse")


class Tracked(sound_losses.Tracked):
    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, y, y_pred * off(1.01), sample_weight)


@fault(stage="trajectory")
def metric_of_the_model() -> Any:
    """A metric that a model keeps by itself is 1% off."""
    return own_model(Tracked)


# Variables that a call assigns to.


class Shrinking(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Assigns to its kernel after using it."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x: Any, training: bool = False) -> Any:
        # A copy, since PyTorch needs the factor of the product again for its gradient.
        outputs = x @ (self.kernel + 0.0)
        if planted() and training:
            self.kernel.assign(self.kernel * 0.999)
        return outputs


# JAX leaves such an assignment out, so that it is no fault there.
@fault(stage="trajectory", where=("tensorflow", "torch"))
def kernel_shrinks_in_call() -> Any:
    """In training, a trainable kernel shrinks after it has been used."""
    return model_of(Shrinking(name="shrinking"))


class Normed(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Assigns to its kernel before using it, to keep it at a norm."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 4), trainable=False, name="kernel")

    def call(self, x: Any) -> Any:
        norm = ops.sqrt(ops.sum(ops.square(self.kernel), axis=0, keepdims=True))
        self.kernel.assign(self.kernel / norm * off(1.01))
        return x @ self.kernel


@fault(stage="forward", layer="normed")
def kernel_normed_in_call() -> Any:
    """A kernel that is not trained is set to another norm before it is used."""
    return model_of(Normed(name="normed"))
