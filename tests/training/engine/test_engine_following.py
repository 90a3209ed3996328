"""Python state that changes between two steps: the engine follows it like Keras's loop, or leaves the step to Keras."""

from __future__ import annotations

import logging
import random
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest

from dlf.random.seed import set_seed
from dlf.training.engine.plan import runner_of
from dlf.training.engine.python_state import PythonState, UnseenStateError
from dlf.training.fit import compile_and_fit
from dlf.utils.errors import InvalidArgumentError, TrainingError

layers, ops = keras.layers, keras.ops
BACKEND = keras.config.backend()
_RANDOM = np.random.default_rng(2025)
X = _RANDOM.normal(size=(40, 6)).astype(np.float32)
Y = (X @ _RANDOM.normal(size=(6, 3))).argmax(axis=1)
EPOCHS, CHANGED_AT, STEPS = 6, 3, 5
GLOBAL = 1.0

pytestmark = pytest.mark.usefixtures("recorded_soon")


@pytest.fixture
def recorded_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records early, as these trainings are short: three steps by Keras, one recorded, which is then played back."""
    if BACKEND == "torch":
        monkeypatch.setattr("dlf_torch.epochs._RUNS_BEFORE_RECORDING", 3)


@pytest.fixture(autouse=True)
def _globals_put_back() -> Any:
    epsilon = keras.config.epsilon()
    yield
    keras.config.set_epsilon(epsilon)
    globals()["GLOBAL"] = Scaled.of_the_class = 1.0


class Scaled(layers.Layer):  # type: ignore[misc, name-defined]  # Keras has no types.
    """A layer whose output depends on Python's state in every way that is tested."""

    of_the_class = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.text, self.numbers, self.by_name = 1.0, "one", [1.0], {"inner": [1.0]}
        self.array, self.tensor, self.holder = np.ones(8, np.float32), ops.ones(8), types.SimpleNamespace(value=1.0)
        self.function: Callable[[Any], Any] = lambda x: x

    def call(self, inputs: Any) -> Any:
        scale = self.factor * self.numbers[0] * self.by_name["inner"][0] * self.holder.value * self.of_the_class
        scale *= GLOBAL * (1.0 if self.text == "one" else 0.1) + keras.config.epsilon()
        return self.function(inputs) * scale * ops.convert_to_tensor(self.array) * self.tensor


class Adding(layers.Layer):  # type: ignore[misc, name-defined]  # As above.
    """Adds what a function returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, inputs: Any) -> Any:
        return inputs + self.function()


def sequential(*middle: Any) -> keras.Model:
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="tanh"), *middle, layers.Dense(3, activation="softmax")]
    )


class Listed(keras.Model):  # type: ignore[misc]  # As above.
    """Holds its layers in a list."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = list(parts)

    def call(self, inputs: Any) -> Any:
        for part in self.parts:
            inputs = part(inputs)
        return inputs


@dataclass
class Case:
    """A model, and the change that a callback makes at the beginning of an epoch."""

    model: keras.Model
    change: Callable[[], Any] = lambda: None
    options: Any = None
    ways: str = "followed"
    """On PyTorch: "followed" (recorded again), "played" (by one recording), or "left" to Keras's steps."""


def _scaled(change: Callable[[Scaled], Any]) -> Callable[[], Case]:
    def make() -> Case:
        layer = Scaled()
        return Case(sequential(layer), lambda: change(layer))

    return make


def _in_model(change: Callable[[keras.Model], Any], ways: str = "followed") -> Callable[[], Case]:
    def make() -> Case:
        model = sequential(layers.Dropout(0.1))
        return Case(model, lambda: change(model), ways=ways)

    return make


def _of_optimizer(change: Callable[[Any], Any], ways: str = "followed", **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        model = sequential()
        optimizer = keras.optimizers.SGD(0.1, **options)
        return Case(model, lambda: change(optimizer), {"optimizer": optimizer}, ways)

    return make


def _loss(scale: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    def loss(labels: Any, outputs: Any) -> Any:
        wanted = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), 3)
        return scale() * ops.mean(ops.square(outputs - wanted), axis=-1)

    return loss


def _nested_layer() -> Case:
    inner = keras.Sequential([layers.Dense(8), layers.Dense(8)])
    return Case(sequential(inner), lambda: setattr(inner.layers[1], "activation", ops.relu))


