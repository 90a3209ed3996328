"""Tests the parts of parity that need one backend or none: the verdict, the records, the report, and one worker."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import psutil
import pytest

from dlf.backend.registry import backend_names, current_backend, is_installed, load_backend
from dlf.models.layers import layers_by_path
from dlf.models.synthetic_data import make_batch
from dlf.numerics.noise_floor import STEPS
from dlf.parity._asking.requests import Requests
from dlf.parity._judging.build import judge_build
from dlf.parity._judging.measure import measure, measure_calls, measure_training
from dlf.parity._judging.measurement import Measurement, Moves
from dlf.parity._judging.verdict import Finding, Thresholds, _innermost, judge, judge_each
from dlf.parity._recording.subject import Subject
from dlf.parity._recording.taps import Listener, listening
from dlf.parity._recording.worker import Worker
from dlf.parity._records import Records
from dlf.parity.check import target_of
from dlf.parity.evidence import _without_what_others_lost
from dlf.parity.options import STAGES, ParityOptions
from dlf.parity.report import advice_of, answer_of, exit_code, name_of, report_text, write_report
from dlf.parity.result import ParityReport
from dlf.parity.runner import Workers, compare, run_parity
from dlf.utils.errors import BackendError, InvalidArgumentError, MissingPackageError, OutputError
from dlf.utils.files import temporary_folder
from dlf.utils.interrupts import undo_all, undone
from dlf.utils.tracebacks import own_traceback
from dlf.utils.workers import Session

Run = Callable[..., subprocess.CompletedProcess[str]]
HERE = current_backend().name
ABSENT = [name for name in backend_names() if not is_installed(load_backend(name))]
FLOOR = 2.0**-23

MODEL = """
import os
import warnings
import keras
import numpy as np
from keras import layers, ops

def compiled(*middle, loss="mse"):
    model = keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2, name="last")])
    model.compile(keras.optimizers.Adam(1e-2), loss)
    return model

def build():
    return compiled(layers.Dense(6, activation="tanh", name="first"), layers.BatchNormalization(name="bn"),
                    layers.Dropout(0.3, name="drop"))

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.more = layers.Dense(3, name="one"), [layers.Dense(3, name="two"), layers.Dense(1, name="three")]
    def call(self, x):
        x = self.one(x)
        for each in self.more:
            x = each(x)
        return x

def own():
    return Own()

def own_built():
    model = Own()
    with warnings.catch_warnings(action="ignore"):
        model.build((None, 4))  # Which builds none of its layers, and Keras only warns.
    return model

def data(size, random):
    return random.normal(size=(size, 4)).astype("float32"), random.normal(size=(size, 1)).astype("float32")

def wide(size, random):
    return np.zeros((size, 5), "float32"), np.zeros((size, 2), "float32")

def alone(size, random):
    return np.zeros((size, 4), "float32")

def tokens():
    return compiled(layers.Embedding(9, 2, name="table"), layers.Flatten())

def past_the_end(size, random):
    return np.full((size, 4), 9, "int32"), np.zeros((size, 2), "float32")

def four(size, random):
    return (alone(size, random),) * 4

def sparse(size, random):
    import scipy.sparse
    return scipy.sparse.csr_matrix(np.eye(size, 4, dtype="float32")), np.zeros((size, 2), "float32")

def words(size, random):
    return np.array([["a", "b", "c", "d"]] * size, dtype=object), np.zeros((size, 2), "float32")

def nothing():
    return None

def uncompiled():
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])

def without_a_loss():
    model = uncompiled()
    model.compile("sgd")
    return model

class Reader(layers.Layer):
    # Stands for TextVectorization, which needs TensorFlow to be installed.
    def call(self, x):
        return x
    def compute_output_spec(self, x):
        return keras.KerasTensor((None, 6), "int32")

def text():
    words = keras.Input((1,), dtype="string", name="words")
    hidden = layers.Embedding(9, 2)(Reader(name="reader")(words))
    return compiled_as_it_is(keras.Model(words, layers.Dense(2)(layers.Flatten()(hidden))))

class Step(keras.Model):
    def train_step(self, *arguments): ...

def text_in_a_step():
    words = keras.Input((1,), dtype="string", name="words")
    return compiled_as_it_is(Step(words, layers.Embedding(9, 2)(Reader(name="reader")(words))))

class Trained(Reader):
    def build(self, shape):
        self.add_weight(shape=(1,))

def trained_text():
    words = keras.Input((1,), dtype="string", name="words")
    return compiled_as_it_is(keras.Model(words, layers.Embedding(9, 2)(Trained(name="reader")(words))))

def texts():
    reader = Reader(name="reader")
    words = keras.Input((1,), dtype="string", name="words")
    return compiled_as_it_is(
        keras.Sequential([words, reader, layers.Embedding(9, 2), layers.Flatten(), layers.Dense(2)])
    )

def compiled_as_it_is(model):
    model.compile("sgd", "mse")
    return model

def broken():
    return build().nothing

def drawn():
    return compiled(layers.Dense(2 + os.urandom(1)[0] + 256 * os.urandom(1)[0], name="drawn"))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "model.py"
    place.write_text(MODEL)
    return place


def judged(
    float64: dict[str, Any], tested: dict[str, Any] | None = None, floor: float = FLOOR, dtype: str = "float32"
) -> dict[str | None, Finding]:
    arrays = {name: np.asarray(value) for name, value in float64.items()}
    under_test = {**arrays, **{name: np.asarray(value) for name, value in (tested or {}).items()}}
    place = {"stage": "forward", "layer": "layer", "call": "layer", "variable": None, "mode": None}
    measured = json.loads(json.dumps(place | measure(arrays, under_test, floor, dtype), allow_nan=False))
    return {each.backend: each for each in judge_each(measured, list(arrays), Thresholds())}


def verdicts(*arguments: Any, **keywords: Any) -> dict[str | None, str]:
    return {backend: each.verdict for backend, each in judged(*arguments, **keywords).items()}


ONES = np.ones(4)


def test_the_majority_names_the_odd_one() -> None:
    found = verdicts({"a": ONES, "b": ONES * (1 + 1e-8), "c": ONES})
    assert found == {"a": "rounding", "b": "diverged", "c": "rounding"}


def test_the_same_bits_are_identical() -> None:
    tested = dict.fromkeys("ab", ONES + FLOOR)
    assert verdicts({"a": ONES, "b": ONES}, tested) == {"a": "identical", "b": "identical"}
    assert verdicts({"a": ONES, "b": ONES}, tested | {"b": ONES}) == {"a": "rounding", "b": "rounding"}


def test_one_backend_alone_is_held_against_its_own_float64() -> None:
    assert verdicts({"a": ONES}, {"a": ONES + 100 * FLOOR}) == {"a": "noisy"}


def test_another_kind_of_number_is_another_meaning() -> None:
    tested = {"a": np.ones(4, "float32"), "b": np.ones(4, "float16"), "c": np.ones(4, "float32")}
    assert verdicts({"a": ONES, "b": ONES, "c": ONES}, tested)["b"] == "diverged"
    numbers = {"a": np.arange(3, dtype="int32"), "b": np.arange(3, dtype="int64")}
    assert verdicts(numbers) == {"a": "rounding", "b": "rounding"}  # The width of integers depends on the framework.


def test_the_bound_goes_with_the_dtype_under_test() -> None:
    apart = {"a": ONES, "b": ONES * (1 + 1e-8)}
    for dtype, floor in (("bfloat16", 2.0**-7), ("float16", 2.0**-10), ("float64", 2.0**-52)):
        assert judged(apart, floor=floor, dtype=dtype)[None].verdict == "diverged"


def test_what_float64_rounds_means_the_same() -> None:
    float64 = {"a": ONES, "b": ONES * (1 + 1e-14)}
    assert verdicts(float64) == {"a": "rounding", "b": "rounding"}


def test_of_two_backends_none_is_blamed() -> None:
    assert verdicts({"a": ONES, "b": ONES * (1 + 1e-8)}) == {None: "diverged"}


def test_three_that_all_differ_have_no_majority() -> None:
    assert verdicts({"a": ONES, "b": ONES * 2, "c": ONES * 3}) == {None: "diverged"}


