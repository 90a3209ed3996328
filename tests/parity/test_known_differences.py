"""Each known difference still shows: one that has been fixed upstream does not stay in the list."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dlf.backend.registry import backend_names, installed_backends, load_backend
from dlf.backend.report import backend_environment
from dlf.parity._judging.reasons import reasons_of_failures, with_reasons
from dlf.parity._judging.verdict import Finding
from dlf.parity._known import KnownDifference, known_differences
from dlf.parity.options import STAGES

INSTALLED = list(installed_backends())
RUN = """
import json, sys, warnings
import numpy as np

def plain(found):
    import keras
    array = np.asarray(keras.ops.convert_to_numpy(found), "float64")
    return [list(array.shape), array.ravel().tolist()]

for shows in json.load(sys.stdin):
    names = {}
    try:
        exec(shows, names)
        found = names["found"]
        print(json.dumps([plain(each) for each in (found if isinstance(found, list) else [found])]), flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
"""


def found_by_all(known: list[KnownDifference]) -> dict[str, dict[str, Any]]:
    """What the code of each sets as ``found``, or its error: by backend, each in one process beside the others."""
    code = json.dumps([each.shows for each in known])
    with ThreadPoolExecutor() as pool:
        ended = dict(zip(INSTALLED, pool.map(functools.partial(run, code), INSTALLED), strict=True))
    found = {}
    for backend, each in ended.items():
        lines = [json.loads(line) for line in each.stdout.splitlines() if line.startswith(("[", '"'))]
        assert len(lines) == len(known), each.stderr
        found[backend] = {one.name: line for one, line in zip(known, lines, strict=True)}
    return found


def run(code: str, backend: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=code,
        env=backend_environment(load_backend(backend)),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def reasons_for(
    findings: list[Finding], layers: Any, optimizer: str | None, backends: list[str], variables: Any = None
) -> list[Finding]:
    """Returns the findings with reasons, for a model with these layers and, by backend, these variables."""
    built: Any = {name: {"layers": layers, "variables": (variables or {}).get(name, ())} for name in backends}
    return with_reasons(findings, built, optimizer)


def is_apart(one: Any, other: Any) -> bool:
    # An error on one backend only is a difference too.
    if isinstance(one, str):
        return True
    pairs = zip(one, other, strict=True)
    return all(a[0] != b[0] or not np.allclose(a[1], b[1], rtol=1e-4, atol=1e-6) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.together
@pytest.mark.parity
@pytest.mark.skipif(len(INSTALLED) < 2, reason="a comparison takes two backends: see the nox session parity")
def test_each_is_still_there(subtests: pytest.Subtests) -> None:
    # One test, since each framework takes longer to import than all of this to compute.
    found = found_by_all(known_differences())
    for known in known_differences():
        with subtests.test(known.name):
            sound = [name for name in INSTALLED if name not in known.backends]
            defective = [name for name in INSTALLED if name in known.backends]
            if not sound or not defective:
                pytest.skip(f"of {', '.join(known.backends)} and the others, one of each has to be installed")
            for other in sound:
                expected = found[other][known.name]
                assert not isinstance(expected, str), f"it fails elsewhere too, on {other}: {expected}"
                for name in defective:
                    differs = is_apart(found[name][known.name], expected)
                    assert differs, f"{known.name} is mended on {name}: take it from the list"


@pytest.mark.parametrize("known", known_differences(), ids=lambda each: each.name)
def test_it_says_where_and_of_what(known: KnownDifference) -> None:
    assert set(known.stages) <= set(STAGES)
    assert known.backends
    assert set(known.backends) < set(backend_names())
    assert set(known.versions) == {"keras", *known.backends}
    # Without a condition, it would explain any difference.
    tied_to = (known.layers, known.functions, known.optimizers, known.repeated_path, known.sparse, known.wide)
    does = (known.assigned, known.metrics, known.training)
    assert not known.stages or any(tied_to) or any(does)
    assert [each.name for each in known_differences()].count(known.name) == 1


def test_a_divergence_that_is_known_says_why() -> None:
    layer = {"path": "pool", "class": "AveragePooling2D", "config": {"padding": "same"}}
    wrong = Finding("forward", "pool", None, "torch", "diverged", 0.1)
    names = ["jax", "tensorflow", "torch"]
    (found,) = reasons_for([wrong], [layer], "SGD", names)
    assert "average pooling" in str(found.reason)
    assert found.verdict == "diverged"
    for other in (
        ([wrong], [layer | {"class": "MaxPooling2D"}], "SGD", names),
        ([wrong], [layer | {"config": {"padding": "valid"}}], "SGD", names),
        ([Finding("forward", "pool", None, "jax", "diverged", 0.1)], [layer], "SGD", names),
        ([Finding("state", "pool", None, "torch", "diverged", 0.1)], [layer], "SGD", names),
        ([Finding("forward", "pool", None, None, "diverged", 0.1)], [layer], "SGD", names[:2]),
    ):
        assert [each.reason for each in reasons_for(*other)] == [None]
    (found,) = reasons_for([Finding("forward", "pool", None, None, "diverged", 0.1)], [layer], "SGD", names[1:])
    assert found.reason is not None


def test_a_known_failure_says_why() -> None:
    pool: Any = {"path": "pool", "class": "AdaptiveMaxPooling2D", "config": {"output_size": [3, 1]}}
    ended = {"tensorflow": "the worker of tensorflow ended with code -8, and said at last:"}
    assert "windows one larger" in reasons_of_failures(ended, [pool])["tensorflow"]
    for other in (
        ({"torch": ended["tensorflow"]}, [pool]),
        ({"tensorflow": "out of memory"}, [pool]),
        (ended, [pool | {"class": "MaxPooling2D"}]),
        (ended, [pool | {"config": {"output_size": [3, 11]}}]),
    ):
        assert reasons_of_failures(*other) == {}


def test_of_words_in_a_configuration_a_pattern_is_known() -> None:
    wrong = [Finding("gradient", "last", "input/0", "torch", "diverged", 1e-8)]
    for said, is_known in (("steep_celu", True), ("selu", False), (None, False)):
        layer = {"path": "last", "class": "Activation", "config": {"activation": said}}
        (found,) = reasons_for(wrong, [layer], None, ["jax", "tensorflow", "torch"])
        assert (found.reason is not None) is is_known


def test_where_most_have_a_defect_those_that_do_not_are_blamed() -> None:
    def reasons(backends: list[str], *blamed: str | None) -> list[bool]:
        wrong = [Finding("update", None, "kernel", each, "diverged", 0.1) for each in blamed]
        found = reasons_for(wrong, [], "ScheduleFreeAdamW", backends)
        return ["momentum before the step" in str(each.reason) for each in found]

    names = ["jax", "tensorflow", "torch"]
    assert reasons(names, "jax") == [True]
    assert reasons(names, "torch") == [True]
    assert reasons(names, "jax", "torch") == [False, True]
    assert reasons(names[:2], None) == [True]
    assert reasons(names, None) == [True]
    assert reasons(["jax", "other"], None) == [False]
    assert reasons([*names, "other"], "jax") == [False]
    assert reasons([*names, "other"], "jax", "other") == [True, True]


def test_a_step_is_of_every_layer_of_the_model_and_an_output_is_not() -> None:
    def has_reason(stage: str, *classes: str) -> bool:
        config = {"data_format": "channels_first"}
        layers = [{"path": each.lower(), "class": each, "config": config} for each in classes]
        wrong = Finding(stage, None, "last/kernel", "tensorflow", "diverged", 0.1)
        (found,) = reasons_for([wrong], layers, "SGD", ["jax", "tensorflow", "torch"])
        return found.reason is not None

    assert has_reason("trajectory", "Dense", "Conv2D")
    assert not has_reason("trajectory", "Dense")
    assert not has_reason("forward", "Dense", "Conv2D")


def variables(*paths: str, sparse: str = "") -> list[dict[str, Any]]:
    return [{"path": path, "trainable": True} | ({"sparse": True} if path == sparse else {}) for path in paths]


def test_a_sparse_gradient_is_known_of_its_variable_and_its_slots() -> None:
    def has_reason(variable: str, optimizer: str, backend: str, **where: str) -> bool:
        wrong = Finding("trajectory", None, variable, "tensorflow", "diverged", 0.1)
        there = {backend: variables("own/table", "last/kernel", **where)}
        (found,) = reasons_for([wrong], [], optimizer, ["jax", "tensorflow", "torch"], there)
        return "IndexedSlices" in str(found.reason)

    for variable in ("own/table", "own_table_velocity", "table"):
        assert has_reason(variable, "Adam", "tensorflow", sparse="own/table")
        assert not has_reason(variable, "Adam", "tensorflow")
        assert not has_reason(variable, "Adam", "torch", sparse="own/table")
    assert not has_reason("last/kernel", "Adam", "tensorflow", sparse="own/table")
    # Where gradients are clipped by their global norm, a difference in one is in every update.
    assert has_reason("last/kernel", "SGD", "tensorflow", sparse="own/table")


def test_two_variables_of_one_path_are_known() -> None:
    wrong = Finding("trajectory", None, "project_kernel_momentum", "torch", "diverged", 0.1)
    for paths, is_known in (
        (("project/kernel", "project/kernel"), True),
        (("project/kernel", "item/kernel"), False),
        (("project/kernel", "other/kernel", "other/kernel"), False),
    ):
        (found,) = reasons_for([wrong], [], "SGD", ["jax", "tensorflow", "torch"], {"torch": variables(*paths)})
        assert (found.reason is not None) is is_known


def test_what_differs_between_layers_is_of_the_layer_whose_input_it_is() -> None:
    kinds = {"bright": "RandomBrightness", "block/bright": "RandomBrightness", "bright_2": "Dense", "last": "Dense"}
    layers = [{"path": path, "class": kind, "config": {}} for path, kind in kinds.items()]
    input_of = {"mode": "whole", "kind": "input"}
    for variable, said, is_known in (
        (None, input_of | {"of": "bright"}, True),
        (None, input_of | {"of": "bright#2"}, True),
        (None, input_of | {"of": "block/bright"}, True),
        (None, input_of | {"of": "bright_2"}, False),
        (None, input_of | {"of": "last"}, False),
        (None, input_of | {"of": "block"}, False),
        ("prediction:0", {"mode": "whole"}, False),
        (None, {"mode": "whole"}, False),
    ):
        wrong = Finding("forward", None, variable, "torch", "diverged", 0.1, **said)  # type: ignore[arg-type]  # Words.
        (found,) = reasons_for([wrong], layers, None, ["jax", "tensorflow", "torch"])
        assert (found.reason is not None) is is_known, said


def test_a_function_is_known_wherever_it_is_called() -> None:
    """It may be called by a user's own layer, by an activation, or by a loss, however that is given."""
    names = ["jax", "tensorflow", "torch"]

    def reason(stage: str, layer: str | None, functions: dict[str, Any], backend: str = "torch") -> str | None:
        layers = [{"path": "block", "class": "Own", "config": {}}]
        built: Any = {name: {"layers": layers, "functions": functions} for name in names}
        (found,) = with_reasons([Finding(stage, layer, None, backend, "diverged", 0.1)], built, "SGD")
        return found.reason

    pooled = {"block": [["nn.average_pool", {"padding": "same", "clipped": False}]]}
    assert "counts zeros" in str(reason("forward", "block", pooled))
    assert reason("forward", "other", pooled) is None
    assert reason("forward", "block", {"block": [["nn.average_pool", {"padding": "valid"}]]}) is None
    assert "hardsigmoid" in str(reason("gradient", "block", {"block": [["nn.hard_sigmoid", {}]]}))
    # A function that the loss calls has no layer.
    for said, is_known in (
        ({"from_logits": False, "clipped": True}, True),
        ({"from_logits": False, "clipped": False}, False),
    ):
        clipped = {"": [["nn.sparse_categorical_crossentropy", said]]}
        assert ("clipped" in str(reason("loss", None, clipped, "tensorflow"))) is is_known


def test_what_a_model_does_in_its_calls_is_known() -> None:
    layers = [{"path": "block", "class": "Own", "config": {}, "metrics": ["seen"]}]

    def reason(variable: str | None, kind: str | None = None, of: str | None = None, **does: Any) -> str | None:
        built: Any = {name: {"layers": layers, **does} for name in ("jax", "tensorflow", "torch")}
        wrong = Finding("trajectory", None, variable, "jax", "diverged", 0.1, kind=kind, of=of)
        (found,) = with_reasons([wrong], built, "SGD")
        return found.reason

    assert "assigns to a trainable variable" in str(reason("block/kernel", assigned=["block/kernel"]))
    assert reason("block/kernel", assigned=[]) is None
    assert "updates in its `call`" in str(reason(None, "metric", "seen"))
    assert "updates in its `call`" in str(reason(None, "fit"))
    assert reason(None, "metric", "other") is None


def test_every_function_that_is_known_to_differ_is_there() -> None:
    from keras.src import backend

    for known in known_differences():
        for name in known.functions:
            module, _, function = name.partition(".")
            assert callable(getattr(getattr(backend, module), function)), name
