"""Calls one layer, the loss or the optimizer by itself, from the truth's numbers.

What is asked of it:

* what goes in is rounded to the dtype under test first, so that float64 and that dtype start from the same numbers;
* what went in can be moved: by a unit in the last place, to see what rounding does; off a point without a derivative;
  by next to nothing, to see whether float64 is what a layer computes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from dlf.gradients.model_loss import parameters_of, to_numpy
from dlf.keras_internals import with_mask
from dlf.noise_floor import eps_of, is_floating, moved, rms, widened
from dlf.parity.records import Records
from dlf.parity.subject import Subject
from dlf.parity.taps import Call, takes_training
from dlf.trees import in_order, ordered_like

__all__ = [
    "Inputs",
    "Move",
    "beside",
    "float_outputs",
    "is_number",
    "moved_by",
    "nudged",
    "replay_call",
    "replay_loss",
    "replay_update",
    "rounded",
]

Move = Callable[[np.ndarray, str], np.ndarray]


class Inputs:
    """What a call is replayed from: the truth's arrays in float64, each rounded to the dtype under test.

    Args:
        call: The call.
        given: Where the truth is.
        layer: The layer in the dtype under test.
    """

    def __init__(self, call: Call, given: Records, layer: keras.Layer) -> None:
        self.call, self.dtype = call, str(layer.compute_dtype)
        count = len(keras.tree.flatten(call.asked))
        self._tensors = {
            n: rounded(given[f"call/{call.key}/in:{n}"], self.dtype)
            for n in range(count)
            if f"call/{call.key}/in:{n}" in given
        }
        self._masks = {
            n: given[f"call/{call.key}/mask:{n}"] for n in range(count) if f"call/{call.key}/mask:{n}" in given
        }
        self.state = [
            rounded(given[f"call/{call.key}/state:{n}"], variable.dtype)
            for n, variable in enumerate(layer.non_trainable_variables)
        ]
        self.incoming = {
            n: rounded(given[f"call/{call.key}/incoming:{n}"], self.dtype)
            for n in range(len(keras.tree.flatten(call.outputs)))
            if f"call/{call.key}/incoming:{n}" in given
        }
        # The names that the twin's layers have may be others.
        self._names = names_of(layer, layer.trainable_variables)
        self.state_names = names_of(layer, layer.non_trainable_variables)
        self._values = {
            f"variable/{name}": widened(to_numpy(each.value)) for name, each in self.variables(layer).items()
        }

    def variables(self, layer: keras.Layer) -> dict[str, Any]:
        """The trainable variables of the layer, or of its twin, by name."""
        return dict(zip(self._names, layer.trainable_variables, strict=True))

    def parameters(self, layer: keras.Layer, *, wide: bool) -> dict[str, Any]:
        """Inputs and variables that a gradient is taken by, as tensors."""
        dtypes = {f"variable/{name}": each.dtype for name, each in self.variables(layer).items()}
        arrays = self._values | {f"input/{n}": each for n, each in self._tensors.items() if each.dtype.kind == "f"}
        return {
            name: keras.ops.convert_to_tensor(each, "float64" if wide else dtypes.get(name, self.dtype))
            for name, each in arrays.items()
        }

    def arguments(self, values: Any) -> Any:
        """The arguments of the call, with these inputs in their places."""
        flat = list(keras.tree.flatten(self.call.asked))
        for n, array in self._tensors.items():
            tensor = values[f"input/{n}"] if array.dtype.kind == "f" else keras.ops.convert_to_tensor(array)
            mask = self._masks.get(n)
            flat[n] = tensor if mask is None else with_mask(tensor * 1, keras.ops.convert_to_tensor(mask))
        return ordered_like(keras.tree.pack_sequence_as(self.call.asked, flat), self.call.as_given)

    def moved(self, move: Move) -> Inputs:
        """The same, with everything of floating point moved."""
        other = object.__new__(Inputs)
        other.__dict__ |= self.__dict__
        for part in ("_tensors", "_values", "incoming"):
            setattr(other, part, {name: move(each, self.dtype) for name, each in getattr(self, part).items()})
        return other


def names_of(layer: keras.Layer, variables: Sequence[Any]) -> list[str]:
    """The ends of the paths of some of a layer's variables, below the layer's own name; each once."""
    names: list[str] = []
    for variable in variables:
        name = first = variable.path.split(f"{layer.name}/", 1)[-1]
        number = 1
        while name in names:
            number += 1
            name = f"{first}_{number}"
        names.append(name)
    return names


def replay_call(
    layer: keras.Layer, inputs: Inputs, path: Any, *, wide: bool, training: bool | None = None
) -> dict[str, np.ndarray]:
    """Returns the outputs, the state after, the penalty, and the gradients by inputs and variables, of one call.

    Args:
        layer: The layer, or its twin.
        inputs: What it is called with.
        path: The way of taking gradients; None takes none.
        wide: Whether it computes in float64.
        training: The mode, where it is another than in the call.
    """
    variables = inputs.variables(layer)
    penalties: list[Any] = []
    parameters = inputs.parameters(layer, wide=wide)
    mode = inputs.call.training if training is None else training

    def run(given: Any) -> tuple[Any, Any]:
        # TensorFlow's way of taking gradients hands out variables, and not every layer takes one for a tensor.
        values = {name: keras.ops.copy(each) for name, each in given.items()}
        mapping = [(variable, values[f"variable/{name}"]) for name, variable in variables.items()]
        mapping += list(zip(layer.non_trainable_variables, inputs.state, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            args, kwargs = inputs.arguments(values)
            outputs = in_order(layer(*args, **_in_mode(layer, args, kwargs, training=mode)))
            after = [scope.get_current_value(each) for each in layer.non_trainable_variables]
            penalties[:] = layer.losses
        return outputs, after

    def function(values: Any, _: Any) -> Any:
        outputs, _state = run(values)
        flat = dict(float_outputs(outputs))
        parts = [keras.ops.sum(flat[n] * _like(each, flat[n])) for n, each in inputs.incoming.items() if n in flat]
        return sum([*parts, *(keras.ops.cast(each, parts[0].dtype) for each in penalties)])

    outputs, after = run(parameters)
    found = {f"forward/{n}": to_numpy(each) for n, each in enumerate(keras.tree.flatten(outputs)) if is_number(each)}
    if penalties:
        found["loss/penalty"] = np.sum([widened(to_numpy(each)) for each in penalties], axis=0)
    found |= {f"state/{name}": to_numpy(value) for name, value in zip(inputs.state_names, after, strict=True)}
    numbers = dict(float_outputs(outputs))
    if path is not None and parameters and any(n in numbers for n in inputs.incoming):
        nothing = keras.ops.zeros(1)
        _, gradients = path.loss_and_gradients(function, parameters, (nothing, nothing))
        found |= {f"gradient/{name}": to_numpy(each) for name, each in gradients.items()}
    return found


def replay_loss(  # noqa: PLR0913 - of what, and in which way.
    subject: Subject, path: Any, batch: Any, given: Records, move: Move | None, *, wide: bool
) -> dict[str, np.ndarray]:
    """Returns the loss and its gradient by the predictions, from the truth's predictions."""
    count = len(keras.tree.flatten(subject.predictions))
    parameters: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for n in range(count):
        dtype = given[f"narrow/prediction:{n}"].dtype.name
        array = rounded(given[f"wide/prediction:{n}"], dtype)
        array = array if move is None else move(array, dtype)
        floating = is_floating(dtype)
        tensor = keras.ops.convert_to_tensor(array, "float64" if wide and floating else dtype)
        (parameters if floating else fixed)[f"{n}"] = tensor
    compute = subject.compute_loss(wide=wide)

    def function(values: Any, batch: Any) -> Any:
        predictions = [keras.ops.copy((values | fixed)[f"{n}"]) for n in range(count)]
        return compute(batch[1], keras.tree.pack_sequence_as(subject.predictions, predictions))

    _, y = subject.batch(batch, wide=wide)
    value, gradients = path.loss_and_gradients(function, parameters, (keras.ops.zeros(1), y))
    return {"loss/value": to_numpy(value)} | {f"loss/gradient/{n}": to_numpy(each) for n, each in gradients.items()}


