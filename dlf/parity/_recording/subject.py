"""The model under test in one backend's process: as it is, and as its float64 reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import (
    decay_of_weights,
    float32_widened,
    functions_heard,
    tensorflow_hidden,
    tensors_freed,
)
from dlf.check.advice import explained
from dlf.models.layers import layers_by_path
from dlf.models.model_loss import check_model, computed_loss, has_own, loss_function, to_numpy, weights_of_losses
from dlf.models.synthetic_data import DATA_ADVICE, make_batch, remembered_inputs
from dlf.numerics.float64 import float64_reference, hand_over, holds_the_same
from dlf.numerics.noise_floor import is_floating, kind_of, widened
from dlf.parity._answers import Described, Outputs
from dlf.parity._known import known_differences
from dlf.parity._recording.batches import Batch, adds_up_to_one, batch_in_float64
from dlf.parity._recording.steps import fit_on
from dlf.parity._recording.taps import Call, Listener, listening
from dlf.parity._recording.text import Ahead, behind_text
from dlf.utils.errors import InvalidArgumentError, UnknownInputsError
from dlf.utils.files import without_nan
from dlf.utils.trees import mapped, with_sorted_keys

__all__ = ["Subject", "outputs_alone", "path_of", "plain_config", "stays_in_own_dtype"]


class Subject:
    """One model in two precisions, whose variables and layers are found by the same names.

    Args:
        build: A function that builds the model; with ``anew=True``, after its module was run once more.
        loss: A loss for a model that is not compiled.
        inputs: Gives what a model may be called on whose variables are made then; it takes one of them.

    Raises:
        InvalidArgumentError: There is no model, or it cannot be compared; the message says what to do.
    """

    def __init__(
        self, build: Callable[..., Any], loss: str | None, inputs: Callable[[Any], Iterable[Any]] = lambda _: ()
    ) -> None:
        self._build, self._asked_loss, self._inputs = build, loss, inputs
        self.is_never_called = False
        self.whole: Any = None  # With its text: the script trains this one.
        self.lookups: list[str] = []
        self.ahead: Ahead = lambda x: x
        self.model = self._built()
        check_model(self.model, is_trained=False)
        own = self.model.loss if self.compiled else None
        if loss and own is not None:
            raise InvalidArgumentError(
                "--loss", expected="none, for a model that was compiled with one", received=loss, advice="Leave it out."
            )
        if loss and self.compiled:
            self.model.compile(optimizer=self.model.optimizer, loss=loss)
        self.loss = loss or own
        self.trained_by = self._trained_by()
        # Keras returns dictionaries and lists of its own classes.
        if isinstance(self.loss, dict):
            self.loss = dict(self.loss)
        elif isinstance(self.loss, list):
            self.loss = list(self.loss)
        self._loss_weights = self._weights_of_losses() if self.compiled else None
        self.layers = layers_by_path(self.model)
        self.names = [f"{number}:{path_of(variable)}" for number, variable in enumerate(self.model.variables)]
        self.takes_batches = self.takes_all = False
        self.reference: Any = None
        self.predictions: Any = None

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled, and has something to train: all of it may be frozen."""
        return bool(self.model.compiled and self.model.trainable_variables)

    @property
    def has_call(self) -> bool:
        """Whether the model can be called, and not only trained by a step of its own."""
        return has_own(self.model, "call") and not self.is_never_called

    @property
    def dtype(self) -> str:
        """The floating-point dtype that the model computes in."""
        return str(self.model.compute_dtype) if is_floating(self.model.compute_dtype) else "float32"

    def _trained_by(self) -> str:
        """What gives the gradients that the model is trained by: loss, `compute_loss`, `train_step`, or nothing."""
        if self.has_call and not self.model.trainable_variables:
            return "nothing"
        if not self.has_call and has_own(self.model, "train_step"):
            return "train_step"
        if self.loss is not None:
            return "loss"
        # A model that is compiled without a loss may be trained by what its layers add.
        if has_own(self.model, "compute_loss") or (self.model.compiled and not has_own(self.model, "train_step")):
            return "compute_loss"
        if has_own(self.model, "train_step"):
            return "train_step"
        if self.model.compiled or not self.has_call:
            raise self._no_loss()
        return "nothing"

    def _no_loss(self) -> InvalidArgumentError:
        return InvalidArgumentError("loss", expected="a model that was compiled with a loss, or --loss", received=None)

    def expect(self, batch: Batch) -> None:
        """Raises an error if the loss compares with targets and the batch has none.

        Args:
            batch: ``(x, y, sample_weight)``.

        Raises:
            InvalidArgumentError: There are no targets.
        """
        if self.trained_by == "loss" and batch[1] is None:
            # One of the model's own makes its targets itself, and may use `loss` for anything.
            own = [each for each in ("compute_loss", "train_step") if has_own(self.model, each)]
            if not own:
                raise InvalidArgumentError(
                    "--data",
                    expected="a function that returns targets too, which the loss compares with",
                    received=None,
                )
            self.trained_by = own[0]

    def _built_apart(self) -> Any:
        """Builds a model that shares no variable with the first: layers at module level are those of every build."""
        mine, model = {id(each) for each in self.model.variables}, self._built()
        return self._built(anew=True) if any(id(each) in mine for each in model.variables) else model

    def _built(self, *, anew: bool = False) -> Any:
        """Builds the model, with all its variables."""
        model = self._build(anew=True) if anew else self._build()
        if isinstance(model, keras.Model):
            self.whole = model
            model, self.lookups, self.ahead = behind_text(model)
        if isinstance(model, keras.Model) and not has_own(model, "call"):
            # A model that only holds others, which its own step calls, is never called itself.
            model.built = model.built or all(map(_has_its_variables, layers_by_path(model).values()))
        elif isinstance(model, keras.Model) and not _is_whole(model):
            self._make_variables(model)
        elif isinstance(model, keras.Model):
            _make_variables_inside(model)
        return model

    def _make_variables(self, model: keras.Model) -> None:
        """Calls a model on what it takes, so that it has all its variables."""
        remembered = remembered_inputs(model, 1, np.random.default_rng(0))
        # A step of its own may call the models that it holds, and `call` be for what is generated later.
        may_never_be_called = has_own(model, "train_step") and all(
            map(_has_its_variables, layers_by_path(model).values())
        )
        try:
            called = _call_on_one_of(model, chain(self._inputs(model), () if remembered is None else (remembered,)))
        except Exception:
            if not may_never_be_called:
                raise
            model.built = called = self.is_never_called = True
        if not called:
            raise UnknownInputsError(
                "model",
                expected="a model that is built, and its layers too",
                received=model,
                advice=f"Give it an Input, or call it on a batch before it is returned; or {DATA_ADVICE}",
            )

    def again(self) -> Subject:
        """Returns a second subject, built in the same way as this one."""
        return Subject(self._build, self._asked_loss, self._inputs)

    def contents(self) -> dict[str, str]:
        """Returns the model's layers, variables and configuration as texts by their places, for comparing two builds.

        The numbers of names that count up in a process, such as ``dense_3``, are left out.
        """
        try:
            with tensorflow_hidden():
                config = with_sorted_keys(keras.saving.serialize_keras_object(self.model))
        except Exception:  # noqa: BLE001 - a layer's own get_config may raise anything, and hold keys of any kind.
            config = None
        found = keras.tree.flatten_with_path([with_sorted_keys(self.describe()), config])

        def plain(text: str) -> str:
            # Without addresses, which appear where there are functions.
            return re.sub(r"0x[0-9a-f]+|(?<=[a-z])_[0-9]+(?=CLONE\b|\b)", "", text)

        places = {".".join(map(str, path[1:])): value for path, value in found}
        # Python writes the code of the same lambda in other bytes at another time.
        return {plain(place): plain(repr(value)) for place, value in places.items() if not place.endswith(_OF_LAMBDA)}

    def outputs_for(self, batch: Any, argument: str) -> Outputs:
        """Returns what the model gives for a batch, in JSON's types.

        Args:
            batch: ``(x, y, sample_weight)``.
            argument: The argument that the batch comes from, for the error message.

        Returns:
            Its outputs, and what its layers give and call on the way.

        Raises:
            InvalidArgumentError: The model does not accept the batch.
        """
        if not self.has_call:
            return {"outputs": [], "given": [], "refused": None, "functions": {}, "assigned": []}
        tensors = self.batch(batch, float64=False)
        has_loss = self.trained_by in {"loss", "compute_loss"}
        compute, refused = self.compute_loss(float64=False) if has_loss else None, None

        def refusal(error: Exception) -> InvalidArgumentError:
            return InvalidArgumentError(
                argument,
                expected="a batch that the model and its loss take",
                received=mapped(np.shape, tuple(each for each in batch if each is not None)),
                advice=f"{self._outside_of_a_table(batch[0])}\n{explained(error)}",
            )

        given: list[Any] = []
        functions: dict[str, list[Any]] = {}

        def hear_function(name: str, arguments: Mapping[str, Any]) -> None:
            called = [name, _plain_arguments(arguments)]
            mine = functions.setdefault(listener.inside or "", [])
            if called not in mine:
                mine.append(called)

        def hear(call: Call) -> None:
            given.append([call.key, call.path, [_spec_of(each) for each in keras.tree.flatten(call.outputs)]])

        listener = Listener(self.layers, hear=hear)
        known = {name for each in known_differences() for name in each.functions}
        with outputs_alone(self.model) as scope, functions_heard(known, hear_function):
            variables = self.model.trainable_variables
            before = [scope.get_current_value(each) for each in variables]
            try:
                with listening(listener):
                    predictions = with_sorted_keys(self.model(tensors[0], training=False))
            except Exception as error:
                raise refusal(error) from error
            after = [scope.get_current_value(each) for each in variables]
            try:
                if compute is not None:
                    compute(tensors, predictions)
            except Exception as error:
                if self.loss is None and not has_own(self.model, "compute_loss"):
                    raise self._no_loss() from error
                refused = str(refusal(error))
        # The model itself comes last: its call may end in another framework's tensors where no layer's does.
        given.append(["", None, [_spec_of(each) for each in keras.tree.flatten(predictions)]])
        outputs = [
            [".".join(map(str, place)), list(each.shape), kind_of(keras.backend.standardize_dtype(each.dtype))]
            for place, each in keras.tree.flatten_with_path(predictions)
        ]
        changed = zip(variables, before, after, strict=True)
        return {
            "outputs": outputs,
            "given": given,
            "refused": refused,
            "functions": functions,
            "assigned": [each.path for each, one, other in changed if one is not other],
        }

    def _outside_of_a_table(self, x: Any) -> str:
        """A sentence on an index in the inputs that no embedding of the model has a row for; empty if there is none."""
        tables = {path: each for path, each in self.layers.items() if isinstance(each, keras.layers.Embedding)}
        largest = max((int(np.max(each)) for each in keras.tree.flatten(x) if _holds_indices(each)), default=0)
        for path, table in tables.items():
            if largest >= table.input_dim:
                return (
                    f"An index is {largest}, and the table of {path} has {table.input_dim} rows: PyTorch and "
                    "TensorFlow raise an error, and JAX gives NaN."
                )
        return ""

    def compute_loss(self, *, float64: bool) -> Callable[[Any, Any], Any]:
        """What the model, or its reference, is trained by, as a function of a batch and predictions.

        A loss is computed alone, without penalties; a `compute_loss` of the model's own after a call of the model,
        which may leave something behind for it.
        """
        model = self.reference if float64 else self.model
        if self.trained_by == "compute_loss":

            def compute(batch: Any, predictions: Any) -> Any:
                x, y, weights = batch
                # The values are given, since a penalty on weights asks the scope for them.
                values = [(each, keras.ops.stop_gradient(each.value)) for each in model.trainable_variables]
                with keras.StatelessScope(values, collect_losses=True):
                    model(x, training=True)
                    if not has_own(model, "compute_loss") and not model.losses:
                        raise self._no_loss()  # On JAX, Keras trains by a loss of zero then.
                    return computed_loss(model, x, y, predictions, weights)

            return compute
        loss = loss_function(self.loss, model, self._loss_weights)
        return lambda batch, predictions: loss(batch[1], predictions, batch[2])

    def describe(self) -> Described:
        """Returns what backends are compared by at the stage `build`: variables and layers, in JSON's types."""
        holders: dict[int, str] = {}
        for path, layer in self.layers.items():
            for variable in layer.variables:
                # The innermost layer is kept; a Sequential holds its layers a second time, in a model of its own.
                if path.startswith(holders.get(id(variable), "")):
                    holders[id(variable)] = path
        return {
            "variables": [
                {
                    "path": path_of(each),
                    "layer": holders.get(id(each)),
                    "shape": list(each.shape),
                    "dtype": _dtype_of(each),
                    "trainable": bool(each.trainable),
                }
                for each in self.model.variables
            ],
            "layers": [
                {
                    "path": path,
                    "class": type(layer).__name__,
                    "dtype": layer.compute_dtype,
                    "parameters": layer.count_params() if layer.built else 0,
                    "config": plain_config(layer),
                    "metrics": [each.name for each in layer.metrics],
                }
                for path, layer in self.layers.items()
            ],
        }

    def values(self) -> dict[str, np.ndarray]:
        """Returns all variables by name."""
        return {name: to_numpy(each.value) for name, each in zip(self.names, self.model.variables, strict=True)}

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Assigns other values to the model, and lets its layers derive again what they hold outside of variables.

        That may change variables, which are therefore assigned twice.
        """
        for again in (False, True):
            if again:
                hand_over(self.model, self.model)
            for name, variable in zip(self.names, self.model.variables, strict=True):
                variable.assign(values[name])

    def make_reference(self) -> None:
        """Makes the float64 reference from the model's current values; to be called inside `in_float64`."""
        # A model's own `compile` may take any arguments: then the whole function is run again, in float64.
        compiles_itself = self.compiled and has_own(self.model, "compile")
        # What the function of a Lambda needs beside its code is not in the configuration either.
        by_function = compiles_itself or any(isinstance(each, keras.layers.Lambda) for each in self.layers.values())
        try:
            self.reference = float64_reference(self.model, self._built_apart if by_function else None)
        except InvalidArgumentError:
            self.reference = float64_reference(self.model, self._built_apart)
        if not by_function and not holds_the_same(self.model, self.reference):
            # Attributes that the user's function has set are not in the configuration.
            again = float64_reference(self.model, self._built_apart)
            self.reference = again if again.compute_dtype == self.reference.compute_dtype else self.reference
        self.reference_layers = dict(zip(self.layers, layers_by_path(self.reference).values(), strict=True))
        # Only of layers that hold no others: an error in one of these is its own.
        self._own_dtypes = {
            id(self.reference_layers[path]): layer.compute_dtype
            for path, layer in self.layers.items()
            if not layers_by_path(layer)
        }
        if self.compiled and not compiles_itself:
            self.reference.compile(
                optimizer=self.make_optimizer(self.reference),
                loss=self.loss,
                loss_weights=self._loss_weights,
                run_eagerly=self.model.run_eagerly,
                # Not all metrics compute in float64. Where there are none, Keras would build a model for empty lists.
                **({"metrics": [], "weighted_metrics": []} if _has_compiled_metrics(self.reference) else {}),
            )

    def call_in_what_there_is(self, original: Callable[..., Any], layer: keras.Layer, args: Any, kwargs: Any) -> Any:
        """Calls a layer of the reference, in the model's own dtype where the framework does not support float64 for it.

        Its variables keep their dtype. The layer computes in the model's dtype from then on, and is judged like any
        other layer without a float64 form.
        """
        own = self._own_dtypes.get(id(layer))
        try:
            return original(layer, *args, **kwargs)
        except Exception:
            policy = layer.dtype_policy
            if own is None or policy.compute_dtype == own:
                raise
            layer.dtype_policy = _ComputesIn(own, policy.variable_dtype)
            try:
                return original(layer, *args, **kwargs)
            except Exception:  # noqa: BLE001 - the dtype is not why: the first error says more.
                layer.dtype_policy = policy
            raise

    def make_optimizer(self, model: Any) -> Any:
        """A new optimizer like the model's own, for the model or its reference, in Keras's current precision."""
        own = self.model.optimizer
        kinds = {type(each).__name__: type(each) for each in vars(own).values() if hasattr(each, "get_config")}
        try:
            with keras.saving.custom_object_scope(kinds), tensorflow_hidden():
                made = type(own).from_config(own.get_config())
        except Exception as error:
            # One of somebody's own may have no configuration, or fix an argument: then from another call of the target.
            made = self._built_apart().optimizer
            made = self._built(anew=True).optimizer if made is own else made
            if made.built:
                raise InvalidArgumentError(
                    "optimizer",
                    expected="one that can be made anew from its get_config, or that the target makes at each call",
                    received=own,
                    advice=f"\n{explained(error)}",
                ) from error
        # Keras wraps an optimizer that scales the loss around another.
        inner = getattr(made, "inner_optimizer", made)
        decays = decay_of_weights(getattr(own, "inner_optimizer", own))
        if decays is not None:
            # `exclude_from_weight_decay` is not in the configuration.
            pairs = zip(self.model.trainable_variables, model.trainable_variables, strict=True)
            inner.exclude_from_weight_decay(var_list=[other for one, other in pairs if not decays(one)])
        # A variable that stays float32 has float32 slots, to which TensorFlow does not add float64.
        if model is self.reference and not any(map(stays_in_own_dtype, model.trainable_variables)):
            inner.apply = _widened_throughout(inner.apply)
            inner.add_variable = _widened_if_named(inner.add_variable)
        return made

    def built_optimizer(self, model: Any) -> Any:
        """A new optimizer like the model's own, with its slots built."""
        optimizer = self.make_optimizer(model)
        optimizer.build(model.trainable_variables)
        return optimizer

    def _weights_of_losses(self) -> Any:
        try:
            return weights_of_losses(self.model)
        except InvalidArgumentError:
            # Keras cannot serialize the arguments of `compile`; a single loss hardly ever has weights.
            if isinstance(self.loss, dict | list | tuple):
                raise
            return None

    def slot_names(self) -> list[str]:
        """The names of the optimizer's variables, numbered; the reference's optimizer may have other names."""
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        names = [each.path.split("/", 1)[-1] for each in optimizer.variables]
        # Keras numbers variables without a name, such as one of Nadam's, in each process by itself.
        return [f"{number}:{re.sub(r'^variable_[0-9]+$', 'variable', name)}" for number, name in enumerate(names)]

    def fit(self, model: Any, batch: Batch) -> Any:
        """Trains the model, or its reference, by Keras's own `fit` on one batch, handed over as the script does it.

        Returns:
            The history: for each metric, the list of its one value.
        """
        return fit_on(model, batch, takes_all=self.takes_all, takes_batches=self.takes_batches)

    def batch(self, arrays: Batch, *, float64: bool) -> Any:
        """A batch as tensors; for the reference, its floating-point arrays in float64."""
        return mapped(keras.ops.convert_to_tensor, batch_in_float64(arrays) if float64 else arrays)


