"""Sound models: one backend computes the same in another way, which differs by rounding only."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from parts import Formula, Projection, model_of
from planting import SoundModels, planted

MODELS = SoundModels()
sound, __getattr__ = MODELS.sound, MODELS.find

# Sums in another order.


@sound(planted=True)
def reversed_sum() -> Any:
    """A sum from the end."""
    return model_of(
        Formula(lambda x: ops.sum(ops.flip(x, axis=1) if planted() else x, axis=1), name="sum"), shape=(50, 3)
    )


@sound(planted=True)
def cumulative_sum() -> Any:
    """A sum of one number after the other, instead of in pairs."""
    return model_of(
        Formula(lambda x: ops.cumsum(x, axis=1)[:, -1] if planted() else ops.sum(x, axis=1), name="sum"), shape=(50, 3)
    )


@sound(planted=True)
def long_sum() -> Any:
    """A sum of many numbers of both signs, in two orders; at a larger learning rate its training overflows."""
    added = Formula(lambda x: ops.sum(ops.flip(x, axis=1) if planted() else x, axis=1), name="sum")
    return model_of(added, shape=(3000, 2), optimizer=keras.optimizers.SGD(1e-9))


@sound(planted=True)
def matmul_in_halves() -> Any:
    """A product of matrices, as the sum of two halves."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        half = kernel.shape[0] // 2
        whole = x[:, :half] @ kernel[:half] + x[:, half:] @ kernel[half:] if planted() else x @ kernel
        return whole + bias

    return model_of(Projection(product, name="product"), shape=(16,))


@sound(planted=True)
def bracketed_otherwise() -> Any:
    """A(BC) instead of (AB)C."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        return x @ (kernel @ kernel) + bias if planted() else (x @ kernel) @ kernel + bias

    return model_of(Projection(product, name="product"), shape=(8,))


@sound(planted=True)
def distributed_product() -> Any:
    """ac + bc instead of (a + b)c."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        return x @ kernel + bias @ kernel if planted() else (x + bias) @ kernel

    return model_of(Projection(product, name="product"), shape=(8,))