def replay_update(subject: Subject, given: Records, random: Any, *, wide: bool) -> dict[str, np.ndarray]:
    """Returns variables and slots after three updates by the optimizer, from the truth's gradients."""
    model = subject.twin if wide else subject.model
    optimizer = subject.make_optimizer(model)
    names = parameters_of(subject.model)
    gradients = [
        rounded(given[f"gradient/{name}"], like.dtype)
        for name, like in zip(names, subject.model.trainable_variables, strict=True)
    ]
    if random is not None:
        # A gradient that is zero by cancellation is as far off as the roundoff of the largest, and no less.
        step = eps_of(subject.dtype) * max(rms(each) for each in gradients)
        gradients = [each + random.choice([-1.0, 1.0], each.shape) * step for each in gradients]
    optimizer.build(model.trainable_variables)
    before = [to_numpy(each.value) for each in model.trainable_variables]
    weights = [each.value for each in model.trainable_variables]
    slots = [each.value for each in optimizer.variables]
    apply = _stateless(optimizer) if keras.config.backend() == "jax" else None
    # Of both signs and three sizes: where gradients are clipped, two would cancel.
    for factor in (1.0, -0.25, 0.5):
        scaled = [
            keras.ops.convert_to_tensor(factor * each, variable.dtype)
            for each, variable in zip(gradients, model.trainable_variables, strict=True)
        ]
        if apply is not None:
            weights, slots = apply(slots, scaled, weights)
        else:
            optimizer.apply(scaled, model.trainable_variables)
            weights, slots = model.trainable_variables, optimizer.variables
    found = {f"update/{name}": to_numpy(each) for name, each in zip(names, weights, strict=True)}
    found |= {f"slot/{name}": to_numpy(each) for name, each in zip(subject.slot_names(), slots, strict=True)}
    for variable, value in zip(model.trainable_variables, before, strict=True):
        variable.assign(value)
    return found


