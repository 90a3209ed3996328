"""One backend in a process of its own: builds the model, and answers what it computes and how it trains.

Requirements:

* the model is not changed for good;
* a worker answers for many models, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlf.backend.registry import current_backend
from dlf.backend.report import describe_backend
from dlf.check.advice import explained
from dlf.gradients.value_and_grad import find_path
from dlf.models.model_loss import has_own
from dlf.models.targets import script_behind
from dlf.numerics.noise_floor import PERTURBATIONS
from dlf.parity._answers import BuildAnswer, Described
from dlf.parity._recording.batches import arrays_of, examples_in, given_to_fit
from dlf.parity._recording.building import builder_of, failing_with_lines
from dlf.parity._recording.chosen import ChosenBatches
from dlf.parity._recording.digests import digest, digest_of_contents, digest_of_random_state, summary
from dlf.parity._recording.parts import Parts
from dlf.parity._recording.subject import Subject, plain_config
from dlf.parity._recording.taps import takes_training
from dlf.parity._recording.tracing import Tracing
from dlf.parity._recording.trainer import Trainer, fitted
from dlf.parity._records import Records
from dlf.random.seed import common_randomness, randomness_report, set_seed
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import whole_file
from dlf.utils.trees import with_sorted_keys
from dlf.utils.words import listed
from dlf.utils.workers import peak_memory, report_progress, serve

__all__ = ["Worker"]

_TRAINED_ON = "its first batches are those that are compared on"
_CALLED_BY_STEP = "train_step calls the model on something else than its batch, which is what outputs are compared for"
_NEVER_CALLED = "the model's call takes nothing that it is trained on, and is not compared"
_OTHER_TARGETS = "its loss takes none of the targets that dlf makes: --data gives those that it is for"
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
        self._given: dict[str, Any] = {}

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a request, which holds the name of one of these methods and its arguments."""
        known: list[Callable[..., Any]] = [self.build, self.peak_memory]
        if self._subject is not None:
            tracing, parts = self._tracing, self._parts
            known += [self.build_again, self.save_values, self.load_values, self.save_batches, self.load_batches]
            known += [tracing.trace, tracing.trace_beside, tracing.save_calls, tracing.load_calls]
            known += [parts.replay, parts.replay_beside, parts.replay_training]
            known += [self.train, self.train_from, self.train_perturbed, self.fit, self.by_keras_alone]
        answers = {each.__name__: each for each in known}
        answer: dict[str, Any] = answers[request.pop("do")](**request)
        return answer

    def build(self, options: dict[str, Any], batches: str | None = None) -> BuildAnswer:
        """Builds the model and makes the batches, which are the same on every backend for the same seed.

        Args:
            options: Those of the comparison.
            batches: A file with another backend's batches of the script's training.
        """
        self.__init__()  # type: ignore[misc]  # Nothing of an earlier model is left.
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
        chosen = self._chosen = ChosenBatches(options, random, Path(batches) if batches else None)
        draws = digest_of_random_state()
        set_seed(options["seed"])
        with failing_with_lines(options["target"]):
            with common_randomness():
                # A user's own initializers draw alike too, where they draw by keras.random.
                subject = Subject(build, options["loss"], chosen.inputs_for)
            _check_dtype(options["dtype"], subject.layers)
            drawn = randomness_report(subject.model)
            found = chosen.choose(subject)
        self._given = given_to_fit(options["target"], subject.model)
        described: Described = subject.describe()
        self._subject, self._contents, path = subject, subject.contents(), find_path(None)
        self._tracing = Tracing(subject, chosen, path)
        self._parts = Parts(subject, chosen, self._tracing, path)
        return {
            **description,
            **described,
            **found,
            "takes_training": takes_training(subject.model) and not getattr(subject.model, "inputs", None),
            "own_train_step": has_own(subject.model, "train_step"),
            "trained_by": subject.trained_by,
            "has_call": subject.has_call,
            "draws": draws,
            "trainings": len(script_behind(options["target"]).fits),
            "lines_left_out": [each.line for each in script_behind(options["target"]).failed],
            "remarks": [
                *script_behind(options["target"]).remarks,
                *[_TRAINED_ON] * chosen.are_of_training,
                *[_CALLED_BY_STEP] * (chosen.called is not None),
                *[_NEVER_CALLED] * subject.is_never_called,
                *[_OTHER_TARGETS] * (found["refused"] is not None and not (options["data"] or chosen.are_of_training)),
            ],
            "batches_of_training": chosen.are_of_training,
            "training_refused": chosen.training_refused,
            "called_by_step": chosen.called is not None,
            "lookups": subject.lookups,
            "data_not_finite": chosen.not_finite(),
            "dtype": subject.dtype,
            "compiled": subject.compiled,
            "optimizer": type(subject.model.optimizer).__name__ if subject.compiled else None,
            "optimizer_config": plain_config(subject.model.optimizer) if subject.compiled else {},
            "digest": digest_of_contents(self._contents),
            "own_draws": {path: list(each) for path, each in drawn.own_draws.items()},
            "drawn_alike": not (drawn.not_common_in_model or drawn.fell_back),
            "values": {name: summary(value) for name, value in subject.values().items()},
            "batches": [digest(*arrays_of(with_sorted_keys(each))) for each in chosen.batches],
        }

    def by_keras_alone(self) -> dict[str, Any]:
        """Trains the model by Keras alone, or calls it if it is not compiled; returns the error that this ends with.

        To be asked where the comparison has failed: whether it is for Keras's sake.
        """
        subject, batch = self._subject, self._chosen.to_try_by_keras
        if self._given and subject.compiled:
            return {"error": _error_of(self._fit_as_the_script_does)}
        if subject.compiled:
            return {"error": _error_of(lambda: subject.fit(subject.model, batch))}
        return {"error": _error_of(lambda: subject.model(subject.batch(batch, float64=False)[0]))}

    def _fit_as_the_script_does(self, **options: Any) -> None:
        """Trains by `fit` on what the script gives it: a step may count on a known batch size, or on the data set.

        Not every batch may show what fails.
        """
        given = {**self._given, **options, "shuffle": False, "steps_per_epoch": len(self._chosen.batches)}
        self._subject.model.fit(**given, verbose=0)

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
        self._chosen.save(Path(file), self._subject)
        return {}

    def load_batches(self, file: str) -> dict[str, Any]:
        """Reads the batches of another backend."""
        self._chosen.load(Path(file))
        return {}

    def train(self, to: str) -> dict[str, Any]:
        """Trains the float64 reference for a few steps, by Keras's own `train_on_batch`."""
        report_progress("training in float64")
        self._trainer = Trainer(self._subject, self._chosen.batches)
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
            found = dict(self._trainer.fit())
        elif not self._subject.model.compiled or self._subject.model.loss is None:
            return {"history": {}}
        else:
            found = fitted(self._subject, self._chosen.batches[0])
        if "error" not in found and self._given:
            # Of arrays, batches are as small as those that are compared: a script may be written for a GPU.
            examples = examples_in(self._chosen.batches[0][0])
            smaller = {"batch_size": examples} if "batch_size" in self._given and examples else {}
            error = _error_of(lambda: self._fit_as_the_script_does(**smaller))
            found = found if error is None else {"error": error}
        return found

    def peak_memory(self) -> dict[str, Any]:
        """Returns the most memory that this process has held, in bytes."""
        return {"bytes": peak_memory()}


def _error_of(train: Callable[[], Any]) -> str | None:
    """The error that a training or a call by Keras ends with, if it does."""
    try:
        with common_randomness():
            train()
    except Exception as error:  # noqa: BLE001 - what a model or Keras raises there is what is asked for.
        return explained(error)
    return None


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


if __name__ == "__main__":
    serve(Worker().respond, explained=explained)
