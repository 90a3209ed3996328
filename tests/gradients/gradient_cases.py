"""The models whose gradients are tested, by name: run on JAX, this writes the gradients that every backend must find.

``KERAS_BACKEND=jax python tests/gradients/gradient_cases.py > tests/gradients/gradient_golden.json``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from dlf.gradients.value_and_grad import value_and_grad
from dlf.numerics.float64 import float64_everywhere, float64_reference
from dlf.random._initializers import uninstall
from dlf.random.seed import common_randomness, set_seed

ROWS, CLASSES, SEED = 12, 3, 11
_RANDOM = np.random.default_rng(2025)
X = _RANDOM.normal(size=(ROWS, 6)).astype(np.float32)
IMAGES = _RANDOM.normal(size=(ROWS, 6, 6, 2)).astype(np.float32)
SERIES = _RANDOM.normal(size=(ROWS, 5, 4)).astype(np.float32)
TOKENS = _RANDOM.integers(0, 4, (ROWS, 5)).astype(np.int32)  # A quarter of them are 0, and masked.
TOKENS[:, 0] = 1  # No row without a word.
NUMBERS = _RANDOM.normal(size=(ROWS, 2)).astype(np.float32)
LABELS = _RANDOM.integers(0, CLASSES, ROWS).astype(np.int32)
WEIGHTS = _RANDOM.uniform(0.0, 2.0, ROWS).astype(np.float32)

# Rates, factors and epsilons are binary fractions: they are the same in float64 even if they went through float32.
HALF, QUARTER, EPSILON = 0.5, 0.25, 2.0**-10


@dataclass(frozen=True)
class Case:
    """A model, its training data, and its loss, where None stands for the model's own."""

    build: Callable[[], keras.Model]
    x: Any
    y: Any
    loss: Callable[[], Any] = lambda: crossentropy()  # noqa: PLW0108 - it is defined below.
    weights: Any = None


