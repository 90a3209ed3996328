"""Runs one model on several backends, each in a process of its own, side by side, and judges what they recorded.

What is asked of it:

* the parent imports no framework; the workers start at once, and wait for one another only where they must;
* a backend that fails is reported with its last words, and the others are compared without it;
* records are removed at the end, whatever happens, unless somebody wants to keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dlf.backend_registry import load_backend
from dlf.backend_report import backend_environment
from dlf.errors import BackendError, DlfError, InvalidArgumentError, OutputError
from dlf.files import temporary_folder
from dlf.noise_floor import rms
from dlf.parity.options import STAGES, ParityOptions
from dlf.parity.records import Records
from dlf.parity.verdict import Finding, floor_of, is_suspect, judge_calls, judge_simple, judge_tensor, with_ties
from dlf.workers import Session

__all__ = ["SCHEMA", "run_parity"]

SCHEMA = 1
KNOWN = ("diverged", "tie")
"""Of a part, it explains why the whole differs."""


def run_parity(
    options: ParityOptions, say: Callable[[str], None] = lambda _: None, keep: Path | None = None
) -> dict[str, Any]:
    """Compares a model across backends.

    Args:
        options: What to compare.
        say: Is told what is going on.
        keep: A folder where the records are left; by default they are removed.

    Returns:
        The report, in JSON's types.

    Raises:
        DlfError: Fewer than two backends came through; the first one's error.
    """
    with temporary_folder("dlf-parity-") if keep is None else nullcontext(_checked(keep)) as folder:
        run = _Run(options, folder, say)
        try:
            return run.report()
        finally:
            run.close()


def _checked(keep: Path) -> Path:
    """The folder, where nothing of an earlier run can be taken for this one's."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        found = sorted(each.name for each in keep.iterdir())
    except OSError as error:
        raise OutputError(f"{keep}: cannot be written ({error.strerror or error}). Name another folder.") from error
    if found:
        raise InvalidArgumentError("--keep", expected="a folder that is empty or not there", received=found[:5])
    return keep