def _stateless(optimizer: Any) -> Callable[..., Any]:
    """A step as Keras takes it on JAX: compiled, and of values, since an optimizer that scales the loss branches."""
    import jax

    compiled: Callable[..., Any] = jax.jit(optimizer.stateless_apply)
    return compiled


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns what is left of an array in another dtype, in float64; integers as they are."""
    if not is_floating(array.dtype) or not is_floating(dtype):
        return array
    with np.errstate(over="ignore"):  # Of float16, infinity is what comes out there too.
        return np.asarray(array).astype(dtype).astype(np.float64)


def moved_by(array: np.ndarray, dtype: str, random: np.random.Generator) -> np.ndarray:
    """Returns an array moved by one unit in the last place of a dtype."""
    return moved(array, dtype, random) if array.dtype.kind == "f" else array


def beside(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns an array moved by a thousandth: off any point without a derivative, by all odds."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array + 2.0**-10 * (rms(array) or 1.0) * random.uniform(0.5, 1.0, array.shape))


def nudged(array: np.ndarray, size: float) -> np.ndarray:
    """Returns an array with each element moved by a share of it."""
    if array.dtype.kind != "f":
        return array
    # Up and down: a layer that normalizes does not see that all have grown.
    signs = np.where(np.arange(array.size) % 2, 1.0, -1.0).reshape(array.shape)
    return np.asarray(array * (1 + size * signs))


def float_outputs(outputs: Any) -> Iterator[tuple[int, Any]]:
    """The floating-point tensors of a structure, or what stands for them, with their numbers."""
    for number, each in enumerate(keras.tree.flatten(outputs)):
        if (keras.ops.is_tensor(each) or isinstance(each, keras.KerasTensor)) and is_floating(
            keras.backend.standardize_dtype(each.dtype)
        ):
            yield number, each


def _in_mode(layer: keras.Layer, args: Any, kwargs: Any, *, training: bool) -> Any:
    if not takes_training(layer) or "training" in inspect.signature(layer.call).bind_partial(*args).arguments:
        return kwargs
    # The layer around it, which is not there now, may have said so.
    return {**kwargs, "training": training}


def _like(array: np.ndarray, tensor: Any) -> Any:
    return keras.ops.convert_to_tensor(array, keras.backend.standardize_dtype(tensor.dtype))


def is_number(value: Any) -> bool:
    """Tells whether an output is one that can be compared; a layer may return None beside it."""
    return keras.ops.is_tensor(value) or isinstance(value, bool | int | float)
