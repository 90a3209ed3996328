"""Differences of Keras's own, in dresses that are not the plainest: found, placed, and where they are known with their
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

# Probabilities below 1e-7, by the numbers of their classes.


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_probabilities() -> Any:
    """By the loss's name."""
    return classifier("sparse_categorical_crossentropy", 40.0)


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_among_several() -> Any:
    """In a dictionary of losses, by an object."""
    x = keras.Input((4,))
    kind = layers.Softmax(name="kind")(layers.Rescaling(40.0, name="scale")(layers.Dense(3, name="scores")(x)))
    outputs = {"kind": kind, "size": layers.Dense(1, name="size")(x)}
    return compiled(x, outputs, {"kind": keras.losses.SparseCategoricalCrossentropy(), "size": "mae"}, "adam")


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_in_a_list() -> Any:
    """In a list of losses, behind a nested model."""
    scores = [keras.Input((4,)), layers.Dense(3, name="scores"), layers.Rescaling(40.0, name="scale")]
    inside = keras.Sequential([*scores, layers.Softmax(name="kind")], name="inside")
    x = keras.Input((4,))
    return compiled(x, [layers.Dense(1, name="size")(x), inside(x)], ["mse", "sparse_categorical_crossentropy"])


def sparse(y: Any, p: Any) -> Any:
    return keras.losses.sparse_categorical_crossentropy(y, p)


@fault(stage="loss", where=TENSORFLOW, known=True)
def tiny_by_a_function() -> Any:
    """Called in a loss of one's own."""
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


# Probabilities of which a compiled step takes the logits.


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def logits_behind_a_softmax() -> Any:
    """Probabilities below 1e-7, of which a loss clips the logarithm, and not on TensorFlow."""
    return classifier("categorical_crossentropy", 40.0)


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def logits_behind_a_sigmoid() -> Any:
    """A sigmoid of what is large, whose crossentropy is clipped."""
    ends = [layers.Rescaling(30.0, name="large"), layers.Activation("sigmoid", name="sigmoid")]
    return model_of(*ends, loss="binary_crossentropy", last=False)


@fault(stage="gradient", layer="level_1/turned", where=TENSORFLOW, known=True)
def transformed_image() -> Any:
    """An image is turned, by an operation in a layer."""
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
    """The padding of a self-attention behind a mask, each step of which has a label."""
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True, name="table")(tokens)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x) + x
    return compiled(tokens, layers.Dense(3, name="last")(layers.LayerNormalization(name="norm")(x)), "mse")


# Rows of a table that come twice.


@fault(stage="trajectory", where=TENSORFLOW, known=True)
def rows_that_are_taken_twice() -> Any:
    """A VQ-VAE's codes."""
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
    """A convolution that sees what was before, as in a PixelCNN: its kernel is assigned to in `call`."""

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
    """What is assigned to a kernel that is trained is lost on JAX."""
    return model_of(Masked(name="masked"), layers.Flatten(name="flat"), shape=(5, 2))


class Watched(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Keeps a metric of what it gets."""

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
    """The same, of what a nested layer counts."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = Watched(name="inner")

    def call(self, x: Any) -> Any:
        return self.inner(x) * 2


@fault(stage="trajectory", where=JAX)
def metric_two_deep() -> Any:
    """The same, two deep, among tokens."""
    return tokens_model(Perplexity(name="outer"), layers.GlobalAveragePooling1D(name="mean"))


@fault(stage="forward", layer="summed", where=TENSORFLOW)
def channels_added_along_the_width() -> Any:
    """`ops.add` of what is long in one axis alone, called in a layer, goes along another axis on TensorFlow."""
    offset = np.array([[[0.5], [1.0], [-2.0]]], "float32")
    added = Formula(lambda x: ops.add(x, ops.cast(offset, x.dtype)), name="summed")
    return model_of(added, layers.Flatten(name="flat"), shape=(3, 3))
