"""Every activation of Keras, at normal numbers and at special ones.

Requirements:

* each is also compared where it has corners, flat ends and overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import activations, layers

from zoo.entry import Case, Entry, build_function, entries_of, public_functions
from zoo.models import Spec, given

__all__ = ["CASES", "NOT_APPLICABLE", "entries"]

NOT_APPLICABLE: dict[str, str] = {}

_PLAIN = (
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "tanh",
    "tanh_shrink",
)


def _celu_steep(x: Any) -> Any:
    return activations.celu(x, alpha=0.3)


def _gelu_approximate(x: Any) -> Any:
    return activations.gelu(x, approximate=True)


def _relu_bounded(x: Any) -> Any:
    return activations.relu(x, negative_slope=0.1, max_value=2.0, threshold=0.5)


def _threshold(x: Any) -> Any:
    return activations.threshold(x, 0.5, -0.3)


_WITH_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "celu__steep": _celu_steep,
    "gelu__approximate": _gelu_approximate,
    "relu__bounded": _relu_bounded,
    "threshold": _threshold,
}


def _maker(activation: Any) -> Callable[[], Any]:
    return lambda: layers.Activation(activation)


_MAKERS: dict[str, Callable[[], Any]] = {
    name: _maker(activation) for name, activation in {**{each: each for each in _PLAIN}, **_WITH_ARGUMENTS}.items()
}
# glu halves its input, but an Activation layer expects outputs of the input's shape.
_MAKERS["glu"] = lambda: layers.Lambda(activations.glu, output_shape=(3,))

# An exponential overflows in float32 where it does not in float64: comparing it at special points tells nothing.
_AT_POINTS = {
    f"{name}_special" if "__" in name else f"{name}__special": make
    for name, make in _MAKERS.items()
    if name != "exponential"
}

CASES: dict[str, Case] = {
    **given(Spec((6,)))(**_MAKERS),
    **given(Spec((6,)), data="special_points", scale=1e-3)(**_AT_POINTS),
}


def entries() -> Iterator[Entry]:
    """Yields every activation of Keras.

    Example:
        >>> [each.case for each in entries() if each.name == "gelu"]
        ['', 'approximate', 'special', 'approximate_special']
    """
    return entries_of("activations", __name__, public_functions(keras.activations), CASES, NOT_APPLICABLE)


def __getattr__(name: str) -> Callable[[], Any]:
    return build_function(CASES, name)
