"""The small models that hold what is compared.

Requirements:

* the layer under test is between an input and a trainable layer, and has its class's name, so that parity names it;
* names of layers are the same at each call, whatever number Keras has reached in its names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras

from dlf.models.layers import layers_by_path
from dlf.parity.options import STAGES
from zoo.entry import Case

__all__ = ["Flat", "Spec", "around", "compiled_with", "given", "trained_by"]


class Spec(NamedTuple):
    """The specification of one input, without its batch axis."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    batch: int | None = None
    """The batch size, for layers that keep a state for each example."""


class Flat(keras.layers.Flatten):  # type: ignore[misc]  # Keras has no types.
    """Flattens, and drops a mask without Keras's warning.

    Example:
        >>> Flat()(keras.ops.ones((2, 3, 4))).shape == (2, 12)
        True
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Returns None: no mask is passed on."""


def given(
    *inputs: Spec,
    call: Callable[..., Any] | None = None,
    scale: float = 1.0,
    data: str | None = None,
    stages: tuple[str, ...] = STAGES,
) -> Callable[..., dict[str, Case]]:
    """Returns a function that makes the cases of layers with the same inputs.

    Args:
        *inputs: As in `around`.
        call: As in `around`.
        scale: As in `around`.
        data: The name of a function in `zoo.data`.
        stages: As in `Case`.

    Returns:
        A function of keyword arguments, each of which makes the layer of the case of its name.

    Example:
        >>> given(Spec((3,)))(ReLU=keras.layers.ReLU)["ReLU"].build().name
        'model'
    """

    def cases(**makers: Callable[[], Any]) -> dict[str, Case]:
        target = f"zoo.data:{data}" if data else None
        return {
            name: Case(partial(around, make, *inputs, call=call, scale=scale), target, stages)
            for name, make in makers.items()
        }

    return cases


def around(
    make: Callable[[], Any], *inputs: Spec, call: Callable[..., Any] | None = None, scale: float = 1.0
) -> keras.Model:
    """Returns a compiled model with a layer in it, followed by a dense one.

    Args:
        make: A function that makes the layer.
        *inputs: The specifications of its inputs.
        call: ``(layer, *inputs) -> outputs``; by default the layer gets its input, or the list of them.
        scale: Brings outputs into the range that the dense layer can learn from.

    Example:
        >>> model = around(lambda: keras.layers.ReLU(), Spec((3,)))
        >>> [each.name for each in model.layers]
        ['input_0', 're_lu', 'flat_0', 'last']
    """
    given = [
        keras.Input(batch_shape=(spec.batch, *spec.shape), dtype=spec.dtype, name=f"input_{number}")
        for number, spec in enumerate(inputs)
    ]
    layer = make()
    for each in (layer, *layers_by_path(layer).values()):
        each.name = re.sub(r"_\d+$", "", each.name)
    outputs = call(layer, *given) if call else layer(given[0] if len(given) == 1 else given)
    flat = [_flat(each, number, scale) for number, each in enumerate(keras.tree.flatten(outputs))]
    joined = keras.layers.Concatenate(name="joined")(flat) if len(flat) > 1 else flat[0]
    outputs = keras.layers.Dense(2, name="last")(joined)
    model = keras.Model(given[0] if len(given) == 1 else given, outputs, name="model")
    model.compile("sgd", "mse")
    return model


def _flat(tensor: Any, number: int, scale: float) -> Any:
    if scale != 1 or "float" not in tensor.dtype:
        # Rescaling casts integers to floating point too.
        tensor = keras.layers.Rescaling(scale, name=f"scaled_{number}")(tensor)
    return Flat(name=f"flat_{number}")(tensor)


def compiled_with(loss: Any, *middle: Any, shape: tuple[int, ...] = (4,)) -> keras.Model:
    """Returns a chain of layers that is compiled with a loss.

    Args:
        loss: The loss.
        *middle: The layers; the last one gives the predictions.
        shape: The shape of the input.

    Example:
        >>> compiled_with("mse", keras.layers.Dense(2)).loss
        'mse'
    """
    model = keras.Sequential([keras.Input(shape, name="input"), *middle], name="model")
    model.compile("sgd", loss)
    return model


def trained_by(optimizer: Any, *, embedding: bool = False) -> keras.Model:
    """Returns a perceptron that is compiled with an optimizer.

    Args:
        optimizer: The optimizer.
        embedding: Whether its inputs are tokens, whose embedding has sparse gradients on some backends.

    Example:
        >>> trained_by(keras.optimizers.SGD()).count_params()
        44
    """
    dense = keras.layers.Dense
    table = [keras.layers.Embedding(7, 2, name="table"), keras.layers.Flatten(name="flat")] if embedding else []
    shape, dtype = ((2,), "int32") if embedding else ((4,), "float32")
    model = keras.Sequential(
        [
            keras.Input(shape, dtype=dtype, name="input"),
            *table,
            dense(6, activation="tanh", name="first"),
            dense(2, name="last"),
        ],
        name="model",
    )
    model.compile(optimizer, "mse")
    return model
