"""`dlf.TrainingLoop` against Keras's `train_on_batch`: the same updates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import pytest
from gradient_cases import (
    CASES,
    CLASSES,
    LABELS,
    ROWS,
    Case,
    X,
    build,
    crossentropy,
    in_float64,
    mlp,
    widened,
)
from keras import layers

import dlf
from dlf.backend.registry import current_backend
from dlf.gradients.training_loop import TrainingLoop
from dlf.numerics.float64 import float64_reference
from dlf.random.seed import common_randomness
from dlf.utils.errors import InvalidArgumentError, TrainingError

BACKEND = keras.config.backend()
EXACT = BACKEND == "torch"
PATHS = list(current_backend().gradient_paths())
STEPS = 50
EPSILON = float(np.finfo(np.float32).eps)
ORDER = np.random.default_rng(3).integers(0, ROWS, (STEPS, 8))
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
}
# An MLP with penalties, a CNN with batch statistics and dropout, a masked GRU, a transformer block, and a model with
# several inputs and outputs.
TRAINED = [
    *((name, "adam") for name in ("regularized", "convolutional", "masked", "transformer")),
    *((name, "momentum") for name in ("regularized", "convolutional", "masked", "transformer", "dictionaries")),
]
Run = tuple[list[float], list[np.ndarray]]
"""The loss of each step, and the variables at the end."""


def precision() -> AbstractContextManager[None]:
    """Returns a context in which both loops compute in float64, unless their arithmetic is the same to the bit.

    On JAX the optimizer is optax's, which rounds differently; TensorFlow fuses operations differently in two graphs.
    """
    return common_randomness() if EXACT else in_float64()


def prepared(name: str) -> tuple[keras.Model, Any]:
    """Returns a model and its loss, to be trained inside of `precision`."""
    model = build(CASES[name])
    return (model if EXACT else float64_reference(model)), CASES[name].loss()


def batches(name: str) -> Iterator[tuple[Any, Any]]:
    case = CASES[name]
    data = (case.x, case.y)
    for rows in ORDER:
        yield keras.tree.map_structure(lambda each, rows=rows: (each if EXACT else widened(each))[rows], data)


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.variables]


@functools.cache
def by_keras(name: str, optimizer: str) -> Run:
    with precision():
        model, loss = prepared(name)
        model.compile(OPTIMIZERS[optimizer](), loss)
        losses = []
        for x, y in batches(name):
            losses.append(float(np.ravel(model.train_on_batch(x, y))[0]))
            model.reset_metrics()
        return losses, values(model)


def by_loop(name: str, optimizer: str, path: str) -> Run:
    with precision():
        model, loss = prepared(name)
        loop = TrainingLoop(model, loss, OPTIMIZERS[optimizer](), path=path)
        start = values(model)
        losses = [float(keras.ops.convert_to_numpy(loop.step(x, y))) for x, y in batches(name)]
        assert loop.steps == STEPS
        if BACKEND == "jax":
            for before, now in zip(start, values(model), strict=True):
                np.testing.assert_array_equal(now, before, err_msg="the model is changed before finish()")
        assert loop.finish() is model
        return losses, values(model)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "optimizer"), TRAINED)
def test_the_updates_are_those_of_keras(name: str, optimizer: str, path: str) -> None:
    """They agree to the bit on PyTorch, and elsewhere, in float64, to what fifty steps make of a rounding of 1e-16.

    The gradient by a bias before BatchNormalization consists of rounding errors, which Adam divides by at least its
    epsilon: 1e-16 / 1e-7 of the learning rate per step, 5e-10 of it in all. A wrong update is off by 1e-2 of a weight.
    """
    (expected_losses, expected), (losses, received) = by_keras(name, optimizer), by_loop(name, optimizer, path)
    # The loss that Keras reports has been through a running mean, which is in float32 on PyTorch.
    np.testing.assert_allclose(losses, expected_losses, rtol=4 * EPSILON if EXACT else 1e-9)
    assert losses[-1] < losses[0]
    for number, (ours, theirs) in enumerate(zip(received, expected, strict=True)):
        # Integers, which seeds are, have to be equal: then each mask was.
        exact = EXACT or ours.dtype.kind != "f"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0 if exact else 1e-9, err_msg=f"variable {number}")


def test_the_test_above_can_fail() -> None:
    """A learning rate that is greater by a millionth is noticed."""
    _, theirs = by_keras("regularized", "momentum")
    with precision():
        model, loss = prepared("regularized")
        loop = TrainingLoop(model, loss, keras.optimizers.SGD(0.1 * (1 + 1e-6), momentum=0.9))
        for x, y in batches("regularized"):
            loop.step(x, y)
        ours = values(loop.finish())
    assert max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) > 1e-8


@pytest.mark.parametrize("path", PATHS)
def test_a_loop_goes_on_after_finish(path: str) -> None:
    ends = []
    for finishing in (True, False):
        model = build(CASES["mlp"])
        loop = TrainingLoop(model, crossentropy(), "sgd", path=path)
        loop.fit([(X, LABELS)], epochs=2)
        if finishing:
            loop.finish()
        loop.fit([(X, LABELS)])
        ends.append(values(loop.finish()))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


def as_keras_does(make: Callable[[], keras.Model], optimizer: Callable[[], Any], path: str) -> list[np.ndarray]:
    """Returns the variables after three steps in float64, once they agree with those after three of Keras's steps."""
    ends = []
    with in_float64():
        for by_keras in (True, False):
            model = float64_reference(build(Case(make, X, LABELS)))
            if by_keras:
                model.compile(optimizer(), crossentropy())
                step = model.train_on_batch
            else:
                loop = TrainingLoop(model, crossentropy(), optimizer(), path=path)
                step = loop.step
            for _ in range(3):
                step(widened(X), LABELS)
            ends.append(values(model if by_keras else loop.finish()))
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    return ends[1]


