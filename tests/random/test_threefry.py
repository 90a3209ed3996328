"""The numbers of the common stream: the same golden ones on every backend, and JAX's own where it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from random_cases import FUNCTIONS, NORMALS, SCALED, digest, draw_with_function, draw_with_layer

from dlf.backend.keras_internals import random_functions, random_functions_replaced
from dlf.backend.registry import current_backend
from dlf.random import _threefry as threefry
from dlf.random.keras_random import NOTES, replacements
from dlf.random.seed import common_randomness

GOLDEN = json.loads((Path(__file__).parent / "random_golden.json").read_text())
ON_JAX = keras.config.backend() == "jax"
TRUNCATED = "cbc2250e0734b8cf"
UNSEEDED = "2223994504c7ca43"


def threefry_by_the_book(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Computes Threefry-2x32 with Python's integers, one round at a time."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    first, second = ((word + each) % 2**32 for word, each in zip(counter, key, strict=True))
    for number in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]
        first = (first + second) % 2**32
        second = (second << turn | second >> (32 - turn)) % 2**32 ^ first
        if number % 4 == 3:
            group = number // 4 + 1
            first = (first + keys[group % 3]) % 2**32
            second = (second + keys[(group + 1) % 3] + group) % 2**32
    return first, second


@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (400, 400)])
def test_every_element_has_the_bits_of_its_number(shape: tuple[int, ...]) -> None:
    """For the largest shape, dlf on PyTorch computes with tensors, and for smaller ones with NumPy."""
    key = (0xFFFFFFFE, 2025)
    bits = np.asarray(ops.convert_to_numpy(current_backend().random_bits(np.array(key, np.uint32), shape)))
    assert bits.shape == shape
    drawn = bits.ravel().astype(np.int64) % 2**32
    for number in {0, drawn.size // 2, drawn.size - 1}:
        first, second = threefry_by_the_book(key, (0, number))
        assert drawn[number] == first ^ second


def draws_the_golden_numbers(name: str) -> bool:
    drawn = draw_with_function(name)
    if name in SCALED:
        return np.allclose(drawn, GOLDEN[name], rtol=0, atol=SCALED[name])
    return bool(digest(drawn) == GOLDEN[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FUNCTIONS, *NORMALS])
def test_functions_draw_the_golden_numbers(name: str) -> None:
    with common_randomness():
        assert draws_the_golden_numbers(name)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_our_derivation_draws_the_golden_numbers_on_jax_too(name: str) -> None:
    """On JAX, dlf uses JAX's own numbers, which prove nothing about dlf's derivation: here they are replaced."""
    if ON_JAX and name in ("uniform, range", "uniform, float16"):
        pytest.skip("JAX has no float64 unless asked, and its compiler fuses")
    with random_functions_replaced(replacements()):
        assert draws_the_golden_numbers(name)


@pytest.mark.skipif(not ON_JAX, reason="the numbers are JAX's")
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_the_golden_numbers_are_those_of_unpatched_keras_on_jax(name: str) -> None:
    assert draws_the_golden_numbers(name)


@pytest.mark.skipif(not ON_JAX, reason="the numbers are JAX's")
def test_normal_numbers_are_jax_s_to_rounding() -> None:
    import jax

    key = np.array([0, 3], np.uint32)
    pairs = (
        (threefry.normal(key, (100_000,)), jax.random.normal(key, (100_000,))),
        (threefry.truncated_normal(key, (100_000,)), jax.random.truncated_normal(key, -2.0, 2.0, (100_000,))),
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_no_quantile_is_rounded_by_chance() -> None:
    """No quantile is so close to the middle of two float32 numbers that another `erfinv` could round it differently."""
    assert digest(threefry.normal_quantiles()) == "1b36608f8d80345e"
    assert digest(threefry.truncated_quantiles()) == TRUNCATED
    assert np.all(np.abs(threefry.truncated_quantiles()) < 2)


def test_normal_numbers_are_normal() -> None:
    table = threefry.normal_quantiles().astype(np.float64)
    assert abs(table.mean()) < 1e-6
    assert abs(table.var() - 1) < 1e-5
    assert np.all(np.diff(table) > 0)


def test_an_unseeded_draw_steps_alike_on_every_backend() -> None:
    keras.utils.set_random_seed(5)
    with common_randomness():
        drawn = [float(keras.random.uniform(())) for _ in range(4)]
    assert digest(np.array(drawn, np.float32)) == UNSEEDED


@pytest.fixture
def stock() -> Iterator[dict[str, Callable[..., Any]]]:
    before = random_functions()
    yield before
    assert random_functions() == before


def test_everything_is_restored_nested_and_after_an_exception(stock: dict[str, Callable[..., Any]]) -> None:
    with common_randomness():
        outer = random_functions()
        assert outer["normal"] is not stock["normal"]
        with pytest.raises(ZeroDivisionError), common_randomness():
            raise ZeroDivisionError
        assert random_functions() == outer
    assert random_functions() == stock


def test_what_cannot_be_drawn_in_common_is_noted(stock: dict[str, Callable[..., Any]]) -> None:
    NOTES.clear()
    if ON_JAX:
        pytest.skip("JAX refuses such bounds by itself")
    with common_randomness():
        drawn = keras.random.randint((3,), 0, 2**40, dtype="int64", seed=1)
    assert tuple(drawn.shape) == (3,)
    assert NOTES == {"randint": "its bounds need more than 32 bits"}


def test_a_change_of_keras_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src import backend

    from dlf.utils.errors import BackendError

    monkeypatch.setattr(backend.random, "dropout", lambda inputs, rate: inputs)
    with pytest.raises(BackendError, match=r"expected keras.src.backend.random.dropout\(inputs, rate, noise_shape"):
        common_randomness().__enter__()


@pytest.mark.skipif(not ON_JAX, reason="it is about JAX")
@pytest.mark.parametrize("setting", ["jax_enable_x64", "jax_threefry_partitionable"])
def test_jax_is_held_to_the_stream_under_other_settings(setting: str) -> None:
    import jax

    was = getattr(jax.config, setting)
    jax.config.update(setting, not was)
    try:
        own = digest(draw_with_layer("Dropout"))
        with common_randomness():
            common = digest(draw_with_layer("Dropout"))
    finally:
        jax.config.update(setting, was)
    assert common == GOLDEN["Dropout"] != own
