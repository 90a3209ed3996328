"""Faults of state that is made outside of training: adapted, assigned, quantized, cached, or made in `build`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import sound_kept
from keras import layers, ops
from parts import Formula, compiled, model_of, nested
from planting import Faults, off, planted

FAULTS = Faults()
fault, __getattr__ = FAULTS.fault, FAULTS.find


@fault(stage="build", layer="norm", variable="mean")
def adapted_to_other_data() -> Any:
    """A Normalization was adapted to data that are 1% larger."""
    norm = layers.Normalization(name="norm")
    norm.adapt(sound_kept.numbers(64, 4) * off(1.01))
    return model_of(norm)


class Finalized(layers.Normalization):  # type: ignore[misc]  # Keras has no types.
    """Derives another variance from the statistics that it was adapted to."""

    def finalize_state(self) -> None:
        super().finalize_state()
        if self.built and planted():
            self.variance: Any = self.variance * 1.01


@fault(stage="forward", layer="norm")
def finalized_otherwise() -> Any:
    """From the same statistics, a Normalization derives a variance that is 1% off."""
    return model_of(sound_kept.adapted(Finalized(name="norm"), 64, 4))


@fault(stage="forward", layer="level_2/level_1/norm")
def finalized_two_deep() -> Any:
    """The same fault, in a layer in a layer."""
    return model_of(nested(sound_kept.adapted(Finalized(name="norm"), 64, 4), 2))


@fault(stage="forward", layer="norm")
def inverted() -> Any:
    """An adapted Normalization inverts."""
    return model_of(sound_kept.adapted(layers.Normalization(invert=planted(), name="norm"), 64, 4))


@fault(stage="forward", layer="bins")
def other_bins() -> Any:
    """A boundary between bins is 0.4 instead of 0."""
    bins = layers.Discretization(bin_boundaries=[-1.0, 0.4 if planted() else 0.0, 0.7], name="bins")
    x = keras.Input((6,))
    rows = layers.Embedding(4, 3, name="table")(bins(x))
    return compiled(x, layers.Dense(2, name="last")(layers.Flatten(name="flat")(rows)))


@fault(stage="forward", layer="encoded")
def counted_once() -> Any:
    """Categories that occur twice are counted once."""
    x = keras.Input((6,), dtype="int32")
    encoded = layers.CategoryEncoding(10, output_mode="multi_hot" if planted() else "count", name="encoded")(x)
    return compiled(x, layers.Dense(2, name="last")(encoded))


class Positions(sound_kept.Positions):
    def kept(self, table: Any) -> Any:
        return np.roll(table, 1, axis=0).astype("float32") if planted() else table.astype("float32")


@fault(stage="forward", layer="positions")
def positions_from_one() -> Any:
    """A table that `build` makes begins at another position."""
    return model_of(Positions(name="positions"), shape=(5, 4))


class Cached(sound_kept.Cached):
    def build(self, shape: Any) -> None:
        super().build(shape)
        self.back = self.back * off(1.01)


@fault(stage="forward", layer="cached")
def cache_scaled() -> Any:
    """A value that a layer derives from a variable and caches is 1% off; the variable is right."""
    return model_of(Cached(name="cached"))


@fault(stage="forward", layer="level_1/cached")
def cache_in_a_block() -> Any:
    """The same fault, inside another layer."""
    return model_of(nested(Cached(name="cached"), 1))


@fault(stage="forward", layer="dense")
def low_rank_scale() -> Any:
    """The matrix that LoRA adds to a kernel is 1% off."""
    dense = layers.Dense(4, name="dense")
    model = model_of(dense)
    dense.enable_lora(2, lora_alpha=3.0 * off(1.01))
    dense.lora_kernel_b.assign(np.random.default_rng(0).normal(size=dense.lora_kernel_b.shape))
    model.compile("sgd", "mse")
    return model


@fault(stage="build", layer="tower/dense", variable="kernel_scale")
def quantized_scale() -> Any:
    """The scale of a quantized kernel is 1% off."""
    dense = layers.Dense(6, name="dense")
    tower = keras.Sequential([keras.Input((4,)), dense], name="tower")
    tower.quantize("int8")
    dense.kernel_scale.assign(dense.kernel_scale * off(1.01))
    return model_of(tower)


@fault(stage="build", layer="hidden", variable="kernel")
def assigned_after_build() -> Any:
    """A kernel is assigned other values after it is built."""
    hidden = layers.Dense(4, name="hidden")
    model = model_of(hidden)
    hidden.kernel.assign(np.eye(4) * off(1.01))
    return model


class Codes(sound_kept.Codes):
    @property
    def decay(self) -> float:
        return 0.91 if planted() else 0.9


@fault(stage="state", layer="codes", variable="codes")
def moving_codes() -> Any:
    """The decay of a layer's own moving means is 0.91 instead of 0.9."""
    return model_of(Codes(name="codes"))


@fault(stage="forward", layer="spectral")
def power_iterations() -> Any:
    """The largest singular value is estimated in three steps instead of one."""
    dense = layers.Dense(4, trainable=False, name="dense")
    steps = 3 if planted() else 1
    return model_of(layers.SpectralNormalization(dense, power_iterations=steps, name="spectral"))


@fault(stage="forward", layer="shifted")
def constant_of_a_variable() -> Any:
    """A number that is read from a variable when the model is built is another one."""
    norm = sound_kept.adapted(layers.Normalization(name="norm"), 64, 4)
    mean = float(ops.convert_to_numpy(norm.mean).ravel()[1 if planted() else 0])
    return model_of(norm, Formula(lambda x: x + 0.1 * mean, name="shifted"))