def crossentropy() -> Any:
    """Returns a new loss each time, since a loss computes in the dtype that was the default when it was made."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(**options: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", name="hidden", **options),
            layers.Dense(CLASSES, name="out", **options),
        ],
        # Keras's default name has a number that grows from model to model, and is part of each variable's path.
        name="model",
    )


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", strides=2, name="conv"),
            layers.BatchNormalization(epsilon=EPSILON, name="norm"),
            layers.ReLU(),
            layers.Dropout(HALF, seed=3, name="dropout"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(CLASSES, name="out"),
        ],
        name="model",
    )


def recurrent() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5, 4)), layers.GRU(5, name="gru"), layers.Dense(CLASSES, name="out")], name="model"
    )


def transformer() -> keras.Model:
    tokens = keras.Input((5, 4))
    # 1 / √4 is a binary fraction too.
    attended = layers.MultiHeadAttention(2, 4, dropout=QUARTER, seed=4, name="attention")(tokens, tokens)
    hidden = layers.LayerNormalization(epsilon=EPSILON, name="norm")(tokens + attended)
    hidden = layers.Dense(8, activation="relu", name="wide")(hidden)
    pooled = layers.GlobalAveragePooling1D()(layers.Dropout(QUARTER, seed=5, name="dropout")(hidden))
    return keras.Model(tokens, layers.Dense(CLASSES, name="out")(pooled))


def two_in_two_out() -> keras.Model:
    left, right = keras.Input((6,), name="left"), keras.Input((5, 4), name="right")
    joined = layers.Concatenate()([layers.Dense(4, activation="tanh", name="dense")(left), layers.Flatten()(right)])
    outputs = {"label": layers.Dense(CLASSES, name="label")(joined), "number": layers.Dense(2, name="number")(joined)}
    return keras.Model({"left": left, "right": right}, outputs)


def two_in_two_out_in_lists() -> keras.Model:
    left, right = keras.Input((6,)), keras.Input((5, 4))
    joined = layers.Concatenate()([layers.Dense(4, activation="tanh", name="dense")(left), layers.Flatten()(right)])
    return keras.Model(
        [left, right], [layers.Dense(CLASSES, name="label")(joined), layers.Dense(2, name="number")(joined)]
    )


@keras.saving.register_keras_serializable("tests")
class AddsLoss(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Returns its inputs, and adds a penalty on their size to the loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(EPSILON * keras.ops.sum(keras.ops.square(inputs)))
        return inputs


def regularized() -> keras.Model:
    penalty = keras.regularizers.L1L2(l1=2.0**-6, l2=2.0**-5)
    # Biases of zero would be at the tip of |b|, whose slope there is 1 on JAX, and 0 on TensorFlow and PyTorch.
    biases: Any = {"bias_regularizer": penalty, "bias_initializer": keras.initializers.Constant(QUARTER)}
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", name="hidden", kernel_regularizer=penalty, **biases),
            AddsLoss(name="adds"),
            layers.Dense(CLASSES, name="out", activity_regularizer=penalty),
        ],
        name="model",
    )


def masked() -> keras.Model:
    tokens = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(4, 3, mask_zero=True, name="embedding")(tokens)
    hidden = layers.GRU(4, return_sequences=True, name="gru")(hidden)
    # The mask reaches the loss, so that only words count and padding does not.
    return keras.Model(tokens, layers.Dense(CLASSES, name="out")(hidden))


@keras.saving.register_keras_serializable("tests")
class OwnLoss(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model with its own `compute_loss`, so that it needs no other loss."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_pred - keras.ops.one_hot(y, CLASSES))) + sum(self.losses)


def own_loss() -> keras.Model:
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(EPSILON), name="hidden")(
        inputs
    )
    return OwnLoss(inputs, layers.Dense(CLASSES, name="out")(hidden))


CASES: Mapping[str, Case] = {
    "mlp": Case(mlp, X, LABELS),
    "convolutional": Case(convolutional, IMAGES, LABELS),
    "recurrent": Case(recurrent, SERIES, LABELS),
    "transformer": Case(transformer, SERIES, LABELS),
    "dictionaries": Case(
        two_in_two_out,
        {"left": X, "right": SERIES},
        {"label": LABELS, "number": NUMBERS},
        lambda: {"label": crossentropy(), "number": "mse"},
    ),
    "lists": Case(
        two_in_two_out_in_lists,
        [X, SERIES],
        [LABELS, NUMBERS],
        lambda: [crossentropy(), keras.losses.MeanAbsoluteError()],
    ),
    "regularized": Case(regularized, X, LABELS),
    "sample weights": Case(mlp, X, LABELS, weights=WEIGHTS),
    "masked": Case(masked, TOKENS, TOKENS % CLASSES),
    "own loss": Case(own_loss, X, LABELS, lambda: None),
}


@contextmanager
def in_float64() -> Iterator[None]:
    with float64_everywhere(), common_randomness():
        yield


def build(case: Case) -> keras.Model:
    """Returns the case's model, with the same weights on every backend."""
    set_seed(SEED)
    try:
        return case.build()
    finally:
        uninstall()


def widened(values: Any) -> Any:
    return keras.tree.map_structure(lambda each: each.astype(np.float64) if each.dtype.kind == "f" else each, values)


def gradients_in_float64(name: str, path: str | None = None) -> dict[str, np.ndarray]:
    """Returns the loss, under the name "loss", and the gradients, by variable."""
    case = CASES[name]
    model = build(case)
    with in_float64():
        compute = value_and_grad(float64_reference(model), case.loss(), path=path, as_numpy=False)
        if keras.config.backend() == "jax":
            # Without jit, JAX takes five times as long.
            import jax

            compute = jax.jit(compute)
        value, gradients = compute(
            *(None if each is None else widened(each) for each in (case.x, case.y, case.weights))
        )
        return {key: keras.ops.convert_to_numpy(each) for key, each in {"loss": value, **gradients}.items()}


def digest(array: np.ndarray) -> list[float]:
    """Returns an array's sum, its norm and five of its elements."""
    flat = np.ravel(array)
    picked = flat[np.linspace(0, flat.size - 1, min(5, flat.size)).astype(int)]
    return [float(flat.sum()), float(np.linalg.norm(flat)), *map(float, picked)]


def golden() -> dict[str, Any]:
    return {name: {key: digest(value) for key, value in gradients_in_float64(name).items()} for name in CASES}


if __name__ == "__main__":
    print(json.dumps(golden(), indent=0))  # noqa: T201 - it is redirected into the file.
