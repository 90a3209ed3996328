"""Starts the workers of `dlf bench`, and collects their results.

Requirements:

* the parent imports no framework: every figure comes from a process that runs one backend;
* one worker runs at a time, so that they do not disturb one another;
* a worker that dies is reported with the end of its stderr, and does not affect the other figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlf.backend.registry import load_backend
from dlf.backend.report import backend_environment
from dlf.bench.options import FUSED, REFERENCE, BenchOptions
from dlf.bench.report import SCHEMA, summarise
from dlf.utils.errors import BackendError
from dlf.utils.workers import run_worker

__all__ = ["run_bench"]

OnProgress = Callable[[str], None]


def run_bench(
    options: BenchOptions,
    on_progress: OnProgress = lambda _: None,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Times the contestants for each backend and model, each pair in a process of its own.

    Args:
        options: What is measured.
        on_progress: Called with a text that says what is being done.
        keep: Called with the report so far, whenever a backend and model are done.

    Returns:
        The report, in JSON's types: under ``results`` one entry for each backend and model, with the raw seconds of
        every round and the figures that `summarise` adds; an entry whose worker died has an ``error`` instead.
    """
    results: list[dict[str, Any]] = []
    report = {"schema": SCHEMA, "options": asdict(options), "results": results}
    for backend in options.backends:
        for model in options.models:

            def show(text: str, where: str = f"{backend} {model}") -> None:
                on_progress(f"{where}: {text}")

            result: dict[str, Any] = {"backend": backend, "model": model}
            try:
                result |= _ask(options, backend, model, {"kind": "time"}, show)
                result |= _extras(options, result, show)
            except BackendError as error:
                result["error"] = str(error)
            results.append(summarise(result, options.rows))
            keep(report)
    return report


def _extras(options: BenchOptions, result: Mapping[str, Any], show: OnProgress) -> dict[str, Any]:
    """Returns the measurements besides speed that were asked for; one that failed has an ``error`` instead."""
    backend, model = result["backend"], result["model"]
    timed = [each["name"] for each in result["contestants"] if each["status"] == "timed"]

    def measure(kind: str, name: str, cache: str | None = None, **request: Any) -> dict[str, Any]:
        if name not in timed:
            return {"absent": f"{name} was not timed"}
        show(f"{kind}, {name}")
        try:
            return _ask(options, backend, model, {"kind": kind, "contestant": name, **request}, show, cache)
        except BackendError as error:
            return {"error": str(error)}

    found: dict[str, Any] = {}
    if options.growth:
        found["growth"] = measure("growth", FUSED)
    if options.memory:
        # With few rows, the memory is what the framework and the compiled program take whatever the data are.
        sizes = {"few": 4 * options.batch_size, "all": options.rows}
        found["memory"] = {
            name: {size: measure("memory", name, rows=rows) for size, rows in sizes.items()}
            for name in (REFERENCE, FUSED)
        }
    if options.startup:
        found["startup"] = {}
        for name in timed:
            with tempfile.TemporaryDirectory(prefix="dlf-bench-") as cache:
                cold, warm = (measure("startup", name, cache) for _ in range(2))
            found["startup"][name] = {"cold": cold, "warm": warm}
    return found


def _ask(  # noqa: PLR0913, PLR0917 - what one process needs to know.
    options: BenchOptions, backend: str, model: str, request: dict[str, Any], show: OnProgress, cache: str | None = None
) -> dict[str, Any]:
    """Runs one worker and returns what it found."""
    usual = {"model": model, "rows": options.rows, "batch_size": options.batch_size, "repeats": options.repeats}
    environment = backend_environment(load_backend(backend)) | _cache_settings(cache)
    return run_worker(
        "dlf.bench._worker",
        usual | request,
        environment,
        title=f"{backend} {model}",
        on_progress=lambda each: show(str(each)),
    )


def _cache_settings(folder: str | None) -> dict[str, str]:
    """Returns JAX's cache settings: keep every program in the folder; without a folder, none, for cold starts."""
    if folder is None:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(Path(folder)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
