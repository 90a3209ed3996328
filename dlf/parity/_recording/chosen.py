"""Which batches a model is compared on, and what it is called on: chosen among those that it can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from dlf.models.model_loss import has_own
from dlf.models.synthetic_data import OTHER_TARGETS, make_batch
from dlf.numerics.noise_floor import is_floating, widened
from dlf.parity._answers import Outputs
from dlf.parity._recording.batches import (
    Batch,
    Training,
    all_inputs,
    batches_of_training,
    cut,
    gives_batches,
    holds_text,
    numbers_alone,
    own_batches,
    read_batches,
    write_batches,
)
from dlf.parity._recording.steps import called_in_step
from dlf.parity._recording.subject import Subject
from dlf.utils.errors import InvalidArgumentError

__all__ = ["ChosenBatches"]

_Tried: TypeAlias = tuple[list[Batch], bool, Any, Outputs]
"""Batches, whether a step takes all of them as inputs, what it calls the model on, and what the model gives."""


class ChosenBatches:
    """The batches that one model is compared on.

    Args:
        options: Those of the comparison.
        random: Draws batches where there are none.
        elsewhere: A file with another backend's batches of the script's training.

    Attributes:
        batches: One for each step.
        called: What the model's own step calls it on, where its call does not take the batch.
        are_of_training: Whether the script itself trains on them.
        training_refused: Why the model does not take what the script trains on.
    """

    def __init__(self, options: dict[str, Any], random: np.random.Generator, elsewhere: Path | None) -> None:
        self.batches: list[Batch] = []
        self.called: Any = None
        self.are_of_training = False
        self.training_refused: str | None = None
        self._options, self._random, self._elsewhere = options, random, elsewhere
        self._own = own_batches(options, random) if options["data"] else []
        self._training: Training | None = None
        self._refused: Batch | None = None

    @property
    def first(self) -> Batch:
        """The batch that the model is called on."""
        return self.batches[0] if self.called is None else (self.called, *self.batches[0][1:])

    @property
    def to_try_by_keras(self) -> Batch:
        """The first batch of the script, also where it was refused, or else the first that was chosen."""
        return self._refused or self.batches[0]

    def inputs_for(self, model: Any) -> Iterator[Any]:
        """What the model may be built on, one after the other."""
        batches = self._own or self._trained_on(model).batches
        forms = _forms_of(batches[:1])
        # What the step calls it on elsewhere says most of what is wrong with it here.
        yield from [] if self._training is None or self._training.called is None else [self._training.called]
        yield from (batch[0] for batch, _ in forms)
        called = (called_in_step(model, batch, takes_all=takes_all) for batch, takes_all in forms)
        yield from (each for each in called if each is not None)

    def choose(self, subject: Subject) -> Outputs:
        """Takes the user's batches, or else those that the script trains on, or else made-up ones.

        Returns:
            What the model gives for the first.
        """
        size, steps = self._options["batch_size"], self._options["steps"]
        own = numbers_alone(_behind_text(subject, self._own))
        without_a_loss: _Tried | None = None
        if not own:
            found, without_a_loss = self._try_what_the_script_trains_on(subject)
            if found is not None:
                return found
        subject.takes_all = False

        def made(kind: str | None = None) -> list[Batch]:
            return [
                (*make_batch(subject.model, subject.loss, size, self._random, kind=kind), None) for _ in range(steps)
            ]

        self.batches = own or made()
        found = self._tried(subject, "--data" if own else "TARGET")
        if found["refused"] is not None and not own:
            found = self._with_other_targets(subject, made) or found
        if found["refused"] is not None and without_a_loss is not None:
            # Its loss takes no batch at all here; what is before it is compared on what the script trains on.
            self.batches, subject.takes_all, self.called, found = without_a_loss
            subject.expect(self.batches[0])
            self.are_of_training, self.training_refused = True, None
        return found

    def _tried(self, subject: Subject, argument: str) -> Outputs:
        """What the model gives for the first of the batches, as it is or as its own step calls it."""
        subject.expect(self.batches[0])
        try:
            return self._outputs_for(subject, self.batches[0], argument)
        except InvalidArgumentError:
            if not has_own(subject.model, "train_step"):
                raise
            return self._outputs_for(subject, self.batches[0], argument, by_step=True)

    def _with_other_targets(self, subject: Subject, made: Callable[[str], list[Batch]]) -> Outputs | None:
        """What the model gives for the first other kind of targets that its loss takes; None where it takes none."""
        refused = self.batches
        for kind in OTHER_TARGETS:
            self.batches = made(kind)
            found = self._tried(subject, "TARGET")
            if found["refused"] is None:
                return found
        self.batches = refused
        subject.expect(self.batches[0])
        return None

    def _try_what_the_script_trains_on(self, subject: Subject) -> tuple[Outputs | None, _Tried | None]:
        """Takes the batches that the script trains on in the first form that the model and its loss take.

        Returns:
            What the model gives for them; if it takes none, the first form that the model took, and its loss did not.
        """
        trained_on, _, marks = self._trained_on(subject.whole)
        try:
            trained_on = numbers_alone(_behind_text(subject, trained_on))
        except Exception:  # noqa: BLE001 - words that nothing looks up, or not without TensorFlow: others are made.
            trained_on = []
        subject.takes_batches = marks.get("takes_batches", False)
        forms = [(trained_on, marks.get("takes_all", False))] * bool(trained_on)
        if trained_on and self._elsewhere is None:
            # A step or loss of somebody's own may count on the size of a batch.
            smaller = [(cut(trained_on, self._options["batch_size"]), False)] * (subject.trained_by == "loss")
            forms = [*smaller, *forms, *[(all_inputs(trained_on), True)] * has_own(subject.model, "train_step")]
        ways = [
            (*form, by_step) for by_step in (False, *[True] * has_own(subject.model, "train_step")) for form in forms
        ]
        without_a_loss: _Tried | None = None
        for self.batches, subject.takes_all, by_step in ways:
            try:
                subject.expect(self.batches[0])
                found = self._outputs_for(subject, self.batches[0], "TARGET", by_step=by_step)
                self.training_refused = found["refused"]
                without_a_loss = without_a_loss or (self.batches, subject.takes_all, self.called, found)
            except InvalidArgumentError as error:
                self.training_refused = str(error)
            self._refused = None if self.training_refused is None else self.batches[0]
            if self.training_refused is None:
                self.are_of_training = not marks.get("made_up", False)
                return found, None
        return None, without_a_loss

    def save(self, file: Path, subject: Subject) -> None:
        """Writes the batches that all backends are to take, where each has drawn others, or has none."""
        marks = {"takes_all": subject.takes_all, "takes_batches": subject.takes_batches}
        write_batches(file, self.batches, self.called, **marks, made_up=not self.are_of_training)

    def load(self, file: Path) -> None:
        """Reads the batches of another backend."""
        self.batches, self.called, _ = read_batches(file)

    def not_finite(self) -> list[str]:
        """The parts of the data that hold NaN or infinity, in words."""
        found: dict[str, None] = {}
        for batch in self.batches:
            for part, name in zip(batch, ("x", "y", "the sample weights"), strict=False):
                for path, each in keras.tree.flatten_with_path(part):
                    array = np.asarray(0.0 if each is None else each)
                    bad = int(array.size - np.isfinite(widened(array)).sum()) if is_floating(array.dtype) else 0
                    if bad:
                        what = "NaN" if np.isnan(widened(array)).any() else "infinity"
                        found[f"{what} in {'.'.join([name, *map(str, path)])}"] = None
        return list(found)

    def _outputs_for(self, subject: Subject, batch: Batch, argument: str, *, by_step: bool = False) -> Outputs:
        """What the model gives for a batch, or else for what its own step calls it on, here or on another backend."""
        called = None
        if by_step:
            called = None if self._training is None else self._training.called
        if by_step and called is None:
            called = called_in_step(subject.model, batch, takes_all=subject.takes_all)
        found: Outputs = subject.outputs_for(batch if called is None else (called, *batch[1:]), argument)
        self.called = called
        return found

    def _trained_on(self, model: Any) -> Training:
        """The batches that the script trains the model on, here or on another backend.

        They are read once: a generator gives others the next time.
        """
        if self._training is None and self._elsewhere is not None:
            self._training = read_batches(self._elsewhere)
        elif self._training is None:
            target, steps = self._options["target"], self._options["steps"]
            marks = {"takes_batches": gives_batches(target, model)}
            self._training = Training(batches_of_training(target, model, steps), marks=marks)
        return self._training


def _behind_text(subject: Subject, batches: list[Batch]) -> list[Batch]:
    return [(subject.ahead(x) if holds_text(x) else x, *others) for x, *others in batches]


def _forms_of(batches: list[Batch]) -> list[tuple[Batch, bool]]:
    """Batches as they are, and as inputs alone, where a step of somebody's own takes all of what it is given."""
    return [*((each, False) for each in batches), *((each, True) for each in all_inputs(batches))]
