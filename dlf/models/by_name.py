"""Looks up Keras's losses and optimizers by name.

Requirements:

* the error for an unknown name suggests or lists known names.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["check_loss", "find_optimizer"]


def check_loss(loss: Any) -> None:
    """Raises an error if a loss is given by a name that Keras does not have.

    Args:
        loss: As in Keras's `compile`.

    Raises:
        InvalidArgumentError: Keras has no loss of this name.
    """
    try:
        keras.losses.get(loss if isinstance(loss, str) else None)
    except ValueError as error:
        known = sorted(name for name in vars(keras.losses) if name.islower() and not name.startswith("_"))
        raise InvalidArgumentError(
            "loss", expected="a loss of Keras, or a function", received=loss, advice=did_you_mean(loss, known)
        ) from error


def find_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer of a name; an optimizer is returned unchanged.

    Args:
        optimizer: A name, or a Keras optimizer.

    Returns:
        The optimizer.

    Raises:
        InvalidArgumentError: Keras has no optimizer of this name; the message lists the known names.
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
    """Tells whether a class can be made without arguments, as a name asks for; wrappers of other optimizers cannot."""
    parameters = inspect.signature(optimizer).parameters.values()
    required = [each for each in parameters if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
    return issubclass(optimizer, keras.optimizers.Optimizer) and not required
