"""Sound models with state made outside of training: adapted, assigned, quantized, cached, or made in `build`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, compiled, model_of, nested, tokens_model
from planting import SoundModels

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find


def numbers(*shape: int, mean: float = 5.0, seed: int = 1) -> Any:
    """The data that layers are adapted to."""
    return np.random.default_rng(seed).normal(mean, 3.0, shape).astype("float32")


def adapted(layer: Any, *shape: int) -> Any:
    layer.adapt(numbers(*shape))
    return layer


# Layers that are adapted to data.


@sound()
def adapted_normalization() -> Any:
    """An adapted Normalization in the model."""
    return model_of(adapted(layers.Normalization(name="norm"), 64, 4))


@sound()
def adapted_two_deep() -> Any:
    """The same, in a layer in a layer."""
    return model_of(nested(adapted(layers.Normalization(name="norm"), 64, 4), 2))


@sound()
def adapted_in_a_model() -> Any:
    """The same, in a nested model, followed by another that inverts."""
    norm, back = layers.Normalization(name="norm"), layers.Normalization(invert=True, name="back")
    inside = keras.Sequential([keras.Input((4,)), adapted(norm, 64, 4), layers.Dense(4, name="up")], name="inside")
    return model_of(inside, adapted(back, 64, 4))


@sound()
def adapted_columns() -> Any:
    """A Normalization for each column of a table, of one number each."""
    columns = {name: keras.Input((1,), name=name) for name in ("age", "height", "width")}
    each = []
    for seed, (name, column) in enumerate(columns.items()):
        norm = layers.Normalization(axis=None, name=f"norm_{name}")
        norm.adapt(numbers(50, mean=seed * 10.0, seed=seed))
        each.append(norm(column))
    return compiled(columns, layers.Dense(2, name="last")(layers.Concatenate(name="joined")(each)), optimizer="adam")


@sound()
def adapted_images() -> Any:
    """A Normalization with one mean for each channel."""
    norm = adapted(layers.Normalization(axis=-1, name="norm"), 6, 5, 5, 3)
    x = keras.Input((5, 5, 3))
    hidden = layers.Conv2D(2, 3, name="conv")(norm(x))
    return compiled(x, layers.Dense(2, name="last")(layers.Flatten(name="flat")(hidden)))


@sound()
def adapted_bins() -> Any:
    """Numbers are sorted into bins that were found in data, and each bin has a row in a table."""
    bins = layers.Discretization(num_bins=5, name="bins")
    bins.adapt(numbers(100, 1, mean=0.0))
    x = keras.Input((3,))
    rows = layers.Embedding(6, 4, name="table")(bins(x))
    return compiled(x, layers.Dense(2, name="last")(layers.Flatten(name="flat")(rows)))


@sound()
def given_bins() -> Any:
    """Bins with given boundaries, encoded as one-hot vectors."""
    bins = layers.Discretization(bin_boundaries=[-1.0, -0.1, 0.0, 0.7], output_mode="one_hot", name="bins")
    x = keras.Input((1,))
    return compiled(x, layers.Dense(2, name="last")(bins(x)))


def words(size: int, random: np.random.Generator) -> Any:
    """Texts as the integers that a vocabulary gives their words, and targets."""
    known = ["red", "green", "blue", "grey"]
    vocabulary = layers.TextVectorization(output_sequence_length=5, vocabulary=[*known, "white"])
    texts = [" ".join(random.choice(known, 4)) for _ in range(size)]
    return keras.ops.convert_to_numpy(vocabulary(texts)).astype("int32"), random.normal(size=(size, 2))


@sound(data="words")
def vocabulary_outside() -> Any:
    """The size of a table comes from an adapted vocabulary."""
    vocabulary = layers.TextVectorization()
    vocabulary.adapt(["red green blue", "grey white"])
    return tokens_model(layers.GlobalAveragePooling1D(name="mean"), vocabulary=vocabulary.vocabulary_size() + 1)


@sound()
def counted_categories() -> Any:
    """Categories are counted, each with its weight."""
    x, weights = keras.Input((4,), dtype="int32"), keras.Input((4,))
    encoded = layers.CategoryEncoding(10, output_mode="count", name="encoded")(x, count_weights=weights)
    return compiled([x, weights], layers.Dense(2, name="last")(encoded))


# Kernels that are quantized, or to which LoRA adds.


@sound()
def quantized() -> Any:
    """Layers whose kernels are integers of eight bits, behind one that is trained."""
    inside = [keras.Input((3, 4)), layers.Dense(6, name="dense"), layers.EinsumDense("abc,cd->abd", (3, 5), name="sum")]
    tower = keras.Sequential(inside, name="tower")
    tower.quantize("int8")
    return model_of(tower, shape=(3, 4))


@sound()
def quantized_table() -> Any:
    """A table of integers of eight bits."""
    tower = keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(9, 4, name="table")], name="tower")
    tower.quantize("int8")
    x = keras.Input((5,), dtype="int32")
    return compiled(x, layers.Dense(2, name="last")(layers.GlobalAveragePooling1D(name="mean")(tower(x))))


def low_rank() -> Any:
    """Fixed kernels, to which LoRA adds matrices of low rank."""
    x = keras.Input((5, 4))
    both, dense = layers.EinsumDense("abc,cd->abd", (5, 4), name="sum"), layers.Dense(4, name="dense")
    model = keras.Model(x, layers.Dense(2, name="last")(dense(both(x))))
    for number, each in enumerate((both, dense)):
        each.enable_lora(2, lora_alpha=3.0)
        each.lora_kernel_b.assign(np.random.default_rng(number).normal(size=each.lora_kernel_b.shape))
    model.compile("adam", "mse")
    return model


@sound()
def added_of_low_rank() -> Any:
    """Fixed kernels, to which LoRA adds trainable matrices of low rank."""
    return low_rank()


@sound()
def rows_of_low_rank() -> Any:
    """A fixed table, to which LoRA adds trainable matrices of low rank."""
    table = layers.Embedding(9, 4, name="table")
    x = keras.Input((5,), dtype="int32")
    model = keras.Model(x, layers.Dense(2, name="last")(layers.GlobalAveragePooling1D(name="mean")(table(x))))
    table.enable_lora(2)
    table.lora_embeddings_b.assign(np.random.default_rng(0).normal(size=table.lora_embeddings_b.shape))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


@sound()
def frozen_spectral_norm() -> Any:
    """A kernel that is not trained, but divided by its largest singular value at each step."""
    dense = layers.Dense(4, trainable=False, name="dense")
    return model_of(layers.SpectralNormalization(dense, power_iterations=2, name="spectral"))


# Tables and caches of a layer's own.


class Positions(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Adds waves to its inputs, from a table that `build` makes."""

    def build(self, shape: Any) -> None:
        at, waves = np.arange(shape[1])[:, None], 10000.0 ** (-np.arange(shape[2]) / shape[2])
        self.table = self.kept(np.sin(at * waves))

    def kept(self, table: Any) -> Any:
        return table.astype("float32")

    def call(self, x: Any) -> Any:
        return x + ops.cast(self.table, x.dtype)


