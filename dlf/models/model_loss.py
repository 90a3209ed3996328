"""A Keras model and its loss as a pure function of parameters and a batch, for every gradient path.

Requirements:

* the loss is the one that Keras's `train_step` minimises: regularizers, `add_loss`, sample weights and masks included;
* the model does not change: batch statistics and seeds are read, and new values for them are dropped;
* each trainable variable has a unique name, its path; if a path occurs again, a number is appended.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras
import ml_dtypes
import numpy as np

from dlf.backend.keras_internals import tensorflow_hidden
from dlf.backend.protocol import Batch, Loss, Parameters
from dlf.models.by_name import check_loss
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.trees import mapped

__all__ = [
    "as_batch",
    "check_is_model",
    "check_model",
    "computed_loss",
    "has_own",
    "loss_function",
    "model_loss",
    "named_variables",
    "parameters_of",
    "to_numpy",
    "weights_of_losses",
]


def model_loss(
    model: keras.Model, loss: Any = None, *, training: bool = True, names: Iterable[str] | None = None
) -> Loss:
    """Returns a function that computes a model's loss with given parameters in place of the model's own.

    Args:
        model: A built Keras model.
        loss: As in Keras's `compile`; None means the loss that the model was compiled with.
        training: The mode in which the model is called.
        names: The names of the parameters, in the order of the trainable variables; by default their paths.

    Returns:
        The function ``(parameters, batch) -> scalar``; the batch is ``(x, y)`` or ``(x, y, sample_weight)``.

    Raises:
        InvalidArgumentError: The model is not built, has nothing to train, or has no loss.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones", name="d")])
        >>> loss = model_loss(model, "mse")
        >>> float(loss(parameters_of(model), (np.ones((1, 2), "float32"), np.zeros((1, 1), "float32"))))
        4.0
    """
    check_model(model)
    variables = dict(zip(names or named_variables(model), model.trainable_variables, strict=True))
    loss_model = _loss_model(model, loss)

    def compute(parameters: Parameters, batch: Batch) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        mapping = [(variable, parameters[name]) for name, variable in variables.items()]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            predictions = model(x, training=training)
            value = computed_loss(loss_model, x, y, predictions, weights, training=training)
            if loss_model is not model:
                value += sum(map(keras.ops.sum, model.losses))  # A layer may add a loss of each example.
        _check_scalar(value)
        return value

    return compute


def computed_loss(  # noqa: PLR0913 - those of `compute_loss`.
    model: keras.Model, x: Any, y: Any, predictions: Any, sample_weight: Any = None, *, training: bool = True
) -> Any:
    """Returns what a model's `compute_loss` gives, called as Keras calls it: with `training` only if it takes that.

    Args:
        model: A model that computes a loss.
        x: The inputs.
        y: The targets, or None.
        predictions: The model's outputs.
        sample_weight: The weight of each example, or None.
        training: The mode.
    """
    mode = {"training": training} if "training" in inspect.signature(model.compute_loss).parameters else {}
    return model.compute_loss(x, y, predictions, sample_weight, **mode)


def has_own(model: keras.Model, method: str) -> bool:
    """Whether the model's class has this method of `keras.Model` of its own.

    Args:
        model: A model.
        method: The name of the method.

    Example:
        >>> has_own(keras.Sequential(), "compute_loss")
        False
    """
    return getattr(type(model), method) is not getattr(keras.Model, method)


def loss_function(loss: Any, model: keras.Model | None = None, loss_weights: Any = None) -> Callable[..., Any]:
    """Returns a loss as Keras computes it after `compile`: a function ``(y_true, y_pred) -> scalar``.

    Args:
        loss: As in Keras's `compile`; None means what the model was compiled with, its `loss_weights` included.
        model: The model that makes the predictions; a dictionary of losses may refer to the names of its outputs.
        loss_weights: As in Keras's `compile`; ignored if `loss` is None.

    Returns:
        The function, which also takes sample weights; it leaves out regularizers and `add_loss`.

    Raises:
        InvalidArgumentError: Keras has no such loss, or `loss` is None and the model has no loss that can be used.

    Example:
        >>> float(loss_function("mse")(np.zeros((2, 1), "float32"), np.full((2, 1), 3.0, "float32")))
        9.0
    """
    if loss is None and model is not None:
        loss, loss_weights = _compiled_loss(model)
    loss_model = _loss_model_of(loss, model, loss_weights)

    def compute(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # The scope drops the update of the running mean that the model keeps of its loss.
        with keras.StatelessScope():
            value = loss_model.compute_loss(None, y_true, y_pred, sample_weight)
        _check_scalar(value)
        return value

    return compute


def parameters_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns copies of the trainable variables by name, as NumPy arrays.

    Args:
        model: A built Keras model.

    Returns:
        The values, under the names that `named_variables` gives.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")], name="m")
        >>> {name: value.shape for name, value in parameters_of(model).items()}
        {'m/d/kernel': (2, 1), 'm/d/bias': (1,)}
    """
    return {name: to_numpy(variable.value) for name, variable in named_variables(model).items()}


