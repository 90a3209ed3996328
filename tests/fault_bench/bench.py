"""Runs every model of the bench and prints the faults that were caught and placed, and the false alarms.

Requirements:

* each model runs once, on all backends; each pair of backends is judged on the same measurements;
* the ways in which people compare models today are scored on the same records;
* each constant of the verdict is scored too, at smaller and larger values;
* what was missed is named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import catalog
from planting import Fault, Sound
from rich.console import Console
from rich.table import Table
from sweep import FACTORS, swept

from dlf.parity._answers import Report
from dlf.parity._records import Records
from dlf.parity.evidence import judged
from dlf.parity.options import ParityOptions
from dlf.parity.runner import Workers, run_parity
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError

BACKENDS = ("jax", "tensorflow", "torch")
SETTINGS = (*combinations(BACKENDS, 2), BACKENDS)
WAYS = {
    "allclose, 1e-3, on the outputs": (1e-3, 1e-3),
    "allclose, 1e-5, on the outputs": (1e-5, 1e-5),
    "torch.testing.assert_close, on the outputs": (1.3e-6, 1e-5),
}
"""Relative and absolute tolerance."""
TOGETHER = 20
"""The number of models that one set of workers runs: compiled functions pile up in a process."""
FIRST_LAYER = "the first layer above 1e-5"


@dataclass
class Score:
    """What one way of judging has found on one set of backends."""

    faults: int = 0
    caught: int = 0
    placed: int = 0
    sound: int = 0
    alarms: int = 0
    costly: int = 0
    """Sound models in which something is called noisy or imprecise; only counted for the thresholds."""
    wrong: list[str] = field(default_factory=list)
    """The models that were missed, misplaced or falsely called faulty."""

    def add(self, model: Fault | Sound, *, diverges: bool, placed: bool, faulty: bool, said: str) -> None:
        """Adds the result for one model."""
        if faulty:
            self.faults += 1
            self.caught += diverges
            self.placed += diverges and placed
        else:
            self.sound += 1
            self.alarms += diverges
        if diverges is not faulty or (faulty and not placed):
            self.wrong.append(f"{model.name}: {said}")


def main() -> int:
    """Runs the bench; the exit code is 1 where anything was missed or falsely called."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the models whose name holds one of these texts: A,B")
    parser.add_argument("--json", type=Path, help="write everything there")
    asked = parser.parse_args()
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    scores: dict[str, dict[str, Score]] = {}
    sweep: dict[str, dict[float, Score]] = {}
    seconds: list[float] = []
    failed: list[str] = []
    models = [each for each in _models() if any(text in each[2].name for text in asked.only.split(","))]
    for start in range(0, len(models), TOGETHER):
        with Workers(BACKENDS) as workers:
            for number, file, model in models[start : start + TOGETHER]:
                began = time.monotonic()
                faulty = _faulty(number, model)
                try:
                    with tempfile.TemporaryDirectory() as folder:
                        report = _run(file, model, faulty, Path(folder) / "records", workers)
                        for name, words in report["failed"].items():
                            raise BackendError(f"{name}: {words}")
                        _score(scores, model, faulty, report, Path(folder) / "records")
                        _sweep(sweep, model, faulty, report)
                except InvalidArgumentError as error:
                    if _stage(model) != "data":
                        failed.append(f"{model.name}: {error}")
                        console.print(failed[-1], markup=False)
                except DlfError as error:
                    failed.append(f"{model.name}: {error}")
                    console.print(failed[-1], markup=False)
                    continue
                seconds.append(time.monotonic() - began)
                progress.print(f"{number + 1} {model.name}: {report['verdict']}, {seconds[-1]:.1f} s", markup=False)
                for line in _wrong(scores, f"{model.name}: "):
                    progress.print(f"    {line}", markup=False, soft_wrap=True)
    _print(console, scores, seconds, failed)
    _print_sweep(console, sweep)
    if asked.json:
        rows = {way: {name: asdict(score) for name, score in each.items()} for way, each in scores.items()}
        values = {name: {f"{by:g}": asdict(score) for by, score in each.items()} for name, each in sweep.items()}
        found = {"scores": rows, "thresholds": values, "seconds": seconds, "failed": failed}
        asked.json.write_text(json.dumps(found, indent=1))
    own = scores["dlf parity"].values()
    return int(bool(failed) or any(each.caught < each.faults or each.alarms for each in own))


