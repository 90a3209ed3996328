from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from dlf.data.array_dataset import ArrayDataset
from dlf.data.prepare import prepare_for_training
from dlf.random.seed import set_seed
from dlf.utils.errors import InvalidArgumentError

X, Y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10)


def make(kind: str) -> Any:
    """Returns the same ten examples, as a `tf.data.Dataset` or as a data set without TensorFlow."""
    if kind == "tf.data":
        return pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices((X, Y))
    return (X, Y) if kind == "tuple" else ArrayDataset(X, Y)


def labels(batches: Any) -> list[list[int]]:
    return [label.tolist() for _, label in batches.as_numpy_iterator()]


KINDS = pytest.mark.parametrize("kind", ["arrays", "tuple", "tf.data"])


@KINDS
def test_without_shuffling_batches_come_in_order(kind: str) -> None:
    batches = prepare_for_training(make(kind), batch_size=4, shuffle_buffer=None)
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert labels(batches) == labels(batches)
    assert len(batches) == 3


@KINDS
def test_it_shuffles_by_default_and_anew_in_every_epoch(kind: str) -> None:
    set_seed(3)
    batches = prepare_for_training(make(kind), batch_size=10)
    first, second = labels(batches)[0], labels(batches)[0]
    assert sorted(first) == sorted(second) == list(range(10))
    assert len({tuple(first), tuple(second), tuple(range(10))}) == 3


@KINDS
def test_the_same_seed_gives_the_same_epochs(kind: str) -> None:
    def two_epochs() -> list[list[list[int]]]:
        set_seed(7)
        batches = prepare_for_training(make(kind), batch_size=4)
        return [labels(batches), labels(batches)]

    assert two_epochs() == two_epochs()


@KINDS
def test_the_order_is_the_same_on_every_backend(kind: str) -> None:
    """The order comes from a NumPy generator whose stream is frozen, so these numbers hold on every machine."""
    set_seed(2025)
    batches = prepare_for_training(make(kind), batch_size=4)
    assert labels(batches) == [[6, 3, 8, 5], [0, 9, 2, 4], [1, 7]]
    assert labels(batches) == [[9, 2, 4, 5], [0, 1, 8, 3], [6, 7]]


@KINDS
def test_the_last_smaller_batch_can_be_left_out(kind: str) -> None:
    batches = prepare_for_training(make(kind), batch_size=4, shuffle_buffer=None, drop_remainder=True)
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_map_take_skip_and_cache_mean_the_same(kind: str) -> None:
    dataset = make(kind).skip(2).map(lambda x, y: (x * 2, y)).take(3).cache()
    batches = prepare_for_training(dataset, batch_size=2, shuffle_buffer=None)
    found = [(x.tolist(), y.tolist()) for x, y in batches.as_numpy_iterator()]
    assert found == [([[8.0, 10.0], [12.0, 14.0]], [2, 3]), ([[16.0, 18.0]], [4])]
    assert int(dataset.cardinality().numpy()) == 3


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_elements_and_batches_answer_numpy(kind: str) -> None:
    image, label = next(iter(make(kind).take(1)))
    assert image.numpy().tolist() == [0.0, 1.0]
    assert int(label.numpy()) == 0
    for images, _ in prepare_for_training(make(kind), batch_size=4, shuffle_buffer=None).take(1):
        assert images.numpy().shape == (4, 2)


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_a_part_of_a_shuffled_data_set_is_a_shuffled_part(kind: str) -> None:
    set_seed(3)
    shuffled = make(kind).shuffle(10, seed=5, reshuffle_each_iteration=False)
    train, rest = shuffled.take(7), shuffled.skip(7)
    parts = [[int(label) for _, label in part.as_numpy_iterator()] for part in (train, rest)]
    assert sorted(parts[0] + parts[1]) == list(range(10))
    assert sorted(parts[0]) != list(range(7))


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_what_else_a_notebook_does(kind: str) -> None:
    dataset = make(kind)
    odd = dataset.filter(lambda _, y: y % 2 == 1).repeat(2)
    assert [int(y) for _, y in odd.as_numpy_iterator()] == [1, 3, 5, 7, 9] * 2
    assert [tuple(part.shape) for part in dataset.element_spec] == [(2,), ()]
    batches = dataset.batch(4)
    assert [tuple(part.shape) for part in batches.element_spec] == [(None, 2), (None,)]
    assert [x.shape for x in batches.map(lambda x, _: x).as_numpy_iterator()] == [(4, 2), (4, 2), (2, 2)]
    assert labels(batches.skip(1).take(1).cache().prefetch(1)) == [[4, 5, 6, 7]]
    assert len(labels(batches.unbatch().batch(5))) == 2
    x, y = next(iter(batches))
    assert (float(x[0][1].numpy()), int(y[3].numpy())) == (1.0, 3)


