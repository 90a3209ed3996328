"""A process for one backend and one model: compares the contestants, then times them in turns.

Requirements:

* run as a module, it reads one request from stdin and writes lines of JSON: what it is doing, and at last the results;
* a contestant whose results differ from Keras's is never timed; one that fails does not affect the others' figures;
* it ends when its parent process ends, for whatever reason.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dlf.backend.registry import current_backend
from dlf.backend.report import describe_backend
from dlf.bench._agreement import Judge
from dlf.bench._contestants import Contestant, Running, contestants
from dlf.bench.models import Task, make_task
from dlf.bench.options import GROWTH
from dlf.utils.workers import cores_of_machine, peak_memory, report_progress, serve

__all__ = ["compare_and_time", "measure_growth", "measure_memory", "measure_startup"]


def compare_and_time(
    contestants: list[Contestant], task: Task, repeats: int, on_progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Compares every contestant with the first, and times those that agree with it.

    Args:
        contestants: The ways of training.
        task: What to train.
        repeats: How many rounds; in each, every contestant trains one epoch, in a random order.
        on_progress: Called with a text that says what is being done.

    Returns:
        For each contestant its name, its status (``timed``, ``does not agree``, ``absent`` or ``failed``), the
        verdict, the seconds of the first epoch including setup and compilation, and the seconds of each round.
    """
    judge = Judge(contestants[0], task)
    results: list[dict[str, Any]] = []
    running: dict[str, Running] = {}
    for contestant in contestants:
        result: dict[str, Any] = {"name": contestant.name, "status": "absent", "reason": contestant.absent}
        results.append(result)
        if contestant.absent:
            continue
        try:
            on_progress(f"{contestant.name}: does it agree?")
            verdict = judge.judge(contestant)
            result |= {"status": "does not agree", "agreement": asdict(verdict)}
            if verdict.agrees:
                on_progress(f"{contestant.name}: first epoch")
                running[contestant.name], seconds = _first_epoch(contestant, task)
                result |= {"status": "timed", "first_epoch_seconds": seconds, "rounds": []}
        except Exception as error:  # noqa: BLE001 - the others' figures are worth having.
            result |= {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    timed = [result for result in results if result["status"] == "timed"]
    rng = random.Random(0)  # noqa: S311 - an order, not a secret.
    for number in range(repeats):
        on_progress(f"round {number + 1} of {repeats}")
        for result in rng.sample(timed, len(timed)):
            result["rounds"].append(_seconds(running[result["name"]].epoch))
    for each in running.values():
        each.close()
    return results


def measure_growth(contestant: Contestant, task: Task, large: Task, repeats: int) -> dict[str, Any]:
    """Returns the seconds of epochs on few and on many rows, measured in turns, and both numbers of rows."""
    sizes = {"rounds": task, "large_rounds": large}
    running = {name: _first_epoch(contestant, each)[0] for name, each in sizes.items()}
    rounds = [{name: _seconds(each.epoch) for name, each in running.items()} for _ in range(repeats)]
    for each in running.values():
        each.close()
    return {name: [each[name] for each in rounds] for name in sizes} | {
        "rows": len(task.labels),
        "large_rows": len(large.labels),
    }


def measure_memory(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Returns, in bytes, this process's peak memory before and after two epochs, and the size of the data."""
    before = peak_memory()
    running, _ = _first_epoch(contestant, task)
    running.epoch()
    running.close()
    return {"before": before, "peak": peak_memory(), "data": task.scaled.nbytes + task.labels.nbytes}


def measure_startup(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Returns the seconds that the first epoch, including setup, takes beyond the median of three later ones."""
    running, first = _first_epoch(contestant, task)
    later = statistics.median(_seconds(running.epoch) for _ in range(3))
    running.close()
    return {"seconds": first - later}


def _first_epoch(contestant: Contestant, task: Task) -> tuple[Running, float]:
    begin = time.perf_counter()
    running = contestant.start(task)
    running.epoch()
    return running, time.perf_counter() - begin


def _seconds(epoch: Callable[[], None]) -> float:
    begin = time.perf_counter()
    epoch()
    return time.perf_counter() - begin


def _machine() -> dict[str, Any]:
    threads = {name: value for name, value in os.environ.items() if "THREADS" in name or name == "XLA_FLAGS"}
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "usable_cpus": cores_of_machine(),
        "thread_settings": threads,
        "load": os.getloadavg(),
    }


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    kind, repeats = request["kind"], request["repeats"]
    task = make_task(request["model"], request["rows"], request["batch_size"])
    known = contestants()
    if kind == "time":
        machine, found = _machine(), compare_and_time(known, task, repeats, on_progress=report_progress)
        return {
            "description": describe_backend(current_backend()),
            "machine": machine | {"load_after": os.getloadavg()},
            "contestants": found,
        }
    contestant = next(each for each in known if each.name == request["contestant"])
    if contestant.absent:
        return {"absent": contestant.absent}
    if kind == "growth":
        large = make_task(request["model"], request["rows"] * GROWTH, request["batch_size"])
        return measure_growth(contestant, task, large, repeats)
    return {"memory": measure_memory, "startup": measure_startup}[kind](contestant, task)


if __name__ == "__main__":
    serve(_answer, once=True)