def test_two_of_four_are_no_majority() -> None:
    assert verdicts({"a": ONES, "b": ONES, "c": ONES * 2, "d": ONES * 2}) == {None: "diverged"}


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_must_be_none_everywhere(strange: float) -> None:
    odd = np.array([1.0, strange])
    assert verdicts({"a": odd, "b": odd}) == {"a": "not finite", "b": "not finite"}
    assert verdicts({"a": np.array([1.0, np.inf]), "b": np.array([1.0, -np.inf])}) == {None: "diverged"}
    # NaN and infinity are never the truth, nor a majority.
    found = judged({"a": odd, "b": odd, "c": np.ones(2)})
    assert {name: each.verdict for name, each in found.items()} == {"a": "diverged", "b": "diverged", "c": "rounding"}
    assert found["a"].detail == ("NaN" if np.isnan(strange) else "infinity")
    # Of two backends, the one without a number is blamed.
    assert verdicts({"a": np.ones(2), "b": odd}) == {"a": "rounding", "b": "diverged"}


def test_other_shapes_are_another_meaning() -> None:
    found = judged({"a": np.ones(3), "b": np.ones((3, 1)), "c": np.ones(3)})
    assert found["b"].verdict == "diverged"
    assert found["b"].as_dict()["relative_difference"] is None  # JSON has no infinity.


def test_integers_have_to_be_equal() -> None:
    assert verdicts({"a": np.arange(3), "b": np.arange(3), "c": np.array([0, 1, 3])})["c"] == "diverged"
    assert verdicts({"a": np.array([True]), "b": np.array([True])}) == {"a": "identical", "b": "identical"}


def test_nothing_at_all_agrees() -> None:
    assert verdicts({"a": np.zeros(0), "b": np.zeros(0)}) == {"a": "identical", "b": "identical"}
    assert verdicts({"a": np.zeros(2), "b": np.zeros(2)}, floor=1e-38) == {"a": "identical", "b": "identical"}


@pytest.mark.parametrize(
    ("floors", "expected"),
    [
        ((3, 4), ("rounding", "rounding")),
        ((100, 3), ("noisy", "rounding")),
        ((8000, 3), ("precision", "rounding")),
        ((100, 200), ("unstable", "unstable")),
        ((4000, 4000), ("unstable", "unstable")),
        ((31, 8000), ("noisy", "precision")),
    ],
)
def test_what_the_dtype_costs_is_counted_in_noise_floors(floors: tuple[int, int], expected: tuple[str, str]) -> None:
    tested = {name: ONES + count * FLOOR for name, count in zip("ab", floors, strict=True)}
    found = judged({"a": ONES, "b": ONES}, tested)
    assert tuple(each.verdict for each in found.values()) == expected
    assert [each.noise_floors for each in found.values()] == pytest.approx(floors)


def test_what_every_backend_loses_explains_a_difference_and_what_one_loses_does_not() -> None:
    """A layer that amplifies its own roundoff does so in float64 too."""
    apart = 1e6 * FLOOR * float(np.finfo("float64").eps / np.finfo("float32").eps)
    float64 = {"a": ONES, "b": ONES + apart}
    lost, kept = ONES + 1e4 * FLOOR, ONES + FLOOR
    assert set(verdicts(float64, {"a": lost, "b": lost}).values()) == {"unstable"}
    assert set(verdicts(float64, {"a": lost, "b": kept}).values()) == {"diverged"}


def test_no_number_in_the_dtype_under_test_is_a_defect_on_one_backend_and_said_on_all() -> None:
    lost = np.array([1.0, np.nan, 1.0, 1.0])
    assert verdicts({"a": ONES, "b": ONES}, {"a": lost}) == {"a": "diverged", "b": "rounding"}
    found = judged({"a": ONES, "b": ONES}, {"a": lost, "b": lost})
    assert {each.verdict for each in found.values()} == {"not finite"}
    assert {each.detail for each in found.values()} == {"NaN in float32"}


def test_the_innermost_layer_is_named_and_sound_ones_stay() -> None:
    findings = [
        Finding("forward", "block", None, "a", "diverged", 1.0),
        Finding("forward", "block/inner", None, "a", "diverged", 1.0),
        Finding("forward", "block", None, "b", "rounding", 0.0),
        Finding("forward", "blocks", None, "a", "diverged", 1.0),
        Finding("forward", "block", None, "b", "diverged", 1.0),
    ]
    assert _innermost(findings) == findings[1:]


MOVES = ("float64/", "tested/", "nudged/", "leaned/", "pushed/", "widened/")


def replayed(tmp_path: Path, **arrays: dict[str, Any]) -> dict[str, Records]:
    """Records of each backend; arrays without a title are the same in float64 and in the dtype under test."""
    records = {name: Records(tmp_path / name) for name in arrays}
    for name, each in arrays.items():
        for place, value in each.items():
            for title in ("",) if place.startswith(MOVES) else ("float64", "tested"):
                records[name][f"{title}/{place}".removeprefix("/")] = np.asarray(value, float)
    return records


CALL: Any = {"key": "relu", "layer": "relu", "dtype": "float32", "longest": 4, "sources": []}


SMOOTH = {"float64/relu|forward/0": ONES} | {f"{step}/relu|forward/0": ONES + size for step, size in STEPS.items()}


def test_a_gradient_that_differs_at_a_point_alone_is_a_tie(tmp_path: Path) -> None:
    key = "relu|gradient/input/0"
    at = replayed(tmp_path / "at", a={key: ONES}, b={key: ONES * 2}, c={key: ONES})
    beside = replayed(tmp_path / "beside", a={key: ONES}, b={key: ONES}, c={key: ONES})
    apart = replayed(tmp_path / "apart", a={key: ONES}, b={key: ONES * 3}, c={key: ONES})
    for records, verdict in ((None, "diverged"), (beside, "tie"), (apart, "diverged")):
        found = judge(measure_calls(at, "a", [CALL], records), list("abc"))
        assert {each.backend: each.verdict for each in found}["b"] == verdict
    # Outputs that differ are not a tie, which is about derivatives.
    key = "relu|forward/0"
    at = replayed(tmp_path / "forward", a={key: ONES}, b={key: ONES * 2}, c={key: ONES})
    assert judge(measure_calls(at, "a", [CALL], beside), list("abc"))[0].verdict == "diverged"


def test_a_layer_that_has_no_float64_form_is_judged_in_its_own_dtype(tmp_path: Path) -> None:
    """Its outputs do not change when its inputs move by 2^-30, and do change by 2^-20."""
    key = "relu|forward/0"
    at = replayed(tmp_path / "at", a={key: ONES}, b={key: ONES * (1 + 1e-6)})
    for sees, verdicts_ in ((0.0, {"rounding"}), (0.999, {"rounding"}), (1.0, {"diverged"})):
        each = SMOOTH | {f"leaned/{key}": ONES + sees * 2.0**-30}
        beside = replayed(tmp_path / f"beside{sees}", a=SMOOTH, b=each)
        found = judge(measure_calls(at, "a", [CALL], beside), list("ab"))
        assert {each.verdict for each in found} == verdicts_


def test_a_layer_that_makes_a_table_in_float32_is_judged_in_its_own_dtype(tmp_path: Path) -> None:
    """The table does not change when inputs move, but changes when float32 is replaced by float64."""
    key = "relu|forward/0"
    at = replayed(tmp_path / "at", a={key: ONES}, b={key: ONES * (1 + 1e-6)})
    smooth = SMOOTH
    for apart, verdicts_ in ((1e-7, {"rounding"}), (1e-15, {"diverged"})):
        each = smooth | {f"widened/{key}": ONES + apart}
        beside = replayed(tmp_path / f"beside{apart}", a=smooth, b=each)
        found = judge(measure_calls(at, "a", [CALL], beside), list("ab"))
        assert {each.verdict for each in found} == verdicts_
    # The same measurements, judged by another constant.
    beside = replayed(tmp_path / "again", a=smooth, b=smooth | {f"widened/{key}": ONES + 1e-7})
    measured = measure_calls(at, "a", [CALL], beside)
    for rounded, verdict in ((16.0, "rounding"), (1e10, "diverged")):
        assert {each.verdict for each in judge(measured, list("ab"), Thresholds(rounded=rounded))} == {verdict}
    far = replayed(tmp_path / "far", a={key: ONES}, b={key: ONES * (1 + 1e-4)})
    beside = replayed(tmp_path / "beside", a=smooth, b=smooth | {f"widened/{key}": ONES + 1e-7})
    assert {each.verdict for each in judge(measure_calls(far, "a", [CALL], beside), list("ab"))} == {"diverged"}


