"""A built Keras model as a Flax NNX module, and its trained values back in the model.

Requirements:

* one call each way; ``nnx.grad``, ``nnx.jit``, ``nnx.Optimizer``, ``nnx.split`` and Orbax take the module as any other;
* the numbers are those of Keras: masks and statistics move on at each training call, inside compiled code too;
* the module has values of its own: training it, with donated buffers or not, leaves the model alone until `from_nnx`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import keras
from flax import nnx

from dlf.utils.errors import BackendError, InvalidArgumentError
from dlf_jax.optimizers import check_backend

__all__ = ["KerasModule", "KerasSeed", "NonTrainable", "from_nnx", "paired", "to_nnx"]


class KerasSeed(nnx.RngState):  # type: ignore[misc]  # Flax is skipped by mypy.
    """The state ``(2,)`` of a `keras.random.SeedGenerator`: a seed, and how often it was drawn from."""


class NonTrainable(nnx.Variable):  # type: ignore[misc]  # Likewise.
    """What a Keras model keeps that is no parameter, statistic or seed: frozen weights, say, and counters."""


class KerasModule(nnx.Module):  # type: ignore[misc]  # Likewise.
    """A Keras model as an NNX module: made by `to_nnx`, which says how to use it.

    Args:
        model: A built Keras model.

    Attributes:
        deterministic: Whether a call without `training` is inference; ``train()`` and ``eval()`` set it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.deterministic = False
        self._origin = nnx.static(_Origin(model))
        # Set before its time, that no layer takes its name: they may have each other's, and those of NNX's methods.
        self._paths: tuple[tuple[str, ...], ...] = ()
        trainable = {id(variable) for variable in model.trainable_variables}
        self._paths = tuple(
            _place(self, _names(variable, model), _kind(variable, trainable)(_copy(variable.value)))
            for variable in model.variables
        )

    def __call__(self, *args: Any, training: bool | None = None, return_losses: bool = False, **kwargs: Any) -> Any:
        """Returns what the Keras model returns, and updates the module's statistics, seeds and other state.

        Args:
            *args: The model's inputs.
            training: Whether dropout drops and BatchNormalization takes the batch's statistics; None means as
                ``train()`` and ``eval()`` left it, which is training at first, as in NNX.
            return_losses: Whether to return ``(outputs, losses)``, with the scalars that regularizers and `add_loss`
                made of this call: their sum belongs in the loss that is trained.
            **kwargs: The model's other arguments, `mask` say.

        Raises:
            InvalidArgumentError: The Keras model has got or lost variables since `to_nnx`, or its call updates what is
                not in ``model.variables``, and would be lost.
        """
        model, pairs = self._origin.model, paired(self)
        values = [variable.get_value() for _, variable in pairs]
        mapping = [(ours, value) for (ours, _), value in zip(pairs, values, strict=True)]
        # `stateless_call` would do nearly the same, but it skips `Layer.__call__`: a layer that is called twice then
        # loses the losses of its first call, and a model that does not name `training` never trains its dropout.
        with keras.StatelessScope(mapping, collect_losses=return_losses) as scope:
            outputs = model(*args, training=not self.deterministic if training is None else training, **kwargs)
            losses = list(model.losses) if return_losses else []
        if scope.state_mapping.keys() - {id(ours) for ours, _ in pairs}:
            raise InvalidArgumentError(
                "model",
                expected="a model that updates no other variables than model.variables",
                received=model,
                advice="Keras leaves out the states of recurrent layers with stateful=True (pass them as "
                "initial_state, with return_state=True) and the seed of random numbers that are given none (give "
                "them a keras.random.SeedGenerator that is an attribute of the layer).",
            )
        for (ours, variable), value in zip(pairs, values, strict=True):
            new = scope.get_current_value(ours)
            # Unchanged ones are not written: NNX forbids that where the module comes from outside a transformation.
            # What a layer assigns to a parameter is dropped, as Keras drops it on JAX: the optimizer changes those.
            if new is not value and not isinstance(variable, nnx.Param):
                variable.set_value(new)
        return (outputs, losses) if return_losses else outputs

    def set_view(self, *, deterministic: bool | None = None) -> None:
        """Sets the mode of the module that ``nnx.view`` makes.

        Args:
          deterministic: Whether a call without `training` is inference.
        """
        # Indented by two, as in Flax: `nnx.view_info` reads it, and fails on four.
        if deterministic is not None:
            self.deterministic = deterministic


