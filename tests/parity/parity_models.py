"""The models that `tests/parity/test_parity_backends.py` compares: with a fault on one backend, and sound ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

FAULT_ON = os.environ.get("FAULT_ON")
bad = keras.config.backend() == FAULT_ON
off = 1.01 if bad else 1.0


def __getattr__(name: str) -> Callable[[], Any]:
    """Returns the builder for a name like ``model__on_torch``: the model with its fault on that backend."""
    model, _, backend = name.partition("__on_")
    if not backend:
        raise AttributeError(name)

    def build() -> Any:
        module = globals()
        module["bad"] = keras.config.backend() == backend
        module["off"] = 1.01 if module["bad"] else 1.0
        return module[model]()

    return build


def model_of(*middle: Any, shape: tuple[int, ...] = (4,), optimizer: Any = "sgd", loss: Any = "mse") -> Any:
    model = keras.Sequential([keras.Input(shape), *middle, layers.Dense(2, name="last")])
    model.compile(optimizer, loss)
    return model


# Faults on one backend only, each in a layer of its own between sound ones.


class Shift(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """With the fault, pads on another side."""

    def call(self, x: Any) -> Any:
        return ops.pad(x, [[0, 0], [2, 0], [0, 2], [0, 0]] if bad else [[0, 0], [1, 1], [1, 1], [0, 0]])


class Detached(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """With the fault, gives the same outputs but another derivative: keras issue 19073."""

    def call(self, x: Any) -> Any:
        mean = ops.mean(x, axis=0, keepdims=True)
        return x - (ops.stop_gradient(mean) if bad else mean)


class RoundTrip(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """With the fault, rounds to bfloat16."""

    def call(self, x: Any) -> Any:
        return ops.cast(ops.cast(x, "bfloat16"), x.dtype) if bad else x * 1


class Lost(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """With the fault, not finite in float32 only: exp(100) is finite in float64."""

    def call(self, x: Any) -> Any:
        return x + (ops.exp(0.0 * x + 100.0) * 1e-60 if bad else 0.0)


class Block(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds the layer with the fault, which has to be named."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = layers.BatchNormalization(epsilon=1e-3 * off, name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.inner(x, training=training)


class Loss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.losses.mean_squared_error(y_true, y_pred) * (1.001 if bad else 1)


def faults(optimizer: Any) -> Any:
    return model_of(
        Shift(name="shift"),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(epsilon=1e-3 * off, name="epsilon"),
        layers.BatchNormalization(momentum=0.98 if bad else 0.99, name="momentum"),
        layers.Flatten(name="flatten"),
        layers.Dense(6, activation="tanh", name="dense"),
        layers.LayerNormalization(epsilon=1e-6 * off, name="small_epsilon"),
        Detached(name="detached"),
        RoundTrip(name="round_trip"),
        Block(name="block"),
        layers.Activation(lambda x: ops.gelu(x, approximate=bad), name="gelu"),
        layers.Dropout(0.3 * off, name="rate"),
        Lost(name="lost"),
        shape=(6, 6, 1),
        optimizer=optimizer,
        loss=Loss(),
    )


def faults_with_adam() -> Any:
    return faults(keras.optimizers.Adam(1e-2, epsilon=2e-7 if bad else 1e-7))


def nesterov() -> Any:
    return model_of(layers.Dense(3, name="first"), optimizer=keras.optimizers.SGD(0.1, momentum=0.9, nesterov=bad))


def built_otherwise() -> Any:
    return model_of(
        layers.Dense(3, name="first"),
        layers.Dense(3, use_bias=bad, name="extra"),
        layers.Dense(3, dtype="float64" if bad else "float32", name="wide"),
    )


class OwnLoss(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        value = super().compute_loss(*arguments, **keywords)
        return value * 1.001 if bad else value


def trained_otherwise() -> Any:
    x = keras.Input((4,))
    model = OwnLoss(x, layers.Dense(2)(layers.Dense(3, activation="tanh")(x)))
    model.compile("sgd", "mse")
    return model


class OwnStep(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """With the fault, the loss is off from the second training step on."""

    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        value = super().compute_loss(*arguments, **keywords)
        late = ops.cast(self.optimizer.iterations, value.dtype) if bad and self.optimizer.built else 0.0
        return value * (1.0 + 0.01 * late)


def stepped_otherwise() -> Any:
    x = keras.Input((4,))
    model = OwnStep(x, layers.Dense(2)(layers.Dense(3, activation="tanh")(x)))
    model.compile("sgd", "mse")
    return model


class Between(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Has the fault in its own `call`, between sound layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = layers.Dense(3, name="one"), layers.Dense(1, name="two")

    def call(self, x: Any) -> Any:
        return self.two(self.one(x) * (1.001 if bad else 1.0))


class Tied(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Has no derivative at zero, where a ReLU before it puts its inputs; with the fault, it takes the other side's."""

    def call(self, x: Any) -> Any:
        return ops.where(x > 0 if bad else x >= 0, x, ops.zeros_like(x))