def test_an_output_with_steps_is_compared_beside_them_too(tmp_path: Path) -> None:
    """At a step, a unit in the last place moves the output so far that no difference stands out."""
    key = "relu|forward/0"
    at = replayed(tmp_path / "at", a={key: ONES}, b={key: ONES * 1.1}, c={key: ONES})
    at["a"][f"perturbed0/{key}"] = ONES * 1.5

    def moves(value: Any) -> dict[str, Any]:
        there = {f"{title}/{key}": value for title in ("float64", *STEPS)}
        return there | {f"tested/{key}": value, f"widened/{key}": value + 1e-7}

    for size, verdict in ((1.1, "diverged"), (1 + 1e-7, "rounding")):
        beside = replayed(tmp_path / f"beside{size}", a=moves(ONES), b=moves(ONES * size), c=moves(ONES))
        found = {each.backend: each for each in judge(measure_calls(at, "a", [CALL], beside), list("abc"))}
        assert {name: each.verdict for name, each in found.items()} == {"a": "rounding", "b": verdict, "c": "rounding"}


def test_records_are_judged_by_call_with_perturbed_ones_as_the_floor(tmp_path: Path) -> None:
    records = {name: Records(tmp_path / name) for name in "abc"}
    for name, each in records.items():
        each["float64/relu|forward/0"] = ONES
        each["tested/relu|forward/0"] = ONES + (1e-3 if name == "b" else 0)
        for title in ("float64", "tested"):
            each[f"{title}/relu|gradient/variable/kernel"] = ONES * (2 if name == "c" else 1)
            each[f"{title}/|loss/value"] = np.array(1.0 + (1e-3 if name == "a" else 0))
    for n, sign in enumerate((1, -1)):
        records["a"][f"perturbed{n}/relu|forward/0"] = ONES + sign * 1e-3
    found = judge(measure_calls(records, "a", [CALL]), list("abc"))
    assert {each.verdict for each in found if each.stage == "forward"} == {"rounding"}
    assert [(each.backend, each.variable) for each in found if each.verdict == "diverged"] == [("c", "kernel")]
    found = judge(measure_training(records, "a", {}, "float32"), list("abc"))
    assert [each.backend for each in found if each.verdict == "diverged"] == ["a"]


def measured(stage: str, variable: str | None, mode: str | None, apart: float, **place: Any) -> Measurement:
    float64 = {"a": ONES, "b": ONES + apart}
    where: Measurement = {"stage": stage, "layer": None, "call": None, "variable": variable, "mode": mode}
    return cast("Measurement", {**where, **measure(float64, float64, FLOOR, "float32"), **place})


def test_what_differs_is_named_where_it_begins() -> None:
    whole = [
        measured("forward", "prediction:0", "whole", 1.0),
        measured("forward", None, "whole", 1.0, kind="input", of="second"),
        measured("loss", None, "whole", 1.0),
        measured("gradient", "kernel", "whole", 1.0),
    ]
    steps = [measured("trajectory", "kernel", mode, 1.0, step=0, one_step=FLOOR) for mode in ("resynchronised", "free")]

    def wrong(*given: Measurement) -> list[tuple[str, str | None, str | None]]:
        found = judge(given, ["a", "b"])
        return [(each.stage, name_of(each.as_dict()), each.mode) for each in found if each.verdict == "diverged"]

    layer = measured("forward", None, None, 1.0, layer="second")
    assert wrong(layer, *whole, *steps) == [("forward", None, None)]
    assert wrong(*whole, *steps) == [("forward", "the input of second", "whole")]
    assert wrong(*whole[2:], *steps) == [("loss", None, "whole")]
    assert wrong(whole[3], *steps) == [("gradient", "kernel", "whole")]
    assert wrong(*steps) == [("trajectory", "kernel", "resynchronised")]
    assert wrong(steps[1]) == [("trajectory", "kernel", "free")]
    # Roundoff grows from layer to layer, so the whole model has more room.
    assert wrong(measured("forward", "prediction:0", "whole", 1e-10)) == []
    assert wrong(measured("forward", None, None, 1e-10, layer="second")) == [("forward", None, None)]


def test_who_holds_what_has_no_float64_form_has_none_there_either() -> None:
    """A layer has no float64 form where a layer inside it has none; other backends get no wider bound."""
    bent: Moves = {"bent": 0.5, "bent_widely": 0.5, "bent_units": 1e6, "widened_units": 0.0, "moved": 1e-12}
    inner: Measurement = {"layer": "block/attention", "moves": {"a": [bent], "b": [], "c": []}, "longest": 4}

    def verdicts_of_block(**apart: float) -> dict[str | None, str]:
        where: Measurement = {"stage": "forward", "variable": None, "mode": None, "call": None}
        float64 = {name: ONES + apart.get(name, 0.0) for name in "abc"}
        inside = float64 | {"c": ONES}
        parts: list[Measurement] = [
            where | inner | measure(inside, inside, FLOOR, "float32"),
            where | {"layer": "block"} | measure(float64, float64, FLOOR, "float32"),
        ]
        return {each.backend: each.verdict for each in judge(parts, list("abc")) if each.layer == "block"}

    assert set(verdicts_of_block(a=1e-7).values()) == {"rounding"}
    assert verdicts_of_block(a=1e-4) == {"b": "rounding", "c": "rounding"}  # It is reported of the inner layer.
    # The one without a float64 form is nearer to one that is right.
    assert verdicts_of_block(a=1e-9, c=1e-7)["c"] == "diverged"
    # A layer that does not hold it gets no wider bound.
    other = measured("forward", None, None, 1e-7, layer="other")
    assert [each.verdict for each in judge([other], ["a", "b"])] == ["diverged"]


def test_roundoff_excuses_itself_and_nothing_else() -> None:
    place: Measurement = {"stage": "trajectory", "layer": None, "call": None, "mode": "resynchronised", "step": 0}

    def verdicts_of(apart: float, **what: Any) -> set[str]:
        float64 = {"a": ONES, "b": ONES + apart}
        one = {**place, "variable": "kernel", "scale": 1.0, **measure(float64, float64, FLOOR, "float32"), **what}
        return {each.verdict for each in judge([cast("Measurement", one)], ["a", "b"])}

    # The sign of such a gradient means nothing, and it is "unstable" on every backend; others are judged as usual.
    assert verdicts_of(1e-6, cancelled=True, floor=1e-6) == {"unstable"}
    assert verdicts_of(1e-6, floor=1e-6) == {"diverged"}
    # The bound is what float64's roundoff was measured to move; where that is the whole scale, nothing is judged.
    assert verdicts_of(1e-8, roundoff=1e-10) == {"rounding"}
    assert verdicts_of(1e-6, roundoff=1e-10) == {"diverged"}
    assert verdicts_of(1e-6, roundoff=0.01) == {"not judged"}


def test_what_one_backend_does_not_have_is_not_passed_over() -> None:
    one = measured("update", "slot", None, 0.0, absent=["c"])
    found = {each.backend: (each.verdict, each.detail) for each in judge([one], list("abc"))}
    assert found["c"] == ("diverged", "which is not there")


def test_a_float64_form_of_something_else_is_not_judged() -> None:
    """The float64 results agree, but are far from the model's on every backend: they are of something else."""
    float64, tested = {"a": ONES, "b": ONES}, {"a": 2 * ONES, "b": 2 * ONES + 1e-7}
    assert set(verdicts(float64, tested).values()) == {"not judged"}
    # Results of the same bits are judged, as where a tiny number is taken for zero.
    assert set(verdicts(float64, {"a": 2 * ONES, "b": 2 * ONES}).values()) == {"unstable"}


def test_a_free_run_that_goes_further_than_a_step_costs_is_chaos() -> None:
    """It is chaos as long as the run goes no further than its perturbed runs."""
    float64 = {"a": ONES, "b": ONES}
    where = {"layer": None, "call": None, "variable": "kernel", "step": 1, "one_step": FLOOR}
    for error, verdict in ((5e-7, "rounding"), (1e-4, "chaos"), (1e-2, "noisy")):
        tested = {"a": ONES + error, "b": ONES + 1.1 * error}
        found = measure(float64, tested, 1e-5 if verdict != "noisy" else 1e-4, "float32")
        one = cast("Measurement", {"stage": "trajectory", "mode": "free", **where, **found})
        assert [each.verdict for each in judge([one], ["a"])] == [verdict]


