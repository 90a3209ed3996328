"""Replays one layer, the loss or the optimizer: calls it by itself, from the truth's numbers.

Requirements:

* inputs are rounded to the dtype under test first, so that float64 and that dtype start from the same numbers;
* inputs can be moved: by a unit in the last place, to see what rounding does; by a thousandth, off a point without a
  derivative; by a tiny step, to see whether a layer computes in float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import with_mask
from dlf.backend.registry import current_backend
from dlf.models.layers import layers_by_path
from dlf.models.model_loss import parameters_of, to_numpy
from dlf.numerics.noise_floor import eps_of, is_floating, moved, rms, widened, with_whole_kept
from dlf.parity._recording.subject import Subject, path_of
from dlf.parity._recording.taps import LOOPS, Call, takes_training
from dlf.parity._records import Records
from dlf.random.keras_random import draws_nudged
from dlf.utils.trees import with_keys_as_in, with_sorted_keys

__all__ = [
    "Inputs",
    "Move",
    "beside",
    "compiled_if_possible",
    "float_outputs",
    "is_number",
    "moved_by",
    "nudged",
    "numbers_of",
    "replay_of",
    "replay_of_loss",
    "replay_of_update",
    "rounded",
]

Move = Callable[[np.ndarray, str], np.ndarray]


class Inputs:
    """The inputs of a replayed call: the truth's arrays in float64, each rounded to the dtype under test.

    Args:
        call: The call.
        given: The records of the truth.
        layer: The layer in the dtype under test.
    """

    def __init__(self, call: Call, given: Records, layer: keras.Layer) -> None:
        self._draws: float | None = None
        # A layer that computes in integers leaves floating-point inputs as they are. So does one without autocast: the
        # model's own data are float32, and what layers before it give is in their dtype.
        as_they_are = not is_floating(layer.compute_dtype) or not (layer.autocast or call.sources)
        self.call, self.dtype = call, "float32" if as_they_are else layer.compute_dtype
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
            for n, _ in float_outputs(call.outputs)
            if f"call/{call.key}/incoming:{n}" in given
        }
        # The reference's layers may have other names.
        self._names = names_of(layer, layer.trainable_variables)
        self.state_names = names_of(layer, layer.non_trainable_variables)
        self._values = {
            f"variable/{name}": widened(to_numpy(each.value)) for name, each in self.variables(layer).items()
        }

    def variables(self, layer: keras.Layer) -> dict[str, Any]:
        """The trainable variables of the layer, or of its reference, by name."""
        return dict(zip(self._names, layer.trainable_variables, strict=True))

    def parameters(self, layer: keras.Layer, *, float64: bool) -> dict[str, Any]:
        """The inputs and variables with respect to which gradients are taken, as tensors, by name."""
        dtypes = {f"variable/{name}": each.dtype for name, each in self.variables(layer).items()}
        arrays = self._values | {f"input/{n}": each for n, each in self._tensors.items() if each.dtype.kind == "f"}
        return {
            name: _tensor(each, "float64" if float64 else dtypes.get(name, self.dtype)) for name, each in arrays.items()
        }

    def fixed(self) -> dict[str, Any]:
        """The other values that the call depends on: state, incoming gradients, integers and masks."""
        integers = {n: each for n, each in self._tensors.items() if each.dtype.kind != "f"}
        found = {"state": self.state, "incoming": self.incoming, "integers": integers, "masks": self._masks}
        # What is None is no argument of a compiled function.
        return found if self._draws is None else {**found, "draws": np.float64(self._draws)}

    def arguments(self, values: Any, fixed: Any) -> Any:
        """The arguments of the call, with these inputs in their places."""
        # An argument that the truth was not given, such as a mask, no other backend is given.
        given = keras.tree.flatten(self.call.asked)
        flat = [None if isinstance(each, keras.KerasTensor) else each for each in given]
        for n in self._tensors:
            tensor = values.get(f"input/{n}")
            tensor = keras.ops.convert_to_tensor(fixed["integers"][n]) if tensor is None else tensor
            mask = fixed["masks"].get(n)
            flat[n] = tensor if mask is None else with_mask(tensor * 1, keras.ops.convert_to_tensor(mask))
        return with_keys_as_in(keras.tree.pack_sequence_as(self.call.asked, flat), self.call.as_given)

    def moved(self, move: Move, *, whole: bool = True, draws: float | None = None) -> Inputs:
        """The same inputs, with every floating-point array moved but the state.

        Args:
            move: A function that moves an array, given its dtype under test.
            whole: Whether whole numbers among the model's own data are moved too.
            draws: By which share of it each number that the layer draws is moved.
        """
        other = object.__new__(Inputs)
        other.__dict__ |= self.__dict__
        other._draws = draws if any(name.endswith("seed_generator_state") for name in self.state_names) else None
        for part in ("_tensors", "_values", "incoming"):
            found = {name: move(each, self.dtype) for name, each in getattr(self, part).items()}
            if part == "_tensors" and not whole and not self.call.sources:
                found = {name: with_whole_kept(self._tensors[name], each) for name, each in found.items()}
            setattr(other, part, found)
        return other


def names_of(layer: keras.Layer, variables: Sequence[Any]) -> list[str]:
    """The paths of some of a layer's variables below the layer's own name, numbered where two are the same."""
    names: list[str] = []
    for variable in variables:
        name = first = path_of(variable).split(f"{layer.name}/", 1)[-1]
        number = 1
        while name in names:
            number += 1
            name = f"{first}_{number}"
        names.append(name)
    return names


def replay_of(
    layer: keras.Layer, inputs: Inputs, path: Any, *, float64: bool, training: bool | None = None
) -> Callable[[Inputs], dict[str, np.ndarray]]:
    """Returns a function that gives the outputs, the state afterwards, the penalty and the gradients of one call.

    Args:
        layer: The layer, or its reference.
        inputs: The inputs of the call; the function takes these, or moved ones.
        path: The gradient path; None takes no gradients.
        float64: Whether it computes in float64.
        training: Whether in training mode; by default as in the call.
    """
    variables, state = inputs.variables(layer), layer.non_trainable_variables
    mode = inputs.call.training if training is None else training

    def run(given: Any, fixed: Any) -> tuple[dict[int, Any], list[Any], list[Any]]:
        # TensorFlow's gradient path passes variables, and not every layer takes a variable for a tensor.
        values = {name: keras.ops.copy(each) for name, each in given.items()}
        mapping = [(variable, values[f"variable/{name}"]) for name, variable in variables.items()]
        mapping += list(zip(state, fixed["state"], strict=True))
        nudged_draws = draws_nudged(fixed.get("draws"))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope, nudged_draws:
            args, kwargs = inputs.arguments(values, fixed)
            outputs = with_sorted_keys(layer(*args, **_in_mode(layer, args, kwargs, training=mode)))
            after = [scope.get_current_value(each) for each in state]
            penalties = list(layer.losses)
        return dict(numbers_of(outputs)), after, penalties

    def compute(values: Any, fixed: Any) -> tuple[Any, ...]:
        def total(values: Any, _: Any) -> Any:
            outputs, _state, penalties = run(values, fixed)
            parts = [
                keras.ops.sum(outputs[n] * keras.ops.cast(each, keras.backend.standardize_dtype(outputs[n].dtype)))
                for n, each in fixed["incoming"].items()
            ]
            # Keras sums what a layer adds, which may be of each example.
            return sum([*parts, *(keras.ops.sum(keras.ops.cast(each, parts[0].dtype)) for each in penalties)])

        gradients: dict[str, Any] = {}
        if path is not None and values and fixed["incoming"]:
            gradients = _gradients(path, total, values, of_data=not inputs.call.sources)
        return *run(values, fixed), gradients

    # Outputs alone take few operations, most of which XLA has compiled for other layers of these shapes already. But a
    # loop would be compiled anew at each call.
    loops = any(isinstance(each, LOOPS) for each in (layer, *layers_by_path(layer).values()))
    used = compiled_if_possible(compute) if loops or path is not None else compute

    def replay(inputs: Inputs) -> dict[str, np.ndarray]:
        outputs, after, penalties, gradients = used(inputs.parameters(layer, float64=float64), inputs.fixed())
        found = {f"forward/{n}": to_numpy(each) for n, each in outputs.items()}
        # Recorded even where there is no penalty: another backend may have one.
        found["loss/penalty"] = np.sum([widened(to_numpy(each)) for each in penalties], axis=0)
        found |= {f"state/{name}": to_numpy(each) for name, each in zip(inputs.state_names, after, strict=True)}
        return found | {f"gradient/{name}": to_numpy(each) for name, each in gradients.items()}

    return replay


def _gradients(path: Any, total: Callable[[Any, Any], Any], values: Any, *, of_data: bool) -> Any:
    """The gradients with respect to inputs and variables; those of the model's own data only if the framework has them.

    Training does not need gradients of data, and an operation on data may have no derivative.
    """
    nothing = keras.ops.zeros(1)

    def taken(function: Callable[[Any, Any], Any], by: Any) -> Any:
        return path.loss_and_gradients(function, by, (nothing, nothing))[1]

    try:
        return taken(total, values)
    except Exception:
        variables = {name: each for name, each in values.items() if name.startswith("variable/")}
        if not of_data or len(variables) == len(values):
            raise
        data = {name: each for name, each in values.items() if name not in variables}
        return taken(lambda given, batch: total(data | dict(given), batch), variables) if variables else {}


def replay_of_loss(
    subject: Subject, path: Any, batch: Any, given: Records, *, float64: bool
) -> Callable[[Move | None], dict[str, np.ndarray]]:
    """Returns a function that gives the loss and its gradient with respect to the truth's predictions.

    Its argument is a move that is applied to the predictions first, or None.
    """
    arrays, dtypes = {}, {}
    for n in range(len(keras.tree.flatten(subject.predictions))):
        dtypes[f"{n}"] = given[f"tested/prediction:{n}"].dtype.name
        arrays[f"{n}"] = rounded(given[f"float64/prediction:{n}"], dtypes[f"{n}"])
    compute = subject.compute_loss(float64=float64)
    x, y, weights = subject.batch(batch, float64=float64)
    own = subject.trained_by == "compute_loss"
    fixed = {name: keras.ops.convert_to_tensor(each) for name, each in arrays.items() if not is_floating(dtypes[name])}

    def function(values: Any, batch: Any) -> Any:
        predictions = [keras.ops.copy((values | fixed)[name]) for name in arrays]
        return compute(batch, keras.tree.pack_sequence_as(subject.predictions, predictions))

    def take(parameters: Any) -> tuple[Any, Any]:
        found: tuple[Any, Any] = path.loss_and_gradients(
            function, parameters, (x if own else keras.ops.zeros(1), y, weights)
        )
        return found

    taken = compiled_if_possible(take)

    def replay(move: Move | None) -> dict[str, np.ndarray]:
        value, gradients = taken(
            {
                name: _tensor(
                    each if move is None else move(each, dtypes[name]), "float64" if float64 else dtypes[name]
                )
                for name, each in arrays.items()
                if name not in fixed
            }
        )
        return {"loss/value": to_numpy(value)} | {f"loss/gradient/{n}": to_numpy(each) for n, each in gradients.items()}

    return replay


def replay_of_update(
    subject: Subject, given: Records, *, float64: bool
) -> Callable[[np.random.Generator | None], dict[str, np.ndarray]]:
    """Returns a function that gives variables and slots after three updates from the truth's gradients.

    Its argument is a random generator that the gradients are moved by, or None.
    """
    model, names = subject.reference if float64 else subject.model, parameters_of(subject.model)
    variables = model.trainable_variables
    exact = [
        rounded(given[f"gradient/{name}"], like.dtype)
        for name, like in zip(names, subject.model.trainable_variables, strict=True)
    ]
    # Gradients are moved by the roundoff of the largest: one that is zero by cancellation is that far off.
    step = eps_of(subject.dtype) * max(rms(each) for each in exact)
    before = [to_numpy(each.value) for each in variables]
    # Stateless, as Keras takes a step on JAX: an optimizer that scales the loss has a branch.
    stateless = keras.config.backend() == "jax"
    by_values = compiled_if_possible(subject.built_optimizer(model).stateless_apply) if stateless else None

    def replay(random: np.random.Generator | None) -> dict[str, np.ndarray]:
        moves = [0.0 if random is None else random.choice([-1.0, 1.0], each.shape) * step for each in exact]
        optimizer = subject.built_optimizer(model)
        weights = [each.value for each in variables]
        slots = [each.value for each in optimizer.variables]
        # Both signs and three sizes: where gradients are clipped, two updates of opposite sign would cancel.
        for factor in (1.0, -0.25, 0.5):
            gradients = [
                _tensor(factor * (each + move), variable.dtype)
                for each, move, variable in zip(exact, moves, variables, strict=True)
            ]
            if by_values is not None:
                weights, slots = by_values(slots, gradients, weights)
            else:
                optimizer.apply(gradients, variables)
                weights, slots = variables, optimizer.variables
        found = {f"update/{name}": to_numpy(each) for name, each in zip(names, weights, strict=True)}
        found |= {f"slot/{name}": to_numpy(each) for name, each in zip(subject.slot_names(), slots, strict=True)}
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return found

    return replay


def compiled_if_possible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function as the backend compiles it; one that cannot be compiled runs as it is.

    Keras compiles no model that holds a layer whose `supports_jit` is false.
    """
    whole, traced = current_backend().compiled(function), True
    if whole is function:
        return function

    def call(*args: Any) -> Any:
        nonlocal traced
        if not traced:
            return function(*args)
        try:
            return whole(*args)
        except Exception:  # noqa: BLE001 - a layer of somebody's own may look at its numbers; or fail, once more.
            found = function(*args)
            traced = False
            return found

    return call


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns an array rounded to another dtype, in float64; integers as they are."""
    if not is_floating(array.dtype) or not is_floating(dtype):
        return array
    with np.errstate(over="ignore"):  # In float16, a backend gets infinity too.
        return np.asarray(array).astype(dtype).astype(np.float64)


def moved_by(array: np.ndarray, dtype: str, random: np.random.Generator) -> np.ndarray:
    """Returns a floating-point array moved by one unit in the last place of a dtype, and any other as it is."""
    return moved(array, dtype, random) if array.dtype.kind == "f" else array


def beside(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns an array moved by about a thousandth of its scale, almost surely off any point without a derivative."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(array + 2.0**-10 * (rms(array) or 1.0) * random.uniform(0.5, 1.0, array.shape))


def nudged(array: np.ndarray, size: float) -> np.ndarray:
    """Returns an array with each element moved by a share of itself, one up and the next down."""
    if array.dtype.kind != "f":
        return array
    # A layer that normalizes would not see that all elements have grown.
    signs = np.where(np.arange(array.size) % 2, 1.0, -1.0).reshape(array.shape)
    return np.asarray(array * (1 + size * signs))


def float_outputs(outputs: Any) -> Iterator[tuple[int, Any]]:
    """The floating-point tensors or `KerasTensor`s of a structure, each with its number."""
    for number, each in enumerate(keras.tree.flatten(outputs)):
        if (keras.ops.is_tensor(each) or isinstance(each, keras.KerasTensor)) and is_floating(
            keras.backend.standardize_dtype(each.dtype)
        ):
            yield number, each


def numbers_of(outputs: Any) -> Iterator[tuple[int, Any]]:
    """The outputs of a structure that can be compared, each with its number; a layer may return None beside them."""
    return ((number, each) for number, each in enumerate(keras.tree.flatten(outputs)) if is_number(each))


def _in_mode(layer: keras.Layer, args: Any, kwargs: Any, *, training: bool) -> Any:
    if not takes_training(layer) or "training" in inspect.signature(layer.call).bind_partial(*args).arguments:
        return kwargs
    # In the model, a layer around this one may have set the mode.
    return {**kwargs, "training": training}


def _tensor(array: np.ndarray, dtype: str) -> Any:
    # Converted by NumPy, since JAX compiles a conversion for each shape.
    return keras.ops.convert_to_tensor(array.astype(dtype), dtype)


def is_number(value: Any) -> bool:
    """Tells whether an output can be compared: a tensor, a number or a boolean."""
    return keras.ops.is_tensor(value) or isinstance(value, bool | int | float)
