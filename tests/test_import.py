from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import dlf

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ["tensorflow", "jax", "torch", "keras", "numpy", "matplotlib", "sklearn", "tensorflow_datasets"]
OTHERS = {"tensorflow", "jax", "torch"} - {os.environ["KERAS_BACKEND"]}


def imported(run: Run, code: str) -> set[str]:
    """The heavy packages that a fresh process has imported after running the code."""
    ended = run("-c", f"{code}\nimport sys, json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))")
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_importing_dlf_imports_nothing_heavy(run_python: Run) -> None:
    assert imported(run_python, "import dlf") == set()


def test_the_test_above_can_fail(run_python: Run) -> None:
    assert {"keras", "numpy"} <= imported(run_python, "import dlf; dlf.set_seed")


def test_asking_which_backends_there_are_imports_nothing_heavy(run_python: Run) -> None:
    code = "from dlf.backend_registry import *; [is_installed(load_backend(n)) for n in backend_names()]"
    assert imported(run_python, code) == set()


def test_the_help_imports_nothing_heavy(run_python: Run) -> None:
    code = "import contextlib, dlf.cli\nwith contextlib.suppress(SystemExit): dlf.cli.main(['lab', '--help'])"
    assert imported(run_python, code) == set()


def test_a_whole_lab_imports_no_other_framework(run_python: Run) -> None:
    code = "from dlf.lab import *; run_lab(LabOptions(epochs=1))"
    # Keras on PyTorch imports JAX by itself, where that is installed.
    found = imported(run_python, code)
    assert found & OTHERS <= imported(run_python, "import keras")
    assert "tensorflow" not in found & OTHERS


def test_every_public_name_is_there_and_documented() -> None:
    for name in dlf.__all__:
        assert (getattr(dlf, name).__doc__ or "").strip(), name
    assert set(dlf.__all__) <= set(dir(dlf))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dlf' has no attribute 'fit'"):
        dlf.fit  # noqa: B018


@pytest.mark.parametrize("first_use", ["import dlf", "import dlf; dlf.set_seed", "from dlf.lab import run_lab"])
def test_dlf_works_where_nobody_named_a_backend(run_python: Run, first_use: str) -> None:
    """Keras alone would take TensorFlow, installed or not."""
    code = f"import os; del os.environ['KERAS_BACKEND']\n{first_use}\nimport keras; print(keras.config.backend())"
    ended = run_python("-c", code, KERAS_HOME="nowhere")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in {"tensorflow", "jax", "torch"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("garbage", "backend: expected one of jax, tensorflow, torch"), ("tensorflwo", "Did you mean 'tensorflow'?")],
)
def test_a_backend_that_is_not_there_is_said_before_keras_says_it(run_python: Run, name: str, message: str) -> None:
    ended = run_python("-c", "import dlf; dlf.set_seed(1)", KERAS_BACKEND=name)
    assert message in ended.stderr.splitlines()[-1]


def test_a_folder_of_that_name_is_no_framework(run_python: Run, tmp_path: Path) -> None:
    for name in OTHERS:
        (tmp_path / name).mkdir()
        found = run_python("-m", "dlf", "lab", "--backend", name, "--epochs", "1")
        if importlib.util.find_spec(name) is None:
            assert found.returncode == 3
            assert "which is not installed" in found.stderr
