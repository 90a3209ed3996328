"""A Keras model as a Flax NNX module, against the same model in Keras."""

from __future__ import annotations

import copy
import doctest
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlf.utils.errors import BackendError, InvalidArgumentError

if keras.config.backend() != "jax":
    pytest.skip("NNX modules are JAX's", allow_module_level=True)

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlf_jax import nnx_module
from dlf_jax.nnx_module import KerasSeed, NonTrainable, from_nnx, to_nnx

layers = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ROWS, CLASSES = 16, 3
EPSILON = float(np.finfo(np.float32).eps)
_RANDOM = np.random.default_rng(2025)
IMAGES = _RANDOM.normal(size=(ROWS, 8, 8, 1)).astype(np.float32)
SERIES = _RANDOM.normal(size=(ROWS, 5, 4)).astype(np.float32)
X = _RANDOM.normal(size=(ROWS, 6)).astype(np.float32)
Y = _RANDOM.integers(0, CLASSES, ROWS)


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(CLASSES, name="out"),
        ]
    )


def transformer() -> keras.Model:
    tokens = keras.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 3, dropout=0.2, name="attention")(tokens, tokens)
    hidden = layers.LayerNormalization(name="norm")(tokens + layers.Dropout(0.2)(attended))
    hidden = layers.Dense(8, activation="gelu", name="wide")(hidden)
    pooled = layers.GlobalAveragePooling1D()(layers.Dropout(0.2)(hidden))
    return keras.Model(tokens, layers.Dense(CLASSES, name="out")(pooled))


def dense(**options: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="hidden", **options),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, name="out"),
        ]
    )


MODELS: dict[str, tuple[Callable[[], keras.Model], Any]] = {
    "convolutional": (convolutional, IMAGES),
    "transformer": (transformer, SERIES),
}


class WithoutTraining(keras.Model):  # type: ignore[misc]  # Keras has no types.
    """A model whose `call` has no argument `training`; Keras passes that on to its layers all the same."""

    def __init__(self) -> None:
        super().__init__(name="outer")
        self.dropout = layers.Dropout(0.5)
        self.dense = layers.Dense(2, name="dense")

    def call(self, inputs: Any, scale: float = 1.0) -> Any:
        return self.dense(self.dropout(inputs)) * scale


@nnx.jit  # type: ignore[untyped-decorator]  # Flax is skipped by mypy.
def train_step(module: nnx.Module, optimizer: nnx.Optimizer, x: Any, y: Any) -> jax.Array:
    def loss(module: nnx.Module) -> jax.Array:
        return LOSS(y, module(x))

    value, gradients = nnx.value_and_grad(loss)(module)
    optimizer.update(module, gradients)
    return value


def optimizer_of(module: nnx.Module) -> nnx.Optimizer:
    return nnx.Optimizer(module, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)


def compiled(model: keras.Model) -> keras.Model:
    model.compile(loss=LOSS, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    return model


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"{number} {each.path}": np.asarray(each.value) for number, each in enumerate(model.variables)}


