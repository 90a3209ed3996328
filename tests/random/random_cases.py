"""What the tests of randomness draw, by name; run on JAX, this writes the numbers that every backend must draw.

``KERAS_BACKEND=jax python tests/random/random_cases.py > tests/random/random_golden.json``
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from dlf.random._initializers import common_initial_weights
from dlf.random.seed import common_randomness

ONES = np.ones((4, 6, 5), np.float32)
IMAGE = np.arange(2 * 6 * 6 * 3, dtype=np.float32).reshape(2, 6, 6, 3) / 216
EYE = np.broadcast_to(np.eye(6, dtype=np.float32), (4, 6, 6)).copy()

# On these inputs, a layer's output shows its mask or its noise, without any other arithmetic.
MASKS: Mapping[str, tuple[Callable[[], Any], Any]] = {
    "Dropout": (lambda: layers.Dropout(0.3, seed=1), ONES),
    "Dropout, no seed": (lambda: layers.Dropout(0.5), ONES),
    "Dropout, noise_shape": (lambda: layers.Dropout(0.3, noise_shape=(None, 1, 5), seed=1), ONES),
    "Dropout, mixed precision": (lambda: layers.Dropout(0.3, seed=1, dtype="mixed_bfloat16"), ONES),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.3, seed=2), ONES),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.3, seed=2), IMAGE + 1),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.3, seed=2), IMAGE[..., None] + 1),
    "AlphaDropout": (lambda: layers.AlphaDropout(0.3, seed=3), ONES),
    "Attention": (lambda: layers.Attention(dropout=0.3, seed=4), [0 * EYE, EYE]),
    "AdditiveAttention": (lambda: layers.AdditiveAttention(dropout=0.3, seed=5), [0 * EYE, EYE]),
}
# JAX's own normal numbers differ in the last bits.
NOISE: Mapping[str, tuple[Callable[[], Any], Any]] = {
    "GaussianNoise": (lambda: layers.GaussianNoise(1.0, seed=6), 0 * ONES),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.5, seed=7), ONES),
}
# These layers compute with what they draw, so the last bits differ between frameworks.
COMPUTING: Mapping[str, tuple[Callable[[], Any], Any]] = {
    "MultiHeadAttention": (lambda: _Self(layers.MultiHeadAttention(2, 3, dropout=0.4, seed=8)), ONES),
    "GroupedQueryAttention": (lambda: _Self(layers.GroupQueryAttention(3, 4, 2, dropout=0.4, seed=9)), ONES),
    "LSTM": (lambda: layers.LSTM(3, dropout=0.4, seed=10), ONES),
    "LSTM, recurrent": (lambda: layers.LSTM(3, dropout=0.3, recurrent_dropout=0.4, seed=11), ONES),
    "GRU": (lambda: layers.GRU(3, dropout=0.4, seed=12), ONES),
    "GRU, recurrent": (lambda: layers.GRU(3, dropout=0.3, recurrent_dropout=0.4, seed=13), ONES),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, dropout=0.3, recurrent_dropout=0.4, seed=14), ONES),
    "RandomFlip": (lambda: layers.RandomFlip(seed=15), IMAGE),
    "RandomCrop": (lambda: layers.RandomCrop(3, 3, seed=16), IMAGE),
    "RandomTranslation": (lambda: layers.RandomTranslation(0.3, 0.3, seed=17), IMAGE),
    "RandomRotation": (lambda: layers.RandomRotation(0.2, seed=18), IMAGE),
    "RandomZoom": (lambda: layers.RandomZoom(0.3, seed=19), IMAGE),
    "RandomContrast": (lambda: layers.RandomContrast(0.4, seed=20), IMAGE),
    "RandomBrightness": (lambda: layers.RandomBrightness(0.4, value_range=(0, 1), seed=21), IMAGE),
    "RandomErasing": (lambda: layers.RandomErasing(value_range=(0, 1), seed=22), IMAGE),
    "RandomGrayscale": (lambda: layers.RandomGrayscale(0.5, seed=23), IMAGE),
}
LAYERS = {**MASKS, **NOISE, **COMPUTING}

FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "uniform": lambda seed: keras.random.uniform((5, 7), seed=seed),
    "uniform, scalar": lambda seed: keras.random.uniform((), seed=seed),
    "uniform, range": lambda seed: keras.random.uniform((5, 7), -0.05, 0.07, seed=seed),
    "uniform, float16": lambda seed: keras.random.uniform((5, 7), -0.3, 0.9, dtype="float16", seed=seed),
    "uniform, bfloat16": lambda seed: keras.random.uniform((5, 7), -0.3, 0.9, dtype="bfloat16", seed=seed),
    "randint": lambda seed: keras.random.randint((50,), -5, 1_000_003, seed=seed),
    "randint, widest": lambda seed: keras.random.randint((50,), -(2**31), 2**31 - 1, seed=seed),
    "randint, uint8": lambda seed: keras.random.randint((50,), 0, 256, dtype="uint8", seed=seed),
    "randint, uint32": lambda seed: keras.random.randint((50,), 7, 2**31 - 1, dtype="uint32", seed=seed),
    "shuffle": lambda seed: keras.random.shuffle(ops.arange(20), seed=seed),
    "shuffle, sorted twice": lambda seed: keras.random.shuffle(ops.arange(3000), seed=seed),
    "shuffle, second axis": lambda seed: keras.random.shuffle(ops.reshape(ops.arange(60), (20, 3)), axis=1, seed=seed),
}
# Tolerances for functions that scale what they draw. Depending on the processor, a compiler may keep more digits
# between the product and the sum, so that numbers differ by this much (two roundings of the largest).
SCALED = {"uniform, range": 1.2e-8, "uniform, float16": 2e-3, "uniform, bfloat16": 1.6e-2}
NORMALS: Mapping[str, Callable[[Any], Any]] = {
    "normal": lambda seed: keras.random.normal((50, 7), seed=seed),
    "normal, float16": lambda seed: keras.random.normal((5, 7), dtype="float16", seed=seed),
    "truncated_normal": lambda seed: keras.random.truncated_normal((50, 7), seed=seed),
}

_INITIALIZERS = {
    **{
        name: getattr(keras.initializers, name)
        for name in (
            *("RandomNormal", "TruncatedNormal", "RandomUniform", "GlorotUniform", "GlorotNormal", "HeNormal"),
            *("HeUniform", "LecunNormal", "LecunUniform", "Orthogonal"),
        )
    },
    "VarianceScaling, fan_out": functools.partial(keras.initializers.VarianceScaling, 2.0, "fan_out"),
    "VarianceScaling, untruncated": functools.partial(
        keras.initializers.VarianceScaling, distribution="untruncated_normal"
    ),
}
_SHAPES = {"dense": (64, 32), "wide": (16, 64), "convolution": (3, 3, 4, 8), "bias": (7,)}
WEIGHTS: Mapping[str, Callable[[], Any]] = {
    **{
        f"{name}, {title}": functools.partial(lambda kind, shape: kind(seed=5)(shape), kind, shape)
        for name, kind in _INITIALIZERS.items()
        for title, shape in _SHAPES.items()
        if not (name == "Orthogonal" and title == "bias")
    },
    "Orthogonal, large": lambda: keras.initializers.Orthogonal(seed=5)((200, 200)),
    "Identity": lambda: keras.initializers.Identity(0.3)((5, 5)),
    "Constant": lambda: keras.initializers.Constant(0.3)((5, 5)),
    "STFT": lambda: keras.initializers.STFT()((16, 1, 9)),
    "STFT, imaginary": lambda: keras.initializers.STFT("imag", "hamming", "spectrum", periodic=True)((16, 1, 9)),
}


class _Self(layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Applies attention to a sequence and itself."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def build(self, shape: Any) -> None:
        self.inner.build(shape, shape)

    def call(self, values: Any, training: bool = False) -> Any:
        return self.inner(values, values, training=training)


def build(name: str) -> tuple[Any, Any]:
    """Returns a built layer, and its input as the backend's tensors."""
    # An unseeded layer takes its seed from Python's generator.
    keras.utils.set_random_seed(11)
    make, inputs = LAYERS[name]
    layer = make()
    tensors = (
        [ops.convert_to_tensor(each) for each in inputs] if isinstance(inputs, list) else ops.convert_to_tensor(inputs)
    )
    with common_initial_weights():
        layer.build([each.shape for each in tensors] if isinstance(tensors, list) else tensors.shape)
    return layer, tensors