def test_caching_keeps_what_the_map_made() -> None:
    calls: list[int] = []

    def count(x: np.ndarray, y: int) -> tuple[dict[str, np.ndarray], int]:
        calls.append(int(y))
        return {"a": x}, y

    cached = ArrayDataset(X, Y).map(count).cache()
    for _ in range(2):
        assert [float(inputs["a"][0]) for inputs, _ in cached] == X[:, 0].tolist()
    assert calls == list(range(10))


def test_part_of_the_batches_can_be_fitted_and_predicted() -> None:
    batches = prepare_for_training((X, Y), batch_size=2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(batches.take(2), verbose=0, shuffle=False)
    assert model.predict(batches.take(2).map(lambda x, _: (x,)), verbose=0).shape == (4, 1)


def test_keras_ops_work_in_a_map() -> None:
    dataset = make("tf.data" if keras.config.backend() == "tensorflow" else "arrays")
    mapped = dataset.map(lambda x, y: (keras.ops.cast(x, "float32") / 2.0, keras.ops.one_hot(y, 10)))
    x, y = next(iter(prepare_for_training(mapped, batch_size=10, shuffle_buffer=None)))
    np.testing.assert_array_equal(x, X / 2)
    np.testing.assert_array_equal(y, np.eye(10))


def test_a_map_may_return_one_array_or_a_dictionary() -> None:
    assert [x.tolist() for x in ArrayDataset(Y).map(lambda y: y + 1).take(2)] == [1, 2]
    batches = ArrayDataset(X, Y).map(lambda x, y: ({"a": x, "b": y}, y)).batch(10)
    assert sorted(next(iter(batches))[0]) == ["a", "b"]


def test_mapping_never_writes_to_the_arrays() -> None:
    def ruin(x: np.ndarray, y: int) -> tuple[np.ndarray, int]:
        x = x.copy()
        x[:] = -1
        return x, y

    before = X.copy()
    list(ArrayDataset(X, Y).map(ruin))
    np.testing.assert_array_equal(X, before)


def test_shuffling_once_keeps_its_order() -> None:
    batches = ArrayDataset(X, Y).shuffle(10, seed=1, reshuffle_each_iteration=False).batch(10)
    assert labels(batches) == labels(batches) != [Y.tolist()]


def test_keras_fits_the_batches_and_shuffles_them_anew_in_every_epoch() -> None:
    seen: list[list[int]] = []

    class Batches(type(prepare_for_training((X, Y)))):  # type: ignore[misc]  # Made at run time.
        def __getitem__(self, index: int) -> Any:
            batch = super().__getitem__(index)
            seen.append(batch[1].tolist())
            return batch

    batches = Batches(ArrayDataset(X, Y).shuffle(seed=1), 10)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(batches, epochs=3, verbose=0, shuffle=False)
    orders = [tuple(each) for each in seen[-3:]]
    assert len(set(orders)) == 3
    assert all(sorted(order) == Y.tolist() for order in orders)


@pytest.mark.parametrize("value", [0, -1, 2.5, "64", True])
@pytest.mark.parametrize("argument", ["batch_size", "shuffle_buffer"])
def test_sizes_are_positive_integers(argument: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{argument}: expected a positive integer, received"):
        prepare_for_training((X, Y), **{argument: value})  # type: ignore[arg-type]  # That is the point.


@pytest.mark.parametrize("dataset", [3, None, [X, Y], prepare_for_training((X, Y))])
def test_other_kinds_of_data_are_refused(dataset: object) -> None:
    with pytest.raises(InvalidArgumentError, match="dataset: expected single examples"):
        prepare_for_training(dataset)


def test_empty_data_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="expected at least one example"):
        prepare_for_training((X[:0], Y[:0]))


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"arrays of the same length, received \(10, 9\)"):
        ArrayDataset(X, Y[:9])


def test_batches_that_were_changed_come_apart_as_they_are() -> None:
    changed = ArrayDataset(X, Y).batch(4).map(lambda x, y: (x * 100, y)).take(1).unbatch()
    assert [(float(x[0]), int(y)) for x, y in changed] == [(0.0, 0), (200.0, 1), (400.0, 2), (600.0, 3)]


def test_dictionaries_of_inputs_are_taken() -> None:
    batches = prepare_for_training(({"a": X, "b": X}, Y), batch_size=4, shuffle_buffer=None)
    inputs, _ = next(iter(batches))
    assert {name: part.shape for name, part in inputs.items()} == {"a": (4, 2), "b": (4, 2)}


def test_sizes_that_leave_no_batch_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="batch_size: expected at most 10, where drop_remainder is on"):
        prepare_for_training((X, Y), batch_size=11, drop_remainder=True)
    with pytest.raises(InvalidArgumentError, match="batch_size: expected a positive integer"):
        ArrayDataset(X, Y).batch(0)
    with pytest.raises(InvalidArgumentError, match="count: expected a positive integer"):
        ArrayDataset(X, Y).repeat()
