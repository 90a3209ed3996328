"""`dlf gradients`, run in processes of its own, as by a user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dlf.backend.registry import current_backend
from dlf.gradients import _numpy_path as numpy_path
from dlf.gradients._problems import load_problem, make_problem, save_problem
from dlf.gradients._references import closed_form, finite_differences, on_paper
from dlf.gradients.options import GradientsOptions
from dlf.gradients.report import answer_of, exit_code, print_gradients
from dlf.gradients.runner import run_gradients
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError, MissingPackageError
from dlf.utils.workers import run_worker

Run = Callable[..., subprocess.CompletedProcess[str]]
PATHS = tuple(current_backend().gradient_paths())

MODEL = """
import keras
import numpy as np

def build():
    model = keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization(), keras.layers.ReLU(),
        keras.layers.Dropout(0.3), keras.layers.Flatten(), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
    def call(self, x):
        return self.dense(x)

def own():
    return Own()

def data(size, random):
    return random.normal(size=(size, 3)).astype("float32"), random.normal(size=(size, 1)).astype("float32")

def held(x):
    # By the framework's own function: of Keras's, nobody can tell that it was not meant.
    if keras.config.backend() == "torch":
        return x.detach()
    if keras.config.backend() == "jax":
        import jax
        return jax.lax.stop_gradient(x)
    import tensorflow as tf
    return tf.stop_gradient(x)

