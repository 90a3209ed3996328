"""What a model's own train_step calls the model on, where that is something else than its batch."""

from __future__ import annotations

import pickle
import random
from typing import Any

import keras
import numpy as np
import pytest
from own_training import contrastive

from dlf.parity._recording.steps import GradientsOfStep, called_in_step, fit_on, listened_to_step
from dlf.parity._recording.taps import Call, Listener, listening
from dlf.parity._recording.tracing import Tracing
from dlf.parity._recording.worker import Worker

X = np.arange(24, dtype="float32").reshape(4, 6)
BATCH = (X, None, None)


class Step(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model whose step takes more than its call; the subclasses say what it does with that."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.mode = keras.layers.Dense(2), "untouched"

    def call(self, inputs: Any) -> Any:
        one, other = inputs
        return self.dense(one) + self.dense(other)

    def does(self, x: Any) -> Any:
        raise NotImplementedError

    def train_step(self, *arguments: Any) -> Any:
        *state, x = arguments  # On JAX, the state comes first.
        self.does(x[0] if isinstance(x, tuple) else x)
        logs = {"loss": keras.ops.zeros(())}
        return (logs, *state) if state else logs


class Halves(Step):
    def does(self, x: Any) -> Any:
        return self([x[:, :3], x[:, 3:]])


class Never(Step):
    def does(self, x: Any) -> Any:
        """Draws, counts, and would update its variables."""
        self.mode = str(random.random())  # noqa: S311
        x = self.dense(x[:, :3])
        keras.optimizers.SGD(1.0).apply([keras.ops.ones_like(each) for each in self.dense.variables], self.variables)
        return x


class Fails(Step):
    def does(self, x: Any) -> Any:
        raise TypeError(x)


def compiled(kind: type[Step], *, built: bool) -> Step:
    model = kind()
    model.compile("sgd")
    if built:
        model([X[:, :3], X[:, 3:]])
    return model


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_step_tells_what_it_calls_the_model_on(run_eagerly: bool) -> None:
    model = compiled(Halves, built=True)
    model.compile("sgd", run_eagerly=run_eagerly)
    for _ in range(2):  # The second time, Keras has compiled a step.
        found = called_in_step(model, BATCH)
        assert isinstance(found, list)
        assert all(np.array_equal(one, other) for one, other in zip(found, [X[:, :3], X[:, 3:]], strict=True))
    assert model.run_eagerly is run_eagerly
    assert "train_step" not in vars(model)


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="elsewhere, Keras builds a model on its data before it calls a step"
)
def test_a_model_without_variables_tells_too() -> None:
    assert [each.shape for each in called_in_step(compiled(Halves, built=False), BATCH)] == [(4, 3), (4, 3)]


def test_a_step_that_never_calls_its_model_leaves_no_trace() -> None:
    model = compiled(Never, built=True)
    before, state = [np.array(each) for each in model.get_weights()], random.getstate()
    assert called_in_step(model, BATCH) is None
    assert model.mode == "untouched"
    assert random.getstate() == state
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


class Parts(Step):
    def train_step(self, *arguments: Any) -> Any:
        *state, (one, other) = arguments
        self([one, other])
        logs = {"loss": keras.ops.zeros(())}
        return (logs, *state) if state else logs


def test_a_step_that_takes_all_tells_by_all() -> None:
    model, whole = compiled(Parts, built=True), ((X[:, :3], X[:, 3:]), None, None)
    assert called_in_step(model, (X, None, None)) is None
    assert [each.shape for each in called_in_step(model, whole, takes_all=True)] == [(4, 3), (4, 3)]


def test_a_step_that_fails_tells_nothing() -> None:
    assert called_in_step(compiled(Fails, built=True), BATCH) is None
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    assert called_in_step(plain, BATCH) is None


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_gradients_of_a_step_leave_it_beside_what_keras_sees(run_eagerly: bool) -> None:
    model = contrastive()
    model.compile("sgd", run_eagerly=run_eagerly)
    before = [np.array(each) for each in model.get_weights()]
    heard = GradientsOfStep(model, [each.path for each in model.variables])
    batch = (X[:, :4], None, None)
    assert list(fit_on(model, batch)) == ["loss"]
    paths = [each.path for each in model.trainable_variables]
    assert set(heard.taken) == {f"0:{path}" for path in paths}
    moved = {
        each.path: old - np.array(new)
        for each, old, new in zip(model.weights, before, model.get_weights(), strict=True)
    }
    for path in paths:
        np.testing.assert_allclose(moved[path], 0.01 * heard.taken[f"0:{path}"], rtol=1e-3, atol=1e-7)
    heard.stop()
    assert "train_step" not in vars(model)
    fit_on(model, batch)
    assert heard.taken == {}


