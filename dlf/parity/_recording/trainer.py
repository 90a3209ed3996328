"""Takes a few steps of Keras's `train_on_batch`: in free runs, each step from the truth's state, and in perturbed runs.

Requirements:

* a step taken from the truth's weights, statistics, seeds and slots shows what that step alone does;
* perturbed runs start like the free run, and are moved after each step by the largest error that was measured for that
  step: their spread is how far rounding may move a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import set_global_seed
from dlf.check.advice import explained
from dlf.models.model_loss import has_own, to_numpy
from dlf.numerics.float64 import in_float64
from dlf.numerics.noise_floor import PERTURBATIONS, rms, widened, with_whole_kept
from dlf.parity._recording.batches import batch_in_float64
from dlf.parity._recording.replay import beside, is_number, moved_by
from dlf.parity._recording.steps import GradientsOfStep, other_optimizers
from dlf.parity._recording.subject import Subject
from dlf.parity._records import Records
from dlf.random.seed import common_randomness
from dlf.utils.files import without_nan
from dlf.utils.trees import mapped

__all__ = ["Trainer", "fitted"]


class Trainer:
    """One model and its float64 reference, and the batches that they are trained on.

    Args:
        subject: The model, which is compiled, with the values to start from.
        batches: A batch for each step.
    """

    def __init__(self, subject: Subject, batches: list[Any]) -> None:
        self._subject, self._batches = subject, batches
        self._slots = subject.slot_names()
        self._logs: Mapping[str, Any] = {}
        self._gradients: dict[int, GradientsOfStep] = {}
        with in_float64():
            if not subject.reference.optimizer.built:
                subject.reference.optimizer.build(subject.reference.trainable_variables)
            self._build_other_optimizers(subject.reference)
            self._start = self._state(subject.reference)
        with common_randomness():
            self._build_other_optimizers(subject.model)
        self._first = self._state(subject.model)
        models = (subject.reference, subject.model) if has_own(subject.model, "train_step") else ()
        self._gradients = {id(each): GradientsOfStep(each, subject.names) for each in models}

    def _build_other_optimizers(self, model: Any) -> None:
        """Takes a step and takes it back: only the model's own step knows what its other optimizers update."""
        others = other_optimizers(model)
        if not others:
            return
        before, first = self._state(model), {name: _values_of(each) for name, each in others.items()}

        def noting(name: str, build: Callable[..., Any]) -> Callable[..., Any]:
            def built(*args: Any, **keywords: Any) -> Any:
                build(*args, **keywords)
                first[name] = _values_of(others[name])

            return built

        for name, each in others.items():
            if not each.built:
                each.build = noting(name, each.build)
        # In a graph of TensorFlow's, the slots that an optimizer makes have no values to be noted.
        eagerly, model.run_eagerly = model.run_eagerly, True
        model.make_train_function(force=True)
        try:
            self._step(model, 0)
        finally:
            model.run_eagerly = eagerly
            model.make_train_function(force=True)
            for each in others.values():
                vars(each).pop("build", None)
        self._assign(model, self._state(model) | before)
        for name, each in others.items():
            for variable, value in zip(each.variables, first[name], strict=True):
                variable.assign(value)

    def run_in_float64(self, records: Records) -> list[int]:
        """Takes every step in float64; returns the numbers of the variables whose gradients are sparse."""
        reference = self._subject.reference
        with in_float64(), _sparse_ones(reference.optimizer) as sparse:
            self._run(reference, self._start, records, "float64")
        records.close()
        return [number for number, each in enumerate(reference.variables) if id(each) in sparse]

    def run_from(self, truth: Records, records: Records, perturbations: int, *, aside: bool = False) -> None:
        """Takes each step from the truth's state before it, in both precisions; then all, freely, in the tested dtype.

        Args:
            truth: What `run_in_float64` wrote on the backend that is taken for the truth.
            records: The records to write.
            perturbations: How many more times each step is taken with weights and inputs moved by a unit in the last
                place of the dtype under test, and as many times by one of float64.
            aside: Whether each step is taken once more with weights and inputs moved by a thousandth, off any point
                without a derivative.
        """
        subject, steps = self._subject, range(len(self._batches))
        with in_float64():
            for step in steps:
                self._take(subject.reference, self._before(truth, step), step)
                self._record(records, f"float64/{step}", subject.reference, gradients=True)
                for number in range(perturbations):
                    random = np.random.default_rng((number, step))
                    self._take(subject.reference, self._before(truth, step), step, self._last_place(random))
                    self._record(records, f"perturbed{number}/{step}", subject.reference, gradients=True)
                for number in range(perturbations):
                    random = np.random.default_rng((PERTURBATIONS + 1 + number, step))
                    self._take(
                        subject.reference, self._before(truth, step), step, partial(_moved_by_roundoff, random=random)
                    )
                    self._record(records, f"roundoff{number}/{step}", subject.reference, gradients=True)
                if aside:
                    random = np.random.default_rng((PERTURBATIONS, step))
                    self._take(
                        subject.reference, self._before(truth, step), step, partial(beside, random=random), whole=True
                    )
                    self._record(records, f"aside/{step}", subject.reference, gradients=True)
            self._assign(subject.reference, self._start)
        with common_randomness():
            for step in steps:
                self._take(subject.model, self._first if step == 0 else self._before(truth, step), step)
                self._record(records, f"tested/{step}", subject.model, gradients=True)
            self._run(subject.model, self._first, records, "free")
            self._assign(subject.model, self._first)
        records.close()

    def run_perturbed(
        self, truth: Records, others: list[Records], records: Records, count: int, roundoff: Mapping[str, float]
    ) -> None:
        """Takes every step in float64, and adds to each weight after each step an error of the size that was measured.

        The same number of further runs is moved by the roundoff of float64 only.

        Args:
            truth: What `run_in_float64` wrote on the backend that is taken for the truth.
            others: What `run_from` wrote on each backend.
            records: The records to write.
            count: The number of perturbed runs.
            roundoff: How far an update may move each variable whose gradient is only roundoff: on another backend it
                may go the other way.
        """
        reference = self._subject.reference
        with in_float64():
            for number in range(count):
                random = np.random.default_rng(number)
                self._assign(reference, self._start)
                for step in range(len(self._batches)):
                    self._step(reference, step)
                    # Slots are not moved: a second moment below zero has no square root.
                    for name, variable in self._trainable(reference).items():
                        value = to_numpy(variable.value)
                        size = max(_error(each, truth, step, name) for each in others)
                        variable.assign(value + size * random.standard_normal(value.shape))
                    self._record(records, f"perturbed{number}/{step}", reference)
            for number in range(count):
                random = np.random.default_rng(count + number)
                self._assign(reference, self._start)
                for step in range(len(self._batches)):
                    self._step(reference, step, partial(_moved_by_roundoff, random=random))
                    for name, variable in self._trainable(reference).items():
                        value = _moved_by_roundoff(to_numpy(variable.value), random)
                        size = roundoff.get(name.split(":", 1)[1], 0.0)
                        variable.assign(value + size * random.uniform(-1.0, 1.0, value.shape))
                    self._record(records, f"roundoff{number}/{step}", reference)
            self._assign(reference, self._start)
        records.close()

    def _run(self, model: Any, start: Any, records: Records, title: str) -> None:
        losses = []
        self._assign(model, start)
        for step in range(len(self._batches)):
            losses.append(self._step(model, step))
            self._record(records, f"{title}/{step}", model)
        records[f"{title}/losses"] = np.array(losses)
        self._assign(model, start)

    def _last_place(self, random: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        return partial(moved_by, dtype=self._subject.dtype, random=random)

    def _take(
        self,
        model: Any,
        start: Any,
        step: int,
        move: Callable[[np.ndarray], np.ndarray] = lambda each: each,
        *,
        whole: bool = False,
    ) -> None:
        self._assign(model, start)
        for variable in model.trainable_variables:
            variable.assign(move(to_numpy(variable.value)))
        self._step(model, step, move, whole=whole)

    def _step(
        self,
        model: Any,
        step: int,
        move: Callable[[np.ndarray], np.ndarray] = lambda each: each,
        *,
        whole: bool = False,
    ) -> float:
        batch = self._batches[step]
        is_reference = model is self._subject.reference
        x, *others = batch_in_float64(batch) if is_reference else mapped(np.asarray, batch)
        x = mapped(lambda each: move(each) if whole else with_whole_kept(each, move(each)), x)
        model.reset_metrics()  # Otherwise the logs are means over the steps so far.
        set_global_seed(step)  # What is drawn without a seed is the same whenever this step is taken.
        if has_own(model, "train_step"):
            # `train_on_batch` hands every step three parts, which a step that takes what `fit` gives cannot unpack.
            history = self._fit_hearing_gradients(model, (x, *others))
            self._logs = {name: values[-1] for name, values in history.items()}
        else:
            # Tensors, as `fit` passes them: a user's own metric computes with the targets as they come.
            batch = mapped(keras.ops.convert_to_tensor, (x, *others))
            self._logs = model.train_on_batch(*batch, return_dict=True)
        return float(to_numpy(self._logs.get("loss", np.nan)))

    def _fit_hearing_gradients(self, model: Any, batch: Any) -> Any:
        heard = self._gradients.get(id(model))
        before = self._state(model) if heard is not None and not heard.taken else {}
        try:
            return self._subject.fit(model, batch)
        except Exception:
            if heard is None or heard.taken:
                raise
        # Some parts of a step, such as a loop that the framework compiles, let nothing out. If it fails by itself, it
        # does so again.
        heard.stop()
        del self._gradients[id(model)]
        self._assign(model, before)
        return self._subject.fit(model, batch)

    def fit(self) -> dict[str, Any]:
        """Trains the model by Keras's own `fit`, as `fitted` does, from where it started."""
        self._assign(self._subject.model, self._first)
        try:
            return fitted(self._subject, self._batches[0])
        finally:
            self._assign(self._subject.model, self._first)

    def _variables(self, model: Any) -> dict[str, Any]:
        slots = [f"slot:{name}" for name in self._slots]
        names = [*self._subject.names, *slots]
        # Without the numbers that Keras gives to names: the reference has others.
        others = {
            f"slot:{number}:{title}_{re.sub(r'_[0-9]+', '', variable.path.split('/', 1)[-1])}": variable
            for title, each in other_optimizers(model).items()
            for number, variable in enumerate(each.variables)
        }
        return dict(zip(names, [*model.variables, *model.optimizer.variables], strict=True)) | others

    def _trainable(self, model: Any) -> dict[str, Any]:
        mine = {id(each) for each in model.trainable_variables}
        return {name: each for name, each in self._variables(model).items() if id(each) in mine}

    def _state(self, model: Any) -> dict[str, np.ndarray]:
        return {name: to_numpy(each.value) for name, each in self._variables(model).items()}

    def _assign(self, model: Any, state: dict[str, np.ndarray]) -> None:
        for name, variable in self._variables(model).items():
            variable.assign(keras.ops.convert_to_tensor(state[name], variable.dtype))

    def _before(self, truth: Records, step: int) -> dict[str, np.ndarray]:
        # What the truth has no value of, such as a slot where its optimizer has others, starts as it did here.
        then = {} if step == 0 else {name: truth.get(f"float64/{step - 1}/{name}") for name in self._start}
        return self._start | {name: value for name, value in then.items() if value is not None}

    def _record(self, records: Records, title: str, model: Any, *, gradients: bool = False) -> None:
        for name, value in self._state(model).items():
            records[f"{title}/{name}"] = value
        if gradients and id(model) in self._gradients:
            for name, value in self._gradients[id(model)].taken.items():
                records[f"{title}/gradient:{name}"] = value
        for name, value in self._logs.items():
            # A metric may give anything: only numbers can be compared.
            if is_number(value) or isinstance(value, np.ndarray | np.number):
                records[f"{title}/metric:{name}"] = to_numpy(value)


def fitted(subject: Subject, batch: Any) -> dict[str, Any]:
    """Trains a model by Keras's own `fit`; returns its history, or the error that it ends with.

    Args:
        subject: The model, which is compiled.
        batch: The batch.
    """
    set_global_seed(0)
    try:
        with common_randomness():
            history = subject.fit(subject.model, batch)
    except Exception as error:  # noqa: BLE001 - what a model or Keras raises there is what is asked for.
        return {"error": explained(error)}
    # A metric that gives a number for each class gives a vector.
    found = {name: np.asarray([to_numpy(value) for value in each]).tolist() for name, each in history.items()}
    return {"history": without_nan(found)}


def _values_of(optimizer: Any) -> list[np.ndarray]:
    return [to_numpy(each.value) for each in optimizer.variables]


@contextmanager
def _sparse_ones(optimizer: Any) -> Iterator[set[int]]:
    """Collects the ids of variables whose gradients are `IndexedSlices`, for as long as the context lasts."""
    found: set[int] = set()
    apply = optimizer.apply

    def noted(grads: Any, trainable_variables: Any = None) -> Any:
        pairs = zip(grads, trainable_variables or (), strict=False)
        found.update(id(variable) for gradient, variable in pairs if type(gradient).__name__ == "IndexedSlices")
        return apply(grads, trainable_variables)

    optimizer.apply = noted
    try:
        yield found
    finally:
        optimizer.apply = apply


def _moved_by_roundoff(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return moved_by(array, "float64", random)


def _error(records: Records, truth: Records, step: int, name: str) -> float:
    tested, float64 = records[f"tested/{step}/{name}"], truth[f"float64/{step}/{name}"]
    found = rms(widened(tested) - float64)
    return found if np.isfinite(found) else 0.0
