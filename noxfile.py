"""Lint, types and tests, on CPU and GPU: ``nox`` runs what is quick, ``nox -s full`` the rest, ``nox -l`` lists all."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = {group: nox.project.dependency_groups(PROJECT, group) for group in ("lint", "types", "test")}
BACKENDS = {"jax": "jax", "tensorflow": "tensorflow,tfds", "torch": "torch"}
PYTHONS = ["3.12", "3.13"]
"""Beside the one that nox runs on: JAX's releases from 0.11 on are for these alone."""
OF_PYTHON = [
    "tests/parity/test_side_by_side.py",
    "tests/data/test_pipelines.py",
    "tests/training/engine/test_engine.py::test_another_loss_is_another_training",
    "tests/training/engine/test_engine.py::test_a_generator_is_left_to_keras",
    "tests/parity/test_parity_models.py::test_another_dtype_is_held_to_its_own_noise_floors",
]
"""What depends on Python itself or on JAX's newest release: a minute, where the whole suite takes many."""
ALONE = "slow or alone"
SIDE_BY_SIDE = ["-n", "3", "--dist", "worksteal"]
"""Three tests at a time on two cores: a test often waits for a process that it has started."""
SLOWEST = ["--durations", "15", "--durations-min", "2"]
"""What makes pytest name the slowest tests, at the end of each session."""
REST: dict[str, list[str]] = {
    **{
        f"tests(backend='{backend}', device='cpu')": ["-m", f"({ALONE}) and not once" if number else ALONE]
        for number, backend in enumerate(BACKENDS)
    },
    "parity(device='cpu')": [],
    **{f"pythons-{python}": [] for python in PYTHONS},
    "wheel": [],
}
"""What `full` runs, with pytest's arguments."""

UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
}
"""Where packages come from: pip's settings, and what uv calls them."""

# uv installs an environment in ten seconds, for which pip takes a minute; `pip install nox[uv]` brings it.
nox.options.default_venv_backend = "uv|virtualenv"
# The GPU sessions have to be asked for: they install gigabytes, and need a GPU.
nox.options.sessions = ["lint", "types", "quick"]
# Who has no other Python skips it: in CI, nox would fail, and elsewhere fetch one.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


def let_pyenv_find_all() -> None:
    """Lets pyenv's ``python3.12`` start although it is not the chosen one, as pyenv does where it is told all names."""
    pyenv = shutil.which("pyenv")
    if pyenv is not None and "PYENV_VERSION" not in os.environ:
        asked = (["version-name"], ["versions", "--bare"])
        names = [subprocess.run([pyenv, *each], capture_output=True, text=True, check=False).stdout for each in asked]
        # The chosen one first, which "python3" goes on to mean.
        os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys("\n".join(names).split()))


def let_uv_find_what_pip_finds() -> None:
    """Hands uv pip's settings of where packages come from, which uv does not read: it would find other builds."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if (setting := UV_NAMES.get(name.rpartition(".")[2])) is not None:
            separator = "," if setting == "UV_FIND_LINKS" else " "
            found[setting] = separator.join(ast.literal_eval(value).split())  # Pip lists the weaker setting first.
    # As pip does: the newest of all indexes, and not what the first one has.
    os.environ.update({"UV_INDEX_STRATEGY": "unsafe-best-match", **found, **os.environ})


# uv leaves it to Python to compile what is imported: where Python may not keep that, each process would do it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
let_pyenv_find_all()
let_uv_find_what_pip_finds()


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install(*GROUPS["types"])
    session.run("mypy")


@nox.session
def quick(session: nox.Session) -> None:
    """Run the quick tests on each backend, with all of them installed, and tell what else there is."""
    install(session, list(BACKENDS), "cpu")
    took = {}
    for backend in BACKENDS:
        start = time.monotonic()
        once = "" if backend == next(iter(BACKENDS)) else " and not once"
        asked = ["--backend", backend, *SIDE_BY_SIDE, *SLOWEST, "-m", f"not slow{once}", *session.posargs]
        session.run("pytest", *asked, env=environment(session))
        took[backend] = time.monotonic() - start
    session.log("The quick tests passed: " + ", ".join(f"{name} in {each:.0f} s" for name, each in took.items()) + ".")
    session.log("The slow ones, each backend alone, other Pythons and the wheel: nox -s full (half an hour).")


@nox.session(venv_backend="none")
def full(session: nox.Session) -> None:
    """Run everything that plain `nox` leaves out."""
    for name, arguments in REST.items():
        session.notify(name, arguments)


@nox.session
@nox.parametrize("device", ["cpu", "gpu"])
@nox.parametrize("backend", list(BACKENDS))
def tests(session: nox.Session, backend: str, device: str) -> None:
    """Run the whole suite with one backend installed and no other."""
    install(session, [backend], device)
    once = [] if backend == next(iter(BACKENDS)) else ["-m", "not once"]
    session.run(
        "pytest", "--backend", backend, *SIDE_BY_SIDE, *SLOWEST, *once, *session.posargs, env=environment(session)
    )


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run what depends on Python itself, and on the newest JAX, on other Pythons; skip those that are not there."""
    install(session, ["jax"], "cpu")
    asked = session.posargs or OF_PYTHON
    session.run("pytest", "--backend", "jax", "-n", "2", *asked, env=environment(session))


