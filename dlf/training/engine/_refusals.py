"""What the fused engine leaves to Keras's own loop: options, data and callbacks that it cannot follow.

Requirements:

* each refusal says why, in words that a user understands;
* the refusals are made before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from dlf.data.array_dataset import BatchedDataset
from dlf.models.model_loss import has_own
from dlf.training.engine._batch_hooks import watchers
from dlf.training.engine.arrays import read_by_keras_alone

__all__ = [
    "NotFusedError",
    "check_readable",
    "refuse_given",
    "refuse_steps_per_execution",
    "refuse_training",
]


class NotFusedError(Exception):
    """Only Keras's own loop can do this; the message says why."""


def refuse_training(model: keras.Model, train: Any, validation: Any, options: Mapping[str, Any]) -> None:
    """Raises if the data or the options of a training need Keras to make, weight or read the batches.

    Args:
        model: A compiled model.
        train: Batches or arrays.
        validation: Batches or arrays, or None.
        options: The options of Keras's `fit`.

    Raises:
        NotFusedError: Only Keras's own loop can do it.
    """
    if has_own(model, "fit"):
        raise NotFusedError("the model has a fit of its own")
    kind = read_by_keras_alone(train) if isinstance(train, tuple) else ""
    if kind:
        raise NotFusedError(f"the data hold a {kind}, which Keras alone cuts into batches")
    refuse_given(options, "steps_per_epoch", "class_weight", "sample_weight", "batch_size")
    if options.get("validation_split"):
        raise NotFusedError("validation_split is given for batches")
    if options.get("shuffle") and isinstance(train, keras.utils.PyDataset):
        raise NotFusedError("shuffle is given for batches")
    if validation is None:
        return
    if not isinstance(validation, tuple | BatchedDataset) and not hasattr(validation, "element_spec"):
        # With these, Keras's `fit` may go on reading where the last validation ended, or read the data only once.
        refuse_given(options, "validation_steps")
        check_readable(validation)
    refuse_steps_per_execution(model, options["callbacks"], "test")


def refuse_given(options: Mapping[str, Any], *names: str) -> None:
    """Raises if one of these options is given, since it changes the batches.

    Args:
        options: The options of Keras's `fit`.
        *names: The names of those to look for.

    Raises:
        NotFusedError: One is given.
    """
    for name in names:
        if options.get(name) is not None:
            raise NotFusedError(f"{name} is given for data that Keras alone cuts into batches or weighs")


def refuse_steps_per_execution(model: keras.Model, callbacks: Iterable[keras.callbacks.Callback], phase: str) -> None:
    """Raises if the model is compiled with `steps_per_execution` above 1, and Keras refuses it or a callback can tell.

    Args:
        model: A compiled model.
        callbacks: The callbacks.
        phase: ``"train"``, ``"test"`` or ``"predict"``.

    Raises:
        NotFusedError: Keras on PyTorch refuses it, or a callback sees after how many steps Keras calls its batch hooks.
    """
    steps = getattr(model, "steps_per_execution", 1)
    if steps > 1 and (keras.config.backend() == "torch" or watchers(callbacks, phase)):
        raise NotFusedError(f"the model is compiled with steps_per_execution={steps}")


def check_readable(data: Any) -> None:
    """Raises unless the data are a `PyDataset` that the fused engine can read.

    Args:
        data: A user's data set.

    Raises:
        NotFusedError: Only Keras's own loop can read them.
    """
    if not isinstance(data, keras.utils.PyDataset):
        raise NotFusedError(f"a {type(data).__name__} is read by Keras alone")
    if data.num_batches is None:
        raise NotFusedError("the data set is endless")
    if data.workers > 1 or data.use_multiprocessing:
        raise NotFusedError("the data set is read by workers of its own")
    if any(isinstance(each, keras.layers.Layer | keras.Variable) for each in vars(data).values()):
        # Each batch may depend on what the model has learnt from the previous one.
        raise NotFusedError("the data set holds a model")
