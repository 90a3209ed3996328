"""Faults of the build: one backend has another model, before anything is computed."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers
from parts import model_of
from planting import Faults, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find


@fault(stage="build", layer="extra", variable="bias")
def extra_bias() -> Any:
    """A layer has a bias that it does not have on other backends."""
    return model_of(layers.Dense(3, use_bias=planted(), name="extra"))


@fault(stage="build", layer="wide")
def wide_layer() -> Any:
    """A layer computes in float64."""
    return model_of(layers.Dense(3, dtype="float64" if planted() else "float32", name="wide"))


@fault(stage="build", layer="hidden")
def more_units() -> Any:
    """A layer has four units instead of three."""
    return model_of(layers.Dense(4 if planted() else 3, name="hidden"))


@fault(stage="build", layer="kept", variable="kernel")
def frozen_layer() -> Any:
    """A layer is not trained."""
    return model_of(layers.Dense(3, trainable=not planted(), name="kept"))


@fault(stage="build", layer="norm", variable="gamma")
def missing_scale() -> Any:
    """A normalization has no scale."""
    return model_of(layers.BatchNormalization(scale=not planted(), name="norm"))


@fault(stage="build", layer="extra")
def extra_layer() -> Any:
    """There is one more layer, which has no variables."""
    return model_of(*([layers.ReLU(name="extra")] if planted() else []), layers.Dense(3, name="next"))


@fault(stage="build", layer="middle")
def other_kind_of_layer() -> Any:
    """A layer without variables is of another class."""
    return model_of(layers.Softmax(name="middle") if planted() else layers.ReLU(name="middle"))


@fault(stage="build", layer="unshared")
def unshared_layer() -> Any:
    """A second layer is used where one layer should be shared."""
    one, other = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(3, name="shared")
    second = layers.Dense(3, name="unshared") if planted() else shared
    model = keras.Model([one, other], layers.Dense(2, name="last")(shared(one) - 2 * second(other)))
    model.compile("sgd", "mse")
    return model


@fault(stage="build")
def output_in_a_dictionary() -> Any:
    """The model returns a dictionary instead of a tensor."""
    x = keras.Input((4,))
    y = layers.Dense(2, name="last")(x)
    model = keras.Model(x, {"last": y} if planted() else y)
    model.compile("sgd", {"last": "mse"} if planted() else "mse")
    return model


@fault(stage="build", layer="last")
def half_output() -> Any:
    """The variables are the same, and the outputs are float16."""
    return model_of(
        layers.Dense(2, dtype="mixed_float16" if planted() else "float32", name="last"), shape=(4,), last=False
    )


@fault(stage="build", layer="hidden", variable="kernel")
def other_initializer() -> Any:
    """A kernel starts from other values."""
    return model_of(layers.Dense(3, kernel_initializer="he_normal" if planted() else "glorot_normal", name="hidden"))


@fault(stage="build", layer="norm", variable="moving_variance")
def other_initial_state() -> Any:
    """A moving variance starts from zero instead of one."""
    return model_of(
        layers.BatchNormalization(moving_variance_initializer="zeros" if planted() else "ones", name="norm")
    )


@fault(stage="build", layer="drop", variable="seed_generator_state")
def other_seed() -> Any:
    """A layer draws from another seed."""
    return model_of(layers.Dropout(0.4, seed=8 if planted() else 7, name="drop"))