def assert_same(model: keras.Model, before: dict[str, np.ndarray]) -> None:
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def assert_close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], steps: int) -> None:
    """Compares up to some units in the last place of the largest number for each step: sums have another order.

    Integers, such as seeds, must be equal, which shows that every mask was equal.
    """
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        if value.dtype == np.float32:
            unit = EPSILON * max(1.0, np.abs(value).max())
            np.testing.assert_allclose(value, theirs[name], rtol=0, atol=4 * steps * unit, err_msg=name)
        else:
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_keras_does(name: str) -> None:
    make, x = MODELS[name]
    model = compiled(make())
    module = to_nnx(model)
    optimizer = optimizer_of(module)
    module.train()
    start = values(model)
    losses = [(float(train_step(module, optimizer, x, Y)), float(model.train_on_batch(x, Y))) for _ in range(5)]
    ours, theirs = np.transpose(losses)
    np.testing.assert_allclose(ours, theirs, rtol=20 * EPSILON)
    by_keras = values(model)
    assert from_nnx(module) is model
    assert_close(values(model), by_keras, steps=5)
    for path, value in by_keras.items():
        assert (value != start[path]).any(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_stateless_call(name: str) -> None:
    make, x = MODELS[name]
    model = make()
    module = to_nnx(model)
    state = [each.value for each in model.non_trainable_variables]

    def loss(trainable: Any) -> jax.Array:
        return LOSS(Y, model.stateless_call(trainable, state, x, training=True)[0])

    expected, by_jax = jax.jit(jax.value_and_grad(loss))([each.value for each in model.trainable_variables])
    value, by_nnx = nnx.jit(nnx.value_and_grad(lambda module: LOSS(Y, module(x))))(module)
    np.testing.assert_allclose(value, expected, rtol=4 * EPSILON)
    leaves = jax.tree.leaves(by_nnx)
    assert len(leaves) == len(by_jax) > 0
    # The state is sorted by name. Put in place of the weights, the gradients come back from Keras in its own order.
    nnx.update(module, by_nnx)
    ours = values(from_nnx(module))
    paths = [path for path, each in zip(ours, model.variables, strict=True) if each.trainable]
    assert_close(
        {path: ours[path] for path in paths},
        {path: np.asarray(gradient) for path, gradient in zip(paths, by_jax, strict=True)},
        steps=1,
    )


def test_inside_a_larger_module_it_trains_with_it() -> None:
    class Larger(nnx.Module):  # type: ignore[misc]  # Flax is skipped by mypy.
        def __init__(self, middle: nnx.Module) -> None:
            self.first = nnx.Linear(6, 6, rngs=nnx.Rngs(1))
            self.middle = middle
            self.last = nnx.Linear(CLASSES, CLASSES, rngs=nnx.Rngs(2))

        def __call__(self, x: Any) -> Any:
            return self.last(self.middle(self.first(x)))

    middle = dense()
    larger = Larger(to_nnx(middle))
    model = compiled(
        keras.Sequential([keras.Input((6,)), layers.Dense(6, name="first"), middle, layers.Dense(CLASSES, name="last")])
    )
    for name in ("first", "last"):
        linear = getattr(larger, name)
        model.get_layer(name).set_weights([np.asarray(linear.kernel[...]), np.asarray(linear.bias[...])])
    optimizer = optimizer_of(larger)
    losses = [(float(train_step(larger, optimizer, X, Y)), float(model.train_on_batch(X, Y))) for _ in range(5)]
    ours, theirs = np.transpose(losses)
    np.testing.assert_allclose(ours, theirs, rtol=20 * EPSILON)
    by_keras = values(middle)
    assert_close(values(from_nnx(larger.middle)), by_keras, steps=5)
    larger.eval()
    np.testing.assert_allclose(larger(X), model(X), atol=1e-5)
    with pytest.raises(InvalidArgumentError, match=r"(?s)module: expected what dlf.to_nnx returned.*attribute"):
        from_nnx(larger)


def test_each_step_has_the_mask_that_keras_would_draw() -> None:
    model = keras.Sequential([keras.Input((50,)), layers.Dropout(0.5)])
    module, ones = to_nnx(model), np.ones((4, 50), np.float32)
    traces = []

    @nnx.jit  # type: ignore[untyped-decorator]  # Flax is skipped by mypy.
    def step(module: nnx.Module, x: Any) -> Any:
        traces.append(1)
        return module(x)

    drawn = [np.asarray(step(module, ones)) for _ in range(3)]
    in_a_loop = nnx.jit(nnx.scan(lambda module, x: (module, module(x)), in_axes=(nnx.Carry, 0)))
    drawn += [*np.asarray(in_a_loop(module, np.stack([ones, ones]))[1])]
    for ours in drawn:
        np.testing.assert_array_equal(ours, model(ones, training=True))
    assert len({each.tobytes() for each in drawn}) == len(drawn)
    assert len(traces) == 1


def test_the_mode() -> None:
    model = convolutional()
    module = to_nnx(model)
    inferred, before = np.asarray(model(IMAGES)), values(model)
    module.eval()
    np.testing.assert_array_equal(module(IMAGES), inferred)
    # In inference nothing is written: NNX would forbid that inside of `jax.jit`.
    np.testing.assert_allclose(jax.jit(lambda x: module(x))(IMAGES), inferred, atol=1e-5)  # noqa: PLW0108 - a closure.
    assert_same(from_nnx(module), before)
    assert not nnx.view(module, deterministic=False).deterministic
    assert module.deterministic
    assert "deterministic" in nnx.view_info(module)
    trained = np.asarray(module(IMAGES, training=True))
    np.testing.assert_array_equal(trained, model(IMAGES, training=True))
    assert (trained != inferred).any()
    module.train()
    np.testing.assert_array_equal(module(IMAGES), model(IMAGES, training=True))
    np.testing.assert_array_equal(module(IMAGES, training=False), model(IMAGES, training=False))
    after = values(model)
    assert_same(from_nnx(module), after)
    # A new module is in training mode, like every NNX module.
    assert not to_nnx(model).deterministic


def test_training_reaches_the_layers_of_a_call_that_does_not_name_it() -> None:
    model = WithoutTraining()
    model(X)
    module = to_nnx(model)
    for training in (True, False):
        expected = model(X, training=training, scale=2.0)
        np.testing.assert_array_equal(module(X, training=training, scale=2.0), expected)
    assert "dense" in nnx.state(module, nnx.Param)


def test_the_kinds_of_variables() -> None:
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 5, 3)),
            layers.Normalization(name="adapted"),
            layers.Dense(3, name="frozen", trainable=False),
            layers.BatchNormalization(name="norm"),
            layers.SpectralNormalization(layers.Dense(3, name="bounded"), name="spectral"),
            layers.GRU(3, dropout=0.5, name="gru"),
        ]
    )
    module, x = to_nnx(model), SERIES[:4, :, :3]
    parameters = nnx.state(module, nnx.Param)
    assert set(parameters) == {"norm", "spectral", "gru"}
    assert len(jax.tree.leaves(parameters)) == len(model.trainable_variables)
    assert set(nnx.state(module, nnx.BatchStat)["norm"]) == {"moving_mean", "moving_variance"}
    assert set(nnx.state(module, nnx.RngState)) == set(nnx.state(module, KerasSeed)) == {"seed_generator"}
    assert set(nnx.state(module, NonTrainable)) == {"adapted", "frozen", "spectral"}
    assert len(jax.tree.leaves(nnx.state(module))) == len(model.variables)
    dtypes = {each.dtype for each in jax.tree.leaves(nnx.state(module, NonTrainable))}
    assert dtypes == {np.dtype("float32"), np.dtype("int32")}
    step = nnx.jit(lambda module: module(x))
    trainable, others = model.trainable_variables, model.non_trainable_variables
    state = [each.value for each in others]
    for _ in range(2):
        step(module)
        _, state = model.stateless_call([each.value for each in trainable], state, x, training=True)
    before = [np.asarray(each.value) for each in others]
    from_nnx(module)
    assert_close(
        {each.path: np.asarray(each.value) for each in others},
        {each.path: np.asarray(value) for each, value in zip(others, state, strict=True)},
        steps=2,
    )
    moved = {each.name for each, value in zip(others, before, strict=True) if (np.asarray(each.value) != value).any()}
    assert moved == {"moving_mean", "moving_variance", "vector_u", "seed_generator_state"}


