"""A built Keras model as a Flax NNX module, and its trained values back in the model.

Requirements:

* one call converts in each direction; ``nnx.grad``, ``nnx.jit``, ``nnx.Optimizer``, ``nnx.split`` and Orbax accept the
  module like any other;
* the numbers are those of Keras: each training call advances seeds and updates statistics, also in compiled code;
* the module has its own copies of the values: training it, with donated buffers or not, does not change the model until
  `from_nnx` is called.
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
    """The state of a `keras.random.SeedGenerator`, shape ``(2,)``: a seed and the number of draws so far."""


class NonTrainable(nnx.Variable):  # type: ignore[misc]  # Likewise.
    """A Keras variable that is neither a parameter, a statistic nor a seed: a frozen weight or a counter, say."""


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
        # Set now, so that no layer takes this name below: a layer may have any name, also that of an NNX method.
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
            training: Whether dropout is active and BatchNormalization uses the batch's statistics. None means the mode
                that ``train()`` or ``eval()`` has set, which is training at first, as in NNX.
            return_losses: Whether to return ``(outputs, losses)``, where `losses` are the scalars of regularizers and
                `add_loss` in this call; add their sum to the loss that is trained.
            **kwargs: The model's other arguments, such as `mask`.

        Raises:
            InvalidArgumentError: The Keras model has gained or lost variables since `to_nnx`, or its call updates a
                variable that is not in ``model.variables``, so that the update would be lost.
        """
        model, pairs = self._origin.model, paired(self)
        values = [variable.get_value() for _, variable in pairs]
        mapping = [(ours, value) for (ours, _), value in zip(pairs, values, strict=True)]
        # `model.stateless_call` would do nearly the same, but bypasses `Layer.__call__`: in a model whose `call` has no
        # argument `training`, dropout would be off, and a layer that is called twice would lose the losses of its first
        # call.
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
            # Unchanged values are not written: NNX forbids writing to a module from outside the transformation.
            # What a layer assigns to a parameter is dropped, as by Keras on JAX: only the optimizer changes parameters.
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
    of seeds `KerasSeed` (an `nnx.RngState`), all others `NonTrainable`. Each keeps its shape and dtype, and is found
    under its Keras path, ``state["dense"]["kernel"]``; a name that is taken gets a number, ``kernel_1``. If a
    checkpoint is to be restored in another process, give the layers names: default names, such as ``dense_3``, depend
    on the layers that were made before.

    At first, and after ``module.train()``, ``module(x)`` computes ``model(x, training=True)``; after ``module.eval()``
    it computes ``model(x, training=False)``. An argument, ``module(x, training=...)``, overrides the mode. State that
    Keras would update in a call is updated in the module. ``nnx.clone`` and ``copy.deepcopy`` make modules with their
    own values, for the same Keras model.

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
    """Copies all values of a module that `to_nnx` made into the module's Keras model, and returns the model.

    Since the values are copied, the module can be trained further. The state of the model's Keras optimizer does not
    change.

    Args:
        module: The module that `to_nnx` returned, or a copy of it. If a larger module holds it, pass this part alone.

    Raises:
        BackendError: Keras runs on another backend.
        InvalidArgumentError: The module is not one of `to_nnx`, its values are tracers because the call is inside a
            transformation, or the Keras model has gained or lost variables since `to_nnx`.

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
    """Holds the Keras model as static data of an NNX module: it is compared by identity, and never copied."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: Any) -> _Origin:
        return self


def paired(module: Any) -> list[tuple[Any, Any]]:
    """Returns each Keras variable together with the module's variable that stands for it.

    Args:
        module: The module that `to_nnx` returned, or a copy of it.

    Returns:
        The pairs, in the order of ``model.variables``.

    Raises:
        InvalidArgumentError: The Keras model has gained or lost variables since `to_nnx`.

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
    """Returns the names in a variable's Keras path, which checkpoints use, without those that differ between models.

    Left out are the model's own name, and the number in the name of a seed generator.
    """
    names = [re.sub(r"^seed_generator_\d+$", "seed_generator", name) for name in variable.path.split("/")]
    return names[1:] if names[0] == model.name and len(names) > 1 else names


def _place(node: Any, path: Sequence[str], variable: Any) -> tuple[str, ...]:
    """Stores the variable under the path below the node, with numbers after names that are taken; returns the path."""
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
    """Returns the first of name, name_1, name_2, ... that is no attribute of the node, or one of the types in `but`."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    return next(each for each in names if not hasattr(node, each) or isinstance(getattr(node, each), but))


def _kind(variable: Any, trainable: set[int]) -> type[Any]:
    # Only their names distinguish Keras's statistics and seeds from other variables.
    if id(variable) in trainable:
        return nnx.Param
    if variable.name in {"moving_mean", "moving_variance"}:
        return nnx.BatchStat
    return KerasSeed if variable.name == "seed_generator_state" else NonTrainable


def _copy(value: Any) -> jax.Array:
    return jax.numpy.array(value, copy=True)