@sound()
def table_of_numpy() -> Any:
    """Position encodings in a float32 array of NumPy."""
    return model_of(Positions(name="positions"), shape=(5, 4))


class TensorTable(Positions):
    def kept(self, table: Any) -> Any:
        return ops.convert_to_tensor(table, dtype="float32")


@sound()
def table_of_tensors() -> Any:
    """The same, as a tensor."""
    return model_of(TensorTable(name="positions"), shape=(5, 4))


class VariableTable(Positions):
    def kept(self, table: Any) -> Any:
        kept = self.add_weight(shape=table.shape, trainable=False, initializer="zeros", name="table")
        kept.assign(table)
        return kept


@sound()
def table_in_a_variable() -> Any:
    """The same, as an untrained variable that `build` assigns to."""
    return model_of(VariableTable(name="positions"), shape=(5, 4))


class ByOperations(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A rotary embedding, whose frequencies are computed by operations when the layer is made."""

    def __init__(self, size: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.frequencies = 1.0 / (100.0 ** (ops.arange(0, size, 2, dtype="float32") / size))

    def call(self, x: Any) -> Any:
        at = ops.cast(ops.arange(ops.shape(x)[1]), x.dtype)
        angles = ops.expand_dims(at, -1) * ops.cast(self.frequencies, x.dtype)
        one, other = ops.split(x, 2, axis=-1)
        cos, sin = ops.cos(angles), ops.sin(angles)
        return ops.concatenate([one * cos - other * sin, one * sin + other * cos], axis=-1)


@sound()
def rotary_frequencies() -> Any:
    """A rotary embedding with frequencies in float32."""
    return model_of(ByOperations(4, name="rotary"), shape=(5, 4))


class Cached(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Projects by a fixed kernel and back; the matrix for the way back is computed once from the kernel, and kept."""

    def build(self, shape: Any) -> None:
        start = keras.initializers.RandomNormal(seed=3)
        self.fixed = self.add_weight(shape=(shape[-1], 3), initializer=start, trainable=False, name="fixed")
        self.back = ops.transpose(self.fixed.value) / (1.0 + ops.sum(ops.square(self.fixed.value)))

    def call(self, x: Any) -> Any:
        return ops.tanh(x @ self.fixed) @ ops.cast(self.back, x.dtype)


@sound()
def cache_of_a_variable() -> Any:
    """A value that a layer derives from a variable in `build`, and caches."""
    return model_of(Cached(name="cached"))


@sound()
def cache_two_deep() -> Any:
    """The same, in a layer in a layer."""
    return model_of(nested(Cached(name="cached"), 2))


class Fourier(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Random features, drawn by NumPy."""

    def build(self, shape: Any) -> None:
        random = np.random.default_rng(7)
        self.kernel = self.add_weight(shape=(shape[-1], 6), trainable=False, initializer="zeros", name="kernel")
        self.kernel.assign(random.normal(size=(shape[-1], 6)))
        self.offset = ops.convert_to_tensor(random.uniform(0, 2 * np.pi, 6).astype("float32"))

    def call(self, x: Any) -> Any:
        return ops.cos(x @ self.kernel + ops.cast(self.offset, x.dtype)) * np.sqrt(2 / 6)


@sound()
def random_features() -> Any:
    """A kernel that NumPy has drawn, and phases that are not a variable."""
    return model_of(Fourier(name="features"))


# Variables that are assigned to.


@sound()
def assigned_after_build() -> Any:
    """Kernels and statistics that are assigned other values after they are built."""
    norm, hidden = layers.BatchNormalization(name="norm"), layers.Dense(4, name="hidden")
    model = model_of(norm, hidden)
    norm.moving_mean.assign(np.linspace(-1, 1, 4))
    norm.moving_variance.assign(np.linspace(0.5, 2, 4))
    hidden.set_weights([np.eye(4, dtype="float32"), np.full(4, 0.3, "float32")])
    return model


@sound()
def pretrained_table() -> Any:
    """A pretrained table, which is not trained further."""
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    x = keras.Input((5,), dtype="int32")
    table = layers.Embedding(7, 4, weights=[rows], trainable=False, name="table")
    return compiled(x, layers.Dense(2, name="last")(layers.LSTM(3, name="lstm")(table(x))))


class Codes(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A vector quantizer, whose codes are moving means of the inputs that are assigned to them."""

    def build(self, shape: Any) -> None:
        self.codes = self.add_weight(shape=(3, shape[-1]), initializer="glorot_uniform", trainable=False, name="codes")
        self.counts = self.add_weight(shape=(3,), initializer="ones", trainable=False, name="counts")

    def call(self, x: Any, training: bool = False) -> Any:
        apart = ops.sum(ops.square(x[:, None] - self.codes), axis=-1)
        chosen = ops.one_hot(ops.argmin(apart, axis=-1), 3, dtype=x.dtype)
        code = chosen @ self.codes
        if training:
            self.counts.assign(self.decay * self.counts + (1 - self.decay) * ops.sum(chosen, axis=0))
            means = (ops.transpose(chosen) @ x) / (ops.expand_dims(self.counts, -1) + 1e-3)
            self.codes.assign(self.decay * self.codes + (1 - self.decay) * means)
        return x + ops.stop_gradient(code - x)

    @property
    def decay(self) -> float:
        return 0.9


@sound()
def moving_codes() -> Any:
    """A layer's own moving means, and a straight-through gradient."""
    return model_of(Codes(name="codes"))


@sound()
def adapted_and_shifted() -> Any:
    """A statistic of an adapted layer is also used outside of it."""
    norm = adapted(layers.Normalization(name="norm"), 64, 4)
    mean = float(ops.convert_to_numpy(norm.mean).ravel()[0])
    return model_of(norm, Formula(lambda x: x + 0.1 * mean, name="shifted"))