class Twins(keras.Model):  # type: ignore[misc]
    """A model with two layers, to whose variables Keras gives the same paths."""

    def __init__(self) -> None:
        super().__init__(name="twins")
        self.pair = [layers.Dense(6, name="twin"), layers.Dense(6, name="twin")]

    def call(self, inputs: Any) -> Any:
        return self.pair[1](self.pair[0](inputs))


def test_names_that_meet_and_names_of_nnx() -> None:
    # Nested models with the name of a method of NNX, and with the name that would replace it.
    nested = [
        keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name=name) for name in ("train", "train_1")
    ]
    named = [layers.Dense(6, name=name) for name in ("dense", "items", "a b.c", "_paths", "deterministic")]
    model = keras.Sequential([keras.Input((6,)), *named, *nested, Twins()])
    module = to_nnx(model)
    np.testing.assert_array_equal(module(X), model(X))
    state = nnx.state(module)
    assert len(jax.tree.leaves(state)) == len(model.variables)
    assert {"dense", "items", "a b.c", "_paths_1", "deterministic_1", "train_1", "twins"} == set(state)
    assert set(state["twins"]["twin"]) == {"kernel", "bias", "kernel_1", "bias_1"}
    train_step(module, optimizer_of(module), X, Y)
    expected = np.asarray(module(X))
    np.testing.assert_array_equal(from_nnx(module)(X), expected)