def path_of(variable: Any) -> str:
    """The path of a variable, without the number of a seed generator.

    These are numbered in the whole process, and a layer may make more of them on one backend.

    Args:
        variable: A variable of Keras's.
    """
    return re.sub(r"\bseed_generator_\d+/", "seed_generator/", variable.path)


def _dtype_of(variable: Any) -> str:
    """The dtype that a variable has: JAX makes a float64 one float32 where float64 is not enabled."""
    return str(keras.backend.standardize_dtype(variable.value.dtype if is_floating(variable.dtype) else variable.dtype))


def _has_compiled_metrics(model: keras.Model) -> bool:
    return any(type(each).__name__ == "CompileMetrics" for each in model.metrics)


def _call_on_one_of(model: Any, given: Iterable[Any]) -> bool:
    """Calls a model on the first of several inputs that it takes; if it takes none, the error is the first one's.

    Returns:
        Whether there was one.
    """
    first: Exception | None = None
    for x in given:
        try:
            model(mapped(keras.ops.convert_to_tensor, x))
        except Exception as error:  # noqa: BLE001 - a model may raise anything.
            first = first or error
        else:
            return True
    if first is not None:
        raise first
    return False


def _widened_throughout(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an optimizer's `apply` with float32 replaced by float64: many schedules cast the step to float32."""

    def applied(*args: Any, **keywords: Any) -> Any:
        with float32_widened():
            return apply(*args, **keywords)

    return applied


def _widened_if_named(add_variable: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an optimizer's `add_variable` that makes float64 of a dtype that is named float32."""

    def added(*args: Any, **keywords: Any) -> Any:
        dtype = keywords.get("dtype")
        if dtype is not None and keras.backend.standardize_dtype(dtype) == "float32":
            keywords["dtype"] = "float64"
        return add_variable(*args, **keywords)

    return added


def stays_in_own_dtype(number: Any) -> bool:
    """Tells whether a variable or a tensor of a float64 reference stays in a narrower floating-point or complex dtype.

    The variables of LoRA are float32 whatever the policy is.

    Args:
        number: A variable or a tensor of a model in float64.
    """
    dtype = keras.backend.standardize_dtype(number.dtype)
    return dtype == "complex64" or (is_floating(dtype) and dtype != "float64")


_OF_LAMBDA = "function.config.code"
_TINY = 1e-7
"""Keras's epsilon, to which losses clip probabilities."""


def _plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The strings and numbers among a function's arguments, and what `KnownDifference` calls by names of its own."""
    plain = {name: each for name, each in arguments.items() if isinstance(each, bool | int | float | str)}
    tensors = [each for name, each in arguments.items() if name != "target" and keras.ops.is_tensor(each)]
    floating = [each for each in tensors if is_floating(keras.backend.standardize_dtype(each.dtype))]
    unseeing = {"unseeing": _sees_nothing(arguments["mask"])} if "mask" in arguments else {}
    target = _values_of(arguments["target"]) if keras.ops.is_tensor(arguments.get("target")) else None
    distribution = {} if target is None or not target.ndim else {"distribution": adds_up_to_one(target)}
    return (
        plain
        | {"clipped": any(map(_has_clipped, floating)), "probabilities": all(map(_are_probabilities, floating))}
        | unseeing
        | distribution
    )


def _sees_nothing(mask: Any) -> bool:
    """Whether an attention's mask has a row that leaves nothing to attend to."""
    values = None if mask is None else _values_of(mask)
    return values is not None and not values.astype(bool).any(axis=-1).all()


def _has_clipped(tensor: Any) -> bool:
    """Whether a tensor holds a number so near to zero or one that Keras's crossentropies clip it."""
    values = _values_of(tensor)
    if values is None:
        return False
    values = widened(values)
    return bool((np.minimum(np.abs(values), np.abs(1 - values)) < _TINY).any())


def _are_probabilities(tensor: Any) -> bool:
    """Whether the last axis of a tensor may hold probabilities, which are not negative, and whose sum is one."""
    values = _values_of(tensor)
    if values is None or not values.ndim:
        return True
    sums = widened(values).sum(axis=-1)
    return bool((values >= 0).all() and np.allclose(sums, 1, atol=1e-2))


def _values_of(tensor: Any) -> np.ndarray | None:
    """The values of a tensor, or None inside a loop that the backend traces, where it has none yet."""
    try:
        return to_numpy(tensor)
    except Exception:  # noqa: BLE001 - each framework raises its own.
        return None


def _spec_of(output: Any) -> list[Any]:
    """The dtype and shape of an output of a layer; of a tensor of another framework, its class, and that framework."""
    if not keras.ops.is_tensor(output):
        foreign = hasattr(output, "shape") and not isinstance(output, np.ndarray | np.generic)
        return [type(output).__name__, [], *[type(output).__module__.partition(".")[0]] * foreign]
    return [kind_of(keras.backend.standardize_dtype(output.dtype)), list(output.shape)]


class _ComputesIn(keras.DTypePolicy):  # type: ignore[misc]  # Keras has no types.
    """A dtype policy with one dtype for computing and one for variables, as the mixed policies have."""

    def __init__(self, compute: str, variable: str) -> None:
        super().__init__(variable)
        self._narrow = compute

    @property
    def compute_dtype(self) -> str:
        """The dtype that a layer computes in."""
        return self._narrow


@contextmanager
def outputs_alone(model: keras.Model) -> Iterator[keras.StatelessScope]:
    """Lets a model be called for its outputs only: its variables do not change, and tensors are freed early."""
    # PyTorch would keep tensors for the gradients of trainable variables.
    values = [(each, keras.ops.stop_gradient(each.value)) for each in model.trainable_variables]
    with keras.StatelessScope(state_mapping=values) as scope, tensors_freed():
        yield scope


def _holds_indices(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size > 0


def _is_whole(model: keras.Model) -> bool:
    # `build` marks a subclassed model as built, but may leave its layers unbuilt. A model that was made by calling its
    # layers has all its variables, whatever their `built` says.
    is_made = bool(getattr(model, "inputs", None))
    return model.built and (is_made or all(map(_has_its_variables, layers_by_path(model).values())))


def _make_variables_inside(model: keras.Model) -> None:
    """Calls a model whose inputs are known, if some layer has no variables yet: a recurrent cell of somebody's own.

    It makes its layers' variables where it is called, which Keras does not do to find the shape of what it gives. And
    a layer of somebody's own may do so although it says that it is built.
    """
    layers = layers_by_path(model).values()
    if all(_has_its_variables(each) and type(each).__module__.startswith("keras.") for each in layers):
        return
    values = [(each, to_numpy(each.value)) for each in model.variables]
    with suppress(Exception):  # Not all that says that it is unbuilt has to be called.
        x, _ = make_batch(model, None, 1, np.random.default_rng(0))
        model(mapped(keras.ops.convert_to_tensor, x))
    for variable, value in values:
        variable.assign(value)


def _has_its_variables(layer: keras.Layer) -> bool:
    # Without a `build` of its own it makes none.
    return layer.built or type(layer).build is keras.Layer.build


def _name_of_function(value: Any) -> Any:
    """The name of a function that Keras has serialized, and anything else as it is."""
    is_function = isinstance(value, dict) and value.get("class_name") == "function"
    return str(value["config"]) if is_function else value


def plain_config(layer: Any) -> dict[str, Any]:
    """The numbers and strings in the configuration of a layer or an optimizer, for people and for known differences."""
    try:
        with tensorflow_hidden():
            config = layer.get_config()
    except Exception:  # noqa: BLE001 - somebody's own get_config may raise anything.
        return {}
    simple = (bool, int, float, str)
    plain = {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in ((name, _name_of_function(value)) for name, value in config.items())
        if name not in {"name", "trainable"}
        and (
            isinstance(value, simple) or (isinstance(value, list | tuple) and all(isinstance(x, simple) for x in value))
        )
    }
    found: dict[str, Any] = without_nan(plain)
    return found
