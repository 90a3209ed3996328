"""Lets each backend train the model: by single steps from the truth's state, freely, and by Keras's own `fit`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from dlf.parity._asking.requests import Requests, TruthLostError
from dlf.parity._judging.context import cancelled_gradients
from dlf.parity._judging.measurement import Measurement
from dlf.parity._judging.trajectory import Runs, measure_trajectory
from dlf.parity._judging.verdict import Thresholds, judge_each
from dlf.parity._records import Records
from dlf.utils.errors import BackendError

__all__ = ["fits_of", "train"]


def train(
    requests: Requests, thresholds: Thresholds, names: Iterable[str], measured: Sequence[Measurement]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Trains the model on all backends; once more, where the truth cannot train it, and others may.

    Args:
        requests: The requests to the backends.
        thresholds: Those of the verdict.
        names: The backends that train.
        measured: What was measured before.

    Returns:
        The measurements, and the curves of the free runs.

    Raises:
        TruthLostError: Too few backends can train it for a comparison, and the truth is not among them.
    """
    try:
        return _train_from("", requests, thresholds, names, measured)
    except TruthLostError:
        alive = requests.alive(names)
        if len(alive) < 2:  # noqa: PLR2004 - a comparison takes two.
            raise
        requests.truth = alive[0]
    return _train_from("-again", requests, thresholds, names, measured)


def _train_from(
    attempt: str, requests: Requests, thresholds: Thresholds, names: Iterable[str], measured: Sequence[Measurement]
) -> tuple[list[Measurement], dict[str, Any]]:
    alive, truth = requests.alive(names), str(requests.truth)
    free, single, perturbed = (f"{each}{attempt}" for each in ("free", "single", "perturbed"))
    found = [each for one in measured for each in judge_each(one, alive, thresholds)]
    for name, answer in requests.ask({"do": "train"}, alive, to=free).items():
        for number in answer["sparse"]:
            requests.built[name]["variables"][number]["sparse"] = True
    request = {
        "do": "train_from",
        "truth": str(requests.at(free, truth)),
        "aside": any(each.verdict == "tie" for each in found),
    }
    requests.ask(request, alive, to=single, leader=truth)
    updates = {str(each["variable"]): each["floor"] for each in measured if each["stage"] == "update"}
    cancelled = cancelled_gradients(Records(requests.at("trace", truth)))
    request = {
        "do": "train_perturbed",
        "truth": str(requests.at(free, truth)),
        "steps": [str(requests.at(single, name)) for name in requests.alive(alive)],
        "roundoff": {name: updates[name] for name in cancelled if name in updates},
    }
    requests.ask(request, [truth], to=perturbed)
    runs = Runs(
        truth,
        requests.records(free),
        requests.records(single),
        Records(requests.at(perturbed, truth)),
        trainable={each["path"] for each in requests.built[truth]["variables"] if each["trainable"]},
        updates=updates,
        cancelled=cancelled,
    )
    return measure_trajectory(runs, requests.options.steps, requests.built[truth]["dtype"])


def fits_of(requests: Requests, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Trains by Keras's own `fit` on each backend, after all steps have been taken one by one.

    Returns:
        What it returns on each backend, or its error; and the errors of workers that were ended from outside, as where
        memory or time ran out, which say nothing of `fit`.
    """
    before = dict(requests.failed)
    found: dict[str, Any] = {}
    with suppress(BackendError, TruthLostError):
        found = requests.ask({"do": "fit"}, names)
    # A backend that fails in `fit` has answered everything else.
    errors = {name: str(error) for name, error in requests.failed.items() if name not in before}
    requests.failed = before
    ended = {name: each for name, each in errors.items() if requests.was_ended(name)}
    return found | {name: {"error": each} for name, each in errors.items() if name not in ended}, ended
