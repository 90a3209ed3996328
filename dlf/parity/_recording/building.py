"""Builds the model under test from a user's function or a saved file, by the dtype policy that was asked for.

Requirements:

* a file is loaded in safe mode: its content is data, and is never run;
* an error in a user's function is reported with the user's own lines of the traceback.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import keras

from dlf.backend.keras_internals import dtype_policy_kept
from dlf.check.advice import explained
from dlf.models.scripts import TrainedError
from dlf.models.targets import is_file, is_saved_model, load_target, script_behind
from dlf.numerics.float64 import rebuilt
from dlf.utils.errors import BackendError, DlfError, InvalidArgumentError, revive

__all__ = ["builder_of", "failing_with_lines"]


def builder_of(target: str, dtype: str) -> Callable[..., Any]:
    """Returns a function that builds the model anew at each call.

    With ``anew=True`` it first runs the user's module once more: layers at module level are others then, and of the
    present dtype policy.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name``, ``package.module:name`` or ``file.keras``.
        dtype: The dtype policy that the model computes by; ``"float32"`` leaves the model's own as it is.

    Raises:
        InvalidArgumentError: The target cannot be imported. The returned function raises it where it fails to build.
    """
    if is_saved_model(target):
        return partial(_loaded, Path(target), dtype)
    # A file may have changed since this process ran it; a package is imported once, as ever.
    return partial(_called, target, _loaded_by_policy(target, dtype, anew=is_file(target)), dtype)


@contextmanager
def failing_with_lines(target: str) -> Iterator[None]:
    """Adds to an error which lines of the target's file did not run: what they would have made may be lacking.

    Args:
        target: A target that was loaded.
    """
    try:
        yield
    except Exception as error:
        script = script_behind(target)
        if not script.failed:
            raise
        lines = [f"In the file, {each}." for each in script.remarks]
        if isinstance(error, DlfError):
            raise revive(type(error), "\n".join([str(error), *lines]), vars(error)) from error
        # What fails now may follow from what has failed before.
        raise BackendError("\n".join(["it failed to build:", explained(error), *lines])) from error


def _loaded_by_policy(target: str, dtype: str, *, anew: bool) -> Callable[..., Any]:
    """Loads the target by the dtype policy that is asked for: its models may be made when the file is run."""
    if not _is_asked_for(dtype):
        return load_target(target, anew=anew)  # The file may set a policy of its own, which stays.
    with dtype_policy_kept():
        keras.config.set_dtype_policy(dtype)
        return load_target(target, anew=anew)


def _called(target: str, function: Callable[[], Any], dtype: str, *, anew: bool = False) -> Any:
    function = _loaded_by_policy(target, dtype, anew=True) if anew else function
    script = script_behind(target)
    fits = len(script.fits)
    try:
        with dtype_policy_kept(), script.called():
            if _is_asked_for(dtype):
                keras.config.set_dtype_policy(dtype)
            found = function()
    except TrainedError:
        return script.fits[-1].model if len(script.fits) > fits else None
    except Exception as error:
        if len(script.fits) > fits:
            return script.fits[-1].model  # What follows the training, such as plots, counts on it.
        wants = _wanted_arguments(function)
        raise InvalidArgumentError(
            "TARGET",
            expected="a function without arguments, or a call, that returns a Keras model",
            received=getattr(function, "__name__", function),
            advice=f"Write the call out: '{target}({', '.join(f'{each}=...' for each in wants)})'."
            if wants
            else f"\n{explained(error)}",
        ) from error
    # A `main` trains a model, and returns nothing.
    return script.fits[-1].model if found is None and script.fits else found


def _wanted_arguments(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function has to be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # It has no signature.
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _loaded(file: Path, dtype: str, *, anew: bool = False) -> Any:  # noqa: ARG001 - a file is always loaded anew.
    if not is_zipfile(file):
        raise InvalidArgumentError(
            "TARGET",
            expected="a file that Keras saved, which is a zip archive",
            received=str(file),
            advice="Save the model again: model.save('model.keras').",
        )
    try:
        with warnings.catch_warnings():
            # A model that was not trained is saved without slots; training starts from new ones.
            warnings.filterwarnings("ignore", message=r"(?s).*optimizer")
            model = keras.saving.load_model(file, safe_mode=True)
    except Exception as error:
        # Keras puts its whole configuration around the reason.
        reason = str(error).rpartition("Exception encountered: ")[2].partition("Full object config")[0]
        raise InvalidArgumentError(
            "TARGET",
            expected="a file that Keras saved, of Keras's own layers alone: it is loaded in safe mode, which runs no "
            "code of the file's",
            received=str(file),
            advice="For a model with a Lambda or with classes of your own, give a function instead: a file.py:function "
            f"that imports them and calls keras.saving.load_model. Keras says: {_shortened(' '.join(reason.split()))}",
        ) from error
    if not _is_asked_for(dtype) or not isinstance(model, keras.Model):
        return model
    other = rebuilt(model, dtype)
    for source, variable in zip(model.variables, other.variables, strict=True):
        variable.assign(keras.ops.cast(source.value, variable.dtype))
    if model.compiled:
        other.compile_from_config(model.get_compile_config())
    return other


def _is_asked_for(dtype: str) -> bool:
    # The float64 reference is in float64, whatever was asked for.
    return dtype != "float32" and keras.config.floatx() != "float64"


def _shortened(text: str, length: int = 400) -> str:
    return text if len(text) <= length else text[:length] + "..."
