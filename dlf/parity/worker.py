"""One backend in a process of its own: builds the model, traces it in float64, and replays each layer by itself.

What is asked of it:

* every layer is judged from the same inputs, incoming gradients, weights and state: those of the truth, rounded to the
  dtype under test, so that what one layer does wrong is not seen in those after it;
* one array at a time goes to disk; nothing of the model is changed for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlf.backend_protocol import Lesson
from dlf.backend_registry import current_backend
from dlf.backend_report import describe_backend
from dlf.errors import InvalidArgumentError
from dlf.files import whole_file
from dlf.float64 import in_float64
from dlf.gradients.model_loss import loss_function, model_loss, parameters_of, to_numpy
from dlf.gradients.value_and_grad import find_path
from dlf.keras_internals import with_mask
from dlf.model_data import make_batch
from dlf.noise_floor import is_floating, moved, rms, widened
from dlf.parity.records import Records
from dlf.parity.subject import Subject
from dlf.parity.taps import Call, Listener, listening
from dlf.randomness import common_randomness, set_seed
from dlf.targets import load_target
from dlf.trees import in_order, ordered_like
from dlf.workers import say, serve

__all__ = ["Worker"]

TWINS = 2
"""How often the truth is moved by a unit in the last place of the dtype under test, to see how far results move."""


class Worker:
    """Answers the requests of `dlf.parity.runner`, in their order."""

    def __init__(self) -> None:
        self._subject: Any = None
        self._calls: dict[str, Call] = {}

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a request."""
        answer: dict[str, Any] = getattr(self, request.pop("do"))(**request)
        return answer

    def build(self, options: dict[str, Any]) -> dict[str, Any]:
        """Builds the model and makes the batches; the same seed gives the same on every backend."""
        self._options = options
        set_seed(options["seed"])
        build, random = load_target(options["target"]), np.random.default_rng(options["seed"])
        own = _own_batches(options, random) if options["data"] else []
        set_seed(options["seed"])
        self._subject = Subject(build, options["loss"], own[0][0] if own else None)
        self._batches = own or [
            make_batch(self._subject.model, self._subject.loss, options["batch"], random)
            for _ in range(options["steps"])
        ]
        self._subject.check_batch(self._batches[0], "--data" if own else "TARGET")
        self._path = find_path(None)
        return {
            **describe_backend(current_backend()),
            **self._subject.describe(),
            "digest": self._subject.digest(),
            "values": {name: _digest(value) for name, value in self._subject.values().items()},
            "batches": [_digest(*keras.tree.flatten(in_order(each))) for each in self._batches],
        }

    def build_again(self) -> dict[str, Any]:
        """Builds the model a second time, as the first time: whoever asks wants to know whether it is the same."""
        keras.utils.clear_session()  # Names are numbered from the beginning.
        set_seed(self._options["seed"])
        return {"digest": self._subject.again().digest()}

    def save_values(self, file: str) -> dict[str, Any]:
        """Writes the values that all backends are to start from."""
        with whole_file(Path(file)) as place:
            np.savez(place, **self._subject.values())
        return {}

    def load_values(self, file: str) -> dict[str, Any]:
        """Reads them."""
        with np.load(file, allow_pickle=False) as stored:
            self._subject.assign(dict(stored))
        return {}

    def trace(self, to: str) -> dict[str, Any]:
        """Runs the whole model in float64, and records what every layer got and gave."""
        say("the whole model in float64")
        records = Records(Path(to))
        with in_float64():
            self._subject.make_twin()
            twin, layers = self._subject.twin, self._subject.twin_layers
            x, y = self._subject.batch(self._batches[0], wide=True)
            loss = model_loss(twin, self._subject.loss_in_float64(), names=parameters_of(self._subject.model))
            with keras.StatelessScope(), listening(Listener(layers)) as listener:
                predictions = in_order(twin(x, training=True))
            for number, each in enumerate(keras.tree.flatten(predictions)):
                records[f"prediction:{number}"] = to_numpy(each)
            taps = {f"{call.key}:{n}": np.zeros(each.shape) for call in listener.calls for n, each in _outputs(call)}
            names = list(parameters_of(self._subject.model))
            parameters = dict(zip(names, parameters_of(twin).values(), strict=True))

            def whole(values: Any, batch: Any) -> Any:
                given = {name: values[f"tap/{name}"] for name in taps}
                with listening(Listener(layers, given)):
                    return loss({name: values[name] for name in names}, batch)

            everything = parameters | {f"tap/{name}": value for name, value in taps.items()}
            value, gradients = self._take(whole, everything, (x, y))
            records["loss"] = to_numpy(value)
            for name in names:
                records[f"gradient/{name}"] = to_numpy(gradients[name])
            for call in listener.calls:
                _record_call(records, call, gradients)
                self._calls[call.key] = call
        records.close()
        return {"calls": [call.key for call in listener.calls], "paths": {c.key: c.path for c in listener.calls}}

    def replay(self, truth: str, to: str, keys: list[str], *, twins: bool) -> dict[str, Any]:
        """Calls each layer by itself from the truth's inputs, in float64 and in the dtype under test."""
        given, records, dtype = Records(Path(truth)), Records(Path(to)), "float32"
        for number, key in enumerate(keys):
            say(f"layer {number + 1} of {len(keys)}")
            with in_float64():
                inputs = _Inputs(self._calls[key], given, dtype)
                _write(records, "float64", key, self._replay_call(inputs, np.float64))
                if twins:
                    random = np.random.default_rng(number)
                    for twin in range(TWINS):
                        _write(records, f"twin{twin}", key, self._replay_call(inputs.moved(random), np.float64))
            with common_randomness():
                _write(records, dtype, key, self._replay_call(inputs, np.float32))
        with in_float64():
            self._replay_loss(given, records, np.float64)
            self._replay_update(given, records, np.float64)
        with common_randomness():
            self._replay_loss(given, records, np.float32)
            self._replay_update(given, records, np.float32)
        records.close()
        return {}

    def replay_beside(self, truth: str, to: str, keys: list[str]) -> dict[str, Any]:
        """Calls layers in float64 from inputs that are moved by a thousandth: off any point without a derivative."""
        given, records = Records(Path(truth)), Records(Path(to))
        with in_float64():
            for number, key in enumerate(keys):
                inputs = _Inputs(self._calls[key], given, "float32")
                inputs.parameters(dict(inputs.named(self._subject.twin_layers[inputs.call.path])))
                beside = inputs.moved(np.random.default_rng(number), _beside)
                _write(records, "float64", key, self._replay_call(beside, np.float64))
        records.close()
        return {}

    def train(self, to: str, *, twins: bool) -> dict[str, Any]:
        """Trains for a few steps by Keras's own `train_on_batch`, in float64 and in the dtype under test."""
        records, start = Records(Path(to)), self._subject.values()
        if not self._subject.model.compiled:
            records.close()
            return {}
        say("training in float64")
        with in_float64():
            self._train(records, "float64", self._subject.twin, start, None)
            for twin in range(TWINS if twins else 0):
                self._subject.twin.compile(
                    optimizer=self._subject.make_optimizer(), loss=self._subject.loss_in_float64(), jit_compile=False
                )
                self._train(records, f"twin{twin}", self._subject.twin, start, np.random.default_rng(twin))
        say("training in float32")
        with common_randomness():
            self._train(records, "float32", self._subject.model, start, None)
        self._subject.assign(start)
        records.close()
        return {}

    def _train(self, records: Records, title: str, model: Any, start: Any, random: Any) -> None:
        wide = model is self._subject.twin
        for variable, value in zip(model.variables[: len(start)], start.values(), strict=True):
            variable.assign(value)
        losses = []
        for step, batch in enumerate(self._batches):
            if random is not None:
                for variable in model.trainable_variables:
                    variable.assign(_moved(to_numpy(variable.value), random))
            x, y = keras.tree.map_structure(np.asarray if not wide else widened, batch)
            # With metrics or several outputs, the loss is the first of a list.
            losses.append(float(np.ravel(model.train_on_batch(x, y))[0]))
            if step == 0:
                self._record_variables(records, f"{title}/step1", model)
        records[f"{title}/losses"] = np.array(losses)
        self._record_variables(records, f"{title}/end", model)

    def _record_variables(self, records: Records, title: str, model: Any) -> None:
        for name, variable in zip(self._subject.names, model.variables, strict=False):
            if "float" in variable.dtype:
                records[f"{title}/{name}"] = to_numpy(variable.value)

    def _take(self, function: Any, parameters: Any, batch: Any) -> Any:
        # Run an operation at a time, JAX compiles each by itself.
        take = self._path.loss_and_gradients
        if keras.config.backend() == "jax" and isinstance(self._path, Lesson):
            take = self._path.compiled(take)
        return take(function, parameters, batch)

    def _replay_call(self, inputs: _Inputs, kind: Any) -> dict[str, np.ndarray]:
        """The outputs, the state after, and the gradients by inputs and variables, of one call."""
        wide = kind is np.float64
        layer = (self._subject.twin_layers if wide else self._subject.layers)[inputs.call.path]
        variables = dict(inputs.named(layer))
        parameters = {name: value.astype(kind) for name, value in inputs.parameters(variables).items()}

        def run(values: Any) -> tuple[Any, Any]:
            mapping = [(variable, values[f"variable/{name}"]) for name, variable in variables.items()]
            mapping += list(zip(layer.non_trainable_variables, inputs.state, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                args, kwargs = inputs.arguments(values)
                outputs = in_order(layer(*args, **kwargs))
                after = [scope.get_current_value(each) for each in layer.non_trainable_variables]
            return outputs, after

        def function(values: Any, _: Any) -> Any:
            outputs, _state = run(values)
            flat = dict(_float_outputs(outputs))
            return sum(
                keras.ops.sum(flat[n] * inputs.incoming(n, flat[n])) for n in inputs.incoming_numbers if n in flat
            )

        tensors = {name: keras.ops.convert_to_tensor(value) for name, value in parameters.items()}
        outputs, after = run(tensors)
        found = {f"forward/{n}": to_numpy(each) for n, each in enumerate(keras.tree.flatten(outputs))}
        for variable, value in zip(layer.non_trainable_variables, after, strict=True):
            found[f"state/{variable.path.rsplit('/', 1)[-1]}"] = to_numpy(value)
        if parameters and inputs.incoming_numbers:
            _, gradients = self._path.loss_and_gradients(function, parameters, (np.zeros(1, kind), np.zeros(1, kind)))
            found |= {f"gradient/{name}": to_numpy(each) for name, each in gradients.items()}
        return found

    def _replay_loss(self, given: Records, records: Records, kind: Any) -> None:
        """The loss and its gradient by the predictions, from the truth's predictions."""
        model = self._subject.twin if kind is np.float64 else self._subject.model
        x, y = self._subject.batch(self._batches[0], wide=kind is np.float64)
        structure = in_order(model(x, training=False))
        count = len(keras.tree.flatten(structure))
        parameters = {f"{n}": given[f"prediction:{n}"].astype(np.float32).astype(kind) for n in range(count)}
        loss = self._subject.loss_in_float64() if kind is np.float64 else self._subject.loss
        compute = loss_function(loss)

        def function(values: Any, batch: Any) -> Any:
            predictions = keras.tree.pack_sequence_as(structure, [values[f"{n}"] for n in range(count)])
            return compute(batch[1], predictions)

        value, gradients = self._path.loss_and_gradients(function, parameters, (np.zeros(1, kind), y))
        title = np.dtype(kind).name
        records[f"{title}/loss/value"] = to_numpy(value)
        for name, gradient in gradients.items():
            records[f"{title}/loss/gradient/{name}"] = to_numpy(gradient)

    def _replay_update(self, given: Records, records: Records, kind: Any) -> None:
        """Two updates by the optimizer, from the truth's gradients."""
        if not self._subject.model.compiled:
            return
        model = self._subject.twin if kind is np.float64 else self._subject.model
        optimizer, title = self._subject.make_optimizer(), np.dtype(kind).name
        before = [to_numpy(each.value) for each in model.trainable_variables]
        names = list(parameters_of(self._subject.model))
        gradients = [given[f"gradient/{name}"].astype(np.float32).astype(kind) for name in names]
        optimizer.build(model.trainable_variables)
        for factor in (1.0, -0.25):
            optimizer.apply(
                [keras.ops.convert_to_tensor(kind(factor) * each) for each in gradients], model.trainable_variables
            )
        for name, variable in zip(names, model.trainable_variables, strict=True):
            records[f"{title}/update/{name}"] = to_numpy(variable.value)
        for number, variable in enumerate(optimizer.variables):
            records[f"{title}/slot/{number}:{variable.path.split('/', 1)[-1]}"] = to_numpy(variable.value)
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)


def _moved(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return moved(array, np.float32, random) if is_floating(array.dtype) else array


def _beside(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    return np.asarray(array + 2.0**-10 * (rms(array) or 1.0) * random.uniform(0.5, 1.0, array.shape))


class _Inputs:
    """What a call is replayed from: the truth's arrays, rounded to the dtype under test."""

    def __init__(self, call: Call, given: Records, dtype: str) -> None:
        self.call, self._dtype = call, dtype
        count = len(keras.tree.flatten(call.asked))
        self._tensors = {
            n: self._rounded(given[f"{call.key}/in:{n}"]) for n in range(count) if f"{call.key}/in:{n}" in given
        }
        self._masks = {n: given[f"{call.key}/mask:{n}"] for n in range(count) if f"{call.key}/mask:{n}" in given}
        self.state = [given[f"{call.key}/state:{n}"] for n in range(len(call.state))]
        self._incoming = {
            n: self._rounded(given[f"{call.key}/incoming:{n}"])
            for n in range(len(keras.tree.flatten(call.outputs)))
            if f"{call.key}/incoming:{n}" in given
        }
        self.incoming_numbers = list(self._incoming)
        self._variables: dict[str, np.ndarray] | None = None

    def _rounded(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self._dtype) if array.dtype.kind == "f" else array

    def named(self, layer: Any) -> Iterator[tuple[str, Any]]:
        """The layer's trainable variables, by the ends of their paths."""
        names: dict[str, int] = {}
        for variable in layer.trainable_variables:
            # Below the layer's own name, which the twin may have another of.
            name = variable.path.split(f"{layer.name}/", 1)[-1]
            names[name] = names.get(name, 0) + 1
            yield (name if names[name] == 1 else f"{name}_{names[name]}"), variable

    def parameters(self, variables: Any) -> dict[str, np.ndarray]:
        """Inputs and variables that a gradient is taken by."""
        if self._variables is None:
            self._variables = {f"variable/{name}": to_numpy(each.value) for name, each in variables.items()}
        inputs = {f"input/{n}": each for n, each in self._tensors.items() if each.dtype.kind == "f"}
        return inputs | self._variables

    def arguments(self, values: Any) -> Any:
        """The arguments of the call, with these inputs in their places."""
        flat = list(keras.tree.flatten(self.call.asked))
        for n, array in self._tensors.items():
            tensor = values[f"input/{n}"] if array.dtype.kind == "f" else keras.ops.convert_to_tensor(array)
            mask = self._masks.get(n)
            flat[n] = tensor if mask is None else with_mask(tensor * 1, keras.ops.convert_to_tensor(mask))
        return ordered_like(keras.tree.pack_sequence_as(self.call.asked, flat), self.call.as_given)

    def incoming(self, number: int, like: Any) -> Any:
        """The incoming gradient by an output, in its dtype."""
        return keras.ops.cast(keras.ops.convert_to_tensor(self._incoming[number]), like.dtype)

    def moved(self, random: np.random.Generator, move: Callable[..., np.ndarray] = _moved) -> _Inputs:
        """The same, with everything of floating point moved; by default by a unit in the last place."""
        other = object.__new__(_Inputs)
        other.__dict__ |= self.__dict__
        other._tensors = {n: move(each, random) for n, each in self._tensors.items()}
        other._variables = {name: move(each, random) for name, each in (self._variables or {}).items()}
        other._incoming = {n: move(each, random) for n, each in self._incoming.items()}
        return other


def _own_batches(options: dict[str, Any], random: np.random.Generator) -> list[Any]:
    make = load_target(options["data"], "--data")
    batches = [make(options["batch"], random) for _ in range(options["steps"])]
    for each in batches:
        if not isinstance(each, tuple) or len(each) != 2:  # noqa: PLR2004 - x and y.
            raise InvalidArgumentError("--data", expected="a function (batch size, random) -> (x, y)", received=each)
    return batches


def _record_call(records: Records, call: Call, gradients: Any) -> None:
    for n, (value, mask) in enumerate(zip(keras.tree.flatten(call.asked), call.masks, strict=True)):
        if keras.ops.is_tensor(value):
            records[f"{call.key}/in:{n}"] = to_numpy(value)
        if mask is not None:
            records[f"{call.key}/mask:{n}"] = to_numpy(mask)
    for n, value in enumerate(call.state):
        records[f"{call.key}/state:{n}"] = to_numpy(value)
    for n, _ in _outputs(call):
        records[f"{call.key}/incoming:{n}"] = to_numpy(gradients[f"tap/{call.key}:{n}"])


def _outputs(call: Call) -> Iterator[tuple[int, Any]]:
    return _float_outputs(call.outputs)


def _float_outputs(outputs: Any) -> Iterator[tuple[int, Any]]:
    for number, each in enumerate(keras.tree.flatten(outputs)):
        if keras.ops.is_tensor(each) and "float" in keras.backend.standardize_dtype(each.dtype):
            yield number, each


def _write(records: Records, title: str, key: str, found: dict[str, np.ndarray]) -> None:
    for name, array in found.items():
        records[f"{title}/{key}|{name}"] = array


def _digest(*arrays: Any) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


if __name__ == "__main__":
    serve(Worker().respond)
