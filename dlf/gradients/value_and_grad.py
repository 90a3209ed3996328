"""The loss of any Keras model and its gradients, taken by the framework that the model runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from dlf.backend.protocol import GradientPath
from dlf.backend.registry import current_backend
from dlf.models.model_loss import as_batch, model_loss, named_variables, to_numpy
from dlf.random.seed import randomness_as_seeded
from dlf.utils.errors import InvalidArgumentError, TrainingError, did_you_mean

__all__ = ["find_path", "value_and_grad"]


def value_and_grad(
    model: keras.Model,
    loss: Any = None,
    *,
    path: str | None = None,
    training: bool = True,
    as_numpy: bool = True,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Returns a function that gives the model's loss on a batch, and its derivative by each trainable variable.

    For the loss ``L`` and a variable ``θ`` of any shape, the gradient ``∂L/∂θ`` has the shape of ``θ``. ``L`` is what
    Keras's `train_step` minimises: the loss over the batch, plus regularizers and `add_loss`. A variable that ``L``
    does not depend on has a gradient of zeros, on every framework. The model is left as it was: batch statistics are
    not updated, and the next call has the same dropout masks.

    Args:
        model: A built Keras model; it need not be compiled.
        loss: As in Keras's `compile`: a name, a loss, a function of ``(y_true, y_pred)``, or one for each output. None
            stands for the loss that the model was compiled with.
        path: Which of the framework's ways takes the gradients: on JAX ``"grad"`` or ``"nnx"``, on TensorFlow
            ``"tape"``, on PyTorch ``"autograd"``; None is the first.
        training: Whether the model is called in training mode.
        as_numpy: Whether to return NumPy arrays and check that they are finite; otherwise the framework's own tensors
            are returned, unchecked.

    Returns:
        A function ``(x, y, sample_weight=None) -> (loss, gradients)``, the gradients by the variables' paths.

    Raises:
        InvalidArgumentError: The model is not built or has nothing to train, there is no loss or it is not a scalar,
            or the path does not exist.
        TrainingError: A gradient is NaN or infinite, with `as_numpy`; the message names the variable.

    Example:
        >>> x = keras.Input((1,))
        >>> model = keras.Model(x, keras.layers.Dense(1, kernel_initializer="ones", name="line")(x))
        >>> value, gradients = value_and_grad(model, "mse")(np.array([[2.0]], "float32"), np.array([[5.0]], "float32"))
        >>> float(value)
        9.0
        >>> {name: gradient.tolist() for name, gradient in gradients.items()}
        {'line/kernel': [[-12.0]], 'line/bias': [-6.0]}

    Source: `keras.Model.stateless_call`; `jax.value_and_grad`, `tf.GradientTape.gradient`, `torch.autograd.grad`.
    """
    function, taking = model_loss(model, loss, training=training), find_path(path)
    variables = named_variables(model)

    def compute(x: Any, y: Any = None, sample_weight: Any = None) -> tuple[Any, dict[str, Any]]:
        parameters = {name: variable.value for name, variable in variables.items()}
        with randomness_as_seeded():
            value, found = taking.loss_and_gradients(function, parameters, as_batch(x, y, sample_weight))
        # In the order of the variables on every backend: JAX returns dictionaries sorted by key.
        gradients = {name: found[name] for name in variables}
        if not as_numpy:
            return value, gradients
        arrays = {name: to_numpy(gradient) for name, gradient in gradients.items()}
        _check_finite(arrays)
        return to_numpy(value)[()], arrays

    return compute


def find_path(name: str | None) -> GradientPath:
    """Returns the gradient path of this name on the backend of this process; the first for None.

    Raises:
        InvalidArgumentError: The backend has no path of this name; the message lists those that it has.
    """
    paths = current_backend().gradient_paths()
    if name is None:
        return next(iter(paths.values()))
    if name not in paths:
        raise InvalidArgumentError(
            "path",
            expected=f"one of {', '.join(paths)}, on {current_backend().name}",
            received=name,
            advice=did_you_mean(name, paths),
        )
    return paths[name]


def _check_finite(gradients: dict[str, np.ndarray]) -> None:
    for name, gradient in gradients.items():
        if not np.isfinite(gradient).all():
            count = int(np.size(gradient) - np.isfinite(gradient).sum())
            raise TrainingError(
                f"the gradient of {name}: expected numbers, received NaN or infinity in {count} of {gradient.size} "
                "elements. Look for NaN in the inputs, a logarithm or a root of zero, and weights that are not finite; "
                "as_numpy=False returns the gradients as they are."
            )
