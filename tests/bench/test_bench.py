"""`dlf bench`: no contestant gets a speed before it agrees, and what is printed follows from the raw rounds."""

from __future__ import annotations

import io
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from dlf.backend.keras_internals import random_functions
from dlf.backend.registry import backend_names, current_backend, is_installed, load_backend
from dlf.bench._agreement import Judge, Verdict
from dlf.bench._contestants import Contestant, HandWritten, KerasFit, Trained, contestants
from dlf.bench._turns import Turns
from dlf.bench._worker import compare_and_time, measure_growth, measure_memory, measure_startup
from dlf.bench.models import RATES, Task, build_model, make_task
from dlf.bench.options import EXPLICIT, FUSED, MODELS, REFERENCE, BenchOptions
from dlf.bench.parity import _take_step
from dlf.bench.report import SCHEMA, exit_code, print_bench, summarise, write_page
from dlf.random.seed import current_seed, set_seed
from dlf.utils.errors import BackendError, InvalidArgumentError

Run = Callable[..., subprocess.CompletedProcess[str]]
BACKEND = os.environ["KERAS_BACKEND"]
KNOWN = {each.name: each for each in contestants()}
HERE = [each.name for each in KNOWN.values() if not each.absent]


@cache
def judge_of(model: str) -> Judge:
    return Judge(KNOWN[REFERENCE], make_task(model, rows=240, batch_size=32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    # With common masks, the reference has to be trained again, which takes long to compile: only with one model.
    [(model, name) for model in MODELS for name in HERE if model == "mlp" or "common" not in name],
)
def test_every_contestant_agrees_with_keras(model: str, name: str) -> None:
    verdict = judge_of(model).judge(KNOWN[name])
    assert verdict.agrees, verdict
    assert verdict.dropout == "same masks"
    assert verdict.losses[-1] < verdict.losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [FUSED, EXPLICIT, f"{FUSED}, common masks"])
def test_a_seed_that_was_set_before_changes_no_masks(name: str) -> None:
    """After `set_seed`, which a test in another file may have called, dlf would draw common masks."""
    set_seed(7)
    before = random_functions()
    assert judge_of("mlp").judge(KNOWN[name]).agrees
    running = KNOWN[name].start(make_task("mlp", rows=64, batch_size=32))
    running.epoch()
    assert random_functions() == before
    running.close()
    assert (random_functions(), current_seed()) == (before, 7)


def trained_with(**settings: Any) -> Contestant:
    def fit(model: keras.Model, task: Task, epochs: int, callbacks: list[Any]) -> Any:
        optimizer = keras.optimizers.Adam(**{"learning_rate": 1e-3, **settings})
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        arguments = {"shuffle": task.shuffle, "callbacks": callbacks, "verbose": 0}
        return model.fit(task.scaled, task.labels, task.batch_size, epochs, **arguments)

    return KerasFit("almost Keras", fit)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        *((model, {"learning_rate": 1.01e-3}) for model in MODELS),
        ("mlp", {"beta_1": 0.91}),
        ("mlp", {"epsilon": 1e-6}),
    ],
)
def test_what_trains_a_little_differently_is_refused(model: str, wrong: dict[str, float]) -> None:
    verdict = judge_of(model).judge(trained_with(**wrong))
    assert not verdict.agrees, verdict


@pytest.mark.slow
def test_another_loss_function_order_or_mask_is_refused() -> None:
    def fit(model: keras.Model, task: Task, epochs: int, callbacks: list[Any]) -> Any:
        task = replace(task, scaled=task.scaled[::-1], labels=task.labels[::-1])
        return KNOWN[REFERENCE].fit(model, task, epochs, callbacks)  # type: ignore[attr-defined]

    assert not judge_of("mlp").judge(KerasFit("backwards", fit)).agrees


