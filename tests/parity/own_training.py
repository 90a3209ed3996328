"""Models that are trained by their own `compute_loss` or `train_step`, or by added losses, and data for them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


def images(size: int, random: np.random.Generator) -> Any:
    return random.normal(size=(size, 4)).astype("float32")


def images_and_none(size: int, random: np.random.Generator) -> Any:
    return images(size, random), None


def images_twice(size: int, random: np.random.Generator) -> Any:
    x = images(size, random)
    return x, x


def pairs(size: int, random: np.random.Generator) -> Any:
    return images(size, random), random.normal(size=(size, 1)).astype("float32")


def graph(size: int, random: np.random.Generator) -> Any:
    return [images(size, random), random.integers(size, size=(2, 20))], random.normal(size=(size, 3)).astype("float32")


def weighed_outputs(size: int, random: np.random.Generator) -> Any:
    labels = {"policy": np.eye(3, dtype="float32")[random.integers(0, 3, size)], "value": pairs(size, random)[1]}
    weights = {"policy": np.ones(size, "float32"), "value": random.uniform(0, 1, size).astype("float32")}
    return images(size, random), labels, weights


class Denoiser(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Trained by its own `compute_loss`, which draws, and calls layers that `call` does not call in that way."""

    def __init__(self) -> None:
        super().__init__()
        self.network = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(4)])
        self.seed = keras.random.SeedGenerator(3)

    def call(self, inputs: Any) -> Any:
        return self.network(inputs)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        return ops.mean(ops.square(self.network(x + noise) - noise))


def denoiser() -> Any:
    model = Denoiser()
    model.compile("adam")
    return model


class Remembers(keras.Model):  # type: ignore[misc]  # As above.
    """Its `call` leaves something behind for its `compute_loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = layers.Dense(2, name="code", kernel_regularizer="l2")
        self.decoder, self.code = layers.Dense(4, name="decoded"), None

    def call(self, inputs: Any) -> Any:
        self.code = self.encoder(inputs)
        return self.decoder(self.code)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        return ops.mean(ops.square(x - y_pred)) + 0.1 * ops.mean(ops.square(self.code)) + sum(self.losses)


def remembers() -> Any:
    model = Remembers()
    model.compile("sgd")
    return model


class Small(layers.Layer):  # type: ignore[misc]  # As above.
    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(ops.square(inputs)))
        return inputs


def added_loss_alone() -> Any:
    x = keras.Input((4,))
    model = keras.Model(x, Small()(layers.Dense(3)(x)))
    model.compile("sgd")
    return model


class Unpacks(keras.Sequential):  # type: ignore[misc]  # As above.
    """A step that takes what `fit` gives it: two parts, not three."""

    def train_step(self, *arguments: Any) -> Any:
        x, y = arguments[-1]
        return super().train_step(*arguments[:-1], (x, y))


def unpacks() -> Any:
    model = Unpacks([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


class Graph(keras.Model):  # type: ignore[misc]  # As above.
    """Its `call` unpacks a list of inputs, which are of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        nodes, edges = inputs
        return ops.segment_sum(ops.take(self.dense(nodes), edges[0], axis=0), edges[1], num_segments=8)


def graph_network() -> Any:
    model = Graph()
    model.compile("sgd", "mse")
    return model


def two_heads() -> Any:
    x = keras.Input((4,))
    hidden = layers.Dense(6, activation="tanh")(x)
    policy, value = layers.Dense(3, activation="softmax", name="policy"), layers.Dense(1, name="value")
    model = keras.Model(x, {"policy": policy(hidden), "value": value(hidden)})
    model.compile(
        "sgd", {"policy": "categorical_crossentropy", "value": "mse"}, loss_weights={"policy": 0.3, "value": 1}
    )
    return model


class Holder(keras.Model):  # type: ignore[misc]  # As above.
    """A model without `call` that holds two others, as generative models have it: only its own step trains them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        self.decoder = keras.Sequential([keras.Input((2,)), layers.Dense(4)])

    def train_step(self, data: Any) -> Any:
        raise RuntimeError("in another framework's words")


def holder() -> Any:
    model = Holder()
    model.compile("sgd")
    return model


class TakesFloat32(keras.Model):  # type: ignore[misc]  # As above.
    """Its step takes float32 alone, as one does that is in a framework's own words."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        return ops.mean(ops.square(x - y_pred))

    def train_step(self, *arguments: Any) -> Any:
        (x,) = keras.tree.flatten(arguments[-1])
        if keras.backend.standardize_dtype(x.dtype) == "float64":
            raise TypeError("float32 is what it takes")
        return super().train_step(*arguments)


def takes_float32() -> Any:
    model = TakesFloat32()
    model.compile("sgd")
    return model


