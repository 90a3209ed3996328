"""One backend in a process of its own: builds the model, traces it in float64, and replays each part by itself.

Requirements:

* every layer, the loss and the optimizer are judged from the same inputs, incoming gradients, weights and state: those
  of the truth, rounded to the dtype under test, so that an error in one does not show in those after it;
* arrays are written to disk one at a time; the model is not changed for good;
* a worker answers for many models, one after the other.
"""

from __future__ import annotations

import hashlib
import pickle
import random as random_stream
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import float32_widened
from dlf.backend.registry import current_backend
from dlf.backend.report import describe_backend
from dlf.gradients.value_and_grad import find_path
from dlf.models.model_loss import has_own, model_loss, parameters_of, to_numpy
from dlf.models.synthetic_data import make_batch
from dlf.models.targets import script_behind
from dlf.numerics.float64 import in_float64
from dlf.numerics.noise_floor import PERTURBATIONS, STEPS, is_floating, scale_of, widened, with_whole_kept
from dlf.parity._answers import BuildAnswer, CallAnswer, Described, Outputs, TraceAnswer, ValueSummary
from dlf.parity._recording.batches import (
    Batch,
    Training,
    all_inputs,
    arrays_of,
    batch_in_float64,
    batches_of_training,
    cut,
    given_to_fit,
    gives_batches,
    holds_text,
    numbers_alone,
    own_batches,
    read_batches,
    write_batches,
)
from dlf.parity._recording.building import builder_of, failing_with_lines
from dlf.parity._recording.replay import (
    Inputs,
    Move,
    beside,
    compiled_if_possible,
    float_outputs,
    moved_by,
    nudged,
    numbers_of,
    replay_of,
    replay_of_loss,
    replay_of_update,
)
from dlf.parity._recording.steps import called_in_step, listened_to_step
from dlf.parity._recording.subject import Subject, outputs_alone, plain_config, stays_in_own_dtype
from dlf.parity._recording.taps import Call, Listener, layer_calls_replaced, listening, takes_training
from dlf.parity._recording.trainer import Trainer, fitted
from dlf.parity._records import Records
from dlf.random.seed import common_randomness, randomness_report, set_seed
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import whole_file
from dlf.utils.tracebacks import own_traceback
from dlf.utils.trees import mapped, with_sorted_keys
from dlf.utils.words import listed
from dlf.utils.workers import peak_memory, report_progress, serve

__all__ = ["Worker"]

_TRAINED_ON = "its first batches are those that are compared on"
_CALLED_BY_STEP = "train_step calls the model on something else than its batch, which is what outputs are compared for"
_NEVER_CALLED = "the model's call takes nothing that it is trained on, and is not compared"
_OF_EACH = 4
"""The most calls of one layer that are compared in a step: some sample by calling a model a hundred times."""
_TOLD = 3
"""How many differences between two builds are told."""
_AS_STARTED = {
    keras.config.set_floatx: keras.config.floatx(),
    keras.config.set_epsilon: keras.config.epsilon(),
    keras.config.set_image_data_format: keras.config.image_data_format(),
}
"""Keras's configuration when the worker started, which a user's file may change."""