@pytest.mark.parametrize("path", PATHS)
def test_constraints_hold_after_each_step(path: str) -> None:
    after = as_keras_does(lambda: mlp(kernel_constraint="non_neg"), OPTIMIZERS["momentum"], path)
    for kernel in after[::2]:
        assert kernel.min() == 0 < kernel.max()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_what_is_excluded_from_weight_decay_does_not_decay(path: str) -> None:
    def optimizer(names: list[str]) -> Any:
        decaying = keras.optimizers.AdamW(0.01, weight_decay=0.5)
        decaying.exclude_from_weight_decay(var_names=names)
        return decaying

    ends = [
        as_keras_does(lambda: mlp(bias_initializer="ones"), functools.partial(optimizer, names), path)
        for names in (["bias"], ["kernel"])
    ]
    for one, other in zip(*ends, strict=True):
        assert np.abs(one - other).max() > 1e-3


def two_outputs() -> keras.Model:
    """Returns a model with a list of two named outputs, and a penalty."""
    x, kernel = keras.Input((6,)), keras.initializers.Constant(0.25)
    outputs = [layers.Dense(2, kernel_initializer=kernel, kernel_regularizer="l2", name=name)(x) for name in ("a", "b")]
    return keras.Model(x, outputs)


TARGETS = [X[:, :2], X[:, 2:4]]


@pytest.mark.parametrize("path", PATHS)
def test_a_loss_for_each_output_by_name(path: str) -> None:
    by_name, in_order, turned = (
        TrainingLoop(two_outputs(), loss, "sgd", path=path).fit([(X, TARGETS)], epochs=2)
        for loss in ({"a": "mse", "b": "mae"}, ["mse", "mae"], {"a": "mae", "b": "mse"})
    )
    assert by_name == in_order
    assert by_name != turned