@pytest.mark.parametrize(("accidents", "agrees"), [(1, True), (2, False)])
def test_an_accident_in_one_order_refuses_nobody(accidents: int, agrees: bool) -> None:
    """A difference in one order of the examples is taken for a rounding accident; one in both orders is not."""

    @dataclass(frozen=True)
    class Sum(HandWritten):
        accidents: int = 0
        seen: list[Any] = field(default_factory=list)

        def train(self, task: Task, epochs: int) -> Trained:
            self.seen.append(task.labels.tolist())
            places = 1 + np.arange(len(task.labels))
            weight = (task.labels * places).sum() + (len(self.seen) <= self.accidents)
            return Trained([1.0] * epochs, [np.full_like(each, weight) for each in task.weights])

    task = make_task("mlp", rows=12, batch_size=4)
    other = Sum("other", loop=id, accidents=accidents)
    assert Judge(Sum("reference", loop=id), task).judge(other).agrees is agrees
    assert other.seen == [task.labels.tolist(), task.labels[::-1].tolist()]


def test_without_the_same_masks_dropout_is_off() -> None:
    reference = KNOWN[REFERENCE]
    assert isinstance(reference, KerasFit)
    verdict = judge_of("mlp").judge(replace(reference, name="another", same_masks=False))
    assert (verdict.agrees, verdict.dropout) == (True, "off")
    assert verdict.losses != judge_of("mlp").judge(reference).losses


def test_a_loss_that_is_not_a_number_does_not_agree() -> None:
    assert not judge_of("mlp").judge(trained_with(learning_rate=float("nan"))).agrees


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such luck")

    named = ["Keras fit, tf.data", *(name for name in KNOWN if name.startswith("hand-written"))]
    entrants = [KNOWN[REFERENCE], *(KNOWN[name] for name in named)]
    entrants += [trained_with(learning_rate=2e-3), KerasFit("broken", broken), KerasFit("away", broken, "not here")]
    found = compare_and_time(entrants, make_task("mlp", rows=256, batch_size=32), repeats=2)
    return {each["name"]: each for each in found}


@pytest.mark.slow
def test_only_what_agrees_is_timed(found: dict[str, dict[str, Any]]) -> None:
    assert {"status": "timed", "reason": ""}.items() <= found[REFERENCE].items()
    assert all(len(each["rounds"]) == 2 and min(each["rounds"]) > 0 for each in found.values() if "rounds" in each)
    assert found["almost Keras"]["status"] == "does not agree"
    assert found["broken"] == {"name": "broken", "status": "failed", "reason": "RuntimeError: no such luck"}
    assert found["away"] == {"name": "away", "status": "absent", "reason": "not here"}
    assert not {"rounds", "first_epoch_seconds"} & {*found["almost Keras"], *found["broken"], *found["away"]}


