"""Times `dlf parity` relative to the time in which one backend starts and trains a step, and measures its memory.

Requirements:

* both are timed in turns, each in processes of its own, so that noise on the machine affects both alike;
* memory is the peak of each worker, as the operating system reports it, shown beside that of a training step.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dlf.backend.registry import load_backend
from dlf.backend.report import backend_environment
from dlf.parity.options import ParityOptions
from dlf.parity.runner import Workers, run_parity
from dlf.utils.console import result_console
from dlf.utils.errors import BackendError, DlfError

__all__ = ["print_parity_bench", "run_parity_bench"]

_STEP = """
import sys
import numpy as np
from dlf.bench import _parity_models as parity_models
from dlf.models.synthetic_data import make_batch
from dlf.utils.workers import peak_memory
model = getattr(parity_models, sys.argv[1])()
model.train_on_batch(*make_batch(model, model.loss, int(sys.argv[2]), np.random.default_rng(0)))
print(peak_memory())
"""
"""Imports the framework and Keras, trains one step, compiled as Keras compiles it, and prints the peak memory."""


def run_parity_bench(
    backends: Sequence[str], repeats: int, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures the time and the memory of `dlf parity`.

    Args:
        backends: The backends to compare.
        repeats: Rounds of the smallest model; the others run once.
        on_progress: Called with a text that says what is being done.

    Returns:
        The seconds of each round, the ratio, and for the larger models the seconds and the peak memory in bytes, beside
        the peak memory of one training step of Keras's own.

    Raises:
        BackendError: A backend cannot train a step.
    """
    rounds: list[dict[str, Any]] = []
    for number in range(repeats):
        on_progress(f"the lab's MLP, round {number + 1} of {repeats}")
        steps = {name: _take_step(name, "mlp", 8)[0] for name in backends}
        start = time.perf_counter()
        report = run_parity(_options("mlp", backends))
        rounds.append({"steps": steps, "parity": time.perf_counter() - start, "verdict": report["verdict"]})
    large = {}
    for model, stages, batch in (
        ("mobilenet", ("forward", "gradient"), 8),
        ("shallow", ("forward",), 1024),
        ("deep", ("forward",), 1024),
        ("shallow", (), 512),
        ("deep", (), 512),
    ):
        title = f"{model}, {' and '.join(stages) or 'all stages'}"
        on_progress(title)
        try:
            large[title] = _weigh(_options(model, backends, stages=stages, batch_size=batch))
            large[title]["step"] = {name: _take_step(name, model, batch)[1] for name in backends}
        except DlfError as error:
            # Not raised, since the figures up to here took minutes.
            on_progress(f"{title}: {error}")
            large[title] = {"seconds": None, "memory": {}, "step": {}, "verdict": "did not come through"}
    ratios = [each["parity"] / max(each["steps"].values()) for each in rounds]
    return {"rounds": rounds, "ratio": statistics.median(ratios), "ratios": ratios, "large": large}


def print_parity_bench(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints what `run_parity_bench` returned."""
    console = console or result_console()
    ratios = ", ".join(f"{each:.2f}" for each in found["ratios"])
    console.print(
        f"parity of the lab's MLP, all stages: {found['ratio']:.2f} times the slowest backend's own start and one step "
        f"({ratios})"
    )
    table = Table("model", "seconds", "peak of a worker, MiB", "peak of one step of Keras's own, MiB", "verdict")
    for title, each in found["large"].items():
        seconds = "" if each["seconds"] is None else f"{each['seconds']:.1f}"
        table.add_row(title, seconds, _in_mib(each["memory"]), _in_mib(each["step"]), each["verdict"])
    console.print(table)


def _in_mib(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in sizes.items())


def _options(model: str, backends: Sequence[str], **more: Any) -> ParityOptions:
    return ParityOptions(f"dlf.bench._parity_models:{model}", backends, **more)


def _take_step(name: str, model: str, batch: int) -> tuple[float, int]:
    """Returns the seconds that a process takes to start and train one step, and the most memory that it held."""
    start = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _STEP, model, str(batch)],
        env=backend_environment(load_backend(name)),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise BackendError(f"{name}: one step of {model} failed:\n{ended.stderr[-500:]}")
    return time.perf_counter() - start, int(ended.stdout.split()[-1])


def _weigh(options: ParityOptions) -> dict[str, Any]:
    start = time.perf_counter()
    with Workers(options.backends, timeout=options.timeout) as workers:
        report = run_parity(options, workers=workers)
        seconds = time.perf_counter() - start
        memory = {name: session.ask({"do": "peak_memory"})["bytes"] for name, session in workers.sessions.items()}
    return {"seconds": seconds, "memory": memory, "verdict": report["verdict"]}