def named_variables(model: keras.Model) -> dict[str, Any]:
    """Returns the trainable variables by their paths; if a path occurs again, a number is appended to it.

    Args:
        model: A built Keras model.

    Returns:
        Keras's variables, in the model's order.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")], name="m")
        >>> list(named_variables(model))
        ['m/d/kernel', 'm/d/bias']
    """
    taken: Counter[str] = Counter()
    named = {}
    for variable in model.trainable_variables:
        taken[variable.path] += 1
        count = taken[variable.path]
        named[variable.path if count == 1 else f"{variable.path} ({count})"] = variable
    return named


def as_batch(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Returns ``(x, y)`` or ``(x, y, sample_weight)`` as the backend's tensors.

    Args:
        x: The inputs: an array, or a structure of arrays.
        y: The targets, likewise, or None.
        sample_weight: The weight of each example, or None.

    Returns:
        The tuple, or x alone if there are no targets.

    Example:
        >>> [tuple(part.shape) for part in as_batch(np.ones((4, 3)), np.ones(4))]
        [(4, 3), (4,)]
    """
    return mapped(keras.ops.convert_to_tensor, keras.utils.pack_x_y_sample_weight(x, y, sample_weight))


def check_is_model(model: Any) -> None:
    """Raises an error unless this is a Keras model.

    Args:
        model: The value of an argument `model`.

    Raises:
        InvalidArgumentError: It is something else; the message says what to do.

    Example:
        >>> check_is_model(keras.Sequential())
    """
    if isinstance(model, keras.Model):
        return
    # A model made before keras.config.set_backend, say, is an instance of another keras.Model.
    if any(each.__name__ == "Model" and each.__module__.startswith("keras.") for each in type(model).__mro__):
        raise InvalidArgumentError(
            "model",
            expected=f"a model of this process's Keras, which runs on {keras.config.backend()}",
            received=model,
            advice="This one was made by Keras on another backend: build it anew here.",
        )
    advice = ""
    if isinstance(model, tuple | list) and any(isinstance(each, keras.Model) for each in model):
        advice = "Name one of them: the first is that by [0]."
    elif isinstance(model, keras.Layer):
        advice = "Put the layer into one: keras.Sequential([keras.Input(shape), layer])."
    elif inspect.isfunction(model) and model.__name__.isidentifier():
        advice = f"Call it: {model.__name__}()."
    raise InvalidArgumentError("model", expected="a Keras model", received=model, advice=advice)


def check_model(model: Any, *, is_trained: bool = True) -> None:
    """Raises an error unless this is a built Keras model with trainable floating-point variables.

    Args:
        model: The value of an argument `model`.
        is_trained: Whether it has to have a trainable variable.

    Raises:
        InvalidArgumentError: It is no such model; the message says what to do.

    Example:
        >>> check_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    """
    check_is_model(model)
    if not model.built:
        raise InvalidArgumentError(
            "model",
            expected="a model that is built",
            received=model,
            advice="Give it an Input, or call it on a batch once.",
        )
    if is_trained and not model.trainable_variables:
        raise InvalidArgumentError(
            "model",
            expected="a trainable variable",
            received=[f"{each.path}, frozen" for each in model.weights],
            advice="Set layer.trainable = True on what is to be trained.",
        )
    for name, variable in named_variables(model).items():
        if "float" not in variable.dtype:
            raise InvalidArgumentError(
                f"the variable {name}",
                expected="floating-point numbers, which a gradient can be taken by",
                received=variable.dtype,
                advice="Make it with trainable=False.",
            )


def to_numpy(value: Any) -> np.ndarray:
    """Returns a copy of a tensor's values as a NumPy array.

    Args:
        value: A tensor of the backend, a Keras variable, or an array.

    Returns:
        The copy, which may be changed.

    Example:
        >>> to_numpy(keras.ops.ones(2)).tolist()
        [1.0, 1.0]
    """
    if keras.ops.is_tensor(value) and len(value.shape) == 0 and "bfloat16" in str(value.dtype):
        # TensorFlow cannot convert a bfloat16 scalar to NumPy.
        return np.array(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))).astype(ml_dtypes.bfloat16)
    return np.array(keras.ops.convert_to_numpy(value))


def _loss_model(model: keras.Model, loss: Any) -> keras.Model:
    """Returns the model that computes the loss: the user's model, or an empty one compiled with the given loss."""
    if loss is None:
        # A model that overrides `compute_loss` need not be compiled.
        if not model.compiled and not has_own(model, "compute_loss"):
            raise _no_loss()
        return model
    return _loss_model_of(loss, model)


def _compiled_loss(model: keras.Model) -> tuple[Any, Any]:
    """Returns the loss that the model was compiled with, and its weights.

    Unlike `model.compute_loss`, this loss leaves out regularizers and `add_loss`.
    """
    if has_own(model, "compute_loss"):
        raise InvalidArgumentError(
            "loss",
            expected="a loss, since the model has a compute_loss of its own, which adds penalties itself",
            received=None,
            advice="Give what it computes without them as loss=..., a function of (y_true, y_pred).",
        )
    if not model.compiled or model.loss is None:
        raise _no_loss()
    return model.loss, weights_of_losses(model)


def weights_of_losses(model: keras.Model) -> Any:
    """Returns the `loss_weights` that a model was compiled with.

    Args:
        model: A compiled Keras model.

    Raises:
        InvalidArgumentError: Keras cannot serialize the arguments of `compile`.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse", loss_weights=[2.0])
        >>> weights_of_losses(model)
        [2.0]
    """
    try:
        with warnings.catch_warnings(), tensorflow_hidden():
            # Keras warns, for example, that a lambda among the losses is not safe to load.
            warnings.simplefilter("ignore")
            weights = model.get_compile_config()["loss_weights"]
    except (NotImplementedError, TypeError) as error:
        raise InvalidArgumentError(
            "loss",
            expected="a loss, since the model was compiled with what Keras cannot serialize",
            received=None,
            advice=f"Say loss=... again, or give it a get_config: {error}",
        ) from error
    # Keras writes a tuple as a dictionary.
    return keras.saving.deserialize_keras_object(weights)


def _no_loss() -> InvalidArgumentError:
    return InvalidArgumentError(
        "loss", expected="a loss, or a model that was compiled with one", received=None, advice="Say loss=..."
    )


def _loss_model_of(loss: Any, model: keras.Model | None = None, weights: Any = None) -> keras.Model:
    check_loss(loss)
    if not (callable(loss) or isinstance(loss, str | list | tuple | dict)):
        raise InvalidArgumentError("loss", expected="what keras.Model.compile takes as a loss", received=loss)
    loss_model = keras.Model()
    if model is not None and hasattr(model, "output_names"):
        # A dictionary of losses refers to these names if the outputs are a list.
        loss_model.output_names = model.output_names
    loss_model.compile(loss=loss, loss_weights=weights)
    return loss_model


def _check_scalar(value: Any) -> None:
    if len(value.shape):
        raise InvalidArgumentError(
            "loss",
            expected="a scalar",
            received=f"the shape {tuple(value.shape)}",
            advice="Take the mean over the batch: a Keras loss does, unless it has reduction=None.",
        )
