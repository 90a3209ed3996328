"""Keras's own differences between backends, in less plain models: they are found, placed and, where known, given their
reason."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of, nested, tokens_model
from planting import Faults
from sound_losses import Commitment, Own, classifier

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find

TENSORFLOW, JAX, TORCH = ("tensorflow",), ("jax",), ("torch",)

# Probabilities below 1e-7, with integer class labels.


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_probabilities() -> Any:
    """The loss is given by its name."""
    return classifier("sparse_categorical_crossentropy", 40.0)


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_among_several() -> Any:
    """The loss is given as an object, in a dictionary of losses."""
    x = keras.Input((4,))
    kind = layers.Softmax(name="kind")(layers.Rescaling(40.0, name="scale")(layers.Dense(3, name="scores")(x)))
    outputs = {"kind": kind, "size": layers.Dense(1, name="size")(x)}
    return compiled(x, outputs, {"kind": keras.losses.SparseCategoricalCrossentropy(), "size": "mae"}, "adam")


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_in_a_list() -> Any:
    """The loss is given in a list of losses, behind a nested model."""
    scores = [keras.Input((4,)), layers.Dense(3, name="scores"), layers.Rescaling(40.0, name="scale")]
    inside = keras.Sequential([*scores, layers.Softmax(name="kind")], name="inside")
    x = keras.Input((4,))
    return compiled(x, [layers.Dense(1, name="size")(x), inside(x)], ["mse", "sparse_categorical_crossentropy"])


def sparse(y: Any, p: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y, p)


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_by_a_function() -> Any:
    """Called in a user's own loss."""
    return classifier(Own(sparse, "sparse_own"), 40.0)


class Added(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Adds a loss to that of the model."""

    def call(self, p: Any) -> Any:
        first = ops.cast(ops.zeros_like(p[:, 0]), "int32")
        self.add_loss(ops.mean(keras.losses.sparse_categorical_crossentropy(first, p)))
        return p * 1


@fault(stage="loss", layer="added", where=TENSORFLOW, known=True)
def tiny_in_a_penalty() -> Any:
    """Called where a layer adds to the loss."""
    scores = [layers.Dense(3, name="scores"), layers.Rescaling(40.0, name="scale"), layers.Softmax(name="kind")]
    return model_of(*scores, Added(name="added"))


# Probabilities whose logits a compiled step uses instead.


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def logits_behind_a_softmax() -> Any:
    """Probabilities below 1e-7, which a loss clips before their logarithm, but not on TensorFlow."""
    return classifier("categorical_crossentropy", 40.0)


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def logits_behind_a_sigmoid() -> Any:
    """A sigmoid of large numbers, whose crossentropy is clipped."""
    ends = [layers.Rescaling(30.0, name="large"), layers.Activation("sigmoid", name="sigmoid")]
    return model_of(*ends, loss="binary_crossentropy", last=False)


@fault(stage="gradient", layer="level_1/turned", where=TENSORFLOW, known=True)
def transformed_image() -> Any:
    """An image is transformed by an operation in a layer."""
    turn = np.array([0.9, -0.3, 0.4, 0.3, 0.9, -0.2, 0, 0], "float32")

    def turned(x: Any) -> Any:
        each = ops.ones_like(x[:, 0, 0, :1]) * ops.cast(ops.convert_to_tensor(turn), x.dtype)
        return ops.image.affine_transform(x, each, interpolation="bilinear")

    return model_of(nested(Formula(turned, name="turned"), 1), layers.Flatten(name="flat"), shape=(5, 5, 2))


# Queries that may attend to nothing.


def labelled_sentences(size: int, random: np.random.Generator) -> Any:
    tokens = random.integers(1, 20, (size, 6)).astype("int32")
    tokens[:, 4:] = 0
    return tokens, random.normal(size=(size, 6, 3)).astype("float32")


@fault(stage="gradient", layer="attention", data="labelled_sentences", where=TORCH, known=True)
def attention_to_nothing() -> Any:
    """Self-attention with a mask, where padded steps attend to nothing and have a label too."""
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, name="table")(tokens)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x) + x
    return compiled(tokens, layers.Dense(3, name="last")(layers.LayerNormalization(name="norm")(x)), "mse")


# Rows of a table that are looked up twice.


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def rows_that_are_taken_twice() -> Any:
    """The codes of a VQ-VAE, trained by Adam."""
    return model_of(Commitment(name="codes"), optimizer="adam")


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def repeated_tokens_beside_roundoff() -> Any:
    """Adam squares sparse gradients before they are added up, beside a normalization over one element."""
    table, one = keras.Input((4,), dtype="int32", name="table"), keras.Input((1,), name="one")
    row = layers.Flatten(name="flat")(layers.Embedding(3, 4, name="rows")(table))
    both = layers.Concatenate(name="both")([row, layers.LayerNormalization(name="norm")(one)])
    return compiled({"table": table, "one": one}, layers.Dense(1, name="last")(both), "mse", "adam")


# What JAX's trainer leaves out.


class Masked(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A causal convolution, as in a PixelCNN: its kernel is masked by assigning to it in `call`."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.conv = layers.Conv1D(3, 3, padding="same", name="conv")

    def build(self, shape: Any) -> None:
        self.conv.build(shape)
        mask = np.ones((3, shape[-1], 3), "float32")
        mask[2:] = 0.0
        self.mask = mask

    def call(self, x: Any) -> Any:
        self.conv.kernel.assign(self.conv.kernel * ops.cast(self.mask, self.conv.kernel.dtype))
        return self.conv(x)


@fault(stage="trajectory", where=JAX)
def kernel_assigned_in_call() -> Any:
    """An assignment to a trainable kernel is lost on JAX."""
    return model_of(Masked(name="masked"), layers.Flatten(name="flat"), shape=(5, 2))


class Watched(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Keeps a metric of its inputs."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x: Any) -> Any:
        self.seen.update_state(ops.mean(ops.square(x)))
        return ops.tanh(x)


@fault(stage="trajectory", where=JAX)
def metric_of_a_layer() -> Any:
    """A metric that a layer updates is not kept on JAX."""
    return model_of(Watched(name="watched"))


class Perplexity(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds a layer that keeps a metric."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = Watched(name="inner")

    def call(self, x: Any) -> Any:
        return self.inner(x) * 2


@fault(stage="trajectory", where=JAX)
def metric_two_deep() -> Any:
    """The same fault, two layers deep, in a model of tokens."""
    return tokens_model(Perplexity(name="outer"), layers.GlobalAveragePooling1D(name="mean"))


@fault(stage="forward", layer="summed", where=TENSORFLOW)
def channels_added_along_the_width() -> Any:
    """`ops.add` of an array with only one axis longer than 1, in a layer, adds along another axis on TensorFlow."""
    offset = np.array([[[0.5], [1.0], [-2.0]]], "float32")
    added = Formula(lambda x: ops.add(x, ops.cast(offset, x.dtype)), name="summed")
    return model_of(added, layers.Flatten(name="flat"), shape=(3, 3))
