"""`dlf.value_and_grad` against Keras's own trainer, and against the other backends."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gradient_cases import CASES, CLASSES, LABELS, X, build, crossentropy, digest, gradients_in_float64, mlp
from keras import layers, ops

import dlf
from dlf import check_gradients, value_and_grad
from dlf.backend.registry import current_backend
from dlf.models.model_loss import named_variables
from dlf.random.seed import common_randomness
from dlf.utils.errors import InvalidArgumentError, TrainingError

BACKEND = keras.config.backend()
PATHS = list(current_backend().gradient_paths())
EPSILON = float(np.finfo(np.float32).eps)
GOLDEN = json.loads((Path(__file__).parent / "gradient_golden.json").read_text())


class Recorder(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras has no types.
    """Assigns each gradient to its variable, so that what Keras's trainer gives to an optimizer can be read exactly."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(variable, ops.zeros(variable.shape, variable.dtype))
        # For an Embedding, TensorFlow returns the gradients of the rows looked up, some twice: adding sums these.
        self.assign_add(variable, gradient)


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(variable.value)) for variable in model.variables]


def mixed() -> keras.Model:
    return mlp(dtype="mixed_bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [*CASES, "mixed precision"])
def test_the_gradients_are_those_of_keras_s_trainer(name: str, path: str) -> None:
    case = CASES.get(name, CASES["mlp"])
    model = build(case) if name in CASES else mixed()
    model.compile(Recorder(), case.loss(), run_eagerly=True)
    before = values(model)
    loss, gradients = dlf.value_and_grad(model, path=path)(case.x, case.y, case.weights)
    for variable, old, new in zip(model.variables, before, values(model), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=f"{variable.path} is changed")
    # `build` calls `set_seed`, so that `value_and_grad` draws the common masks; Keras must draw them, too.
    with common_randomness():
        expected = model.train_on_batch(case.x, case.y, case.weights)
    # The loss that Keras reports has been through a running mean.
    assert loss == pytest.approx(np.ravel(expected)[0], rel=4 * EPSILON)
    assert list(gradients) == list(named_variables(model))
    for key, variable in named_variables(model).items():
        # The same operations on the same numbers, one by one, give exactly the same results.
        np.testing.assert_array_equal(gradients[key], ops.convert_to_numpy(variable.value), err_msg=key)
        assert gradients[key].dtype == np.float32, key


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_every_backend_finds_the_same_gradients(name: str, path: str) -> None:
    """In float64 the backends differ by about 1e-16 of the numbers that are summed; a defect is far above 1e-9."""
    received, expected = gradients_in_float64(name, path), GOLDEN[name]
    assert received.keys() == expected.keys()
    largest = max(each[1] for each in expected.values())
    for key, array in received.items():
        # A gradient that cancels, as of a bias before BatchNormalization, is only as exact as the numbers that cancel.
        bound = 1e-9 * expected[key][1] + 1e-13 * largest
        np.testing.assert_allclose(digest(array), expected[key], rtol=0, atol=bound, err_msg=key)


def test_the_tests_above_can_fail() -> None:
    """In float32 no gradient is within the bound; and sample weights, masks and penalties make a difference."""
    for name in ("mlp", "convolutional"):
        case = CASES[name]
        model = build(case)
        _, gradients = dlf.value_and_grad(model, case.loss())(case.x, case.y)
        for key, array in gradients.items():
            expected = GOLDEN[name][key.removeprefix("model/")]
            assert np.abs(np.array(digest(array)) - expected).max() > 1e-9 * expected[1], key
    assert GOLDEN["mlp"]["loss"] != GOLDEN["sample weights"]["loss"]
    norms = [each[1] for case in GOLDEN.values() for key, each in case.items() if key != "loss"]
    assert np.median(norms) > 1e-2


@pytest.mark.parametrize("path", PATHS)
def test_what_the_loss_does_not_touch_has_a_gradient_of_zeros(path: str) -> None:
    x = keras.Input((6,))
    model = keras.Model(x, [layers.Dense(2, name="used")(x), layers.Dense(3, name="unused")(x)])

    def of_the_first(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_pred))

    _, gradients = dlf.value_and_grad(model, [of_the_first, None], path=path)(X, [X[:, :2], X[:, :3]])
    for name, gradient in gradients.items():
        assert gradient.any() == name.startswith("used"), name
    assert gradients["unused/kernel"].shape == (6, 3)


