from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlf.backend.registry import backend_names, current_backend, load_backend, select_backend
from dlf.utils.errors import BackendError, InvalidArgumentError

Run = Callable[..., subprocess.CompletedProcess[str]]


def declare(folder: Path, name: str, module: str, source: str) -> str:
    """Makes an installed distribution that declares one backend, and returns the folder for PYTHONPATH."""
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dlf.backends]\n{name} = {module}:backend\n")
    (folder / f"{module}.py").write_text(source.replace("KERAS_BACKEND", os.environ["KERAS_BACKEND"]))
    return str(folder)


# A reference: gradients by central differences, on whichever of Keras's own backends the tests run.
FINITE = """
class CentralDifferences:
    def loss_and_gradients(self, loss, parameters, batch):
        import numpy as np
        at = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
        batch = tuple(np.asarray(part, np.float64) for part in batch)
        def slope(name, index, step):
            moved = [dict(at, **{name: at[name].copy()}) for _ in range(2)]
            for sign, where in zip((1, -1), moved):
                where[name][index] += sign * step
            return (float(loss(moved[0], batch)) - float(loss(moved[1], batch))) / (2 * step)
        def richardson(name, index, step=0.03):
            # Keras averages in float32: a long step, and the next term of its error taken out.
            return (4 * slope(name, index, step / 2) - slope(name, index, step)) / 3
        return loss(at, batch), {
            name: np.array([richardson(name, i) for i in np.ndindex(value.shape)]).reshape(value.shape)
            for name, value in at.items()
        }
    def apply(self, parameters, gradients, learning_rate):
        return {name: value - learning_rate * gradients[name] for name, value in parameters.items()}

class Finite:
    name = "finite"
    keras_backend = "KERAS_BACKEND"
    requires = ("numpy",)
    install_command = "pip install numpy"
    def environment(self): return {}
    def cpu_environment(self): return self._host().cpu_environment()
    def devices(self): return ["cpu:0"]
    def numeric_settings(self): return {"dtype": "float64"}
    def tensor_float_32(self): return None
    gradient_path_names = ("central-differences",)
    def gradient_paths(self): return {"central-differences": CentralDifferences()}
    def hand_written_loops(self): return {}
    def _host(self):
        from dlf.backend.registry import load_backend
        return load_backend(self.keras_backend)
    def float64(self): return self._host().float64()
    def compiled(self, function): return function
    def epoch_runner(self, model): return self._host().epoch_runner(model)
    def free_memory(self): return self._host().free_memory()
    def threefry_2x32(self, key, counter): return self._host().threefry_2x32(key, counter)
    def random_bits(self, key, shape): return self._host().random_bits(key, shape)
    def look_up(self, table, indices): return self._host().look_up(table, indices)
    def common_draws(self): return self._host().common_draws()

backend = Finite()
"""


# The backend is selected before anything imports Keras, which reads its choice once.
CHECK = """
from dlf.backend.registry import select_backend
select_backend("finite")
from dlf.testing import check_backend
check_backend("finite")
"""


def test_the_three_that_ship_are_found() -> None:
    assert backend_names()[:3] == ("jax", "tensorflow", "torch")