def _listed_layer() -> Case:
    layer = Scaled()
    model = Listed(layers.Dense(8), layer, layers.Dense(3, activation="softmax"))
    model(X[:1])
    return Case(model, lambda: setattr(layer, "factor", 0.1))


def _global() -> Case:
    def change() -> None:
        globals()["GLOBAL"] = 0.1

    return Case(sequential(Scaled()), change)


def _class_attribute() -> Case:
    return Case(sequential(Scaled()), lambda: setattr(Scaled, "of_the_class", 0.1))


def _frozen(what: Callable[[keras.Model], Any]) -> Callable[[], Case]:
    def make() -> Case:
        model = sequential(keras.Sequential([layers.Dense(8), layers.Dense(8)]))
        return Case(model, lambda: setattr(what(model), "trainable", False))

    return make


def _closure() -> Case:
    weight = 1.0

    def change() -> None:
        nonlocal weight
        weight = 10.0

    return Case(sequential(), change, {"loss": _loss(lambda: weight)})


def _variable_elsewhere() -> Case:
    weight = keras.Variable(1.0, trainable=False)
    return Case(sequential(), lambda: weight.assign(10.0), {"loss": _loss(lambda: weight)}, "played")


def _attribute_of_a_metric() -> Case:
    class Weighed(keras.metrics.Mean):  # type: ignore[misc]  # As above.
        weight = 1.0

        def update_state(self, labels: Any, outputs: Any, sample_weight: Any = None) -> None:
            super().update_state(outputs * self.weight)

    metric = Weighed(name="weighed")
    return Case(sequential(), lambda: setattr(metric, "weight", 5.0), {"metrics": [metric]})


def _regularizer() -> Case:
    regularizer = keras.regularizers.L2(0.0)
    model = sequential(layers.Dense(8, kernel_regularizer=regularizer))
    return Case(model, lambda: setattr(regularizer, "l2", 0.5))


def _of_evaluation() -> Case:
    class InEvaluation(Scaled):
        def call(self, inputs: Any, training: Any = None) -> Any:
            return inputs if training else super().call(inputs)

    layer = InEvaluation()
    return Case(sequential(layer), lambda: setattr(layer, "factor", 0.0), {"validation_ds": (X, Y)})


def _drawing(function: Callable[[], Any], ways: str = "left") -> Callable[[], Case]:
    return lambda: Case(sequential(Adding(function)), ways=ways)


def _drawing_by_its_own_generator() -> Case:
    generator = np.random.default_rng(3)
    return Case(sequential(Adding(lambda: float(generator.random()))), ways="left")


def _counting() -> Case:
    class Counting(layers.Layer):  # type: ignore[misc, name-defined]  # As above.
        count = 0

        def call(self, inputs: Any) -> Any:
            self.count += 1
            return inputs * (1 + 0.01 * self.count)

    return Case(sequential(Counting()), ways="left")


def _iterating() -> Case:
    rates = iter([0.1, 0.2, 0.3] * 99)
    return Case(sequential(Adding(lambda: next(rates))), ways="left")


