"""The zoo holds every public name of Keras, and its models can be built."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.backend.registry import current_backend
from dlf.models.targets import load_target
from zoo import runner
from zoo.entries import KINDS, all_entries
from zoo.entry import Entry
from zoo.runner import run_zoo

pytestmark = pytest.mark.once

HERE = current_backend().name
TESTED = [entry for entry in all_entries() if entry.status == "tested"]
SPACES: list[tuple[str, Any, Any]] = [
    ("layers", keras.layers, keras.layers.Layer),
    ("losses", keras.losses, keras.losses.Loss),
    ("metrics", keras.metrics, keras.metrics.Metric),
    ("optimizers", keras.optimizers, keras.optimizers.Optimizer),
    ("optimizers", keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
    ("initializers", keras.initializers, keras.initializers.Initializer),
]


def names_of(kind: str) -> set[str]:
    return {entry.name for entry in KINDS[kind]()}


@pytest.mark.parametrize(("kind", "module", "base"), SPACES)
def test_every_class_of_keras_is_an_entry(kind: str, module: Any, base: type) -> None:
    classes = {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)}
    missing = {each for each in classes if not names_of(kind) & {k for k, v in vars(module).items() if v is each}}
    assert not missing


@pytest.mark.parametrize(("kind", "module"), [("activations", keras.activations), ("applications", keras.applications)])
def test_every_function_of_keras_is_an_entry(kind: str, module: Any) -> None:
    functions = {each for each in vars(module).values() if type(each) is type(keras.activations.relu)}
    functions -= {getattr(module, name, None) for name in ("deserialize", "get", "serialize")}
    assert {each.__name__ for each in functions} == names_of(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_is_of_something_that_keras_has(kind: str) -> None:
    module = importlib.import_module(f"zoo.{kind}")
    assert {key.partition("__")[0] for key in module.CASES} <= names_of(kind)
    assert set(module.NOT_APPLICABLE) <= names_of(kind)


def test_nothing_is_untested() -> None:
    assert [entry.name for entry in all_entries() if entry.status == "untested"] == []


def test_what_keras_adds_is_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = type("Newcomer", (keras.layers.Layer,), {})
    monkeypatch.setattr(keras.layers, "Newcomer", newcomer, raising=False)
    monkeypatch.setattr(keras.layers, "AlsoNewcomer", newcomer, raising=False)
    assert [entry for entry in all_entries() if "Newcomer" in entry.name] == [Entry("layers", "Newcomer")]


def test_a_new_function_is_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    def novelty(x: Any) -> Any:
        return x

    for module in (keras.losses, keras.activations):
        monkeypatch.setattr(module, "novelty", novelty, raising=False)
    found = [(entry.kind, entry.status) for entry in all_entries() if entry.name == "novelty"]
    assert found == [("losses", "untested"), ("activations", "untested")]


def test_targets_are_unique() -> None:
    assert [target for target, times in Counter(entry.target for entry in TESTED).items() if times > 1] == []


def test_targets_resolve() -> None:
    for entry in TESTED:
        assert callable(load_target(str(entry.target)))
        assert entry.data is None or callable(load_target(entry.data))
        assert entry.stages[:2] == ("build", "forward")


@pytest.mark.parametrize("kind", KINDS)
def test_what_there_is_not_is_no_target(kind: str) -> None:
    assert not hasattr(importlib.import_module(f"zoo.{kind}"), "NoSuchThing")


@pytest.mark.parametrize("data", sorted({entry.data for entry in TESTED if entry.data}))
def test_data_are_drawn_from_the_generator(data: str) -> None:
    make = load_target(data)
    one, same = (keras.tree.flatten(make(8, np.random.default_rng(7))) for _ in range(2))
    other = keras.tree.flatten(make(8, np.random.default_rng(8)))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert {len(each) for each in one} == {8}


BUILT = [
    "zoo.layers:Conv2D__same_strides",
    "zoo.layers:LSTM__mask",
    "zoo.layers:MaxNumBoundingBoxes",
    "zoo.losses:CTC",
    "zoo.metrics:F1Score",
    "zoo.optimizers:Adam__amsgrad",
    "zoo.optimizers:CosineDecay__warmup",
    "zoo.initializers:Orthogonal__kernel",
    "zoo.activations:gelu__approximate",
    "zoo.applications:MobileNet",
]


@pytest.mark.parametrize("target", BUILT)
def test_a_model_is_compiled_and_the_same_at_each_call(target: str) -> None:
    build = load_target(target)
    one, other = build(), build()
    assert one.compiled
    assert one.trainable_variables
    if "applications" not in target:
        # Keras numbers seeds, but trainable variables have the names of their layers.
        assert [each.path for each in one.trainable_variables] == [each.path for each in other.trainable_variables]


@pytest.mark.parametrize("target", [each for each in BUILT if "applications" not in each])
def test_a_model_computes(target: str) -> None:
    entry = next(each for each in TESTED if each.target == target)
    model, random = load_target(target)(), np.random.default_rng(7)
    if entry.data:
        x, _ = load_target(entry.data)(8, random)
    else:
        spec = model.inputs[0]
        x = random.standard_normal((8, *spec.shape[1:])).astype(spec.dtype)
    assert np.isfinite(keras.ops.convert_to_numpy(model(x))).all()


ASKED = [("losses", "MeanSquaredError", "loss"), ("layers", "ReLU", "forward"), ("layers", "Add", "forward")]
SMALL = [Entry(kind, name, target=f"zoo.{kind}:{name}", stages=("build", stage)) for kind, name, stage in ASKED]


@pytest.mark.slow
def test_what_was_run_is_kept_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TOGETHER", 2)
    said: list[str] = []
    newcomer = Entry("layers", "Newcomer")
    first = run_zoo([*SMALL[:2], newcomer], (HERE,), tmp_path, said.append)
    assert first["counts"] == {"not compared": 2, "untested": 1}
    assert said[0] == "2 of 3 entries are to be run"
    said.clear()
    whole = run_zoo([*SMALL, newcomer], (HERE,), tmp_path, said.append, jobs=2)
    assert said == ["1 of 4 entries are to be run", said[1]]
    assert whole["counts"] == {"not compared": 3, "untested": 1}
    assert whole["rows"][:2] == first["rows"][:2]
    # What another version gave says nothing of the installed one.
    old = next(tmp_path.glob("losses-*.json"))
    old.write_text(json.dumps(json.loads(old.read_text()) | {"versions": {"keras": "3.0.0"}}))
    said.clear()
    run_zoo(SMALL, (HERE,), tmp_path, said.append)
    assert said == ["1 of 3 entries are to be run", said[1]]
    assert "losses MeanSquaredError" in said[1]


@pytest.mark.slow
def test_what_was_stopped_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the workers of every set, and entries without an answer do not count as failures."""
    monkeypatch.setattr(runner, "TOGETHER", 1)

    def stop(text: str) -> None:
        if text.startswith("1 of 3:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_zoo(SMALL, (HERE,), tmp_path, stop, jobs=2)
    kept = [json.loads(each.read_text())["verdict"] for each in tmp_path.iterdir()]
    assert set(kept) == {"not compared"}
    assert len(kept) < len(SMALL)


def test_entries_are_listed_without_a_model(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        "import keras\n"
        "keras.Model.__init__ = keras.Layer.__call__ = None\n"
        "from zoo.entries import all_entries\n"
        "print(len(all_entries()))"
    )
    found = run_python("-c", code)
    assert int(found.stdout) == len(all_entries()), found.stderr