class TiedBetween(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def __init__(self) -> None:
        super().__init__()
        self.one, self.tied = layers.Dense(3, activation="relu", name="one"), Tied(name="tied")
        self.two = layers.Dense(1, name="two")

    def call(self, x: Any) -> Any:
        return self.two(self.tied(self.one(x)) * (1.001 if bad else 1.0))


def tied_and_wrong_between() -> Any:
    return TiedBetween()


class Outer(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Has a fault of its own, and holds a layer that is at a tie."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = Tied(name="tied")

    def call(self, x: Any) -> Any:
        return self.inner(ops.relu(x)) * (1.001 if bad else 1.0)


def tied_inside_and_wrong_outside() -> Any:
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(1)(Outer(name="outer")(layers.Dense(3)(x))))
    model.compile("sgd", "mse")
    return model


def tied_and_trained_otherwise() -> Any:
    x = keras.Input((4,))
    model = OwnStep(x, layers.Dense(1)(Tied(name="tied")(layers.Dense(3, activation="relu")(x))))
    model.compile("sgd", "mse")
    return model


def between() -> Any:
    return Between()


def without_its_mask() -> Any:
    x = keras.Input((5,), dtype="int32")
    y = layers.SimpleRNN(3, name="rnn")(layers.Embedding(4, 3, mask_zero=not bad, name="words")(x))
    model = keras.Model(x, layers.Dense(1)(y))
    model.compile("sgd", "mse")
    return model


def without_its_penalty() -> Any:
    return model_of(layers.Dense(3, activity_regularizer=None if bad else "l2", name="penalized"))


def initialized_otherwise() -> Any:
    return model_of(layers.Dense(3, kernel_initializer="he_normal" if bad else "glorot_uniform", name="first"))


# Sound models.


class Nested(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds layers in a list."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = [layers.Dense(4, activation="tanh", name="one"), layers.Dense(4, name="two")]

    def build(self, shape: Any) -> None:
        self.inner[0].build(shape)
        self.inner[1].build((None, 4))

    def call(self, x: Any) -> Any:
        for each in self.inner:
            x = each(x)
        return x


class Equal(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Takes the maximum of equal elements, and ReLU and abs at their corners."""

    def call(self, x: Any) -> Any:
        return ops.max(x * 0, axis=-1, keepdims=True) + ops.relu(x * 0) + ops.abs(x * 0)


class Cancel(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Loses thirteen bits, on every backend."""

    def call(self, x: Any) -> Any:
        # Not a constant: XLA would add two of them up first, and lose nothing.
        large = 1e4 + 0 * ops.max(x)
        return (x + large) - large


def sound() -> Any:
    """Many kinds of layers in one model, since each layer is judged by itself."""
    images, words = keras.Input((6, 6, 1), name="images"), keras.Input((6, 8), name="words")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.MaxPooling2D(name="pool")(layers.Rescaling(0.0, name="zeros")(images))
    x = layers.Dense(6, kernel_initializer="zeros", name="flat_dense")(layers.Flatten(name="flat")(x))
    x = Equal(name="equal")(layers.ReLU(name="relu")(x))
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1, name="attention")(words, words)
    attended = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(name="norm")(words + attended))
    shared = layers.Dense(6, name="shared")
    both = Cancel(name="cancel")(shared(attended) + shared(layers.Dense(8, name="to_8")(x)))
    both = layers.Activation("gelu", name="gelu")(layers.BatchNormalization(name="batch_norm")(both))
    both = layers.LeakyReLU(name="leaky")(both)
    table = layers.Flatten(name="flat_table")(layers.Embedding(9, 3, name="table")(tokens))
    every = layers.Concatenate(name="every")([x, both, Nested(name="nested")(both), table])
    every = layers.Dropout(0.2, name="drop")(every)
    outputs = {"p": layers.Dense(2, name="p")(every), "q": layers.Dense(1, name="q")(every)}
    model = keras.Model({"images": images, "words": words, "tokens": tokens}, outputs)
    model.compile("sgd", {"p": "mse", "q": "mae"})
    return model


class Kink(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Has a derivative at zero that is 1 on TensorFlow and 0.5 on other backends."""

    def call(self, x: Any) -> Any:
        return ops.maximum(x, 0.0)


def tie() -> Any:
    return model_of(layers.Rescaling(0.0, name="zeros"), Kink(name="kink"))


def recurrent() -> Any:
    return model_of(
        layers.Embedding(20, 6, mask_zero=True, name="table"),
        layers.GRU(5, dropout=0.2, name="gru"),
        shape=(4,),
    )


def tokens(size: int, random: np.random.Generator) -> Any:
    x = random.integers(20, size=(size, 4))
    x[:, 3] = 0  # Masked.
    return x.astype("int32"), random.normal(size=(size, 2)).astype("float32")


def repeated_tokens() -> Any:
    return model_of(layers.Embedding(3, 4, name="table"), layers.Flatten(name="flat"), optimizer="rmsprop")


class Unstable(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Sixteen steps of the logistic map, each of which doubles the difference between two numbers."""

    def call(self, x: Any) -> Any:
        x = ops.sigmoid(x)
        for _ in range(16):
            x = 3.9 * x * (1 - x)
        return x


def unstable() -> Any:
    return model_of(Unstable(name="map"))


class Own(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def __init__(self) -> None:
        super().__init__()
        self.one, self.more = layers.Dense(4, activation="tanh", name="one"), [layers.Dense(4, name="two")]
        self.last = layers.Dense(2, name="three")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.one(x)
        return self.last(self.more[0](x) + x)


def own() -> Any:
    return Own()


def own_data(size: int, random: np.random.Generator) -> Any:
    return random.normal(size=(size, 4)).astype("float32"), random.normal(size=(size, 2)).astype("float32")


# What users have reported of Keras.


def reported() -> Any:
    return model_of(
        layers.AveragePooling2D(2, strides=1, padding="same", name="average"),
        layers.Conv2D(3, 3, strides=2, padding="same", name="strided"),
        layers.Conv2D(3, 3, dilation_rate=3, padding="same", name="dilated"),
        layers.MaxPooling2D(2, strides=1, padding="same", name="maximum"),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same", name="transposed"),
        layers.BatchNormalization(name="norm"),
        layers.Flatten(name="flat"),
        shape=(7, 7, 2),
    )


def strided_average() -> Any:
    return model_of(
        layers.AveragePooling2D(3, strides=2, padding="same", name="average"),
        layers.Flatten(name="flat"),
        shape=(4, 4, 2),
    )


# Backends that fail.


def uncompiled() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh"), layers.Dense(2)])


def augmented() -> Any:
    """On TensorFlow, the gradient by the images that are turned is another: a known difference."""
    turn = layers.RandomRotation(0.1, name="turn")
    return model_of(turn, layers.Conv2D(2, 3), layers.Flatten(), shape=(6, 6, 3))


def augmented_behind_a_layer() -> Any:
    turn = layers.RandomRotation(0.1, name="turn")
    return model_of(layers.Conv2D(2, 3), turn, layers.Flatten(), shape=(6, 6, 3))


class Boom(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    def call(self, x: Any) -> Any:
        if bad and not isinstance(x, keras.KerasTensor):
            raise RuntimeError("no such thing here")
        return x


def raises() -> Any:
    return model_of(Boom(name="boom"))


def loss_fails() -> Any:
    return model_of(loss=lambda y, predicted: _loss_unless(bad, y, predicted))


def loss_of_jax_alone() -> Any:
    """With the fault, a layer before it is another."""
    other = keras.config.backend() != "jax"
    return model_of(Detached(name="detached"), loss=lambda y, predicted: _loss_unless(other, y, predicted))


def _loss_unless(fails: bool, y: Any, predicted: Any) -> Any:
    if fails:
        raise NotImplementedError("this loss is in another framework's words")
    return ops.mean(ops.square(y - predicted))


def crashes() -> Any:
    if bad:
        print("last words", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(3)
    return model_of()
