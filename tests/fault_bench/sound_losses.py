"""Sound models with custom losses, metrics and gradients: small probabilities, ignored classes, stopped gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of, own_model
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find

losses: Any = keras.losses


class Own(losses.Loss):  # type: ignore[misc]  # Keras has no types.
    """A loss that computes a given function; its name tells dlf which targets to make."""

    def __init__(self, function: Callable[[Any, Any], Any], name: str = "own", **keywords: Any) -> None:
        super().__init__(name=name, **keywords)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)

    def get_config(self) -> Any:
        return {**super().get_config(), "function": self.function}


def classifier(loss: Any, scale: float = 1.0, classes: int = 3, **keywords: Any) -> Any:
    """A model that ends in probabilities; the larger the scale, the smaller the smallest."""
    x = keras.Input((4,))
    scores = layers.Rescaling(scale, name="scale")(layers.Dense(classes, name="scores")(x))
    return compiled(x, layers.Softmax(name="probabilities")(scores), loss, **keywords)


# Probabilities.


@sound()
def sparse_probabilities() -> Any:
    """Probabilities that are not small, with integer class labels."""
    return classifier("sparse_categorical_crossentropy", optimizer="adam")


@sound()
def sparse_scores() -> Any:
    """Logits that are far apart, with integer class labels: nothing is clipped."""
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return model_of(layers.Dense(3, name="scores"), layers.Rescaling(60.0, name="large"), loss=loss, last=False)


@sound()
def clipped_by_hand() -> Any:
    """A crossentropy by hand that clips as most do, at 1e-7 and at 1 - 1e-7, which float32 rounds."""

    def entropy(y: Any, p: Any) -> Any:
        p = ops.clip(p, 1e-7, 1 - 1e-7)
        return -ops.sum(y * ops.log(p), axis=-1)

    return classifier(Own(entropy, "categorical"), 20.0)


@sound()
def focal() -> Any:
    """A focal loss by hand."""

    def focal(y: Any, p: Any) -> Any:
        p = ops.clip(p, keras.backend.epsilon(), 1.0)
        return -ops.sum(y * 0.25 * ops.power(1 - p, 2.0) * ops.log(p), axis=-1)

    return classifier(Own(focal, "categorical"), 5.0)


@sound()
def overlap() -> Any:
    """The Dice loss, with sums over the whole batch."""

    def dice(y: Any, p: Any) -> Any:
        return 1 - (2 * ops.sum(y * p) + 1.0) / (ops.sum(y) + ops.sum(p) + 1.0)

    return classifier(Own(dice, "categorical"))


@sound()
def divergence_of_distributions() -> Any:
    """The Kullback-Leibler divergence of probabilities, some of which are nearly zero."""
    return classifier("kl_divergence", 30.0)


# Distances.


class Pairs(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """The distance between two codes, kept away from zero."""

    def call(self, one: Any, other: Any) -> Any:
        return ops.sqrt(ops.maximum(ops.sum(ops.square(one - other), axis=-1, keepdims=True), 1e-7))


def pairs(size: int, random: np.random.Generator) -> Any:
    one, other = random.normal(size=(2, size, 4)).astype("float32")
    other[0] = one[0]
    return [one, other], random.integers(2, size=(size, 1)).astype("float32")


@sound(data="pairs")
def equal_pairs() -> Any:
    """A siamese network with an equal pair in its data, and a contrastive loss with a margin."""
    one, other = keras.Input((4,)), keras.Input((4,))
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh", name="code")], name="tower")
    apart = Pairs(name="apart")(tower(one), tower(other))
    loss = Own(lambda y, p: ops.mean((1 - y) * p**2 + y * ops.maximum(1.0 - p, 0.0) ** 2, axis=-1))
    return compiled([one, other], apart, loss)


@sound()
def unit_length() -> Any:
    """Outputs of length one, and a loss of the angle between them and the targets."""
    unit = Formula(lambda x: ops.normalize(x, axis=-1), name="unit")
    return model_of(unit, loss=losses.CosineSimilarity(axis=-1), last=False)


# Several losses, and losses that layers add.


@sound()
def losses_of_every_kind() -> Any:
    """A dictionary of losses, with classes, zeros and ones, and numbers for targets, behind a nested model."""
    x = keras.Input((4,))
    inside = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="relu", activity_regularizer="l2")])
    hidden = inside(x)
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
        "there": layers.Dense(1, activation="sigmoid", name="there")(hidden),
        "size": layers.Dense(2, name="size")(hidden),
    }
    loss = {"kind": "sparse_categorical_crossentropy", "there": "binary_crossentropy", "size": losses.Huber(0.5)}
    return compiled(x, outputs, loss, loss_weights={"kind": 1.0, "there": 0.5, "size": 2.0})


@sound()
def ignored_class() -> Any:
    """Examples of one class do not count, as in segmentation."""
    return model_of(loss=losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0))


class Commitment(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A vector quantizer: each row becomes the nearest code, the gradient goes straight through, and two losses that
    the layer adds draw rows and codes to each other."""

    def build(self, shape: Any) -> None:
        self.codes = self.add_weight(shape=(5, shape[-1]), initializer="random_uniform", name="codes")

    def call(self, x: Any) -> Any:
        apart = ops.sum(ops.square(ops.expand_dims(x, 1) - self.codes), axis=-1)
        code = ops.take(self.codes, ops.argmin(apart, axis=-1), axis=0)
        self.add_loss(0.25 * ops.mean(ops.square(self.constant(code) - x)))
        self.add_loss(ops.mean(ops.square(code - ops.stop_gradient(x))))
        return x + ops.stop_gradient(code - x)

    def constant(self, code: Any) -> Any:
        return ops.stop_gradient(code)


