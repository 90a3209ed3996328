"""Models as people write them, for which `dlf parity` once had a wrong answer or none, each with the right answer.

Requirements:

* each model is small and of one kind: sound, NaN alike on all backends, or different on one backend;
* the expected answers are in one place: `ANSWERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["ANSWERS", "Answer"]


@dataclass(frozen=True)
class Answer:
    """The answer that `dlf parity` has to give for a model of this file.

    Args:
        build: The name of the function that builds the model.
        verdict: The verdict of the report.
        code: The exit code of the command.
        says: Words of the report.
        data: The name of the function that makes the model's data.
        place: Stage, layer and variable of the first divergence.
    """

    build: str
    verdict: str = "agree"
    code: int = 0
    says: tuple[str, ...] = ()
    data: str | None = None
    place: tuple[str, str | None, str | None] | None = None


def compiled(*parts: Any, shape: tuple[int | None, ...] = (4,), loss: Any = "mse", **options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *parts])
    model.compile(**({"optimizer": "sgd", "loss": loss} | options))
    return model


def adapted() -> keras.Model:
    """A layer that derives values from its statistics only once, when it is adapted."""
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).normal(5.0, 3.0, (64, 4)).astype("float32"))
    return compiled(norm, layers.Dense(1))


class Learnt(layers.Layer):  # type: ignore[misc]
    """A layer that learns numbers from data, and holds them in an attribute that is not in its configuration."""

    def learn(self, data: np.ndarray) -> None:
        self.center = data.mean(axis=0)

    def call(self, x: Any) -> Any:
        return x - ops.cast(self.center, x.dtype)


def learnt() -> keras.Model:
    layer = Learnt(name="learnt")
    layer.center = np.zeros(4, "float32")
    model = compiled(layer, layers.Dense(1))
    layer.learn(np.random.default_rng(0).normal(5.0, 3.0, (64, 4)).astype("float32"))
    return model


class Attended(layers.Layer):  # type: ignore[misc]
    """A user's own block with masked attention, which JAX computes in float32."""

    def __init__(self, epsilon: float = 1e-3, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.attention = layers.MultiHeadAttention(2, 8, name="attention")
        self.norm, self.epsilon = layers.LayerNormalization(name="norm"), epsilon

    def call(self, x: Any, tokens: Any) -> Any:
        given = self.norm(x + self.attention(x, x, attention_mask=tokens[:, None, :]))
        return given / ops.sqrt(ops.mean(ops.square(given), axis=-1, keepdims=True) + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


class Stage(layers.Layer):  # type: ignore[misc]
    """A block in a block."""

    def __init__(self, epsilon: float = 1e-3, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.block, self.epsilon = Attended(epsilon, name="block"), epsilon

    def call(self, x: Any, tokens: Any) -> Any:
        return self.block(x, tokens=tokens)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


def attended(epsilon: float = 1e-3) -> keras.Model:
    i = keras.Input((None,), dtype="int32")
    x = Stage(epsilon, name="stage")(layers.Embedding(100, 16)(i), tokens=i != 0)
    model = keras.Model(i, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    return model


def attended_otherwise() -> keras.Model:
    """An epsilon that is 1% off on a backend in float64, which is far less than float32 attention hides."""
    return attended(1.01e-3 if keras.config.backend() == "torch" else 1e-3)


class Masked(layers.Layer):  # type: ignore[misc]
    """Compares lengths in int32 with step numbers that Keras counts."""

    def call(self, x: Any, lengths: Any) -> Any:
        steps = ops.expand_dims(ops.arange(ops.shape(x)[1]), 0)
        mask = steps < ops.expand_dims(ops.cast(lengths, "int32"), -1)
        return x * ops.expand_dims(ops.cast(mask, x.dtype), -1)


def lengths() -> keras.Model:
    x, given = keras.Input((6, 4)), keras.Input((), dtype="int32")
    model = keras.Model([x, given], layers.Dense(1)(Masked()(x, given)))
    model.compile("sgd", "mse")
    return model


class Whole(layers.Layer):  # type: ignore[misc]
    """Computes with integers inside a model."""

    def call(self, x: Any) -> Any:
        return ops.cast(ops.rms_normalization(x), "float32")


def whole_numbers() -> keras.Model:
    i = keras.Input((6,), dtype="int32")
    model = keras.Model(i, layers.Dense(1)(Whole(dtype="int32", name="whole")(i)))
    model.compile("sgd", "mse")
    return model


class Waves(layers.Layer):  # type: ignore[misc]
    """Gives complex numbers to the next layer."""

    def call(self, x: Any) -> Any:
        real, imaginary = ops.fft((x, ops.zeros_like(x)))
        return ops.view_as_complex(ops.stack([real, imaginary], axis=-1))


class Power(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        parts = ops.view_as_real(x)
        return ops.sum(ops.square(parts), axis=-1)


def waves() -> keras.Model:
    small = keras.optimizers.SGD(1e-4)
    return compiled(layers.Dense(6), Waves(name="waves"), Power(name="power"), layers.Dense(1), optimizer=small)


def roundoff() -> keras.Model:
    """The gradient of a LayerNormalization's gamma over one element is roundoff, beside a known difference of Adam."""
    a, b = keras.Input((), name="a"), keras.Input((1,), name="b")
    e = layers.Embedding(3, 4, name="table")(a)
    o = layers.Dense(1)(layers.Concatenate()([e, layers.LayerNormalization()(b)]))
    model = keras.Model({"a": a, "b": b}, o)
    model.compile("adam", "mse")
    return model


def roundoff_data(size: int, random: np.random.Generator) -> Any:
    x = {"a": random.integers(3, size=size).astype("float32"), "b": random.normal(size=(size, 1)).astype("float32")}
    return x, random.normal(size=(size, 1)).astype("float32")


def confident() -> keras.Model:
    """Probabilities below 1e-7, which are clipped and then taken for logits on TensorFlow."""
    large = keras.initializers.RandomNormal(stddev=30.0)
    return compiled(
        layers.Dense(20, activation="softmax", kernel_initializer=large), loss=["sparse_categorical_crossentropy"]
    )


def logits() -> keras.Model:
    """Logits, which the loss takes for probabilities: they are divided by their sum but on TensorFlow."""
    return compiled(layers.Dense(5), loss="sparse_categorical_crossentropy")


class Noise(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x))


def unseeded() -> keras.Model:
    """Noise that is drawn without a seed, as in many autoencoders; on JAX, Keras does not train it."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Noise(name="noise"), layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def frozen() -> keras.Model:
    """A model that is used and not trained, as for features."""
    model = compiled(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2))
    model.trainable = False
    return model


class Pooled(layers.Layer):  # type: ignore[misc]
    """A user's layer that calls a function of which a difference between backends is known."""

    def call(self, x: Any) -> Any:
        return ops.average_pool(x, 3, strides=2, padding="same")


def pooled() -> keras.Model:
    return compiled(Pooled(name="pooled"), layers.Flatten(), layers.Dense(1), shape=(4, 4, 1))


class Distance(layers.Layer):  # type: ignore[misc]
    def call(self, pair: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(pair[0] - pair[1]), axis=-1, keepdims=True))


def distance() -> keras.Model:
    """The derivative of a square root at zero, which is not finite on every backend."""
    a, b = keras.Input((4,)), keras.Input((4,))
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh")], name="tower")
    model = keras.Model([a, b], Distance(name="distance")([tower(a), tower(b)]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def distance_data(size: int, random: np.random.Generator) -> Any:
    a, b = (random.standard_normal((size, 4)).astype("float32") for _ in range(2))
    b[0] = a[0]
    return [a, b], random.uniform(0, 1, (size, 1)).astype("float32")


class Pair(keras.Model):  # type: ignore[misc]
    """Unpacks its two inputs by itself, and gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers.Dense(2, name="left"), layers.Dense(1, name="right")

    def call(self, inputs: Any) -> Any:
        one, other = inputs
        return [self.left(one), self.right(ops.concatenate([one, other], axis=-1))]


def pair() -> keras.Model:
    model = Pair()
    model((np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32)))
    model.compile("adam", ["mse", "mae"], metrics=[[apart], []])
    return model


def apart(y: Any, p: Any) -> Any:
    """A metric that computes with its arguments as they are, without converting them."""
    return ops.sqrt(ops.mean((y - p) ** 2, axis=-1))


def pair_data(size: int, random: np.random.Generator) -> Any:
    one, other, first, second = (random.standard_normal((size, n)).astype("float32") for n in (4, 3, 2, 1))
    return (one, other), [first, second]


class Root(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return ops.sqrt(x)


def rooted() -> keras.Model:
    """The gradient of a root is infinite where relu is zero: relu's gradient discards it, or multiplies it by zero."""
    return compiled(layers.Dense(4, activation="relu"), Root(), layers.Dense(1), shape=(4,))


def looked_up() -> keras.Model:
    """A vocabulary inside a model, which JAX does not train."""
    table = layers.IntegerLookup(vocabulary=[2, 3, 5])
    x = keras.Input((4,), dtype="int32")
    model = keras.Model(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(5, 3)(table(x)))))
    model.compile("sgd", "mse")
    return model


class Unit(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return ops.normalize(x, axis=-1)


def zero_row() -> keras.Model:
    """The norm of a row of zeros has a finite derivative on TensorFlow only."""
    return compiled(layers.Dense(3, use_bias=False), Unit(name="unit"), layers.Dense(1))


def zero_row_data(size: int, random: np.random.Generator) -> Any:
    x = random.normal(size=(size, 4)).astype("float32")
    x[0] = 0.0
    return x, random.normal(size=(size, 1)).astype("float32")


class Standard(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return (x - ops.mean(x, axis=-1, keepdims=True)) / (ops.std(x, axis=-1, keepdims=True) + 1e-3)


def constant_row() -> keras.Model:
    """The standard deviation of a constant row has no derivative on JAX; what a ReLU makes of a NaN does not matter."""
    return compiled(
        layers.Dense(3, use_bias=False), Standard(name="standard"), layers.Dense(4, "relu"), layers.Dense(1)
    )


class Gapped(layers.Layer):  # type: ignore[misc]
    """Masks gaps inside a layer, which looks for an exact value."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.masking, self.pool = layers.Masking(-99.0, name="masking"), layers.GlobalAveragePooling1D(name="pool")

    def call(self, x: Any) -> Any:
        return self.pool(self.masking(x))


def gapped() -> keras.Model:
    return compiled(Gapped(name="gapped"), layers.Dense(1), shape=(3, 2))


def gapped_data(size: int, random: np.random.Generator) -> Any:
    x = random.standard_normal((size, 3, 2)).astype("float32")
    x[np.arange(3) >= random.integers(1, 4, size)[:, None]] = -99.0
    return x, random.standard_normal((size, 1)).astype("float32")


def silent() -> keras.Model:
    """Metrics that are zero at every step."""
    never = keras.initializers.Constant(-9.0)
    metrics = [keras.metrics.Precision(), keras.metrics.Recall(), "accuracy"]
    return compiled(layers.Dense(1, "sigmoid", bias_initializer=never), loss="binary_crossentropy", metrics=metrics)


def by_lambda() -> keras.Model:
    """A Lambda whose function needs what its file has imported."""
    return compiled(layers.Dense(3), layers.Lambda(lambda x: ops.square(x) - x, output_shape=(3,), name="squared"))


def per_class() -> keras.Model:
    """A metric that gives a number for each class."""
    metrics = [keras.metrics.F1Score()]
    return compiled(layers.Dense(3, "softmax"), loss="categorical_crossentropy", metrics=metrics)


def plain() -> keras.Model:
    return compiled(layers.Dense(3, name="first"), layers.Dense(1))


def data_with_nan(size: int, random: np.random.Generator) -> Any:
    x, y = random.normal(size=(size, 4)).astype("float32"), random.normal(size=(size, 1)).astype("float32")
    x[0, 0] = np.nan
    return x, y


class Narrow(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return ops.cast(x, "float16") if keras.config.backend() == "torch" else x


def narrow() -> keras.Model:
    """The model's output has another dtype on one backend, because a layer in the middle gives that dtype."""
    i = keras.Input((4,))
    x = Narrow(name="narrow")(layers.Dense(3)(i))
    o = layers.Identity(name="last", autocast=False)(x)
    model = keras.Model(i, o)
    model.compile("sgd", "mse")
    return model


class Watched(layers.Layer):  # type: ignore[misc]
    """A metric that a layer updates in its call."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x: Any) -> Any:
        self.seen.update_state(ops.mean(ops.square(x)))
        return x


def watched() -> keras.Model:
    return compiled(Watched(name="watched"), layers.Dense(1))


class Pairs(keras.Sequential):  # type: ignore[misc]
    def train_step(self, *_: Any) -> Any:
        raise ValueError("expected two pictures, received one")


class Dropping(keras.Model):  # type: ignore[misc]
    """Takes `training`, but does not pass it on."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.last = layers.Dropout(0.5, seed=1, name="drop"), layers.Dense(1, name="last")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.last(self.drop(x))


def dropping() -> keras.Model:
    model = Dropping()
    model.compile("sgd", "mse")
    return model


def plain_data(size: int, random: np.random.Generator) -> Any:
    return random.normal(size=(size, 4)).astype("float32"), random.normal(size=(size, 1)).astype("float32")


def untrained() -> keras.Model:
    """A model's own `train_step` that fails on the batches that dlf makes."""
    model = Pairs([keras.Input((4,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


class Causal(layers.Layer):  # type: ignore[misc]
    """A kernel that is masked by assigning to it."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.mask = np.tri(shape[-1], 3, dtype="float32")

    def call(self, x: Any) -> Any:
        self.kernel.assign(self.kernel * self.mask)
        return ops.matmul(x, self.kernel)


def causal() -> keras.Model:
    return compiled(Causal(name="causal"), layers.Dense(1))


class ByClass(keras.losses.Loss):  # type: ignore[misc]
    """A loss that wants labels with an axis of one, which its name does not tell."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        right = ops.broadcast_to(ops.equal(y_true, ops.arange(3)), ops.shape(y_pred))
        return ops.mean(ops.where(right, -ops.log_softmax(y_pred), 0.0), axis=-1)


def own_targets() -> keras.Model:
    return compiled(layers.Conv1D(3, 2, padding="same"), shape=(5, 2), loss=ByClass())


def refuse(y_true: Any, y_pred: Any) -> Any:
    raise ValueError(f"expected labels of two eyes, received {ops.shape(y_true)}")


def refused() -> keras.Model:
    return compiled(layers.Dense(3, name="dense"), loss=refuse)


class Named(keras.optimizers.Optimizer):  # type: ignore[misc]
    """An optimizer whose own number is float32 by name."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.largest = self.add_variable(shape=(), name="largest", dtype="float32")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.largest, ops.maximum(self.largest, ops.cast(learning_rate, variable.dtype)))
        self.assign_sub(variable, ops.cast(self.largest, variable.dtype) * gradient)


def named() -> keras.Model:
    return compiled(layers.Dense(3), optimizer=Named(0.1))


class Branching(keras.optimizers.SGD):  # type: ignore[misc]
    """An optimizer that assigns in a branch, which JAX takes at every step."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.first = [self.add_variable_from_reference(each, "first") for each in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        first = self.first[self._get_variable_index(variable)]
        ops.cond(self.iterations == 5, lambda: self.assign(first, variable), lambda: None)
        super().update_step(gradient + first, variable, learning_rate)


def branching() -> keras.Model:
    return compiled(layers.Dense(3, name="dense"), optimizer=Branching(0.1))


class Kept(layers.Layer):  # type: ignore[misc]
    """A layer that keeps what it was called on, also where that was no more than a trace."""

    def call(self, x: Any) -> Any:
        self.last = ops.square(x)
        return x + self.last


def kept() -> keras.Model:
    return compiled(Kept(), layers.Dense(3))


class Summing(layers.Layer):  # type: ignore[misc]
    """A layer that adds a loss of each example, which Keras sums."""

    def call(self, x: Any) -> Any:
        sums = ops.sum(x, axis=1, keepdims=True)
        self.add_loss(0.01 * ops.abs(1 - sums))
        return x / (2 + ops.abs(sums))


def summing() -> keras.Model:
    return compiled(layers.Dense(3), Summing(name="summing"))


EVERYWHERE = "jax, tensorflow and torch"

ANSWERS = [
    Answer("adapted"),
    Answer("learnt"),
    Answer("attended", says=("Judged in its own dtype", "stage/block/attention")),
    Answer("attended_otherwise", "diverge", 1, place=("forward", "stage/block", None)),
    Answer("lengths"),
    Answer("whole_numbers"),
    Answer("waves"),
    Answer(
        "roundoff",
        "diverge",
        1,
        ("Known: ", "IndexedSlices"),
        data="roundoff_data",
        place=("trajectory", None, "table/embeddings"),
    ),
    Answer(
        "unseeded",
        code=3,
        says=(
            "computes and trains the same on tensorflow and torch. jax did not",
            "dlf check: keras.random.normal draws",
        ),
    ),
    Answer("frozen", says=("computes the same", "nothing of it is trained", "nothing to compare: nothing is trained")),
    Answer("logits", "diverge", 1, ("Known: ", "what are no probabilities"), place=("loss", None, "value")),
    Answer("confident", "diverge", 1, ("Known: ", "clipped"), place=("loss", None, "value")),
    Answer("pooled", "diverge", 1, ("Known: ", "counts zeros at an edge"), place=("forward", "pooled", None)),
    Answer(
        "distance",
        "not finite",
        4,
        (f"the same on {EVERYWHERE}, and not finite", "NaN", "first in the gradient of distance", "from finite input"),
        data="distance_data",
    ),
    Answer(
        "zero_row",
        "diverge",
        1,
        ("jax and torch differ", "NaN from finite input"),
        data="zero_row_data",
        place=("gradient", "unit", "input/0"),
    ),
    Answer(
        "rooted", "diverge", 1, ("Known: ", "the gradient of relu"), place=("gradient", None, "sequential/dense/kernel")
    ),
    Answer(
        "looked_up",
        "agree",
        3,
        (
            "the same on tensorflow and torch. jax did not come through.",
            "TracerArrayConversionError",
            "Known: On JAX, a layer that looks up",
        ),
    ),
    Answer("gapped", data="gapped_data"),
    Answer("pair", data="pair_data"),
    Answer("silent"),
    Answer("by_lambda"),
    Answer("per_class"),
    Answer(
        "constant_row",
        "diverge",
        1,
        ("jax differs from the others", "NaN from finite input"),
        data="zero_row_data",
        place=("gradient", "standard", "input/0"),
    ),
    Answer(
        "plain", "not finite", 4, ("The data hold NaN in x.", "first in the forward of first"), data="data_with_nan"
    ),
    Answer(
        "narrow", "diverge", 1, ("narrow, output on torch, float32 (8, 3) on",), place=("build", "narrow", "output")
    ),
    Answer(
        "watched",
        "diverge",
        1,
        ("Known: ", "updates in its `call`", "fit on jax, which fails there"),
        place=("trajectory", None, "the metric seen"),
    ),
    Answer("dropping", "diverge", 1, ("Known: ", "does not hand it on"), data="plain_data"),
    Answer(
        "untrained",
        "agree",
        3,
        (f"computes the same on {EVERYWHERE}. Not judged: trajectory", "expected two pictures, received one"),
    ),
    Answer("own_targets"),
    Answer(
        "refused",
        "agree",
        3,
        (f"computes the same on {EVERYWHERE}. Not judged: loss", "expected labels of two eyes", "--data gives those"),
    ),
    Answer("named"),
    Answer(
        "branching", "diverge", 1, ("jax differs from the others",), place=("update", None, "sequential/dense/kernel")
    ),
    Answer("kept"),
    Answer("summing"),
    Answer(
        "causal",
        "diverge",
        1,
        ("Known: ", "assigns to a trainable variable", "the model assigns to sequential/causal/kernel in its `call`"),
        place=("trajectory", None, "sequential/causal/kernel"),
    ),
]