class _Run:
    """The workers of one comparison, and what they answered."""

    def __init__(self, options: ParityOptions, folder: Path, say: Callable[[str], None]) -> None:
        self._options, self._folder, self._say = options, folder, say
        self._failed: dict[str, DlfError] = {}
        self._sessions = {
            name: Session(
                "dlf.parity.worker", backend_environment(load_backend(name)), title=name, timeout=options.timeout
            )
            for name in options.backends
        }

    def close(self) -> None:
        """Ends the workers."""
        for session in self._sessions.values():
            session.close()

    def report(self) -> dict[str, Any]:
        """Runs everything, in order."""
        options = asdict(self._options)
        built = self._ask_all({name: {"do": "build", "options": options} for name in self._sessions})
        findings = _judge_build(built)
        if any(each.stage == "build" and each.verdict == "diverged" for each in findings):
            # Another model: what comes after would be of two different things.
            return self._summary(built, findings)
        leader, values = next(iter(built)), str(self._folder / "values.npz")
        self._ask_all({leader: {"do": "save_values", "file": values}})
        self._ask_all({name: {"do": "load_values", "file": values} for name in built})
        traced = self._ask_all(
            {name: {"do": "trace", "to": str(self._at("trace", name))} for name in self._alive(built)}
        )
        truth = self._truth(traced)
        keys = [key for key in traced[truth]["calls"] if all(key in each["calls"] for each in traced.values())]
        replays = {
            name: {
                "do": "replay",
                "truth": str(self._at("trace", truth)),
                "to": str(self._at("replay", name)),
                "keys": keys,
                "twins": name == truth,
            }
            for name in traced
        }
        self._ask_all(replays)
        trains = {
            name: {"do": "train", "to": str(self._at("train", name)), "twins": name == truth}
            for name in self._alive(traced)
        }
        self._ask_all(trains)
        alive = self._alive(traced)
        records = {name: Records(self._at("replay", name)) for name in alive}
        findings += self._judge_layers(records, truth, keys, traced[truth]["paths"])
        findings += judge_simple(records, "loss", "loss")
        findings += judge_simple(records, "update", "update")
        findings += judge_simple(records, "update", "slot")
        findings += _judge_whole({name: Records(self._at("trace", name)) for name in alive}, findings)
        findings += _judge_training({name: Records(self._at("train", name)) for name in alive}, truth, findings)
        return self._summary(built, findings)

    def _judge_layers(
        self, records: Mapping[str, Records], truth: str, keys: list[str], paths: Mapping[str, str]
    ) -> list[Finding]:
        """Judges each layer; where gradients differ, once more from inputs beside those."""
        findings = judge_calls(records, truth, keys, paths)
        suspects = {each.layer for each in findings if is_suspect(each)}
        again = [key for key in keys if paths[key] in suspects]
        if not again:
            return findings
        request = {"do": "replay_beside", "truth": str(self._at("trace", truth)), "keys": again}
        self._ask_all({name: request | {"to": str(self._at("beside", name))} for name in records})
        beside = {name: Records(self._at("beside", name)) for name in self._alive(records)}
        return with_ties(findings, judge_calls(beside, truth, again, paths)) if truth in beside else findings

    def _at(self, what: str, backend: str) -> Path:
        return self._folder / what / backend

    def _alive(self, names: Any) -> list[str]:
        return [name for name in names if name not in self._failed]

    def _ask_all(self, requests: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Asks the workers side by side; one that fails is left out from then on."""
        answers: dict[str, dict[str, Any]] = {}

        def ask(name: str) -> None:
            try:
                answers[name] = self._sessions[name].ask(requests[name], lambda text: self._say(f"{name}: {text}"))
            except DlfError as error:
                self._failed[name] = error

        with ThreadPoolExecutor(len(requests)) as pool:
            try:
                list(pool.map(ask, requests))
            except BaseException:
                # The pool waits for its threads, and they for the workers.
                self.close()
                raise
        for error in self._failed.values():
            if isinstance(error, OutputError):
                raise error  # They all write to one folder.
        if len(self._sessions) - len(self._failed) < 2:  # noqa: PLR2004 - two are what a comparison takes.
            raise self._why_not()
        return {name: answers[name] for name in requests if name in answers}

    def _why_not(self) -> DlfError:
        if len(self._failed) == len(self._sessions):
            return next(iter(self._failed.values()))
        reasons = "\n".join(f"{name}: {error}" for name, error in self._failed.items())
        return BackendError(
            f"a comparison takes two backends, and there is one left of {len(self._sessions)}.\n{reasons}"
        )

    def _check_repeats(self, built: Mapping[str, Any]) -> None:
        """Before anybody is told that a model differs between backends: it may differ from call to call."""
        again = self._ask_all({name: {"do": "build_again"} for name in self._alive(built)})
        other = [name for name, each in again.items() if each["digest"] != built[name]["digest"]]
        if other:
            raise InvalidArgumentError(
                "TARGET",
                expected="a function that builds the same model at each call",
                received=self._options.target,
                advice=f"On {', '.join(other)} its second model differs from its first: see what it draws or counts.",
            )

    def _truth(self, traced: Mapping[str, Any]) -> str:
        """The backend whose layers get what goes in from: one whose loss the most others share."""
        losses = {name: Records(self._at("trace", name))["loss"] for name in traced}
        return max(
            losses, key=lambda name: sum(bool(np.isclose(losses[name], each, rtol=1e-9)) for each in losses.values())
        )

    def _summary(self, built: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
        order = {stage: number for number, stage in enumerate(STAGES)}
        if any(each.verdict == "diverged" for each in findings):
            self._check_repeats(built)
        wrong = sorted((each for each in findings if each.verdict == "diverged"), key=lambda each: order[each.stage])
        news = [each for each in findings if each.verdict in ("noisy", "precision", "unstable", "tie")]
        stages = {}
        for stage in STAGES:
            own = [each for each in findings if each.stage == stage]
            counts = {
                verdict: sum(each.verdict == verdict for each in own) for verdict in {each.verdict for each in own}
            }
            worst = max(own, key=lambda each: each.noise_floors or 0.0, default=None)
            stages[stage] = {"counts": counts, "worst": None if worst is None else worst.as_dict()}
        return {
            "schema": SCHEMA,
            "verdict": "diverge" if wrong else "agree",
            "target": self._options.target,
            "seed": self._options.seed,
            "dtype": "float32",
            "backends": {
                name: {
                    "keras": each["versions"]["keras"],
                    "framework": next(v for key, v in each["versions"].items() if key != "keras"),
                    "device": each["devices"][0].split(":")[0],
                    "numeric_settings": each["numeric_settings"],
                }
                for name, each in built.items()
            },
            "failed": {name: str(error) for name, error in self._failed.items()},
            "first_divergence": wrong[0].as_dict() if wrong else None,
            "divergences": [each.as_dict() for each in wrong],
            "precision": [each.as_dict() for each in news],
            "stages": stages,
            "findings": [each.as_dict() for each in findings],
        }


def _judge_build(built: Mapping[str, Any]) -> list[Finding]:
    """Compares variables and layers; what differs is named, and who is in the minority."""
    findings = []
    names = list(built)
    rows = {name: [_row(each) for each in built[name]["variables"]] for name in names}
    layers = {each["path"]: each["layer"] for name in names for each in built[name]["variables"]}
    for what in sorted({row for each in rows.values() for row in each}, key=str):
        have = [name for name in names if what in rows[name]]
        if len(have) == len(names):
            continue
        lack = [name for name in names if name not in have]
        odd = have if len(have) < len(lack) else lack if len(lack) < len(have) else [None]
        variable = what[0].rpartition("/")[2]
        findings += [Finding("build", layers[what[0]], variable, name, "diverged", float("inf")) for name in odd]
    digests = {name: built[name]["batches"] for name in names}
    if not findings and len({tuple(each) for each in digests.values()}) > 1:
        raise InvalidArgumentError(
            "--data",
            expected="the same batches on every backend",
            received=digests,
            advice="Draw from the generator that the function is given, with NumPy alone.",
        )
    # What is there in another shape is lacked in one and had in the other.
    return list(dict.fromkeys(findings)) or [Finding("build", None, None, name, "identical", 0.0) for name in names]


def _row(variable: Mapping[str, Any]) -> tuple[Any, ...]:
    """What has to be the same of a variable; the integers of a seed are of another dtype on each backend."""
    dtype = "a seed" if variable["path"].endswith("seed_generator_state") else variable["dtype"]
    return variable["path"], tuple(variable["shape"]), dtype, variable["trainable"]


def _judge_whole(records: Mapping[str, Records], before: list[Finding]) -> list[Finding]:
    """The loss and the gradients of the whole model, where no part of it showed what differs."""
    if any(each.verdict in KNOWN for each in before):
        return []
    first = next(iter(records.values()))
    findings: list[Finding] = []
    names = [name for name in first if name == "loss" or name.startswith("gradient/")]
    largest = max(rms(first[name]) for name in names)
    for name in names:
        wide = {backend: each.get(name) for backend, each in records.items()}
        floor = floor_of(first[name], [], rms(first[name]) if name == "loss" else largest)
        # Roundoff grows from layer to layer: a thousand times that of one layer still means the same.
        found = judge_tensor(
            "loss" if name == "loss" else "gradient", None, name.removeprefix("gradient/"), wide, wide, 1e3 * floor
        )
        findings += [each for each in found if each.verdict == "diverged"]
    return findings


def _judge_training(records: Mapping[str, Records], truth: str, before: list[Finding]) -> list[Finding]:
    """A few steps of Keras's own training, in float64 against twins, and in the dtype under test."""
    findings: list[Finding] = []
    known = any(each.verdict in KNOWN for each in before)
    exact = records[truth]
    # One scale for all: a bias that stays at zero but for roundoff, which Adam blows up, is no larger for it.
    largest = max((rms(exact[name]) for name in exact if name.startswith("float64/end/")), default=0.0)
    for name in exact:
        title, _, part = name.partition("/")
        if title != "float64":
            continue
        stage = "trajectory"
        twins = [exact[f"twin{n}/{part}"] for n in range(2) if f"twin{n}/{part}" in exact]
        floor = floor_of(exact[name], twins, largest)
        wide = {backend: each.get(name) for backend, each in records.items()}
        narrow = {backend: each.get(f"float32/{part}") for backend, each in records.items()}
        for each in judge_tensor(stage, None, part.split("/", 1)[-1], wide, narrow, floor):
            # What a layer, the loss or the optimizer does wrong shows here again.
            if each.verdict == "diverged" and known:
                continue
            verdict = "chaos" if each.verdict in ("noisy", "unstable", "precision") else each.verdict
            findings.append(
                Finding(stage, None, each.variable, each.backend, verdict, each.relative_difference, each.noise_floors)
            )
    return findings