class Adversaries(keras.Model):  # type: ignore[misc]  # As above.
    """Two models, each with its own optimizer, as generative adversarial networks have it, for two frameworks."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="made")])
        self.critic = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh"), layers.Dense(1)])

    def compile(self, generating: Any, judging: Any) -> None:
        super().compile()
        self.generating, self.judging = generating, judging

    def train_step(self, data: Any) -> Any:
        judged = self._updated(
            self.judging, self.critic, lambda: ops.mean(self.critic(data)) - ops.mean(self.critic(self.generator(data)))
        )
        made = self._updated(self.generating, self.generator, lambda: ops.mean(self.critic(self.generator(data))))
        return {"judged": judged, "made": made}

    def _updated(self, optimizer: Any, model: Any, loss: Any) -> Any:
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss()
            optimizer.apply(tape.gradient(value, model.trainable_weights), model.trainable_weights)
            return value
        import torch

        self.zero_grad()
        value = loss()
        value.backward()
        gradients = [each.value.grad for each in model.trainable_weights]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_weights)
        return value.detach()


def adversaries() -> Any:
    model = Adversaries()
    model.compile(generating=keras.optimizers.Adam(0.01), judging=keras.optimizers.Adam(0.02))
    return model


def adversaries_of_another_rate() -> Any:
    model = Adversaries()
    rate = 0.0201 if keras.config.backend() == "torch" else 0.02
    model.compile(generating=keras.optimizers.Adam(0.01), judging=keras.optimizers.Adam(rate))
    return model


class Contrastive(keras.Model):  # type: ignore[misc]  # As above.
    """Its own step, written for each framework, calls two layers that its `call` does not call.

    Args:
        wrong: What is another thousandth on PyTorch: ``"loss"``, ``"layer"``, or nothing.
    """

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        is_torch = keras.config.backend() == "torch"
        self.factor = 1.001 if wrong == "loss" and is_torch else 1.0
        scaled = layers.Rescaling(1.001 if wrong == "layer" and is_torch else 1.0, name="scaled")
        self.encoder = keras.Sequential([keras.Input((4,)), layers.Dense(6, "relu"), layers.BatchNormalization()])
        self.head = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.Dropout(0.1), scaled], name="head")

    def call(self, inputs: Any) -> Any:
        return self.encoder(inputs)

    def contrast(self, x: Any) -> Any:
        one, other = (self.head(self.encoder(each, training=True), training=True) for each in (x, -x))
        return self.factor * (ops.mean(ops.square(one - other)) - 0.1 * ops.mean(one))

    def train_step(self, *args: Any) -> Any:
        step = getattr(self, f"_step_on_{keras.config.backend()}")
        return step(*args)

    def _step_on_tensorflow(self, x: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.contrast(x)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}

    def _step_on_torch(self, x: Any) -> Any:
        import torch

        self.zero_grad()
        loss = self.contrast(x)
        loss.backward()
        with torch.no_grad():
            variables = self.trainable_variables
            self.optimizer.apply([each.value.grad for each in variables], variables)
        return {"loss": loss.detach()}

    def _step_on_jax(self, state: Any, x: Any) -> Any:
        import jax

        trained, others, slots, metrics = state

        def loss_and_others(values: Any) -> Any:
            pairs = [*zip(self.trainable_variables, values, strict=True)]
            pairs += zip(self.non_trainable_variables, others, strict=True)
            with keras.StatelessScope(pairs) as scope:
                loss = self.contrast(x)
            return loss, [scope.get_current_value(each) for each in self.non_trainable_variables]

        (loss, others), gradients = jax.value_and_grad(loss_and_others, has_aux=True)(trained)
        trained, slots = self.optimizer.stateless_apply(slots, gradients, trained)
        return {"loss": loss}, (trained, others, slots, metrics)


def contrastive(wrong: str = "") -> Any:
    model = Contrastive(wrong)
    model.compile("adam")
    return model


class OfOthers(Contrastive):
    """Its step is not written for JAX, and another layer of it is wrong on PyTorch."""

    def _step_on_jax(self, state: Any, x: Any) -> Any:
        raise TypeError("in other words")


def contrastive_of_others() -> Any:
    model = OfOthers("layer")
    model.compile("adam")
    return model


def contrastive_of_another_loss() -> Any:
    return contrastive("loss")


def contrastive_of_another_layer() -> Any:
    return contrastive("layer")


def frozen_and_failing() -> Any:
    def loss(y: Any, predictions: Any) -> Any:
        if keras.config.backend() == "torch":
            raise ValueError("no loss of mine")
        return ops.mean(ops.square(y - predictions))

    model = keras.Sequential([keras.Input((4,)), layers.Rescaling(2.0)])
    model.compile("sgd", loss)
    return model


WAYS = [
    ("denoiser", "images"),
    ("remembers", "images_and_none"),
    ("added_loss_alone", "images"),
    ("unpacks", "pairs"),
    ("graph_network", "graph"),
    ("two_heads", "weighed_outputs"),
]
"""Sound models, each with its data."""
