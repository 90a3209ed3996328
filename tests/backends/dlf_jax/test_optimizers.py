"""Keras's optimizers in optax and optax's in Keras: the same updates, to rounding.

In float64 a step's rounding is 1e-16 of the parameters' size, and 1e-12 leaves room for that and for nothing else. In
float32 the two cannot be expected to be closer to each other than they are to the truth, which is the float64 run: the
bound is Keras's own distance from it.
"""

from __future__ import annotations

import doctest
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.backend.keras_internals import decay_of_weights
from dlf.training.fit import compile_and_fit
from dlf.utils.errors import BackendError, InvalidArgumentError

if keras.config.backend() != "jax":
    pytest.skip("optax is JAX's", allow_module_level=True)

import jax
import jax.numpy as jnp
import optax

from dlf_jax import optax_optimizer, optimizers
from dlf_jax.optax_optimizer import from_optax
from dlf_jax.optimizers import optax_for

layers = keras.layers
STEPS = 50
EXACT = 1e-12
_RANDOM = np.random.default_rng(2025)
SHAPES = [(3, 4), (2, 2, 1, 3), ()]
# In float32, so that both precisions start alike. The gradients' sizes go from those where an optimizer's epsilon does
# not matter to those where only epsilon matters.
START = [_RANDOM.normal(size=shape).astype(np.float32) for shape in SHAPES]
GRADIENTS = [
    (_RANDOM.normal(size=(STEPS, *shape)) * 10.0 ** _RANDOM.integers(-9, 2, size=(STEPS, *shape))).astype(np.float32)
    for shape in SHAPES
]
X = _RANDOM.normal(size=(48, 5))
Y = np.tanh(X @ _RANDOM.normal(size=(5, 2)))


