"""Losses and optimizers of Keras by their names.

What is asked of it:

* a name that Keras does not have is an error that lists those it has.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["check_loss", "find_optimizer"]


def check_loss(loss: Any) -> None:
    """Raises where a loss is named that Keras does not have.

    Args:
        loss: As in Keras's `compile`.

    Raises:
        InvalidArgumentError: Keras has none of this name.
    """
    try:
        keras.losses.get(loss if isinstance(loss, str) else None)
    except ValueError as error:
        known = sorted(name for name in vars(keras.losses) if name.islower() and not name.startswith("_"))
        raise InvalidArgumentError(
            "loss", expected="a loss of Keras, or a function", received=loss, advice=did_you_mean(loss, known)
        ) from error


def find_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that a name stands for; an optimizer is returned as it is.

    Args:
        optimizer: A name, or an optimizer of Keras.

    Returns:
        The optimizer.

    Raises:
        InvalidArgumentError: Keras has none of this name; the message lists those it has.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer | dict):
        return optimizer
    try:
        return keras.optimizers.get(optimizer if isinstance(optimizer, str) else "")
    except ValueError as error:
        classes = [value for value in vars(keras.optimizers).values() if inspect.isclass(value)]
        known = sorted(each.__name__.lower() for each in classes if _can_be_named(each))
        raise InvalidArgumentError(
            "optimizer",
            expected=f"an optimizer, or one of {', '.join(known)}",
            received=optimizer,
            advice=did_you_mean(str(optimizer), known),
        ) from error


def _can_be_named(optimizer: type) -> bool:
    """Whether Keras can make it without arguments: those that wrap other optimizers cannot be asked for by name."""
    parameters = inspect.signature(optimizer).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
    return issubclass(optimizer, keras.optimizers.Optimizer) and not required