CHANGES: dict[str, Callable[[], Case]] = {
    "a number": _scaled(lambda layer: setattr(layer, "factor", 0.1)),
    "a text": _scaled(lambda layer: setattr(layer, "text", "other")),
    "a list": _scaled(lambda layer: layer.numbers.__setitem__(0, 0.1)),
    "a list in a dictionary": _scaled(lambda layer: layer.by_name["inner"].__setitem__(0, 0.1)),
    "an array": _scaled(lambda layer: layer.array.fill(0.1)),
    "another tensor": _scaled(lambda layer: setattr(layer, "tensor", ops.full((8,), 0.1))),
    "an object's attribute": _scaled(lambda layer: setattr(layer.holder, "value", 0.1)),
    "a function": _scaled(lambda layer: setattr(layer, "function", ops.tanh)),
    "Keras's epsilon": _scaled(lambda layer: keras.config.set_epsilon(0.5)),
    "a class's attribute": _class_attribute,
    "a global": _global,
    "what a function closes over": _closure,
    "a layer in a list": _listed_layer,
    "a layer in a nested model": _nested_layer,
    "a frozen layer": _frozen(lambda model: model.layers[0]),
    "a frozen layer of a nested model": _frozen(lambda model: model.layers[1].layers[0]),
    "a frozen variable": _frozen(lambda model: model.layers[0].kernel),
    "a rate of dropout": _in_model(lambda model: setattr(model.layers[1], "rate", 0.7)),
    "an activation": _in_model(lambda model: setattr(model.layers[0], "activation", ops.relu)),
    "weights": _in_model(lambda model: model.layers[0].set_weights([np.full((6, 8), 0.1), np.zeros(8)]), "played"),
    "a learning rate": _of_optimizer(lambda each: setattr(each, "learning_rate", 0.01), "played"),
    "a momentum": _of_optimizer(lambda each: setattr(each, "momentum", 0.9), momentum=0.1),
    "a norm to clip at": _of_optimizer(lambda each: setattr(each, "clipnorm", 0.01), clipnorm=1.0),
    "a decay of weights": _of_optimizer(lambda each: setattr(each, "weight_decay", 0.5), weight_decay=0.01),
    "a regularizer": _regularizer,
    "a metric": _attribute_of_a_metric,
    "a variable elsewhere": _variable_elsewhere,
    "what evaluation alone reads": _of_evaluation,
    "Python's random numbers": _drawing(random.random),
    "NumPy's random numbers": _drawing(lambda: float(np.random.random())),  # noqa: NPY002 - somebody's code.
    "random numbers of a generator": _drawing_by_its_own_generator,
    "a count of calls": _counting,
    "an iterator": _iterating,
}


def trained(case: Case, engine: str, callbacks: list[Any], **options: Any) -> Any:
    settings: dict[str, Any] = {
        "loss": "sparse_categorical_crossentropy",
        "optimizer": "sgd",
        "epochs": EPOCHS,
        "batch_size": 8,
    }
    settings |= {"verbose": 0, **(case.options or {}), **options}
    return compile_and_fit(case.model, (X, Y), callbacks=callbacks, engine=engine, **settings)


def run(make: Callable[[], Case], engine: str, at: int = CHANGED_AT, **options: Any) -> tuple[Any, Case, Any]:
    """Trains from the same seed; returns the history, the case, and what the global generators draw afterwards."""
    keras.config.set_epsilon(1e-7)
    globals()["GLOBAL"] = Scaled.of_the_class = 1.0
    set_seed(7)
    case = make()
    change = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: case.change() if epoch == at else None)
    history = trained(case, engine, [change], **options)
    return history, case, (random.random(), np.random.random(), float(keras.random.uniform(())))  # noqa: NPY002, S311