def decay() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.05, 7, 0.7, staircase=True)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(decay(), momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(decay(), momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": keras.optimizers.Adam,
    "amsgrad": lambda: keras.optimizers.Adam(decay(), amsgrad=True, epsilon=1e-3),
    "adamw": lambda: keras.optimizers.AdamW(decay()),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(decay()),
    "rmsprop": keras.optimizers.RMSprop,
    "rmsprop, all settings": lambda: keras.optimizers.RMSprop(decay(), momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(decay()),
    "lion": lambda: keras.optimizers.Lion(decay(), weight_decay=0.1),
    "lamb": lambda: keras.optimizers.Lamb(decay(), weight_decay=0.1),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1, learning_rate_power=-0.3),
    "ftrl, all settings": lambda: keras.optimizers.Ftrl(
        decay(),
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.02,
        l2_shrinkage_regularization_strength=0.03,
        beta=0.1,
        weight_decay=0.1,
    ),
    "adafactor": keras.optimizers.Adafactor,
    "adafactor, all settings": lambda: keras.optimizers.Adafactor(
        decay(), clip_threshold=0.5, weight_decay=0.1, beta_2_decay=-0.6
    ),
    "each norm clipped": lambda: keras.optimizers.Adam(clipnorm=0.5),
    "global norm clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5),
    "values clipped": lambda: keras.optimizers.SGD(0.1, clipvalue=0.01),
    "accumulated": lambda: keras.optimizers.AdamW(decay(), gradient_accumulation_steps=3, global_clipnorm=1.0),
}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Computes everything in float64, also operations such as `ops.mean`, whose results Keras demotes to float32."""
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with jax.enable_x64(True):
        assert float(keras.ops.mean(keras.ops.convert_to_tensor(np.array([1.0, 0.0, 0.0])))) == 1 / 3
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


def keras_path(optimizer: Any) -> list[np.ndarray]:
    """Returns the parameters after each step: ``(steps, *shape)`` for each variable."""
    dtype = keras.config.floatx()
    variables = [keras.Variable(value, dtype=dtype) for value in START]
    optimizer.build(variables)

    def step(state: Any, gradients: Any) -> Any:
        values, slots = optimizer.stateless_apply(state[1], gradients, state[0])
        return (values, slots), values

    start = ([each.value for each in variables], [each.value for each in optimizer.variables])
    return [np.asarray(each) for each in jax.jit(jax.lax.scan, static_argnums=0)(step, start, _gradients(dtype))[1]]


@functools.cache
def truth(name: str) -> list[np.ndarray]:
    assert keras.config.floatx() == "float64"
    return keras_path(OPTIMIZERS[name]())


def optax_path(transformation: Any) -> list[np.ndarray]:
    dtype = keras.config.floatx()

    def step(state: Any, gradients: Any) -> Any:
        updates, slots = transformation.update(gradients, state[1], state[0])
        values = optax.apply_updates(state[0], updates)
        return (values, slots), values

    values = [jnp.asarray(value, dtype) for value in START]
    start = (values, transformation.init(values))
    return [np.asarray(each) for each in jax.jit(jax.lax.scan, static_argnums=0)(step, start, _gradients(dtype))[1]]


def _gradients(dtype: str) -> list[Any]:
    return [jnp.asarray(each, dtype) for each in GRADIENTS]


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_keras_s(name: str) -> None:
    assert all(np.abs(path[-1] - start).max() > 1e-5 for path, start in zip(truth(name), START, strict=True))
    assert distance(optax_path(optax_for(OPTIMIZERS[name]())), truth(name)) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_float32_it_is_as_near_to_the_truth_as_keras(name: str, request: pytest.FixtureRequest) -> None:
    by_keras, by_optax = keras_path(OPTIMIZERS[name]()), optax_path(optax_for(OPTIMIZERS[name]()))
    assert {each.dtype for each in by_optax} == {np.dtype(np.float32)}
    request.getfixturevalue("double")
    for ours, theirs, true in zip(by_optax, by_keras, truth(name), strict=True):
        # Room of one unit in the last place per step, in case Keras happens to round nothing.
        room = STEPS * np.finfo(np.float32).eps * np.abs(true).max()
        assert distance([ours], [true]) <= 2 * distance([theirs], [true]) + room


ALMOST: dict[str, tuple[str, Callable[[], Any]]] = {
    "optax's own epsilon": ("adam", lambda: optax.adam(1e-3)),
    "Keras's epsilon in optax's place": ("adam", lambda: optax.adam(1e-3, eps=1e-7)),
    "the rate behind the momentum": (
        "momentum",
        lambda: optax.sgd(lambda count: 0.05 * 0.7 ** (count // 7), momentum=0.9),
    ),
    "a constant Nesterov momentum": (
        "nadam",
        lambda: optax.nadam(lambda count: 0.05 * 0.7 ** (count // 7), eps=1e-7),
    ),
    "decay within the trust ratio": (
        "lamb",
        lambda: optax.lamb(lambda count: 0.05 * 0.7 ** (count // 7), eps=1e-7, weight_decay=0.1),
    ),
    "one step too late": ("adam", lambda: _one_step_late(optax_for(keras.optimizers.Adam()))),
}


def _one_step_late(transformation: Any) -> Any:
    def init(params: Any) -> Any:
        return optax.tree.set(transformation.init(params), count=jnp.ones([], jnp.int32))

    return optax.GradientTransformation(init, transformation.update)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ALMOST)
def test_what_is_almost_keras_s_is_told_apart(name: str) -> None:
    of, make = ALMOST[name]
    assert distance(optax_path(make()), truth(of)) > 1e6 * EXACT


def test_a_rate_that_is_a_number_is_read_at_once() -> None:
    optimizer = keras.optimizers.SGD(0.5)
    transformation = optax_for(optimizer)
    optimizer.learning_rate = 0.25
    (update,) = transformation.update([jnp.ones(2)], transformation.init([jnp.ones(2)]))[0]
    assert update.tolist() == [-0.5, -0.5]
    (update,) = optax_for(optimizer).update([jnp.ones(2)], transformation.init([jnp.ones(2)]))[0]
    assert update.tolist() == [-0.25, -0.25]


def test_variables_without_weight_decay_keep_their_size() -> None:
    variables = {"a": keras.Variable([1.0], name="kernel"), "b": keras.Variable([1.0], name="bias")}
    optimizer = keras.optimizers.SGD(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(InvalidArgumentError, match=r"variables: expected Keras's variables in the structure .* None"):
        optax_for(optimizer)
    transformation = optax_for(optimizer, variables)
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zeros, transformation.init(params), params)
    assert (float(updates["a"][0]), float(updates["b"][0])) == (-0.25, 0.0)
    with pytest.raises(InvalidArgumentError, match="params: expected the parameters, received None"):
        transformation.update(zeros, transformation.init(params))


def test_a_change_of_keras_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras keeps the list of weights without decay under private names; without them, all would silently decay."""
    optimizer = keras.optimizers.AdamW()
    assert decay_of_weights(optimizer) is None
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    decays = decay_of_weights(optimizer)
    assert decays is not None
    variables = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
    assert [decays(each) for each in variables] == [True, False]
    base = next(each for each in type(optimizer).__mro__ if "_use_weight_decay" in vars(each))
    monkeypatch.delattr(base, "_use_weight_decay")
    with pytest.raises(BackendError, match=r"_use_weight_decay, which are gone\. Install a version of Keras"):
        optax_for(optimizer, variables)


class DerivedSGD(keras.optimizers.SGD):  # type: ignore[misc]  # Keras has no types.
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (DerivedSGD, "exactly one of Keras's classes Adadelta, Adafactor, .* SGD, received <.*DerivedSGD"),
        (keras.optimizers.Muon, "exactly one of Keras's classes"),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "hand over the optimizer inside"),
        (lambda: "adam", "received 'adam'"),
        (lambda: keras.optimizers.SGD(use_ema=True), "expected use_ema=False, received 'use_ema=True'. .* optax.ema"),
        (
            lambda: keras.optimizers.SGD(loss_scale_factor=8.0),
            "expected loss_scale_factor=None, received 'loss_scale_factor=8.0'",
        ),
    ],
)
def test_what_has_no_twin_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        optax_for(make())


