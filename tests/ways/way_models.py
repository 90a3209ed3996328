"""Tiny models and metrics to be trained in every way; each is made anew for each way."""

from __future__ import annotations

from typing import Any

import keras

layers = keras.layers
FEATURES, CLASSES, STEPS = 4, 3, 5


def dense(**options: Any) -> keras.Model:
    return keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(5, activation="tanh", **options), layers.Dense(CLASSES)]
    )


def deferred() -> keras.Model:
    """Returns a model without an input shape, which the first batch builds."""
    return keras.Sequential([layers.Dense(5, activation="tanh"), layers.Dense(CLASSES)])


def noisy() -> keras.Model:
    return keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(5, activation="relu"), layers.Dropout(0.4), layers.Dense(CLASSES)]
    )


def normalized() -> keras.Model:
    return keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(5, use_bias=False), layers.BatchNormalization(), layers.Dense(CLASSES)]
    )


def regularized() -> keras.Model:
    return dense(kernel_regularizer="l2", activity_regularizer="l1", bias_constraint="max_norm")


def frozen() -> keras.Model:
    model = dense()
    model.layers[0].trainable = False
    return model


def shared() -> keras.Model:
    inputs = keras.Input((FEATURES,))
    twice = layers.Dense(FEATURES, activation="tanh")
    return keras.Model(inputs, layers.Dense(CLASSES)(twice(twice(inputs))))


def nested() -> keras.Model:
    return keras.Sequential([keras.Input((FEATURES,)), dense(), layers.Dense(CLASSES)])


def recurrent() -> keras.Model:
    return keras.Sequential([keras.Input((STEPS, FEATURES)), layers.GRU(4, dropout=0.2), layers.Dense(CLASSES)])


def stateful() -> keras.Model:
    inputs = keras.Input(batch_shape=(4, STEPS, FEATURES))
    return keras.Sequential([inputs, layers.SimpleRNN(4, stateful=True), layers.Dense(CLASSES)])


def masked() -> keras.Model:
    return keras.Sequential(
        [keras.Input((STEPS,)), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(4), layers.Dense(CLASSES)]
    )


