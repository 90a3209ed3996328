"""The fused engine against Keras's own loop: the same seed, the same history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.backend.registry import current_backend
from dlf.data.array_dataset import ArrayDataset
from dlf.data.prepare import prepare_for_training
from dlf.random.seed import set_seed
from dlf.training.evaluation import evaluate, predict
from dlf.training.fit import compile_and_fit
from dlf.utils.errors import InvalidArgumentError

layers = keras.layers
BACKEND = keras.config.backend()
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_RANDOM = np.random.default_rng(2025)
X = _RANDOM.normal(size=(150, 6)).astype(np.float32)
Y = (X @ _RANDOM.normal(size=(6, 3))).argmax(axis=1)
IMAGES = _RANDOM.normal(size=(150, 8, 8, 1)).astype(np.float32)
SERIES = _RANDOM.normal(size=(150, 5, 4)).astype(np.float32)
TOKENS = np.where(np.arange(7) < _RANDOM.integers(2, 8, (150, 1)), _RANDOM.integers(1, 20, (150, 7)), 0)


@pytest.fixture(autouse=True)
def _record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records steps on PyTorch early: these trainings are short, and recorded steps are to be compared."""
    if BACKEND == "torch":
        monkeypatch.setattr("dlf_torch.epochs._RUNS_BEFORE_RECORDING", 3)


def dense(**options: Any) -> keras.Model:
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(16, activation="relu", **options), layers.Dropout(0.3), layers.Dense(3)]
    )


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False),  # BatchNormalization would cancel a bias, except for rounding.
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SpatialDropout2D(0.2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def recurrent() -> keras.Model:
    return keras.Sequential([keras.Input((5, 4)), layers.GRU(6, dropout=0.2, recurrent_dropout=0.2), layers.Dense(3)])


def masked() -> keras.Model:
    return keras.Sequential(
        [keras.Input((7,)), layers.Embedding(20, 4, mask_zero=True), layers.SimpleRNN(5), layers.Dense(3)]
    )


def regularized() -> keras.Model:
    return dense(kernel_regularizer="l2", activity_regularizer="l1")


def two_by_two() -> keras.Model:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    joined = layers.Concatenate()([layers.Dense(4)(left), layers.Dense(4)(right)])
    return keras.Model(
        {"left": left, "right": right},
        {"label": layers.Dense(3, name="label")(joined), "sum": layers.Dense(1, name="sum")(joined)},
    )


class Doubled(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model with its own step, which returns something besides the metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def train_step(self, *arguments: Any) -> Any:
        logs = super().train_step(*arguments)
        if BACKEND == "jax":
            return {"loss": logs[0]["loss"], "twice": 2 * logs[0]["loss"]}, logs[1]
        return {"loss": logs["loss"], "twice": 2 * logs["loss"]}


def schedule() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 12), momentum=0.9, clipnorm=1.0)


SCENARIOS: dict[str, tuple[Callable[[], keras.Model], tuple[Any, ...], dict[str, Any]]] = {
    "dense": (dense, (X, Y), {"metrics": ["accuracy"]}),
    "convolutional": (convolutional, (IMAGES, Y), {"metrics": ["accuracy"]}),
    "recurrent": (recurrent, (SERIES, Y), {"metrics": ["accuracy"], "batch_size": 30}),
    "masked": (masked, (TOKENS, Y), {"batch_size": 30}),
    "regularized": (regularized, (X, Y), {}),
    "sample weights": (dense, (X, Y, np.linspace(0, 2, len(X))), {"weighted_metrics": ["accuracy"]}),
    "class weights": (dense, (X, Y), {"class_weight": {0: 1.0, 2: 3.0}}),
    "a schedule": (dense, (X, Y), {"optimizer": schedule}),
    "a step of its own": (Doubled, (X, Y), {}),
    "several inputs and outputs": (
        two_by_two,
        ({"left": X, "right": X[::-1].copy()}, {"label": Y, "sum": X.sum(axis=1)}),
        {"loss": {"label": LOSS, "sum": "mse"}, "metrics": {"label": ["accuracy"]}},
    ),
    "validation split": (dense, (X, Y), {"validation_split": 0.2, "validation_freq": 2}),
}