def _models() -> Iterator[tuple[int, str, Fault | Sound]]:
    """All models, numbered, so that the backend of a fault does not depend on which models are run."""
    tables: list[Mapping[str, Mapping[str, Fault | Sound]]] = [catalog.FAULTS, catalog.SOUND]
    every = [(file, model) for table in tables for file, models in table.items() for model in models.values()]
    return ((number, file, model) for number, (file, model) in enumerate(every))


def _faulty(number: int, model: Fault | Sound) -> str:
    """The backend that has the fault, if any has it: the backends take turns."""
    where = getattr(model, "where", ()) or BACKENDS
    return where[number % len(where)]


def _run(file: str, model: Fault | Sound, faulty: str, keep: Path, workers: Workers) -> Report:
    target = catalog.address(file, model, faulty)
    data = f"{target.rpartition(':')[0]}:{model.data}" if model.data else None
    names = getattr(model, "backends", ()) or BACKENDS
    return run_parity(ParityOptions(target, names, data=data), keep=keep, workers=workers)


def _score(scores: dict[str, dict[str, Score]], model: Fault | Sound, faulty: str, report: Report, kept: Path) -> None:
    for names in SETTINGS:
        # Of two alone, the truth would not have lost what a third has: their steps could be judged.
        lost = bool(report["not_finite"]) and isinstance(model, Fault) and model.planted and faulty not in names
        if lost or not set(names) <= set(report["backends"]):
            continue
        setting, planted = " ".join(names), _is_faulty(model, faulty, names)
        own = _answer(judged(report, names), model, faulty, names)
        verdicts = {"dlf parity": own} | dict(_todays_ways(model, names, report, kept))
        for way, (diverges, is_placed, words) in verdicts.items():
            score = scores.setdefault(way, {}).setdefault(setting, Score())
            score.add(model, diverges=diverges, placed=is_placed, faulty=planted, said=words)


def _sweep(scores: dict[str, dict[float, Score]], model: Fault | Sound, faulty: str, report: Report) -> None:
    names = tuple(report["backends"])
    for name, factor, one in swept(report, names):
        diverges, placed, said = _answer(one, model, faulty, names)
        score = scores.setdefault(name, {}).setdefault(factor, Score())
        score.add(model, diverges=diverges, placed=placed, faulty=isinstance(model, Fault), said=said)
        score.costly += isinstance(model, Sound) and any(
            each["verdict"] in {"noisy", "precision"} for each in one["precision"]
        )


def _is_faulty(model: Fault | Sound, faulty: str, names: Sequence[str]) -> bool:
    """Whether a report on these backends has to find something: a difference, or results that are not finite."""
    return isinstance(model, Fault) and (model.verdict != "diverge" or faulty in names)


def _stage(model: Fault | Sound) -> str | None:
    return model.stage if isinstance(model, Fault) else None