def absolute(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_pred - y_true))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weights", [None, {"a": 2.0, "b": 0.5}, (2.0, 0.5)])
def test_without_a_loss_it_is_what_the_model_was_compiled_with(weights: Any, path: str) -> None:
    losses = []
    for by_keras in (True, False):
        model = two_outputs()
        loss = {"a": "mse", "b": lambda y_true, y_pred: keras.ops.mean(keras.ops.abs(y_pred - y_true))}
        model.compile(keras.optimizers.SGD(0.1), loss, loss_weights=weights)
        step = (
            model.train_on_batch if by_keras else TrainingLoop(model, None, keras.optimizers.SGD(0.1), path=path).step
        )
        for _ in range(3):
            losses.append(float(np.ravel(keras.ops.convert_to_numpy(keras.tree.flatten(step(X, TARGETS))[0]))[0]))
            model.reset_metrics()
    # The loss that Keras reports has been through a running mean.
    np.testing.assert_allclose(losses[3:], losses[:3], rtol=8 * EPSILON)
    (unweighted,) = TrainingLoop(two_outputs(), ["mse", absolute]).fit([(X, TARGETS)])
    assert (losses[3] == pytest.approx(unweighted)) == (weights is None)


def in_pairs() -> Any:
    return [(X[start : start + 4], LABELS[start : start + 4]) for start in range(0, ROWS, 4)]


def in_triples() -> Any:
    return [(X, LABELS, LABELS)]


def in_no_list() -> Any:
    return X, LABELS


def in_tf_data() -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(4)


def prepared_batches() -> Any:
    return dlf.prepare_for_training((X, LABELS), 4, None)


@pytest.mark.parametrize("make", [in_pairs, in_tf_data, prepared_batches])
def test_batches_of_every_kind(make: Callable[[], Any]) -> None:
    means = TrainingLoop(build(CASES["mlp"]), crossentropy(), "sgd").fit(make(), epochs=2)
    assert means == _of_pairs()
    assert len(means) == 2


@functools.cache
def _of_pairs() -> list[float]:
    """Returns the mean loss of each epoch, computed here from the loss of each step."""
    loop = TrainingLoop(build(CASES["mlp"]), crossentropy(), "sgd")
    losses = [float(keras.ops.convert_to_numpy(loop.step(x, y))) for _ in range(2) for x, y in in_pairs()]
    return [float(np.mean(losses[:3])), float(np.mean(losses[3:]))]


def test_each_epoch_has_an_order_of_its_own() -> None:
    ends = []
    for by_hand in (True, False):
        shuffled = dlf.prepare_for_training((X, LABELS), 4, seed=4)
        loop = TrainingLoop(build(CASES["mlp"]), crossentropy(), keras.optimizers.SGD(0.1))
        if by_hand:
            epochs = [list(shuffled) for _ in range(3)]
            assert not np.array_equal(epochs[0][0][1], epochs[1][0][1])
            for x, y in (batch for epoch in epochs for batch in epoch):
                loop.step(x, y)
        else:
            loop.fit(shuffled, epochs=3)
        ends.append(values(loop.finish()))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_finite_is_named_by_its_variable_and_step(path: str) -> None:
    loop = TrainingLoop(mlp(), "mse", "sgd", path=path)
    y = np.zeros((ROWS, CLASSES), np.float32)
    bad = y.copy()
    bad[0, 1] = np.nan
    loop.fit([(X, y)])
    with pytest.raises(
        TrainingError,
        match=r"the gradient of .*hidden/.* and others: expected numbers, received NaN .* first at step 2\.",
    ):
        loop.fit([(X, y), (X, bad), (X, y)])


def test_only_what_is_not_finite_is_named() -> None:
    x = keras.Input((6,))
    model = keras.Model(x, [keras.layers.Dense(2, name=name)(x) for name in ("sound", "sick")])
    y = X[:, :2]
    with pytest.raises(TrainingError) as raised:
        TrainingLoop(model, ["mse", "mse"], "sgd").fit([(X, [y, y * np.nan])])
    # In any order: NNX has its own.
    assert "sick/kernel" in str(raised.value)
    assert "sick/bias" in str(raised.value)
    assert "sound" not in str(raised.value)


class Unserializable:
    """A loss without a `get_config`, which Keras would need to serialize it."""

    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        return absolute(y_true, y_pred)


def compiled(loss: Any) -> keras.Model:
    model = mlp()
    model.compile(loss=loss)
    return model


