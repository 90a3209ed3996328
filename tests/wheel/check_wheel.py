"""Uses an installed dlf outside of its checkout, with JAX only: files that the wheel lacks show here.

Call ``python tests/wheel/check_wheel.py`` in an empty folder, with a Python that has the wheel, JAX and pytest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import dlf
from dlf.parity._known import known_differences

CHECKOUT = Path(__file__).resolve().parents[2]
MODEL = """
import keras

def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax", name="only")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""
TEST = """
import pytest

@pytest.mark.parity
def test_the_model_is_the_same(assert_parity):
    assert_parity("model.py:build", backends=["jax", "jax_cpu"])
"""
DECLARE = "import check, pathlib; check.declare(pathlib.Path('site'), {'jax_cpu': 'dlf_on_cpu:jax_cpu'})"


def main() -> None:
    """Uses the commands, the pages and the pytest plug-in as a user does."""
    here = Path.cwd()
    package = Path(dlf.__file__).parent
    assert package != CHECKOUT / "dlf", f"dlf is imported from the checkout: {package}"
    assert (package / "py.typed").is_file()
    about = metadata.metadata("dlf")
    assert (about["License-Expression"], about["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert {"jax", "tensorflow", "torch", "tfds", "all"} <= set(about.get_all("Provides-Extra") or ())
    assert len(known_differences()) > 10
    (here / "model.py").write_text(MODEL)
    (here / "test_model.py").write_text(TEST)
    (here / "pytest.ini").write_text("[pytest]\n")  # Otherwise pytest reads that of a checkout above this folder.
    # JAX on its CPU under another name: a comparison takes two backends, and only one framework is installed.
    run("-c", DECLARE)
    answers = {each["name"]: each for each in json.loads(run("-m", "dlf", "backends", "--json"))}
    assert answers["jax"]["devices"]
    assert answers["torch"]["install"].startswith("pip install torch")
    run("-m", "dlf", "lab", "--epochs", "1", "--out", "run")
    assert {each.name for each in (here / "run").iterdir()} >= {"run.json", "model.keras", "history.svg", "model.svg"}
    run("-m", "dlf", "gradients", "--problem", "line", "--steps", "3", "--html", "gradients.html")
    asked = ["model.py:build", "--backends", "jax,jax_cpu", "--json", "parity.json", "--html", "parity.html"]
    said = run("-m", "dlf", "parity", *asked)
    assert said.startswith("The model computes and trains the same on jax and jax_cpu."), said
    for page in ("gradients.html", "parity.html"):
        text = (here / page).read_text(encoding="utf-8")
        assert text.startswith("<!doctype html>")
        assert text.rstrip().endswith("</html>")
    assert "1 passed" in run("-m", "pytest", "-q", "test_model.py")
    run("-m", "dlf", "bench", "--backends", "jax", "--models", "mlp", "--rows", "200", "--repeats", "1")


def run(*command: str) -> str:
    """Runs Python, and returns what it printed."""
    paths = ["site", str(CHECKOUT / "tests" / "gpu")]
    ended = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
    return ended.stdout


if __name__ == "__main__":
    main()