@pytest.mark.slow
@pytest.mark.once
def test_a_fourth_joins_without_an_edit(run_python: Run, tmp_path: Path) -> None:
    path = declare(tmp_path / "site", "finite", "dlf_finite", FINITE)
    ended = run_python("-c", CHECK, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    listed = run_python("-m", "dlf", "backends", "--json", PYTHONPATH=path)
    assert listed.returncode == 0, listed.stderr
    answers = {answer["name"]: answer for answer in json.loads(listed.stdout)}
    assert answers["finite"]["gradient_paths"] == ["central-differences"]
    assert answers[os.environ["KERAS_BACKEND"]]["devices"]


# One that derives from JAX, with another precision and a gradient path under a name of its own.
PRECISE = """
from dlf_jax import JaxBackend

class Precise(JaxBackend):
    name = "jax_precise"
    gradient_path_names = ("grad_precise",)
    def environment(self): return {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    def gradient_paths(self): return {"grad_precise": super().gradient_paths()["grad"]}

backend = Precise()
"""
MODEL = """
import keras

def build():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")])
"""


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "jax", reason="it derives from JAX")
def test_a_fourth_goes_through_every_command(run_python: Run, tmp_path: Path) -> None:
    path = declare(tmp_path / "site", "jax_precise", "dlf_precise", PRECISE)
    (tmp_path / "model.py").write_text(MODEL)

    def answer(*asked: str) -> Any:
        ended = run_python("-m", "dlf", *asked, PYTHONPATH=path)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout or "null")

    listed = {each["name"]: each for each in answer("backends", "--json")}
    assert listed["jax_precise"]["numeric_settings"]["jax_default_matmul_precision"] == "highest"
    lab = answer("lab", "--backend", "jax_precise", "--epochs", "1", "--out", str(tmp_path / "run"), "--json")
    assert lab["backend"]["name"] == "jax_precise"
    gradients = answer("gradients", "--problem", "line", "--paths", "numpy,grad_precise", "--steps", "2", "--json")
    assert [each["path"] for each in gradients["paths"]] == ["numpy", "grad_precise"]
    report = tmp_path / "parity.json"
    asked = ["--backends", "jax,jax_precise", "--loss", "mse", "--json", str(report)]
    ended = run_python("-m", "dlf", "parity", f"{tmp_path / 'model.py'}:build", *asked, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(report.read_text())
    assert found["verdict"] == "agree"
    assert list(found["backends"]) == ["jax", "jax_precise"]


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('["cpu:0"]', "[]", "`devices` are written kind:number"),
        ('("central-differences",)', '("forward",)', "`gradient_path_names` are those of `gradient_paths`"),
        ("return (4 *", "return 1.001 * (4 *", "on the line, error of w"),
        ("value - learning_rate", "value + learning_rate", "applies parameter - learning_rate * gradient"),
        ("return {}", 'return {"KERAS_" + "BACKEND": "numpy"}', "leaves KERAS_BACKEND to `keras_backend`"),
        ("class Central", "import numpy\nclass Central", "loading imports none of `requires`"),
        ("tensor_float_32(self): return None", "tensor_float_32(self): return 'off'", "and is None on a CPU"),
        ('{"dtype": "float64"}', '{"x64": True}', "`numeric_settings` hold text"),
        ("threefry_2x32(key, counter)\n", "threefry_2x32(key, counter[::-1])\n", "`threefry_2x32` of key (320440878"),
        ("random_bits(key, shape)\n", "random_bits(key + 1, shape)\n", "`random_bits` of shape ()"),
        ("look_up(table, indices)\n", "look_up(-table, indices)\n", "`look_up` takes the entries"),
    ],
)
def test_the_conformance_suite_catches_a_broken_promise(
    run_python: Run, tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in FINITE
    path = declare(tmp_path / "site", "finite", "dlf_finite", FINITE.replace(before, after, 1))
    ended = run_python("-c", CHECK, PYTHONPATH=path)
    assert "AssertionError" in ended.stderr
    assert message in ended.stderr


def test_an_unknown_backend_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match=r"one of jax, tensorflow, torch.*received 'torhc'.*mean 'torch'"):
        load_backend("torhc")


def test_an_absent_framework_is_answered_with_its_command(run_python: Run, tmp_path: Path) -> None:
    source = FINITE.replace('("numpy",)', '("numpie",)').replace("install numpy", "install numpie")
    path = declare(tmp_path / "site", "finite", "dlf_finite", source)
    ended = run_python("-m", "dlf", "lab", "--backend", "finite", PYTHONPATH=path)
    assert ended.returncode == 3
    assert ended.stderr.strip().endswith("which is not installed. Install it with: pip install numpie")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("source", ["1/0", "backend = object()", "backend = None"])
def test_a_backend_that_is_none_is_named(run_python: Run, tmp_path: Path, source: str) -> None:
    path = declare(tmp_path / "site", "broken", "dlf_broken", source)
    ended = run_python("-m", "dlf", "lab", "--backend", "broken", PYTHONPATH=path)
    assert ended.returncode == 3
    assert "the backend 'broken' (dlf_broken:backend)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_packages_that_declare_one_name_are_warned_of(run_python: Run, tmp_path: Path) -> None:
    path = declare(tmp_path / "site", "jax", "my_jax", "backend = None")
    ended = run_python("-c", "from dlf.backend.registry import *; backend_names()", PYTHONPATH=path)
    assert "two packages declare the dlf backend 'jax'" in ended.stderr


def test_another_backend_than_the_running_one_is_refused() -> None:
    other = next(name for name in backend_names() if name != current_backend().name)
    with pytest.raises((BackendError, ImportError), match=r"already runs in this process|not installed"):
        select_backend(other)


def test_keras_on_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.setattr(keras.config, "backend", lambda: "openvino")
    with pytest.raises(BackendError, match="Keras runs on 'openvino', for which dlf has no backend"):
        current_backend()