def detached():
    class Detached(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        def call(self, x):
            return x * self.scale * held(keras.ops.convert_to_tensor(self.scale))
    model = keras.Sequential([keras.Input((3,)), Detached(name="planted"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def array():
    return np.zeros(3)

def broken():
    return build().nothing
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(MODEL)
    return file


@pytest.fixture(scope="module")
def line() -> dict[str, Any]:
    paths = ("closed-form", "finite-difference", "numpy", *PATHS)
    return run_gradients(GradientsOptions("line", paths, compile=current_backend().name != "torch"))


def of(report: dict[str, Any], path: str) -> dict[str, Any]:
    return next(each for each in report["paths"] if each["path"] == path)


def test_every_path_finds_the_closed_form_of_the_line(line: dict[str, Any]) -> None:
    """The bound is two units in the last place, which the last steps round away."""
    assert line["verdict"] == "agree"
    for path in ("numpy", *PATHS):
        found = of(line, path)["found"]
        assert max(found[name]["last_places"] for name in ("w", "b")) <= 2


def test_every_gradient_of_the_line_is_the_derivation_to_a_few_noise_floors(line: dict[str, Any]) -> None:
    for path in ("numpy", *PATHS):
        gradients = of(line, path)["gradients"]
        assert [each["variable"] for each in gradients] == ["w", "b"]
        assert all(each["verdict"] == "rounding" and each["noise_floors"] < 5 for each in gradients)
        assert all(each["relative_difference"] < 1e-14 for each in gradients)
    assert all(each["relative_difference"] < 1e-9 for each in of(line, "finite-difference")["gradients"])


def test_each_path_shows_its_losses_its_time_and_its_source(line: dict[str, Any]) -> None:
    losses = {path: of(line, path)["losses"] for path in ("numpy", *PATHS)}
    for path in PATHS:
        np.testing.assert_allclose(losses[path], losses["numpy"], rtol=1e-5)
        shown = of(line, path)
        assert shown["seconds"]["eager"] > 0
        names = [each["name"] for each in shown["source"]]
        assert names[-4:] == ["line_loss", "loss_and_gradients", "apply", "step"]
        assert all(f"{each['name']}(" in each["code"] for each in shown["source"] if each["name"] != "model")
        if current_backend().name != "torch":
            assert shown["seconds"]["compile"] > 0
            assert shown["seconds"]["compiled"] > 0


@pytest.mark.slow
def test_the_mlp_learns_alike_by_every_path() -> None:
    report = run_gradients(GradientsOptions("mlp", ("numpy", *PATHS), steps=30, compile=False))
    assert report["verdict"] == "agree"
    for path in PATHS:
        np.testing.assert_allclose(of(report, path)["losses"], of(report, "numpy")["losses"], rtol=1e-5)
    assert of(report, "numpy")["losses"][-1] < of(report, "numpy")["losses"][0]


@pytest.mark.slow
def test_a_model_is_taken_by_every_path(run_python: Run, model: Path) -> None:
    asked = ["--problem", f"{model}:build", "--paths", ",".join(PATHS), "--steps", "3", "--json"]
    ended = run_python("-m", "dlf", "gradients", *asked)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["verdict"] == "agree"
    for path in PATHS:
        shown = of(report, path)
        assert len(shown["losses"]) == 3
        assert len(shown["gradients"]) == 6
        assert shown["seconds"]["first"] > 0
        assert [each["name"] for each in shown["source"]] == ["start", "make_step", "finish"]


def test_a_subclassed_model_is_taken_with_its_data(model: Path) -> None:
    options = GradientsOptions(f"{model}:own", PATHS[-1:], data=f"{model}:data", loss="mse", steps=2)
    report = run_gradients(options)
    assert report["verdict"] == "agree"
    assert len(of(report, PATHS[-1])["gradients"]) == 2


@pytest.mark.slow
def test_a_detached_factor_is_named(run_python: Run, model: Path) -> None:
    ended = run_python("-m", "dlf", "gradients", "--problem", f"{model}:detached", "--paths", PATHS[0], "--steps", "1")
    assert ended.returncode == 1
    assert "1 of 1 paths: a gradient is wrong" in ended.stdout
    assert "planted/scale: diverged" in ended.stdout
    assert "Next: " in ended.stdout


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--problem", "nope"], 2, "--problem: expected line, mlp, or file.py:name"),
        (["--problem", "lin"], 2, "Did you mean 'line'?"),
        (["--problem", "gone.py:build"], 2, "There is no file gone.py."),
        (["--problem", "MODEL:gone", "--paths", "PATH"], 2, "expected a function or a model of"),
        (["--problem", "MODEL:array", "--paths", "PATH"], 2, "model: expected a Keras model, received <float64 array"),
        (["--problem", "MODEL:own", "--paths", "PATH"], 2, "expected a model that is built"),
        (["--problem", "no_such_module:build", "--paths", "PATH"], 2, "No module named 'no_such_module'"),
        (["--paths", "grd"], 2, "Did you mean 'grad'?"),
        (["--paths", "closed-form"], 2, "--paths: expected some of finite-difference, numpy,"),
        (["--data", "a:b"], 2, "--data: expected only with a model as --problem"),
        (["--steps", "0"], 2, "Invalid value for '--steps'"),
        (["--html", "gone/page.html"], 2, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_clear_message(
    run_python: Run, model: Path, arguments: list[str], code: int, message: str
) -> None:
    filled = [each.replace("MODEL", str(model)).replace("PATH", PATHS[0]) for each in arguments]
    ended = run_python("-m", "dlf", "gradients", *filled)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_path_whose_framework_is_absent_is_said() -> None:
    absent = {"jax": "tape", "tensorflow": "autograd", "torch": "grad"}[current_backend().name]
    try:
        GradientsOptions("line", (absent,))
    except MissingPackageError as error:
        assert f"the path '{absent}' needs the package" in str(error)  # noqa: PT017 - not everywhere is one absent.
        assert "pip install" in str(error)  # noqa: PT017


@pytest.mark.slow
def test_the_traceback_of_a_model_is_its_own(model: Path) -> None:
    with pytest.raises(DlfError, match=r"(?s)--problem: expected.*return build\(\).nothing.*AttributeError.*nothing"):
        run_gradients(GradientsOptions(f"{model}:broken", PATHS[:1]))


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import sys, time\nprint('last words', file=sys.stderr)\ntime.sleep(60)\n")
    with pytest.raises(
        BackendError, match=r"(?s)the worker of x was ended after 1 s .*and said at last:\n  last words"
    ):
        run_worker("sleeper", {}, {**os.environ, "PYTHONPATH": str(tmp_path)}, title="x", timeout=1)


def test_a_worker_s_own_errors_keep_their_kind(tmp_path: Path) -> None:
    source = "from dlf.utils.workers import serve\nfrom dlf.utils.errors import InvalidArgumentError\n"
    source += "def respond(request):\n"
    source += "    raise InvalidArgumentError('x', expected='y', received=request)\nserve(respond, once=True)\n"
    (tmp_path / "refuser.py").write_text(source)
    with pytest.raises(InvalidArgumentError, match=r"x: expected y, received \{'a': 1\}") as caught:
        run_worker("refuser", {"a": 1}, {**os.environ, "PYTHONPATH": str(tmp_path)}, title="x")
    assert caught.value.exit_code == 2


def test_one_path_that_fails_leaves_the_others_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any, **__: Any) -> Any:
        raise BackendError("the worker of it died")

    monkeypatch.setattr("dlf.gradients.runner.run_worker", dead)
    report = run_gradients(GradientsOptions("line", ("numpy", PATHS[0])))
    assert report["verdict"] == "incomplete"
    assert exit_code(report) == 3
    assert of(report, "numpy")["status"] == "ok"
    console = Console(record=True, width=80)
    print_gradients(report, console)
    assert answer_of(report).endswith(f"{PATHS[0]} did not run.")
    assert f"{PATHS[0]}: the worker of it died" in console.export_text()


def test_the_report_fits_a_narrow_terminal_and_answers_first(line: dict[str, Any]) -> None:
    console = Console(record=True, width=80)
    print_gradients(line, console)
    lines = console.export_text().splitlines()
    assert (
        lines[0]
        == answer_of(line)
        == f"All {2 + len(PATHS)} paths take the same gradients as derived on paper, in float64."
    )
    for path in ("closed-form", "numpy", *PATHS):
        assert any(each.startswith(path) for each in lines)


@pytest.mark.parametrize("factor", [1 + 1e-6, np.nan])
def test_a_gradient_that_is_off_is_called_so(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The gradient is off by a millionth, which no comparison in float32 would show."""
    right = on_paper

    def off(*arguments: Any) -> Any:
        found = right(*arguments)
        return {**found, "b": found["b"] * factor}

    calls = [right, off]  # The path is asked first, then the truth: the last of the list is taken.
    monkeypatch.setattr("dlf.gradients.runner.on_paper", lambda *arguments: calls.pop()(*arguments))  # noqa: PLW0108
    report = run_gradients(GradientsOptions("line", ("numpy",)))
    assert report["verdict"] == "diverge"
    assert [each["verdict"] for each in of(report, "numpy")["gradients"]] == [
        "rounding",
        "diverged" if np.isfinite(factor) else "not finite",
    ]


@pytest.mark.parametrize("name", ["line", "mlp"])
def test_the_derivation_is_that_of_finite_differences(name: str) -> None:
    problem = make_problem(name, steps=1, seed=3)
    x, y = next(problem.batches())
    derived = on_paper(problem, problem.parameters, x, y)
    for parameter, (elements, slopes) in finite_differences(problem, x, y).items():
        np.testing.assert_allclose(derived[parameter].ravel()[elements], slopes, atol=1e-8)


def test_a_problem_survives_its_file(tmp_path: Path) -> None:
    problem = make_problem("mlp", steps=2, seed=4)
    save_problem(problem, tmp_path / "problem.npz")
    loaded = load_problem(tmp_path / "problem.npz")
    assert (loaded.name, loaded.learning_rate, loaded.steps) == ("mlp", problem.learning_rate, 2)
    assert all(np.array_equal(loaded.parameters[name], value) for name, value in problem.parameters.items())
    for ours, theirs in zip(problem.batches(), loaded.batches(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_descent_in_numpy_ends_at_the_closed_form() -> None:
    problem = make_problem("line", steps=60)
    parameters = {name: value.astype(np.float64) for name, value in problem.parameters.items()}
    for batch in problem.batches():
        _, parameters = numpy_path.step(numpy_path.line_loss, parameters, batch, problem.learning_rate)
    best = closed_form(problem)
    assert all(abs(parameters[name] - best[name]) < 1e-9 for name in best)


def test_asking_starts_no_framework(run_python: Run) -> None:
    code = "import sys; from dlf.gradients.options import GradientsOptions; import dlf.gradients.runner; "
    code += "import dlf.gradients.report; GradientsOptions('line', ('numpy',));"
    code += "print([name for name in ('jax', 'tensorflow', 'torch', 'keras') if name in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"


def test_ctrl_c_leaves_no_worker(tmp_path: Path) -> None:
    import signal

    import psutil

    command = [sys.executable, "-m", "dlf", "gradients", "--paths", PATHS[0]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline().strip() == f"dlf: {PATHS[0]}"
        workers: list[psutil.Process] = []
        while not workers:
            workers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        process.wait(30)
    psutil.wait_procs(workers, 30)
    assert process.returncode == 130
    assert not any(each.is_running() for each in workers)


def test_a_training_that_is_lost_is_shown(line: dict[str, Any]) -> None:
    report = json.loads(json.dumps(line))
    of(report, "numpy")["losses"] = [1.0, 2.0, float("nan")]
    console = Console(record=True, width=80)
    print_gradients(report, console)
    assert "▁█× nan" in console.export_text()


def test_json_holds_null_for_what_is_no_number(run_python: Run) -> None:
    ended = run_python("-m", "dlf", "gradients", "--problem", "line", "--paths", "finite-difference", "--json")
    found = json.loads(ended.stdout, parse_constant=pytest.fail)
    assert [each["noise_floors"] for each in of(found, "finite-difference")["gradients"]] == [None, None]


def test_a_model_of_another_backend_is_told(run_python: Run) -> None:
    """Keras can be set to another backend within a process; models from before that cannot be used any more."""
    code = "import warnings; warnings.simplefilter('ignore'); import keras, dlf\n"
    code += "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
    code += "class Model(type(model)): pass\n"
    code += "keras.Model = Model\n"  # As set_backend does, which needs another framework installed.
    code += "dlf.value_and_grad(model, 'mse')"
    ended = run_python("-c", code)
    assert "InvalidArgumentError: model: expected a model of this process's Keras, which runs on" in ended.stderr
    assert "build it anew here" in ended.stderr
