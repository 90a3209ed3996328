"""The command as a user runs it: in a process of its own, with exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlf.backend.registry import backend_names, installed_backends, is_installed, load_backend

Run = Callable[..., subprocess.CompletedProcess[str]]
BACKEND = os.environ["KERAS_BACKEND"]


@pytest.mark.parametrize("command", ["", "lab", "backends", "bench", "bench-parity", "gradients", "parity"])
def test_help_shows_how_on_lines_of_its_own(run_python: Run, command: str) -> None:
    shown = run_python("-m", "dlf", *filter(None, [command]), "-h")
    assert shown.returncode == 0
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert any(line.startswith(f"dlf {command} ".rstrip()) or line.endswith("dlf lab") for line in lines)
    assert "\\b" not in shown.stdout


def test_version(run_python: Run) -> None:
    assert run_python("-m", "dlf", "--version").stdout.startswith("dlf, version 0.")


def test_the_lab_prints_json_and_nothing_else_on_stdout(run_python: Run, tmp_path: Path) -> None:
    ended = run_python("-m", "dlf", "lab", "--epochs", "2", "--hidden", "16", "--json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["options"]["hidden"] == 16
    assert (tmp_path / result["folder"] / "run.json").exists()
    assert Path(result["folder"]).parent == Path("runs")
    assert f"keras {result['backend']['versions']['keras']}" in ended.stderr


@pytest.mark.once
def test_json_goes_to_a_file_or_to_stdout(run_python: Run, tmp_path: Path) -> None:
    printed = run_python("-m", "dlf", "backends", "--json")
    written = run_python("-m", "dlf", "backends", "--json", "backends.json")
    assert (tmp_path / "backends.json").read_text() == printed.stdout
    assert written.stdout.startswith(f"{json.loads(printed.stdout)[0]['name']} ")
    nowhere = run_python("-m", "dlf", "backends", "--json", "gone/backends.json")
    assert nowhere.returncode == 2
    assert "gone/backends.json: cannot be written" in nowhere.stderr


@pytest.mark.once
def test_what_bench_parity_was_called_before_takes_no_option_that_it_would_ignore(run_python: Run) -> None:
    ended = run_python("-m", "dlf", "bench", "--parity", "--models", "mlp")
    assert ended.returncode == 2
    assert "--models means nothing to --parity" in ended.stderr
    assert "--parity" not in run_python("-m", "dlf", "bench", "-h").stdout


def test_the_lab_prints_a_summary_and_writes_it_as_a_page(run_python: Run, tmp_path: Path) -> None:
    ended = run_python("-m", "dlf", "lab", "--epochs", "1", "--out", "here", "--backend", BACKEND, "--html", "lab.html")
    page = (tmp_path / "lab.html").read_text(encoding="utf-8")
    assert "dlf: wrote lab.html" in ended.stderr
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "validation accuracy on digits" in page
    assert ended.returncode == 0, ended.stderr
    assert "validation accuracy on digits" in ended.stdout
    assert "tensorboard --logdir here" in ended.stdout


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--epochs", "0"], 2, "'--epochs': 0 is not in the range 1<=x<=1000000"),
        (["--hidden", "many"], 2, "'--hidden': 'many' is not a valid integer"),
        (["--seed", "-1"], 2, "'--seed': -1 is not in the range"),
        (["--optimizer", "adamm"], 2, "Did you mean 'adam'?"),
        (["--backend", "torhc"], 2, "backend: expected one of jax, tensorflow, torch"),
        (["--data-dir", "nowhere"], 2, "data_dir: expected a folder that exists, received 'nowhere'"),
        (["--out", "/proc/nowhere"], 2, "the run folder: expected a folder that can be written to"),
        (["--frobnicate"], 2, "No such option '--frobnicate'"),
        (["--dataset", "mnist", "--data-dir", "."], 3, "train-labels-idx1-ubyte.gz: the file is not there"),
    ],
)
def test_a_wrong_request_is_one_message_and_an_exit_code(
    run_python: Run, tmp_path: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    ended = run_python("-m", "dlf", "lab", *arguments)
    assert ended.returncode == exit_code, ended.stderr
    assert message in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.once
def test_backend_wins_over_the_variable_and_says_so(run_python: Run) -> None:
    ended = run_python("-m", "dlf", "lab", "--backend", BACKEND, "--epochs", "1", KERAS_BACKEND="elsewhere")
    assert ended.returncode == 0, ended.stderr
    assert f"--backend {BACKEND} wins over KERAS_BACKEND=elsewhere" in ended.stderr


@pytest.mark.slow
@pytest.mark.once
def test_the_variable_is_obeyed(run_python: Run) -> None:
    assert json.loads(run_python("-m", "dlf", "lab", "--epochs", "1", "--json").stdout)["backend"]["name"] == BACKEND
    ended = run_python("-m", "dlf", "lab", KERAS_BACKEND="elsewhere")
    assert (ended.returncode, "received 'elsewhere'" in ended.stderr) == (2, True)


@pytest.mark.slow
def test_left_alone_it_takes_the_first_that_is_installed(run_python: Run) -> None:
    first = installed_backends()[0]
    ended = run_python("-m", "dlf", "lab", "--epochs", "1", "--json", KERAS_BACKEND="")
    assert json.loads(ended.stdout)["backend"]["name"] == first


@pytest.mark.slow
@pytest.mark.once
def test_backends_are_listed_with_devices_or_the_command_that_installs_them(run_python: Run) -> None:
    ended = run_python("-m", "dlf", "backends")
    assert ended.returncode == 0, ended.stderr
    for name in backend_names():
        backend = load_backend(name)
        assert name in ended.stdout
        if not is_installed(backend):
            assert backend.install_command in ended.stdout
    answers = {each["name"]: each for each in json.loads(run_python("-m", "dlf", "backends", "--json").stdout)}
    assert answers[BACKEND]["devices"]
    assert answers[BACKEND]["versions"]["keras"]


@pytest.mark.slow
def test_ctrl_c_ends_the_lab_cleanly(tmp_path: Path) -> None:
    """The signal goes to a real run, as a terminal sends it."""
    command = [sys.executable, "-m", "dlf", "lab", "--epochs", "5000", "--out", "run", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as lab:
        events = tmp_path / "run" / "validation"
        deadline = time.monotonic() + 120
        while not events.exists() and lab.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        lab.send_signal(signal.SIGINT)
        stdout, stderr = lab.communicate(timeout=120)
    assert lab.returncode == 130, stderr
    result = json.loads(stdout)
    assert result["status"] in {"interrupted", "stopped early"}
    assert (tmp_path / "run" / "model.keras").exists()
    assert "Traceback" not in stderr


def test_a_shell_completes_values_and_the_models_in_a_file(run_python: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import keras\nnet = keras.Sequential([])\nother = 3\n")

    def completed(words: str) -> list[str]:
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_DLF_COMPLETE": "bash_complete"}
        return [line.partition(",")[2] for line in run_python("-m", "dlf", **asked).stdout.splitlines()]

    assert completed("dlf par") == ["parity"]
    assert completed("dlf parity --stages forward,gr") == ["forward,gradient"]
    assert completed("dlf parity --dtype mixed") == ["mixed_bfloat16"]
    assert completed("dlf parity model.py:") == ["net"]