class Worker:
    """Answers the requests of `dlf.parity.runner`, in their order."""

    def __init__(self) -> None:
        self._subject: Any = None
        self._trainer: Any = None
        self._calls: dict[str, Call] = {}
        self._unlike_numbers: set[str] = set()
        self._batches: list[Batch] = []
        self._trained_elsewhere: Path | None = None
        self._training: Training | None = None
        self._called: Any = None
        self._given: dict[str, Any] = {}
        self._batches_of_training = False
        self._training_refused: str | None = None
        self._refused_batch: Batch | None = None

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a request, which holds the name of one of these methods and its arguments."""
        known = (
            *(self.build, self.build_again, self.save_values, self.load_values, self.save_batches, self.load_batches),
            *(self.trace, self.trace_beside, self.save_calls, self.load_calls),
            *(self.replay, self.replay_beside, self.replay_training, self.train, self.train_from, self.train_perturbed),
            *(self.fit, self.by_keras_alone, self.peak_memory),
        )
        answers: dict[str, Callable[..., Any]] = {each.__name__: each for each in known}
        answer: dict[str, Any] = answers[request.pop("do")](**request)
        return answer

    def build(self, options: dict[str, Any], batches: str | None = None) -> BuildAnswer:
        """Builds the model and makes the batches, which are the same on every backend for the same seed.

        Args:
            options: Those of the comparison.
            batches: A file with another backend's batches of the script's training.
        """
        self.__init__()  # type: ignore[misc]  # Nothing of an earlier model is left.
        self._trained_elsewhere = Path(batches) if batches else None
        self._options = options
        description = describe_backend(current_backend())
        _check_device(options["device"], description["devices"][0])
        # Keras numbers names from the beginning again, and forgets the dtype policy that a file has set. Freeing memory
        # would take a second where the heap is large.
        keras.utils.clear_session(free_memory=False)
        for change, value in _AS_STARTED.items():
            change(value)
        set_seed(options["seed"])
        build, random = builder_of(options["target"], options["dtype"]), np.random.default_rng(options["seed"])
        own = own_batches(options, random) if options["data"] else []
        draws = hashlib.sha256(repr(random_stream.getstate()).encode()).hexdigest()[:16]

        def inputs_for(model: Any) -> Iterator[Any]:
            batches = own or self._trained_on(model).batches
            forms = _forms_of(batches[:1])
            # What the step calls it on elsewhere says most of what is wrong with it here.
            known = [] if self._training is None or self._training.called is None else [self._training.called]
            yield from known
            yield from (batch[0] for batch, _ in forms)
            called = (called_in_step(model, batch, takes_all=takes_all) for batch, takes_all in forms)
            yield from (each for each in called if each is not None)

        set_seed(options["seed"])
        with failing_with_lines(options["target"]):
            with common_randomness():
                # A user's own initializers draw alike too, where they draw by keras.random.
                self._subject = Subject(build, options["loss"], inputs_for)
            _check_dtype(options["dtype"], self._subject.layers)
            drawn = randomness_report(self._subject.model)
            found = self._choose_batches(options, own, random)
        self._given = given_to_fit(options["target"], self._subject.model)
        described: Described = self._subject.describe()
        self._contents = self._subject.contents()
        self._path = find_path(None)
        return {
            **description,
            **described,
            **found,
            "takes_training": takes_training(self._subject.model) and not getattr(self._subject.model, "inputs", None),
            "own_train_step": has_own(self._subject.model, "train_step"),
            "trained_by": self._subject.trained_by,
            "has_call": self._subject.has_call,
            "draws": draws,
            "trainings": len(script_behind(options["target"]).fits),
            "lines_left_out": [each.line for each in script_behind(options["target"]).failed],
            "remarks": [
                *script_behind(options["target"]).remarks,
                *[_TRAINED_ON] * self._batches_of_training,
                *[_CALLED_BY_STEP] * (self._called is not None),
                *[_NEVER_CALLED] * self._subject.is_never_called,
            ],
            "batches_of_training": self._batches_of_training,
            "training_refused": self._training_refused,
            "called_by_step": self._called is not None,
            "lookups": self._subject.lookups,
            "data_not_finite": _not_finite(self._batches),
            "dtype": self._subject.dtype,
            "compiled": self._subject.compiled,
            "optimizer": type(self._subject.model.optimizer).__name__ if self._subject.compiled else None,
            "optimizer_config": plain_config(self._subject.model.optimizer) if self._subject.compiled else {},
            "digest": _digest_of_contents(self._contents),
            "own_draws": {path: list(each) for path, each in drawn.own_draws.items()},
            "drawn_alike": not (drawn.not_common_in_model or drawn.fell_back),
            "values": {name: _summary(value) for name, value in self._subject.values().items()},
            "batches": [_digest(*arrays_of(with_sorted_keys(each))) for each in self._batches],
        }

    def _choose_batches(self, options: dict[str, Any], own: list[Batch], random: np.random.Generator) -> Outputs:
        """Takes the user's batches, or else those that the script trains on, or else made-up ones.

        Returns:
            What the model gives for the first.
        """
        subject, size, steps = self._subject, options["batch_size"], options["steps"]
        own = numbers_alone(self._behind_text(own))
        trained_on, _, marks = Training([]) if own else self._trained_on(subject.whole)
        try:
            trained_on = numbers_alone(self._behind_text(trained_on))
        except Exception:  # noqa: BLE001 - words that nothing looks up, or not without TensorFlow: others are made.
            trained_on = []
        subject.takes_batches = marks.get("takes_batches", False)
        forms = [(trained_on, marks.get("takes_all", False))] * bool(trained_on)
        if trained_on and self._trained_elsewhere is None:
            # A step or loss of somebody's own may count on the size of a batch.
            smaller = [(cut(trained_on, size), False)] * (subject.trained_by == "loss")
            forms = [*smaller, *forms, *[(all_inputs(trained_on), True)] * has_own(subject.model, "train_step")]
        ways = [
            (*form, by_step) for by_step in (False, *[True] * has_own(subject.model, "train_step")) for form in forms
        ]
        for self._batches, subject.takes_all, by_step in ways:
            try:
                subject.expect(self._batches[0])
                found = self._outputs_for(self._batches[0], "TARGET", by_step=by_step)
                self._training_refused = found["refused"]
            except InvalidArgumentError as error:
                self._training_refused = str(error)
            self._batches_of_training = self._training_refused is None
            self._refused_batch = None if self._batches_of_training else self._batches[0]
            if self._batches_of_training:
                return found
        subject.takes_all = False
        self._batches = own or [(*make_batch(subject.model, subject.loss, size, random), None) for _ in range(steps)]
        subject.expect(self._batches[0])
        argument = "--data" if own else "TARGET"
        try:
            return self._outputs_for(self._batches[0], argument)
        except InvalidArgumentError:
            if not has_own(subject.model, "train_step"):
                raise
            return self._outputs_for(self._batches[0], argument, by_step=True)

    def _behind_text(self, batches: list[Batch]) -> list[Batch]:
        return [(self._subject.ahead(x) if holds_text(x) else x, *others) for x, *others in batches]

    def _outputs_for(self, batch: Batch, argument: str, *, by_step: bool = False) -> Outputs:
        """What the model gives for a batch, or else for what its own step calls it on, here or on another backend."""
        subject, called = self._subject, None
        if by_step:
            called = None if self._training is None else self._training.called
        if by_step and called is None:
            called = called_in_step(subject.model, batch, takes_all=subject.takes_all)
        found: Outputs = subject.outputs_for(batch if called is None else (called, *batch[1:]), argument)
        self._called = called
        return found

    @property
    def _first(self) -> Batch:
        """The batch that the model is called on."""
        return self._batches[0] if self._called is None else (self._called, *self._batches[0][1:])

    def _trained_on(self, model: Any) -> Training:
        """The batches that the script trains the model on, here or on another backend.

        They are read once: a generator gives others the next time.
        """
        if self._training is None and self._trained_elsewhere is not None:
            self._training = read_batches(self._trained_elsewhere)
        elif self._training is None:
            target, steps = self._options["target"], self._options["steps"]
            marks = {"takes_batches": gives_batches(target, model)}
            self._training = Training(batches_of_training(target, model, steps), marks=marks)
        return self._training

    def by_keras_alone(self) -> dict[str, Any]:
        """Trains the model by Keras alone, or calls it if it is not compiled; returns the error that this ends with.

        To be asked where the comparison has failed: whether it is for Keras's sake.
        """
        subject, batch = self._subject, self._refused_batch or self._batches[0]
        try:
            with common_randomness():
                if self._given and subject.compiled:
                    # As the script does it: a step may count on a batch of a known size, or on the data set itself.
                    # Not every batch may show what fails.
                    subject.model.fit(**self._given, shuffle=False, steps_per_epoch=len(self._batches), verbose=0)
                elif subject.compiled:
                    subject.fit(subject.model, batch)
                else:
                    subject.model(subject.batch(batch, float64=False)[0])
        except Exception as error:  # noqa: BLE001 - what a model or Keras raises there is what is asked for.
            return {"error": own_traceback(error)}
        return {"error": None}

    def build_again(self) -> dict[str, Any]:
        """Builds the model a second time, and returns in words how it differs from the first."""
        # Names go on counting: from the beginning again, new ones would be those of layers that both models hold.
        set_seed(self._options["seed"])
        first, second = self._contents, self._subject.again().contents()
        places = [each for each in first | second if first.get(each) != second.get(each)]
        return {"changed": [f"{each} is {first.get(each)}, then {second.get(each)}" for each in places[:_TOLD]]}

    def save_values(self, file: str) -> dict[str, Any]:
        """Writes the values that all backends are to start from; bfloat16 as float32, which holds it exactly."""
        values = {
            name: each.astype("float32") if each.dtype.kind == "V" else each
            for name, each in self._subject.values().items()
        }
        with whole_file(Path(file)) as place:
            np.savez(place, **values)
        return {}

    def load_values(self, file: str) -> dict[str, Any]:
        """Reads the values that all backends are to start from, and assigns them to the model."""
        with np.load(file, allow_pickle=False) as stored:
            self._subject.assign(dict(stored))
        return {}

    def save_batches(self, file: str) -> dict[str, Any]:
        """Writes the batches that all backends are to take, where each has drawn others, or has none."""
        marks = {"takes_all": self._subject.takes_all, "takes_batches": self._subject.takes_batches}
        write_batches(Path(file), self._batches, self._called, **marks)
        return {}

    def load_batches(self, file: str) -> dict[str, Any]:
        """Reads the batches of another backend."""
        self._batches, self._called, _ = read_batches(Path(file))
        return {}

    def trace(self, to: str, *, gradients: bool) -> TraceAnswer:
        """Runs the whole model in float64, and records what every layer is given; then in the dtype under test."""
        report_progress("the whole model in float64")
        records, subject = Records(Path(to)), self._subject
        with in_float64():
            subject.make_reference()
        by_step = subject.trained_by == "train_step"
        calls = self._record_model(records, gradients=gradients and not by_step) if subject.has_call else []
        of_step = self._record_calls_of_step(records, {call.path for call in calls}) if by_step else []
        calls += of_step or []
        # What its loss gives the outputs is not known: a layer's gradient is as right for any other.
        for call in calls if by_step and gradients else ():
            random = np.random.default_rng(0)
            for n, each in float_outputs(call.outputs):
                records[f"call/{call.key}/incoming:{n}"] = random.standard_normal(each.shape)
        records.close()
        self._calls = {call.key: call for call in calls}
        pairs = zip(parameters_of(subject.model), subject.reference.trainable_variables, strict=True)
        return {
            "calls": [self._describe_call(call) for call in calls],
            "step_heard": of_step is not None,
            "own_dtype_variables": [name for name, variable in pairs if stays_in_own_dtype(variable)],
        }

    def save_calls(self, file: str) -> dict[str, Any]:
        """Writes which calls it has heard, for backends on which the model's own step does not come through."""
        calls = []
        for call in self._calls.values():
            with suppress(Exception):  # An argument may be anything: such a call is compared where it is heard.
                calls.append(pickle.dumps(replace(call, layer=None)))
        with whole_file(Path(file)) as place:
            place.write_bytes(pickle.dumps(calls))
        return {}

    def load_calls(self, file: str) -> dict[str, Any]:
        """Reads the calls that another backend has heard; what they are given is in its records."""
        # It was written by another worker of this comparison.
        calls: list[Call] = [pickle.loads(each) for each in pickle.loads(Path(file).read_bytes())]  # noqa: S301
        for call in calls:
            self._calls.setdefault(call.key, replace(call, layer=self._subject.reference_layers[call.path]))
        return {"calls": [self._describe_call(self._calls[call.key]) for call in calls]}

    def trace_beside(self, to: str) -> dict[str, Any]:
        """Runs the model in float64 from moved inputs, as `replay_beside` runs layers: for what is between layers."""
        records, subject = Records(Path(to)), self._subject
        x, *others = self._first
        aside = mapped(lambda each: with_whole_kept(each, beside(widened(each), np.random.default_rng(0))), x)

        def run(title: str, size: float = 0.0) -> None:
            def hear(call: Call) -> None:
                for n, value in enumerate(keras.tree.flatten(call.asked)):
                    if keras.ops.is_tensor(value):
                        records[f"{title}/call/{call.key}/in:{n}"] = to_numpy(value)

            moved = keras.tree.map_structure(
                lambda each, own: None if own is None else with_whole_kept(own, nudged(each, size)), aside, x
            )
            inputs, *_ = subject.batch((moved, *others), float64=True)
            with outputs_alone(subject.reference), listening(Listener(subject.reference_layers, hear=hear)):
                _record_outputs(records, f"{title}/prediction", subject.reference(inputs, training=True))

        # A model that does not accept moved inputs is judged without these records.
        with in_float64(), suppress(Exception):
            run("float64")
            for title, size in STEPS.items():
                run(title, size)
            with float32_widened():
                run("widened")
        records.close()
        return {}

    def _record_model(self, records: Records, *, gradients: bool) -> list[Call]:
        """Records what the model and its layers give: in float64, and in the dtype under test."""
        subject = self._subject
        with in_float64():
            batch = subject.batch(self._first, float64=True)
            with outputs_alone(subject.reference), layer_calls_replaced(subject.call_in_what_there_is):
                _record_outputs(records, "float64/inference", subject.reference(batch[0], training=False))
            calls = self._record_calls(records, batch[0])
            if gradients:
                self._record_gradients(records, calls, batch)
        x, *_ = subject.batch(self._first, float64=False)
        with common_randomness(), outputs_alone(subject.model):
            _record_outputs(records, "tested/inference", subject.model(x, training=False))
        with common_randomness():
            self._record_layers(records, x)
        return calls

    def _record_calls(self, records: Records, x: Any) -> list[Call]:
        listener = Listener(self._subject.reference_layers, hear=self._hearing(records))
        with outputs_alone(self._subject.reference), listening(listener):
            predictions = with_sorted_keys(self._subject.reference(x, training=True))
        _record_outputs(records, "float64/prediction", predictions)
        self._subject.predictions = keras.tree.map_structure(lambda _: 0, predictions)
        return listener.calls

    def _record_calls_of_step(self, records: Records, heard: Collection[str]) -> list[Call] | None:
        """Records what the model's own step gives those layers that its call does not call.

        Returns:
            The calls, or None where the step does not come through.
        """
        subject = self._subject
        if not set(subject.layers) - set(heard):
            return []
        hear = self._hearing(records)

        def heard_now(call: Call) -> Call | None:
            if int(call.key.partition("#")[2] or 1) > _OF_EACH:
                return None
            with in_float64():
                return hear(call.of_values().in_float64())

        def calls_of(model: Any, layers: Mapping[str, keras.Layer], batch: Batch) -> list[Call] | None:
            mine = {path: layer for path, layer in layers.items() if path not in heard}
            listener = Listener(mine, hear=heard_now, training=False)
            came_through = listened_to_step(model, lambda: subject.fit(model, batch), listener)
            return [each for each in listener.calls if each is not None] if came_through else None

        with in_float64():
            found = calls_of(subject.reference, subject.reference_layers, batch_in_float64(self._batches[0]))
        if found is None:
            # A step in a framework's own words may hold float32.
            with common_randomness():
                found = calls_of(subject.model, subject.layers, self._batches[0])
        return found

    def _hearing(self, records: Records) -> Callable[[Call], Call]:
        def hear(call: Call) -> Call:
            _record_call(records, call)
            if not _is_finite(keras.tree.flatten(call.asked)):
                self._unlike_numbers.add(call.key)
            return call.without_tensors()

        return hear

    def _record_layers(self, records: Records, x: Any) -> None:
        """Records what each layer gives in the dtype under test, with the errors that earlier layers pass on."""

        def hear(call: Call) -> None:
            _record_outputs(records, f"tested/call/{call.key}", call.outputs)

        with outputs_alone(self._subject.model), listening(Listener(self._subject.layers, hear=hear)):
            _record_outputs(records, "tested/prediction", self._subject.model(x, training=True))

    def _record_gradients(self, records: Records, calls: list[Call], batch: Any) -> None:
        """Records the loss, and its gradients with respect to every variable and every layer's outputs.

        Here the framework holds all intermediate results at once, as it does in training.
        """
        subject, names = self._subject, list(parameters_of(self._subject.model))
        own = None if subject.compiled else subject.loss_in_float64()  # None is the model's own way.
        loss = model_loss(subject.reference, own, names=names)
        taps = {f"{call.key}:{n}": np.zeros(each.shape) for call in calls for n, each in float_outputs(call.outputs)}

        def whole(values: Any, batch: Any) -> Any:
            given = {name: values[f"tap/{name}"] for name in taps}
            with listening(Listener(subject.reference_layers, given, hear=lambda _: None)):
                return loss({name: values[name] for name in names}, batch)

        parameters = dict(zip(names, parameters_of(subject.reference).values(), strict=True))
        value, gradients = self._take(whole, parameters | {f"tap/{name}": each for name, each in taps.items()}, batch)
        records["loss"] = to_numpy(value)
        for name in names:
            records[f"gradient/{name}"] = to_numpy(gradients[name])
        for name in taps:
            key, _, number = name.rpartition(":")
            records[f"call/{key}/incoming:{number}"] = to_numpy(gradients[f"tap/{name}"])

    def _describe_call(self, call: Call) -> CallAnswer:
        layer, outputs = self._subject.layers[call.path], keras.tree.flatten(call.outputs)
        # The outputs in float64: one that is narrower was made so by name, as Keras makes complex64 of any numbers.
        given = [each for each in outputs if isinstance(each, keras.KerasTensor)]
        asked = [each for each in keras.tree.flatten(call.asked) if isinstance(each, keras.KerasTensor)]
        return {
            "key": call.key,
            "layer": call.path,
            "sources": call.sources,
            "given_numbers": call.key not in self._unlike_numbers,
            "shape": [list(each.shape) for each in given],
            # A layer that computes in integers has no floating-point dtype: its floating-point tensors are the model's.
            "dtype": layer.compute_dtype if is_floating(layer.compute_dtype) else self._subject.dtype,
            "own_dtype": any(map(stays_in_own_dtype, [*self._subject.reference_layers[call.path].variables, *given])),
            # How many terms its sums may have: the size of its largest input.
            "longest": max((int(np.prod(each.shape)) for each in asked), default=1),
        }

    def replay(self, truth: str, to: str, keys: list[str], *, perturb: bool, gradients: bool) -> dict[str, Any]:
        """Calls each layer by itself from the truth's inputs, in float64 and in the dtype under test."""
        given, records = Records(Path(truth)), Records(Path(to))
        for number, key in enumerate(keys):
            report_progress("layer", number + 1, len(keys))
            inputs, random = self._inputs(key, given), np.random.default_rng(number)
            with in_float64():
                write = self._writer(records, inputs, gradients=gradients, float64=True)
                write("float64", inputs)
                for n in range(PERTURBATIONS if perturb else 0):
                    write(
                        f"perturbed{n}",
                        inputs.moved(lambda each, dtype: moved_by(each, dtype, random), whole=False),  # noqa: B023
                    )
            with common_randomness():
                self._writer(records, inputs, gradients=gradients, float64=False)("tested", inputs)
        records.close()
        return {}

    def replay_beside(self, truth: str, to: str, keys: list[str], *, gradients: bool) -> dict[str, Any]:
        """Calls layers in float64 from slightly moved inputs ("beside"), and from inputs tiny steps away from those.

        The moved inputs are off any point without a derivative. Then layers are called once more with float32 replaced
        by float64, which shows what has asked for float32 by name.
        """
        given, records = Records(Path(truth)), Records(Path(to))
        with in_float64():
            for number, key in enumerate(keys):
                inputs, random = self._inputs(key, given), np.random.default_rng(number)
                # What a layer computes of its draws shows in no slope by its inputs: the draws are moved too.
                aside = inputs.moved(lambda each, _: beside(each, random), draws=0.0)  # noqa: B023 - used at once.
                # All are computed by one function: two that XLA compiles may round differently.
                write = self._writer(records, inputs, gradients=gradients, float64=True)
                write("float64", aside)
                for title, size in STEPS.items():
                    write(title, aside.moved(lambda each, _: nudged(each, size), draws=size))  # noqa: B023
                # Where the framework does not support float64 here, the layer has shown what it computes in already.
                with float32_widened(), suppress(Exception):
                    self._writer(records, inputs, gradients=gradients, float64=True)("widened", aside)
        records.close()
        return {}

    def replay_training(self, truth: str, to: str, *, perturb: bool, stages: list[str]) -> dict[str, Any]:
        """Computes the loss from the truth's predictions, and three updates from the truth's gradients."""
        given, records, subject = Records(Path(truth)), Records(Path(to)), self._subject

        def write(title: str, found: dict[str, np.ndarray]) -> None:
            for name, array in found.items():
                records[f"{title}/|{name}"] = array

        def replay_loss(*, float64: bool) -> Callable[[Move | None], dict[str, np.ndarray]]:
            return replay_of_loss(subject, self._path, self._first, given, float64=float64)

        def aside(each: np.ndarray, _: str = "") -> np.ndarray:
            return beside(each, np.random.default_rng(0))

        if "loss" in stages:
            random = np.random.default_rng(0)
            with in_float64():
                replay = replay_loss(float64=True)
                write("float64", replay(None))
                write("aside", replay(aside))
                for title, size in STEPS.items():
                    write(title, replay(lambda each, _: nudged(aside(each), size)))  # noqa: B023 - used at once.
                for number in range(PERTURBATIONS if perturb else 0):
                    write(f"perturbed{number}", replay(lambda each, dtype: moved_by(each, dtype, random)))
            with common_randomness():
                write("tested", replay_loss(float64=False)(None))
        if "update" in stages and subject.compiled:
            with in_float64():
                update = replay_of_update(subject, given, float64=True)
                write("float64", update(None))
                for number in range(PERTURBATIONS if perturb else 0):
                    write(f"perturbed{number}", update(np.random.default_rng(number)))
            with common_randomness():
                write("tested", replay_of_update(subject, given, float64=False)(None))
        records.close()
        return {}

    def train(self, to: str) -> dict[str, Any]:
        """Trains the float64 reference for a few steps, by Keras's own `train_on_batch`."""
        report_progress("training in float64")
        self._trainer = Trainer(self._subject, self._batches)
        return {"sparse": self._trainer.run_in_float64(Records(Path(to)))}

    def train_from(self, truth: str, to: str, *, perturb: bool, aside: bool) -> dict[str, Any]:
        """Takes each step from the truth's state before it, and then all steps freely in the dtype under test."""
        report_progress("training step by step")
        self._trainer.run_from(Records(Path(truth)), Records(Path(to)), PERTURBATIONS if perturb else 0, aside=aside)
        return {}

    def train_perturbed(self, truth: str, to: str, steps: list[str], roundoff: dict[str, float]) -> dict[str, Any]:
        """Trains the reference again, perturbed after each step by the largest error that was measured for it."""
        report_progress("perturbed runs")
        others = [Records(Path(each)) for each in steps]
        self._trainer.run_perturbed(Records(Path(truth)), others, Records(Path(to)), PERTURBATIONS, roundoff)
        return {}

    def fit(self) -> dict[str, Any]:
        """Trains by Keras's own `fit`, as users do; a model of which nothing is trained has metrics."""
        report_progress("fit")
        if self._trainer is not None:
            return dict(self._trainer.fit())
        if not self._subject.model.compiled or self._subject.model.loss is None:
            return {"history": {}}
        return fitted(self._subject, self._batches[0])

    def peak_memory(self) -> dict[str, Any]:
        """Returns the most memory that this process has held, in bytes."""
        return {"bytes": peak_memory()}

    def _inputs(self, key: str, given: Records) -> Inputs:
        call = self._calls[key]
        return Inputs(call, given, self._subject.layers[call.path])

    def _writer(
        self, records: Records, inputs: Inputs, *, gradients: bool, float64: bool
    ) -> Callable[[str, Inputs], None]:
        """Returns a function that replays a call from inputs like these, and writes what it gives under a title."""
        layer = (self._subject.reference_layers if float64 else self._subject.layers)[inputs.call.path]
        replay = replay_of(layer, inputs, self._path if gradients else None, float64=float64)
        has_modes = takes_training(layer) and inputs.call.training
        infer = replay_of(layer, inputs, None, float64=float64, training=False) if has_modes else None

        def write(title: str, inputs: Inputs) -> None:
            found = replay(inputs)
            if infer is not None:
                found |= {
                    name.replace("forward/", "inference/").replace("state/", "state_in_inference/"): each
                    for name, each in infer(inputs).items()
                    if name.startswith(("forward/", "state/"))
                }
            for name, array in found.items():
                records[f"{title}/{inputs.call.key}|{name}"] = array

        return write

    def _take(self, function: Any, parameters: Any, batch: Any) -> Any:
        path = self._path
        take = compiled_if_possible(lambda parameters, batch: path.loss_and_gradients(function, parameters, batch))
        return take(parameters, batch)


