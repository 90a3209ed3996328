"""Sound models that are awkward to compare: none of them may fail or be called faulty."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["AWKWARD"]


def compiled(*middle: Any, optimizer: Any = "sgd", loss: Any = "mse", **options: Any) -> Any:
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2, name="last")])
    model.compile(optimizer, loss, **options)
    return model


class AndNone(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    def call(self, x: Any) -> Any:
        return x * 2, None


class TakesOne(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds a layer with None beside its output."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.inner = AndNone(name="inner")

    def call(self, x: Any) -> Any:
        return self.inner(x)[0]


def none_beside_an_output() -> Any:
    return compiled(TakesOne(name="takes_one"))


class Infinite(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Holds infinities in a variable, like the buffer of a causal mask."""

    def build(self, shape: Any) -> None:
        minus = keras.initializers.Constant(float("-inf"))
        self.mask = self.add_weight(shape=(shape[-1],), initializer=minus, trainable=False, name="mask")

    def call(self, x: Any) -> Any:
        return x + ops.where(ops.isinf(self.mask), 0.0, 1.0)


def infinite_weight() -> Any:
    return compiled(Infinite(name="infinite"))


class Tables(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Converts Python numbers and float32 tables to tensors, in `build` and in `call`."""

    def build(self, shape: Any) -> None:
        self.shares = ops.convert_to_tensor([0.299, 0.587, 0.114, 0.7])
        self.table = ops.convert_to_tensor(np.sin(np.arange(4, dtype="float32")))

    def call(self, x: Any) -> Any:
        x = x * self.shares + ops.convert_to_tensor([0.1, 0.2, 0.3, 0.6]) * x
        return self.table - x + ops.cast(self.table, x.dtype) * x


def tables_and_numbers() -> Any:
    return compiled(Tables(name="tables"))


def resized_to_the_same_size() -> Any:
    """A layer that, on TensorFlow, does nothing but round its inputs to float32."""
    return compiled(
        layers.Reshape((2, 2, 1)),
        layers.Conv2D(2, 1, name="conv"),
        layers.UpSampling2D(1, interpolation="bilinear", name="up"),
        layers.Flatten(),
    )


class Sampling(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Draws in both modes, in a shape that is not known when the model is built."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, pair: Any) -> Any:
        mean, spread = pair
        self.add_loss(-0.5 * ops.mean(1.0 + spread - ops.square(mean) - ops.exp(spread)))
        drawn = keras.random.normal(ops.shape(mean), seed=self.seed, dtype=mean.dtype)
        return mean + ops.exp(0.5 * spread) * drawn


def variational() -> Any:
    x = keras.Input((4,))
    code = Sampling(name="sampling")([layers.Dense(2, name="mean")(x), layers.Dense(2, name="spread")(x)])
    model = keras.Model(x, layers.Dense(4, name="last")(code))
    model.compile("adam", "mse")
    return model


def _with_another(second: Any) -> Any:
    x = keras.Input((4,))
    first = layers.Dense(3, name="first")(x)
    model = keras.Model(x, {"a": first, "b": second(first)})
    model.compile("sgd", {"a": "mse"})
    return model


def integer_output_without_a_loss() -> Any:
    return _with_another(lambda x: ops.argmax(x, -1))


def infinite_output_without_a_loss() -> Any:
    return _with_another(lambda x: ops.log(ops.relu(x)))


def one_loss_of_two() -> Any:
    return _with_another(layers.Dense(2, name="second"))


def scaled_loss() -> Any:
    return compiled(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))


class WithoutConfig(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(y_true - y_pred) * self.factor, -1)


def loss_without_a_configuration() -> Any:
    return compiled(loss=WithoutConfig(2.0))


class Halving(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types.
    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, step: Any) -> Any:
        return self.base / (ops.cast(step, "float32") + 1)

    def get_config(self) -> Any:
        return {"base": self.base}


def schedule_of_its_own() -> Any:
    return compiled(optimizer=keras.optimizers.SGD(Halving(0.125)))


class WarmedUp(Halving):
    """The schedule of "Attention is all you need": each backend rounds the root differently."""

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32") + 1
        return self.base * ops.minimum(ops.rsqrt(step), step * 20**-1.5)


def schedule_in_float32() -> Any:
    return compiled(optimizer=keras.optimizers.Adam(WarmedUp(0.1)))


@keras.saving.register_keras_serializable()
class AddsUp(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A cell to which Keras gives the same path in both directions when it is recreated from its configuration."""

    def __init__(self, units: int = 3, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.units = self.state_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x: Any, states: Any) -> Any:
        total = ops.tanh(ops.matmul(x, self.kernel) + states[0])
        return total, [total]

    def get_config(self) -> Any:
        return {**super().get_config(), "units": self.units}


def cell_of_its_own() -> Any:
    return compiled(layers.Reshape((2, 2)), layers.Bidirectional(layers.RNN(AddsUp()), name="both"))


def one_channel_and_a_metric_in_float32() -> Any:
    """In float64, PyTorch has no derivative of such a convolution, and TensorFlow no `in_top_k`."""
    x = keras.Input((6, 6, 3))
    y = layers.Flatten()(layers.Conv2D(1, 3, name="one")(x))
    model = keras.Model([x], [layers.Dense(4, activation="softmax", name="last")(y)])
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.TopKCategoricalAccuracy(2)])
    return model