def test_what_is_built_is_compared_by_name_shape_and_dtype() -> None:
    def answer(**changes: Any) -> Any:
        row = {"path": "m/d/kernel", "layer": "d", "shape": [2, 3], "dtype": "float32", "trainable": True}
        layers = [{"path": "d", "class": "Dense", "dtype": "float32"}]
        return {"variables": [row | changes], "layers": layers, "outputs": [["", [8, 3], "float32"]]}

    assert [each.verdict for each in judge_build({"a": answer(), "b": answer()})] == ["identical", "identical"]
    for changes in ({"shape": [3, 2]}, {"dtype": "float16"}, {"trainable": False}):
        (odd,) = judge_build({"a": answer(), "b": answer(**changes), "c": answer()})
        assert (odd.layer, odd.variable, odd.backend, odd.verdict) == ("d", "kernel", "b", "diverged")
        assert [each.backend for each in judge_build({"a": answer(), "b": answer(**changes)})] == [None]
    seed = {"path": "m/drop/seed_generator_state", "trainable": False}
    found = judge_build({"a": answer(**seed, dtype="uint32"), "b": answer(**seed, dtype="int64")})
    assert {each.verdict for each in found} == {"identical"}
    # Layers without variables are compared too, and so are outputs.
    more = {"path": "extra", "class": "ReLU", "dtype": "float32"}
    (odd,) = judge_build({"a": answer(), "b": answer() | {"layers": [*answer()["layers"], more]}, "c": answer()})
    assert (odd.layer, odd.variable, odd.backend) == ("extra", None, "b")
    for outputs in ([["", [8, 4], "float32"]], [["x", [8, 3], "float32"]], [["", [8, 3], "float16"]]):
        assert {each.backend for each in judge_build({"a": answer(), "b": answer() | {"outputs": outputs}})} == {None}


def test_a_layer_that_gives_another_shape_comes_before_variables_that_follow_from_it() -> None:
    def answer(width: int, **changes: Any) -> Any:
        row = {"path": "m/last/kernel", "layer": "last", "shape": [width, 1], "dtype": "float32", "trainable": True}
        layers = [{"path": each, "class": "Layer", "dtype": "float32"} for each in ("dots", "last")]
        given = [["dots", "dots", [["float32", [8, width]]]], ["last", "last", [["float32", [8, 1]]]]]
        return {"variables": [row | changes], "layers": layers, "outputs": [], "given": given}

    (odd,) = judge_build({"a": answer(6), "b": answer(3), "c": answer(6)})
    assert (odd.layer, odd.variable, odd.backend) == ("dots", "output", "b")
    # That another dtype follows from another shape is not known.
    assert len(judge_build({"a": answer(6), "b": answer(3, dtype="float16"), "c": answer(6)})) == 2


def test_a_tensor_of_another_framework_is_never_right_however_many_backends_give_one() -> None:
    def answer(*spec: Any) -> Any:
        return {"variables": [], "layers": [], "outputs": [], "given": [["", None, [list(spec)]]]}

    foreign, own = answer("EagerTensor", [], "tensorflow"), answer("float32", [8, 3])
    found = judge_build({"a": foreign, "b": foreign, "c": own})
    assert [(each.layer, each.variable, each.backend, each.kind) for each in found] == [
        (None, "output", name, "foreign output") for name in ("a", "b")
    ]


def test_records_come_back_under_any_name(tmp_path: Path) -> None:
    records = Records(tmp_path / "r")
    arrays = {"a/../b|c": np.arange(3), "ü": np.array(1.5), "": np.zeros((0, 2))}
    for name, array in arrays.items():
        records[name] = array
    assert list(Records(tmp_path / "r")) == []  # The file cannot be read before it is complete.
    records.close()
    again = Records(tmp_path / "r")
    assert list(again) == list(arrays)
    assert float(again["ü"]) == 1.5
    assert "gone" not in again
    assert again.get("gone") is None
    assert [each.name for each in (tmp_path / "r").iterdir()] == ["records.npz"]
    again["more"] = np.ones(2)  # A file that was read can be added to, and read again.
    assert [again["more"].tolist(), list(again)] == [[1.0, 1.0], [*arrays, "more"]]


def test_records_keep_bfloat16(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records["x"] = np.ones(2, "bfloat16")
    assert records["x"].dtype.name == "bfloat16"
    np.testing.assert_array_equal(records["x"].astype("float32"), np.ones(2))


def test_records_take_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        Records(tmp_path)["x"] = np.array([object()])


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(
        OutputError, match=r"records.npz: cannot be written \(No space left on device\).* has space left"
    ):
        Records(tmp_path)["x"] = ONES
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(OutputError, match="Set TMPDIR"), temporary_folder("dlf-"):
        pass


def test_what_has_to_go_goes_at_the_end_and_when_the_process_is_stopped() -> None:
    gone: list[str] = []

    def fails() -> None:
        raise OSError

    with undone(lambda: gone.append("folder")), undone(lambda: gone.append("worker")):
        undo_all()
        assert gone == ["worker", "folder"]
    assert gone == ["worker", "folder"] * 2
    with suppress(OSError), undone(lambda: gone.append("first")), undone(fails):
        undo_all()
    assert gone[-2:] == ["first", "first"]  # One that fails does not keep the others from running.
    undo_all()
    assert len(gone) == 6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "nope"}, "TARGET: expected file.py:name, notebook.ipynb:name or package.module:name"),
        ({"target": "gone.py:build"}, "There is no file gone.py."),
        ({"data": "nope"}, "--data: expected file.py:name"),
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"steps": -1}, "steps: expected a positive integer"),
        ({"target": "gone.keras"}, "There is no file gone.keras."),
        ({"stages": ["forwards"]}, "stages: expected one of build, forward, .*Did you mean 'forward'"),
        ({"dtype": "float8"}, "dtype: expected one of float32, bfloat16, mixed_bfloat16, float16"),
        ({"device": "tpu"}, "device: expected one of cpu, gpu"),
        ({"backends": [HERE, "jaxx"]}, "jaxx"),
    ],
)
def test_options_that_mean_nothing_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ParityOptions(**({"target": "json:loads", "backends": ()} | asked))


@pytest.mark.alone
@pytest.mark.skipif(not ABSENT, reason="every backend is installed")
def test_a_backend_that_is_not_installed_comes_with_its_command(run_python: Run, file: Path) -> None:
    with pytest.raises(MissingPackageError, match="pip install"):
        ParityOptions("json:loads", [HERE, ABSENT[0]])
    ended = run_python("-m", "dlf", "parity", f"{file}:build", "--backends", f"{HERE},{ABSENT[0]}")
    assert ended.returncode == 3
    assert "pip install" in ended.stderr


def test_a_function_is_found_by_other_processes() -> None:
    assert target_of("a.b:c") == "a.b:c"
    assert target_of(json.JSONDecoder) == "json.decoder:JSONDecoder"
    assert target_of(test_a_function_is_found_by_other_processes) == f"{__file__}:{sys._getframe().f_code.co_name}"
    with pytest.raises(InvalidArgumentError, match="a function at the top of a module"):
        target_of(lambda: None)


def subject_of(*layers: keras.Layer, shape: tuple[int, ...] = (4,), loss: Any = "mse") -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    return model