def seen(name: str, output: Any) -> np.ndarray:
    """Returns what a layer drew, as far as its output shows that."""
    array = to_numpy(output)
    if name == "AlphaDropout":
        return np.asarray(array > 0, np.float32)
    return np.asarray(array != 0, np.float32) if name in MASKS else array


def draw_with_layer(name: str, steps: int = 2) -> np.ndarray:
    layer, tensors = build(name)
    return np.stack([seen(name, layer(tensors, training=True)) for _ in range(steps)])


def draw_with_function(name: str) -> np.ndarray:
    generator = keras.random.SeedGenerator(11)
    draw = {**FUNCTIONS, **NORMALS}[name]
    return np.concatenate([np.ravel(to_numpy(draw(generator))) for _ in range(2)])


def to_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")), np.float32)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()[:16]


def golden() -> dict[str, Any]:
    table: dict[str, Any] = {}
    with common_randomness():
        for name in {**MASKS, **NOISE}:
            table[name] = digest(draw_with_layer(name))
        for name in COMPUTING:
            table[name] = np.ravel(draw_with_layer(name))[:60].round(7).tolist()
        for name in {**FUNCTIONS, **NORMALS}:
            drawn = draw_with_function(name)
            table[name] = drawn.tolist() if name in SCALED else digest(drawn)
    with common_initial_weights():
        for name, make in WEIGHTS.items():
            table[name] = digest(to_numpy(make()))
    return table


if __name__ == "__main__":
    print(json.dumps(golden(), indent=0))  # noqa: T201 - it is redirected into the file.