def test_what_a_step_calls_is_heard_inside_of_its_gradient() -> None:
    model = contrastive()
    before = [np.array(each) for each in model.get_weights()]
    calls: list[Any] = []
    layers = {"head": model.head, "dense": model.head.layers[0]}
    listener = Listener(layers, hear=lambda call: calls.append(call.of_values()), training=False)
    assert listened_to_step(model, lambda: fit_on(model, (X[:, :4], None, None)), listener)
    assert [each.key for each in calls] == ["dense", "head", "dense#2", "head#2"]
    assert [each.training for each in calls] == [True] * 4
    kernel, bias = (np.array(each) for each in model.head.layers[0].get_weights())
    ((given,), _), found = calls[0].asked, calls[0].outputs
    np.testing.assert_allclose(np.array(given) @ kernel + bias, keras.ops.convert_to_numpy(found), rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    assert not listened_to_step(model, lambda: fit_on(model, (X[:, :3], None, None)), listener)
    # On PyTorch, a step adds to the gradients that are there.
    assert not any(getattr(each.value, "grad", None) is not None for each in model.trainable_variables)


def test_a_call_that_cannot_be_handed_to_another_backend_is_left_out(tmp_path: Any) -> None:
    subject: Any = None
    tracing = Tracing(subject, subject, subject)
    nothing: Any = ((), {})
    given = {"plain": nothing, "any": ((lambda: 0,), {})}
    tracing.calls = {key: Call(key, key, None, each, nothing, (), [], False) for key, each in given.items()}
    tracing.save_calls(str(tmp_path / "calls"))
    found = [pickle.loads(each) for each in pickle.loads((tmp_path / "calls").read_bytes())]  # noqa: S301
    assert [each.key for each in found] == ["plain"]


SCRIPT = """
import keras, numpy as np
from {module} import Halves, Never
def made(kind):
    model = kind()
    model.compile("sgd")
    return model
x = np.arange(48, dtype="float32").reshape(8, 6)
halves, never = made(Halves), made(Never)
never.dense.build((None, 3))
never.fit(x, batch_size=4)
halves.built = True
halves.dense.build((None, 3))
halves.fit(x, batch_size=4)
"""


@pytest.mark.parametrize(("name", "outputs"), [("halves", [["", [4, 2], "float32"]]), ("never", [])])
def test_such_a_model_is_compared_on_that_or_by_its_step_alone(tmp_path: Any, name: str, outputs: Any) -> None:
    (tmp_path / "steps.py").write_text(SCRIPT.format(module=__name__))
    options = {"target": f"{tmp_path / 'steps.py'}:{name}", "data": None, "loss": None, "batch_size": 4, "steps": 2}
    options |= {"seed": 3, "dtype": "float32", "device": None}
    answer = Worker().respond({"do": "build", "options": options})
    assert answer["outputs"] == outputs
    assert answer["batches_of_training"]
    assert answer["called_by_step"] is (name == "halves")
    assert answer["has_call"] is (name == "halves")


def test_a_call_on_symbols_is_not_heard() -> None:
    """A Sequential without an input calls its layers on symbols when it is called for the first time."""

    class Two(keras.Model):  # type: ignore[misc]  # Keras has no types.
        def __init__(self) -> None:
            super().__init__()
            self.scaled = keras.Sequential([keras.layers.Rescaling(2.0), keras.layers.Rescaling(3.0)])
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(self.scaled(x))

    model = Two()
    model.dense.build((None, 6))
    model.built = True
    listener = Listener({"scaled": model.scaled, "first": model.scaled.layers[0]}, hear=lambda call: call)
    with listening(listener):
        model(X)
    assert [each.key for each in listener.calls] == ["first", "scaled"]
    assert all(keras.ops.is_tensor(each.outputs) for each in listener.calls)


def test_a_tensor_of_another_framework_is_heard_as_one_of_this() -> None:
    other = pytest.importorskip("tensorflow" if keras.config.backend() != "tensorflow" else "torch")
    given = other.constant([[1.0, 2.0]]) if keras.config.backend() != "tensorflow" else other.tensor([[1.0, 2.0]])
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    listener = Listener({"layer": layer}, hear=lambda call: call)
    with listening(listener):
        layer(given)
    ((heard,), _) = listener.calls[0].asked
    assert keras.ops.is_tensor(heard)
    assert keras.ops.convert_to_numpy(heard).tolist() == [[1.0, 2.0]]
