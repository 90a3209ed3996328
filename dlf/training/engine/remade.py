"""Notices when a callback has Keras make its step function again while a model is trained.

With `model.make_train_function(force=True)`, a user tells Keras's own loop to take account of a change, such as a layer
that was frozen.

Requirements:

* the new function is noticed, so that a traced step is traced again;
* a missing function, which Keras's own loop could not run, and a user's function, which only that loop could run, are
  refused.
"""

from __future__ import annotations

from typing import Any

import keras

from dlf.models.model_loss import has_own
from dlf.utils.errors import TrainingError

__all__ = ["StepFunction", "makes_its_own_functions"]

_KINDS = ("train", "test", "predict")


def makes_its_own_functions(model: keras.Model) -> bool:
    """Tells whether a model overrides `make_train_function` or its like, so that `train_step` alone defines no step."""
    names = [f"make_{kind}_function" for kind in _KINDS]
    return any(has_own(model, name) or name in vars(model) for name in names)


class StepFunction:
    """The function by which Keras's own loop would run steps, such as `model.train_function`.

    Args:
        model: A compiled model.
        kind: ``"train"``, ``"test"`` or ``"predict"``.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        self._model, self._kind = model, kind
        self._known: Any = None

    def begin(self) -> None:
        """Has Keras make the function if there is none, as `fit` and its like do when they begin."""
        self._make()
        self._known = self._found()

    def was_made_anew(self) -> bool:
        """Tells whether the function is another one than at the last call.

        Raises:
            TrainingError: `compile` removed the function, or it was not made by Keras.
        """
        if self._known is None:
            self.begin()
        if self._kind != "train":
            self._make()  # Keras evaluates many times within one training, and makes a missing function each time.
        found = self._found()
        if found is self._known:
            return False
        if found is None:
            raise TrainingError(
                "compile: expected no call of it while the model is trained, received one from a callback. Call "
                f"model.make_{self._kind}_function() after it, or train again."
            )
        if not str(getattr(getattr(found, "python_function", found), "__module__", "")).startswith("keras."):
            raise TrainingError(
                f"model.{self._kind}_function: expected what model.make_{self._kind}_function() makes, received a "
                "function of somebody else's. Put it into the model's train_step, or say engine='keras'."
            )
        self._known = found
        return True

    def _make(self) -> None:
        getattr(self._model, f"make_{self._kind}_function")()

    def _found(self) -> Any:
        return getattr(self._model, f"{self._kind}_function")
