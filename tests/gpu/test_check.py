"""The GPU check also runs on a CPU, with the same steps."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import check
import pytest

from dlf.backend.registry import installed_backends

pytestmark = [
    pytest.mark.once,
    pytest.mark.parity,
    pytest.mark.together,
    pytest.mark.skipif(not set(check.FRAMEWORKS) <= set(installed_backends()), reason="it compares JAX and PyTorch"),
]


@pytest.mark.slow
def test_every_part_comes_through_on_a_cpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        check.__file__,
        "--device",
        "cpu",
        "--small",
        "--seconds",
        "1500",
        "--out",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "check.json").read_text())
    assert {name: each["exit"] for name, each in found["parts"].items() if each["exit"] != 0} == {}
    assert list(found["parts"]) == [part.name for part in check.parts("cpu", small=True)]
    assert ended.returncode == 0, ended.stderr
    assert found["machine"]["cores"]
    # Here both run on the CPU: a framework compared with itself has the same bits, so it must agree.
    for name in check.FRAMEWORKS:
        answer = found["parts"][f"cnn_{name}"]["answer"]
        assert answer["verdict"] == "agree"
        assert list(answer["backends"]) == [name, f"{name}_cpu"]
    with tarfile.open(tmp_path / "logs.tgz") as archive:
        assert "backends.log" in archive.getnames()


def test_a_part_that_there_is_no_time_for_is_skipped(tmp_path: Path) -> None:
    command = [sys.executable, check.__file__, "--device", "cpu", "--small", "--seconds", "0", "--out", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    found = json.loads((tmp_path / "check.json").read_text())
    assert {each["exit"] for each in found["parts"].values()} == {"skipped"}