@pytest.mark.parametrize("path", PATHS)
def test_the_framework_s_own_tensors_on_request(path: str) -> None:
    value, gradients = dlf.value_and_grad(mlp(), crossentropy(), path=path, as_numpy=False)(X, LABELS)
    for each in (value, *gradients.values()):
        assert ops.is_tensor(each)
        assert not isinstance(each, np.ndarray)


def test_the_mode_is_the_caller_s() -> None:
    case = CASES["convolutional"]
    model = build(case)
    trained, inferred = (
        dlf.value_and_grad(model, case.loss(), training=each)(case.x, case.y)[0] for each in (True, False)
    )
    assert trained != inferred
    assert inferred == pytest.approx(
        float(ops.convert_to_numpy(case.loss()(case.y, model(case.x, training=False)))), rel=1e-6
    )


def test_a_loss_for_each_output_by_name() -> None:
    x = keras.Input((6,))
    model = keras.Model(x, [layers.Dense(2, name=name)(x) for name in ("a", "b")])
    found = [
        dlf.value_and_grad(model, loss)(X, [X[:, :2], X[:, 2:4]])
        for loss in ({"a": "mse", "b": "mae"}, ["mse", "mae"], {"a": "mae", "b": "mse"})
    ]
    assert found[0][0] == found[1][0] != found[2][0]
    for name, gradient in found[0][1].items():
        np.testing.assert_array_equal(gradient, found[1][1][name], err_msg=name)


NAMES = ("named", "a/named", "items")


@pytest.mark.parametrize("path", PATHS)
def test_a_loss_has_its_parameters_as_a_mapping_under_any_names(path: str) -> None:
    def loss(parameters: Any, batch: Any) -> Any:
        assert sorted(parameters) == sorted(NAMES)
        assert len(list(parameters.items())) == len(parameters) == len(NAMES)
        return sum(ops.sum(ops.square(each)) for each in parameters.values()) * ops.mean(batch[1])

    taking: Any = current_backend().gradient_paths()[path]
    parameters = {name: np.full(2, place + 1.0, np.float32) for place, name in enumerate(NAMES)}
    batch = (np.ones(3, np.float32), np.ones(3, np.float32))
    value, gradients = taking.loss_and_gradients(loss, parameters, batch)
    assert float(ops.convert_to_numpy(value)) == 28
    product = taking.hessian_vector_product(loss, parameters, batch, parameters)
    of_each = taking.per_example_gradients(loss, parameters, batch)
    updated = taking.apply(parameters, gradients, 0.25)
    for name, start in parameters.items():
        for found in (gradients, product):
            np.testing.assert_array_equal(ops.convert_to_numpy(found[name]), 2 * start)
        np.testing.assert_array_equal(ops.convert_to_numpy(of_each[name]), np.stack([2 * start] * 3))
        np.testing.assert_array_equal(ops.convert_to_numpy(updated[name]), start / 2)


@pytest.mark.parametrize("path", PATHS)
def test_second_derivatives_by_a_table_are_whole_tensors(path: str) -> None:
    def loss(parameters: Any, batch: Any) -> Any:
        return ops.sum(ops.square(ops.take(parameters["table"], batch[0], axis=0)))

    taking: Any = current_backend().gradient_paths()[path]
    table = {"table": np.ones((4, 2), np.float32)}
    rows = np.array([1, 3, 3], np.int32)
    product = taking.hessian_vector_product(loss, table, (rows, rows), table)["table"]
    assert [ops.convert_to_numpy(product[row]).tolist() for row in range(4)] == [[each] * 2 for each in (0, 2, 0, 4)]


