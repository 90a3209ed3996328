"""Batches of a `tf.data.Dataset`: the order that every backend shares, and what is left to `tf.data`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from dlf.data.prepare import prepare_for_training
from dlf.data.tf_data import is_repeatable, rows_of
from dlf.random.seed import set_seed
from dlf.training.fit import compile_and_fit

tf = pytest.importorskip("tensorflow")
# Keras's own, for labels of int64 in a `tf.data.Dataset`, with JAX from 0.11 on.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64:UserWarning")
X = np.random.default_rng(2025).normal(size=(70, 3)).astype(np.float32)
Y = np.arange(70) % 2
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def source() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, np.arange(70)))


def order(batches: Any) -> list[int]:
    return [int(label) for _, labels in batches for label in np.asarray(labels)]


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_the_order_is_that_of_arrays(drop_remainder: bool) -> None:
    orders = []
    for dataset in (source(), (X, np.arange(70))):
        set_seed(9)
        batches = prepare_for_training(dataset, 16, drop_remainder=drop_remainder)
        assert len(batches) == int(batches.cardinality()) == (4 if drop_remainder else 5)
        orders.append([order(batches) for _ in range(3)])
    assert orders[0] == orders[1]
    assert len({tuple(epoch) for epoch in orders[0]}) == 3
    if not drop_remainder:
        assert all(sorted(epoch) == list(range(70)) for epoch in orders[0])


def test_an_iterator_that_ends_late_leaves_the_epoch_that_has_begun_alone() -> None:
    """tf.data looks for the end in its own thread; on a busy machine, Keras has begun the next epoch by then."""
    batches = prepare_for_training((X, np.arange(70)), 16, seed=3)
    late = iter(batches)
    for _ in range(len(batches)):
        next(late)
    batches.begin(1)
    assert next(late, None) is None
    assert batches.epoch == 1


def test_a_look_at_the_first_batch_uses_up_no_epoch() -> None:
    batches = prepare_for_training(source(), 16, seed=3)
    first = order(batches.take(1))
    assert order(batches)[:16] == first


@pytest.mark.parametrize(
    ("change", "repeatable"),
    [
        (lambda data: data, True),
        (lambda data: data.map(lambda x, y: (2 * x, y)), True),
        (lambda data: data.take(5).skip(2), True),
        (lambda data: data.map(lambda x, y: (x + tf.random.uniform([3]), y)), False),
        pytest.param(
            lambda data: data.map(lambda x, y: (x + keras.random.normal((3,)), y)),
            False,
            marks=pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="tf.data runs TensorFlow alone"),
        ),
        (lambda data: data.map(lambda x, y: (tf.numpy_function(np.abs, [x], tf.float32), y)), False),
        (lambda data: data.shuffle(10), False),
        (lambda data: data.repeat(), False),
        (lambda data: data.filter(lambda _, y: y < 9), False),
    ],
)
def test_what_is_read_anew_is_not_kept(change: Callable[[Any], Any], repeatable: bool) -> None:
    dataset = change(source())
    assert is_repeatable(dataset) == repeatable
    batches = prepare_for_training(dataset, 16)
    assert (rows_of(batches) is not None) == repeatable


def model() -> keras.Model:
    set_seed(4)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize("shuffle_buffer", [None, 100])
def test_the_engines_and_the_arrays_agree(shuffle_buffer: int | None, caplog: pytest.LogCaptureFixture) -> None:
    losses = []
    for engine in ("keras", "fused"):
        for dataset in (tf.data.Dataset.from_tensor_slices((X, Y)), (X, Y)):
            made = model()
            batches = prepare_for_training(dataset, 16, shuffle_buffer)
            history = compile_and_fit(made, batches, loss=LOSS, epochs=3, engine=engine, verbose=0)
            assert history.engine == engine
            losses.append(history.history["loss"])
    assert "blocks" not in caplog.text
    for other in losses[1:]:
        np.testing.assert_allclose(losses[0], other, rtol=1e-5)


def test_random_maps_are_streamed_and_not_frozen(caplog: pytest.LogCaptureFixture) -> None:
    # With a seed, `tf.random.normal` draws the same numbers in each epoch, in Keras's loop too; a generator does not.
    generator = tf.random.Generator.from_seed(1)
    dataset = source().map(lambda x, y: (x + generator.normal([3]), y % 2))
    made = model()
    with caplog.at_level(logging.WARNING, "dlf"):
        history = compile_and_fit(
            made,
            prepare_for_training(dataset, 16, shuffle_buffer=None),
            loss=LOSS,
            optimizer=keras.optimizers.SGD(0.0),
            epochs=3,
            verbose=0,
        )
    assert history.engine == "fused"
    assert "in blocks" in caplog.text
    assert len(set(history.history["loss"])) == 3


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's own, at the end of such a stream.
def test_a_length_that_is_unknown_is_left_to_keras(caplog: pytest.LogCaptureFixture) -> None:
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda _, y: y >= 0).batch(16)
    with caplog.at_level(logging.WARNING, "dlf"):
        history = compile_and_fit(model(), dataset, loss=LOSS, verbose=0)
    assert history.engine == "keras"
    assert "Keras's own loop is used, since the data set's length is unknown" in caplog.text
