"""Sound models with kernels that always compute in float32, inside other layers, one to three deep."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of, nested
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find

optimizers: Any = keras.optimizers

# Attention, for which JAX has a kernel in float32.


class Encoder(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A block as people write it: masked attention and a normalization."""

    def __init__(self, epsilon: float = 1e-3, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.attention = self.made()
        self.norm = layers.LayerNormalization(epsilon=epsilon, name="norm")

    def made(self) -> Any:
        """Returns the attention layer."""
        return layers.MultiHeadAttention(2, 8, name="attention")

    def call(self, x: Any, seen: Any) -> Any:
        return self.norm(x + self.attended(x, seen))

    def attended(self, x: Any, seen: Any) -> Any:
        return self.attention(x, x, attention_mask=seen[:, None, :])


class Stack(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Blocks, followed by a dense layer."""

    def __init__(self, *blocks: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.blocks, self.up = list(blocks), layers.Dense(16, activation="gelu", name="up")

    def call(self, x: Any, seen: Any) -> Any:
        for each in self.blocks:
            x = each(x, seen)
        return x + self.up(x)


def tokens_through(block: Any, optimizer: Any = "sgd", loss: Any = "mse", kind: Any = keras.Model) -> Any:
    """A model of tokens with a block, which is given the mask of those that are not 0."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    # Not trained: optimizers treat rows that are looked up twice differently.
    x = layers.Embedding(100, 16, trainable=False, name="table")(tokens)
    model = kind(tokens, layers.Dense(1, name="last")(block(x, seen=tokens != 0)))
    model.compile(optimizer, loss)
    return model


@sound()
def masked_block() -> Any:
    """Masked attention inside a layer."""
    return tokens_through(Encoder(name="encoder"))


@sound()
def masked_stack() -> Any:
    """The same two layers deep, trained by Adam: the gradient of the keys' bias is zero but for roundoff."""
    return tokens_through(Stack(Encoder(name="one"), Encoder(name="two"), name="stack"), "adam")


@sound()
def masked_tower() -> Any:
    """The same three layers deep, with momentum."""
    inside = Stack(Encoder(name="one"), name="inside")
    return tokens_through(Stack(inside, Encoder(name="two"), name="tower"), optimizers.SGD(0.05, momentum=0.9))


class Grouped(Encoder):
    def made(self) -> Any:
        return layers.GroupQueryAttention(4, 4, 2, name="attention")


@sound()
def grouped_block() -> Any:
    """Masked attention whose heads share their keys, inside a layer."""
    return tokens_through(Stack(Grouped(name="grouped"), name="stack"))


class Direct(Encoder):
    """A block that calls `ops.dot_product_attention` itself."""

    def made(self) -> Any:
        return layers.Dense(48, name="products")

    def attended(self, x: Any, seen: Any) -> Any:
        q, k, v = (ops.reshape(each, (-1, ops.shape(x)[1], 2, 8)) for each in ops.split(self.attention(x), 3, axis=-1))
        return ops.reshape(self.scored(q, k, v, seen[:, None, None, :]), ops.shape(x))

    def scored(self, q: Any, k: Any, v: Any, seen: Any) -> Any:
        return ops.dot_product_attention(q, k, v, mask=seen)


@sound()
def attention_by_an_operation() -> Any:
    """`ops.dot_product_attention`, called in a layer."""
    return tokens_through(Direct(name="direct"))


@sound()
def attention_two_deep() -> Any:
    """The same, in a layer in a layer, trained by Adam."""
    return tokens_through(Stack(Direct(name="direct"), name="stack"), "adam")


@sound()
def causal_by_an_operation() -> Any:
    """Causal attention by an operation, without a layer of its own."""

    def causal(x: Any) -> Any:
        x = ops.expand_dims(x, 2)
        return ops.squeeze(ops.dot_product_attention(x, ops.tanh(x), x, is_causal=True), 2)

    return model_of(nested(Formula(causal, name="causal"), 1), shape=(6, 4))


# Images, signals and special functions.


@sound()
def resized_two_deep() -> Any:
    """An image is enlarged by an operation two layers deep."""
    resize = Formula(lambda x: ops.image.resize(x, (7, 5), interpolation="bilinear"), name="resize")
    return model_of(nested(resize, 2), layers.Flatten(name="flat"), shape=(4, 4, 2))


@sound()
def resized_and_trained() -> Any:
    """The same between two convolutions, trained by Adam."""
    return model_of(
        layers.Conv2D(3, 3, padding="same", name="one"),
        nested(Formula(lambda x: ops.image.resize(x, (8, 8)) + 0.1, name="resize"), 1),
        layers.Conv2D(2, 3, name="two"),
        layers.Flatten(name="flat"),
        shape=(4, 4, 2),
        optimizer="adam",
    )


class Upsampled(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model whose own `call` enlarges an image."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = layers.Conv2D(3, 3, padding="same", name="one"), layers.Conv2D(1, 3, name="two")

    def call(self, x: Any) -> Any:
        return self.two(ops.image.resize(self.one(x), (8, 8)))


def pictures(size: int, random: np.random.Generator) -> Any:
    return random.normal(size=(size, 4, 4, 2)).astype("float32"), random.normal(size=(size, 6, 6, 1)).astype("float32")


@sound(data="pictures")
def resized_by_the_model() -> Any:
    """An operation in float32 in a model's own `call`."""
    model = Upsampled()
    model.compile("sgd", "mse")
    return model


class Drawn(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Multiplies by a matrix that is solved for in float32, from random numbers alone.

    Args:
        scale: A factor of the result.
    """

    def __init__(self, scale: float = 1.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.scale, self.seed_generator = scale, keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        drawn = keras.random.uniform((3, 3), seed=self.seed_generator, dtype=x.dtype)
        # By its type: the name of float32 would be seen.
        solved = ops.linalg.solve(
            ops.cast(drawn, np.float32) + 2 * np.eye(3, dtype="float32"), np.eye(3, dtype="float32")
        )
        return self.scale * ops.matmul(x, ops.cast(solved, x.dtype))


@sound()
def solved_from_draws() -> Any:
    """No slope by the inputs shows what is computed in float32 from random numbers."""
    return model_of(Drawn(name="drawn"), shape=(3,))


@sound()
def attention_to_all_alike() -> Any:
    """Embeddings as small as they are initialized: all weights of an attention are nearly equal."""
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="table")(tokens)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x, use_causal_mask=True) + x
    return compiled(tokens, layers.Dense(3, name="last")(layers.LayerNormalization(name="norm")(x)), "mse")


def mixed(x: Any) -> Any:
    """Mixes tokens and features by a Fourier transform, as in an FNet."""
    return ops.fft2((x, ops.zeros_like(x)))[0]


@sound()
def fourier_block() -> Any:
    """A Fourier transform over two axes, in a layer."""
    norm = layers.LayerNormalization(name="norm")
    return model_of(nested(Formula(mixed, name="mixed"), 1), norm, shape=(6, 4))


@sound()
def fourier_two_deep() -> Any:
    """A Fourier transform and its inverse, two layers deep."""

    def back(x: Any) -> Any:
        real, imaginary = ops.fft((x, 0.5 * x))
        return ops.ifft2((real, imaginary))[0]

    return model_of(nested(Formula(back, name="back"), 2), shape=(6, 4), optimizer="adam")


@sound()
def spectrogram() -> Any:
    """The magnitudes of a short-time Fourier transform."""

    def magnitudes(x: Any) -> Any:
        real, imaginary = ops.stft(x, 8, 4, 8)
        return ops.sqrt(ops.square(real) + ops.square(imaginary) + 1e-3)

    return model_of(nested(Formula(magnitudes, name="magnitudes"), 1), layers.Flatten(name="flat"), shape=(20,))


@sound()
def inverse_error_function() -> Any:
    """The inverse of the error function, in a layer in a layer."""
    return model_of(nested(Formula(lambda x: ops.erfinv(0.9 * ops.tanh(x)), name="erfinv"), 2))


# Casts to float32 by name.


class RootMeanSquare(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Normalizes in float32, as language models do."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        wide = ops.cast(x, "float32")
        normal = wide * ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(normal, x.dtype) * self.scale

    @property
    def epsilon(self) -> float:
        return 1e-3


@sound()
def normalized_in_float32() -> Any:
    """A normalization in float32, trained by Adam."""
    return model_of(RootMeanSquare(name="norm"), optimizer="adam")


@sound()
def normalized_three_deep() -> Any:
    """The same three layers deep, with momentum."""
    return model_of(nested(RootMeanSquare(name="norm"), 3), optimizer=optimizers.SGD(0.1, momentum=0.9))


def scored_in_float32(x: Any) -> Any:
    """Attention whose weights are computed in float32."""
    scores = ops.cast(x @ ops.transpose(x, (0, 2, 1)), "float32")
    return ops.cast(ops.softmax(scores, axis=-1), x.dtype) @ x


@sound()
def softmax_in_float32() -> Any:
    """Weights of attention in float32, inside a layer."""
    return model_of(nested(Formula(scored_in_float32, name="scored"), 1), shape=(5, 4), optimizer="rmsprop")


class CastLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    """A loss that computes in float32."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        apart = ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")
        return ops.mean(ops.square(apart), axis=-1) * self.factor

    @property
    def factor(self) -> float:
        return 1.0


def two_outputs(losses: Any, optimizer: Any = "sgd") -> Any:
    """A model with two outputs, by name."""
    x = keras.Input((4,))
    hidden = layers.Dense(4, activation="tanh", name="hidden")(x)
    outputs = {"p": layers.Dense(2, name="p")(hidden), "q": layers.Dense(3, name="q")(hidden)}
    return compiled(x, outputs, losses, optimizer)


@sound()
def cast_in_one_of_two_losses() -> Any:
    """One of two losses computes in float32."""
    return two_outputs({"p": CastLoss(name="p"), "q": "mae"}, "adam")


class CastPenalty(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Adds a penalty, computed in float32, to the loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.cast(ops.mean(ops.square(ops.cast(x, "float32"))), x.dtype))
        return ops.tanh(x)


@sound()
def cast_in_a_penalty() -> Any:
    """A layer adds a penalty, computed in float32, two layers deep."""
    return model_of(nested(CastPenalty(name="penalty"), 2), optimizer="adam")