def to_nnx(model: keras.Model) -> KerasModule:
    """Returns a Flax NNX module that computes what a built Keras model computes, from a copy of its variables.

    The trainable variables are `nnx.Param`, the moving statistics of BatchNormalization `nnx.BatchStat`, the states
    of seeds `KerasSeed` (an `nnx.RngState`), all others `NonTrainable`. Each keeps its shape and dtype, and stands
    under its Keras path, ``state["dense"]["kernel"]``; a name that is taken there gets a number, ``kernel_1``. Where a
    checkpoint is to be restored in another process, give the layers names: Keras's own, ``dense_3``, count up.

    ``module(x)`` is ``model(x, training=True)`` after ``module.train()`` and at first, and ``training=False`` after
    ``module.eval()``; ``module(x, training=...)`` wins. What Keras would update in a call, the module updates in
    itself; ``nnx.clone`` and ``copy.deepcopy`` make modules with values of their own, of the same Keras model.

    Args:
        model: A built `keras.Model`, on the JAX backend and without ``KERAS_NNX_ENABLED``.

    Raises:
        InvalidArgumentError: The model is not a Keras model, or not built.
        BackendError: Keras runs on another backend, or with its own NNX mode on.

    Example:
        >>> import jax, keras, optax
        >>> from flax import nnx
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="out")])
        >>> module = to_nnx(model)
        >>> optimizer = nnx.Optimizer(module, optax.adam(0.1), wrt=nnx.Param)
        >>> @nnx.jit
        ... def train_step(module, optimizer, x, y):
        ...     loss = lambda module: ((module(x, training=True) - y) ** 2).mean()
        ...     value, gradients = nnx.value_and_grad(loss)(module)
        ...     optimizer.update(module, gradients)
        ...     return value
        >>> x, y = jax.numpy.ones((8, 3)), jax.numpy.ones((8, 2))
        >>> losses = [float(train_step(module, optimizer, x, y)) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
        >>> nnx.state(module, nnx.Param)["out"]["kernel"].shape
        (3, 2)
        >>> bool((from_nnx(module)(x) == module(x, training=False)).all())
        True

    Source: https://flax.readthedocs.io/en/latest/nnx_basics.html
    """
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError("model", expected="a keras.Model", received=model)
    check_backend("to_nnx")
    if keras.config.is_nnx_enabled():
        raise BackendError(
            "to_nnx: expected Keras without its own NNX mode, which is on. "
            "Unset KERAS_NNX_ENABLED before Python starts: to_nnx does not need it."
        )
    if not model.built:
        raise InvalidArgumentError(
            "model",
            expected="a built model",
            received=model,
            advice="Call it on a batch, or call model.build(input_shape), first.",
        )
    return KerasModule(model)


def from_nnx(module: KerasModule) -> keras.Model:
    """Puts all values of a module that `to_nnx` made into the Keras model that it was made from, and returns that.

    They are copied, so that the module can be trained on. The state of the model's Keras optimizer stays as it was.

    Args:
        module: What `to_nnx` returned, or a copy: of a larger module that holds it, only that part.

    Raises:
        BackendError: Keras runs on another backend.
        InvalidArgumentError: The module is another, or its values are not there yet because a function is being
            transformed, or the Keras model has got or lost variables since `to_nnx`.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> from_nnx(to_nnx(model)) is model
        True
    """
    check_backend("from_nnx")
    if not isinstance(module, KerasModule):
        raise InvalidArgumentError(
            "module",
            expected="what dlf.to_nnx returned",
            received=module,
            advice="Of a larger module, give the attribute that holds it.",
        )
    pairs = paired(module)
    values = [variable.get_value() for _, variable in pairs]
    if not all(isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) for value in values):
        raise InvalidArgumentError(
            "module",
            expected="a module whose values are arrays",
            received=values[0],
            advice="Call from_nnx outside nnx.jit, nnx.grad and nnx.eval_shape.",
        )
    for (ours, _), value in zip(pairs, values, strict=True):
        ours.assign(_copy(value))
    return module._origin.model  # noqa: SLF001 - our own.


class _Origin:
    """Holds the Keras model where NNX keeps what is no data: compared by identity, and never copied."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: Any) -> _Origin:
        return self


def paired(module: Any) -> list[tuple[Any, Any]]:
    """Returns each Keras variable, with the module's variable in its place.

    Args:
        module: What `to_nnx` returned, or a copy.

    Returns:
        The pairs, in the order of ``model.variables``.

    Raises:
        InvalidArgumentError: The Keras model has got or lost variables since `to_nnx`.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
        >>> module = to_nnx(model)
        >>> [ours is theirs for (ours, _), theirs in zip(paired(module), model.variables, strict=True)]
        [True, True]
    """
    variables, paths = module._origin.model.variables, module._paths  # noqa: SLF001 - our own.
    if len(variables) != len(paths):
        raise InvalidArgumentError(
            "module",
            expected=f"that its Keras model still has the {len(paths)} variables of when to_nnx was called",
            received=len(variables),
            advice="Call to_nnx again after changing a model.",
        )
    return [(ours, _at(module, path)) for ours, path in zip(variables, paths, strict=True)]


def _at(node: Any, path: Sequence[str]) -> Any:
    for name in path:
        node = getattr(node, name)
    return node


def _names(variable: Any, model: keras.Model) -> list[str]:
    """The variable's Keras path, without what Keras counts up from model to model: checkpoints are found by it."""
    names = [re.sub(r"^seed_generator_\d+$", "seed_generator", name) for name in variable.path.split("/")]
    return names[1:] if names[0] == model.name and len(names) > 1 else names


def _place(node: Any, path: Sequence[str], variable: Any) -> tuple[str, ...]:
    """Sets the variable at the path below the node, or at the nearest that is free, and returns where."""
    found = []
    for name in path[:-1]:
        found.append(_free(node, name, but=nnx.Dict))
        if not hasattr(node, found[-1]):
            setattr(node, found[-1], nnx.Dict())
        node = getattr(node, found[-1])
    found.append(_free(node, path[-1]))
    setattr(node, found[-1], variable)
    return tuple(found)


def _free(node: Any, name: str, but: type | tuple[type, ...] = ()) -> str:
    """The first of name, name_1, name_2, ... that is no attribute of the node yet, but for the given types."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    return next(each for each in names if not hasattr(node, each) or isinstance(getattr(node, each), but))


def _kind(variable: Any, trainable: set[int]) -> type[Any]:
    # Keras tells neither statistics nor seeds from other variables, but by the names that it gives them.
    if id(variable) in trainable:
        return nnx.Param
    if variable.name in {"moving_mean", "moving_variance"}:
        return nnx.BatchStat
    return KerasSeed if variable.name == "seed_generator_state" else NonTrainable


def _copy(value: Any) -> jax.Array:
    return jax.numpy.array(value, copy=True)