@sound()
def quantized_vectors() -> Any:
    """The codes of a VQ-VAE."""
    return model_of(Commitment(name="codes"))


# Gradients that are stopped, reversed, or made by hand.


@sound()
def straight_through() -> Any:
    """Rounding with a straight-through gradient."""
    return model_of(Formula(lambda x: x + ops.stop_gradient(ops.round(x) - x), name="round"))


def reversal(factor: float) -> Callable[[Any], Any]:
    """The identity, with a gradient that is reversed and multiplied by a factor."""

    @ops.custom_gradient  # type: ignore[untyped-decorator]  # Keras has no types.
    def reverse(x: Any) -> Any:
        def gradient(*arguments: Any, upstream: Any = None) -> Any:
            (given,) = arguments if upstream is None else (upstream,)
            return given * -factor

        return x * 1.0, gradient

    found: Callable[[Any], Any] = reverse
    return found


@sound()
def gradient_reversal() -> Any:
    """A gradient that is reversed by hand, as in domain adaptation."""
    return model_of(Formula(reversal(0.3), name="reversed"))


@sound()
def detached_targets() -> Any:
    """Two views of the same code, to one of which no gradient flows."""
    x = keras.Input((4,))
    code = layers.Dense(3, name="code")(x)
    kept = Formula(lambda x: ops.stop_gradient(ops.tanh(x)), name="kept")(code)
    return compiled(x, layers.Dense(2, name="last")(layers.Multiply(name="both")([code, kept])))


@sound()
def hard_choice() -> Any:
    """A choice that is hard in the forward pass, and soft in the backward pass."""

    def chosen(x: Any) -> Any:
        soft = ops.softmax(x)
        hard = ops.one_hot(ops.argmax(soft, axis=-1), 4, dtype=x.dtype)
        return hard + soft - ops.stop_gradient(soft)

    return model_of(Formula(chosen, name="chosen"), optimizer="rmsprop")


# Roundoff.


@sound()
def one_element_normalized() -> Any:
    """A normalization over one element, trained by Adam, which turns roundoff into whole steps."""
    x, one = keras.Input((4,)), keras.Input((1,))
    norm = layers.LayerNormalization(name="norm")(layers.Dense(1, name="to_one")(one))
    return compiled([x, one], layers.Dense(2, name="last")(layers.Concatenate(name="both")([x, norm])), "mse", "adam")


@sound()
def constant_feature() -> Any:
    """A constant feature, before a normalization over the batch."""
    constant = Formula(lambda x: ops.concatenate([x, ops.ones_like(x[:, :1])], axis=-1), name="constant")
    middle = [layers.Conv1D(3, 2, name="conv"), layers.BatchNormalization(name="norm"), layers.Flatten(name="flat")]
    return model_of(constant, layers.Reshape((5, 1)), *middle, optimizer=keras.optimizers.AdamW(0.01))


@sound()
def one_class() -> Any:
    """Probabilities of one class, which are all 1."""
    return classifier("mse", classes=1, optimizer="adam")


# Metrics.


class Dictionary(keras.metrics.Metric):  # type: ignore[misc]  # Keras has no types.
    """A metric that gives two numbers, by name."""

    def __init__(self, name: str = "both", **keywords: Any) -> None:
        super().__init__(name=name, **keywords)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        apart = ops.abs(ops.convert_to_tensor(y_true) - ops.convert_to_tensor(y_pred))
        self.total.assign_add(ops.cast(ops.sum(apart), self.total.dtype))
        self.count.assign_add(1.0)

    def result(self) -> Any:
        return {"mean": self.factor * self.total / (self.count + 1e-7), "count": self.count * 1.0}

    @property
    def factor(self) -> float:
        return 1.0


def with_metrics(*metrics: Any) -> Any:
    model = model_of()
    model.compile("sgd", "mse", metrics=list(metrics))
    return model


@sound()
def metrics_of_every_kind() -> Any:
    """Metrics by name, as a function, and one that gives a dictionary."""

    def largest(y: Any, p: Any) -> Any:
        return ops.max(ops.abs(ops.subtract(y, p)), axis=-1)

    return with_metrics("mae", keras.metrics.RootMeanSquaredError(), largest, Dictionary())


class Tracked(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model that keeps its own metric, and returns it beside the loss."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.spread = keras.metrics.Mean(name="spread")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.spread.update_state(ops.std(y_pred))
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "spread": self.spread.result()}


@sound()
def tracked_by_the_model() -> Any:
    """A metric that a model keeps in its own `compute_metrics`."""
    return own_model(Tracked)