def assert_same(one: tuple[Any, Case, Any], other: tuple[Any, Case, Any]) -> None:
    assert one[0].history.keys() == other[0].history.keys()
    for name, values in one[0].history.items():
        np.testing.assert_allclose(values, other[0].history[name], rtol=2e-5, err_msg=name)
    for a, b in zip(one[1].model.weights, other[1].model.weights, strict=True):
        first, second = (keras.ops.convert_to_numpy(each) for each in (a, b))
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6, err_msg=a.path)
    assert one[2] == other[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("at", [0, CHANGED_AT])
def test_what_python_changes_is_followed_as_keras_follows_it(name: str, at: int) -> None:
    if BACKEND == "jax" and "frozen" in name:
        # Keras's own loop raises, since the optimizer was built for another number of variables.
        for engine in ("keras", "auto"):
            with pytest.raises(ValueError, match=r"variable"):
                run(CHANGES[name], engine, at)
        return
    by_keras, auto = (run(CHANGES[name], engine, at) for engine in ("keras", "auto"))
    assert_same(by_keras, auto)
    history, case, _ = auto
    if history.engine == "keras":
        assert case.ways == "left"
        return
    ways, steps = runner_of(case.model).ways, EPOCHS * STEPS
    if BACKEND != "torch":
        assert ways["train_step in a loop"] == steps
        return
    by_step = {way: ways[f"train_step {way}"] for way in ("by Keras", "recorded", "played back")}
    assert sum(by_step.values()) == steps
    if case.ways == "left":
        assert by_step["recorded"] <= 1
        assert by_step["played back"] == 0
        return
    recordings = 2 if at and case.ways == "followed" else 1
    assert by_step["recorded"] == recordings
    # Before each recording, three steps are Keras's. The count starts again if a first step stores something for later.
    assert 0 <= steps - 4 * recordings - by_step["played back"] <= STEPS


@pytest.mark.parametrize("at", [0, CHANGED_AT])
def test_a_function_that_is_made_anew_is_followed(at: int) -> None:
    """With a new step function, Keras's own loop takes account of changes on every backend."""

    def make() -> Case:
        layer = Scaled()
        model = sequential(layer)

        def change() -> None:
            layer.factor = 0.1
            model.make_train_function(force=True)

        return Case(model, change)

    by_keras, fused = (run(make, engine, at) for engine in ("keras", "fused"))
    assert_same(by_keras, fused)
    unchanged, _, _ = run(lambda: Case(sequential(Scaled())), "fused")
    assert fused[0].history["loss"][-1] != pytest.approx(unchanged.history["loss"][-1], rel=1e-4)


def test_a_model_that_is_compiled_anew_while_it_is_trained_is_refused() -> None:
    """`compile` removes the step function, so that Keras's own loop has none to call."""
    model = sequential()
    case = Case(model, lambda: model.compile("sgd", "mse"))
    with pytest.raises(TrainingError, match=r"Call model.make_train_function\(\) after it, or train again"):
        run(lambda: case, "fused")


def test_a_function_of_somebody_else_s_is_refused() -> None:
    model = sequential()
    case = Case(model, lambda: setattr(model, "train_function", lambda data: {}))
    with pytest.raises(TrainingError, match=r"expected what model\.make_train_function"):
        run(lambda: case, "fused")

    class Own(keras.Sequential):  # type: ignore[misc]  # As above.
        def make_train_function(self, force: bool = False) -> Any:
            return super().make_train_function(force)

    own = Own([keras.Input((6,)), layers.Dense(3, activation="softmax")])
    with pytest.raises(InvalidArgumentError, match="the model makes its step's functions by itself"):
        run(lambda: Case(own), "fused")


@pytest.mark.parametrize("per", ["epoch", "batch"])
def test_a_rate_that_changes_again_and_again_is_left_to_keras(per: str, caplog: pytest.LogCaptureFixture) -> None:
    results = []
    for engine in ("keras", "fused"):
        set_seed(7)
        layer = Scaled()
        case = Case(sequential(layer))

        def change(number: int, logs: Any = None, layer: Scaled = layer) -> None:
            layer.factor += 0.01

        hook = {"epoch": "on_epoch_begin", "batch": "on_train_batch_begin"}[per]
        callbacks = [keras.callbacks.LambdaCallback(**{hook: change})]
        with caplog.at_level(logging.INFO, "dlf"):
            results.append((trained(case, engine, callbacks, epochs=15), case, None))
    assert_same(*results)
    ways = runner_of(results[1][1].model).ways
    if BACKEND == "torch":
        assert "Scaled.factor changes again and again" in caplog.text
        # Five steps per epoch, of which Keras runs three before a recording is made; at most eight recordings are made.
        assert ways["train_step recorded"] == (8 if per == "epoch" else 0)
        assert ways["train_step played back"] == (8 if per == "epoch" else 0)


def test_a_change_that_is_taken_back_finds_its_recording_again() -> None:
    if BACKEND != "torch":
        pytest.skip("elsewhere a step is traced once")

    def change(layer: Scaled, epoch: int) -> None:
        layer.factor = 1.0 if epoch % 2 else 0.5

    results = []
    for engine in ("keras", "fused"):
        set_seed(7)
        layer = Scaled()
        case = Case(sequential(layer))
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs, layer=layer: change(layer, epoch))
        results.append((trained(case, engine, [callback], epochs=12), case, None))
    assert_same(*results)
    assert runner_of(results[1][1].model).ways["train_step recorded"] == 2


def test_what_a_trace_keeps_of_tensors_is_nobody_s_business() -> None:
    class Keeping(layers.Layer):  # type: ignore[misc, name-defined]  # As above.
        seen = None

        def call(self, inputs: Any) -> Any:
            self.seen = ops.mean(inputs)
            return inputs

    by_keras, auto = (run(lambda: Case(sequential(Keeping())), engine) for engine in ("keras", "auto"))
    assert_same(by_keras, auto)
    assert auto[0].engine == "fused"


@pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
@pytest.mark.parametrize("made", ["Linear", "BatchNorm1d"])
def test_a_module_of_pytorch_is_trained_to_the_end(made: str) -> None:
    import torch

    def make() -> Case:
        module = torch.nn.Linear(8, 8) if made == "Linear" else torch.nn.BatchNorm1d(8)
        return Case(sequential(layers.TorchModuleWrapper(module)))

    by_keras, fused = (run(make, engine) for engine in ("keras", "fused"))
    assert_same(by_keras, fused)
    ways = runner_of(fused[1].model).ways
    assert (ways["train_step by Keras"], ways["train_step played back"]) == (EPOCHS * STEPS - 1, 0)


def _noise_of_pytorch(generator: bool) -> Callable[[], Case]:
    def make() -> Case:
        import torch

        own = torch.Generator().manual_seed(3) if generator else None
        return Case(sequential(Adding(lambda: torch.rand((), generator=own))), ways="played")

    return make


def _tensor_elsewhere() -> Case:
    import torch

    tensor = torch.ones(())
    return Case(sequential(Adding(lambda: tensor)), lambda: tensor.fill_(3.0), ways="played")


def _number_of_a_variable(read: Callable[[Any], float]) -> Callable[[], Case]:
    def make() -> Case:
        weight = keras.Variable(1.0, trainable=False)
        return Case(sequential(), lambda: weight.assign(10.0), {"loss": _loss(lambda: read(weight))}, "left")

    return make


def _buffer() -> Case:
    import torch

    buffer = torch.ones(8)
    return Case(sequential(Adding(lambda: buffer.add_(0.1))), ways="left")


OF_PYTORCH: dict[str, Callable[[], Case]] = {
    "noise": _noise_of_pytorch(False),
    "noise of a generator": _noise_of_pytorch(True),
    "a tensor elsewhere": _tensor_elsewhere,
    "a buffer that the step changes": _buffer,
    "a variable's number": _number_of_a_variable(float),
    "a variable's truth": _number_of_a_variable(lambda weight: 2.0 if weight > 5 else 1.0),
    "a variable's list": _number_of_a_variable(lambda weight: weight.value.tolist()),
    "a variable's array": _number_of_a_variable(lambda weight: float(weight.numpy())),
}


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere such a step cannot be traced, or is frozen by Keras itself")
@pytest.mark.parametrize("name", OF_PYTORCH)
def test_tensors_of_pytorch_are_followed(name: str) -> None:
    by_keras, fused = (run(OF_PYTORCH[name], engine) for engine in ("keras", "fused"))
    assert_same(by_keras, fused)
    played = runner_of(fused[1].model).ways["train_step played back"]
    assert played == (0 if fused[1].ways == "left" else EPOCHS * STEPS - 4)


def test_python_s_state_is_seen_and_put_back() -> None:
    layer, generator = Scaled(), np.random.default_rng(3)
    layer.generator = generator
    model = sequential(layer)
    model.compile("sgd", "mse")
    state = PythonState(model)
    assert state.changed() == state.drawn_from() == ""
    expected = np.random.default_rng(3).random()
    changes: list[tuple[Callable[[], Any], str]] = [
        (lambda: setattr(layer, "factor", 2.0), "Scaled.factor"),
        (lambda: setattr(layer, "other", 2.0), "Scaled"),
        (lambda: layer.numbers.append(2.0), "Scaled.numbers"),
        (lambda: layer.by_name.__setitem__("more", [1.0]), "Scaled.by_name"),
        (lambda: layer.array.fill(2.0), "Scaled.array"),
        (lambda: setattr(Scaled, "of_the_class", 2.0), "Scaled.of_the_class"),
        (lambda: globals().__setitem__("GLOBAL", 2.0), "call.GLOBAL"),
    ]
    for change, name in changes:
        change()
        assert state.changed().endswith(name)
        state.put_back()
        assert state.changed() == ""
    assert (layer.factor, list(layer.numbers), layer.array[0], GLOBAL) == (1.0, [1.0], 1.0, 1.0)
    assert not hasattr(layer, "other")
    generator.random()
    assert (state.changed(), state.drawn_from()) == ("", "Scaled.generator")
    state.put_back()
    assert generator.random() == expected
    layer.iterator = iter([1])
    with pytest.raises(UnseenStateError, match=r"Scaled.iterator is an iterator"):
        PythonState(model)