def make_model(seed: int = 1) -> Any:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((5,)), layers.Dense(7, activation="tanh"), layers.Dense(2)])


def batches(epochs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(X[i : i + 16], Y[i : i + 16]) for _ in range(epochs) for i in range(0, 48, 16)]


def by_hand(model: Any, transformation: Any, epochs: int, *, keyed: bool) -> list[np.ndarray]:
    """Trains by a loop as in optax's documentation, and returns the trained weights."""
    paths = [variable.path for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    values = [jnp.array(variable.value) for variable in model.trainable_variables]
    params: Any = dict(zip(paths, values, strict=True)) if keyed else values

    def loss(params: Any, x: Any, y: Any) -> Any:
        outputs, _ = model.stateless_call([params[path] for path in paths] if keyed else params, fixed, x)
        return jnp.mean(jnp.square(outputs - y))

    @jax.jit  # type: ignore[untyped-decorator]  # JAX is skipped by mypy.
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = transformation.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for x, y in batches(epochs):
        params, state = step(params, state, x, y)
    return [np.asarray(params[path]) for path in paths] if keyed else [np.asarray(each) for each in params]


def trained(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(each) for each in model.trainable_variables]


def without_bias_decay() -> Any:
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(decay(), clipnorm=0.1),
        lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True),
        without_bias_decay,
    ],
)
def test_a_keras_model_is_trained_alike(make: Callable[[], Any]) -> None:
    model = make_model()
    expected = by_hand(model, optax_for(make(), model.trainable_variables), 17, keyed=False)
    model.compile(make(), loss="mse")
    for x, y in batches(17):
        model.train_on_batch(x, y)
    assert distance(trained(model), expected) < EXACT


def one_for_biases(params: dict[str, Any]) -> dict[str, str]:
    return {path: "bias" if path.endswith("bias") else "kernel" for path in params}


TRANSFORMATIONS: dict[str, Callable[[], Any]] = {
    "adam": lambda: optax.adam(0.01),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(optax.cosine_decay_schedule(0.05, 20))),
    "adamw": lambda: optax.adamw(0.01, mask=lambda params: {path: "kernel" in path for path in params}),
    "lion": lambda: optax.lion(0.01),
    "masked": lambda: optax.masked(optax.sgd(0.1), lambda params: jax.tree.map(lambda each: each.ndim > 1, params)),
    "one for biases": lambda: optax.multi_transform(
        {"kernel": optax.adam(0.01), "bias": optax.sgd(0.1)}, one_for_biases
    ),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.0, 20)),
    "accumulated": lambda: optax.MultiSteps(optax.adam(0.01), 2),
    "parameters in the state": lambda: optax.contrib.schedule_free_sgd(0.1),
    "random keys in the state": lambda: optax.noisy_sgd(0.05, key=3),
    "of Keras": lambda: optax_for(keras.optimizers.Nadam(0.01, weight_decay=0.1)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_fit_makes_optax_s_updates(name: str) -> None:
    make = TRANSFORMATIONS[name]
    model = make_model()
    expected = by_hand(model, make(), 5, keyed=True)
    model.compile(from_optax(make()), loss="mse")
    model.fit(X, Y, batch_size=16, epochs=5, shuffle=False, verbose=0)
    assert distance(trained(model), expected) < EXACT
    assert int(model.optimizer.iterations) == 15


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["clipped", "one for biases"])
def test_the_fused_engine_makes_optax_s_updates(name: str) -> None:
    make = TRANSFORMATIONS[name]
    model = make_model()
    expected = by_hand(model, make(), 5, keyed=True)
    options: dict[str, Any] = {"batch_size": 16, "epochs": 5, "shuffle": False, "verbose": 0, "loss": "mse"}
    compile_and_fit(model, (X, Y), optimizer=from_optax(make()), engine="fused", **options)
    assert distance(trained(model), expected) < EXACT


