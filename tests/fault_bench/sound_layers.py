"""Sound models that do the same everywhere: Keras's layers, and the ways in which models are made of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Block, Formula, model_of, tokens_model
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find


def compiled(inputs: Any, outputs: Any, loss: Any = "mse") -> Any:
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss)
    return model


# Sequences.


@sound()
def lstm_with_masks() -> Any:
    """A recurrent layer keeps its state at masked steps."""
    return tokens_model(layers.LSTM(3, return_sequences=True, name="lstm"), layers.LSTM(3, name="second"))


@sound()
def gru_with_masks() -> Any:
    """A GRU with a mask and with dropout of inputs and of the state."""
    return tokens_model(layers.GRU(3, dropout=0.2, recurrent_dropout=0.2, name="gru"))


@sound()
def both_directions() -> Any:
    """An LSTM in both directions, with a mask."""
    return tokens_model(layers.Bidirectional(layers.LSTM(3), name="both"))


@sound()
def unrolled() -> Any:
    """A recurrent layer without a loop, that returns its states."""
    x = keras.Input((4, 3))
    whole, hidden, carry = layers.LSTM(3, unroll=True, return_sequences=True, return_state=True, name="lstm")(x)
    return compiled(x, layers.Dense(2, name="last")(whole + ops.expand_dims(hidden * carry, 1)))


@sound()
def convolutional_lstm() -> Any:
    """A convolutional recurrent layer."""
    return model_of(layers.ConvLSTM1D(2, 3, name="lstm"), layers.Flatten(), shape=(3, 6, 2))


@sound()
def time_distributed() -> Any:
    """Layers that are called for each time step."""
    return model_of(layers.TimeDistributed(layers.Dense(3, activation="gelu"), name="each"), shape=(4, 3))


@sound()
def attention_with_masks() -> Any:
    """Attention between two sequences, with a mask."""
    x, y, seen = keras.Input((4, 6)), keras.Input((5, 6)), keras.Input((4, 5), dtype="bool")
    attended = layers.MultiHeadAttention(2, 3, dropout=0.1, name="attention")(x, y, attention_mask=seen)
    return compiled([x, y, seen], layers.Dense(2, name="last")(layers.LayerNormalization(name="norm")(x + attended)))


@sound()
def causal_attention() -> Any:
    """Causal attention, with fewer key heads than query heads."""
    x = keras.Input((5, 8))
    attended = layers.GroupQueryAttention(4, 4, 2, name="attention")(x, x, use_causal_mask=True)
    return compiled(x, layers.Dense(2, name="last")(attended))


@sound()
def repeated_tokens() -> Any:
    """A row of a table that is looked up many times, trained by plain SGD."""
    return tokens_model(layers.Flatten(name="flat"), vocabulary=3, mask_zero=False)


# Layers of Keras.


@sound()
def dropout_everywhere() -> Any:
    """Dropout and noise of several kinds."""
    return model_of(
        layers.Dropout(0.3, name="plain"),
        layers.SpatialDropout1D(0.3, name="spatial"),
        layers.GaussianDropout(0.3, name="gaussian"),
        layers.AlphaDropout(0.3, name="alpha"),
        layers.GaussianNoise(0.3, name="noise"),
        shape=(4, 3),
    )


@sound()
def normalizations() -> Any:
    """Normalizations of several kinds, one after the other."""
    return model_of(
        layers.LayerNormalization(name="layer"),
        layers.GroupNormalization(2, name="group"),
        layers.RMSNormalization(name="rms"),
        layers.UnitNormalization(name="unit"),
        layers.BatchNormalization(name="batch"),
        layers.Normalization(mean=0.1, variance=2.0, name="given"),
        shape=(3, 4),
    )


@sound()
def images() -> Any:
    """Convolutions and pooling of several kinds."""
    return model_of(
        layers.SeparableConv2D(3, 3, padding="same", name="separable"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
        layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="transposed"),
        layers.UpSampling2D(2, interpolation="bilinear", name="larger"),
        layers.AveragePooling2D(2, name="average"),
        layers.GlobalMaxPooling2D(name="largest"),
        shape=(5, 5, 2),
    )


@sound()
def constant_batch() -> Any:
    """A normalization over the batch of a constant, whose variance is zero but for epsilon."""
    return model_of(layers.Rescaling(0.0, offset=0.3, name="constant"), layers.BatchNormalization(name="norm"))


class WeightNormalized(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A kernel that is the product of a direction and a length."""

    def build(self, shape: Any) -> None:
        self.direction = self.add_weight(shape=(shape[-1], 3), name="direction")
        self.length = self.add_weight(shape=(3,), initializer="ones", name="length")

    def call(self, x: Any) -> Any:
        return x @ (self.direction * ops.rsqrt(ops.sum(self.direction**2, axis=0)) * self.length)


@sound()
def weight_normalized() -> Any:
    """Weight normalization by hand; the gradient along a column of the direction is zero but for roundoff."""
    return model_of(WeightNormalized(name="normalized"), optimizer="adam")


@sound()
def bias_before_norm() -> Any:
    """The gradient of the bias is zero but for roundoff, which Adam turns into whole steps."""
    return model_of(layers.Dense(4, name="biased"), layers.BatchNormalization(name="norm"), optimizer="adam")


@sound()
def bias_before_softmax() -> Any:
    """The same, for a bias that is added to all scores before a softmax."""
    ends = [layers.Dense(1, name="score"), layers.Softmax(axis=1, name="softmax"), layers.Flatten(name="flat")]
    return model_of(*ends, shape=(5, 3), optimizer="rmsprop")


