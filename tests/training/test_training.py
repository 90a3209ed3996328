from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.data.array_dataset import ArrayDataset
from dlf.data.prepare import prepare_for_training
from dlf.random.seed import set_seed
from dlf.training.callbacks import build_callbacks, make_run_folder
from dlf.training.fit import TrainingInterrupted, compile_and_fit
from dlf.utils.errors import InvalidArgumentError, OutputError, TrainingError
from dlf.utils.interrupts import deferred_interrupt

_RANDOM = np.random.default_rng(2025)
X = _RANDOM.normal(size=(240, 4)).astype(np.float32)
Y = (X @ _RANDOM.normal(size=(4, 3))).argmax(axis=1)


def classifier(classes: int = 3) -> keras.Model:
    set_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(classes)])


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """The same examples as arrays, from the pipeline without TensorFlow, and from `tf.data`."""
    if kind == "arrays":
        return (X[:200], Y[:200]), (X[200:], Y[200:]), {"batch_size": 20}
    train: Any = ArrayDataset(X[:200], Y[:200])
    validation: Any = ArrayDataset(X[200:], Y[200:])
    if kind == "tf.data":
        make = pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices
        train, validation = make((X[:200], Y[:200])), make((X[200:], Y[200:]))
    return prepare_for_training(train, 20), prepare_for_training(validation, 20, shuffle_buffer=None), {}


@pytest.mark.parametrize("kind", ["arrays", "pipeline", "tf.data"])
def test_it_learns_from_every_kind_of_data(kind: str, tmp_path: Path) -> None:
    train, validation, options = data(kind)
    callbacks, _ = build_callbacks(patience=3, logdir=tmp_path)
    history = compile_and_fit(
        classifier(),
        train,
        optimizer=keras.optimizers.Adam(0.01),
        loss=LOSS,
        metrics=["accuracy"],
        epochs=15,
        validation_ds=validation,
        callbacks=callbacks,
        verbose=0,
        **options,
    )
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["val_accuracy"][-1] > 0.85


def test_early_stopping_restores_the_best_weights(tmp_path: Path) -> None:
    callbacks, _ = build_callbacks(patience=2, logdir=tmp_path)
    model = classifier()
    # Random labels: the validation loss soon rises.
    noise = _RANDOM.integers(0, 3, len(X))
    history = compile_and_fit(
        model,
        (X[:200], noise[:200]),
        optimizer=keras.optimizers.Adam(0.05),
        loss=LOSS,
        epochs=60,
        validation_ds=(X[200:], noise[200:]),
        callbacks=callbacks,
        verbose=0,
    )
    losses = history.history["val_loss"]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3
    assert model.evaluate(X[200:], noise[200:], verbose=0) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.slow
def test_what_fit_and_compile_know_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    history = compile_and_fit(
        classifier(),
        (X, Y),
        loss=LOSS,
        verbose=2,
        validation_split=0.25,
        jit_compile=False,
        class_weight={0: 1, 1: 2, 2: 3},
    )
    assert "val_loss" in history.history
    assert "loss:" in capsys.readouterr().out


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"batchsize: expected an argument of .* Did you mean 'batch_size'\?"
    ):
        compile_and_fit(classifier(), (X, Y), loss=LOSS, batchsize=3)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"optimizer: .*one of .*adam.* received 'adamm'.*mean 'adam'"
    ) as caught:
        compile_and_fit(classifier(), (X, Y), loss=LOSS, optimizer="adamm")
    assert "lossscaleoptimizer" not in str(caught.value)


@pytest.mark.parametrize("name", ["adam", "SGD", "lion"])
def test_every_optimizer_can_be_named(name: str) -> None:
    compile_and_fit(classifier(), (X, Y), loss=LOSS, optimizer=name, verbose=0)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_are_a_positive_integer(epochs: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="epochs: expected a positive integer, received"):
        compile_and_fit(classifier(), (X, Y), loss=LOSS, epochs=epochs)


@pytest.mark.parametrize("kind", ["arrays", "pipeline", "tf.data"])
def test_labels_that_the_output_does_not_fit_are_refused(kind: str) -> None:
    train, validation, options = data(kind)
    with pytest.raises(InvalidArgumentError, match=r"train.*: expected labels from 0 to .* outputs, received 2"):
        compile_and_fit(classifier(2), train, loss=LOSS, validation_ds=validation, **options)
    with pytest.raises(InvalidArgumentError, match="validation_ds: expected labels from 0 to 2"):
        compile_and_fit(classifier(), (X, Y), loss="sparse_categorical_crossentropy", validation_ds=(X, Y + 1))


def test_class_numbers_are_no_one_hot_labels() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"labels of the shape 3 .* take the loss 'sparse_categorical_crossentropy'"
    ):
        compile_and_fit(classifier(), (X, Y), loss="categorical_crossentropy")


