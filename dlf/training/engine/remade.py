"""Whether somebody has Keras make the function of a step anew while a model is trained.

That is how Keras's own loop is told to look at what has changed: `model.make_train_function(force=True)`, after a layer
was frozen, say. What is asked of it:

* it is noticed, so that a step which was traced is traced anew;
* what Keras's own loop would stumble over, or would run and nobody else can, is refused.
"""

from __future__ import annotations

from typing import Any

import keras

from dlf.utils.errors import TrainingError

__all__ = ["StepFunction", "makes_its_own_functions"]

_KINDS = ("train", "test", "predict")


def makes_its_own_functions(model: keras.Model) -> bool:
    """Tells whether a model says by itself what a step is run by, past `train_step` and its like."""
    names = [f"make_{kind}_function" for kind in _KINDS]
    return any(getattr(type(model), name) is not getattr(keras.Model, name) or name in vars(model) for name in names)


class StepFunction:
    """The function that Keras's own loop would run the steps by.

    Args:
        model: A compiled model.
        kind: ``"train"``, ``"test"`` or ``"predict"``.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        self._model, self._kind = model, kind
        self._known: Any = None

    def begin(self) -> None:
        """Has Keras make it, where it is not there, as `fit` and its like do at their beginning."""
        self._make()
        self._known = self._found()

    def was_made_anew(self) -> bool:
        """Tells whether it is another than at the last look.

        Raises:
            TrainingError: It was taken away by `compile`, or is a function that somebody else made.
        """
        if self._known is None:
            self.begin()
        if self._kind != "train":
            self._make()  # Keras evaluates many times within one training, and does so at the beginning of each.
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
