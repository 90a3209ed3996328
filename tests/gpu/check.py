"""Runs dlf on a GPU: devices, parity, precision, speed, gradients and tests; each part with a time limit of its own.

Call ``python tests/gpu/check.py --out FOLDER`` on a machine with a GPU, JAX and PyTorch. Results are kept: after each
part, ``FOLDER/check.json`` describes the machine and holds every answer so far; at the end, ``FOLDER/logs.tgz`` holds
what was printed. With ``--device cpu --small`` the same steps run on any machine, with smaller models and less data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FRAMEWORKS = ("jax", "torch")
PRECISE = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Environment variables for full float32 products, without TF32; both frameworks read them when they start."""
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # Two frameworks share the memory of one GPU.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "NO_COLOR": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@dataclass(frozen=True)
class Part:
    """One command, the seconds that it may take, and the name of the JSON file that it writes."""

    name: str
    seconds: int
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    folder: Path | None = None


def main() -> int:
    """Runs the parts for which there is time, and returns 0 if each of them succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for check.json and logs.tgz")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--seconds", type=int, default=540, help="for all parts; one that would begin later is skipped")
    parser.add_argument("--wheels", type=Path, help="what to install first: the folder that prepare.sh made")
    parser.add_argument("--small", action="store_true", help="few rows and one test: to try the check on slow machines")
    parser.add_argument("--only", default="", help="the parts of these names: A,B")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    only = [each for each in asked.only.split(",") if each]
    chosen = [part for part in parts(asked.device, small=asked.small) if not only or part.name in only]
    found: dict[str, Any] = {"machine": machine(), "device": asked.device, "parts": {}}
    end = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(prefix="dlf-gpu-") as folder:
        work = Path(folder)
        declare(work / "site", {"jax_cpu": "dlf_on_cpu:jax_cpu", "torch_cpu": "dlf_on_cpu:torch_cpu"})
        if asked.wheels:
            install(asked.wheels, work / "site")
        paths = [str(work / "site"), str(HERE), os.environ.get("PYTHONPATH", "")]
        shared = {**SHARED, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # Programs that somebody keeps already are not compiled again.
        shared["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(work / "jax"))
        for part in chosen:
            limit = min(float(part.seconds), end - time.monotonic())
            # What is tried on a machine that does other things too is not held to a GPU's pace.
            found["parts"][part.name] = answer = run(part, work, shared, asked.seconds if asked.small else limit)
            (asked.out / "check.json").write_text(json.dumps(found, indent=1) + "\n")
            print(f"{part.name:<24}{answer['exit']!s:<10}{answer['seconds']:6.1f} s  {answer['said']}", flush=True)
        with tarfile.open(asked.out / "logs.tgz", "w:gz") as archive:
            for file in sorted([*work.glob("*.log"), *work.glob("*.json")]):
                archive.add(file, file.name)
    return int(any(each["exit"] not in (0, "skipped") for each in found["parts"].values()))


def parts(device: str, *, small: bool) -> Iterator[Part]:
    """Yields the parts to run, the most informative first."""
    # To try the check itself, the quickest model replaces all others, and takes one step: what would be the same
    # comparison again is left out.
    wide = "mlp" if small else "cnn"
    steps = ["--steps", "1"] if small else []
    yield Part("backends", 60, dlf("backends", "--json", "backends.json"), answer="backends.json")
    for model, seconds in (("mlp", 70),) if small else (("mlp", 70), ("cnn", 90), ("transformer", 110)):
        yield parity(model, model, seconds, "--device", device, *steps)
    # Each framework on GPU against itself on CPU: the same code with other kernels, with TF32 and without it.
    for name in FRAMEWORKS:
        for title, environment in (("", {}), ("_no_tf32", PRECISE)):
            yield parity(f"cnn_{name}{title}", wide, 80, *steps, pair=f"{name},{name}_cpu", environment=environment)
    rows, size, repeats = ("200", "32", "1") if small else ("10000", "256", "3")
    for model in ("mlp",) if small else ("cnn", "transformer", "mlp"):
        for name in FRAMEWORKS:
            title = f"bench_{model}_{name}"
            asked = ["--rows", rows, "--batch-size", size, "--repeats", repeats, "--json", f"{title}.json"]
            yield Part(title, 60, dlf("bench", "--backends", name, "--models", model, *asked), answer=f"{title}.json")
    yield parity("bfloat16", "mlp", 70, "--device", device, "--dtype", "mixed_bfloat16", *steps)
    if not small:
        yield parity("lstm", "lstm", 90, "--device", device)
    yield parity("deterministic", wide, 80, "--device", device, *steps, environment=DETERMINISTIC)
    paths = ["--paths", "grad,nnx,autograd", "--json", "gradients.json"]
    yield Part("gradients", 60, dlf("gradients", "--problem", "mlp", *paths), answer="gradients.json")
    for name in FRAMEWORKS:
        quick = ["-m", "not slow", "tests/training", "tests/random", "tests/gradients"]
        tests = ["tests/utils"] if small else quick
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backend", name, *tests]
        yield Part(f"tests_{name}", 150, pytest, folder=ROOT)


def parity(
    name: str,
    model: str,
    seconds: int,
    *options: str,
    pair: str = ",".join(FRAMEWORKS),
    environment: dict[str, str] | None = None,
) -> Part:
    """Returns the part that compares one of the models in `models.py`."""
    command = dlf("parity", f"{HERE / 'models.py'}:{model}", "--backends", pair, *options, "--json", f"{name}.json")
    return Part(name, seconds, command, environment or {}, f"{name}.json")


def dlf(*arguments: str) -> list[str]:
    """Returns the command line of `dlf` in this Python."""
    return [sys.executable, "-m", "dlf", *arguments]


def run(part: Part, work: Path, shared: dict[str, str], limit: float) -> dict[str, Any]:
    """Runs a part for at most so many seconds, and returns how it ended and a summary of its output."""
    if limit < 20:
        return {"exit": "skipped", "seconds": 0.0, "said": "no time was left"}
    start = time.monotonic()
    with (work / f"{part.name}.log").open("w+") as log:
        try:
            code: int | str = subprocess.run(
                part.command,
                cwd=part.folder or work,
                env={**os.environ, **shared, **part.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = "out of time"
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    answer: dict[str, Any] = {
        "exit": code,
        "seconds": round(time.monotonic() - start, 1),
        "said": headline(part, lines),
    }
    file = work / part.answer
    if part.answer and file.exists():
        answer["answer"] = in_short(json.loads(file.read_text()))
    return answer


def headline(part: Part, lines: list[str]) -> str:
    """Returns the most informative line of the output: the last one of tests, the first answer of other commands."""
    if part.name.startswith("tests"):
        return (lines or [""])[-1][:200]
    progress = "dlf: "
    answers = [line for line in lines if not line.startswith(progress)]
    return (answers or lines[-1:] or [""])[0][:200]


def in_short(answer: Any) -> Any:
    """Returns what is kept of an answer: of a parity report the verdict and the differences, of others everything."""
    if not isinstance(answer, dict) or "first_divergence" not in answer:
        return answer
    kept = ("verdict", "backends", "stages", "first_divergence", "not_finite", "not_judged", "failed", "known_failures")
    return {name: answer.get(name) for name in (*kept, "precision", "divergences")}


def machine() -> dict[str, Any]:
    """Returns a description of the machine that this runs on."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        gpus = []
    return {
        "gpus": gpus,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def install(wheels: Path, folder: Path) -> None:
    """Installs wheels into a folder without a network; everything else that they need is installed already."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
    files = sorted(map(str, wheels.resolve().glob("*.whl")))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *files], check=True)


def declare(folder: Path, backends: dict[str, str]) -> None:
    """Writes the metadata of an installed distribution that declares backends."""
    info = folder / "dlf_on_cpu-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dlf-on-cpu\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in backends.items()]
    (info / "entry_points.txt").write_text("\n".join(["[dlf.backends]", *lines, ""]))


if __name__ == "__main__":
    sys.exit(main())