def test_negative_labels_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="labels from 0 to 2, for the model's 3 outputs, received -1"):
        compile_and_fit(classifier(), (X, Y - 1), loss=LOSS)


@pytest.mark.parametrize("built", [True, False])
def test_arrays_of_different_lengths_are_refused(built: bool) -> None:
    model = classifier() if built else keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(InvalidArgumentError, match=r"as many labels as inputs, received \(240, 239\)"):
        compile_and_fit(model, (X, Y[:-1]), loss="mse")


def test_a_model_that_fit_builds_is_looked_at_before_the_first_batch() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(
        InvalidArgumentError, match=r"expected labels from 0 to 1, for the model's 2 outputs, received 2"
    ):
        compile_and_fit(model, (X, Y), loss=LOSS, verbose=0)


def test_labels_that_would_be_spread_over_the_output_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected labels of the shape 3 for each example.*received '1'"):
        compile_and_fit(classifier(), (X, Y.astype("float32")[:, np.newaxis]), loss="mse")
    compile_and_fit(classifier(1), (X, Y.astype("float32")), loss="mse", verbose=0)


def test_labels_between_classes_are_refused() -> None:
    for wrong in (Y + 0.5, np.full(len(Y), np.nan)):
        with pytest.raises(InvalidArgumentError, match="train: expected labels that are whole numbers"):
            compile_and_fit(classifier(), (X, wrong), loss=LOSS)


def test_a_wrong_label_in_the_last_batch_is_found() -> None:
    late = Y.copy()
    late[-1] = 3
    with pytest.raises(InvalidArgumentError, match="labels from 0 to 2"):
        compile_and_fit(classifier(), prepare_for_training((X, late), 10, shuffle_buffer=None), loss=LOSS)


def test_several_outputs_pass() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(1)(inputs), keras.layers.Dense(3)(inputs)])
    targets = [Y.astype("float32"), np.eye(3)[Y]]
    history = compile_and_fit(model, (X, targets), loss=["mse", "mse"], verbose=0)
    assert np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": [X, Y]}, r"train: expected batches, \(x, y\)"),
        ({"train": X}, r"train: expected batches, \(x, y\)"),
        ({"train": (X[:0], Y[:0])}, "train: expected at least one example"),
        ({"train": (X, Y), "validation_data": (X, Y)}, "Here it is called 'validation_ds'"),
        ({"train": (X, Y), "optimizer": 3}, "optimizer: expected an optimizer"),
    ],
)
def test_other_requests_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        compile_and_fit(classifier(), loss=LOSS, **arguments)


def test_single_examples_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="Call prepare_for_training on it first"):
        compile_and_fit(classifier(), ArrayDataset(X, Y), loss=LOSS)


def test_a_nan_loss_is_an_error_that_keeps_the_history() -> None:
    model = classifier()
    with pytest.raises(TrainingError, match="the loss of epoch 1: expected a number, received NaN or infinity"):
        compile_and_fit(model, (X, X[:, :3] * np.nan), loss="mse", epochs=5, verbose=0)
    assert len(model.history.history["loss"]) == 1