def _answer(
    report: Mapping[str, Any], model: Fault | Sound, faulty: str, names: Sequence[str]
) -> tuple[bool, bool, str]:
    """Whether the answer is not "the same", whether the difference begins where it was planted, and the words for it.

    For a sound model, a stage that could not be judged counts as a false alarm.
    """
    verdict = report["verdict"]
    if verdict == "agree" and report["not_judged"]:
        said = ", ".join(each["stage"] for each in report["not_judged"])
        return isinstance(model, Sound), False, f"not judged: {said}"
    if verdict == "agree":
        return False, False, verdict
    lost = isinstance(model, Fault) and model.verdict == "not finite"
    first = (report["not_finite"] if lost else None) or report["first_divergence"]
    if lost and report["data_not_finite"]:
        first = {"stage": "data", "layer": None, "variable": None, "backend": None}
    if first is None:
        return True, False, f"{verdict}, and nothing is named"
    said = f"{verdict}: {first['stage']}, {first['layer']}, {first['variable']}, {first['backend']}"
    if lost:
        # Where only one backend has a finite result, that backend must not be blamed.
        told = report["first_divergence"]
        blamed = told is None or told["backend"] != faulty or not model.planted
        verdicts = {"diverge"} if model.planted and faulty in names else {"not finite"}
    else:
        # Of two backends neither is blamed, unless one of them has NaN or infinity.
        blamed = first["backend"] in ({faulty} if len(names) > 2 else {None, faulty})
        verdicts = {"diverge"}
    expected = (getattr(model, "stage", None), getattr(model, "layer", None))
    reasoned = bool(first.get("reason")) or not getattr(model, "known", False)
    placed = (first["stage"], first["layer"]) == expected and blamed and verdict in verdicts and reasoned
    return True, placed, said + ("" if reasoned else ", without a reason")


def _todays_ways(
    model: Fault | Sound, names: Sequence[str], report: Mapping[str, Any], kept: Path
) -> Iterator[tuple[str, tuple[bool, bool, str]]]:
    """What simpler comparisons answer: whether float32 outputs are close, and the first layer whose outputs are not."""
    records = {name: Records(kept / "trace" / name) for name in names}
    keys = [call["key"] for call in report["calls"]]

    def differs(name: str, rtol: float, atol: float) -> bool:
        arrays = [each.get(name) for each in records.values()]
        return any(
            one is None or other is None or not _is_close(one, other, rtol, atol)
            for one, other in combinations(arrays, 2)
        )

    every = [name for each in records.values() for name in each if name.startswith("tested/")]
    outputs = sorted({name for name in every if name.startswith(("tested/prediction", "tested/inference"))})
    for way, (rtol, atol) in WAYS.items():
        yield way, (any(differs(name, rtol, atol) for name in outputs), False, "")
    for key in keys:
        if any(
            differs(name, 0.0, 1e-5) for name in dict.fromkeys(every) if name.rpartition(":")[0] == f"tested/call/{key}"
        ):
            layer = next(call["layer"] for call in report["calls"] if call["key"] == key)
            yield FIRST_LAYER, (True, layer == getattr(model, "layer", None), layer)
            return
    yield FIRST_LAYER, (False, False, "")


def _is_close(one: np.ndarray, other: np.ndarray, rtol: float, atol: float) -> bool:
    return one.shape == other.shape and bool(
        np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
    )


def _print(
    console: Console, scores: Mapping[str, Mapping[str, Score]], seconds: Sequence[float], failed: Sequence[str]
) -> None:
    table = Table("judged by", "on", "faults caught", "placed exactly", "false alarms")
    for way, each in scores.items():
        for setting, score in each.items():
            placed = f"{score.placed} of {score.faults}" if way in {"dlf parity", FIRST_LAYER} else "—"
            table.add_row(way, setting, f"{score.caught} of {score.faults}", placed, f"{score.alarms} of {score.sound}")
    console.print(table)
    console.print(f"{np.median(seconds):.1f} s a model (median of {len(seconds)}); {len(failed)} did not come through")
    for line in _wrong(scores):
        console.print(line, markup=False, soft_wrap=True)


def _wrong(scores: Mapping[str, Mapping[str, Score]], begins: str = "") -> Iterator[str]:
    """The models that dlf missed, misplaced or falsely called faulty."""
    for setting, score in scores["dlf parity"].items():
        yield from (f"{setting}: {line}" for line in score.wrong if line.startswith(begins))


def _print_sweep(console: Console, sweep: Mapping[str, Mapping[float, Score]]) -> None:
    """One row for each factor: faults missed or misplaced, sound models called faulty, and sound ones called noisy."""
    table = Table("missed, faulty, noisy", *sweep)
    for factor in FACTORS:
        scores = [each[factor] for each in sweep.values()]
        cells = [f"{one.faults - one.placed}, {one.alarms}, {one.costly}" for one in scores]
        table.add_row(f"x {factor:g}", *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