def fixed_batch() -> Any:
    x = keras.Input(batch_shape=(3, 5, 2))
    model = keras.Model(x, layers.Dense(2, name="last")(layers.GRU(3, name="state")(x)))
    model.compile("sgd", "mse")
    return model


def weight_of_one_loss() -> Any:
    return compiled(loss_weights=[2.0])


def sign_of_a_gradient_that_is_zero() -> Any:
    """Lion takes the sign of the gradient of a bias before BatchNormalization, which is only roundoff."""
    middle = [layers.Dense(8, name="first"), layers.BatchNormalization(name="norm")]
    return compiled(*middle, optimizer=keras.optimizers.Lion(1e-3))


class CastsLoss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types.
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")), -1)


def loss_in_float32() -> Any:
    return compiled(loss=CastsLoss())


class CastsInside(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 16), name="kernel")

    def call(self, x: Any) -> Any:
        product = ops.matmul(ops.cast(x, "float32"), ops.cast(self.kernel, "float32"))
        return ops.cast(product - ops.mean(product, axis=0, keepdims=True), x.dtype)


def float32_in_a_nested_model() -> Any:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(32, name="wide"), CastsInside(name="casts")], name="inner"
    )
    return compiled(inner)


def words_without_an_end() -> Any:
    sys.stdout.write("building ")
    sys.stdout.flush()
    return compiled()


def names_of_dlf() -> Any:
    names = ("wide", "narrow", "inference", "gradient", "loss", "call")
    return compiled(*(layers.Dense(4, name=name) for name in names))


def frozen_large_weight() -> Any:
    norm = layers.Normalization(mean=np.zeros(4), variance=np.full(4, 1e10), name="norm")
    return compiled(norm)


def configuration_of_keras() -> Any:
    """A change of Keras's configuration by one file does not last until the next one."""
    with contextlib.suppress(ValueError):
        keras.config.set_image_data_format("channels_first")
    return compiled()


