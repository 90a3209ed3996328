"""Each situation of the table, and some random ones, trained by plain Keras, Keras's loop under dlf, and the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import way_data
import way_models
from random_ways import combinations, made_small, told, unequal
from situations import TABLE, situation
from ways_of_training import WAYS, Situation, Trained, differences, faults, record_soon, train

from dlf.backend.keras_internals import as_logs, data_adapter, waits_for_a_batch
from dlf.training.evaluation import evaluate, predict
from dlf.training.fit import compile_and_fit
from dlf.utils.errors import BackendError

BACKEND = keras.config.backend()
# The comparison of the situations includes their warnings; what frameworks warn about otherwise must not be an error.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _record_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    record_soon(monkeypatch.setattr)


@pytest.mark.slow
@pytest.mark.parametrize("given", TABLE, ids=lambda each: each.name)
def test_it_is_trained_as_keras_trains_it(given: Situation, tmp_path: Path) -> None:
    if "tf.data" in given.name:
        pytest.importorskip("tensorflow")
    if "loader" in given.name:
        pytest.importorskip("torch")
    # Keras's loop under dlf takes as long again, so it is compared only for every third situation.
    alone = given.plain and TABLE.index(given) % 3
    assert faults(given, tmp_path, ("plain", "auto") if alone else WAYS) == []


def test_the_table_is_long_and_each_name_is_there_once() -> None:
    assert len(TABLE) >= 60
    assert len({each.name for each in TABLE}) == len(TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(15))
def test_a_random_combination_is_trained_as_keras_trains_it(number: int) -> None:
    parts = next(each for index, each in enumerate(combinations(5, 15)) if index == number)
    if "tf.data" in str(parts):
        pytest.importorskip("tensorflow")
    if parts["read"] == "a loader":
        pytest.importorskip("torch")
    found = unequal(parts)
    assert not found, (told(made_small(parts)), found)


def test_what_differs_is_found(tmp_path: Path) -> None:
    one = train(situation("some", metrics=["accuracy"]), "auto", tmp_path)
    assert differences(one, one) == []
    other = train(situation("another", metrics=["accuracy"], optimizer="adam"), "auto", tmp_path)
    assert {each.partition("[")[0].partition(":")[0] for each in differences(one, other)} >= {
        *("history", "events", "variables", "kernel")
    }
    assert differences(Trained(calls=["begin", "0"]), Trained(calls=["0", "begin"])) != []
    assert differences(Trained(history=[{"a": 1.0}]), Trained(history=[{"a": np.float32(1.0)}])) != []
    assert differences(Trained(history=[{"a": 1.0, "b": 1.0}]), Trained(history=[{"b": 1.0, "a": 1.0}])) != []


def test_a_metric_that_returns_a_dictionary_is_flat_everywhere() -> None:
    """Training has six batches and validation two; `evaluate` returns the counts by name, as Python numbers."""
    x, y = np.ones((96, 4), "float32"), np.ones(96, "int32")
    for engine in ("keras", "fused"):
        model = way_models.dense()
        history = compile_and_fit(
            model,
            (x, y),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[way_models.Counts()],
            batch_size=16,
            verbose=0,
            engine=engine,
            validation_ds=(x[:32], y[:32]),
        ).history
        assert (history["a_batches"], history["val_a_batches"], history["val_n_examples"]) == ([6.0], [2.0], [32.0])
        found = evaluate(model, (x, y), engine=engine)
        assert list(found) == list(model.evaluate(x, y, return_dict=True, verbose=0))
        assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize("engine", ["keras", "fused"])
def test_evaluate_and_predict_read_as_keras_reads(engine: str) -> None:
    model = way_models.dense()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    calls = []
    for ask in (
        lambda: model.evaluate(way_data.Noted(), verbose=0),
        lambda: evaluate(model, way_data.Noted(), engine=engine),
        lambda: model.predict(way_data.Noted(), verbose=0),
        lambda: predict(model, way_data.Noted(), engine=engine),
    ):
        model.evaluate(way_data.X, way_data.Y, verbose=0)  # So that everything is built before the calls are recorded.
        way_data.CALLS.clear()
        ask()
        calls.append(list(way_data.CALLS))
    assert calls[0] == calls[1] != []
    assert calls[2] == calls[3] != []


def test_a_compiled_model_predicts_before_it_is_trained() -> None:
    model = way_models.named_outputs()
    model.compile(loss={"kind": "mse", "size": "mse"})
    found = predict(model, way_data.X, engine="fused")
    np.testing.assert_allclose(found["kind"], model.predict(way_data.X, verbose=0)["kind"], rtol=1e-5)


def test_a_data_set_that_holds_a_model_is_read_by_keras() -> None:
    """Each of its batches may depend on what the model learnt from the previous one."""

    class Taught(way_data.Noted):
        def __init__(self, model: keras.Model) -> None:
            super().__init__()
            self.model = model

    model = way_models.dense()
    options = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "verbose": 0}
    assert compile_and_fit(model, Taught(model), **options).engine == "keras"


@pytest.mark.parametrize(
    ("gone", "ask"),
    [
        ("keras.src.utils.python_utils.pythonify_logs", lambda: as_logs({"loss": 1.0})),
        ("keras.src.trainers.data_adapters.data_adapter.DataAdapter", data_adapter),
        ("keras.Model._flatten_layers", lambda: waits_for_a_batch(way_models.dense())),
    ],
)
def test_what_is_private_to_keras_is_asked_for(gone: str, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask()
    if gone == "keras.Model._flatten_layers":
        monkeypatch.setattr(keras.Model, "_flatten_layers", None)
    else:
        monkeypatch.delattr(gone)
    with pytest.raises(BackendError, match=r"which (is|are) gone"):
        ask()
