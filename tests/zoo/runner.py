"""Runs parity over everything in Keras, keeps each result at once, and resumes where it was stopped.

Requirements:

* one set of workers runs many small models; a worker that dies is restarted, and costs one entry;
* several sets can run in parallel, since in each set all workers wait for the backend that compiles the longest;
* an entry that has a result of the installed versions in the folder is not run again;
* untested entries are in the summary beside the tested ones.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

from dlf.backend.registry import load_backend
from dlf.backend.report import package_versions
from dlf.parity.options import ParityOptions
from dlf.parity.report import answer_of, remarks_of
from dlf.parity.runner import Workers, run_parity
from dlf.utils.errors import DlfError
from dlf.utils.files import whole_file
from zoo.entry import Entry

__all__ = ["run_zoo", "summary_of"]

SCHEMA = 1
TOGETHER = 20
"""The number of entries that one set of workers runs: compiled functions pile up in a process."""


def run_zoo(
    entries: Sequence[Entry],
    backends: Sequence[str],
    folder: Path,
    on_progress: Callable[[str], None] = lambda _: None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Runs the entries that were not run yet with the installed versions of Keras and the frameworks.

    Args:
        entries: The entries.
        backends: The backends to compare.
        folder: The folder where each report is kept, as ``kind-Name-case.json``.
        on_progress: Called with a line for each entry.
        jobs: The number of sets of workers that run at a time; applications are run by one set.

    Returns:
        The summary, in JSON's types: see `summary_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: package_versions(load_backend(name)) for name in backends} | {"keras": metadata.version("keras")}
    waiting = [each for each in entries if each.status == "tested" and not _is_done(_place(folder, each), versions)]
    on_progress(f"{len(waiting)} of {len(entries)} entries are to be run")
    started: list[Workers] = []
    numbers, stopped = count(1), Event()

    def run_together(some: Sequence[Entry]) -> None:
        with Workers(backends, timeout=900.0) as workers:
            started.append(workers)
            for entry in some:
                began = time.perf_counter()
                result = _run(entry, backends, workers) | {"versions": versions}
                result["seconds"] = round(time.perf_counter() - began, 1)
                if stopped.is_set():
                    return  # The workers were ended during this entry.
                with whole_file(_place(folder, entry)) as place:
                    place.write_text(json.dumps(result, allow_nan=False))
                on_progress(f"{next(numbers)} of {len(waiting)}: {title_of(entry)}: {result['answer']}")

    # Two of the largest applications at a time would need more memory than most machines have.
    small = [each for each in waiting if each.kind != "applications"]
    large = [each for each in waiting if each.kind == "applications"]
    for some, at_once in ((small, jobs), (large, 1)):
        with ThreadPoolExecutor(at_once) as pool:
            try:
                list(pool.map(run_together, [some[n : n + TOGETHER] for n in range(0, len(some), TOGETHER)]))
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for workers in started:
                    workers.close()
                raise
    return summary_of(entries, folder)


def summary_of(entries: Iterable[Entry], folder: Path) -> dict[str, Any]:
    """Returns a summary of the results of all entries.

    Args:
        entries: The entries.
        folder: The folder where the reports are kept.

    Returns:
        ``rows``, one for each entry, ``counts`` of their verdicts, the ``backends`` with their versions, and the
        ``seconds`` that all took.
    """
    rows: list[dict[str, Any]] = []
    backends: dict[str, Any] = {}
    for entry in entries:
        row: dict[str, Any] = {"kind": entry.kind, "name": entry.name, "case": entry.case, "target": entry.target}
        row |= {"verdict": entry.status, "answer": entry.reason or "", "findings": [], "news": [], "seconds": 0.0}
        place = _place(folder, entry)
        if entry.status == "tested":
            row["verdict"] = "not run"
        if entry.status == "tested" and place.exists():
            found = json.loads(place.read_text())
            row |= {name: found[name] for name in ("verdict", "answer", "findings", "news", "seconds")}
            backends = found.get("backends") or backends
        rows.append(row)
    return {
        "schema": SCHEMA,
        "backends": backends,
        "counts": dict(Counter(row["verdict"] for row in rows)),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "rows": rows,
    }


def title_of(entry: Entry) -> str:
    """Returns the title of an entry: its kind, name and case.

    Example:
        >>> title_of(Entry("layers", "Dense", "no_bias"))
        'layers Dense, no bias'
    """
    return f"{entry.kind} {entry.name}" + (f", {entry.case.replace('_', ' ')}" if entry.case else "")


def _run(entry: Entry, backends: Sequence[str], workers: Workers) -> dict[str, Any]:
    options = ParityOptions(entry.target or "", backends, data=entry.data, stages=entry.stages, steps=entry.steps)
    try:
        report = run_parity(options, workers=workers)
    except DlfError as error:
        return {
            "entry": asdict(entry),
            "verdict": "failed",
            "answer": str(error),
            "findings": [],
            "news": [],
            "failed": {},
        }
    failed = [f"{name}: {text}" for name, text in report["failed"].items()]
    return {
        "entry": asdict(entry),
        "verdict": _verdict(report),
        "answer": "\n".join([answer_of(report), *remarks_of(report), *failed]),  # Known reasons are in the findings.
        "findings": [*report["divergences"], *_untaken(report)],
        "news": [each for each in report["precision"] if each["verdict"] in {"noisy", "precision", "tie"}],
        "failed": report["failed"],
        "worst": {stage: each["worst"] for stage, each in report["stages"].items()},
        "backends": {
            name: {part: each[part] for part in ("keras", "framework", "device")}
            for name, each in report["backends"].items()
        },
    }


def _verdict(report: Mapping[str, Any]) -> str:
    if set(report["failed"]) - set(report["known_failures"]):
        return "failed"
    if not all(each["reason"] for each in report["divergences"]):
        return "diverge"
    if report["failed"] or report["divergences"] or _untaken(report):
        return "known"
    return "not judged" if report["not_judged"] else str(report["verdict"])


def _untaken(report: Mapping[str, Any]) -> list[Any]:
    return [each for each in report["precision"] if each["verdict"] == "untaken"]


def _is_done(place: Path, versions: Mapping[str, Any]) -> bool:
    return place.exists() and json.loads(place.read_text()).get("versions") == versions


def _place(folder: Path, entry: Entry) -> Path:
    return folder / f"{entry.kind}-{entry.name}-{entry.case}.json"
