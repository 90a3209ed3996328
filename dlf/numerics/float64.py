"""The float64 reference of a model: the same weights and the same code, computed in float64.

Requirements:

* every layer computes in float64, on every backend, and so does everything that is called inside `float64_everywhere`;
* the reference starts from the values of the model's variables, seeds included, so that random masks are the same; what
  a layer has derived from its variables, as `Normalization` does in `adapt`, is derived again in the reference;
* where no reference can be made, the error says why, and what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np

from dlf.backend.keras_internals import dtype_policy_kept, float64_kept, tensorflow_hidden
from dlf.backend.registry import current_backend
from dlf.models.layers import layers_by_path
from dlf.random.seed import common_randomness
from dlf.utils.errors import InvalidArgumentError
from dlf.utils.files import temporary_folder

__all__ = [
    "float64_everywhere",
    "float64_reference",
    "hand_over",
    "holds_the_same",
    "in_float64",
    "rebuilt",
]


@contextmanager
def float64_everywhere() -> Iterator[None]:
    """Makes Keras build and compute in float64, for as long as the context lasts.

    Raises:
        BackendError: This version of Keras cannot be made to compute in float64.

    Example:
        >>> with float64_everywhere():
        ...     layer = keras.layers.Dense(1)
        ...     str(keras.backend.standardize_dtype(layer(keras.ops.ones((1, 2), "float64")).dtype))
        'float64'
    """
    floatx = keras.config.floatx()
    with current_backend().float64(), float64_kept(), dtype_policy_kept(), _losses_in_float64():
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx(floatx)


@contextmanager
def in_float64() -> Iterator[None]:
    """Makes Keras compute in float64 and draw common random masks, for as long as the context lasts."""
    # In this order: with x64 enabled, JAX draws other masks by itself, which have to be replaced too.
    with float64_everywhere(), common_randomness():
        yield


@contextmanager
def _losses_in_float64() -> Iterator[None]:
    """Makes all losses compute in float64: each keeps the dtype that was the default when it was made.

    That may be long before, and out of reach: a script's own loss calls one of Keras's that the script has made.
    """
    before = keras.losses.Loss.dtype
    keras.losses.Loss.dtype = property(lambda _: "float64")
    try:
        yield
    finally:
        keras.losses.Loss.dtype = before


def float64_reference(model: keras.Model, build: Callable[[], keras.Model] | None = None) -> keras.Model:
    """Returns the same model in float64, with the same values.

    Call it, and use what it returns, inside `float64_everywhere`.

    Args:
        model: A built model.
        build: A function that builds the model; by default the model is recreated from its configuration.

    Returns:
        The reference, whose variables are in the same order as the model's.

    Raises:
        InvalidArgumentError: The model cannot be recreated, or its copy has other variables.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> with float64_everywhere():
        ...     float64_reference(model).dtype
        'float64'
    """
    reference = rebuilt(model, "float64") if build is None else build()
    if not reference.built:
        _build_like(reference, model)
    ours, theirs = model.variables, reference.variables
    if [tuple(each.shape) for each in ours] != [tuple(each.shape) for each in theirs]:
        raise InvalidArgumentError(
            "model",
            expected=f"{len(ours)} variables of the same shapes when it is made anew in float64",
            received=[each.path for each in theirs],
            advice="Give a function that builds the model, and see that it does the same at each call.",
        )
    hand_over(model, reference)
    for source, target in zip(ours, theirs, strict=True):
        target.assign(keras.ops.cast(source.value, target.dtype))
        if source.trainable != target.trainable:
            target.trainable = source.trainable
    if hasattr(reference, "register_parameter"):  # Where a model is a module of PyTorch.
        _register_all(reference, model)
    return reference


def hand_over(model: keras.Model, other: keras.Model) -> None:
    """Copies what layers hold outside of their variables from one model to another, as when Keras loads a saved model.

    A layer may keep values that it has derived from its variables, or a vocabulary that it has learnt. Such a layer has
    its own `load_own_variables` or `load_assets`, which are called here.

    Args:
        model: The model to copy from.
        other: A model of the same layers, or the same model, whose variables have been assigned already. The values of
            its variables may change, as where a layer merges its LoRA weights.

    Example:
        >>> norm, other = keras.layers.Normalization(), keras.layers.Normalization()
        >>> norm.adapt(np.array([[1.0], [3.0]]))
        >>> other.build((None, 1))
        >>> hand_over(keras.Sequential([norm]), keras.Sequential([other]))
        >>> float(other.mean[0, 0])
        2.0
    """
    for source, target in zip(layers_by_path(model).values(), layers_by_path(other).values(), strict=False):
        # A layer's own method may need what only a saved file has; then the layer keeps its initial state.
        if type(source) is type(target) and type(source).load_own_variables is not keras.Layer.load_own_variables:
            _load(source, target)
        if type(source) is type(target) and source is not target and hasattr(source, "load_assets"):
            with suppress(Exception), temporary_folder("dlf-assets-") as folder:
                source.save_assets(str(folder))
                target.load_assets(str(folder))


def _load(source: keras.Layer, target: keras.Layer) -> None:
    """Lets a layer load what another saves, unless it then holds other things than that one.

    A file may hold another form of a layer, as where it is quantized when it is saved.
    """
    ours, before = dict(vars(source)), dict(vars(target))
    values = [_copy_of(each.value) for each in target.variables]
    with suppress(Exception):
        store: dict[str, Any] = {}
        source.save_own_variables(store)
        target.load_own_variables({name: _copy_of(each) for name, each in store.items()})
        after = vars(target)
        changed = [name for name, each in after.items() if each is not before.get(name)]
        if all(_is_kept(ours.get(name), after[name]) for name in changed):
            return
    # It failed half-way, or is another layer now.
    vars(target).clear()
    vars(target).update(before)
    for variable, value in zip(target.variables, values, strict=True):
        variable.assign(value)


def _is_kept(one: Any, other: Any) -> bool:
    """Whether an attribute that has been loaded is that of the layer that was saved, as far as it can be compared."""
    if one is None or isinstance(one, bool | str):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, int | float | np.ndarray) or keras.ops.is_tensor(one):
        one, other = (np.asarray(each) if isinstance(each, int | float) else each for each in (one, other))
        return _is_alike(one, other)
    return True


def _copy_of(value: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(value))


def holds_the_same(model: keras.Model, other: keras.Model) -> bool:
    """Tells whether the layers of two models hold the same arrays, numbers and strings in their attributes.

    An attribute that was set after a layer was made is not in its configuration, so a recreated model may lack it.

    Args:
        model: A model.
        other: A model of the same layers, possibly in another precision.

    Example:
        >>> one, two = keras.Sequential([keras.layers.ReLU()]), keras.Sequential([keras.layers.ReLU()])
        >>> one.layers[0].table = np.ones(2)
        >>> holds_the_same(one, two), holds_the_same(one, one)
        (False, True)
    """
    pairs = zip(layers_by_path(model).values(), layers_by_path(other).values(), strict=False)
    return all(
        _is_alike(value, vars(theirs).get(name))
        for ours, theirs in pairs
        for name, value in vars(ours).items()
        if _decides_results(name, value)
    )


def _decides_results(name: str, value: Any) -> bool:
    """Whether an attribute is compared: an array, or a public number or string that is not one of Keras's own."""
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        return True
    return isinstance(value, bool | int | float | str) and not name.startswith("_") and name not in _OF_KERAS