@nox.session
@nox.parametrize("device", ["cpu", "gpu"])
def parity(session: nox.Session, device: str) -> None:
    """Run the tests that take all backends, installed side by side; on a CPU those that `quick` leaves out."""
    install(session, list(BACKENDS), device)
    # Two at a time, since two backends wait for the one that compiles; on a GPU, memory is for one.
    asked = ["-m", "together"] if device == "gpu" else ["-m", "together and slow", "-n", "2", "--dist", "worksteal"]
    session.run("pytest", "--backend", "jax", *SLOWEST, *asked, *session.posargs, env=environment(session))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the distributions, check what they say of themselves, and use the wheel with JAX alone, elsewhere."""
    session.install("build", "twine")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    built = sorted((folder / "dist").iterdir())
    session.run("twine", "check", "--strict", *map(str, built))
    session.install(f"{next(each for each in built if each.suffix == '.whl')}[jax]", "pytest")
    (folder / "empty").mkdir()
    checker = str(Path("tests/wheel/check_wheel.py").resolve())
    session.chdir(folder / "empty")
    session.run("python", checker, env=environment(session))


@nox.session
def faults(session: nox.Session) -> None:
    """Plant faults, and see which are caught and placed, and which sound models are called faulty (half an hour)."""
    install(session, list(BACKENDS), "cpu")
    session.run("python", "tests/fault_bench/bench.py", *session.posargs, env=environment(session))


@nox.session
@nox.parametrize("backend", list(BACKENDS))
def ways(session: nox.Session, backend: str) -> None:
    """Train random combinations of ways in which Keras's fit is used, by it and by the fused engine (20 minutes)."""
    # A tf.data.Dataset and a DataLoader are ways of handing data over on every backend.
    install(session, list(dict.fromkeys([backend, "tensorflow", "torch"])), "cpu")
    session.env["KERAS_BACKEND"] = backend
    asked = session.posargs or ["--count", "500"]
    session.run("python", "-W", "ignore", "tests/ways/random_ways.py", *asked, env=environment(session))


@nox.session
def zoo(session: nox.Session) -> None:
    """Compare everything in Keras across backends; stopped and started again, it goes on where it was."""
    install(session, list(BACKENDS), "cpu")
    asked = session.posargs or ["--json", "zoo.json", "--html", "zoo.html"]
    session.run("python", "-m", "zoo", *asked, env={**environment(session), "PYTHONPATH": "tests"})


@nox.session
@nox.parametrize("backend", list(BACKENDS))
def examples(session: nox.Session, backend: str) -> None:
    """Run the examples that this backend can run."""
    install(session, [backend], "cpu")
    session.run("pytest", "--backend", backend, "tests/test_examples.py", *session.posargs)


@nox.session
@nox.parametrize("backend", list(BACKENDS))
def bench(session: nox.Session, backend: str) -> None:
    """Time Keras's fit, dlf's fused engine and hand-written loops on one backend."""
    install(session, [backend], "cpu")
    session.run("dlf", "bench", "--backends", backend, "--json", f"bench-{backend}.json", *session.posargs)


def install(session: nox.Session, backends: list[str], device: str) -> None:
    """Install dlf with these backends, built for the device; without a GPU, skip and say so."""
    extras = ",".join(BACKENDS[backend] for backend in backends)
    if device == "gpu":
        if not has_gpu():
            session.skip("no NVIDIA GPU found: `nvidia-smi` lists none")
        for backend in backends:
            extras = extras.replace(backend, f"{backend}-gpu", 1)
    # A plain `pip install torch` on Linux is the newest GPU build; this version is to be had as a CPU build too.
    pinned = ["torch==2.13.0"] if "torch" in backends and device == "cpu" else []
    session.install(*pinned, "-e", f".[{extras}]", *GROUPS["test"])
    for backend in backends if device == "gpu" else ():
        # A CPU build, or one that does not fit the driver, would pass every test without ever touching the GPU.
        code = f"from dlf.backend.report import ask_backend as ask; print(ask({backend!r})['devices'][0])"
        first = session.run("python", "-c", code, silent=True)
        if not str(first).startswith("gpu"):
            session.error(f"a GPU is there, but {backend} computes on {first}")


def environment(session: nox.Session) -> dict[str, str]:
    """Return what processes that run side by side start with."""
    return {
        # Where two share two cores, OpenMP's threads wait for each other, and a matrix product takes sixteen times as
        # long.
        "OMP_NUM_THREADS": "1",
        # XLA takes 70 ms for an addition, and each process would compile it again: JAX keeps every program.
        "JAX_COMPILATION_CACHE_DIR": str(Path(session.cache_dir).resolve() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def has_gpu() -> bool:
    """Tell whether NVIDIA's driver lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    return "GPU" in subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