@sound(planted=True)
def transposed_twice() -> Any:
    """The transpose of the product of the transposed matrices."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        return (ops.transpose(ops.transpose(kernel) @ ops.transpose(x)) if planted() else x @ kernel) + bias

    return model_of(Projection(product, name="product"), shape=(8,))


@sound(planted=True)
def convolution_by_patches() -> Any:
    """A convolution as a product of matrices."""

    class Patches(layers.Conv2D):  # type: ignore[misc]  # Keras has no types.
        def call(self, x: Any) -> Any:
            if not planted():
                return super().call(x)
            height, width = x.shape[1] - 2, x.shape[2] - 2
            parts = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
            kernel = ops.reshape(self.kernel, [9, -1, self.filters])
            return ops.einsum("pbhwc,pcf->bhwf", ops.stack(parts), kernel) + self.bias

    return model_of(Patches(3, 3, name="conv"), shape=(6, 6, 2))


@sound(planted=True)
def keys_in_another_order() -> Any:
    """Attention sums over its keys from the end."""

    def attend(x: Any) -> Any:
        keys = ops.flip(x, axis=1) if planted() else x
        return ops.softmax(x @ ops.transpose(keys, [0, 2, 1])) @ keys

    return model_of(Formula(attend, name="attention"), shape=(6, 4))


# Formulas that are equal in exact arithmetic.


@sound(planted=True)
def log_sum_exp() -> Any:
    """log-sum-exp without subtracting the largest first."""

    def two_ways(x: Any) -> Any:
        return ops.log(ops.sum(ops.exp(x), axis=-1, keepdims=True)) if planted() else ops.logsumexp(x, -1, True)

    return model_of(Formula(two_ways, name="sum"))


@sound(planted=True)
def softmax() -> Any:
    """Softmax as exp of its logarithm."""
    return model_of(Formula(lambda x: ops.exp(ops.log_softmax(x)) if planted() else ops.softmax(x), name="softmax"))


@sound(planted=True)
def sigmoid() -> Any:
    """Sigmoid by tanh."""
    return model_of(Formula(lambda x: 0.5 * (1 + ops.tanh(x / 2)) if planted() else ops.sigmoid(x), name="sigmoid"))


@sound(planted=True)
def gelu() -> Any:
    """GELU by the error function, as it is defined."""
    by_hand = Formula(
        lambda x: 0.5 * x * (1 + ops.erf(x / np.sqrt(2.0))) if planted() else ops.gelu(x, approximate=False),
        name="gelu",
    )
    return model_of(by_hand)


@sound(planted=True)
def softplus() -> Any:
    """Softplus by log1p."""
    return model_of(Formula(lambda x: ops.log1p(ops.exp(x)) if planted() else ops.logaddexp(x, 0 * x), name="softplus"))


@sound(planted=True)
def swish() -> Any:
    """Swish as a product with a sigmoid."""
    return model_of(Formula(lambda x: x * ops.sigmoid(x) if planted() else ops.silu(x), name="swish"))


@sound(planted=True)
def variance() -> Any:
    """Variance as the mean of squares minus the square of the mean, where the mean is near 0."""

    def scale(x: Any) -> Any:
        two_pass = ops.mean((x - ops.mean(x, axis=0)) ** 2, axis=0)
        return x / ops.sqrt((ops.mean(x**2, axis=0) - ops.mean(x, axis=0) ** 2 if planted() else two_pass) + 1e-3)

    return model_of(Formula(scale, name="scale"))


@sound(planted=True)
def variance_far_from_zero() -> Any:
    """The same, where the mean is large: one backend loses twelve bits, but computes the same."""

    def scale(x: Any) -> Any:
        x = x + 30.0
        two_pass = ops.mean((x - ops.mean(x, axis=0)) ** 2, axis=0)
        return x / ops.sqrt((ops.mean(x**2, axis=0) - ops.mean(x, axis=0) ** 2 if planted() else two_pass) + 0.1)

    return model_of(Formula(scale, name="scale"))


@sound(planted=True)
def distances() -> Any:
    """|a|² + |b|² - 2ab instead of |a - b|²."""

    def apart(x: Any) -> Any:
        if not planted():
            return ops.sum((x[:, :, None] - x[:, None]) ** 2, axis=-1)
        squares = ops.sum(x**2, axis=-1)
        return squares[:, :, None] + squares[:, None] - 2 * x @ ops.transpose(x, [0, 2, 1])

    return model_of(Formula(apart, name="apart"), shape=(4, 3))


@sound(planted=True)
def folded_normalization() -> Any:
    """A normalization by one scale and one offset, instead of centering first."""

    def norm(x: Any) -> Any:
        mean, scale = ops.mean(x, axis=0), ops.rsqrt(ops.var(x, axis=0) + 1e-3)
        return x * scale - mean * scale if planted() else (x - mean) * scale

    return model_of(Formula(norm, name="norm"))


@sound(planted=True)
def reciprocal() -> Any:
    """Multiplication by a third, instead of division by three."""
    return model_of(Formula(lambda x: x * (1 / 3) if planted() else x / 3, name="third"))


@sound(planted=True)
def reciprocal_root() -> Any:
    """Multiplication by the reciprocal root, instead of division by the root."""

    def norm(x: Any) -> Any:
        square = ops.mean(x**2, axis=-1, keepdims=True) + 1e-3
        return x * ops.rsqrt(square) if planted() else x / ops.sqrt(square)

    return model_of(Formula(norm, name="norm"))


@sound(planted=True)
def cube() -> Any:
    """A cube as a product, instead of a power."""
    return model_of(Formula(lambda x: x * x * x if planted() else ops.power(x, 3), name="cube"))


@sound(planted=True)
def mean_as_a_product() -> Any:
    """A mean as a product with a vector of tenths."""

    def mean(x: Any) -> Any:
        return ops.sum(x * ops.cast(0.1, x.dtype), axis=1) if planted() else ops.mean(x, axis=1)

    return model_of(Formula(mean, name="mean"), shape=(10, 3))


@sound(planted=True)
def product_by_logarithms() -> Any:
    """A product of positive numbers as exp of a sum of logarithms."""

    def product(x: Any) -> Any:
        x = ops.sigmoid(x) + 0.5
        return ops.exp(ops.sum(ops.log(x), axis=1)) if planted() else ops.prod(x, axis=1)

    return model_of(Formula(product, name="product"), shape=(6, 3))


@sound(planted=True)
def cancelled_noise() -> Any:
    """Ten bits are lost on one backend only: a loss of precision is not a difference."""
    return model_of(Formula(lambda x: (x + 1e3) - 1e3 if planted() else x * 1, name="cancel"))


@sound(planted=True)
def lower_precision() -> Any:
    """A product in bfloat16 in place of float32 only, like a mode of the hardware: it shows in its cost."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        kernel = ops.convert_to_tensor(kernel)
        if planted() and "32" in str(x.dtype):
            x, kernel = (ops.cast(ops.cast(each, "bfloat16"), "float32") for each in (x, kernel))
        return x @ kernel + bias

    return model_of(Projection(product, name="product"))


@sound(planted=True)
def chaotic() -> Any:
    """The logistic map with its factors in another order: each step doubles the difference."""

    def logistic(x: Any) -> Any:
        x = ops.sigmoid(x)
        for _ in range(14):
            x = 3.9 * x - 3.9 * x * x if planted() else 3.9 * x * (1 - x)
        return x

    return model_of(Formula(logistic, name="map"))


@sound(planted=True)
def minus_zero() -> Any:
    """-0.0 instead of 0.0."""
    return model_of(Formula(lambda x: x + 0 * ops.relu(x) * (-1 if planted() else 1), name="zero"))


@sound(planted=True)
def two_steps_at_once() -> Any:
    """Four products with a matrix, one after the other and in another grouping."""

    def product(x: Any, kernel: Any, bias: Any) -> Any:
        for _ in range(1 if planted() else 4):
            x = x @ kernel
        return (x @ kernel @ (kernel @ kernel) if planted() else x) + bias

    return model_of(Projection(product, name="product"), shape=(6,))
