"""Hands one batch to Keras's own `fit`, and finds what a model's own `train_step` calls the model on.

Requirements:

* a batch reaches the step in the form in which the script hands it over;
* to see what a step calls the model on, it is run up to that call or to its first update, and leaves no trace.
"""

from __future__ import annotations

from typing import Any

import keras

from dlf.data.conversion import as_data_sets_give
from dlf.models.model_loss import has_own, to_numpy
from dlf.parity._recording.batches import Batch, examples_in
from dlf.parity._recording.taps import layer_calls_replaced
from dlf.training.engine.python_state import PythonState, UnseenStateError
from dlf.utils.attributes import replaced
from dlf.utils.trees import mapped

__all__ = ["called_in_step", "fit_on"]


def fit_on(model: keras.Model, batch: Batch, *, takes_all: bool = False, takes_batches: bool = False) -> Any:
    """Trains a model by Keras's own `fit` on one batch.

    Args:
        model: A compiled model.
        batch: The batch.
        takes_all: Whether the inputs are all that a step is given, as the data set has them.
        takes_batches: Whether it comes from a data set of batches, and not from arrays.

    Returns:
        The history: for each metric, the list of its one value.
    """
    x, y, weights = batch
    examples = examples_in(batch)
    # Of arrays, `fit` would put a tuple of inputs into another.
    if examples is not None and not (takes_batches or takes_all):
        options = {"sample_weight": weights, "batch_size": examples, "shuffle": False}
        return model.fit(x, y, verbose=0, **options).history
    packed = x if takes_all else keras.utils.pack_x_y_sample_weight(*batch)
    return model.fit(_OneBatch(packed), verbose=0).history


def called_in_step(model: keras.Model, batch: Batch, *, takes_all: bool = False) -> Any:
    """Returns what the model's own `train_step` calls it on first, as arrays; None if that cannot be found.

    A step of contrastive learning calls the model on halves of its batch, one of translation on the target too.

    Args:
        model: A compiled model, whose variables need not be made yet.
        batch: The batch that the step is given.
        takes_all: As for `fit_on`.
    """
    if not model.compiled or not has_own(model, "train_step"):
        return None
    in_step = False

    def step(*args: Any) -> Any:
        nonlocal in_step
        in_step = True  # Before it, Keras calls the model to find its shapes.
        return type(model).train_step(model, *args)

    def call(original: Any, layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        if layer is model and in_step:
            raise _SeenError(args, kwargs)
        return original(layer, *args, **kwargs)

    def apply(*_: Any, **__: Any) -> None:
        raise _SeenError

    try:
        state = PythonState(model)
    except UnseenStateError:
        return None
    # On JAX, a training that does not end leaves none of them a value.
    held = [*model.variables, *model.metrics_variables, *getattr(model.optimizer, "variables", ())]
    values = [(each, to_numpy(each.value)) for each in held]
    model.run_eagerly, model.train_step = True, step
    model.make_train_function(force=True)  # Otherwise one that was compiled before would be used again.
    try:
        with layer_calls_replaced(call), replaced(keras.optimizers.Optimizer, "apply", apply):
            fit_on(model, batch, takes_all=takes_all)
    except _SeenError as seen:
        return _as_arrays(seen.given) if seen.alone else None
    except Exception:  # noqa: BLE001 - a step may raise anything, such as one in another framework's words.
        return None
    finally:
        state.put_back()
        for variable, value in values:
            variable.assign(value)
        model.train_function = None  # Keras makes it anew, in the mode that is asked for then.
    return None


class _SeenError(BaseException):
    """The step has called the model, or would update it. No step's own `except Exception` holds it up."""

    def __init__(self, args: Any = (), kwargs: Any = None) -> None:
        super().__init__()
        self.alone = len(args) == 1 and (kwargs or {}).keys() <= {"training", "mask"}
        self.given = args[0] if self.alone else None


def _as_arrays(given: Any) -> Any:
    try:
        return mapped(to_numpy, given)
    except Exception:  # noqa: BLE001 - a tensor that is being traced, or is none of this framework.
        return None


class _OneBatch(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
    """A data set of one batch."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return as_data_sets_give(self._batch)
