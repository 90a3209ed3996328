"""The callbacks that most trainings want, and the folder for a run's files."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import keras

from dlf.training.tensorboard import TensorBoard
from dlf.utils.errors import OutputError, check_positive

__all__ = ["build_callbacks", "make_run_folder"]


def build_callbacks(
    patience: int = 3,
    *,
    monitor: str = "val_loss",
    logdir: str | os.PathLike[str] | None = None,
) -> tuple[list[keras.callbacks.Callback], str]:
    """Returns early stopping that restores the best weights, and a writer of event files for TensorBoard.

    Args:
        patience: Epochs without improvement after which training stops.
        monitor: The metric whose improvement counts.
        logdir: The folder for the event files; by default a new one, ``runs/<time>``.

    Returns:
        The callbacks, and the folder that ``tensorboard --logdir`` takes.

    Raises:
        InvalidArgumentError: The patience is not a positive integer.
        OutputError: The folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> callbacks, logdir = build_callbacks(patience=3, logdir=tempfile.mkdtemp())
        >>> [type(callback).__name__ for callback in callbacks]
        ['EarlyStopping', 'TensorBoard']
    """
    check_positive("patience", patience)
    folder = make_run_folder(logdir)
    stopping = keras.callbacks.EarlyStopping(monitor=monitor, patience=patience, restore_best_weights=True)
    return [stopping, TensorBoard(folder)], str(folder)


def make_run_folder(path: str | os.PathLike[str] | None = None) -> Path:
    """Makes a folder for a run's files, and makes sure that it can be written to.

    Args:
        path: The folder; by default a new one, ``runs/<time>``.

    Returns:
        The folder.

    Raises:
        OutputError: It cannot be made or written to.
    """
    try:
        folder = _new_folder() if path is None else Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # Under a unique name: another run may be testing the same folder at this moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"the run folder: expected a folder that can be written to, received {str(path or 'runs')!r} "
            f"({error.strerror}). Name another one."
        ) from error
    return folder


def _new_folder() -> Path:
    """Makes ``runs/<time>``, with a number added to the name if another run began within the same second."""
    folder = Path("runs") / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder.parent.mkdir(exist_ok=True)
    for name in itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2))):
        with suppress(FileExistsError):
            folder.with_name(name).mkdir()
            return folder.with_name(name)
    raise AssertionError  # Never reached: the numbers do not end.
