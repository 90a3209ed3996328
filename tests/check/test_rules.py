"""Every rule of `dlf check` on its own example, run by the Keras that is installed."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from dlf.check import equivalents, gone
from dlf.check.check import check_source
from dlf.check.keras_api import has_name
from dlf.check.rules import RULES, Rule

BACKEND = os.environ["KERAS_BACKEND"]
EACH_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


def answer(code: str) -> np.ndarray:
    for package in re.findall(r"^(?:import|from) (jax|tensorflow|torch)", code, re.MULTILINE):
        pytest.importorskip(package)  # Another framework need not be installed.
    names: dict[str, object] = {}
    exec(compile(code, "<example>", "exec"), names)  # noqa: S102 - that is what running is.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A warning is no failure.
        return np.asarray(names["answer"](), "float64")  # type: ignore[operator]


def is_right(given: np.ndarray, rule: Rule) -> bool:
    return given.shape == np.shape(rule.answer) and np.allclose(given, rule.answer, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@EACH_RULE
def test_after_the_change_an_example_gives_the_same_on_every_backend(rule: Rule) -> None:
    assert is_right(answer(rule.after), rule)


@pytest.mark.slow
@EACH_RULE
def test_before_the_change_it_fails_or_gives_something_else_where_the_rule_says_so(rule: Rule) -> None:
    try:
        right = is_right(answer(rule.before), rule)
    except Exception:  # noqa: BLE001 - each framework has its own.
        right = False
    assert right is (BACKEND not in rule.fails_on), rule.name


@pytest.mark.once
@EACH_RULE
def test_it_is_found_before_the_change_and_nothing_after(rule: Rule, tmp_path: Path) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(rule.before)
    after.write_text(rule.after)

    assert rule.name in {each.rule for each in check_source(before).findings}
    assert not check_source(after).findings


@pytest.mark.once
def test_every_rule_is_documented_with_where_its_example_fails() -> None:
    text = (Path(__file__).parents[2] / "docs/check.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        assert f"| `{rule.name}` | it {rule.what} | {', '.join(rule.fails_on)} |\n" in text


@pytest.mark.once
def test_what_is_advised_is_in_the_keras_that_is_installed() -> None:
    tables = [
        *equivalents.BY_FRAMEWORK.values(),
        equivalents.KERAS_BACKEND,
        equivalents.TENSOR_METHODS,
        gone.NAMES,
        gone.METHODS,
        gone.SAVING,
        {argument: advice for _, argument, advice in gone.ARGUMENTS},
    ]
    advised = {name for table in tables for text in table.values() for name in re.findall(r"keras(?:\.\w+)+", text)}

    assert len(advised) > 100
    assert {name for name in advised if not has_name(name)} == set()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares TensorFlow's functions with those that are advised")
def test_what_is_advised_for_a_function_of_tensorflow_computes_the_same() -> None:
    import keras
    import tensorflow as tf

    given = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4)).astype("float32")
    compared = []
    for family, prefix in (
        (tf, ""),
        (tf.math, "math."),
        (tf.nn, "nn."),
        (tf.linalg, "linalg."),
        (tf.signal, "signal."),
    ):
        for name in dir(family):
            advice = equivalents.equivalent("tensorflow", prefix + name) if name.islower() else ""
            if not re.fullmatch(r"keras\.ops(\.\w+)+", advice):
                continue
            ours = keras.ops
            for part in advice.split(".")[2:]:
                ours = getattr(ours, part)
            for arguments in ((given,), (given, given), (given, given.T.copy())):
                try:
                    expected = tf.nest.flatten(getattr(family, name)(*map(tf.constant, arguments)))
                except Exception:  # noqa: BLE001, S112 - it takes other arguments.
                    continue
                if not all(isinstance(each, tf.Tensor) for each in expected):
                    continue
                found = tf.nest.flatten(ours(*map(keras.ops.convert_to_tensor, arguments)))
                for one, other in zip(expected, found, strict=True):
                    np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-4, atol=1e-5, err_msg=name)
                compared.append(prefix + name)
                break

    assert len(set(compared)) > 120