_OF_KERAS = {"built", "name", "trainable"}


def _is_alike(one: Any, other: Any) -> bool:
    if isinstance(one, bool | int | float | str):
        return bool(one == other)
    if not (isinstance(other, np.ndarray) or keras.ops.is_tensor(other)):
        return False
    try:
        ours, theirs = _copy_of(one).astype(np.float64), _copy_of(other).astype(np.float64)
    except (NotImplementedError, TypeError, ValueError):  # It holds no numbers, or was left by a trace.
        return True
    # An array that was computed in float64 has more digits.
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-3, atol=1e-6, equal_nan=True)


def _register_all(reference: Any, model: Any) -> None:
    """Registers with PyTorch the variables of a reference that Keras has not registered, if the model lacks none.

    Keras sets the gradients of registered variables to zero before each step. It registers variables by path, so that
    of two with the same path only the last is registered. In a recreated layer, cells may share a path where those of
    the model do not.
    """

    def missing(one: Any) -> list[Any]:
        registered = {id(each) for each in one.parameters()}
        return [each.value for each in one.trainable_variables if id(each.value) not in registered]

    if not missing(model):
        for number, value in enumerate(missing(reference)):
            reference.register_parameter(f"of_a_path_that_another_has_{number}", value)


def rebuilt(model: keras.Model, dtype: str) -> keras.Model:
    """Returns a model recreated from its own configuration, with every dtype policy in it replaced.

    Args:
        model: A built model.
        dtype: The name of a policy, such as ``"float64"`` or ``"mixed_bfloat16"``.

    Raises:
        InvalidArgumentError: The model cannot be recreated; the message says why.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> rebuilt(model, "mixed_bfloat16").layers[0].compute_dtype
        'bfloat16'
    """
    kinds = {type(each).__name__: type(each) for each in (model, *layers_by_path(model).values())}
    kinds = {name: kind for name, kind in kinds.items() if not kind.__module__.startswith("keras.")}
    try:
        with tensorflow_hidden():
            config = _with_dtype(keras.saving.serialize_keras_object(model), dtype)
        # The model's code is in this process already, so loading a Lambda is no new risk.
        reference: keras.Model = keras.saving.deserialize_keras_object(config, custom_objects=kinds, safe_mode=False)
        if not reference.built:
            _build_like(reference, model)
    except Exception as error:
        raise InvalidArgumentError(
            "model",
            expected=f"a model that can be made anew from its configuration, in {dtype}",
            received=model,
            advice=f"Give a function that builds it instead. The reason: {' '.join(str(error).split())[:200]}",
        ) from error
    return reference


def _build_like(reference: keras.Model, model: keras.Model) -> None:
    config = model.get_build_config()
    if config:
        reference.build_from_config(config)


def _with_dtype(config: Any, dtype: str) -> Any:
    """Returns a configuration with every floating-point dtype and every dtype policy in it replaced."""
    if isinstance(config, list | tuple):
        return [_with_dtype(each, dtype) for each in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {"name": dtype}}
    if config.get("class_name") == "InputLayer" and dtype.startswith("mixed"):
        return config  # An input has a dtype and no policy: under a mixed policy it stays float32.
    return {
        name: dtype if name == "dtype" and isinstance(each, str) and "float" in each else _with_dtype(each, dtype)
        for name, each in config.items()
    }