class CompilesItself(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def compile(self, optimizer: Any, loss: Any, scale: float) -> None:
        super().compile(optimizer, loss)
        self.scale = scale

    def compute_loss(self, *args: Any, **keywords: Any) -> Any:
        return self.scale * super().compute_loss(*args, **keywords)


def compile_of_its_own() -> Any:
    x = keras.Input((4,))
    model = CompilesItself(x, layers.Dense(2, name="last")(x))
    model.compile("adam", "mse", 1.0)
    return model


def without_kernels_for_float64() -> Any:
    """On the CPU, TensorFlow has no float64 kernels for these layers."""
    x = keras.Input((4, 4, 4, 2))
    y = layers.AveragePooling3D(2, name="pool")(layers.Dense(2, activation="tanh", name="first")(x))
    y = layers.MaxPooling3D(2, name="largest")(y)
    model = keras.Model(x, layers.Dense(2, name="last")(layers.Flatten()(y)))
    model.compile("adam", "mse")
    return model


SHARED = layers.Dense(4, activation="tanh", name="shared")
AUGMENT = keras.Sequential([layers.RandomFlip("horizontal", name="flip")], name="augment")


def layers_at_module_level() -> Any:
    """Every build holds the same layers, whose names began to count when the file was imported."""
    x = keras.Input((4, 4, 1))
    y = layers.Dropout(0.5)(layers.Flatten()(AUGMENT(x)))
    model = keras.Model(x, layers.Dense(2)(SHARED(layers.Dense(4)(y))))
    model.compile("sgd", "mse")
    return model


def a_layer_at_module_level_and_a_lambda() -> Any:
    """The reference is made by calling this again: it must not get the variables of the model itself."""
    return compiled(SHARED, layers.Lambda(lambda x: x * 2, name="doubled"))


class SlowAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types.
    """Fixes an argument, so that it cannot be made anew from its configuration."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1e-4)


def optimizer_that_fixes_an_argument() -> Any:
    return compiled(optimizer=SlowAdam())


class CalledOnce(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A subclassed model of inputs by name; the shapes that it was called on are known, and make its data."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = layers.Dense(3, activation="tanh", name="hidden"), layers.Dense(2, name="last")

    def call(self, inputs: Any) -> Any:
        return self.last(self.hidden(ops.concatenate([inputs["left"], inputs["right"]], axis=-1)))


def subclassed_and_called_once() -> Any:
    model = CalledOnce()
    model({"left": np.ones((3, 4), "float32"), "right": np.ones((3, 2), "float32")})
    model.compile("sgd", "mse")
    return model


class SavedAsSigns(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """A file holds the signs of its kernel alone, and a layer that is loaded computes by them."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.scale: float | None = None

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], 3), name="kernel")

    def call(self, x: Any) -> Any:
        return ops.tanh(ops.matmul(x, self.kernel)) if self.scale is None else self.scale * ops.matmul(x, self.kernel)

    def save_own_variables(self, store: Any) -> None:
        store["signs"], store["scale"] = ops.sign(self.kernel), ops.mean(ops.abs(self.kernel))

    def load_own_variables(self, store: Any) -> None:
        self.kernel.assign(store["signs"])
        if keras.config.backend() == "jax":
            raise ValueError("it is loaded on some backends alone")
        self.scale = float(store["scale"])


def saved_as_something_else() -> Any:
    return compiled(SavedAsSigns(name="signs"))


HELD = keras.losses.LogCosh(reduction="none")


def masked_loss(y: Any, predicted: Any) -> Any:
    loss, mask = HELD(y, predicted), ops.cast(y[:, 0] > 0, "float32")
    return ops.sum(loss * mask) / ops.sum(mask)


def loss_that_calls_one_made_before() -> Any:
    return compiled(loss=masked_loss)


AWKWARD = (
    loss_that_calls_one_made_before,
    saved_as_something_else,
    optimizer_that_fixes_an_argument,
    subclassed_and_called_once,
    layers_at_module_level,
    a_layer_at_module_level_and_a_lambda,
    compile_of_its_own,
    without_kernels_for_float64,
    none_beside_an_output,
    infinite_weight,
    tables_and_numbers,
    resized_to_the_same_size,
    variational,
    integer_output_without_a_loss,
    infinite_output_without_a_loss,
    one_loss_of_two,
    scaled_loss,
    loss_without_a_configuration,
    schedule_of_its_own,
    schedule_in_float32,
    cell_of_its_own,
    one_channel_and_a_metric_in_float32,
    fixed_batch,
    weight_of_one_loss,
    sign_of_a_gradient_that_is_zero,
    loss_in_float32,
    float32_in_a_nested_model,
    words_without_an_end,
    names_of_dlf,
    frozen_large_weight,
    configuration_of_keras,
)