class PressCtrlC(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
    def __init__(self, batch: int, times: int = 1) -> None:
        super().__init__()
        self.batch, self.times, self.seen = batch, times, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen >= self.batch and self.times:
            self.times -= 1
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


def test_ctrl_c_finishes_the_batch_and_keeps_what_was_learnt() -> None:
    model, press = classifier(), PressCtrlC(batch=15)
    before = signal.getsignal(signal.SIGINT)
    start = model.evaluate(X, Y, verbose=0) if model.compiled else None
    with pytest.raises(TrainingInterrupted):
        compile_and_fit(model, (X, Y), loss=LOSS, epochs=50, batch_size=24, callbacks=[press], verbose=0)
    assert start is None
    assert press.seen == 15
    assert len(model.history.history["loss"]) == 2
    assert signal.getsignal(signal.SIGINT) is before
    # The model's state is complete: it can be evaluated and trained further.
    after = model.evaluate(X, Y, verbose=0)
    assert after < model.history.history["loss"][0]
    model.fit(X, Y, verbose=0)


def test_ctrl_c_while_fit_starts_up_is_not_forgotten() -> None:
    class Slow(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
        reads = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            Slow.reads += 1
            if Slow.reads == 3:  # Before that, dlf has read one batch for the labels and one for the shape.
                signal.raise_signal(signal.SIGINT)
            return X[:8], Y[:8].astype(np.int32)  # JAX 0.12 warns of 64 bits in a user's own stream.

    class Look(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
        batches = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            Look.batches += 1

    data = Slow()
    Slow.reads = 0
    with pytest.raises(TrainingInterrupted):
        compile_and_fit(keras.Sequential([keras.layers.Dense(3)]), data, loss=LOSS, epochs=9, callbacks=[Look()])
    assert Look.batches <= 2


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        compile_and_fit(classifier(), (X, Y), loss=LOSS, epochs=50, callbacks=[PressCtrlC(3), PressCtrlC(3)], verbose=0)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_default_run_folder_is_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [Path(build_callbacks()[1]) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.parent == Path("runs") and folder.is_dir() for folder in folders)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for bad in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(OutputError, match="expected a folder that can be written to"):
            make_run_folder(bad)


@pytest.mark.parametrize("patience", [0, -3, "3"])
def test_patience_is_a_positive_integer(patience: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="patience: expected a positive integer"):
        build_callbacks(patience=patience)


def train(model: keras.Model, data: Any, loss: Any, **options: Any) -> keras.callbacks.History:
    return compile_and_fit(model, data, loss=loss, verbose=0, **options)


IMAGES = np.zeros((8, 6, 6, 1), np.float32)
SEQUENCES = np.zeros((8, 5, 4), np.float32)
DENSE_SOFTMAX = keras.layers.Dense(3, activation="softmax")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "x", "y", "loss"),
    [
        ([keras.layers.Conv2D(3, 1)], IMAGES, np.full((8, 6, 6), 255), "ignoring"),
        ([keras.layers.Flatten(), DENSE_SOFTMAX], IMAGES, np.arange(8) % 3, "SparseCategoricalCrossentropy"),
        ([keras.layers.Flatten(), keras.layers.Dense(3)], IMAGES, np.arange(8) % 3, "renamed"),
        ([keras.layers.LSTM(2, return_sequences=True)], SEQUENCES, np.zeros((8, 5, 2)), "mse"),
        ([keras.layers.LSTM(1, return_sequences=True)], SEQUENCES, np.zeros((8, 5)), "mse"),
        ([keras.layers.Flatten(), keras.layers.Dense(1)], IMAGES, np.zeros(8), "binary_crossentropy"),
        ([keras.layers.Flatten(), keras.layers.Dense(3)], IMAGES, np.zeros((8, 1)), lambda y, p: (p - y) ** 2),
    ],
)
def test_what_keras_trains_as_it_was_meant_trains(layers: list[Any], x: np.ndarray, y: np.ndarray, loss: Any) -> None:
    known = {
        "ignoring": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
        "renamed": keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="mine"),
    }
    shape = (None, *x.shape[2:]) if x.ndim == 3 else x.shape[1:]
    model = keras.Sequential([keras.Input(shape), *map(keras.layers.deserialize, map(keras.layers.serialize, layers))])
    assert len(train(model, (x, y), known.get(loss, loss) if isinstance(loss, str) else loss).history["loss"]) == 1


def test_one_loss_may_come_in_a_list() -> None:
    train(classifier(1), (X, Y.astype("float32")), ["mse"])


def test_a_loss_of_its_own_may_take_any_labels() -> None:
    class Own(keras.Model):  # type: ignore[misc]  # Keras has no types.
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
            return keras.ops.mean(y_pred)

    train(Own(), (X, Y + 100), "sparse_categorical_crossentropy")


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # That is how this epoch ends.
def test_a_generator_loses_no_batch() -> None:
    seen = []

    def batches() -> Any:
        for start in range(0, 240, 60):
            seen.append(start)
            yield X[start : start + 60], Y[start : start + 60].astype(np.int32)

    train(classifier(), batches(), LOSS)
    assert seen == [0, 60, 120, 180]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": ([], "runs/1")}, r"callbacks: .* callbacks, logdir = build_callbacks\(\)"),
        ({"optimizer": keras.optimizers.Adam}, "optimizer: expected an optimizer, or one of"),
        ({"batch_size": -1}, "batch_size: expected a positive integer"),
    ],
)
def test_slips_of_a_newcomer(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        train(classifier(), (X, Y), LOSS, **options)


def test_more_slips_of_a_newcomer() -> None:
    with pytest.raises(InvalidArgumentError, match=r"loss: .* received 'mes'"):
        train(classifier(), (X, Y), "mes")
    with pytest.raises(InvalidArgumentError, match=r"(?s)train: expected arrays.*numpy.asarray\(y\)"):
        train(classifier(), (X, Y.tolist()), LOSS)
    with pytest.raises(InvalidArgumentError, match="train: expected batches"):
        train(classifier(), None, LOSS)
    train(classifier(), (X, Y), LOSS, callbacks=keras.callbacks.TerminateOnNaN(), metrics="accuracy")


def test_the_second_ctrl_c_counts_through_two_deferrals() -> None:
    with deferred_interrupt("outer"), deferred_interrupt("inner") as inner:
        signal.raise_signal(signal.SIGINT)
        assert inner.pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_ctrl_c_is_remembered_by_the_second_deferral() -> None:
    with deferred_interrupt("outer"):
        with deferred_interrupt("inner"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