class Block(keras.layers.Layer):  # type: ignore[misc]
    """Holds two layers, one of which is called twice."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.one, self.two = keras.layers.Dense(4, name="one"), keras.layers.Dense(4, name="two")

    def build(self, shape: Any) -> None:
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x: Any) -> Any:
        return self.one(self.two(self.one(x)))


def calls_of(model: keras.Model, x: np.ndarray) -> Listener:
    listener = Listener(layers_by_path(model))
    with keras.StatelessScope(), listening(listener):
        model(keras.ops.convert_to_tensor(x), training=True)
    return listener


def test_every_layer_is_heard_also_nested_and_called_twice() -> None:
    model = subject_of(Block(name="block"), keras.layers.Dense(1, name="last"))
    listener = calls_of(model, np.ones((2, 4), np.float32))
    # A call is heard when it has returned: inner layers come first.
    assert [each.key for each in listener.calls] == ["block/one", "block/two", "block/one#2", "block", "last"]
    assert [each.path for each in listener.calls][2] == "block/one"


def test_a_recurrent_layer_and_a_wrapper_are_one() -> None:
    model = subject_of(
        keras.layers.TimeDistributed(keras.layers.Dense(3), name="each"),
        keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True, name="gru"), name="both"),
        keras.layers.LSTM(2, name="lstm"),
        shape=(5, 4),
    )
    assert [each.key for each in calls_of(model, np.ones((2, 5, 4), np.float32)).calls] == [
        "each",
        "both/forward_gru",
        "both/backward_gru",
        "both",
        "lstm",
    ]


def test_masks_and_states_are_kept_with_a_call() -> None:
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(5, 2, mask_zero=True, name="table"),
            keras.layers.Dropout(0.5, seed=7, name="drop"),
            keras.layers.LSTM(2, name="lstm"),
        ]
    )
    by_key = {each.key: each for each in calls_of(model, np.array([[1, 2, 0]])).calls}
    masks = [each for each in by_key["lstm"].masks if each is not None]
    assert np.asarray(keras.ops.convert_to_numpy(masks[0])).tolist() == [[True, True, False]]
    assert len(by_key["drop"].state) == 1


def test_listening_ends() -> None:
    original = keras.Layer.__call__
    with pytest.raises(RuntimeError, match="inside"), listening(Listener({})):
        raise RuntimeError("inside")
    assert keras.Layer.__call__ is original


@pytest.fixture
def worker(file: Path) -> Iterator[Callable[..., tuple[Worker, dict[str, Any]]]]:
    def start(name: str, **options: Any) -> tuple[Worker, dict[str, Any]]:
        started = Worker()
        asked = {"target": f"{file}:{name}", "data": None, "loss": None, "batch_size": 4, "steps": 2, "seed": 3}
        asked |= {"dtype": "float32", "device": None} | options
        return started, started.respond({"do": "build", "options": asked})

    before = list(sys.path)
    yield start
    sys.path[:] = before
    sys.modules.pop("model", None)


def test_a_worker_replays_each_layer_as_it_was_traced(worker: Any, tmp_path: Path) -> None:
    started, built = worker("build")
    assert [each["layer"] for each in built["variables"]][:2] == ["first", "first"]
    before = started._subject.values()
    traced = str(tmp_path / "trace")
    answer = started.respond({"do": "trace", "to": traced, "gradients": True})
    keys = [call["key"] for call in answer["calls"]]
    assert keys == ["first", "bn", "drop", "last"]
    assert [call["sources"] for call in answer["calls"]] == [[], ["first"], ["bn"], ["drop"]]
    asked = {"truth": traced, "to": str(tmp_path / "replay"), "keys": keys, "perturb": True, "gradients": True}
    started.respond({"do": "replay", **asked})
    trace, replay = Records(tmp_path / "trace"), Records(tmp_path / "replay")
    for key, after in itertools.pairwise(keys):
        # The inputs of a replay are rounded to float32.
        np.testing.assert_allclose(
            replay[f"float64/{key}|forward/0"], trace[f"call/{after}/in:0"], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            replay[f"float64/{after}|gradient/input/0"], trace[f"call/{key}/incoming:0"], rtol=1e-4, atol=1e-6
        )
    for key, name in (("first", "kernel"), ("bn", "gamma"), ("last", "bias")):
        whole = next(each for each in trace if each.startswith("gradient/") and each.endswith(f"{key}/{name}"))
        found = replay[f"float64/{key}|gradient/variable/{name}"]
        np.testing.assert_allclose(found, trace[whole], rtol=1e-4, atol=1e-6)
    perturbed = [replay[f"perturbed{n}/last|forward/0"] - replay["float64/last|forward/0"] for n in range(2)]
    assert all(0 < np.abs(each).max() < 1e-5 for each in perturbed)
    assert replay["float64/drop|forward/0"].dtype == np.float64
    assert (replay["float64/drop|forward/0"] == 0).any()
    assert ((replay["float64/drop|forward/0"] == 0) == (replay["tested/drop|forward/0"] == 0)).all()
    assert (replay["float64/drop|inference/0"] != 0).all()
    started.respond({"do": "train", "to": str(tmp_path / "free")})
    free, single = Records(tmp_path / "free"), {"truth": str(tmp_path / "free"), "to": str(tmp_path / "single")}
    started.respond({"do": "train_from", **single, "perturb": True, "aside": True})
    steps = Records(tmp_path / "single")
    np.testing.assert_allclose(steps["free/losses"], free["float64/losses"], rtol=1e-5)
    for name in (each for each in free if each.startswith("float64/1/")):
        # Taken from the truth's state, the second step is the same as the truth's.
        np.testing.assert_allclose(steps[name], free[name], rtol=1e-12, atol=1e-14)
    asked = single | {"to": str(tmp_path / "perturbed"), "steps": [str(tmp_path / "single")], "roundoff": {}}
    started.respond({"do": "train_perturbed", **asked})
    kernel = next(each for each in free if each.startswith("float64/1/") and each.endswith("first/kernel"))
    spread = np.abs(Records(tmp_path / "perturbed")[kernel.replace("float64", "perturbed0")] - free[kernel]).max()
    assert 0 < spread < 1e-3
    assert all(np.array_equal(before[name], value) for name, value in started._subject.values().items())


def test_a_worker_of_a_model_that_is_not_compiled_takes_no_step(worker: Any, tmp_path: Path) -> None:
    started, built = worker("uncompiled", loss="mse")
    assert not built["compiled"]
    traced = str(tmp_path / "trace")
    started.respond({"do": "trace", "to": traced, "gradients": True})
    asked = {"truth": traced, "to": str(tmp_path / "training"), "perturb": False, "stages": list(STAGES)}
    started.respond({"do": "replay_training", **asked})
    assert {name.split("|")[1].split("/")[0] for name in Records(tmp_path / "training")} == {"loss"}


@pytest.mark.parametrize("name", ["text", "texts"])
def test_a_model_that_takes_text_is_cut_behind_it(worker: Any, name: str) -> None:
    started, built = worker(name)
    assert built["lookups"] == ["reader"]
    assert [each["class"] for each in built["layers"]] == ["Embedding", "Flatten", "Dense"]
    assert built["outputs"] == [["", [4, 2], "float32"]]
    assert started._chosen.batches[0][0].dtype.kind == "i"
    report = report_of() | {"first_divergence": None}
    next(iter(report["backends"].values()))["lookups"] = built["lookups"]
    assert "Compared is what is behind reader, since text is TensorFlow's alone." in answer_of(report)


@pytest.mark.parametrize("name", ["own", "own_built"])
def test_a_model_that_is_not_built_is_called_on_its_data(worker: Any, file: Path, tmp_path: Path, name: str) -> None:
    if name == "own":
        with pytest.raises(InvalidArgumentError, match=r"expected a model that is built, .*--data module:function"):
            worker(name, loss="mse")
    else:
        # The shape that it was built on is known.
        assert len(worker(name, loss="mse")[1]["variables"]) == 6
    started, built = worker(name, loss="mse", data=f"{file}:data")
    assert len(built["variables"]) == 6
    answer = started.respond({"do": "trace", "to": str(tmp_path), "gradients": False})
    assert [call["key"] for call in answer["calls"]] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, "model: expected a Keras model, received None"),
        ("without_a_loss", {}, "loss: expected a model that was compiled with a loss, or --loss"),
        (
            "text_in_a_step",
            {},
            r"text is TensorFlow's alone.*'reader' takes text.*keras.Model\(lookup.output, model.outp",
        ),
        ("broken", {}, r"(?s)TARGET: expected a function without arguments.*return build\(\).nothing.*AttributeError"),
        ("gone", {}, "TARGET: expected a function or a model of .*model.py"),
        ("build", {"data": "wide"}, r"(?s)--data: expected a batch that the model and its loss take.*\(4, 5\)"),
        *(
            [("tokens", {"data": "past_the_end"}, "An index is 9, and the table of table has 9 rows: PyTorch and Tens")]
            if HERE != "jax"
            else []
        ),
        ("build", {"data": "sparse"}, "--data: expected arrays of numbers, .* received 'csr_matrix'. Make sparse"),
        ("build", {"data": "words"}, "--data: expected arrays of numbers, .* received dtype"),
        ("build", {"data": "alone"}, "--data: expected a function that returns targets too"),
        (
            "build",
            {"data": "four"},
            r"--data: expected data as .* or a function \(batch size, random\) -> \(x, y\), .*received \(<float32",
        ),
    ],
)
def test_what_a_worker_cannot_take_is_one_clear_message(
    worker: Any, file: Path, name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        worker(name, **{key: f"{file}:{value}" for key, value in options.items()})
    assert "site-packages/keras" not in str(caught.value) or options
    assert "dlf/parity" not in str(caught.value)


def test_a_target_that_builds_another_model_each_time_is_seen(worker: Any) -> None:
    for name, same in (("build", True), ("drawn", False)):
        keras.utils.clear_session()  # As in a new process.
        started, _ = worker(name)
        assert (started.respond({"do": "build_again"})["changed"] == []) is same


def test_the_batches_and_values_are_those_of_the_seed(worker: Any) -> None:
    (_, one), (_, two), (_, other) = worker("build"), worker("build"), worker("build", seed=4)
    assert one["batches"] == two["batches"] != other["batches"]
    assert len(set(one["batches"])) == 2
    assert one["values"] == two["values"] != other["values"]


def test_the_subject_makes_its_optimizer_and_reference_anew() -> None:
    subject = Subject(lambda: subject_of(keras.layers.Dense(1)), None)
    assert subject.make_optimizer(subject.model) is not subject.model.optimizer
    assert subject.loss == "mse"


def report_of(**changes: Any) -> dict[str, Any]:
    stages = {
        name: {"counts": {"rounding": 2}, "worst": None}
        for name in ("build", "forward", "loss", "gradient", "update", "state", "trajectory")
    }
    backend = {"keras": "3", "framework": "1.0", "device": "cpu", "numeric_settings": {}, "layers": []}
    return {
        "schema": 3,
        "not_finite": None,
        "not_judged": [],
        "dtype": "float32",
        "stages_asked": list(stages),
        "measurements": [],
        "initial_values": [],
        "known_failures": {},
        "compiled": True,
        "verdict": "agree",
        "target": "a_rather_long_folder/with_a_file.py:function",
        "seed": 2025,
        "backends": {"jax": backend, "tensorflow": backend, "torch": backend},
        "failed": {},
        "first_divergence": None,
        "divergences": [],
        "precision": [],
        "stages": stages,
    } | changes


def finding(stage: str = "forward", verdict: str = "diverged", backend: str | None = "torch") -> dict[str, Any]:
    return Finding(stage, "block/dense", "kernel", backend, verdict, 1e-4, 100.0).as_dict()


def test_the_answer_comes_first_and_fits_80_columns() -> None:
    wrong = finding()
    report = report_of(verdict="diverge", first_divergence=wrong, divergences=[wrong] * 12)
    lines = report_text(report, width=80).splitlines()
    assert answer_of(report).startswith("torch differs from the others: it starts in the forward of block/dense")
    assert " ".join(lines[:2]).startswith(answer_of(report))
    text = "\n".join(lines)
    for expected in (
        "12 diverged",
        "block/dense, kernel on torch, 1.0e-04 apart in float64",
        "and 4 more",
        "not judged",
    ):
        assert expected in text
    assert lines[-1].startswith("Next: read the `call` of the layer block/dense")
    assert max(len(each) for each in lines[:-1]) <= 80


def test_tf32_is_named_where_it_is_on_and_something_is_imprecise() -> None:
    on_gpu = report_of()["backends"]["jax"] | {"device": "gpu", "tensor_float_32": "SWITCH=off"}
    backends = report_of()["backends"] | {"jax": on_gpu}
    noisy = [finding(verdict="noisy", backend="jax")]
    text = report_text(report_of(backends=backends, precision=noisy), width=1000)
    assert "TF32 is on for jax: factors of float32 products are rounded to 10 bits there" in text
    assert "What turns it off: SWITCH=off (jax)." in text
    assert "TF32" not in report_text(report_of(backends=backends))
    assert "TF32" not in report_text(report_of(backends=backends, precision=[finding(verdict="noisy")]))


@pytest.mark.parametrize("stage", ["build", "forward", "loss", "gradient", "update", "state", "trajectory"])
def test_every_stage_says_what_to_do_next(stage: str) -> None:
    wrong = finding(stage, backend=None)
    report = report_of(verdict="diverge", first_divergence=wrong, divergences=[wrong])
    assert "Next: " in report_text(report)
    assert answer_of(report).startswith("jax, tensorflow and torch differ: it starts in the")


def test_news_and_failures_are_said() -> None:
    news = [finding(verdict="noisy"), finding("gradient", "tie"), finding(verdict="unstable")]
    text = report_text(report_of(precision=news, failed={"torch": "the worker\n  [died]"}))
    assert text.startswith("The model computes and trains the same on jax and tensorflow. torch did not come through.")
    assert "noisy: block/dense, kernel on torch" in text
    assert "tie, where any answer is right: block/dense, kernel on torch" in text
    assert "trajectory  the same step by step, beside the tie; free runs part at it" in text
    assert "torch did not come through: the worker\n  [died]" in text


def test_an_error_that_keras_could_not_put_its_words_into_is_shown_as_it_was() -> None:
    shown = AttributeError("'str' object has no attribute '_error_repr'")
    shown.__context__ = TypeError("what is traced has no values")
    assert own_traceback(shown).endswith("TypeError: what is traced has no values")


def test_the_frames_in_an_error_of_a_graph_are_those_of_the_user() -> None:
    frames = [sys.modules["dlf"].__file__, f"{np.__file__}", "<frozen runpy>", __file__]
    for indent, code in (("  ", "\n"), ("    ", "        return step(x)\n")):
        graph = "".join(f'{indent}File "{each}", line 3, in step\n{code}' for each in frames)
        shown = own_traceback(ValueError(f"in user code:\n\n{graph}indices[0] = 40 is not in [0, 12)"))
        assert re.findall(r'File "(.*)"', shown) == [__file__]
        assert shown.count("return step(x)") == code.count("return step(x)")
        assert shown.endswith("indices[0] = 40 is not in [0, 12)")
    # XLA's are not indented, and have a headline.
    op = 'no constant\n\nStack trace for op definition: \nFile "<string>", line 6, in <module>\n{}\n\t [[while]]'
    packages = f'File "{np.__file__}", line 1, in call\nFile "{frames[0]}", line 2, in respond'
    assert own_traceback(ValueError(op.format(packages))) == "ValueError: no constant\n\n\t [[while]]"
    shown = own_traceback(ValueError(op.format(f'{packages}\nFile "{__file__}", line 3, in call')))
    assert f'Stack trace for op definition: \nFile "{__file__}", line 3' in shown


def test_a_message_that_holds_an_array_is_shortened() -> None:
    shown = own_traceback(ValueError("\n".join(["Received:", *map(str, range(1000)), "which is wrong."]))).splitlines()
    assert shown[:2] == ["ValueError: Received:", "0"]
    assert "[979 lines]" in shown
    assert shown[-1] == "which is wrong."
    assert len(shown) < 30


def test_a_stage_that_was_not_reached_is_no_agreement() -> None:
    report = report_of()
    report["stages"]["update"] = {"counts": {}, "worst": None}
    assert "update      not reached" in report_text(report)
    report["compiled"] = False
    assert "update      not compiled" in report_text(report)


def test_of_a_model_that_is_not_compiled_nothing_is_said_of_training() -> None:
    report = report_of() | {"compiled": False, "first_divergence": None}
    assert answer_of(report).startswith("The model computes the same on")
    assert answer_of(report).endswith("it is not compiled, and training was not compared.")


DRAWS = """
import keras
from keras import layers