def trained(name: str, engine: str, **options: Any) -> tuple[keras.callbacks.History, keras.Model]:
    make, data, settings = SCENARIOS[name]
    set_seed(7)
    model = make()
    settings = {"loss": LOSS, "epochs": 2, "batch_size": 32, "verbose": 0, **settings, **options}
    if callable(settings.get("optimizer")):
        settings["optimizer"] = settings["optimizer"]()
    return compile_and_fit(model, data, engine=engine, **settings), model


def assert_same(one: keras.callbacks.History, other: keras.callbacks.History) -> None:
    """Compares to float32 rounding: in some steps, sums in another order change the last one or two of seven digits."""
    assert one.history.keys() == other.history.keys()
    for name, values in one.history.items():
        np.testing.assert_allclose(values, other.history[name], rtol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_engines_agree(name: str) -> None:
    by_keras, kept = trained(name, "keras")
    fused, model = trained(name, "fused")
    assert (by_keras.engine, fused.engine) == ("keras", "fused")
    assert_same(by_keras, fused)
    for one, other in zip(kept.weights, model.weights, strict=True):
        kept_values, values = (keras.ops.convert_to_numpy(each) for each in (one, other))
        np.testing.assert_allclose(values, kept_values, rtol=1e-3, atol=2e-5)


def test_two_variables_of_one_path_are_trained_alike() -> None:
    """Each weight becomes w - 0.1 w. On PyTorch, Keras's `fit` lets the gradient of one of them add up over steps."""

    def tower() -> keras.Model:
        x = keras.Input((1,))
        return keras.Model(x, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="project")(x))

    x = keras.Input((1,))
    model = keras.Model(x, keras.layers.Concatenate()([tower()(x), tower()(x)]))
    data = (np.ones((6, 1), "float32"), np.zeros((6, 2), "float32"))
    compile_and_fit(model, data, loss="mse", optimizer=keras.optimizers.SGD(0.1), batch_size=1, verbose=0)
    for variable in model.trainable_variables:
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), 0.9**6, rtol=1e-6)


def nothing(labels: Any, outputs: Any) -> Any:
    return 0.0 * keras.ops.mean(outputs, axis=-1)


def test_another_loss_is_another_training() -> None:
    """JAX would take a model's step for the same one after the model is compiled again."""
    set_seed(1)
    model = dense()
    compile_and_fit(model, (X, Y), loss=LOSS, verbose=0, engine="fused")
    model.compile(loss=nothing, optimizer="sgd")
    assert model.fit(X, Y.astype("int32"), verbose=0).history["loss"] == [0.0]  # Of 64 bits JAX warns from 0.12 on.
    history = compile_and_fit(model, (X, Y), loss=nothing, verbose=0)
    assert (history.engine, history.engine_reason, history.history["loss"]) == ("fused", "", [0.0])