SCALED = r"optimizer: expected one that does not scale the loss, received <.*without loss_scale_factor\."
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "not built": (
        lambda: TrainingLoop(keras.Sequential([keras.layers.Dense(1)]), "mse"),
        r"model: expected a model that is built, received <Sequential.*Give it an Input, or call it on a batch",
    ),
    "no loss": (
        lambda: TrainingLoop(mlp()),
        r"loss: expected a loss, or a model that was compiled with one, received None\. Say loss=",
    ),
    "no such loss": (
        lambda: TrainingLoop(mlp(), 3),
        r"loss: expected what keras.Model.compile takes as a loss, received 3",
    ),
    "unserializable": (
        lambda: TrainingLoop(compiled(Unserializable())),
        r"loss: expected a loss, since the model was compiled with what Keras cannot serialize, .*Say loss=",
    ),
    "optimizer": (
        lambda: TrainingLoop(mlp(), "mse", "adamm"),
        r"optimizer: expected an optimizer, or one of .*adam.*, received 'adamm'\. Did you mean 'adam.*'\?",
    ),
    "no optimizer": (
        lambda: TrainingLoop(mlp(), "mse", 0.1),
        r"optimizer: expected an optimizer of Keras.*, received 0\.1\.",
    ),
    "class": (
        lambda: TrainingLoop(mlp(), "mse", keras.optimizers.Adam),
        r"optimizer: expected an optimizer, .* received <class .*Adam'>\. This is a class: write Adam\(\)\.",
    ),
    "scaled": (
        lambda: TrainingLoop(mlp(), "mse", keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())),
        SCALED,
    ),
    "factor": (lambda: TrainingLoop(mlp(), "mse", keras.optimizers.SGD(loss_scale_factor=8.0)), SCALED),
    "path": (lambda: TrainingLoop(mlp(), "mse", path="tap"), r"path: expected one of .*, received 'tap'\."),
    "no batches": (
        lambda: TrainingLoop(mlp(), "mse").fit([]),
        r"batches: expected at least one batch in each epoch, received \[\]",
    ),
    "used up": (
        lambda: TrainingLoop(mlp(), crossentropy()).fit(iter([(X, LABELS)]), epochs=2),
        r"batches: expected at least one batch in each epoch, received <list_iterator",
    ),
    "weights": (
        lambda: TrainingLoop(mlp(), crossentropy()).fit(in_triples()),
        r"batches: expected pairs \(x, y\), received \(<float32 array.*copy the backend's training_loop.py",
    ),
    "no list": (
        lambda: TrainingLoop(mlp(), crossentropy()).fit(in_no_list()),
        r"batches: expected pairs \(x, y\), received <float32 array.*Put a batch in a list: fit\(\[\(x, y\)\]\)\.",
    ),
    "epochs": (
        lambda: TrainingLoop(mlp(), "mse").fit([], epochs=0),
        r"epochs: expected a positive integer, received 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(InvalidArgumentError, match=f"(?s){message}"):
        make()


class Restores(keras.Sequential):  # type: ignore[misc]  # Keras has no types.
    """Trained without labels, and with a penalty that its `compute_loss` adds."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        assert y is None
        return keras.ops.mean(keras.ops.square(x - y_pred)) + sum(self.losses)


@pytest.mark.parametrize("path", PATHS)
def test_a_compute_loss_of_its_own_is_trained_by(path: str) -> None:
    def made() -> keras.Model:
        hidden = layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=1), kernel_regularizer="l2")
        return Restores([keras.Input((6,)), hidden, layers.Dense(6, kernel_initializer="ones")])

    if path == "nnx":
        with pytest.raises(InvalidArgumentError, match="compute_loss reads the model and not the module"):
            TrainingLoop(made(), path=path)
        return
    expected, found = made(), made()
    expected.compile(keras.optimizers.SGD(0.1))
    losses = [expected.train_on_batch(keras.ops.convert_to_tensor(X)) for _ in range(3)]
    loop = TrainingLoop(found, None, keras.optimizers.SGD(0.1), path=path)
    np.testing.assert_allclose([loop.fit([(X,)])[0] for _ in range(3)], np.ravel(losses), rtol=1e-4)
    for one, other in zip(values(loop.finish()), values(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