def _forms_of(batches: list[Batch]) -> list[tuple[Batch, bool]]:
    """Batches as they are, and as inputs alone, where a step of somebody's own takes all of what it is given."""
    return [*((each, False) for each in batches), *((each, True) for each in all_inputs(batches))]


def _is_finite(values: list[Any]) -> bool:
    """Whether all floating-point tensors among what a layer is given are finite."""
    tensors = [each for each in values if keras.ops.is_tensor(each)]
    floating = [each for each in tensors if is_floating(keras.backend.standardize_dtype(each.dtype))]
    return all(np.isfinite(widened(to_numpy(each))).all() for each in floating)


def _not_finite(batches: list[Any]) -> list[str]:
    """The parts of the data that hold NaN or infinity, in words."""
    found: dict[str, None] = {}
    for batch in batches:
        for part, name in zip(batch, ("x", "y", "the sample weights"), strict=False):
            for path, each in keras.tree.flatten_with_path(part):
                array = np.asarray(0.0 if each is None else each)
                bad = int(array.size - np.isfinite(widened(array)).sum()) if is_floating(array.dtype) else 0
                if bad:
                    what = "NaN" if np.isnan(widened(array)).any() else "infinity"
                    found[f"{what} in {'.'.join([name, *map(str, path)])}"] = None
    return list(found)