def test_names_do_not_depend_on_what_was_built_before() -> None:
    first, second = (nnx.state(to_nnx(convolutional())) for _ in range(2))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert set(first) == {"conv", "norm", "out", "seed_generator"}


def test_losses_of_regularizers_and_of_each_call_of_a_layer() -> None:
    model = compiled(dense(kernel_regularizer="l2", activity_regularizer="l1"))
    module = to_nnx(model)

    def total(module: nnx.Module) -> jax.Array:
        outputs, losses = module(X, training=True, return_losses=True)
        assert len(losses) == 2
        return LOSS(Y, outputs) + sum(losses)

    value, gradients = nnx.jit(nnx.value_and_grad(total))(module)
    np.testing.assert_allclose(value, model.train_on_batch(X, Y), rtol=1e-6)
    assert np.abs(gradients["hidden"]["kernel"][...]).max() > 0
    inputs = keras.Input((3,))
    doubled = layers.Dense(3, kernel_initializer="ones", activity_regularizer=keras.regularizers.L2(1.0))
    module = to_nnx(keras.Model(inputs, doubled(doubled(inputs))))
    _, losses = module(np.ones((2, 3), np.float32), return_losses=True)
    # 3 times 3², and 3 times 9²: `stateless_call` returns only the second.
    np.testing.assert_allclose(sorted(map(float, losses)), [27, 243])
    with pytest.raises(ValueError, match="unpack"):
        _, _ = module(np.ones((1, 3), np.float32))


def test_named_inputs_masks_and_mixed_precision() -> None:
    left, right = keras.Input((6,), name="left"), keras.Input((7,), name="right", dtype="int32")
    with_mask = layers.GRU(4)(layers.Embedding(20, 4, mask_zero=True)(right))
    model = keras.Model(
        {"left": left, "right": right},
        {"sum": layers.Dense(4)(left) + with_mask, "left": layers.Dense(2, dtype="mixed_bfloat16")(left)},
    )
    lengths = np.random.default_rng(1).integers(1, 7, (ROWS, 1))
    batch = {"left": X, "right": np.where(np.arange(7) < lengths, 3, 0)}
    module = to_nnx(model)
    ours, theirs = module(batch, training=False), model(batch)
    assert ours.keys() == theirs.keys()
    assert ours["left"].dtype == jnp.bfloat16
    for name, value in theirs.items():
        np.testing.assert_array_equal(np.float32(ours[name]), np.float32(value))
    assert {each.dtype for each in jax.tree.leaves(nnx.state(module))} == {np.dtype("float32"), np.dtype("uint32")}


def test_orbax_saves_and_restores(tmp_path: Path) -> None:
    checkpoints = pytest.importorskip("orbax.checkpoint")
    module = to_nnx(convolutional())
    module(IMAGES)
    other = to_nnx(convolutional())
    graph, abstract = nnx.split(nnx.eval_shape(lambda: other))
    with checkpoints.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(module))
        checkpointer.wait_until_finished()
        restored = nnx.merge(graph, checkpointer.restore(tmp_path / "state", abstract))
    for _ in range(2):
        np.testing.assert_array_equal(restored(IMAGES), module(IMAGES))