@sound()
def frozen() -> Any:
    """Layers that are not trained, a normalization among them."""
    return model_of(
        layers.Dense(3, trainable=False, name="kept"), layers.BatchNormalization(trainable=False, name="norm")
    )


@sound()
def without_variables() -> Any:
    """Layers without variables."""
    return model_of(
        layers.Reshape((2, 2), name="reshape"),
        layers.Permute((2, 1), name="permute"),
        layers.ZeroPadding1D(1, name="pad"),
        layers.Cropping1D((1, 0), name="crop"),
        layers.Flatten(name="flat"),
        layers.RepeatVector(2, name="repeat"),
        layers.ELU(name="elu"),
    )


@sound()
def lambda_layer() -> Any:
    """A Lambda."""
    return model_of(layers.Lambda(lambda x: x * 2 + 1, name="twice"))


@sound()
def operations() -> Any:
    """Operations between layers, without a layer of their own."""
    x = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(x)
    return compiled(x, layers.Dense(2, name="last")(ops.tanh(hidden) * 2 + ops.mean(hidden, axis=-1, keepdims=True)))


# Ways to make a model.


@sound()
def shared_layer() -> Any:
    """A shared BatchNormalization that is called three times."""
    one, other = keras.Input((4,)), keras.Input((4,))
    shared = layers.BatchNormalization(name="shared")
    return compiled([one, other], layers.Dense(2, name="last")(shared(shared(one)) - shared(other)))


@sound()
def several_outputs() -> Any:
    """Two inputs and three outputs, each with a loss of its own."""
    one, other = keras.Input((4,), name="one"), keras.Input((3,), name="other")
    both = layers.Concatenate(name="both")([one, other])
    outputs = [layers.Dense(n, name=f"out_{n}")(both) for n in (1, 2, 3)]
    return compiled([one, other], outputs, ["mse", "mae", "huber"])


@sound()
def dictionaries() -> Any:
    """Inputs and outputs by name, not in alphabetical order."""
    inputs = {"z": keras.Input((4,), name="z"), "a": keras.Input((3,), name="a")}
    both = layers.Concatenate(name="both")([inputs["z"], inputs["a"]])
    outputs = {"q": layers.Dense(2, name="q")(both), "p": layers.Dense(1, name="p")(both)}
    return compiled(inputs, outputs, {"p": "mse", "q": "mae"})


@sound()
def nested_models() -> Any:
    """Nested models, one of them called twice."""
    inside = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="relu", name="dense")], name="inside")
    middle = keras.Sequential([keras.Input((4,)), inside, layers.Dropout(0.2, name="drop")], name="middle")
    x = keras.Input((4,))
    return compiled(x, layers.Dense(2, name="last")(middle(middle(x)) + inside(x)))


@sound()
def integers() -> Any:
    """Integers as numbers, and integers as tokens."""
    count, token = keras.Input((3,), dtype="int32", name="count"), keras.Input((), dtype="int64", name="token")
    counted = Formula(lambda x: ops.cast(x // 2, "float32") / 3, dtype="float32", name="counted")(count)
    row = layers.Embedding(7, 3, name="table")(token)
    return compiled([count, token], layers.Dense(2, name="last")(layers.Add(name="sum")([counted, row])))


@sound()
def truth_values() -> Any:
    """A boolean input selects elements of another input."""
    x, seen = keras.Input((4,), name="x"), keras.Input((4,), dtype="bool", name="seen")
    kept = Formula(lambda pair: ops.where(pair[1], pair[0], 0.0), name="kept")([x, seen])
    return compiled([x, seen], layers.Dense(2, name="last")(kept))


class Weighted(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Multiplies by Python numbers that are converted to tensors, some in `build` and some in `call`."""

    def build(self, shape: Any) -> None:
        self.shares = ops.convert_to_tensor([0.299, 0.587, 0.114, 0.7])

    def call(self, x: Any) -> Any:
        return ops.cast(self.shares, x.dtype) * x + ops.convert_to_tensor([0.1, 0.2, 0.3, 0.6]) * x


@sound()
def numbers_of_python() -> Any:
    """Numbers that float32 does not have, which one framework rounds to float32 first."""
    return model_of(Weighted(name="weighted"))


@sound()
def held_layers() -> Any:
    """A layer inside others, two layers deep."""
    return model_of(Block(Block(layers.LayerNormalization(name="norm"), name="inner"), name="outer"))


def vectors(size: int, random: np.random.Generator) -> Any:
    return random.normal(size=(size, 4)).astype("float32"), random.normal(size=(size, 2)).astype("float32")


class Own(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def __init__(self) -> None:
        super().__init__()
        self.parts = {"up": layers.Dense(6, activation="gelu", name="up"), "down": layers.Dense(4, name="down")}
        self.norm, self.last = layers.LayerNormalization(name="norm"), layers.Dense(2, name="last")
        self.drop = layers.Dropout(0.2, name="drop")

    def call(self, x: Any, training: bool = False) -> Any:
        hidden = self.parts["down"](self.parts["up"](self.norm(x)))
        return self.last(self.drop(hidden, training=training) + x)


@sound(data="vectors")
def subclassed() -> Any:
    """A subclassed model, which is built when it is called."""
    model = Own()
    model.compile("sgd", "mse")
    return model
