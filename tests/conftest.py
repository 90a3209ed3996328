"""One suite for every backend: ``pytest --backend NAME``, or the backend that ``KERAS_BACKEND`` names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlf.backend_registry import select_backend

ROOT = Path(__file__).resolve().parents[1]
_DATA_DIR = os.environ.get("DLF_DATA_DIR")


# Where the suite is started in the background, a shell has Ctrl-C ignored: tests of Ctrl-C press it themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="the backend that the tests run on")


def pytest_configure(config: pytest.Config) -> None:
    # Before collection, which imports Keras.
    select_backend(config.getoption("--backend"))


def pytest_report_header() -> str:
    return f"backend: {os.environ['KERAS_BACKEND']}"


@pytest.fixture(autouse=True)
def _without_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name their folders; a reader's own must not change them."""
    monkeypatch.delenv("DLF_DATA_DIR", raising=False)


@pytest.fixture
def fashion_mnist_folder() -> Path:
    folder = Path(_DATA_DIR or "")
    if not _DATA_DIR or not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("needs real Fashion-MNIST files in the folder that DLF_DATA_DIR names")
    return folder


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own, in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
