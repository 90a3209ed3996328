"""Four small compiled models for the GPU check, whose operations have other kernels on a GPU."""

from __future__ import annotations

import keras
from keras import layers


def mlp() -> keras.Model:
    model = keras.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def cnn() -> keras.Model:
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def transformer() -> keras.Model:
    tokens = layers.Input((32,), dtype="int32")
    x = layers.Embedding(200, 64)(tokens)
    for _ in range(2):
        normalized = layers.LayerNormalization()(x)
        attended = layers.MultiHeadAttention(4, 16, dropout=0.1)(normalized, normalized, use_causal_mask=True)
        x = layers.Add()([x, attended])
        normalized = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(64)(layers.Dense(128, activation="gelu")(normalized))])
    model = keras.Model(tokens, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def lstm() -> keras.Model:
    inputs = layers.Input((20, 8))
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GRU(12)(x)))
    model.compile("rmsprop", "mse")
    return model
