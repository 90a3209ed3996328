"""One suite for every backend: ``pytest --backend NAME``, or the backend that ``KERAS_BACKEND`` names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlf.backend.registry import select_backend

ROOT = Path(__file__).resolve().parents[1]
_DATA_DIR = os.environ.get("DLF_DATA_DIR")


# A shell starts background jobs with Ctrl-C ignored, but the tests of Ctrl-C raise that signal themselves.
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
    """Hides `DLF_DATA_DIR`: tests name their own folders, and the user's must not change their results."""
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


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that opens a page in a headless browser with the given options."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs a Chromium: `apt-get install chromium`, or Chrome")

    def run(address: str, *options: str, width: int = 1440, height: int = 2400) -> subprocess.CompletedProcess[str]:
        quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "extensions", "default-apps")
        return subprocess.run(
            [
                str(browser),
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                *(f"--disable-{each}" for each in quiet),
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--window-size={width},{height}",
                *options,
                address,
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    return run
