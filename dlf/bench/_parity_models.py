"""The models of `dlf bench-parity`: the lab's, one of Keras's large ones, and nets of two depths."""

from __future__ import annotations

import keras

from dlf.lab import build_model

__all__ = ["deep", "mlp", "mobilenet", "shallow"]

WIDTH = 256


def mlp() -> keras.Model:
    """Returns the lab's MLP, compiled as the lab compiles it."""
    model = build_model((28, 28), 10)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def mobilenet() -> keras.Model:
    """Returns MobileNetV2 for images of 96x96."""
    model = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def shallow() -> keras.Model:
    """Returns a net of 10 layers."""
    return _net(10)


def deep() -> keras.Model:
    """Returns a net of 200 layers."""
    return _net(200)


def _net(depth: int) -> keras.Model:
    # These layers have hardly any weights, so that their outputs take the memory: the comparison of two depths shows
    # whether all outputs are held at once.
    layers = [keras.layers.LayerNormalization() for _ in range(depth - 1)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
