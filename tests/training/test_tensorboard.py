from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from dlf.training.tensorboard import TensorBoard

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
X = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
Y = X.sum(axis=1, keepdims=True)


def model() -> keras.Model:
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    made.compile(optimizer=keras.optimizers.SGD(0.125), loss="mse", metrics=["mae"])
    return made


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns what TensorBoard's own reader finds: for each tag, the steps and values."""
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if tag in events.PluginTagToContent("scalars"):
            found[tag] = [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)]
    return found


def test_tensorboard_reads_what_fit_reported(tmp_path: Path) -> None:
    history = model().fit(
        X, Y, validation_data=(X, Y), epochs=3, batch_size=16, verbose=0, callbacks=[TensorBoard(tmp_path)]
    )
    train, validation = read(tmp_path / "train"), read(tmp_path / "validation")
    assert set(train) == {"epoch_loss", "epoch_mae", "epoch_learning_rate"}
    assert set(validation) == {
        "epoch_loss",
        "epoch_mae",
        "evaluation_loss_vs_iterations",
        "evaluation_mae_vs_iterations",
    }
    for tags, prefix in ((train, ""), (validation, "val_")):
        for name in ("loss", "mae"):
            expected = [(epoch, float(np.float32(value))) for epoch, value in enumerate(history.history[prefix + name])]
            assert tags[f"epoch_{name}"] == expected
    assert train["epoch_learning_rate"] == [(0, 0.125), (1, 0.125), (2, 0.125)]
    assert [step for step, _ in validation["evaluation_loss_vs_iterations"]] == [4, 8, 12]


def test_trainings_within_a_second_keep_their_events(tmp_path: Path) -> None:
    made = model()
    for epoch in range(3):
        made.fit(X, Y, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[TensorBoard(tmp_path)])
    assert [step for step, _ in read(tmp_path / "train")["epoch_loss"]] == [0, 1, 2]
    files = sorted((tmp_path / "train").iterdir())
    # TensorBoard reads the files of a folder in alphabetical order.
    assert [read(file)["epoch_loss"][0][0] for file in files] == [0, 1, 2]


def test_the_graph_is_written(tmp_path: Path) -> None:
    made = model()
    made.fit(X, Y, verbose=0, callbacks=[TensorBoard(tmp_path)])
    events = event_accumulator.EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert events.PluginTagToContent("graph_keras_model") == {"keras": b"1"}
    assert events.Tensors("keras")[0].tensor_proto.string_val[0].decode() == made.to_json()


def test_a_model_that_cannot_be_written_as_json_trains_all_the_same(tmp_path: Path) -> None:
    class Stubborn(keras.layers.Dense):  # type: ignore[misc]  # Keras has no types.
        def get_config(self) -> dict[str, object]:
            raise NotImplementedError("no config")

    made = keras.Sequential([keras.Input((4,)), Stubborn(1)])
    made.compile(loss="mse")
    with pytest.warns(UserWarning, match="will not show the model's graph: no config"):
        made.fit(X, Y, verbose=0, callbacks=[TensorBoard(tmp_path)])
    assert "epoch_loss" in read(tmp_path / "train")


def test_nan_is_written_as_nan(tmp_path: Path) -> None:
    model().fit(X * np.nan, Y, verbose=0, callbacks=[TensorBoard(tmp_path)])
    assert math.isnan(read(tmp_path / "train")["epoch_loss"][0][1])


def test_the_learning_rate_is_found_inside_a_loss_scaling_optimizer(tmp_path: Path) -> None:
    made = model()
    made.compile(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.25)), loss="mse")
    made.fit(X, Y, verbose=0, callbacks=[TensorBoard(tmp_path)])
    assert read(tmp_path / "train")["epoch_learning_rate"] == [(0, 0.25)]


def test_it_does_nothing_at_a_batch() -> None:
    """If a callback overrides one of these hooks, Keras's JAX trainer waits for the device at every step."""
    for hook in ("on_train_batch_end", "on_test_batch_end", "on_batch_end", "on_train_batch_begin"):
        assert getattr(TensorBoard, hook) is getattr(keras.callbacks.Callback, hook)


def test_each_epoch_is_on_the_disk_when_it_ends(tmp_path: Path) -> None:
    """A process that is killed leaves the epochs it finished."""

    class Look(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            assert len(read(tmp_path / "train")["epoch_loss"]) == epoch + 1

    model().fit(X, Y, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path), Look()])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # tensorboardX cannot close what it cannot flush.
def test_a_full_disk_does_not_cost_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboardX.event_file_writer import EventsWriter

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "flush", fail)
    with pytest.warns(UserWarning, match="no more event files are written .No space left on device") as caught:
        history = model().fit(X, Y, epochs=3, verbose=0, callbacks=[TensorBoard(tmp_path)])
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert len(history.history["loss"]) == 3


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="Keras's own callback needs TensorFlow")
def test_layout_and_tags_are_those_of_keras_own_callback(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder, callback in ((theirs, keras.callbacks.TensorBoard(theirs)), (ours, TensorBoard(ours))):
        model().fit(X, Y, validation_data=(X, Y), epochs=2, batch_size=16, verbose=0, callbacks=[callback])
        assert sorted(path.name for path in folder.iterdir()) == ["train", "validation"]
    for part in ("train", "validation"):
        expected = {
            tag: [s for s, _ in v] for tag, v in read_any(theirs / part).items() if not tag.startswith("batch_")
        }
        assert {tag: [s for s, _ in v] for tag, v in read_any(ours / part).items()} == expected


def read_any(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.tensor_proto.SerializeToString()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
