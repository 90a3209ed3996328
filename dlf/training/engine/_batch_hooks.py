"""Which callbacks look at batches, and how often.

Requirements:

* a callback that does not override Keras's empty batch hooks costs nothing;
* for Keras's own callbacks, it is known when they look at batches;
* any other callback that overrides a batch hook is called at every batch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

import keras

from dlf.backend.keras_internals import profiles_batches

__all__ = ["steps_between_looks", "watchers"]


def watchers(callbacks: Iterable[keras.callbacks.Callback], phase: str) -> dict[str, int]:
    """Returns, for each callback that looks at batches, its class name and the number of steps between two looks.

    Args:
        callbacks: The callbacks.
        phase: ``"train"`` or ``"test"``.
    """
    found = {type(each).__name__: _steps(each, phase) for each in callbacks}
    return {name: steps for name, steps in found.items() if steps}


def steps_between_looks(callbacks: Iterable[keras.callbacks.Callback], phase: str) -> int | None:
    """Returns the greatest number of steps per call with which no callback misses a look, or None if none looks.

    Args:
        callbacks: The callbacks.
        phase: ``"train"`` or ``"test"``.
    """
    steps = [each for each in (_steps(callback, phase) for callback in callbacks) if each]
    return math.gcd(*steps) if steps else None


def _steps(callback: keras.callbacks.Callback, phase: str) -> int:
    """Returns the number of steps between two looks of the callback, or 0 if it does not look at batches."""
    if not type(callback).__module__.startswith("keras."):
        return _own_hooks(callback, phase)  # A user's subclass may do more than its base class.
    if isinstance(callback, keras.callbacks.ProgbarLogger | keras.callbacks.TerminateOnNaN):
        return 0  # They need not see every batch: once a loss is NaN, it stays NaN.
    if isinstance(callback, keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore):
        if phase == "test" or callback.save_freq == "epoch":
            return 0
        # ModelCheckpoint also counts batches that it was not shown; BackupAndRestore miscounts in its first epoch.
        return int(callback.save_freq) if isinstance(callback, keras.callbacks.ModelCheckpoint) else 1
    if isinstance(callback, keras.callbacks.TensorBoard):
        # With update_freq="epoch" it counts the batches of an evaluation, but never uses the count.
        asked = phase == "train" and (callback.write_steps_per_second or profiles_batches(callback))
        return int(asked or callback.update_freq != "epoch")
    return _own_hooks(callback, phase)


def _own_hooks(callback: keras.callbacks.Callback, phase: str) -> int:
    """Returns 1 if the callback overrides one of Keras's empty batch hooks, else 0."""
    hooks = [f"on_{phase}_batch_begin", f"on_{phase}_batch_end"]
    if phase == "train":
        hooks += ["on_batch_begin", "on_batch_end"]
    empty = keras.callbacks.Callback
    # Looked up on the instance, where a LambdaCallback puts its functions.
    return int(any(_function(getattr(callback, hook)) is not getattr(empty, hook) for hook in hooks))


def _function(method: object) -> object:
    return method.__func__ if inspect.ismethod(method) else method
