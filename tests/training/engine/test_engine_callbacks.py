"""Keras's callbacks under the fused engine: they see and write the same as under Keras's own loop."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.random.seed import set_seed
from dlf.training.engine._batch_hooks import steps_between_looks, watchers
from dlf.training.fit import compile_and_fit
from dlf.utils.errors import TrainingError

callbacks = keras.callbacks
_RANDOM = np.random.default_rng(2025)
X = _RANDOM.normal(size=(96, 4)).astype(np.float32)
Y = (X @ _RANDOM.normal(size=(4, 1))).astype(np.float32)


def train(engine: str, *used: keras.callbacks.Callback, epochs: int = 3, **options: Any) -> Any:
    set_seed(5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    settings = {"loss": "mse", "metrics": ["mae"], "batch_size": 10, "validation_split": 0.25, "verbose": 0, **options}
    return compile_and_fit(model, (X, Y), epochs=epochs, callbacks=list(used), engine=engine, **settings)


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """Records every epoch-level hook, and the values that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append(("train begin", dict(self.params), sorted(logs or {})))

    def on_train_end(self, logs: Any = None) -> None:
        self.seen.append(("train end", sorted(logs or {})))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch begin", epoch))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        kinds = {name: type(value).__name__ for name, value in logs.items()}
        self.seen.append(("epoch end", epoch, sorted(kinds.items()), int(self.model.optimizer.iterations)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.seen.append("test begin")

    def on_test_end(self, logs: Any = None) -> None:
        self.seen.append(("test end", sorted(logs or {})))


class EveryBatch(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("begin", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("end", batch, int(self.model.optimizer.iterations), round(float(logs["loss"]), 4)))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("test", batch, round(float(logs["loss"]), 4)))


@pytest.mark.parametrize("kind", [Recorder, EveryBatch])
def test_the_hooks_are_called_as_in_fit(kind: type, caplog: pytest.LogCaptureFixture) -> None:
    by_keras, fused = kind(), kind()
    train("keras", by_keras)
    with caplog.at_level(logging.WARNING, "dlf"):
        train("fused", fused)
    assert fused.seen == by_keras.seen
    assert caplog.text.count("EveryBatch looks at every batch") == (kind is EveryBatch)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("frequency", ["epoch", 3, 5])
def test_checkpoints_are_left_at_the_same_steps(frequency: Any, tmp_path: Path) -> None:
    for engine in ("keras", "fused"):
        (tmp_path / engine).mkdir()
        batch = "-{batch}" if frequency != "epoch" else ""
        file = tmp_path / engine / ("{epoch}" + batch + ".weights.h5")
        train(engine, callbacks.ModelCheckpoint(file, save_weights_only=True, save_freq=frequency))
    assert files(tmp_path / "keras") == files(tmp_path / "fused") != []


@pytest.mark.parametrize(("frequency", "resumed_at"), [("epoch", 2), (3, 1)])
def test_a_training_that_broke_off_is_resumed(frequency: Any, resumed_at: int, tmp_path: Path) -> None:
    """From a backup that was made within an epoch, training resumes at that epoch."""

    class BreakOff(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise RuntimeError

    resumed = {}
    for engine in ("keras", "fused"):
        backup = tmp_path / engine
        with pytest.raises(RuntimeError):
            train(engine, callbacks.BackupAndRestore(backup, save_freq=frequency), BreakOff(), epochs=5)
        resumed[engine] = train(engine, callbacks.BackupAndRestore(backup, save_freq=frequency), epochs=5)
    assert resumed["fused"].epoch == resumed["keras"].epoch == list(range(resumed_at, 5))
    np.testing.assert_allclose(resumed["fused"].history["loss"], resumed["keras"].history["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: callbacks.EarlyStopping(monitor="val_loss", patience=0, restore_best_weights=True, min_delta=0.3),
        lambda: callbacks.LearningRateScheduler(lambda epoch, rate: rate / (epoch + 1)),
        lambda: callbacks.ReduceLROnPlateau(monitor="loss", patience=0, min_delta=10.0),
        lambda: callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ],
)
def test_what_changes_the_training_changes_it_alike(make: Callable[[], Any]) -> None:
    by_keras, fused = (train(engine, make(), epochs=4) for engine in ("keras", "fused"))
    assert by_keras.history.keys() == fused.history.keys()
    assert len(by_keras.history["loss"]) == len(fused.history["loss"])
    for name, values in by_keras.history.items():
        np.testing.assert_allclose(values, fused.history[name], rtol=2e-5, err_msg=name)


def test_the_csv_log_holds_the_same_rows(tmp_path: Path) -> None:
    rows = {}
    for engine in ("keras", "fused"):
        train(engine, callbacks.CSVLogger(tmp_path / f"{engine}.csv"))
        with (tmp_path / f"{engine}.csv").open() as file:
            rows[engine] = list(csv.DictReader(file))
    assert [row.keys() for row in rows["keras"]] == [row.keys() for row in rows["fused"]]
    for one, other in zip(rows["keras"], rows["fused"], strict=True):
        assert {name: float(value) for name, value in one.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=2e-5
        )


@pytest.mark.parametrize("frequency", ["epoch", 3])
def test_keras_own_tensorboard_writes_the_same_tags_at_the_same_steps(frequency: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="keras.callbacks.TensorBoard writes with TensorFlow on every backend")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found: dict[str, Any] = {}
    for engine in ("keras", "fused"):
        train(engine, callbacks.TensorBoard(tmp_path / engine, update_freq=frequency))
        for part in ("train", "validation"):
            reader = events.EventAccumulator(str(tmp_path / engine / part)).Reload()
            found[f"{engine} {part}"] = {
                tag: [event.step for event in reader.Tensors(tag)] for tag in reader.Tags()["tensors"]
            }
    assert found["fused train"] == found["keras train"]
    assert found["fused validation"] == found["keras validation"]
    # The expected values, so that two empty folders would not pass.
    assert found["fused train"]["epoch_loss"] == ([0, 1, 2] if frequency == "epoch" else [2])
    assert found["fused train"].get("batch_loss") == (None if frequency == "epoch" else [3, 6, 9, 12, 15, 18, 21, 24])
    assert found["fused validation"]["evaluation_mae_vs_iterations"] == [8, 16, 24]


def test_a_loss_that_is_not_a_number_ends_the_training() -> None:
    broken = X.copy()
    broken[0] = np.nan
    set_seed(5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(TrainingError, match="the loss of epoch 1"):
        compile_and_fit(
            model, (broken, Y), loss="mse", epochs=9, callbacks=[callbacks.TerminateOnNaN()], engine="fused", verbose=0
        )
    assert len(model.history.history["loss"]) == 1


def test_the_progress_bar_counts_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    train("fused", verbose=1, epochs=1)
    printed = capsys.readouterr().out
    assert "8/8" in printed
    assert "val_mae" in printed


def test_which_callbacks_look_at_batches(tmp_path: Path) -> None:
    by_step = callbacks.ModelCheckpoint(tmp_path / "a.keras", save_freq=6)
    other = callbacks.ModelCheckpoint(tmp_path / "b.keras", save_freq=4)
    assert watchers([callbacks.EarlyStopping(), callbacks.TerminateOnNaN(), callbacks.CSVLogger("x")], "train") == {}
    assert watchers([by_step], "train") == {"ModelCheckpoint": 6}
    assert steps_between_looks([by_step, other], "train") == 2
    assert steps_between_looks([by_step, other], "test") is None
    assert steps_between_looks([callbacks.LambdaCallback(on_train_batch_end=print)], "train") == 1
    assert steps_between_looks([callbacks.LambdaCallback(on_epoch_end=print)], "train") is None
    assert steps_between_looks([EveryBatch()], "test") == 1

    by_epoch = callbacks.TensorBoard(tmp_path)
    assert (watchers([by_epoch], "train"), watchers([by_epoch], "test")) == ({}, {})
    by_batch = callbacks.TensorBoard(tmp_path, update_freq="batch")
    assert watchers([by_batch], "train") == watchers([by_batch], "test") == {"TensorBoard": 1}
    by_epoch._should_trace = True  # As profile_batch leaves it, which starts the profiler at once.
    assert (watchers([by_epoch], "train"), watchers([by_epoch], "test")) == ({"TensorBoard": 1}, {})

    class Derived(callbacks.TerminateOnNaN):  # type: ignore[misc, name-defined]  # As above.
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            pass

    assert watchers([Derived()], "train") == {"Derived": 1}
