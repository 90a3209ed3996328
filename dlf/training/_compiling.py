"""Compiles a model as was asked, by its own `compile`, or leaves it as it is compiled already.

Requirements:

* nothing is passed to a `compile` of the model's own that it does not take;
* arguments that cannot be meant raise one clear error before anything is compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from dlf.models.by_name import find_optimizer
from dlf.models.model_loss import check_is_model, has_own
from dlf.training.engine.plan import forget_runner
from dlf.utils.errors import InvalidArgumentError, did_you_mean

__all__ = ["check_compiled", "check_fit_options", "compiling", "sort_options"]


def sort_options(model: keras.Model, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sorts options into those for `compile` and those for `fit`.

    Args:
        model: The model whose `compile` and `fit` will be called.
        options: Keyword arguments.

    Returns:
        The options for `compile`, and those for `fit`.

    Raises:
        InvalidArgumentError: Neither method has such an argument, or `compile_and_fit` has another name for it.
    """
    of_compile, of_fit = _taken_by_compile(model), _names(keras.Model.fit) - _DATA
    for name, value in options.items():
        if name not in of_compile | of_fit:
            renamed = {"x": "train", "y": "train", "validation_data": "validation_ds"}.get(name)
            raise InvalidArgumentError(
                name,
                expected="an argument of keras.Model.compile or keras.Model.fit",
                received=value,
                advice=f"Here it is called {renamed!r}." if renamed else did_you_mean(name, of_compile | of_fit),
            )
    for_compile = {name: value for name, value in options.items() if name in of_compile}
    return for_compile, {name: value for name, value in options.items() if name not in of_compile}


def check_fit_options(options: dict[str, Any]) -> None:
    """Raises unless all options are arguments of Keras's `fit`.

    Args:
        options: Keyword arguments.

    Raises:
        InvalidArgumentError: One is not.
    """
    known = _names(keras.Model.fit)
    for name, value in options.items():
        if name not in known:
            raise InvalidArgumentError(
                name,
                expected="an argument of keras.Model.fit",
                received=value,
                advice="Compile the model first: model.compile(...)."
                if name in _names(keras.Model.compile)
                else did_you_mean(name, known),
            )


def check_compiled(model: Any) -> None:
    """Raises unless this is a compiled Keras model.

    Args:
        model: The value of an argument `model`.

    Raises:
        InvalidArgumentError: It is no model, or is not compiled.
    """
    check_is_model(model)
    if not model.compiled:
        raise InvalidArgumentError(
            "model", expected="a compiled model", received=model.name, advice="Call model.compile(loss=...) first."
        )


def compiling(model: keras.Model, arguments: dict[str, Any]) -> Callable[[], None]:
    """Returns a function that compiles the model, or does nothing if it is compiled and no argument is given.

    Args:
        model: Any Keras model.
        arguments: The arguments of its `compile`; None is one that is not given.

    Raises:
        InvalidArgumentError: Its `compile` does not take an argument, or lacks one; or there would be no loss.
    """
    given = {name: each for name, each in arguments.items() if each is not None}
    if not given and model.compiled:
        return lambda: None
    taken = _taken_by_compile(model)
    for name, value in given.items():
        if name not in taken:
            raise InvalidArgumentError(
                name, expected=f"an argument of the model's own {_shown(model)}", received=value, advice=_OR_NONE
            )
    if model.compiled and "loss" in taken and "loss" not in given and getattr(model, "loss", None) is not None:
        raise InvalidArgumentError(
            "loss",
            expected=f"a loss beside {', '.join(given)}, since the model is compiled anew with what is given",
            received=None,
            advice="Say loss=..., or leave the others out to train the model as it is compiled.",
        )
    if "optimizer" in taken and (given.get("optimizer") is not None or _has_no_default(model, "optimizer")):
        given["optimizer"] = find_optimizer(given.get("optimizer", "adam"))
    if isinstance(given.get("metrics"), str | tuple):
        metrics = given["metrics"]
        given["metrics"] = [metrics] if isinstance(metrics, str) else list(metrics)
    try:
        inspect.signature(model.compile).bind(**given)
    except TypeError as error:
        raise InvalidArgumentError(
            "model",
            expected=f"a compiled model, or the arguments of its own {_shown(model)}",
            received=sorted(given),
            advice=f"Python says: {error}.",
        ) from error

    def compile_it() -> None:
        model.compile(**given)
        forget_runner(model)

    return compile_it


_DATA = {"x", "y", "validation_data"}
_OR_NONE = "Leave it out to train a model as it is compiled."


def _names(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def _taken_by_compile(model: keras.Model) -> set[str]:
    """The names that the model's `compile` takes; one with ``**keywords`` is taken to hand them to Keras's own."""
    parameters = inspect.signature(model.compile).parameters.values()
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    passes_on = any(each.kind == each.VAR_KEYWORD for each in parameters)
    return named | (_names(keras.Model.compile) if passes_on else set())


def _has_no_default(model: keras.Model, name: str) -> bool:
    """Whether dlf's default is passed: a default in a `compile` of the model's own comes first."""
    found = inspect.signature(model.compile).parameters.get(name)
    return not has_own(model, "compile") or found is None or found.default is found.empty


def _shown(model: keras.Model) -> str:
    signature = inspect.signature(model.compile)
    plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return f"compile{signature.replace(parameters=plain, return_annotation=signature.empty)}"