@pytest.mark.slow
def test_the_table_gives_no_speed_to_what_does_not_agree(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    result = {
        "backend": BACKEND,
        "model": "mlp",
        "description": {"devices": ["cpu:0"]},
        "machine": {"usable_cpus": 2},
        "contestants": list(found.values()),
    }
    report = {"options": {"rows": 256, "batch_size": 32, "repeats": 2}, "results": [summarise(result, 256)]}
    shown = io.StringIO()
    print_bench(report, Console(file=shown, width=200))
    row = next(line for line in shown.getvalue().splitlines() if line.startswith("almost Keras"))
    assert row.split() == ["almost", "Keras", "does", "not", "agree"]
    assert "almost Keras does not agree: losses" in shown.getvalue()
    assert "broken: failed: RuntimeError: no such luck" in shown.getvalue()
    assert "away: absent: not here" in shown.getvalue()
    assert exit_code(report) == 1
    died = {"backend": "b", "model": "cnn", "error": "<died>"}
    write_page(report | {"results": [*report["results"], died]}, tmp_path / "b.html")
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "Not all agree" in page
    assert "almost Keras does not agree: losses" in page
    assert "&lt;died&gt;" in page


def test_figures_follow_from_the_rounds() -> None:
    rounds = {REFERENCE: [4.0, 6.0, 20.0], FUSED: [2.0, 2.0, 4.0], "hand-written, a": [1.0, 3.0, 1.0]}
    entries = [
        {"name": name, "status": "timed", "first_epoch_seconds": 9.0, "rounds": each} for name, each in rounds.items()
    ]
    result: dict[str, Any] = {
        "contestants": entries,
        "growth": {"rows": 10, "large_rows": 100, "rounds": [1.0, 2.0, 4.0], "large_rounds": [11.0, 20.0, 36.0]},
        "memory": {
            REFERENCE: {"few": {"peak": 90}, "all": {"peak": 100}},
            FUSED: {"few": {"peak": 100, "data": 100}, "all": {"peak": 150, "data": 200}},
        },
    }
    summary = summarise(result, rows=12)["contestants"][1]["summary"]
    assert summary["seconds"] == {"median": 2.0, "min": 2.0, "max": 4.0}
    assert summary["images_per_second"] == 6.0
    assert summary["startup_seconds"] == 7.0
    assert summary["against_reference"] == {"median": 3.0, "min": 2.0, "max": 5.0}
    assert summary["against_hand_written"] == {"median": 0.5, "min": 0.25, "max": 1.5}
    assert result["growth"]["time_per_example"] == pytest.approx({"median": 1.0, "min": 0.9, "max": 1.1})
    extra = {"bytes": 50, "bytes_at_few_rows": 10, "over_data": 0.25, "growing_over_data": 0.4}
    assert result["extra_memory"] == extra


@pytest.mark.parametrize("name", [REFERENCE, HERE[-1]])
def test_growth_memory_and_startup_give_figures(name: str) -> None:
    task = make_task("mlp", rows=64, batch_size=32)
    growth = measure_growth(KNOWN[name], task, make_task("mlp", rows=128, batch_size=32), repeats=2)
    assert (len(growth["rounds"]), len(growth["large_rounds"]), growth["large_rows"]) == (2, 2, 128)
    memory = measure_memory(KNOWN[name], task)
    assert memory["peak"] >= memory["before"] > memory["data"] == 64 * (28 * 28 * 4 + 4)
    assert set(measure_startup(KNOWN[name], task)) == {"seconds"}


@pytest.mark.slow
@pytest.mark.once
def test_what_parity_is_timed_and_weighed_against_is_a_step_in_a_process_of_its_own() -> None:
    seconds, memory = _take_step(current_backend().name, "shallow", 8)
    assert seconds > 0.5
    assert memory > 50 * 2**20
    with pytest.raises(BackendError, match=r"one step of hollow failed(.|\n)*has no attribute 'hollow'"):
        _take_step(current_backend().name, "hollow", 8)


def test_a_training_that_takes_turns_raises_what_failed_and_ends_when_told() -> None:
    def fails(callback: keras.callbacks.Callback) -> None:
        callback.on_epoch_begin(0)
        raise ValueError("in the middle")

    turns = Turns(fails)
    with pytest.raises(ValueError, match="in the middle"):
        turns.epoch()
    epochs: list[int] = []

    def fit(callback: keras.callbacks.Callback) -> None:
        for epoch in range(10):
            callback.on_epoch_begin(epoch)
            epochs.append(epoch)

    turns = Turns(fit)
    assert epochs == []
    turns.epoch()
    turns.epoch()
    turns.close()
    assert epochs == [0, 1]


def test_all_start_from_the_same_weights_on_every_backend() -> None:
    for model in MODELS:
        task = make_task(model, rows=8, batch_size=4)
        assert [weight.shape for weight in task.weights] == [
            tuple(each.shape) for each in build_model(model).trainable_variables
        ]
        assert len(task.rates) == len(RATES[model])
    task = make_task("mlp", rows=8, batch_size=4)
    assert task.images.sum() == 787_040
    assert float(np.abs(task.weights[0]).sum()) == pytest.approx(4057.0095, rel=1e-5)
    nudged = task.nudged(1)
    assert np.allclose(nudged.scaled, task.scaled, rtol=2e-7, atol=1e-30)
    assert (nudged.scaled != task.scaled).all()


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"repeats": -1}, {"batch_size": 1.5}, {"models": ["mlq"]}])
def test_wrong_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        BenchOptions(**wrong)


