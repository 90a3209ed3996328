"""A course notebook that uses dlf's helpers, run in a kernel of its own: the text and the pictures that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idx_files import write_idx

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

IMPORT = """
import keras
import matplotlib.pyplot as plt
from dlf import (build_callbacks, compile_and_fit, load_tfds_dataset, plot_history, prepare_for_training, set_seed,
                 visualize_model)
set_seed(2025)
"""
LOAD = """
(train_raw, info) = load_tfds_dataset("fashion_mnist", split="train", with_info=True)
test_raw = load_tfds_dataset("fashion_mnist", split="test")
num_classes = info.features["label"].num_classes
for image, label in train_raw.take(2):
    plt.figure()
    plt.imshow(image.numpy().squeeze(), cmap="gray")
    plt.title(info.features["label"].int2str(label.numpy()))
    plt.close()
print(num_classes, info.splits["train"].num_examples, info.features["image"].shape)
"""
PREPARE = """
def fn(image, label):
    return keras.ops.cast(image, "float32") / 255.0, label

train_ds = prepare_for_training(train_raw.map(fn), batch_size=64)
test_ds = prepare_for_training(test_raw.map(fn), batch_size=64, shuffle_buffer=None)
for images, labels in train_ds.take(1):
    print(images.shape, labels.shape)
"""
MODEL = """
model = keras.Sequential([
    keras.Input(info.features["image"].shape),
    keras.layers.Flatten(),
    keras.layers.Dense(64, activation="relu"),
    keras.layers.Dense(num_classes, activation="softmax"),
])
visualize_model(model)
"""
TRAIN = """
callbacks, logdir = build_callbacks(patience=3)
history = compile_and_fit(model, train_ds, optimizer=keras.optimizers.Adam(1e-3),
                          loss="sparse_categorical_crossentropy", metrics=["accuracy"], epochs=5,
                          validation_ds=test_ds, callbacks=callbacks, verbose=0)
print(type(history).__name__, round(history.history["val_accuracy"][-1], 3))
"""
CELLS = [IMPORT, LOAD, PREPARE, MODEL, TRAIN, "plot_history(history)"]


def run(folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs the notebook and returns its cells."""
    monkeypatch.setenv("DLF_DATA_DIR", str(data))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(folder))
    return list(notebook.cells)


def text(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def shown(cell: Any) -> list[str]:
    return [kind for output in cell.outputs for kind in output.get("data", {}) if kind.startswith("image/")]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_each_picture_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    for prefix, size in (("train", 200), ("t10k", 70)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (size, 28, 28), np.uint8))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", random.integers(0, 10, size, np.uint8))
    cells = run(tmp_path, tmp_path, monkeypatch)
    assert text(cells[1]) == "10 200 (28, 28, 1)\n"
    assert text(cells[2]) == "(64, 28, 28, 1) (64,)\n"
    assert shown(cells[3]) == ["image/svg+xml"]
    assert text(cells[4]).startswith("History ")
    assert shown(cells[5]) == ["image/png"]
    assert list((tmp_path / "runs").glob("*/validation/events.out.tfevents.*"))


@pytest.mark.slow
def test_it_learns_real_images(fashion_mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run(tmp_path, fashion_mnist_folder, monkeypatch)
    assert float(text(cells[4]).split()[-1]) >= 0.75