class Scaled(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types.
    """Multiplies by a Python number, and draws from Keras's global generator."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def call(self, inputs: Any) -> Any:
        return self.factor * inputs + 0.01 * keras.random.normal(keras.ops.shape(inputs))


@pytest.mark.skipif(BACKEND != "torch", reason="on JAX and TensorFlow Keras itself freezes such numbers")
def test_an_attribute_that_a_callback_changes_is_followed() -> None:
    histories = []
    for engine in ("keras", "fused"):
        set_seed(7)
        scaled = Scaled()
        model = keras.Sequential([keras.Input((6,)), scaled, layers.Dense(3)])
        change = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs, scaled=scaled: setattr(scaled, "factor", float(epoch))
        )
        options: dict[str, Any] = {"epochs": 3, "batch_size": 15, "verbose": 0, "callbacks": [change]}
        histories.append(compile_and_fit(model, (X, Y), loss=LOSS, engine=engine, **options))
    assert_same(*histories)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras refuses draws without a seed while JAX traces")
def test_noise_is_drawn_anew_at_each_step() -> None:
    """Without learning, and with the same batch at each step, only the noise can change the loss."""
    set_seed(7)
    model = keras.Sequential([keras.Input((6,)), Scaled(), layers.Dense(3)])
    history = compile_and_fit(
        model,
        (X, Y),
        loss=LOSS,
        optimizer=keras.optimizers.SGD(0.0),
        epochs=8,
        batch_size=150,
        engine="auto",
        verbose=0,
    )
    assert len(set(history.history["loss"])) == 8


@pytest.mark.parametrize("options", [{"sample_weight": np.ones(150)}, {"validation_split": 0.2}])
def test_what_keras_refuses_for_batches_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        compile_and_fit(dense(), prepare_for_training((X, Y)), loss=LOSS, verbose=0, **options)


def test_mixed_precision_means_the_same() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        histories = [trained("dense", engine)[0].history["loss"] for engine in ("keras", "fused")]
    finally:
        keras.config.set_dtype_policy(before)
    # bfloat16 has 8 significant bits.
    np.testing.assert_allclose(histories[0], histories[1], rtol=2e-2)


@pytest.mark.skipif(BACKEND != "jax", reason="the other backends draw masks as Keras does")
@pytest.mark.parametrize("noise_shape", [None, (None, 1), (6,)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_that_are_drawn_faster_have_keras_s_bits(noise_shape: Any, dtype: str) -> None:
    import jax

    from dlf_jax.epochs import _with_fast_masks

    def dropped(key: Any, values: Any) -> Any:
        return keras.random.dropout(values, 0.3, noise_shape=noise_shape, seed=key)

    key, values = jax.numpy.array([7, 3], "uint32"), jax.numpy.asarray(X, dtype)
    faster = _with_fast_masks(dropped)
    by_keras, fused = (np.asarray(jax.jit(each)(key, values), np.float32) for each in (dropped, faster))
    assert np.array_equal(by_keras, fused)
    assert 0 < (fused == 0).mean() < 1
    if jax.default_backend() == "cpu":
        # JAX's own generator is a single operation there; its absence shows that the faster way was taken.
        drawn = [str(jax.make_jaxpr(each)(key, values)).count("random_bits") for each in (dropped, faster)]
        assert drawn == [1, 0]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("size", [2**12, 2**26])
def test_what_is_written_to_an_array_after_the_start_changes_nothing(size: int, offset: int) -> None:
    """JAX shares an array's memory if that begins at a multiple of 64 bytes, and may copy a large one only later."""
    model = dense()
    model.compile(loss=LOSS)
    room = np.zeros(size + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    array = room[begin : begin + size].view(np.float32)
    held = current_backend().epoch_runner(model).put((array,))[0]
    array[:] = 1
    assert not keras.ops.convert_to_numpy(held).any()


def test_a_callback_that_writes_to_the_arrays_changes_nothing() -> None:
    x, y = X.copy(), Y.copy()

    def write(*_: Any) -> None:
        x[:], y[:] = np.nan, 0

    expected, _ = trained("dense", "fused")
    set_seed(7)
    callbacks = [keras.callbacks.LambdaCallback(on_train_begin=write)]
    options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "verbose": 0, "callbacks": callbacks}
    history = compile_and_fit(dense(), (x, y), loss=LOSS, metrics=["accuracy"], engine="fused", **options)
    assert_same(history, expected)


def test_the_last_smaller_batch_is_trained_on() -> None:
    _, model = trained("dense", "fused", epochs=3)
    assert int(model.optimizer.iterations) == 3 * 5  # 150 = 4 x 32 + 22.


def test_a_batch_larger_than_the_data_is_one_batch() -> None:
    _, model = trained("dense", "fused", batch_size=1_000)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_data_that_do_not_fit_are_streamed(share: float, caplog: pytest.LogCaptureFixture) -> None:
    kept, _ = trained("dense", "fused")
    with caplog.at_level(logging.WARNING, "dlf"):
        streamed, _ = trained("dense", "fused", memory_share=share)
    assert ("the examples take" in caplog.text) == (share == 0)
    assert_same(kept, streamed)


def test_many_small_blocks_hold_every_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlf.training.engine import feeds

    kept, _ = trained("dense", "fused", batch_size=8)
    monkeypatch.setattr(feeds, "_BLOCK_STEPS", 4)
    streamed, model = trained("dense", "fused", batch_size=8, memory_share=0.0)
    assert int(model.optimizer.iterations) == 2 * 19
    assert_same(kept, streamed)


def test_a_device_without_memory_left_loses_no_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The runner raises its out-of-memory error in the second epoch, as long as all examples are on the device."""
    from dlf.training.engine import plan

    kept, expected = trained("dense", "fused", epochs=3)
    runner_of = plan.runner_of
    calls = []

    def fails_later(model: keras.Model) -> Any:
        runner: Any = runner_of(model)
        train = runner.train

        def broken(data: Any, rows: Any, start: int, stop: int) -> Any:
            calls.append(len(data[0]))
            if len(calls) > 3 and len(data[0]) == len(X):
                raise MemoryError
            return train(data, rows, start, stop)

        runner.train = broken
        runner.is_out_of_memory = lambda error: isinstance(error, MemoryError)
        return runner

    monkeypatch.setattr("dlf.training.engine.plan.runner_of", fails_later)
    with caplog.at_level(logging.WARNING, "dlf"):
        broken, model = trained("dense", "fused", epochs=3)
    assert "no memory left" in caplog.text
    assert len(calls) > 4
    assert int(model.optimizer.iterations) == int(expected.optimizer.iterations)
    assert_same(kept, broken)


def draws_in_its_map(x: Any, y: Any) -> tuple[Any, Any]:
    return keras.ops.add(x, keras.random.normal(x.shape)), y


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_a_random_map_is_not_frozen(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without learning, an epoch's loss changes only if its examples change."""
    set_seed(3)
    batches = prepare_for_training(ArrayDataset(X, Y).map(draws_in_its_map), 32)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    with caplog.at_level(logging.WARNING, "dlf"):
        history = compile_and_fit(
            model, batches, loss=LOSS, optimizer=keras.optimizers.SGD(0.0), epochs=3, engine=engine, verbose=0
        )
    assert "gives other elements at each reading" in caplog.text
    assert len(set(history.history["loss"])) == 3


def test_a_map_that_draws_nothing_is_computed_once() -> None:
    calls = []

    def doubled(x: Any, y: Any) -> tuple[Any, Any]:
        calls.append(1)
        return 2 * x, y

    batches = prepare_for_training(ArrayDataset(X, Y).map(doubled), 32)
    compile_and_fit(dense(), batches, loss=LOSS, epochs=4, engine="fused", verbose=0)
    assert len(calls) < 2 * len(X)


def forever() -> Any:
    while True:
        yield X[:32], Y[:32]


def test_a_generator_is_left_to_keras(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dlf"):
        history = compile_and_fit(dense(), forever(), loss=LOSS, steps_per_epoch=3, verbose=0)
    assert history.engine == "keras"
    assert caplog.text.count("Keras's own loop is used, since steps_per_epoch is given") == 1
    with pytest.raises(InvalidArgumentError, match=r"engine: expected 'auto' or 'keras' .* The reason: steps_per_ep"):
        compile_and_fit(dense(), forever(), loss=LOSS, steps_per_epoch=3, engine="fused")


class Changing(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types.
    """A data set that becomes shorter with each epoch, and records the calls of its epoch hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.length, self.told = 4, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]

    def on_epoch_begin(self) -> None:
        self.told.append("begin")

    def on_epoch_end(self) -> None:
        self.told.append("end")
        self.length -= 1


def test_a_data_set_that_becomes_shorter_runs_out_as_in_keras() -> None:
    """Keras calls `on_epoch_end` after it has looked at the first batch, and uses the length from before that."""
    model, data = dense(), Changing()
    with pytest.warns(UserWarning, match="Your input ran out of data"):
        history = compile_and_fit(model, data, loss=LOSS, epochs=3, engine="fused", verbose=0)
    assert history.engine == "fused"
    assert int(model.optimizer.iterations) == 3 + 2 + 1
    look = ["end"] if BACKEND == "tensorflow" else ["begin", "end"]
    assert data.told == look + ["begin", "end"] * 3


def test_batches_of_several_shapes_are_streamed() -> None:
    class Ragged(Changing):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            size = (8, 8, 5, 8)[index]
            return X[:size], Y[:size]

        def on_epoch_end(self) -> None:
            pass

    model = dense()
    compile_and_fit(model, Ragged(), loss=LOSS, epochs=2, engine="fused", verbose=0)
    assert int(model.optimizer.iterations) == 8


class Untraceable(Doubled):
    """A model whose step needs the value of the loss, which a trace does not have."""

    def train_step(self, *arguments: Any) -> Any:
        logs = super().train_step(*arguments)
        loss = (logs[0] if BACKEND == "jax" else logs)["loss"]
        if float(keras.ops.convert_to_numpy(loss)) < 0:
            raise AssertionError
        return logs


def test_a_step_that_cannot_be_traced_is_run_as_keras_runs_it(caplog: pytest.LogCaptureFixture) -> None:
    model = Untraceable()
    with caplog.at_level(logging.WARNING, "dlf"):
        if BACKEND == "torch":  # On PyTorch, the engine can run steps one by one where it cannot record them.
            assert compile_and_fit(model, (X, Y), loss=LOSS, verbose=0, epochs=6).engine == "fused"
            return
        history = compile_and_fit(model, (X, Y), loss=LOSS, verbose=0, run_eagerly=True)
        assert (history.engine, "run_eagerly=True" in caplog.text) == ("keras", True)
        assert history.engine_reason == "the model is compiled with run_eagerly=True"
        with pytest.raises(InvalidArgumentError, match="the step cannot be traced"):
            compile_and_fit(model, (X, Y), loss=LOSS, verbose=0, engine="fused")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fuzed"}, r"engine: expected one of auto, fused, keras, received 'fuzed'. Did you mean 'fused'\?"),
        ({"engine": None}, "engine: expected one of auto, fused, keras, received None"),
        ({"memory_share": 1.5}, "memory_share: expected a number from 0 to 1, received 1.5"),
        ({"memory_share": "half"}, "memory_share: expected a number from 0 to 1, received 'half'"),
        ({"validation_split": 1.0}, "validation_split: expected a number that divides 150 examples in two parts"),
        ({"sample_weight": np.ones(150), "class_weight": {0: 1.0}}, "expected one of them"),
    ],
)
def test_requests_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        compile_and_fit(dense(), (X, Y), loss=LOSS, verbose=0, **options)


def test_evaluate_and_predict_are_keras_s() -> None:
    _, model = trained("dense", "fused", metrics=["accuracy"])
    for data in ((X, Y), prepare_for_training((X, Y), 64, shuffle_buffer=None)):
        expected = model.evaluate(X, Y, batch_size=64, return_dict=True, verbose=0)
        assert evaluate(model, data, batch_size=64, engine="fused") == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        predict(model, X, batch_size=64, engine="fused"), model.predict(X, batch_size=64, verbose=0), rtol=1e-5
    )
    many = two_by_two()
    outputs = predict(many, {"left": X, "right": X})
    assert (outputs["label"].shape, outputs["sum"].shape) == ((150, 3), (150, 1))
    with pytest.raises(InvalidArgumentError, match="model: expected a compiled model"):
        evaluate(many, (X, Y))


def test_a_trained_model_is_saved_and_copied_as_any_other(tmp_path: Path) -> None:
    _, model = trained("dense", "fused")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    for other in (loaded, copied):
        np.testing.assert_array_equal(predict(other, X), predict(model, X))
    again = compile_and_fit(loaded, (X, Y), loss=LOSS, verbose=0, engine="fused")
    assert np.isfinite(again.history["loss"][0])
