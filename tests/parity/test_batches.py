"""The batches that a model is compared on: in the forms that Keras's fit takes, named, or those a script trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.models.targets import load_target
from dlf.parity._recording.batches import batches_of_training, cut, numbers_alone, own_batches
from dlf.parity._recording.building import builder_of
from dlf.parity._recording.subject import Subject
from dlf.parity._recording.worker import Worker
from dlf.parity.options import ParityOptions
from dlf.utils.errors import InvalidArgumentError

SCRIPT = """
import keras, numpy as np
x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
words = np.array(["a", "b"] * 10)
def made():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""
MODEL = "model = made()\n"


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script that ends with these lines, and returns its path."""

    def write(lines: str) -> str:
        (tmp_path / "script.py").write_text(SCRIPT + lines)
        return str(tmp_path / "script.py")

    return write


def first(target: str, steps: int = 2) -> list[Any]:
    return batches_of_training(target, load_target(target, anew=True)(), steps)


@pytest.mark.parametrize(
    ("call", "sizes"),
    [
        ("model.fit(x, y, batch_size=4, epochs=9)", [4, 4]),
        ("model.fit(x, y, 4, validation_split=0.5)", [4, 4]),
        ("model.fit(x=x, y=y)", [20, 20]),  # Keras's own size is 32: the one batch is taken again.
        ("model.fit(x[:6], y[:6], batch_size=4)", [4, 2]),
        ("import dlf; dlf.fit(model, x, y, batch_size=4)", [4, 4]),
        ("import dlf; dlf.compile_and_fit(model, (x, y), epochs=3, loss='mse')", [20, 20]),
        ("model.fit(((x[n : n + 4], y[n : n + 4]) for n in range(0, 20, 4)), steps_per_epoch=5)", [4, 4]),
    ],
)
def test_the_batches_are_those_that_a_script_trains_on(
    script: Callable[[str], str], call: str, sizes: list[int]
) -> None:
    found = first(f"{script(MODEL + call)}:model")
    assert [len(x) for x, _, _ in found] == sizes
    np.testing.assert_array_equal(found[0][0], np.arange(40.0).reshape(20, 2)[: sizes[0]])
    np.testing.assert_array_equal(found[0][1], (np.arange(20) % 2)[: sizes[0]])
    assert all(weights is None for _, _, weights in found)


def test_weights_of_examples_and_of_classes_belong_to_them(script: Callable[[str], str]) -> None:
    (_, y, weights), _ = first(
        f"{script(MODEL + 'model.fit(x, y, class_weight={0: 1.0, 1: 5.0}, batch_size=4)')}:model"
    )
    np.testing.assert_array_equal(weights, np.where(y, 5.0, 1.0))
    (_, _, weights), _ = first(f"{script(MODEL + 'model.fit(x, y, sample_weight=x[:, 0], batch_size=4)')}:model")
    np.testing.assert_array_equal(weights, [0.0, 2.0, 4.0, 6.0])


DATA_SETS = {
    "tensorflow": "import tensorflow as tf; data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).prefetch(1)",
    "torch": "import torch.utils.data as d; data = d.DataLoader([(x[n], y[n]) for n in range(20)], batch_size=4)",
    "numpy": """
class Data(keras.utils.PyDataset):
    def __len__(self): return 5
    def __getitem__(self, n): return x[4 * n : 4 * n + 4], y[4 * n : 4 * n + 4]