def test_frozen_variables_stay_and_have_no_state() -> None:
    model = make_model()
    model.layers[0].trainable = False
    before = [each.numpy() for each in model.layers[0].weights]
    model.compile(from_optax(optax.adamw(0.1)), loss="mse")
    model.fit(X, Y, verbose=0)
    for weight, value in zip(model.layers[0].weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    # Keras's iterations, optax's count, and two moments for each of two variables.
    assert len(model.optimizer.variables) == 2 + 2 * 2


def test_variables_without_gradients_keep_their_value_and_state() -> None:
    variables = [keras.Variable([1.0, 2.0], name=name) for name in "ab"]
    optimizer = from_optax(optax.adamw(0.1))
    optimizer.apply([jnp.ones(2), jnp.ones(2)], variables)
    before = {each.path: each.numpy().copy() for each in [*variables, *optimizer.variables]}
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply([jnp.ones(2), None], variables)
    changed = {each.path for each in [*variables, *optimizer.variables] if (each.numpy() != before[each.path]).any()}
    assert {each for each in before if each not in changed} == {"b", "optax/0.mu.b", "optax/0.nu.b"}
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        optimizer.apply([None, None], variables)
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([jnp.ones(2)], [keras.Variable([1.0, 2.0])])


def test_constraints_and_a_scaled_loss_are_keras_s() -> None:
    variable = keras.Variable([1.0, 2.0])
    variable.constraint = keras.constraints.NonNeg()
    optimizer = keras.optimizers.LossScaleOptimizer(from_optax(optax.sgd(1.0)), initial_scale=8.0)
    optimizer.build([variable])
    slots = [each.value for each in optimizer.variables]
    (value,), _ = optimizer.stateless_apply(slots, [8.0 * jnp.array([0.5, 5.0])], [variable.value])
    assert value.tolist() == [0.5, 0.0]
    inner = from_optax(optax.sgd(1.0))
    with pytest.raises(InvalidArgumentError, match=r"loss_scale_factor: expected None, received 8\.0"):
        keras.optimizers.MultiOptimizer(lambda _: inner, loss_scale_factor=8.0).build([variable])


def test_variables_of_the_same_name_are_two() -> None:
    variables = [keras.Variable(1.0, name="same") for _ in range(2)]
    from_optax(optax.sgd(1.0)).apply([jnp.array(1.0), jnp.array(2.0)], variables)
    assert [float(each) for each in variables] == [0.0, -1.0]


@pytest.mark.usefixtures("double")
def test_training_goes_on_from_saved_weights(tmp_path: Path) -> None:
    make = TRANSFORMATIONS["clipped"]
    model = make_model()
    expected = by_hand(model, make(), 6, keyed=True)
    model.compile(from_optax(make()), loss="mse")
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(X, Y, **options)
    model.save_weights(tmp_path / "of.weights.h5")
    other = make_model(seed=2)
    other.compile(from_optax(make()), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "of.weights.h5")
    other.fit(X, Y, **options)
    assert distance(trained(other), expected) < EXACT


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("make", [TRANSFORMATIONS["clipped"], lambda: optax_for(keras.optimizers.Adafactor(0.01))])
def test_saved_state_does_not_depend_on_names(make: Callable[[], Any], tmp_path: Path) -> None:
    """JAX sorts what it keys by name: to it, dense_10 comes before dense_9."""

    def model_of(names: list[str]) -> Any:
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((5,)), *(layers.Dense(5, activation="tanh", name=each) for each in names)]
        )
        model.compile(from_optax(make()), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    one, other = model_of(["dense_9", "dense_10"]), model_of(["dense_1", "dense_2"])
    one.fit(X, X, **options)
    one.save_weights(tmp_path / "of.weights.h5")
    other.load_weights(tmp_path / "of.weights.h5")
    for model in (one, other):
        model.fit(X, X, **options)
    assert distance(trained(other), trained(one)) < EXACT


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("alive", [True, False])
def test_a_model_is_saved_whole_but_for_its_functions(alive: bool, tmp_path: Path) -> None:
    make = TRANSFORMATIONS["adam"]
    model = make_model()
    expected = by_hand(model, make(), 6, keyed=True)
    model.compile(from_optax(make()), loss="mse")
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(X, Y, **options)
    model.save(tmp_path / "model.keras")
    assert keras.models.clone_model(model).fit(X, Y, **options)
    if alive:
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    else:
        optax_optimizer._ALIVE.clear()
        with pytest.raises(InvalidArgumentError, match=r"optimizer: .* received 'optax'. .* Load with compile=False"):
            keras.saving.load_model(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        loaded.compile(from_optax(make()), loss="mse")
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(tmp_path / "model.keras")
    loaded.fit(X, Y, **options)
    assert distance(trained(loaded), expected) < EXACT


SETTABLE: dict[str, Callable[[], Any]] = {
    "given": lambda: from_optax(optax.sgd(1.0), learning_rate=0.5),
    "injected": lambda: from_optax(optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)),
    "injected deeper": lambda: from_optax(
        optax.chain(optax.clip(1e9), optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    ),
}


@pytest.mark.parametrize("name", SETTABLE)
def test_callbacks_set_the_learning_rate(name: str) -> None:
    def halved(epoch: int, rate: float) -> float:
        return rate / 2

    models = []
    for optimizer in (SETTABLE[name](), keras.optimizers.SGD(0.5)):
        model = make_model()
        model.compile(optimizer, loss="mse")
        history = model.fit(
            X, Y, epochs=3, shuffle=False, verbose=0, callbacks=[keras.callbacks.LearningRateScheduler(halved)]
        )
        assert history.history["learning_rate"] == [0.25, 0.125, 0.0625]
        models.append(trained(model))
    assert distance(*models) < 1e-6


def test_a_schedule_of_keras_s_multiplies_the_updates() -> None:
    models = []
    for optimizer in (from_optax(optax.sgd(1.0), decay()), keras.optimizers.SGD(decay())):
        model = make_model()
        model.compile(optimizer, loss="mse")
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        models.append(trained(model))
    assert distance(*models) < 1e-6
    assert from_optax(optax.sgd(1.0), 1).get_config()["learning_rate"] == 1.0


@pytest.mark.parametrize(
    "transformation",
    [optax.sgd(0.1), optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 9))],
)
@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1),
        keras.callbacks.ReduceLROnPlateau("loss", min_delta=1e9, patience=1),
    ],
)
def test_a_learning_rate_inside_a_function_cannot_be_set(transformation: Any, callback: Any) -> None:
    model = make_model()
    model.compile(from_optax(transformation), loss="mse")
    with pytest.raises(InvalidArgumentError, match=r"learning_rate: expected .* Give it to from_optax"):
        model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("value", [optax.contrib.reduce_on_plateau(), optax.lbfgs()])
def test_a_transformation_that_asks_for_more_is_refused(value: Any) -> None:
    model = make_model()
    model.compile(from_optax(value), loss="mse")
    with pytest.raises(InvalidArgumentError, match=r"takes gradients, state and parameters.*missing.* 'value'"):
        model.fit(X, Y, verbose=0)
    assert np.isfinite(model.predict(X, verbose=0)).all()  # The weights are still there.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((optax.adam,), "transformation: expected an optax.GradientTransformation, .* has to be called"),
        ((keras.optimizers.Adam(),), "transformation: expected .* need no from_optax"),
        ((optax.sgd(1.0), optax.linear_schedule(0.1, 0.0, 9)), r"learning_rate: .* optax.adam\(schedule\)"),
        ((optax.sgd(1.0), True), "learning_rate: expected a number, .* received True"),
    ],
)
def test_what_is_no_optimizer_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        from_optax(*arguments)


@pytest.mark.parametrize("module", [optimizers, optax_optimizer])
def test_the_examples_are_right(module: Any) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert (result.failed, result.attempted > 0) == (0, True)
