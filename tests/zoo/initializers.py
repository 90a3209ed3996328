"""Every initializer of Keras: a layer adds its values to the inputs.

Requirements:

* a layer calls each initializer, for the shape of a matrix and that of a convolution's kernel (`Identity` only for a
  matrix, and `STFT` only for the three axes of a Fourier kernel), so that its values are compared as the layer's
  outputs. As a layer's weights they would not be compared, since parity gives all backends the weights of one.

Keras draws other numbers on each backend. After `dlf.random.seed.set_seed`, which parity calls, dlf draws in its place,
by NumPy, and that draw is compared. For initializers that draw nothing, Keras's own numbers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
from keras import initializers

from zoo.entry import Case, Entry, build_function, entries_of, public_classes
from zoo.models import Spec, around

__all__ = ["CASES", "NOT_APPLICABLE", "AddDrawn", "entries"]

NOT_APPLICABLE = {"Initializer": "a base class"}

_INITIALIZERS: dict[str, Callable[[], Any]] = {
    "Constant": lambda: initializers.Constant(0.3),
    "GlorotNormal": lambda: initializers.GlorotNormal(seed=7),
    "GlorotUniform": lambda: initializers.GlorotUniform(seed=7),
    "HeNormal": lambda: initializers.HeNormal(seed=7),
    "HeUniform": lambda: initializers.HeUniform(seed=7),
    "Identity": lambda: initializers.Identity(gain=0.7),
    "LecunNormal": lambda: initializers.LecunNormal(seed=7),
    "LecunUniform": lambda: initializers.LecunUniform(seed=7),
    "Ones": initializers.Ones,
    "Orthogonal": lambda: initializers.Orthogonal(gain=0.7, seed=7),
    "RandomNormal": lambda: initializers.RandomNormal(0.1, 0.5, seed=7),
    "RandomUniform": lambda: initializers.RandomUniform(-0.3, 0.5, seed=7),
    "STFT": lambda: initializers.STFT("real", "hann", "density"),
    "STFT__imag": lambda: initializers.STFT("imag", None),
    "TruncatedNormal": lambda: initializers.TruncatedNormal(0.1, 0.5, seed=7),
    "VarianceScaling": lambda: initializers.VarianceScaling(2.0, "fan_avg", "untruncated_normal", seed=7),
    "VarianceScaling__uniform": lambda: initializers.VarianceScaling(0.5, "fan_out", "uniform", seed=7),
    "Zeros": initializers.Zeros,
}


class AddDrawn(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Adds the values of an initializer to each example.

    Args:
        case: The name of the initializer's case.
        **keywords: Arguments of a layer.

    Example:
        >>> float(AddDrawn("Ones")(keras.ops.zeros((1, 2, 2)))[0, 0, 0])
        1.0
    """

    def __init__(self, case: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.case = case

    def call(self, inputs: Any) -> Any:
        """Adds values in the shape of an example."""
        return inputs + _INITIALIZERS[self.case]()(tuple(inputs.shape[1:]), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, from which it can be recreated in another precision."""
        return {**super().get_config(), "case": self.case}


_MATRIX, _KERNEL, _FRAMES = (6, 4), (3, 2, 4, 5), (8, 1, 5)


def _cases() -> Iterator[tuple[str, Case]]:
    for name in _INITIALIZERS:
        # STFT only makes kernels of three axes, and Identity only makes matrices.
        plain = _FRAMES if name.startswith("STFT") else _MATRIX
        shapes = (
            {name: plain}
            if name.startswith(("STFT", "Identity"))
            else {
                name: plain,
                f"{name}_kernel" if "__" in name else f"{name}__kernel": _KERNEL,
            }
        )
        for key, shape in shapes.items():
            yield key, Case(partial(around, partial(AddDrawn, name), Spec(shape)), stages=("build", "forward"))


CASES: dict[str, Case] = dict(_cases())


def entries() -> Iterator[Entry]:
    """Yields every initializer of Keras.

    Example:
        >>> [each.case for each in entries() if each.name == "Orthogonal"]
        ['', 'kernel']
    """
    names = public_classes(keras.initializers, initializers.Initializer)
    return entries_of("initializers", __name__, names, CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