data = Data()""",
}


@pytest.mark.parametrize("package", DATA_SETS)
def test_data_sets_are_read_from_their_beginning(script: Callable[[str], str], package: str) -> None:
    pytest.importorskip(package)
    name = script(MODEL + DATA_SETS[package] + "\nmodel.fit(data, class_weight={1: 3.0})")
    found = first(f"{name}:model", 3)
    assert [x[0, 0] for x, _, _ in found] == [0.0, 8.0, 16.0]
    assert all(isinstance(each, np.ndarray) for batch in found for each in batch)
    np.testing.assert_array_equal(found[0][2], [1.0, 3.0, 1.0, 3.0])
    # The same data set may be named.
    options = {"data": f"{name}:data", "batch_size": 2, "steps": 2}
    assert [len(x) for x, _, _ in own_batches(options, np.random.default_rng(0))] == [2, 2]


@pytest.mark.parametrize(
    "lines",
    [
        MODEL + "other = made(); other.fit(x, y)",  # Of another model.
        MODEL + "model.fit(gone, y)",  # Not there.
        MODEL + "model.fit(iter(()))",  # Empty.
        MODEL + "model.fit([x], y[:3])",  # Keras would refuse it.
        MODEL,
    ],
)
def test_others_are_made_where_there_are_none_that_fit(script: Callable[[str], str], lines: str) -> None:
    found = first(f"{script(lines)}:model")
    assert found == [] or "other" in lines  # Another model of the same class may be one that a function has made.


def test_a_function_builds_what_the_script_trains(script: Callable[[str], str]) -> None:
    target = f"{script(MODEL + 'model.fit(x, y, batch_size=4)')}:made"
    assert [len(x) for x, _, _ in first(target)] == [4, 4]
    target = f"{script(MODEL + 'model.fit(x, y); made().fit(x, y)')}:made"
    assert first(target) == []  # It may be the one or the other.


@pytest.mark.parametrize("after", ["", "\n    print(history.history['loss'])", "\n    return model"])
def test_what_a_function_trains_is_the_model_that_it_builds(script: Callable[[str], str], after: str) -> None:
    main = "def main():\n    model = made()\n    history = model.fit(x, y, batch_size=4, epochs=10_000)"
    target = f"{script(main + after)}:main"
    model = builder_of(target, "float32")()
    assert isinstance(model, keras.Sequential)
    assert not model.optimizer.built
    assert [len(x) for x, _, _ in batches_of_training(target, model, 2)] == [4, 4]


@pytest.mark.parametrize(
    ("value", "length"),
    [("x", 1), ("(x,)", 1), ("(x, y)", 2), ("(x, y, x[:, 1])", 3), ("(x, y, {0: 1.0, 1: 2.0})", 3), ("{'a': x}", 1)],
)
def test_data_may_be_named_without_a_function(script: Callable[[str], str], value: str, length: int) -> None:
    options: dict[str, Any] = {"data": f"{script(f'data = {value}')}:data", "batch_size": 4, "steps": 2}
    load_target(options["data"].replace(":data", ":made"), anew=True)
    one, two = own_batches(options, np.random.default_rng(0))
    assert [each is not None for each in one] == [True] * length + [False] * (3 - length)
    np.testing.assert_array_equal(np.ravel(keras.tree.flatten(two)[0]), np.arange(8.0, 16.0))


def test_data_that_are_no_numbers_are_refused_with_what_to_do(script: Callable[[str], str]) -> None:
    options: dict[str, Any] = {"data": f"{script(MODEL)}:words", "batch_size": 4, "steps": 2}
    load_target(options["data"].replace(":words", ":made"), anew=True)
    with pytest.raises(InvalidArgumentError, match=r"expected arrays of numbers.*look words up before"):
        numbers_alone(own_batches(options, np.random.default_rng(0)))
    with pytest.raises(InvalidArgumentError, match=r"expected a function or a model of .*received 'gone'"):
        own_batches(options | {"data": options["data"].replace(":words", ":gone")}, np.random.default_rng(0))


def test_batches_are_cut_where_all_arrays_have_as_many_examples() -> None:
    long, short = np.zeros((8, 2)), np.zeros((3, 2))
    assert [np.shape(each) for each in cut([(long, long, None)], 4)[0][:2]] == [(4, 2), (4, 2)]
    assert [np.shape(each) for each in cut([([long, short], long, None)], 4)[0][0]] == [(8, 2), (3, 2)]


@pytest.mark.parametrize("takes_batches", [False, True])
def test_a_step_that_takes_all_of_a_batch_gets_its_parts(takes_batches: bool) -> None:
    seen: list[Any] = []

    class Step(keras.Sequential):  # type: ignore[misc]  # Keras has no types.
        def train_step(self, *arguments: Any) -> Any:
            *state, parts = arguments
            seen.append([tuple(each.shape[1:]) for each in parts])
            logs = {"loss": keras.ops.zeros(())}
            return (logs, *state) if state else logs

    model = Step([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd")
    subject = Subject(lambda: model, None)
    subject.takes_all, subject.takes_batches = True, takes_batches
    subject.fit(model, ((np.zeros((4, 3), "float32"),) * 3, None, None))
    assert seen[-1] == [(3,)] * 3


def test_a_generator_is_read_once(script: Callable[[str], str]) -> None:
    batches = "((x[n : n + 4], y[n : n + 4]) for n in range(0, 20, 4))"
    lines = f"model = keras.Sequential([keras.layers.Dense(1)])\nmodel.compile('sgd', 'mse')\nmodel.fit({batches})"
    worker = Worker()
    worker.respond({"do": "build", "options": asdict(ParityOptions(f"{script(lines)}:model", steps=2))})
    assert [x[0, 0] for x, _, _ in worker._chosen.batches] == [0.0, 8.0]


TEXT = """
import keras, numpy as np
from keras import layers
vectorize, look_up = layers.TextVectorization(8, output_sequence_length=3), layers.StringLookup(vocabulary=["x", "y"])
vectorize.adapt(np.array(["a b", "c"]))
words = np.array(["b a b", "c a", "a"])
x, y = np.ones((3, 5)), np.ones(3)
kinds = {"size": np.ones((3, 2)), "kind": np.array(["y", "z", "x"])}
def one():
    hidden = [vectorize, layers.Embedding(8, 2), layers.Flatten(), layers.Dense(1)]
    return keras.Sequential([keras.Input((1,), dtype="string"), *hidden])