def _check_device(asked: str | None, first: str) -> None:
    if asked is not None and not first.startswith(asked):
        raise InvalidArgumentError(
            "--device",
            expected=f"a device that {current_backend().name} finds: its first is {first}",
            received=asked,
            advice="Install a build of it for that device (see the README), or leave the option out.",
        )


def _check_dtype(asked: str, layers: Mapping[str, keras.Layer]) -> None:
    """Raises if a dtype policy is asked for and no layer computes by it: the file may set its own."""
    found = {each.compute_dtype for each in layers.values()}
    if asked != "float32" and found and keras.DTypePolicy(asked).compute_dtype not in found:
        raise InvalidArgumentError(
            "--dtype",
            expected="a model whose layers take Keras's global dtype policy",
            received=f"{asked}, and layers that compute in {listed(sorted(map(str, found)))}",
            advice="Leave --dtype out, or do not set a dtype in the target's file.",
        )


def _record_call(records: Records, call: Call) -> None:
    for n, (value, mask) in enumerate(zip(keras.tree.flatten(call.asked), call.masks, strict=True)):
        if keras.ops.is_tensor(value):
            records[f"call/{call.key}/in:{n}"] = to_numpy(value)
        if mask is not None:
            records[f"call/{call.key}/mask:{n}"] = to_numpy(mask)
    for n, value in enumerate(call.state):
        records[f"call/{call.key}/state:{n}"] = to_numpy(value)


def _record_outputs(records: Records, title: str, outputs: Any) -> None:
    for number, each in numbers_of(with_sorted_keys(outputs)):
        records[f"{title}:{number}"] = to_numpy(each)


def _summary(array: np.ndarray) -> ValueSummary:
    """What initial values are compared by: a digest of their bits, their size, and whether they are constant."""
    float64 = array.astype("float64")
    return {
        "digest": _digest(array),
        "rms": scale_of(float64),
        "size": array.size,
        # A single element does not show whether it is a constant.
        "constant": bool(array.size == 0 or (array.size > 1 and float64.min() == float64.max())),
    }


def _digest_of_contents(contents: Mapping[str, str]) -> str:
    """A digest of what two builds have alike on every backend."""
    own = re.compile(r"compile_config\b|.*\.(dtype|module|registered_name)$")
    text = "\n".join(f"{place}: {each}" for place, each in contents.items() if not own.match(place))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(*arrays: Any) -> str:
    whole = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        # Integers have another dtype on each backend.
        whole.update((array.astype("int64") if array.dtype.kind in "iu" else array).tobytes())
    return whole.hexdigest()[:16]


if __name__ == "__main__":
    serve(Worker().respond)
