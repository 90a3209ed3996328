"""Each part of a model by itself: layers, loss and update, from inputs that are the same on every backend.

Requirements:

* every layer, the loss and the optimizer are judged from the same inputs, incoming gradients, weights and state: those
  of the truth, rounded to the dtype under test, so that an error in one does not show in those after it;
* arrays are written to disk one at a time; the model is not changed for good.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dlf.backend.keras_internals import float32_widened
from dlf.numerics.float64 import in_float64
from dlf.numerics.noise_floor import PERTURBATIONS, STEPS
from dlf.parity._recording.chosen import ChosenBatches
from dlf.parity._recording.replay import (
    Inputs,
    Move,
    beside,
    moved_by,
    nudged,
    replay_of,
    replay_of_loss,
    replay_of_update,
)
from dlf.parity._recording.subject import Subject
from dlf.parity._recording.taps import takes_training
from dlf.parity._recording.tracing import Tracing
from dlf.parity._records import Records
from dlf.random.seed import common_randomness
from dlf.utils.workers import report_progress

__all__ = ["Parts"]


class Parts:
    """Replays the parts of a model.

    Args:
        subject: The model.
        chosen: The batch of the loss.
        tracing: Knows the calls of its layers.
        path: Takes gradients.
    """

    def __init__(self, subject: Subject, chosen: ChosenBatches, tracing: Tracing, path: Any) -> None:
        self._subject, self._chosen, self._tracing, self._path = subject, chosen, tracing, path

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
            return replay_of_loss(subject, self._path, self._chosen.first, given, float64=float64)

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

    def _inputs(self, key: str, given: Records) -> Inputs:
        call = self._tracing.calls[key]
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
