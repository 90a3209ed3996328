"""The whole model in float64: what each layer is given and gives, and the gradients of all of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import float32_widened
from dlf.check.advice import explained
from dlf.models.model_loss import model_loss, parameters_of, to_numpy
from dlf.numerics.float64 import in_float64
from dlf.numerics.noise_floor import STEPS, is_floating, widened, with_whole_kept
from dlf.parity._answers import CallAnswer, TraceAnswer
from dlf.parity._recording.batches import Batch, batch_in_float64
from dlf.parity._recording.chosen import ChosenBatches
from dlf.parity._recording.replay import beside, compiled_if_possible, float_outputs, nudged, numbers_of
from dlf.parity._recording.steps import listened_to_step
from dlf.parity._recording.subject import Subject, outputs_alone, stays_in_own_dtype
from dlf.parity._recording.taps import Call, Listener, layer_calls_replaced, listening
from dlf.parity._records import Records
from dlf.random.seed import common_randomness
from dlf.utils.errors import DlfError
from dlf.utils.files import whole_file
from dlf.utils.trees import mapped, with_sorted_keys
from dlf.utils.workers import report_progress

__all__ = ["Tracing"]

_OF_EACH = 4
"""The most calls of one layer that are compared in a step: some sample by calling a model a hundred times."""


class Tracing:
    """Records the calls of a model's layers.

    Args:
        subject: The model.
        chosen: What it is called on.
        path: Takes gradients.

    Attributes:
        calls: The calls that were heard, by key.
    """

    def __init__(self, subject: Subject, chosen: ChosenBatches, path: Any) -> None:
        self.calls: dict[str, Call] = {}
        self._subject, self._chosen, self._path = subject, chosen, path
        self._unlike_numbers: set[str] = set()
        self._loss_fails: str | None = None

    def trace(self, to: str, *, gradients: bool) -> TraceAnswer:
        """Runs the whole model in float64, and records what every layer is given; then in the dtype under test."""
        report_progress("the whole model in float64")
        records, subject = Records(Path(to)), self._subject
        self._loss_fails = None
        with in_float64():
            subject.make_reference()
        by_step = subject.trained_by == "train_step"
        calls = self._record_model(records, gradients=gradients and not by_step) if subject.has_call else []
        of_step = self._record_calls_of_step(records, {call.path for call in calls}) if by_step else []
        calls += of_step or []
        # What its loss gives the outputs is not known: a layer's gradient is as right for any other.
        for call in calls if gradients and (by_step or self._loss_fails) else ():
            random = np.random.default_rng(0)
            for n, each in float_outputs(call.outputs):
                records[f"call/{call.key}/incoming:{n}"] = random.standard_normal(each.shape)
        records.close()
        self.calls = {call.key: call for call in calls}
        pairs = zip(parameters_of(subject.model), subject.reference.trainable_variables, strict=True)
        return {
            "calls": [self._describe_call(call) for call in calls],
            "step_heard": of_step is not None,
            "loss_fails": self._loss_fails,
            "own_dtype_variables": [name for name, variable in pairs if stays_in_own_dtype(variable)],
        }

    def save_calls(self, file: str) -> dict[str, Any]:
        """Writes which calls it has heard, for backends on which the model's own step does not come through."""
        calls = []
        for call in self.calls.values():
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
            self.calls.setdefault(call.key, replace(call, layer=self._subject.reference_layers[call.path]))
        return {"calls": [self._describe_call(self.calls[call.key]) for call in calls]}

    def trace_beside(self, to: str) -> dict[str, Any]:
        """Runs the model in float64 from moved inputs, as `replay_beside` runs layers: for what is between layers."""
        records, subject = Records(Path(to)), self._subject
        x, *others = self._chosen.first
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
            batch = subject.batch(self._chosen.first, float64=True)
            with outputs_alone(subject.reference), layer_calls_replaced(subject.call_in_what_there_is):
                _record_outputs(records, "float64/inference", subject.reference(batch[0], training=False))
            calls = self._record_calls(records, batch[0])
            if gradients:
                try:
                    self._record_gradients(records, calls, batch)
                except DlfError:
                    raise
                except Exception as error:  # noqa: BLE001 - a loss may be in another framework's words.
                    self._loss_fails = f"its loss fails:\n{explained(error)}"
        x, *_ = subject.batch(self._chosen.first, float64=False)
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
            found = calls_of(subject.reference, subject.reference_layers, batch_in_float64(self._chosen.batches[0]))
        if found is None:
            # A step in a framework's own words may hold float32.
            with common_randomness():
                found = calls_of(subject.model, subject.layers, self._chosen.batches[0])
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
        own = None if subject.compiled else subject.loss  # None is the model's own way.
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

    def _take(self, function: Any, parameters: Any, batch: Any) -> Any:
        path = self._path
        take = compiled_if_possible(lambda parameters, batch: path.loss_and_gradients(function, parameters, batch))
        return take(parameters, batch)


def _is_finite(values: list[Any]) -> bool:
    """Whether all floating-point tensors among what a layer is given are finite."""
    tensors = [each for each in values if keras.ops.is_tensor(each)]
    floating = [each for each in tensors if is_floating(keras.backend.standardize_dtype(each.dtype))]
    return all(np.isfinite(widened(to_numpy(each))).all() for each in floating)


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