def two():
    kind, size = keras.Input((), dtype="string", name="kind"), keras.Input((2,), name="size")
    hidden = layers.Embedding(3, 2)(look_up(kind))
    return keras.Model({"kind": kind, "size": size}, layers.Dense(1)(layers.Concatenate()([hidden, size])))
model = {name}()
model.compile("sgd", "mse", metrics=["mae"])
"""


TOKENS = [[[[3, 4, 3], [2, 4, 0]]], [[[4, 0, 0]]]]


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64:UserWarning")
@pytest.mark.parametrize(
    ("name", "fit", "expected"),
    [
        ("one", "words, np.ones(3), batch_size=2", TOKENS),
        ("one", "tf.data.Dataset.from_tensor_slices((words, np.ones(3))).batch(2)", TOKENS),
        ("two", "kinds, np.ones(3)", [[np.ones((3, 2)), [2, 0, 1]]] * 2),
        ("one", "x, y", None),  # There, numbers are no words.
    ],
)
def test_words_are_looked_up_ahead_of_the_model(tmp_path: Path, name: str, fit: str, expected: Any) -> None:
    pytest.importorskip("tensorflow")
    file = tmp_path / "words.py"
    file.write_text(f"import tensorflow as tf\n{TEXT.replace('{name}', name)}\nmodel.fit({fit})\n")
    worker = Worker()
    answer = worker.respond({"do": "build", "options": asdict(ParityOptions(f"{file}:model", steps=2))})
    assert answer["lookups"] == [worker._subject.whole.layers[{"one": 0, "two": 1}[name]].name]
    assert answer["batches_of_training"] is (expected is not None)
    for (x, _, _), parts in zip(worker._chosen.batches, expected or (), strict=expected is not None):
        assert all(map(np.array_equal, x if isinstance(x, list) else [x], parts))
    assert "mae" in worker._subject.fit(worker._subject.model, worker._chosen.batches[0])


def test_arrays_that_keras_alone_can_read_are_no_rows(script: Callable[[str], str]) -> None:
    lines = MODEL + "model.fit(x, [y, None])"
    assert first(f"{script(lines)}:model") == []


def test_keras_alone_is_asked_with_what_the_script_gives_it(script: Callable[[str], str]) -> None:
    """A data set may be what counts: here it fails, and arrays of its batches would not."""
    lines = """
class Data(keras.utils.PyDataset):
    reads = 0
    def __len__(self): return 2
    def __getitem__(self, number):
        Data.reads += 1
        if Data.reads > 2: raise OSError("the disk is gone")
        return x[:4], y[:4]
data = Data()
model = made()
model.fit(data, epochs=9)
"""
    worker = Worker()
    target = f"{script(lines)}:model"
    worker.respond({"do": "build", "options": asdict(ParityOptions(target, steps=2))})
    assert "the disk is gone" in worker.respond({"do": "by_keras_alone"})["error"]
    # So is whether `fit` comes through: its batches may be read, and it may not.
    worker.respond({"do": "build", "options": asdict(ParityOptions(target, steps=2))})
    assert "the disk is gone" in worker.respond({"do": "fit"})["error"]
    worker.respond({"do": "build", "options": asdict(ParityOptions(target.replace(":model", ":made"), steps=2))})
    assert worker.respond({"do": "by_keras_alone"}) == {"error": None}


def test_keras_alone_is_asked_with_every_batch_that_is_compared(script: Callable[[str], str]) -> None:
    """The first may be sound, and Keras would shuffle."""
    lines = """
def loss(y, predicted):
    if float(keras.ops.convert_to_numpy(y)[0, 0]) > 1: raise ValueError("beyond one")
    return keras.ops.mean(predicted)
model = made()
model.compile("sgd", loss, run_eagerly=True)
model.fit(x, np.arange(len(x))[:, None] / 3, batch_size=2)
"""
    worker = Worker()
    worker.respond({"do": "build", "options": asdict(ParityOptions(f"{script(lines)}:model", steps=4))})
    for _ in range(3):
        assert "beyond one" in worker.respond({"do": "by_keras_alone"})["error"]