def pooled() -> keras.Model:
    """Returns a model for sequences of any length, which averages over the steps."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(9, 4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
        ]
    )


def labelled_steps() -> keras.Model:
    return keras.Sequential(
        [keras.Input((STEPS, FEATURES)), layers.Masking(), layers.SimpleRNN(4, return_sequences=True), layers.Dense(1)]
    )


def convolutional() -> keras.Model:
    return keras.Sequential(
        [keras.Input((STEPS, FEATURES)), layers.Conv1D(3, 2), layers.Flatten(), layers.Dense(CLASSES)]
    )


def _joined(left: Any, right: Any) -> Any:
    return layers.Concatenate()([layers.Dense(3)(left), layers.Dense(3)(right)])


def two_inputs() -> keras.Model:
    left, right = keras.Input((FEATURES,)), keras.Input((FEATURES,))
    return keras.Model([left, right], layers.Dense(CLASSES)(_joined(left, right)))


def named_inputs() -> keras.Model:
    left, right = keras.Input((FEATURES,), name="left"), keras.Input((FEATURES,), name="right")
    return keras.Model({"left": left, "right": right}, layers.Dense(CLASSES)(_joined(left, right)))


def two_outputs() -> keras.Model:
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, [layers.Dense(CLASSES, name="kind")(hidden), layers.Dense(1, name="size")(hidden)])


def named_outputs() -> keras.Model:
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(
        inputs, {"kind": layers.Dense(CLASSES, name="kind")(hidden), "size": layers.Dense(1, name="size")(hidden)}
    )


class Unpacked(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A subclassed model that takes a pair of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(5), layers.Dense(CLASSES)

    def call(self, inputs: Any, training: bool = False) -> Any:
        left, right = inputs
        return self.second(keras.ops.tanh(self.first(left) + right[:, :1]))


class OwnLoss(keras.Sequential):  # type: ignore[misc]  # As above.
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return keras.ops.mean(keras.ops.square(y_pred - keras.ops.mean(x, axis=-1, keepdims=True)))


def own_loss() -> keras.Model:
    return OwnLoss([keras.Input((FEATURES,)), layers.Dense(CLASSES)])


class OwnCompile(keras.Model):  # type: ignore[misc]  # As above.
    """A model whose `compile` takes arguments of its own, as generative models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(CLASSES)
        self.strength = 0.0

    def compile(self, g_optimizer: Any, strength: float = 1.0) -> None:
        super().compile(optimizer=g_optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        self.strength = strength

    def call(self, inputs: Any) -> Any:
        return keras.ops.softmax(self.strength * self.dense(inputs))


def own_compile(**options: Any) -> keras.Model:
    model = OwnCompile()
    model.compile(**options)
    return model


def compiled() -> keras.Model:
    model = dense()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
    return model


class Restored(keras.Model):  # type: ignore[misc]  # As above.
    """A model of a pair or a dictionary of inputs, that is trained without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(FEATURES)

    def call(self, inputs: Any) -> Any:
        return self.dense(keras.tree.flatten(inputs)[0])

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        assert y is None
        return keras.ops.mean(keras.ops.square(y_pred - keras.tree.flatten(x)[0]))


def restored() -> keras.Model:
    return Restored()


class OwnMetrics(keras.Sequential):  # type: ignore[misc]  # As above.
    """A model that returns more than its metrics, part of it in a nested dictionary."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "largest": keras.ops.max(y_pred), "more": {"least": keras.ops.min(y_pred)}}


def own_metrics() -> keras.Model:
    return OwnMetrics([keras.Input((FEATURES,)), layers.Dense(CLASSES)])


class OwnStep(keras.Sequential):  # type: ignore[misc]  # As above.
    """A model with its own step, which returns something besides the metrics."""

    def train_step(self, *arguments: Any) -> Any:
        logs = super().train_step(*arguments)
        if keras.config.backend() == "jax":
            return {"loss": logs[0]["loss"], "twice": 2 * logs[0]["loss"]}, logs[1]
        return {"loss": logs["loss"], "twice": 2 * logs["loss"]}


def own_step() -> keras.Model:
    return OwnStep([keras.Input((FEATURES,)), layers.Dense(CLASSES)])


class InputsAlone(keras.Sequential):  # type: ignore[misc]  # As above.
    """A model whose step checks that it is given an array of inputs, not a tuple, when there are no labels."""

    def train_step(self, *arguments: Any) -> Any:
        data = arguments[-1]
        assert hasattr(data, "shape"), type(data)
        return super().train_step(*arguments[:-1], (data, data))

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return keras.ops.mean(keras.ops.square(y_pred - x))


def inputs_alone() -> keras.Model:
    return InputsAlone([keras.Input((FEATURES,)), layers.Dense(FEATURES)])


class Looks(keras.layers.Layer):  # type: ignore[misc]  # As above.
    """A layer that says of itself that it cannot be compiled, as some of Keras's own do."""

    def __init__(self) -> None:
        super().__init__(name="looks")
        self.supports_jit = False

    def call(self, inputs: Any) -> Any:
        return inputs * 2.0


def not_to_be_compiled() -> keras.Model:
    return keras.Sequential([keras.Input((FEATURES,)), Looks(), layers.Dense(CLASSES)])


class Penalty(keras.layers.Layer):  # type: ignore[misc]  # As above.
    def call(self, inputs: Any) -> Any:
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def added_loss() -> keras.Model:
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(5), Penalty(), layers.Dense(CLASSES)])


class Counts(keras.metrics.Metric):  # type: ignore[misc]  # As above.
    """A metric whose result is a dictionary: the numbers of batches and of examples."""

    def __init__(self, name: str = "counts") -> None:
        super().__init__(name=name)
        self.batches = self.add_weight(name="batches", initializer="zeros")
        self.examples = self.add_weight(name="examples", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.batches.assign_add(1.0)
        self.examples.assign_add(keras.ops.cast(keras.ops.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        # Not the variables themselves: on PyTorch, Keras's logs would follow them through the validation.
        return {"n_examples": self.examples + 0.0, "a_batches": self.batches + 0.0}


class ByClass(keras.metrics.Metric):  # type: ignore[misc]  # As above.
    """A metric whose result is a vector, with one number for each output."""

    def __init__(self, size: int = CLASSES, name: str = "by_class") -> None:
        super().__init__(name=name)
        self.total = self.add_weight(name="total", shape=(size,), initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.mean(keras.ops.abs(y_pred), axis=0))

    def result(self) -> Any:
        return self.total + 0.0