class Sample(layers.Layer):
    def call(self, x):
        return x + keras.ops.cast(keras.random.categorical(x, 1, seed=3), x.dtype)

def build():
    model = keras.Sequential([keras.Input((4,)), Sample(name="sample"), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model
"""


def test_a_layer_that_draws_numbers_of_its_own_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text(DRAWS)
    built = Worker().build(asdict(ParityOptions(f"{tmp_path / 'draws.py'}:build", (HERE,))))
    first = {"stage": "forward", "layer": "sample"}
    assert advice_of(first, {HERE: built}).startswith(
        "the layer sample draws by random.categorical, which is not common:"
    )
    assert advice_of(first | {"layer": "dense"}, {HERE: built}).startswith("read the `call` of the layer dense")


def test_what_is_configured_otherwise_is_said() -> None:
    backends = {
        name: {
            "layers": [{"path": "norm", "config": {"epsilon": epsilon, "axis": -1}}],
            "optimizer_config": {"beta_1": 0.9 if name != "c" else 0.8},
        }
        for name, epsilon in (("a", 0.001), ("b", 0.001), ("c", 0.002))
    }
    first = {"stage": "forward", "layer": "norm", "variable": None, "backend": "c"}
    assert (
        advice_of(first, backends)
        == "the layer norm is not configured alike: `epsilon` is 0.001 on a and b, 0.002 on c."
    )
    update = first | {"stage": "update", "layer": None}
    assert advice_of(update, backends) == "the optimizer is not configured alike: `beta_1` is 0.9 on a and b, 0.8 on c."
    assert advice_of(first | {"layer": "other"}, backends).startswith("read the `call` of the layer other")
    assert advice_of(update | {"stage": "loss"}, backends).startswith("read the loss")


@pytest.mark.parametrize(
    ("changes", "strict", "code"),
    [
        ({}, True, 0),
        ({"verdict": "diverge"}, False, 1),
        ({"precision": [finding(verdict="noisy")]}, False, 0),
        ({"precision": [finding(verdict="noisy")]}, True, 1),
        ({"precision": [finding(verdict="precision")]}, True, 1),
        ({"precision": [finding(verdict="unstable"), finding("gradient", "tie")]}, True, 0),
        ({"failed": {"torch": "died"}}, False, 3),
        ({"failed": {"torch": "died"}, "verdict": "diverge"}, False, 1),
        ({"verdict": "not compared"}, False, 3),
        ({"not_judged": [{"stage": "trajectory", "reason": "why"}]}, False, 3),
        ({"verdict": "not finite", "not_finite": {"stage": "loss"}}, False, 4),
        ({"verdict": "diverge", "not_finite": {"stage": "loss"}}, False, 1),
    ],
)
def test_the_exit_code_is_the_answer(changes: dict[str, Any], strict: bool, code: int) -> None:
    assert exit_code(report_of(**changes), strict=strict) == code


def test_a_report_is_json(tmp_path: Path) -> None:
    write_report(report_of(precision=[finding()]), tmp_path / "parity.json")
    assert json.loads((tmp_path / "parity.json").read_text())["precision"][0]["noise_floors"] == 100.0


def test_a_report_prints_as_text_has_types_and_is_json(tmp_path: Path) -> None:
    wrong = finding()
    report = ParityReport(report_of(verdict="diverge", first_divergence=wrong, divergences=[wrong], findings=[wrong]))
    assert repr(report) == report_text(report)
    assert not report
    assert not report.ok
    assert (report.verdict, report["verdict"]) == ("diverge", "diverge")
    assert report.first_divergence is not None
    assert (report.first_divergence.layer, report.first_divergence.backend) == ("block/dense", "torch")
    assert report.divergences == report.findings == (report.first_divergence,)
    assert bool(ParityReport(report_of())) is True
    assert ParityReport(report_of()).first_divergence is None
    report.to_json(tmp_path / "parity.json")
    assert json.loads((tmp_path / "parity.json").read_text()) == json.loads(json.dumps(report)) == dict(report)


def test_assert_parity_raises_with_the_report(monkeypatch: pytest.MonkeyPatch, assert_parity: Any) -> None:
    from dlf import testing

    assert assert_parity is testing.assert_parity
    reports = {
        "sound": report_of(),
        "wrong": report_of(verdict="diverge", first_divergence=finding(), divergences=[finding()]),
        "noisy": report_of(precision=[finding(verdict="noisy")]),
        "failed": report_of(failed={"torch": "died"}),
    }
    monkeypatch.setattr("dlf.parity.check.check_parity", lambda target, **options: reports[target])
    assert assert_parity("sound") == reports["sound"]
    assert assert_parity("noisy") == reports["noisy"]
    with pytest.raises(AssertionError, match=r"(?s)^torch differs from the others.*forward .*1 diverged.*Next: "):
        assert_parity("wrong")
    with pytest.raises(AssertionError, match="noisy: block/dense"):
        assert_parity("noisy", strict=True)
    with pytest.raises(BackendError, match="torch did not come through: died"):
        assert_parity("failed")


@pytest.mark.parity
def test_the_marker_is_known(pytestconfig: pytest.Config) -> None:
    """Otherwise this test could not even be collected under --strict-markers."""
    assert any(each.startswith("parity:") for each in pytestconfig.getini("markers"))


@pytest.mark.parametrize("module", ["dlf.pytest_plugin", "dlf.parity.runner, dlf.parity.report, dlf.parity.check"])
def test_asking_starts_no_framework(run_python: Run, module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('jax', 'tensorflow', 'torch', 'keras') if n in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 2, "TARGET: expected file.py:name"),
        (["gone.py:build"], 2, "There is no file gone.py."),
        (["MODEL:build", "--batch-size", "0"], 2, "Invalid value for '--batch-size'"),
        (["MODEL:build", "--batch=0"], 2, "Invalid value for '--batch-size'"),
        (["MODEL:build", "--stages", "forwards"], 2, "Did you mean 'forward'?"),
        (["MODEL:build", "--from", "x.json"], 2, "Name a TARGET, or an earlier report"),
        (["--from", "x.json", "--dtype", "float16"], 2, "--dtype changes what is run, and --from runs nothing"),
        (["--from", "gone.json"], 2, "--from: expected a report that `dlf parity --json FILE` wrote"),
        (["--from", "MODEL"], 2, "It is no JSON"),
        (["MODEL:build", "--threshold", "noisy=x"], 2, "--threshold: expected NAME=NUMBER with one of same, noisy"),
        (["MODEL:build", "--constant", "noisy=x"], 2, "--threshold: expected NAME=NUMBER with one of same, noisy"),
        (["MODEL:build", "--backends", f"{HERE},nope"], 3, "nope"),
        ([], 2, "Name a TARGET, or an earlier report"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_message(
    run_python: Run, file: Path, arguments: list[str], code: int, message: str
) -> None:
    ended = run_python("-m", "dlf", "parity", *(each.replace("MODEL", str(file)) for each in arguments))
    assert ended.returncode in {code, 2}, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


class WorkersOfOne(Workers):
    """Workers of the same backend: most requests do not need two frameworks."""

    def __init__(self, timeout: float, environment: dict[str, str]) -> None:
        self._environment, self._limit = environment, timeout
        super().__init__(["one", "two"])

    def _start(self, name: str) -> Session:
        environment = {**os.environ, "WORKER": name, **self._environment}
        return Session("dlf.parity._recording.worker", environment, title=name, timeout=self._limit)


class TwoOfOne:
    """A comparison with two workers of the same backend."""

    def __init__(self, target: str, folder: Path, timeout: float = 120.0, **environment: str) -> None:
        options = ParityOptions(target, [HERE], batch_size=4, steps=2, seed=1, timeout=timeout)
        self._workers = WorkersOfOne(timeout, environment)
        self._requests = Requests(options, folder, self._workers, lambda *_: None)

    def report(self) -> Any:
        return compare(self._requests, Thresholds())

    def close(self) -> None:
        self._workers.close()


def test_two_workers_of_one_backend_agree_in_every_stage(file: Path, tmp_path: Path) -> None:
    run = TwoOfOne(f"{file}:build", tmp_path)
    try:
        report = run.report()
    finally:
        run.close()
    assert report["verdict"] == "agree"
    assert all(report["stages"][stage]["counts"] for stage in report["stages"])
    assert max(each["relative_difference"] for each in report["findings"]) < 1e-12
    assert {each["mode"] for each in report["findings"]} == {None, "inference", "resynchronised", "free"}
    assert json.dumps(report, allow_nan=False)


@pytest.mark.once
@pytest.mark.slow
def test_where_memory_is_short_one_worker_computes_at_a_time(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlf.parity._asking.requests.memory_of_machine", lambda: 1000.0)
    together: list[int] = []
    original = Session.ask

    def ask(session: Session, request: Any, on_progress: Any) -> Any:
        together.append(+1)
        answer = original(session, request, on_progress)
        together.append(-1)
        return answer

    run = TwoOfOne(f"{file}:build", tmp_path)
    monkeypatch.setattr(Session, "ask", ask)
    try:
        assert run.report()["verdict"] == "agree"
    finally:
        run.close()
    # The requests to build come before the model's size is known.
    assert set(itertools.accumulate(together[4:])) == {0, 1}


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("os._exit(3)", r"(?s)two: the worker of two ended with code 3.*last words"),
        (
            "os.kill(os.getpid(), 9)",
            r"(?s)two: .*code -9 \(killed, as where memory runs out\).*last words",
        ),
        ("time.sleep(300)", r"(?s)two: the worker of two was ended after 40 s.*last words"),
        ("raise RuntimeError('no such thing')", r"(?s)two: TARGET: expected .*in build.*RuntimeError: no such thing"),
    ],
)
def test_a_worker_that_does_not_come_through_is_named(file: Path, tmp_path: Path, line: str, message: str) -> None:
    """If two others were left, they would be compared: see tests/parity/test_parity_backends.py."""
    words = "print('last words', file=sys.stderr, flush=True)"
    source = (
        f"import os, sys, time\nimport model\ndef build():\n    if os.environ['WORKER'] == 'two':\n        {words}\n"
    )
    (tmp_path / "unlike.py").write_text(f"{source}        {line}\n    return model.build()\n")
    # A long limit where time is not under test: the machine may be busy.
    timeout = 40.0 if "sleep" in line else 600.0
    run = TwoOfOne(f"{tmp_path / 'unlike.py'}:build", tmp_path / "records", timeout=timeout)
    try:
        with pytest.raises(BackendError, match="a comparison takes two backends, and there is one left of 2") as caught:
            run.report()
    finally:
        run.close()
    assert caught.match(message)


CRASHING = """
import os, signal, keras


class Crashing(keras.layers.Layer):
    def call(self, x, training=None):
        if os.environ["WORKER"] == "two" and training and {when}:
            os.kill(os.getpid(), signal.SIGFPE)
        return x


def build():
    model = keras.Sequential([keras.Input((3,)), Crashing(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("True", "Keras by itself ends with the same there"),
        (
            "keras.backend.standardize_dtype(x.dtype) == 'float64'",
            "Keras by itself comes through there: what fails is the comparison",
        ),
    ],
)
def test_of_a_worker_that_has_crashed_it_is_said_whether_keras_crashes_too(
    tmp_path: Path, when: str, message: str
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING.format(when=when))
    run = TwoOfOne(f"{tmp_path / 'crashing.py'}:build", tmp_path)
    try:
        with pytest.raises(BackendError, match=r"code -8 \(SIGFPE: a crash in code that is not Python\)") as caught:
            run.report()
    finally:
        run.close()
    assert caught.match(message)


KILLED = """
import os, signal, keras


class Killed(keras.Sequential):
    def fit(self, *args, **options):
        if os.environ["WORKER"] == "two":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(*args, **options)


def build():
    model = Killed([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_worker_that_is_killed_in_fit_is_no_difference_of_fit(tmp_path: Path) -> None:
    """As where memory runs out: what it has answered before is judged, and the rest is said."""
    (tmp_path / "killed.py").write_text(KILLED)
    run = TwoOfOne(f"{tmp_path / 'killed.py'}:build", tmp_path)
    try:
        report = run.report()
    finally:
        run.close()
    assert (report["verdict"], report["failed"], exit_code(report)) == ("agree", {}, 3)
    assert answer_of(report).startswith("The model computes the same on one and two. Not judged: trajectory (")


@pytest.mark.once
def test_of_two_that_fail_the_first_backend_is_named_and_not_the_quicker_one(tmp_path: Path) -> None:
    source = "import os, time\ndef build():\n    time.sleep(os.environ['WORKER'] == 'one')\n"
    (tmp_path / "neither.py").write_text(f"{source}    raise RuntimeError('that of ' + os.environ['WORKER'])\n")
    run = TwoOfOne(f"{tmp_path / 'neither.py'}:build", tmp_path / "records")
    try:
        with pytest.raises(InvalidArgumentError, match="that of one"):
            run.report()
    finally:
        run.close()


@pytest.mark.once
def test_two_runs_do_not_write_into_one_folder(file: Path, tmp_path: Path) -> None:
    """Both runs found the folder empty, and the other one has written its first file since."""
    run = TwoOfOne(f"{file}:build", tmp_path)
    (tmp_path / "values.npz").touch()
    try:
        with pytest.raises(InvalidArgumentError, match="--keep: expected a folder that no other run has"):
            run.report()
    finally:
        run.close()


def test_a_target_that_draws_its_shape_is_not_called_a_divergence(file: Path, tmp_path: Path) -> None:
    run = TwoOfOne(f"{file}:drawn", tmp_path)
    try:
        with pytest.raises(InvalidArgumentError, match="a function that builds the same model at each call") as caught:
            run.report()
        assert re.search(r"its second model differs from its first: \S+ is \d+, then \d+", str(caught.value))
        assert not (tmp_path / "values.npz").exists()  # Before anything was computed.
    finally:
        run.close()


def test_one_backend_alone_is_not_compared(run_python: Run, file: Path) -> None:
    ended = run_python("-m", "dlf", "parity", f"{file}:build", "--backends", HERE, "--steps", "1")
    assert ended.returncode == 3, ended.stderr
    assert ended.stdout.startswith(f"Not compared: there is {HERE} alone.")
    assert "the same" not in ended.stdout
    assert "Next: compare it with another backend" in ended.stdout
    for name in ABSENT:
        assert load_backend(name).install_command in ended.stdout


def test_a_folder_that_is_kept_has_to_be_empty(file: Path, tmp_path: Path) -> None:
    options = ParityOptions(f"{file}:build", [HERE])
    with pytest.raises(InvalidArgumentError, match=r"--keep: expected a folder that is empty or not there.*model.py"):
        run_parity(options, keep=tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        run_parity(options, keep=file / "below")


STOPPED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from dlf.cli import main as cli
from dlf.utils.files import temporary_folder
from test_parity import TwoOfOne
import signal
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, cli._stop_at_once)
with temporary_folder("dlf-parity-") as folder:
    run = TwoOfOne({target!r}, folder)
    print("started", flush=True)
    run.report()
"""


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_parent_leaves_no_worker(tmp_path: Path, how: signal.Signals) -> None:
    """It is stopped during a request. After Ctrl-C or `kill` the folder is removed too; after `kill -9` there is
    no process left to remove it."""
    (tmp_path / "sleeper.py").write_text("import time\ndef build():\n    time.sleep(300)\n")
    folder = tmp_path / "tmp"
    folder.mkdir()
    code = STOPPED.format(tests=str(Path(__file__).parent), target=f"{tmp_path / 'sleeper.py'}:build")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}) as one:
        assert one.stdout is not None
        assert one.stdout.readline().strip() == "started"
        workers = psutil.Process(one.pid).children()
        assert len(workers) == 2
        # Wait until the workers have read the request: before, they would end at the end of their input.
        until = time.monotonic() + 60
        while not all(_sleeps(each) for each in workers) and time.monotonic() < until:
            time.sleep(0.1)
        assert any(folder.glob("dlf-parity-*"))
        one.send_signal(how)
        one.wait(30)
    psutil.wait_procs(workers, 30)
    assert not any(each.is_running() for each in workers)
    if how != signal.SIGKILL:
        assert one.returncode == 128 + how
        assert not any(folder.glob("dlf-parity-*"))


def _sleeps(process: psutil.Process) -> bool:
    # A worker that sleeps has imported its framework, which takes time, and now uses no more.
    return process.cpu_times().user > 1 and process.cpu_percent(0.2) < 5


def test_dictionaries_are_in_one_order_on_every_backend(tmp_path: Path) -> None:
    """PyTorch's trees keep the order in which a dictionary was filled."""
    inputs = {name: keras.Input((2,), name=name) for name in ("b", "a")}
    outputs = {
        name: keras.layers.Dense(size, name=name)(inputs["a"] + inputs["b"]) for name, size in (("d", 1), ("c", 3))
    }
    model = keras.Model(inputs, outputs)
    x, y = make_batch(model, {"c": "mse", "d": "mse"}, 4, np.random.default_rng(0))
    drawn = np.random.default_rng(0).standard_normal((4, 2)).astype("float32")
    assert list(x) == ["a", "b"]
    assert list(y) == ["c", "d"]
    np.testing.assert_array_equal(x["a"], drawn)
    heard = Listener({"model": model})
    with listening(heard):
        model({name: keras.ops.convert_to_tensor(x[name]) for name in ("b", "a")})
    assert list(heard.calls[0].asked[0][0]) == ["a", "b"]
    assert list(heard.calls[0].as_given[0][0]) == ["b", "a"]
    assert list(heard.calls[0].outputs) == ["c", "d"]


def test_what_a_third_backend_has_lost_is_not_said_of_two() -> None:
    """Each step starts from where the truth was, which may be infinite for the sake of a backend that is left out."""
    step = [
        Finding("trajectory", None, "state", name, "not finite", None, lost=True) for name in ("tensorflow", "torch")
    ]
    lost = Finding("state", "layer", "state", "jax", "diverged", None, lost=True)
    found = _without_what_others_lost(step, [lost, *step])
    assert {(each.verdict, each.detail) for each in found} == {
        ("not judged", "its steps start from what is not finite on jax")
    }
    assert _without_what_others_lost(step, step) == step
    own = replace(lost, backend="torch")
    assert _without_what_others_lost([own, *step], [lost, own, *step])[0] == own
    assert _without_what_others_lost([own, *step], [own, *step]) == [own, *step]