def test_two_variables_of_one_path_have_two_names() -> None:
    twice = [layers.Dense(2, name="same") for _ in range(2)]
    x = keras.Input((2,))

    class Inner(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        def __init__(self) -> None:
            super().__init__(name="inner")
            self.layers_inside = twice

        def call(self, inputs: Any) -> Any:
            return twice[1](twice[0](inputs))

    model = keras.Model(x, Inner()(x))
    _, gradients = dlf.value_and_grad(model, "mse")(X[:, :2], X[:, :2])
    assert len(gradients) == 4
    assert sum(name.endswith(" (2)") for name in gradients) == 2


class Unready(keras.Model):  # type: ignore[misc]  # Keras has no types.
    def call(self, inputs: Any) -> Any:
        return inputs


def frozen() -> keras.Model:
    model = mlp()
    model.trainable = False
    return model


def with_integers() -> keras.Model:
    class Counts(layers.Layer):  # type: ignore[misc]  # Keras has no types.
        def build(self, shape: Any) -> None:
            self.add_weight(shape=(), dtype="int32", initializer="zeros", name="count")

        def call(self, inputs: Any) -> Any:
            return inputs

    return keras.Sequential([keras.Input((6,)), layers.Dense(2), Counts(name="counts")])


def norm_of_each(y_true: Any, y_pred: Any) -> Any:
    return ops.sum(y_pred, axis=-1)


MISTAKES: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "not built": (Unready, "mse", r"model: expected a model that is built, received .*Give it an Input, or call it"),
    "no model": (lambda: layers.Dense(1), "mse", r"a Keras model, received <Dense.*Put the layer into one"),
    "several": (lambda: (mixed(), mixed()), "mse", r"Name one of them: the first is that by \[0\]"),
    "nothing to train": (
        lambda: keras.Sequential([keras.Input((6,)), layers.ReLU()]),
        "mse",
        r"model: expected a trainable variable, received \[\]",
    ),
    "frozen": (
        frozen,
        "mse",
        r"expected a trainable variable, received \['model/hidden/kernel, frozen'.*trainable = True",
    ),
    "integers": (with_integers, "mse", r"the variable .*counts/count: expected floating-point .* received 'int32'"),
    "no loss": (mlp, None, r"loss: expected a loss, or a model that was compiled with one, received None\. Say loss="),
    "misspelt": (
        mlp,
        "mean_squared",
        r"loss: expected .*, received 'mean_squared'\. Did you mean 'mean_squared_error'\?",
    ),
    "no such thing": (mlp, 3, r"loss: expected what keras.Model.compile takes as a loss, received 3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_before_anything_is_computed(name: str) -> None:
    make, loss, message = MISTAKES[name]
    if name == "integers" and BACKEND == "torch":
        pytest.skip("PyTorch refuses such a variable when it is made")
    with pytest.raises(InvalidArgumentError, match=f"(?s){message}"):
        dlf.value_and_grad(make(), loss)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "loss", [norm_of_each, lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)]
)
def test_a_loss_for_each_example_is_refused(loss: Any, path: str) -> None:
    """Keras takes the mean of what a loss function returns, but not of a `Loss` without reduction."""
    if loss is norm_of_each:
        value, _ = dlf.value_and_grad(mlp(), loss, path=path)(X, LABELS)
        assert value.shape == ()
        return
    with pytest.raises(InvalidArgumentError, match=rf"loss: expected a scalar, received .*\({len(X)},\).*mean over"):
        dlf.value_and_grad(mlp(), loss(), path=path)(X, LABELS)


def test_an_unknown_path_is_named_with_those_there_are() -> None:
    with pytest.raises(
        InvalidArgumentError, match=rf"path: expected one of {', '.join(PATHS)}, on {BACKEND}, received '{PATHS[0]}s'"
    ):
        dlf.value_and_grad(mlp(), "mse", path=f"{PATHS[0]}s")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_by_its_variable(bad: float) -> None:
    model = mlp()
    # The message counts the elements of the first kernel that are not finite.
    x = X.copy()
    compute = dlf.value_and_grad(model, keras.losses.MeanSquaredError())
    y = np.zeros((len(X), CLASSES), np.float32)
    compute(x, y)
    y[0, 0] = bad
    with pytest.raises(
        TrainingError, match=r"the gradient of model/hidden/kernel: expected numbers, .* in 48 of 48 elements"
    ):
        compute(x, y)
    _, gradients = dlf.value_and_grad(model, "mse", as_numpy=False)(x, y)
    found = {name: np.isfinite(ops.convert_to_numpy(gradient)) for name, gradient in gradients.items()}
    assert found["model/out/bias"].tolist() == [False, True, True]


def test_it_says_nothing_that_it_should_not() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dlf.value_and_grad(mlp(), crossentropy())(X, LABELS)
    assert not [each for each in said if issubclass(each.category, UserWarning)]


class WithoutMode(keras.Sequential):  # type: ignore[misc]  # Keras has no types.
    """A `compute_loss` without ``training``, as it was before Keras 3.3, and without labels."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        assert y is None
        return keras.ops.mean(keras.ops.square(x - y_pred))


@pytest.mark.parametrize("path", PATHS)
def test_a_compute_loss_of_its_own_is_called_as_keras_calls_it(path: str) -> None:
    model = WithoutMode([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="zeros", name="d")], name="m")
    x = np.array([[1.0, 2.0]], "float32")
    loss, gradients = value_and_grad(model, None, path=path)(x)
    assert float(loss) == 2.5
    np.testing.assert_allclose(gradients["m/d/bias"], -x[0])
    assert check_gradients(model, (x,)).ok
