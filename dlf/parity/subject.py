"""A model under test in one backend's process: as it is, and its twin in float64."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError
from dlf.float64 import float64_twin, loss_in_float64
from dlf.gradients.model_loss import as_batch, check_model, loss_function, to_numpy
from dlf.layers import layers_by_path
from dlf.noise_floor import widened
from dlf.targets import own_traceback

__all__ = ["Subject"]


class Subject:
    """One model, in two precisions, by the same names.

    Args:
        build: Makes the model.
        loss: A loss for a model that is not compiled.
        x: Inputs for a model whose variables are made when it is called.

    Raises:
        InvalidArgumentError: There is no model, or none that a comparison can be made of; the message says what to do.
    """

    def __init__(self, build: Callable[[], Any], loss: str | None, x: Any = None) -> None:
        self._build, self._asked_loss, self._x = build, loss, x
        self.model = self._built()
        check_model(self.model)
        self.loss = loss or (self.model.loss if self.model.compiled else None)
        if isinstance(self.loss, dict):
            self.loss = dict(self.loss)  # Keras hands back a dictionary of a class of its own.
        if self.loss is None:
            raise InvalidArgumentError(
                "loss", expected="a model that was compiled with a loss, or --loss", received=None
            )
        self.layers = layers_by_path(self.model)
        self.names = [f"{number}:{variable.path}" for number, variable in enumerate(self.model.variables)]
        self.twin: Any = None

    def _built(self) -> Any:
        """A model with all its variables."""
        try:
            model = self._build()
        except Exception as error:
            raise InvalidArgumentError(
                "TARGET",
                expected="a function without arguments that returns a Keras model",
                received=getattr(self._build, "__name__", self._build),
                advice=f"\n{own_traceback(error)}",
            ) from error
        if isinstance(model, keras.Model) and not _is_whole(model):
            if self._x is None:
                raise InvalidArgumentError(
                    "model",
                    expected="a model that is built, and its layers too",
                    received=model,
                    advice="Give it an Input, call it on a batch before it is returned, or give the data that it is to "
                    "be called on: --data module:function.",
                )
            model(keras.tree.map_structure(keras.ops.convert_to_tensor, self._x))
        return model

    def again(self) -> Subject:
        """Returns a subject that is made as this one was."""
        return Subject(self._build, self._asked_loss, self._x)

    def digest(self) -> str:
        """Returns what is the same for the same model: of its variables, and of its configuration where it has one."""
        try:
            config = keras.saving.serialize_keras_object(self.model)
        except Exception:  # noqa: BLE001 - a layer's own get_config may raise anything.
            config = None
        # Without addresses, which stand for functions.
        text = re.sub(r"0x[0-9a-f]+", "", json.dumps([self.describe(), config], default=repr, sort_keys=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_batch(self, batch: Any, argument: str) -> None:
        """Raises where the model or its loss does not take a batch.

        Args:
            batch: ``(x, y)``.
            argument: Where it comes from.
        """
        x, y = batch
        compute = loss_function(self.loss)
        try:
            with keras.StatelessScope():
                compute(as_batch(y), self.model(as_batch(x), training=False))
        except Exception as error:
            raise InvalidArgumentError(
                argument,
                expected="a batch that the model and its loss take",
                received=keras.tree.map_structure(np.shape, batch),
                advice=f"\n{own_traceback(error)}",
            ) from error

    def describe(self) -> dict[str, Any]:
        """Returns what `build` is compared by: variables and outputs, in JSON's types."""
        holders: dict[int, str] = {}
        for path, layer in self.layers.items():
            for variable in layer.variables:
                # The innermost; a Sequential holds its layers a second time, in a model of its own.
                if path.startswith(holders.get(id(variable), "")):
                    holders[id(variable)] = path
        return {
            "variables": [
                {
                    "path": each.path,
                    "layer": holders.get(id(each)),
                    "shape": list(each.shape),
                    "dtype": each.dtype,
                    "trainable": bool(each.trainable),
                }
                for each in self.model.variables
            ],
            "layers": {path: type(layer).__name__ for path, layer in self.layers.items()},
        }

    def values(self) -> dict[str, np.ndarray]:
        """Returns all variables by name."""
        return {name: to_numpy(each.value) for name, each in zip(self.names, self.model.variables, strict=True)}

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Gives the model other values."""
        for name, variable in zip(self.names, self.model.variables, strict=True):
            variable.assign(values[name])

    def make_twin(self) -> None:
        """Makes the twin, from the model's values as they are now; inside `in_float64`."""
        try:
            self.twin = float64_twin(self.model)
        except InvalidArgumentError:
            self.twin = float64_twin(self.model, self._built)
        self.twin_layers = dict(zip(self.layers, layers_by_path(self.twin).values(), strict=True))
        if self.model.compiled:
            self.twin.compile(optimizer=self.make_optimizer(), loss=self.loss_in_float64(), jit_compile=False)

    def loss_in_float64(self) -> Any:
        """The loss, made anew in the precision that Keras computes in now."""
        return loss_in_float64(self.loss)

    def make_optimizer(self) -> Any:
        """A new optimizer like the model's own, in the precision that Keras computes in now."""
        optimizer = self.model.optimizer
        return type(optimizer).from_config(optimizer.get_config())

    def batch(self, arrays: tuple[Any, Any], *, wide: bool) -> Any:
        """A batch as tensors; floating point in float64 where it is for the twin."""
        return as_batch(*keras.tree.map_structure(widened if wide else np.asarray, arrays))


def _is_whole(model: keras.Model) -> bool:
    # `build` marks a subclassed model as built, and leaves its layers as they are.
    return model.built and all(each.built for each in layers_by_path(model).values())
