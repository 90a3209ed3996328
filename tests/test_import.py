from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import dlf
from dlf.utils.errors import MissingPackageError

pytestmark = pytest.mark.alone

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ["tensorflow", "jax", "torch", "keras", "numpy", "matplotlib", "sklearn", "tensorflow_datasets"]
OTHERS = {"tensorflow", "jax", "torch"} - {os.environ["KERAS_BACKEND"]}


def imported(run: Run, code: str) -> set[str]:
    """Returns the heavy packages that a new process has imported after running the code."""
    ended = run("-c", f"{code}\nimport sys, json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))")
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_importing_dlf_imports_nothing_heavy(run_python: Run) -> None:
    assert imported(run_python, "import dlf") == set()


def test_the_test_above_can_fail(run_python: Run) -> None:
    assert {"keras", "numpy"} <= imported(run_python, "import dlf; dlf.set_seed")


def test_asking_which_backends_there_are_imports_nothing_heavy(run_python: Run) -> None:
    code = "from dlf.backend.registry import *; [is_installed(load_backend(n)) for n in backend_names()]"
    assert imported(run_python, code) == set()


def test_the_help_imports_nothing_heavy(run_python: Run) -> None:
    code = "import contextlib, dlf.cli.main\nwith contextlib.suppress(SystemExit): dlf.cli.main.main(['lab', '--help'])"
    assert imported(run_python, code) == set()


def test_keras_is_imported_without_what_few_programs_use_until_it_is_used(run_python: Run) -> None:
    quickly = "from dlf.backend.quick_import import *; import_keras_quickly(); import keras"
    assert imported(run_python, "import keras") >= {"sklearn", "matplotlib"}  # Otherwise there is nothing to put off.
    assert not imported(run_python, quickly) & {"sklearn", "matplotlib"}
    used = "keras.wrappers.SKLearnClassifier; from keras.visualization import plot_image_gallery"
    assert imported(run_python, f"{quickly}; {used}") >= {"sklearn", "matplotlib"}


@pytest.mark.slow
def test_a_whole_lab_imports_no_other_framework(run_python: Run) -> None:
    code = "from dlf.lab import *; run_lab(LabOptions(epochs=1))"
    # On PyTorch, Keras itself imports JAX if that is installed.
    found = imported(run_python, code)
    assert found & OTHERS <= imported(run_python, "import keras")
    assert "tensorflow" not in found & OTHERS


OF_JAX = ("from_nnx", "from_optax", "optax_for", "to_nnx")
WITHOUT_JAX = any(importlib.util.find_spec(name) is None for name in ("jax", "flax", "optax"))


def test_every_public_name_is_there_and_documented() -> None:
    for name in dlf.__all__:
        if name in OF_JAX and WITHOUT_JAX:
            continue
        assert (getattr(dlf, name).__doc__ or "").strip(), name
    assert set(dlf.__all__) <= set(dir(dlf))


@pytest.mark.parametrize("name", OF_JAX)
@pytest.mark.parametrize("absent", ["jax", "flax", "optax"])
def test_what_needs_jax_says_how_to_install_it(name: str, absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(dlf), name, raising=False)
    monkeypatch.setattr("dlf.backend.registry.is_importable", lambda package: package != absent)
    message = f"dlf.{name} needs the package '{absent}', which is not installed. Install it with: pip install jax flax"
    with pytest.raises(MissingPackageError, match=message):
        getattr(dlf, name)


@pytest.mark.skipif(os.environ["KERAS_BACKEND"] == "jax", reason="on JAX it works")
@pytest.mark.skipif(WITHOUT_JAX, reason="then it cannot be called")
def test_what_needs_keras_on_jax_says_so_when_it_is_called(run_python: Run) -> None:
    code = f"""
import keras, dlf
for name in {OF_JAX}:
    try:
        getattr(dlf, name)(keras.Sequential([keras.layers.Dense(1)]))
    except dlf.DlfError as error:
        print(type(error).__name__, error)
"""
    ended = run_python("-c", code)
    said = ended.stdout.splitlines()
    assert len(said) == len(OF_JAX), ended.stderr
    for name, line in zip(OF_JAX, said, strict=True):
        assert line.startswith(f"BackendError {name}: expected Keras on "), line
        assert "Set KERAS_BACKEND=jax" in line


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dlf' has no attribute 'fti'"):
        dlf.fti  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("first_use", ["import dlf", "import dlf; dlf.set_seed", "from dlf.lab import run_lab"])
def test_dlf_works_where_nobody_named_a_backend(run_python: Run, first_use: str) -> None:
    """By itself, Keras would use TensorFlow, installed or not."""
    code = f"import os; del os.environ['KERAS_BACKEND']\n{first_use}\nimport keras; print(keras.config.backend())"
    ended = run_python("-c", code, KERAS_HOME="nowhere")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in {"tensorflow", "jax", "torch"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("garbage", "KERAS_BACKEND: expected one of jax, tensorflow, torch"),
        ("tensorflwo", "Did you mean 'tensorflow'?"),
    ],
)
def test_a_backend_that_is_not_there_is_said_before_keras_says_it(run_python: Run, name: str, message: str) -> None:
    ended = run_python("-c", "import dlf; dlf.set_seed(1)", KERAS_BACKEND=name)
    assert message in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_folder_of_that_name_is_no_framework(run_python: Run, tmp_path: Path) -> None:
    for name in OTHERS:
        (tmp_path / name).mkdir()
        found = run_python("-m", "dlf", "lab", "--backend", name, "--epochs", "1")
        if importlib.util.find_spec(name) is None:
            assert found.returncode == 3
            assert "which is not installed" in found.stderr
