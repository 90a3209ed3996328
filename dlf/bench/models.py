"""What `dlf bench` trains: three small models, and synthetic images of the same shape as Fashion-MNIST's.

Requirements:

* all three models read the same images, so that one pipeline feeds them all;
* every contestant can start from the same weights, on every backend: NumPy draws them;
* the labels can be learnt, so that a falling loss means something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

__all__ = ["CLASSES", "HEADS", "LEARNING_RATE", "RATES", "Task", "build_model", "compile_options", "make_task"]

CLASSES = 10
LEARNING_RATE = 1e-3
SIDE = 28
WIDTH = 64
HEADS = 4
NORM_EPSILON = 1e-6
RATES = {"mlp": (0.2,), "cnn": (0.25,), "transformer": (0.1, 0.1)}
"""The rates of each model's dropout layers, in the order in which they are called."""


@dataclass(frozen=True)
class Task:
    """What a contestant trains, and how."""

    model: str
    images: np.ndarray
    """uint8, ``(rows, 28, 28)``, as in a data set's files."""
    labels: np.ndarray
    """int32, ``(rows,)``."""
    scaled: np.ndarray
    """The images as float32 from 0 to 1."""
    batch_size: int
    weights: tuple[np.ndarray, ...]
    """The trainable weights to start from, in Keras's order and layout."""
    dropout: bool = True
    shuffle: bool = True
    seed: int = 0
    beta_2: float = 0.999
    """Adam's `beta_2`."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates of the dropout layers, all 0 if dropout is off."""
        return tuple(rate if self.dropout else 0.0 for rate in RATES[self.model])

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each dropout layer, for frameworks that derive the masks from a seed and the step."""
        return tuple(1000 + self.seed + place for place in range(len(self.rates)))

    def nudged(self, seed: int) -> Task:
        """Returns the same task with every weight and every input moved by one unit in the last place, up or down.

        Adam's `beta_2` is rounded to float32, which makes ``1 - 0.999`` smaller by a relative 1.3e-5: a fused kernel
        may compute it in float32 or in float64.
        """
        rng = np.random.default_rng(seed)

        def nudge(array: np.ndarray) -> np.ndarray:
            towards = np.where(rng.integers(0, 2, array.shape, np.int8), np.inf, -np.inf).astype(np.float32)
            return np.asarray(np.nextafter(array, towards), np.float32)

        weights = tuple(map(nudge, self.weights))
        return replace(self, scaled=nudge(self.scaled), weights=weights, beta_2=float(np.float32(self.beta_2)))


def make_task(model: str, rows: int, batch_size: int) -> Task:
    """Returns a task with images, labels and weights from fixed seeds.

    Args:
        model: One of `dlf.bench.options.MODELS`.
        rows: How many images.
        batch_size: Images in a batch; the last batch holds what remains.

    Returns:
        The task, with dropout and shuffling on.

    Example:
        >>> make_task("mlp", rows=100, batch_size=32).images.shape
        (100, 28, 28)
    """
    rng = np.random.default_rng(2025)
    # Coarse patterns with little noise: a model that learns them at once does not amplify rounding on the way.
    patterns = rng.integers(0, 200, (CLASSES, SIDE // 4, SIDE // 4), np.uint8).repeat(4, 1).repeat(4, 2)
    labels = rng.integers(0, CLASSES, rows, np.int32)
    images = rng.integers(0, 56, (rows, SIDE, SIDE), np.uint8)
    images += patterns[labels]
    scaled = images.astype(np.float32)
    scaled /= np.float32(255)
    weights = tuple(map(_drawn, build_model(model).trainable_variables))
    return Task(model, images, labels, scaled, batch_size, weights)


def _drawn(variable: Any) -> np.ndarray:
    """Returns Glorot-uniform values for a kernel, seeded by its shape; a bias or scale as the layer initialized it."""
    shape = tuple(variable.shape)
    if len(shape) < 2:  # noqa: PLR2004 - a vector is a bias or a scale.
        return np.array(keras.ops.convert_to_numpy(variable.value))
    limit = math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1]))
    return np.random.default_rng(shape).uniform(-limit, limit, shape).astype(np.float32)


def build_model(name: str, *, dropout: bool = True) -> keras.Model:
    """Returns a new Keras model.

    Args:
        name: One of `dlf.bench.options.MODELS`.
        dropout: Whether its dropout layers have a rate above 0.

    Returns:
        The model; it takes float32 images ``(batch, 28, 28)`` and returns logits ``(batch, 10)``.
    """
    rates = RATES[name] if dropout else (0.0,) * len(RATES[name])
    image = keras.Input((SIDE, SIDE), name="image")
    return keras.Model(image, {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}[name](image, rates), name=name)


def _mlp(image: Any, rates: tuple[float, ...]) -> Any:
    layers = keras.layers
    hidden = layers.Dense(128, activation="relu")(layers.Flatten()(image))
    return layers.Dense(CLASSES)(layers.Dropout(rates[0])(hidden))


def _cnn(image: Any, rates: tuple[float, ...]) -> Any:
    layers = keras.layers
    values = layers.Reshape((SIDE, SIDE, 1))(image)
    for filters in (16, 32):
        values = layers.Conv2D(filters, 3, padding="same", activation="relu")(values)
        values = layers.MaxPooling2D(2)(values)
    hidden = layers.Dense(64, activation="relu")(layers.Flatten()(values))
    return layers.Dense(CLASSES)(layers.Dropout(rates[0])(hidden))


def _transformer(image: Any, rates: tuple[float, ...]) -> Any:
    """One encoder block over the image's rows, each of them a token."""
    layers = keras.layers
    tokens = _Positions()(layers.Dense(WIDTH)(image))
    attended = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(tokens, tokens)
    tokens = layers.LayerNormalization(epsilon=NORM_EPSILON)(tokens + layers.Dropout(rates[0])(attended))
    hidden = layers.Dense(WIDTH)(layers.Dense(2 * WIDTH, activation="relu")(tokens))
    tokens = layers.LayerNormalization(epsilon=NORM_EPSILON)(tokens + layers.Dropout(rates[1])(hidden))
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(tokens))


class _Positions(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Adds a learnt vector to each token."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="glorot_uniform", name="table")

    def call(self, tokens: Any) -> Any:
        return tokens + self.table


def compile_options(task: Task) -> dict[str, Any]:
    """Returns the arguments with which every Keras contestant is compiled, with a new optimizer each time."""
    return {
        "optimizer": keras.optimizers.Adam(LEARNING_RATE, beta_2=task.beta_2),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }
