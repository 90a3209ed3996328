"""Every example runs as a script, finds the right numbers, and does what its text says.

* No framework is imported here: each example runs in its own process, and is skipped where its framework is absent.
* A bound on a number is derived from the problem, here or in the example, and a control shows that it can fail.
* A new file in `examples/` fails the tests until it is listed in `NEEDS`, which makes the tests run it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {
    "any_model.py": "keras",
    "lab.py": "keras",
    "line_autograd.py": "torch",
    "line_closed_form.py": "numpy",
    "line_grad.py": "optax",
    "line_nnx.py": "flax",
    "line_tape.py": "tensorflow",
    "questions.py": "numpy",
    "three_backends.py": "keras",
}
MIRRORED = ("line_tape.py", "line_grad.py", "line_nnx.py", "line_autograd.py")
BACKENDS = ("tensorflow", "jax", "torch")
STEPS, LEARNING_RATE = 200, 0.1
UNIT_ROUNDOFF = 2.0**-24

sys.path.insert(0, str(EXAMPLES))
line = importlib.import_module("line_closed_form")
questions = importlib.import_module("questions")


def require(*packages: str) -> None:
    """Skip the test where a package is absent."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def python(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, where the examples can be imported."""
    defaults = {"PYTHONPATH": str(EXAMPLES), "PYTHONIOENCODING": "utf-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | defaults | environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=600,
    )


def succeeded(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a process printed; fail where it failed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@functools.cache
def fit_of(name: str) -> tuple[Any, str]:
    """Return what `main` of an SGD example returns, and what it prints."""
    code = f"import json, {name[:-3]} as example; print(json.dumps(example.main([])))"
    *printed, fit = succeeded(python("-c", code)).splitlines()
    found, first_gradient, first_loss, last_loss = json.loads(fit)
    return line.Fit(line.Line(*found), line.Line(*first_gradient), first_loss, last_loss), "\n".join(printed)


def sgd_on_paper(batches: list[Any]) -> list[Any]:
    """Return the line before each step and after the last, in float64."""
    lines = [line.Line(0.0, 0.0)]
    for x, y in batches:
        gradient = line.gradient_on_paper(lines[-1], x, y)
        lines.append(line.Line(*(p - LEARNING_RATE * g for p, g in zip(lines[-1], gradient, strict=True))))
    return lines


def accumulated(batches: list[Any], start: float, kicks: list[float]) -> float:
    """Bound a distance that starts at `start`: each step shrinks it by |I - η·2H|, then adds a kick.

    2·H (2, 2) is the second derivative of the minibatch's loss. The bound is a worst case: no chance in it.
    """
    bound = start
    for (x, _), kick in zip(batches, kicks, strict=True):
        inputs = np.stack([x, np.ones_like(x)]).astype(np.float64)
        bound = bound * float(np.linalg.norm(np.eye(2) - LEARNING_RATE * 2 * inputs @ inputs.T / len(x), 2)) + kick
    return bound


def gradient_rounding(at: Any, x: Any, y: Any) -> float:
    """Bound how far rounding moves a float32 gradient at a line, to first order in the unit roundoff.

    Its terms are 2/m·(w·x_i + b - y_i)·(x_i or 1). A term meets fewer than 10 roundings and a sum of m at most m - 1.
    """
    sizes = np.abs(at.w * x) + np.abs(at.b) + np.abs(y)
    return float((len(x) + 10) * UNIT_ROUNDOFF * 2 * np.hypot(np.mean(sizes * np.abs(x)), np.mean(sizes)))


def distance(one: Any, other: Any) -> float:
    return float(np.hypot(one.w - other.w, one.b - other.b))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_the_example_is_covered(path: Path) -> None:
    assert path.name in NEEDS, f"{path.name} is in examples/ but not in NEEDS: list it, and test its numbers"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NEEDS) - {"any_model.py", "lab.py", "three_backends.py"}))
def test_the_script_runs(name: str, tmp_path: Path) -> None:
    require(NEEDS[name])
    assert succeeded(python(EXAMPLES / name, cwd=tmp_path))
    assert not list(tmp_path.iterdir()), "a script leaves nothing behind"


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lab_runs(backend: str, tmp_path: Path) -> None:
    require(NEEDS["lab.py"], backend)
    succeeded(python(EXAMPLES / "lab.py", "--epochs", 1, cwd=tmp_path, KERAS_BACKEND=backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_model_has_the_same_first_loss_and_right_gradients(backend: str, tmp_path: Path) -> None:
    require(NEEDS["any_model.py"], backend)
    printed = succeeded(python(EXAMPLES / "any_model.py", "--steps", 5, cwd=tmp_path, KERAS_BACKEND=backend))
    first = float(re.search(r"the loss at first: (\S+)", printed)[1])  # type: ignore[index]
    # Printed with six decimals; the weights, digits and dropout masks are the same on every backend.
    assert abs(first - 2.816510) < 5e-6
    assert "gradients are right" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_backends_that_are_installed_are_put_in_one_picture(tmp_path: Path) -> None:
    succeeded(python(EXAMPLES / "three_backends.py", "--epochs", 1, cwd=tmp_path))
    picture = (tmp_path / "three_backends.svg").read_text()
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    # Matplotlib writes each text into a comment beside its outlines.
    assert [name for name in BACKENDS if f"<!-- {name} -->" in picture] == installed


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "0", "argument --steps: expected at least 1, received 0"),
        ("--learning-rate", "nan", "argument --learning-rate: expected at least 0, received nan"),
        ("--seed", "-1", "argument --seed: expected at least 0, received -1"),
    ],
)
def test_a_number_that_means_nothing_is_refused(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        line.arguments([option, value], "")
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_the_minimum(seed: int) -> None:
    problem = line.make_problem(seed)
    best = line.main(["--seed", str(seed)])
    inputs = np.stack([problem.x, np.ones_like(problem.x)], axis=1).astype(np.float64)
    np.testing.assert_allclose(best, np.linalg.lstsq(inputs, problem.y.astype(np.float64))[0], rtol=1e-12)
    np.testing.assert_allclose(line.gradient_on_paper(best, problem.x, problem.y), 0, atol=1e-14)
    # Its covariance is NOISE² times the inverse of inputsᵀ·inputs. Chance passes 5 deviations once in a million times.
    deviations = line.NOISE * np.sqrt(np.diag(np.linalg.inv(inputs.T @ inputs)))
    assert (np.abs(np.subtract(best, line.TRUE_LINE)) < 5 * deviations).all()


def test_the_gradient_on_paper_is_the_slope_of_the_loss() -> None:
    problem, at, step = line.make_problem(), line.Line(0.5, 0.25), 2.0**-10
    # The loss is a parabola in w and in b, so a central difference has no error but rounding.
    for name, gradient in line.gradient_on_paper(at, problem.x, problem.y)._asdict().items():
        ends = (at._replace(**{name: getattr(at, name) + sign * step}) for sign in (1, -1))
        above, below = (line.loss_on_paper(end, problem.x, problem.y) for end in ends)
        assert (above - below) / (2 * step) == pytest.approx(gradient, rel=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_sgd_is_near_the_closed_form(name: str) -> None:
    require(NEEDS[name])
    fit, _ = fit_of(name)
    problem = line.make_problem()
    batches = list(line.minibatches(problem, STEPS))
    best = line.closed_form(problem.x, problem.y)
    # At the closed form the mean gradient is zero, so that a minibatch's own gradient there is its noise.
    kicks = [LEARNING_RATE * float(np.hypot(*line.gradient_on_paper(best, x, y))) for x, y in batches]
    assert distance(fit.line, best) < accumulated(batches, distance(line.Line(0, 0), best), kicks)
    assert fit.last_loss < fit.first_loss


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_sgd_is_sgd_on_paper_to_float32_rounding(name: str) -> None:
    require(NEEDS[name])
    fit, _ = fit_of(name)
    problem = line.make_problem()
    batches = list(line.minibatches(problem, STEPS))
    lines = sgd_on_paper(batches)
    # An update rounds the new parameters, beside what the gradient brings.
    kicks = [
        LEARNING_RATE * gradient_rounding(before, x, y) + UNIT_ROUNDOFF * float(np.hypot(*after))
        for before, after, (x, y) in zip(lines, lines[1:], batches, strict=False)
    ]
    bound = accumulated(batches, 0.0, kicks)
    assert distance(fit.line, lines[-1]) < bound
    assert distance(fit.line, lines[-1]) < 1e-6, "question 5 says that they part in the seventh decimal"
    # The control: the same minibatches in another order are far outside.
    assert distance(sgd_on_paper(batches[::-1])[-1], lines[-1]) > 100 * bound
    for loss, before, (x, y) in ((fit.first_loss, lines[0], batches[0]), (fit.last_loss, lines[-2], batches[-1])):
        assert loss == pytest.approx(line.loss_on_paper(before, x, y), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_the_first_gradient_is_the_one_on_paper(name: str) -> None:
    require(NEEDS[name])
    fit, _ = fit_of(name)
    x, y = next(line.minibatches(line.make_problem(), 1))
    start = line.Line(0.0, 0.0)
    assert distance(fit.first_gradient, line.gradient_on_paper(start, x, y)) < gradient_rounding(start, x, y)


@pytest.mark.parametrize("name", MIRRORED)
def test_the_table_shows_what_main_returns(name: str) -> None:
    require(NEEDS[name])
    fit, printed = fit_of(name)
    rows = [row.split() for row in printed.splitlines()]
    for numbers in (fit.line, fit.first_gradient, (fit.first_loss,), (fit.last_loss,)):
        shown = [f"{number:.8f}" for number in numbers]
        assert any(row[-len(shown) :] == shown for row in rows), f"{shown} is not in\n{printed}"


@pytest.mark.parametrize("name", MIRRORED[1:])
def test_the_mirrored_files_differ_only_in_the_framework(name: str) -> None:
    model, mirror = (ast.parse((EXAMPLES / file).read_text("utf-8")) for file in (MIRRORED[0], name))
    functions = [[node for node in tree.body if isinstance(node, ast.FunctionDef)] for tree in (model, mirror)]
    for one, other in zip(*functions, strict=True):
        assert one.name == other.name
        assert ast.unparse(one.args) == ast.unparse(other.args)
        assert ast.get_docstring(one) == ast.get_docstring(other)
    documents = [(ast.get_docstring(tree) or "").splitlines() for tree in (model, mirror)]
    differing = [one for one, other in zip(*documents, strict=True) if one != other]
    assert [sentence.split()[0] for sentence in differing] == ["Fit", "Who", "Run"]
    lines, mirror_lines = ((EXAMPLES / file).read_text("utf-8").splitlines() for file in (MIRRORED[0], name))
    comments = {text for text in lines if text.lstrip().startswith("#")}
    assert comments
    assert comments <= set(mirror_lines)


@pytest.mark.parametrize(("learning_rate", "batch_size"), [(0.1, 32), (0.025, 32), (0.025, 8)])
def test_the_noise_spreads_as_derived(learning_rate: float, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, steps = 1000, 300
    problem, random = line.make_problem(), np.random.default_rng(0)
    best = np.array(line.closed_form(problem.x, problem.y))[:, None]
    away = np.zeros((2, runs))
    for _ in range(steps):
        rows = random.integers(line.EXAMPLES, size=(batch_size, runs))
        x, y = problem.x[rows], problem.y[rows]
        error = (best[0] + away[0]) * x + best[1] + away[1] - y
        away -= learning_rate * 2 * np.array([(error * x).mean(axis=0), error.mean(axis=0)])
    monkeypatch.setattr(line, "BATCH_SIZE", batch_size)
    # 2,000 values give their standard deviation to 1 / sqrt(4000) = 1.6%, of which 4; the formula leaves out a part of
    # the size of the learning rate.
    assert np.std(away) == pytest.approx(line.noise_spread(learning_rate), rel=4 * 0.016 + learning_rate)


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python(EXAMPLES / "questions.py", *arguments)


def solutions_in(printed: str) -> list[int]:
    """Return the numbers of the questions whose solution or session was printed, if only one line of it."""
    lines = {text.strip() for text in printed.splitlines()} - {""}
    return [
        number
        for number, question in enumerate(questions.QUESTIONS, start=1)
        if lines & {text.strip() for text in question.solution.splitlines()}
    ]


def test_solutions_are_hidden_until_asked_for() -> None:
    printed = succeeded(ask())
    assert all(f"{n}. {question.title}" in printed for n, question in enumerate(questions.QUESTIONS, start=1))
    assert solutions_in(printed) == []
    assert ">>>" not in printed


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["3"], [3]),
        (["3", "1", "3"], [1, 3]),
        (["all"], list(range(1, len(questions.QUESTIONS) + 1))),
    ],
)
def test_a_solution_is_shown_when_asked_for(asked: list[str], shown: list[int]) -> None:
    assert solutions_in(succeeded(ask(*(f"--show={number}" for number in asked)))) == shown


@pytest.mark.parametrize("number", ["0", str(len(questions.QUESTIONS) + 1), "-1", "two", ""])
def test_a_question_that_is_not_there_is_refused(number: str) -> None:
    result = ask(f"--show={number}")
    assert result.returncode == 2
    expected = f"expected a number from 1 to {len(questions.QUESTIONS)}, or all"
    assert f"argument --show: {expected}, received {number!r}" in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(questions.QUESTIONS)), ids=lambda n: questions.QUESTIONS[n].title)
def test_the_session_of_a_solution_prints_what_it_says(number: int) -> None:
    require(questions.QUESTIONS[number].needs)
    code = f"""
import doctest, questions
session = doctest.DocTestParser().get_doctest(questions.QUESTIONS[{number}].session, {{}}, "session", None, 0)
assert session.examples
raise SystemExit(doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session).failed)
"""
    succeeded(python("-c", code))


KERAS_FACTS = """
import json, types, numpy as np, keras

double_softmax = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(np.array([3]), np.eye(10)[3:4])

kept, stopped = {}, {}
for restore in (True, False):
    model = types.SimpleNamespace(weights=0, stop_training=False)
    model.get_weights = lambda: model.weights
    model.set_weights = lambda weights: setattr(model, "weights", weights)
    callback = keras.callbacks.EarlyStopping("val_loss", patience=3, mode="min", restore_best_weights=restore)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate([0.90, 0.60, 0.50, 0.52, 0.55, 0.58, 0.40]):
        model.weights = epoch + 1
        callback.on_epoch_end(epoch, {"val_loss": loss})
        if model.stop_training:
            break
    callback.on_train_end()
    kept[restore], stopped[restore] = model.weights, epoch + 1

steps = []
for gradient in (1.0, 1e-7):
    variable = keras.Variable(0.0)
    keras.optimizers.Adam(learning_rate=1.0).apply([keras.ops.convert_to_tensor(gradient)], [variable])
    steps.append(-float(keras.ops.convert_to_numpy(variable.value)))

dropped = keras.layers.Dropout(0.2, seed=7)(np.ones((1, 1000), "float32"), training=True)
dropped = keras.ops.convert_to_numpy(dropped)[0]

print(json.dumps({
    "loss": float(double_softmax), "kept": [kept[True], kept[False]], "stopped": [stopped[True], stopped[False]],
    "steps": steps, "mask": (dropped > 0).tolist(), "scale": float(dropped.max()),
}))
"""


@functools.cache
def keras_facts(backend: str) -> dict[str, Any]:
    """Return what Keras itself does on a backend, where the solutions state something about that."""
    facts: dict[str, Any] = json.loads(succeeded(python("-c", KERAS_FACTS, KERAS_BACKEND=backend)).splitlines()[-1])
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_does_what_the_solutions_say(backend: str) -> None:
    require("keras", backend)
    facts = keras_facts(backend)
    assert f"{facts['loss']:.3f}" == "1.461"
    assert facts["stopped"] == [6, 6]
    assert facts["kept"] == [3, 6]
    assert [f"{step:.3f}" for step in facts["steps"]] == ["1.000", "0.031"]
    assert facts["scale"] == pytest.approx(1 / 0.8)


@pytest.mark.slow
def test_backends_draw_other_masks_from_one_seed() -> None:
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    if len(installed) < 2:
        pytest.skip("fewer than two backends are installed")
    require("keras")
    masks = [keras_facts(backend)["mask"] for backend in installed]
    assert all(masks.count(mask) == 1 for mask in masks)


ADAM = {
    "optax": """
import jax.numpy as jnp, optax

def step(gradient):
    adam = optax.adam(1.0)
    return -float(adam.update(jnp.float32(gradient), adam.init(jnp.float32(0)))[0])
""",
    "torch": """
import torch

def step(gradient):
    w = torch.zeros(1, requires_grad=True)
    w.grad = torch.tensor([gradient])
    torch.optim.Adam([w], lr=1.0).step()
    return -w.item()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", ADAM)
def test_adam_elsewhere_does_what_the_solution_says(package: str) -> None:
    require(package)
    printed = succeeded(python("-c", ADAM[package] + "print(f'{step(1.0):.3f} {step(1e-7):.3f}')"))
    assert printed.split() == ["1.000", "0.909"]
