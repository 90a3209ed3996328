"""A script as people write it: its model is built by the data that it is trained on, as soon as it is imported."""

import sys
from typing import Any

import keras
import numpy as np
from keras import layers, ops

random = np.random.default_rng(0)
ratings = random.integers(20, size=(64, 2)), random.uniform(size=(64, 1))


class Recommender(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Takes pairs of numbers below 20: made-up images would be of no use to it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bias = layers.Embedding(20, 4), layers.Embedding(20, 1)

    def call(self, pairs: Any) -> Any:
        one, other = self.table(pairs[:, 0]), self.table(pairs[:, 1])
        return ops.sigmoid(ops.sum(one * other, axis=1, keepdims=True) + self.bias(pairs[:, 0]))


class Triplets(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """Trained by a step of its own, which takes three inputs, and no targets."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = layers.Dense(3)

    def call(self, parts: Any) -> Any:
        anchor, near, far = (self.embed(each) for each in parts)
        return ops.sum((anchor - near) ** 2, axis=1) - ops.sum((anchor - far) ** 2, axis=1)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        return ops.mean(ops.maximum(y_pred + 1.0, 0.0))

    def train_step(self, *arguments: Any) -> Any:
        # Each backend hands the data over as the last argument.
        *state, parts = arguments
        return super().train_step(*state, (parts,))


model = Recommender()
model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
model.fit(*ratings, batch_size=16, epochs=100_000)

images = random.normal(size=(3, 16, 4)).astype("float32")
triplets = Triplets()
triplets(tuple(images))
triplets.compile("sgd")


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
    """Gives tuples of three, which are neither targets nor weights."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(each[index * 8 : index * 8 + 8] for each in images)


def main() -> None:
    """Trains the second model, and returns nothing."""
    triplets.fit(Batches(), epochs=int(sys.argv[1]) if sys.argv[1:] else 100_000)
