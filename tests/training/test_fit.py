"""What `fit` and `compile_and_fit` take: compiled models, a `compile` of the model's own, and data without labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import dlf
from dlf.random.seed import set_seed
from dlf.utils.errors import InvalidArgumentError

X = np.random.default_rng(3).normal(size=(24, 4)).astype("float32")
Y = X[:, :1] * 2


class Own(keras.Sequential):  # type: ignore[misc]  # Keras has no types.
    def compile(self, g_optimizer: Any, loss_fn: Any = "mse") -> None:
        super().compile(optimizer=g_optimizer, loss=loss_fn)


def model(kind: type[keras.Sequential] = keras.Sequential) -> keras.Sequential:
    set_seed(5)
    return kind([keras.Input((4,)), keras.layers.Dense(1)])


def compiled(**options: Any) -> keras.Sequential:
    made = model()
    made.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return made


def test_it_is_keras_s_fit_in_fewer_calls() -> None:
    own, given = compiled(), compiled()
    expected = own.fit(X, Y, 8, 2, 0, validation_data=(X, Y), shuffle=False).history
    found = dlf.fit(given, X, Y, 8, 2, 0, validation_data=(X, Y), shuffle=False)
    assert found.engine == "fused"
    assert list(found.history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.history[name], values, rtol=1e-5)


@pytest.mark.parametrize("fit", [dlf.fit, dlf.compile_and_fit])
def test_a_compiled_model_keeps_its_optimizer(fit: Any) -> None:
    given = compiled(optimizer=keras.optimizers.Adam(0.01), metrics=["mae"])
    optimizer = given.optimizer
    for _ in range(2):
        history = fit(given, (X, Y) if fit is dlf.compile_and_fit else X, **_labels(fit), batch_size=8, verbose=0)
    assert given.optimizer is optimizer
    assert int(optimizer.iterations) == 6
    assert set(history.history) == {"loss", "mae"}


def _labels(fit: Any) -> dict[str, Any]:
    return {"y": Y} if fit is dlf.fit else {}


def test_a_compile_of_its_own_gets_what_it_takes() -> None:
    given = model(Own)
    history = dlf.compile_and_fit(given, (X, Y), g_optimizer="adam", loss_fn="mae", verbose=0)
    assert history.engine == "fused"
    assert type(given.optimizer).__name__ == "Adam"
    assert given.loss == "mae"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"model: expected a compiled model, or the arguments of its own compile\(g_optimizer, loss_fn='mse'\)"),
        ({"loss": "mae", "g_optimizer": "sgd"}, r"loss: expected an argument of the model's own compile\(g_opt"),
        ({"d_optimizer": "sgd"}, r"d_optimizer: .* Did you mean 'g_optimizer'\?"),
    ],
)
def test_what_a_compile_of_its_own_does_not_take_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        dlf.compile_and_fit(model(Own), (X, Y), **options)


def test_a_compiled_model_loses_its_loss_to_no_slip() -> None:
    with pytest.raises(InvalidArgumentError, match="loss: expected a loss beside optimizer, since the model is compi"):
        dlf.compile_and_fit(compiled(), (X, Y), optimizer="adam")


class Halves(keras.utils.PyDataset):  # type: ignore[misc]  # As above.
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return X[12 * index : 12 * index + 12], Y[12 * index : 12 * index + 12]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X,), {}, r"x, y: expected batches, \(x, y\) or \(x, y, sample_weight\): the loss compares .* with labels"),
        ((), {}, "x, y: expected batches"),
        ((X, Y[:3]), {}, r"x, y: expected as many labels as inputs, received \(24, 3\)"),
        ((X.tolist(), Y), {}, r"x, y: expected arrays.*numpy.asarray"),
        ((Halves(), Y), {}, "y: expected None beside batches"),
        ((X, Y), {"optimizer": "sgd"}, r"optimizer: expected an argument of keras.Model.fit.* Compile the model first"),
        ((X, Y), {"batchsize": 3}, "Did you mean 'batch_size'"),
        ((X, Y), {"epochs": 0}, "epochs: expected a positive integer"),
        ((X, Y), {"batch_size": 0}, "batch_size: expected a positive integer, received 0"),
        ((X[:, :1], Y), {}, r"x, y: expected inputs of the shape \(None, \d+\), which .*, received \(24, 1\)"),
        ((X, Y.astype(str)), {}, r"x, y: expected labels that are numbers.*numpy.unique\(y, return_inverse=True\)"),
        ((X, Y), {"engine": "fast"}, "engine: expected one of auto, fused, keras"),
    ],
)
def test_what_cannot_be_trained_on_is_said(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        dlf.fit(compiled(), *arguments, **options)
    assert "[[" not in str(caught.value)  # No array is printed.


def test_a_misspelt_metric_and_what_is_no_model_are_said_before_anything_is_computed() -> None:
    with pytest.raises(InvalidArgumentError, match=r"metrics: expected .* 'acuracy'. Did you mean 'accuracy'"):
        dlf.compile_and_fit(model(), (X, Y), loss="mse", metrics=["mae", {"out": "acuracy"}])
    with pytest.raises(InvalidArgumentError, match=r"model: expected a Keras model, .* Call it: model\(\)."):
        dlf.compile_and_fit(model, (X, Y), loss="mse")


def test_inputs_of_another_size_are_taken_where_the_model_takes_them() -> None:
    parts = [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    history = dlf.compile_and_fit(
        keras.Sequential(parts), (np.ones((4, 6, 6, 1)), np.ones((4, 2))), loss="mse", verbose=0
    )
    assert len(history.history["loss"]) == 1


def test_batches_are_taken_as_x() -> None:
    assert dlf.fit(compiled(), Halves(), verbose=0).engine == "fused"


def test_a_model_has_to_be_compiled_and_a_model() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a compiled model.* Call model.compile"):
        dlf.fit(model(), X, Y)
    with pytest.raises(InvalidArgumentError, match="model: expected a Keras model, received 'model'"):
        dlf.fit("model", X, Y)


def test_a_fit_of_its_own_is_called() -> None:
    class Twice(keras.Sequential):  # type: ignore[misc]  # As above.
        def fit(self, *arguments: Any, **options: Any) -> Any:
            super().fit(*arguments, **options)
            return super().fit(*arguments, **options)

    given = model(Twice)
    given.compile("sgd", "mse")
    history = dlf.fit(given, X, Y, batch_size=8, verbose=0)
    assert "a fit of its own" in history.engine_reason
    assert int(given.optimizer.iterations) == 6


class Joined(keras.Model):  # type: ignore[misc]  # As above.
    """Takes a pair of inputs, in a tuple, a list or a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs: Any) -> Any:
        first, second = keras.tree.flatten(inputs)
        return self.dense(first + second)


@pytest.mark.parametrize("together", [tuple, list, lambda pair: dict(zip("ab", pair, strict=True))])
def test_inputs_may_come_in_any_structure(together: Any) -> None:
    inputs = together([X, X])
    given = Joined()
    given.compile("sgd", "mse")
    assert dlf.fit(given, inputs, Y, batch_size=8, verbose=0).engine == "fused"
    expected = given.predict(inputs, verbose=0)
    np.testing.assert_allclose(dlf.predict(given, inputs), expected, rtol=1e-5)
    assert dlf.evaluate(given, (inputs, Y))["loss"] == pytest.approx(given.evaluate(inputs, Y, verbose=0), rel=1e-5)
