"""A model under test in one backend's process: as it is, and its twin in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from dlf.errors import InvalidArgumentError
from dlf.float64 import float64_everywhere, float64_twin
from dlf.gradients.model_loss import as_batch, check_model, to_numpy
from dlf.layers import layers_by_path
from dlf.randomness import common_randomness

__all__ = ["Subject", "in_float64"]


@contextmanager
def in_float64() -> Iterator[None]:
    """Keras computes in float64, and draws the common masks."""
    # In this order: with 64 bits on, JAX's own masks are others, and have to be replaced too.
    with float64_everywhere(), common_randomness():
        yield


class Subject:
    """One model, in two precisions, by the same names.

    Args:
        build: Makes the model.
        loss: A loss for a model that is not compiled.
    """

    def __init__(self, build: Callable[[], Any], loss: str | None) -> None:
        self._build = build
        self.model = build()
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

    def describe(self) -> dict[str, Any]:
        """Returns what `build` is compared by: variables and outputs, in JSON's types."""
        return {
            "variables": [
                {"path": each.path, "shape": list(each.shape), "dtype": each.dtype, "trainable": bool(each.trainable)}
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
            self.twin = float64_twin(self.model, self._build)
        self.twin_layers = dict(zip(self.layers, layers_by_path(self.twin).values(), strict=True))
        if self.model.compiled:
            self.twin.compile(optimizer=self.make_optimizer(), loss=self.loss_in_float64(), jit_compile=False)

    def loss_in_float64(self) -> Any:
        """A Keras loss computes in the dtype that was the default when it was made: it is made anew."""
        return keras.tree.map_structure(
            lambda each: type(each).from_config(each.get_config()) if isinstance(each, keras.losses.Loss) else each,
            self.loss,
        )

    def make_optimizer(self) -> Any:
        """A new optimizer like the model's own, in the precision that Keras computes in now."""
        optimizer = self.model.optimizer
        return type(optimizer).from_config(optimizer.get_config())

    def batch(self, arrays: tuple[Any, Any], *, wide: bool) -> Any:
        """A batch as tensors; floating point in float64 where it is for the twin."""
        return as_batch(*keras.tree.map_structure(_widened if wide else np.asarray, arrays))


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
