"""Faults of the state that a layer keeps from call to call, in models whose outputs and gradients are right."""

from __future__ import annotations

from typing import Any

from keras import layers, ops
from parts import Block, model_of
from planting import Faults, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find


@fault(stage="state", layer="norm", variable="moving_mean")
def moving_mean() -> Any:
    """The momentum of a BatchNormalization is 0.98 instead of 0.99."""
    return model_of(layers.BatchNormalization(momentum=0.98 if planted() else 0.99, name="norm"))


@fault(stage="state", layer="block/inner", variable="moving_mean")
def nested_state() -> Any:
    """The same fault, in a layer inside another."""
    inner = layers.BatchNormalization(momentum=0.98 if planted() else 0.99, name="inner")
    return model_of(Block(inner, name="block"))


@fault(stage="state", layer="norm", variable="renorm_mean")
def renorm_momentum() -> Any:
    """The momentum of BatchNormalization's renorm statistics is 0.98 instead of 0.99."""
    return model_of(layers.BatchNormalization(renorm=True, renorm_momentum=0.98 if planted() else 0.99, name="norm"))


class Running(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Keeps a statistic of its inputs, which a function computes from the old statistic and the inputs."""

    def __init__(self, function: Any, dtype_of_state: str | None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.function, self.dtype_of_state = function, dtype_of_state

    def build(self, shape: Any) -> None:
        shape = () if self.dtype_of_state else (shape[-1],)
        self.kept = self.add_weight(
            shape=shape, initializer="zeros", dtype=self.dtype_of_state, trainable=False, name="kept"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        if training or self.in_inference():
            self.kept.assign(ops.cast(self.function(self.kept.value, x), self.kept.dtype))
        return ops.tanh(x)

    def in_inference(self) -> bool:
        """Whether the statistic is updated in inference too."""
        return False


@fault(stage="state", layer="running", variable="kept")
def bessel_in_state() -> Any:
    """A moving variance has Bessel's correction, and does not have it on other backends."""

    def moving(old: Any, x: Any) -> Any:
        n = x.shape[0] or 2  # Open while the model is built.
        return 0.9 * old + 0.1 * ops.var(x, axis=0) * (n / (n - 1) if planted() else 1)

    return model_of(Running(moving, name="running"))


@fault(stage="state", layer="running", variable="kept")
def state_not_updated() -> Any:
    """A moving mean is not updated."""
    return model_of(Running(lambda old, x: old if planted() else 0.9 * old + 0.1 * ops.mean(x, axis=0), name="running"))


@fault(stage="state", layer="running", variable="kept")
def state_of_outputs() -> Any:
    """A moving mean is that of the outputs instead of the inputs."""

    def moving(old: Any, x: Any) -> Any:
        return 0.9 * old + 0.1 * ops.mean(ops.tanh(x) if planted() else x, axis=0)

    return model_of(Running(moving, name="running"))


@fault(stage="state", layer="running", variable="kept")
def state_through_bfloat16() -> Any:
    """A moving mean is rounded to bfloat16."""

    def moving(old: Any, x: Any) -> Any:
        new = 0.9 * old + 0.1 * ops.mean(x, axis=0)
        return ops.cast(new, "bfloat16") if planted() else new

    return model_of(Running(moving, name="running"))


@fault(stage="state", layer="counter", variable="kept")
def counted_twice() -> Any:
    """A call is counted twice."""
    return model_of(Running(lambda old, _: old + (2 if planted() else 1), "int32", name="counter"))


@fault(stage="state", layer="running", variable="kept")
def updated_in_inference() -> Any:
    """A moving mean is updated in inference too."""

    class Always(Running):
        def in_inference(self) -> bool:
            return planted()

    return model_of(Always(lambda old, x: 0.9 * old + 0.1 * ops.mean(x, axis=0), name="running"))


@fault(stage="state", layer="drop", variable="seed_generator_state")
def seed_advanced_twice() -> Any:
    """A layer draws a second time without using it, so that its next mask is another one."""

    class Drop(layers.Dropout):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any, training: bool = False) -> Any:
            dropped = super().call(x, training=training)
            if planted() and training:
                self.seed_generator.next()
            return dropped

    return model_of(Drop(0.4, name="drop"))
