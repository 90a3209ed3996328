"""The lab, end to end: load, prepare, build, train, log, plot, draw, save.

Requirements:

* the code is the same on every backend, and uses nothing but Keras and dlf's own helpers;
* an incomplete run folder can be recognised, since ``run.json`` is written last; all files but TensorBoard's event
  files are written completely or not at all;
* Ctrl-C ends the run and saves the model and history so far.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from dlf.backend.keras_internals import tensorflow_hidden
from dlf.backend.registry import current_backend
from dlf.backend.report import BackendDescription, describe_backend, version_line
from dlf.data.datasets import load_tfds_dataset
from dlf.data.prepare import prepare_for_training
from dlf.models.by_name import find_optimizer
from dlf.random.seed import set_seed
from dlf.training.callbacks import build_callbacks, make_run_folder
from dlf.training.fit import TrainingInterrupted, compile_and_fit
from dlf.utils.errors import InvalidArgumentError, TrainingError, check_positive
from dlf.utils.files import as_json, whole_file, write_json
from dlf.utils.interrupts import deferred_interrupt
from dlf.visualization.plots import plot_history, visualize_model

__all__ = ["LabOptions", "LabResult", "build_model", "run_lab"]

_SUMMARY = "run.json"


@dataclass(frozen=True)
class LabOptions:
    """The options of one run of the lab."""

    dataset: str = "digits"
    data_dir: str | None = None
    epochs: int = 20
    hidden: int = 128
    optimizer: str = "adam"
    batch_size: int = 32
    seed: int = 2025
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "hidden", "batch_size"):
            check_positive(name, getattr(self, name))
        if self.out is not None and (Path(self.out).is_file() or any(Path(self.out).glob("*"))):
            raise InvalidArgumentError(
                "out", expected="a folder that is new or empty", received=self.out, advice="Name another one."
            )


@dataclass(frozen=True)
class LabResult:
    """The result of one run of the lab, and the files that it wrote."""

    status: str
    """``"completed"``, ``"stopped early"`` or ``"interrupted"``."""
    backend: BackendDescription
    options: dict[str, Any]
    epochs: int
    best_epoch: int
    val_accuracy: float
    val_loss: float
    seconds: float
    parameters: int
    folder: str
    files: list[str]


def build_model(image_shape: Sequence[int], num_classes: int, hidden: int = 128) -> keras.Model:
    """Builds the lab's model: one hidden layer between the pixels and a logit for each class.

    With `x` flattened to ``(batch, pixels)``: ``logits = dropout(relu(x W₁ + b₁)) W₂ + b₂``, where `W₁` is
    ``(pixels, hidden)`` and `W₂` is ``(hidden, num_classes)``.

    The pixels are bytes and are scaled to the interval from 0 to 1 inside the model, so that the saved model takes
    unscaled images.

    Args:
        image_shape: ``(height, width, channels)``.
        num_classes: The number of logits.
        hidden: Units of the hidden layer.

    Returns:
        The built model.

    Example:
        >>> build_model((8, 8, 1), num_classes=10, hidden=32).count_params()
        2410
    """
    return keras.Sequential(
        [
            keras.Input(tuple(image_shape), name="image"),
            keras.layers.Rescaling(1 / 255, name="scale"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(hidden, activation="relu", name="hidden"),
            keras.layers.Dropout(0.2, name="dropout"),
            keras.layers.Dense(num_classes, name="logits"),
        ],
        name="lab",
    )


def run_lab(
    options: LabOptions,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
    log: Callable[[str], None] = print,
) -> LabResult:
    """Runs the lab on the backend of this process.

    Args:
        options: The options of the run.
        callbacks: Further callbacks for the training, such as a progress display.
        verbose: As in Keras's `fit`.
        log: Called with the line of versions and devices before training starts.

    Returns:
        The result. The run folder holds the history (``history.json``, ``history.csv``), the plots (``history.svg``,
        ``history.png``), the drawing of the model (``model.svg``), the model (``model.keras``), the event files for
        TensorBoard (``train/``, ``validation/``) and this result (``run.json``).

    Raises:
        DlfError: Something is wrong with the options, the data, the training or the folder.
    """
    set_seed(options.seed)
    train, info = load_tfds_dataset(options.dataset, "train", with_info=True, data_dir=options.data_dir)
    test = load_tfds_dataset(options.dataset, "test", data_dir=options.data_dir)
    train_ds = prepare_for_training(train, options.batch_size)
    test_ds = prepare_for_training(test, options.batch_size, shuffle_buffer=None)
    model = build_model(info.features["image"].shape, info.features["label"].num_classes, options.hidden)
    fitted = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "optimizer": find_optimizer(options.optimizer),
        "metrics": ["accuracy"],
        "epochs": options.epochs,
        "validation_ds": test_ds,
        "verbose": verbose,
    }
    log(version_line(current_backend()))
    # Nothing is written to the disk before this line: by now errors in the options have been raised.
    folder = make_run_folder(options.out)
    own_callbacks, _ = build_callbacks(patience=3, logdir=folder)
    start = time.perf_counter()
    with deferred_interrupt("Saving what was learnt") as interrupt:
        try:
            compile_and_fit(model, train_ds, callbacks=[*own_callbacks, *callbacks], **fitted)
        except TrainingInterrupted:
            interrupt.pressed = True
        except TrainingError as error:
            write_json(model.history.history, folder / "history.json")
            raise TrainingError(f"{error} The history so far is in {folder}.") from error
        seconds = time.perf_counter() - start
        return _save(folder, model, _result(options, model, folder, seconds, interrupted=interrupt.pressed))


def _result(options: LabOptions, model: keras.Model, folder: Path, seconds: float, *, interrupted: bool) -> LabResult:
    history = model.history.history
    # The epoch whose weights early stopping restored.
    best = min(range(len(history["val_loss"])), key=history["val_loss"].__getitem__)
    finished = "completed" if len(history["loss"]) == options.epochs else "stopped early"
    return LabResult(
        status="interrupted" if interrupted else finished,
        backend=describe_backend(current_backend()),
        options=asdict(options),
        epochs=len(history["loss"]),
        best_epoch=best + 1,
        val_accuracy=history["val_accuracy"][best],
        val_loss=history["val_loss"][best],
        seconds=seconds,
        parameters=model.count_params(),
        folder=str(folder),
        files=[],
    )


def _save(folder: Path, model: keras.Model, result: LabResult) -> LabResult:
    """Writes the run's files: first the model, which only another training could replace, and the summary last."""
    history = model.history.history
    figure = plot_history(history, title=f"{result.options['dataset']} on {result.backend['name']}")
    writers: dict[str, Callable[[Path], Any]] = {
        "model.keras": lambda path: _save_model(model, path),
        "history.json": lambda path: path.write_text(as_json(history)),
        "history.csv": lambda path: _write_csv(path, history),
        "history.svg": figure.savefig,
        "history.png": lambda path: figure.savefig(path, dpi=160),
        "model.svg": visualize_model(model).save,
    }
    for name, write in writers.items():
        with whole_file(folder / name) as place:
            write(place)
    events = sorted(str(path.relative_to(folder)) for path in folder.glob("*/events.out.tfevents.*"))
    result = LabResult(**{**asdict(result), "files": [*writers, *events, _SUMMARY]})
    write_json(asdict(result), folder / _SUMMARY)
    return result


def _save_model(model: keras.Model, path: Path) -> None:
    with tensorflow_hidden():
        model.save(path)


def _write_csv(path: Path, history: dict[str, list[float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True), start=1))