def test_copies_have_their_own_values_and_the_same_keras_model() -> None:
    model = dense()
    module = to_nnx(model)
    copies = [nnx.merge(*nnx.split(module), copy=True), nnx.clone(module), copy.deepcopy(module)]
    expected = np.asarray(module(X))
    for each in copies:
        np.testing.assert_array_equal(each(X), expected)
        assert from_nnx(each) is model
    assert nnx.graphdef(copies[2]) == nnx.graphdef(module)
    revived = pickle.loads(pickle.dumps(module))  # noqa: S301 - our own.
    np.testing.assert_array_equal(revived(X, training=False), module(X, training=False))
    assert from_nnx(revived) is not model


def test_donated_buffers_are_the_modules_own() -> None:
    model = dense()
    before = values(model)
    step = nnx.jit(lambda module: module(X), donate_argnums=0)
    module = to_nnx(model)
    step(module)
    assert_same(model, before)
    from_nnx(module)
    step(module)
    model(X, training=True)
    assert_same(from_nnx(module), values(model))


def test_it_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    module = to_nnx(dense())
    nnx.display(module)
    print(module)  # noqa: T201 - to read it back.
    shown = capsys.readouterr().out
    assert "KerasModule" in shown
    assert "hidden" in shown
    assert "KerasModule Summary" in nnx.tabulate(module, X)


def test_a_model_that_changes_afterwards() -> None:
    model = dense()
    module = to_nnx(model)
    expected = np.asarray(module(X, training=False))
    model.get_layer("hidden").trainable = False
    np.testing.assert_array_equal(module(X, training=False), expected)
    model.get_layer("out").enable_lora(1)
    with pytest.raises(InvalidArgumentError, match=r"still has the 5 variables.*received 7.*Call to_nnx again"):
        module(X)


class Noisy(keras.Model):  # type: ignore[misc]
    """A model that draws from Keras's global seed generator, which no model owns."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.uniform((3,))


def test_state_that_keras_does_not_count_as_the_models_is_refused() -> None:
    noisy = Noisy()
    noisy(SERIES[:4, :, :3])
    # In a compiled step, Keras on JAX silently loses recurrent states, and raises an error for global random numbers.
    for model in (keras.Sequential([keras.Input(batch_shape=(4, 5, 3)), layers.SimpleRNN(3, stateful=True)]), noisy):
        with pytest.raises(InvalidArgumentError, match=r"updates no other variables.*initial_state.*SeedGenerator"):
            to_nnx(model)(SERIES[:4, :, :3])


def test_what_is_no_built_keras_model_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"model: expected a keras.Model, received 3\."):
        to_nnx(3)
    with pytest.raises(InvalidArgumentError, match=r"a built model.*Sequential.*model.build\(input_shape\)"):
        to_nnx(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(InvalidArgumentError, match=r"expected what dlf.to_nnx returned, received 3"):
        from_nnx(3)  # type: ignore[arg-type]  # That is the point.
    with pytest.raises(InvalidArgumentError, match=r"whose values are arrays.*outside nnx.jit"):
        nnx.jit(lambda module: from_nnx(module) and None)(to_nnx(dense()))


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense()
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(
        BackendError, match=r"to_nnx: expected Keras on JAX, received Keras on torch. Set KERAS_BACKEND=jax"
    ):
        to_nnx(model)


def test_kerass_own_nnx_mode_is_refused(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = """
import keras
from dlf_jax.nnx_module import to_nnx
to_nnx(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
"""
    ended = run_python("-c", code, KERAS_NNX_ENABLED="true")
    assert "BackendError: to_nnx: expected Keras without its own NNX mode" in ended.stderr, ended.stderr
    assert "Unset KERAS_NNX_ENABLED" in ended.stderr


def test_the_examples_run() -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    outcome = doctest.testmod(nnx_module, optionflags=flags)
    assert outcome.attempted > 0
    assert not outcome.failed
