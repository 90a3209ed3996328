"""Which callbacks look at batches, and how often.

What is asked of it:

* a callback whose hooks at a batch are Keras's empty ones costs nothing;
* those of Keras's own callbacks that look at batches only where asked are known;
* any other that has such a hook is called at every batch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

import keras

from dlf.backend.keras_internals import profiles_batches

__all__ = ["steps_between_looks", "watchers"]


def watchers(callbacks: Iterable[keras.callbacks.Callback], phase: str) -> dict[str, int]:
    """Returns the callbacks that look at batches, by the names of their classes, and after how many steps each looks.

    Args:
        callbacks: The callbacks.
        phase: ``"train"`` or ``"test"``.
    """
    found = {type(each).__name__: _steps(each, phase) for each in callbacks}
    return {name: steps for name, steps in found.items() if steps}


def steps_between_looks(callbacks: Iterable[keras.callbacks.Callback], phase: str) -> int | None:
    """Returns after how many steps some callback looks, or None where none does.

    Args:
        callbacks: The callbacks.
        phase: ``"train"`` or ``"test"``.
    """
    steps = [each for each in (_steps(callback, phase) for callback in callbacks) if each]
    return math.gcd(*steps) if steps else None


def _steps(callback: keras.callbacks.Callback, phase: str) -> int:
    """After how many steps the callback looks; 0 where it does not."""
    if not type(callback).__module__.startswith("keras."):
        return _own_hooks(callback, phase)  # A class that somebody derived may do more than the one it comes from.
    if isinstance(callback, keras.callbacks.ProgbarLogger | keras.callbacks.TerminateOnNaN):
        return 0  # They take what they are shown: a loss that is not a number stays so.
    if isinstance(callback, keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore):
        if phase == "test" or callback.save_freq == "epoch":
            return 0
        # A checkpoint counts the batches that it was not shown; a backup miscounts those of its first epoch.
        return int(callback.save_freq) if isinstance(callback, keras.callbacks.ModelCheckpoint) else 1
    if isinstance(callback, keras.callbacks.TensorBoard):
        # While it writes by epochs it counts the batches of an evaluation, and does nothing with their number.
        asked = phase == "train" and (callback.write_steps_per_second or profiles_batches(callback))
        return int(asked or callback.update_freq != "epoch")
    return _own_hooks(callback, phase)


def _own_hooks(callback: keras.callbacks.Callback, phase: str) -> int:
    """1 where a hook at a batch is not Keras's empty one, else 0."""
    hooks = [f"on_{phase}_batch_begin", f"on_{phase}_batch_end"]
    if phase == "train":
        hooks += ["on_batch_begin", "on_batch_end"]
    empty = keras.callbacks.Callback
    # A LambdaCallback puts its functions on the instance.
    return int(any(_function(getattr(callback, hook)) is not getattr(empty, hook) for hook in hooks))


def _function(method: object) -> object:
    return method.__func__ if inspect.ismethod(method) else method
