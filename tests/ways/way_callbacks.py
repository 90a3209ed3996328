"""Callbacks that record what they see, and some that change or stop a training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types.
    """Records each call of a hook, except batch hooks, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append(("train begin", {**self.params, "verbose": 0}, logs))

    def on_train_end(self, logs: Any = None) -> None:
        self.seen.append(("train end", logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch begin", epoch, logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch end", epoch, dict(logs), _updates(self.model)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.seen.append(("test begin", logs))

    def on_test_end(self, logs: Any = None) -> None:
        self.seen.append(("test end", dict(logs)))


class Batches(Epochs):
    """Records each call of a hook, including batch hooks."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("batch begin", batch, logs))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("batch end", batch, dict(logs)))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("test batch begin", batch, logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("test batch end", batch, dict(logs)))


def _updates(model: keras.Model) -> int:
    return int(np.asarray(keras.ops.convert_to_numpy(model.optimizer.iterations)))


class StopAt(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
    """Stops the training within an epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1 and _updates(self.model) != 2:
            self.model.stop_training = True


class StopTesting(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_evaluating = True


class Raise(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
    """Raises an error at the end of an epoch, or, in a subclass, within one."""

    def __init__(self, error: type[BaseException] = RuntimeError, *, within: bool = False) -> None:
        super().__init__()
        self.error, self.within = error, within

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and not self.within:
            raise self.error("broken off")

    def _at_batch(self, batch: int, logs: Any = None) -> None:
        if _updates(self.model) > 5:
            raise self.error("broken off")


class RaiseWithin(Raise):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at_batch(batch)


class NewRate(keras.callbacks.Callback):  # type: ignore[misc]  # As above.
    """Sets the learning rate at each epoch, and adds it to the logs."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.1 / (epoch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