@pytest.mark.slow
@pytest.mark.once
def test_the_command_prints_a_table_and_writes_json(run_python: Run, tmp_path: Path) -> None:
    arguments = ["--backends", BACKEND, "--models", "mlp", "--rows", "256", "--repeats", "2", "--json", "bench.json"]
    ended = run_python("-m", "dlf", "bench", *arguments)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert f"{BACKEND}, mlp: 256 images" in ended.stdout
    assert "round 2 of 2" in ended.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["schema"], report["options"]["rows"]) == (SCHEMA, 256)
    (result,) = report["results"]
    assert result["description"]["versions"]["keras"] == keras.__version__
    assert result["machine"]["cpus"] == os.cpu_count()
    for each in result["contestants"]:
        if each["status"] == "timed":
            assert each["summary"]["seconds"]["median"] == statistics.median(each["rounds"])
            assert set(each["agreement"]) == set(Verdict.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--rows", "0"], 2, "'--rows': 0 is not in the range"),
        (["--models", "mlq"], 2, "models: expected some of mlp, cnn, transformer, received 'mlq'. Did you mean 'mlp'?"),
        (["--backends", "torhc"], 2, "backend: expected one of jax, tensorflow, torch"),
        (["--json", "nowhere/bench.json"], 2, "nowhere/bench.json: cannot be written"),
    ],
)
def test_a_wrong_request_is_one_message(run_python: Run, arguments: list[str], exit_code: int, message: str) -> None:
    ended = run_python("-m", "dlf", "bench", *arguments)
    assert (ended.returncode, ended.stdout) == (exit_code, ""), ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.alone
def test_a_backend_that_is_not_installed_is_named_with_the_command(run_python: Run) -> None:
    absent = [name for name in backend_names() if not is_installed(load_backend(name))]
    if not absent:
        pytest.skip("every backend is installed")
    ended = run_python("-m", "dlf", "bench", "--backends", absent[0])
    assert ended.returncode == 3
    assert load_backend(absent[0]).install_command in ended.stderr


def test_a_worker_that_dies_is_reported_with_its_last_words(run_python: Run, tmp_path: Path) -> None:
    # A module that only the worker imports, and at which it fails.
    (tmp_path / "numpy.py").write_text("raise RuntimeError('standing in the way')\n")
    code = f"from dlf.bench import *; print_bench(run_bench(BenchOptions([{BACKEND!r}], ['mlp'], rows=64)))"
    ended = run_python("-c", code, PYTHONPATH=str(tmp_path))
    assert f"{BACKEND}, mlp: no figures" in ended.stdout, ended.stderr
    assert "RuntimeError: standing in the way" in ended.stdout


def test_asking_imports_no_framework(run_python: Run) -> None:
    code = (
        "import sys, dlf.bench, dlf.bench.runner\n"
        "print([name for name in ('keras', 'numpy', 'jax', 'tensorflow', 'torch') if name in sys.modules])"
    )
    assert run_python("-c", code).stdout == "[]\n"


def test_ctrl_c_takes_the_worker_along(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dlf", "bench", "--backends", BACKEND, "--models", "mlp", "--repeats", "5000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        # `communicate` returns only when stderr and stdout are closed, which the worker holds open until it ends.
        next(line for line in bench.stderr if "does it agree" in line)
        bench.send_signal(signal.SIGINT)
        bench.communicate(timeout=60)
    assert bench.returncode == 130
