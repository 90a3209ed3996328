from __future__ import annotations

import csv
import errno
import json
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf import lab
from dlf.data.datasets import load_tfds_dataset
from dlf.lab import LabOptions, run_lab
from dlf.utils.errors import InvalidArgumentError, OutputError, TrainingError


def run(tmp_path: Path, **options: Any) -> lab.LabResult:
    return run_lab(LabOptions(out=str(tmp_path / "run"), **options), log=lambda _: None)


def test_the_digits_are_learnt_and_the_run_folder_is_whole(tmp_path: Path) -> None:
    result = run(tmp_path)
    folder = tmp_path / "run"
    assert result.val_accuracy >= 0.9
    assert result.status in {"completed", "stopped early"}
    assert result.backend["name"] == keras.config.backend()
    assert json.loads((folder / "run.json").read_text()) == {**vars(result)}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(result.files)
    assert {Path(name).parent.name for name in found} == {"", "train", "validation"}
    history = json.loads((folder / "history.json").read_text())
    assert len(history["loss"]) == result.epochs
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert [float(row["val_accuracy"]) for row in rows] == history["val_accuracy"]
    assert [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(result.epochs)]
    assert (folder / "model.svg").read_text().startswith("<svg")


def test_the_saved_model_is_the_best_one_and_takes_images_as_they_are(tmp_path: Path) -> None:
    result = run(tmp_path, epochs=3)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    images, labels = zip(*load_tfds_dataset("digits", "test").as_numpy_iterator(), strict=True)
    logits = model.predict(np.stack(images), verbose=0)
    assert np.mean(logits.argmax(axis=1) == np.array(labels)) == pytest.approx(result.val_accuracy)


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    losses = [run(tmp_path / str(place), epochs=2, seed=seed).val_loss for place, seed in enumerate((4, 4, 5))]
    assert losses[0] == losses[1] != losses[2]


def test_real_images_are_learnt(fashion_mnist_folder: Path, tmp_path: Path) -> None:
    result = run(tmp_path, dataset="fashion_mnist", data_dir=str(fashion_mnist_folder), epochs=5)
    assert result.val_accuracy >= 0.78


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(InvalidArgumentError, match="out: expected a folder that is new or empty"):
        run(tmp_path, epochs=1)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize("options", [{"optimizer": "adamm"}, {"dataset": "digits", "data_dir": "/nowhere"}])
def test_a_wrong_request_leaves_nothing_behind(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError):
        run(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["epochs", "hidden", "batch_size"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}: expected a positive integer, received 0"):
        LabOptions(**{name: 0})  # type: ignore[arg-type]  # One of several.


def test_a_full_disk_leaves_no_summary_and_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, history: dict[str, list[float]]) -> None:
        path.write_bytes(b"half a table")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lab, "_write_csv", fail)
    with pytest.raises(OutputError, match=r"history\.csv: cannot be written \(No space left on device\)"):
        run(tmp_path, epochs=1)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "history.json" in left
    assert not {"run.json", "history.csv"} & left
    assert not [name for name in left if name.startswith(".")]


def test_ctrl_c_while_the_files_are_saved_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(model: keras.Model, path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        save(model, path)

    save = lab._save_model
    monkeypatch.setattr(lab, "_save_model", interrupt)
    run(tmp_path, epochs=1)
    assert (tmp_path / "run" / "run.json").exists()
    keras.models.load_model(tmp_path / "run" / "model.keras")


def test_a_loss_that_is_not_a_number_leaves_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "find_optimizer", lambda _: keras.optimizers.SGD(1e38))
    with pytest.raises(TrainingError, match=r"expected a number, received NaN .* The history so far is in .*run"):
        run(tmp_path, epochs=3)
    assert "loss" in json.loads((tmp_path / "run" / "history.json").read_text())
    assert not (tmp_path / "run" / "run.json").exists()


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    class PressCtrlC(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            if epoch == 2:
                signal.raise_signal(signal.SIGINT)

    options = LabOptions(out=str(tmp_path / "run"), epochs=50)
    result = run_lab(options, callbacks=[PressCtrlC()], log=lambda _: None)
    assert result.status == "interrupted"
    assert result.epochs == 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    keras.models.load_model(tmp_path / "run" / "model.keras")
