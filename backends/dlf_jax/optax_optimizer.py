"""Wraps any optax transformation as a Keras optimizer.

Requirements:

* the update is optax's own, in Keras's `fit`, in dlf's engines, and with Keras's callbacks;
* optax's state is held in Keras variables, one for each array, so that it is saved and restored with the model;
* what Keras cannot do, such as setting a learning rate that is inside a function, raises an error when it is tried.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import optax

from dlf.utils.errors import InvalidArgumentError
from dlf_jax.optimizers import check_backend

__all__ = ["OptaxOptimizer", "from_optax"]


def from_optax(
    transformation: optax.GradientTransformation,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | None = None,
    name: str = "optax",
) -> keras.optimizers.Optimizer:
    """Returns a Keras optimizer that makes the updates of an optax transformation.

    With gradients g, parameters p of any shapes and optax's state s, a step is ``u, s ← update(g, s, p)`` and then
    ``p ← p + u``, or ``p ← p + η u`` if a learning rate η is given here. The parameters are a dictionary
    ``{variable.path: array}`` of the trainable variables; optax's masks and labels refer to these names. A variable
    without a gradient keeps its value and its state, as with Keras's own optimizers; the transformation gets zeros for
    its gradient.

    Keras's callbacks can set the learning rate if it is given here, or if the transformation was made with
    ``optax.inject_hyperparams(optax.adam)(learning_rate=...)``. Otherwise it is hidden inside a function: reading it
    gives infinity, and setting it raises an error.

    A saved model includes optax's state, but a file cannot hold optax's functions. While this optimizer exists, models
    with it can be cloned and loaded like any other. In another process, load with ``compile=False`` and compile with
    `from_optax` again; ``model.optimizer.build(model.trainable_variables)`` and ``model.load_weights`` of the same file
    then restore optax's state.

    Args:
        transformation: An optax transformation, such as ``optax.adam(1e-3)``.
        learning_rate: A number or a Keras schedule by which the updates are multiplied; the transformation's own
            learning rate should then be 1, as in ``optax.adam(1.0)``. With None, the updates are added unchanged.
        name: The name of the optimizer.

    Returns:
        The optimizer.

    Raises:
        BackendError: Keras runs on another backend than JAX.
        InvalidArgumentError: `transformation` is no optax transformation, or Keras cannot use the learning rate. The
            optimizer raises it later if the transformation needs more than gradients, state and parameters, if the
            learning rate cannot be set, or if a file is loaded whose transformation does not exist any more.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0))
        >>> model.compile(from_optax(clipped, learning_rate=0.1), loss="mse")
        >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
        >>> history = model.fit(x, 2 * x + 1, epochs=20, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    Source: optax 0.2.8, `GradientTransformation`; Keras 3.15, `Optimizer.apply`.
    """
    check_backend("from_optax")
    if not isinstance(transformation, optax.GradientTransformation | optax.MultiSteps):
        raise InvalidArgumentError(
            "transformation",
            expected="an optax.GradientTransformation, such as optax.adam(1e-3)",
            received=transformation,
            advice="Keras's own optimizers need no from_optax, and a function of optax has to be called.",
        )
    if isinstance(learning_rate, int) and not isinstance(learning_rate, bool):
        learning_rate = float(learning_rate)
    if not isinstance(learning_rate, float | keras.optimizers.schedules.LearningRateSchedule | None):
        raise InvalidArgumentError(
            "learning_rate",
            expected="a number, a keras.optimizers.schedules.LearningRateSchedule or None",
            received=learning_rate,
            advice="A schedule of optax's is given to the transformation: optax.adam(schedule).",
        )
    return OptaxOptimizer(transformation, learning_rate, name)


@dataclass(frozen=True)
class _Slots:
    """The variables of a built optimizer, and the structure of optax's state.

    They are in an object of their own, since Keras would take model variables in a list for the optimizer's own.
    """

    targets: dict[str, keras.Variable]
    state: list[keras.Variable]
    """A variable for each array of the state, in JAX's order."""
    structure: Any
    keys: list[Any]
    """For each array of the state, the implementation of the random key that it stores, or None if it stores none."""
    owners: list[str | None]
    """For each array of the state, the path of the variable that it belongs to, or None."""


@keras.saving.register_keras_serializable(package="dlf")
class OptaxOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras has no types, so its classes are `Any`.
    """The optimizer that `from_optax` returns.

    Args:
        transformation: An optax transformation.
        learning_rate: The factor of its updates, or None.
        name: The name of the optimizer.
    """

    def __init__(self, transformation: Any, learning_rate: Any = None, name: str = "optax") -> None:
        # If the learning rate is a function, Keras makes no variable for it.
        super().__init__(self._rate_inside if learning_rate is None else learning_rate, name=name)
        self._transformation = transformation
        self._token = uuid.uuid4().hex
        _ALIVE[self._token] = self
        self._is_scaled = learning_rate is not None
        self._slots: Any = None
        self._inside: keras.Variable | None = None
        self._is_scheduled = False

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates a variable for each array of optax's state.

        Args:
            variables: The model's trainable variables.

        Raises:
            InvalidArgumentError: The transformation needs more than gradients, state and parameters, or the gradients
                are those of a scaled loss.
        """
        if self.built:
            return
        if self.loss_scale_factor is not None:  # Keras would divide optax's updates by it.
            raise InvalidArgumentError(
                "loss_scale_factor",
                expected="None",
                received=self.loss_scale_factor,
                advice="Wrap the optimizer: keras.optimizers.LossScaleOptimizer(from_optax(...)).",
            )
        targets: dict[str, keras.Variable] = {}
        for variable in variables:
            if not getattr(variable, "overwrite_with_gradient", False):
                path = variable.path
                # Two layers may have the same name.
                targets[path if path not in targets else f"{path}:{len(targets)}"] = variable
        params = {path: each.value for path, each in targets.items()}
        initial = self._transformation.init(params)
        try:
            # Checked now: when Keras's `fit` traces a step, it has donated the weights, and an error would lose them.
            jax.eval_shape(self._transformation.update, params, initial, params)
        except TypeError as error:
            raise InvalidArgumentError(
                "transformation",
                expected="one whose update takes gradients, state and parameters",
                received=self._transformation,
                advice=f"It says: {error}. Keras gives an optimizer neither the loss nor the model.",
            ) from error
        super().build(variables)
        leaves, structure = jax.tree_util.tree_flatten_with_path(initial)
        paths, stored = [path for path, _ in leaves], [_as_stored(leaf) for _, leaf in leaves]
        made: dict[int, keras.Variable] = {}
        for number in _order(paths, list(targets)):
            path, (array, _) = paths[number], stored[number]
            label = jax.tree_util.keystr(path, simple=True, separator=".")
            variable = self.add_variable(
                array.shape,
                # A copy: some states hold the parameters themselves, and Keras donates the memory of both at each step.
                initializer=lambda shape, dtype, array=array: jnp.array(array, dtype),  # noqa: ARG005
                dtype=str(array.dtype),
                name=label.replace("/", "_"),
            )
            made[number] = variable
            if ".hyperparams.learning_rate" in f".{label}":
                self._inside = variable
            self._is_scheduled |= ".hyperparams_states.learning_rate" in f".{label}"
        keys = [[getattr(each, "key", None) for each in path] for path in paths]
        self._slots = _Slots(
            targets,
            [made[number] for number in range(len(paths))],
            structure,
            [kind for _, kind in stored],
            [next((each for each in reversed(mine) if each in targets), None) for mine in keys],
        )

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Replaces the gradients by optax's updates, and lets Keras apply them.

        Args:
            grads: The gradients, in the order of the variables; None for a variable without a gradient.
            trainable_variables: The variables; by default those that the optimizer was built for.
        """
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        # If there is no gradient at all, Keras raises an error below.
        if self.built and any(gradient is not None for gradient in grads):
            grads = self._updates(grads, trainable_variables or self._slots.targets.values())
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Adds optax's update to a variable.

        Args:
            gradient: The update, which `apply` passes in place of the gradient.
            variable: The variable.
            learning_rate: The factor of the update; ignored if `from_optax` was given no learning rate.
        """
        scale = keras.ops.cast(learning_rate, variable.dtype) if self._is_scaled else 1
        self.assign_add(variable, scale * gradient)

    def _updates(self, grads: Sequence[Any], variables: Any) -> list[Any]:
        slots = self._slots
        given = {id(variable): gradient for variable, gradient in zip(variables, grads, strict=True)}
        params = {path: variable.value for path, variable in slots.targets.items()}
        missing = {path for path, variable in slots.targets.items() if given.get(id(variable)) is None}
        gradients = {
            path: jnp.zeros_like(params[path]) if path in missing else keras.ops.cast(given[id(each)], each.dtype)
            for path, each in slots.targets.items()
        }
        values = [_as_used(each.value, kind) for each, kind in zip(slots.state, slots.keys, strict=True)]
        updates, state = self._transformation.update(gradients, slots.structure.unflatten(values), params)
        for variable, owner, leaf in zip(slots.state, slots.owners, jax.tree.leaves(state), strict=True):
            if owner not in missing:
                self.assign(variable, _as_stored(leaf)[0])
        changes = {id(variable): updates[path] for path, variable in slots.targets.items()}
        return [None if gradient is None else changes.get(each, gradient) for each, gradient in given.items()]

    def _rate_inside(self) -> Any:
        # Infinity, since ReduceLROnPlateau always tries to lower it, and so gets the error of the setter.
        return float("inf") if self._inside is None else self._inside

    @keras.optimizers.Optimizer.learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        """Sets the learning rate; raises an error if it is inside a function."""
        if self._is_scaled:
            keras.optimizers.Optimizer.learning_rate.fset(self, value)
        elif self._inside is not None and not self._is_scheduled:
            self._inside.assign(value)
        else:
            raise InvalidArgumentError(
                "learning_rate",
                expected="a transformation whose learning rate can be set from outside",
                received=value,
                advice="Give it to from_optax, as in from_optax(optax.adam(1.0), learning_rate=1e-3), or make the "
                "transformation with optax.inject_hyperparams(optax.adam)(learning_rate=1e-3) and set it once the "
                "optimizer is built.",
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the name, the learning rate, and a key by which `from_config` finds the transformation."""
        rate = super().get_config()["learning_rate"] if self._is_scaled else None
        return {"name": self.name, "learning_rate": rate, "transformation": self._token}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> OptaxOptimizer:
        """Returns an optimizer with the same transformation.

        Args:
            config: What `get_config` returned.
            custom_objects: As in Keras.

        Raises:
            InvalidArgumentError: The optimizer of the configuration does not exist any more in this process.
        """
        source = _ALIVE.get(config["transformation"])
        if source is None:
            raise InvalidArgumentError(
                "optimizer",
                expected="one whose optax transformation is still in this process",
                received=config["name"],
                advice="No file holds one. Load with compile=False, and compile with from_optax(...) again. To go on "
                "with optax's state as well, call model.optimizer.build(model.trainable_variables) and then "
                "model.load_weights(...) of the same file.",
            )
        made: OptaxOptimizer = super().from_config(
            {**config, "transformation": source._transformation},  # noqa: SLF001 - of this class.
            custom_objects,
        )
        return made


_ALIVE: weakref.WeakValueDictionary[str, OptaxOptimizer] = weakref.WeakValueDictionary()


def _order(paths: list[Any], targets: list[str]) -> list[int]:
    """The numbers of optax's arrays, with those of parameters in the order of the model's variables.

    JAX sorts by name, and names count up: it takes dense_10 before dense_9. Keras saves an optimizer's variables in the
    order in which they were made, and a file is for any model of the same layers.
    """
    position, seen = {name: number for number, name in enumerate(targets)}, dict[Any, int]()

    def rank(path: Any) -> list[int]:
        keys = [getattr(each, "key", None) for each in path]
        return [
            position[key] if key in position else seen.setdefault(path[: depth + 1], len(seen))
            for depth, key in enumerate(keys)
        ]

    ranks = [rank(path) for path in paths]
    return sorted(range(len(paths)), key=ranks.__getitem__)


def _as_stored(leaf: Any) -> tuple[Any, Any]:
    """Returns a leaf of optax's state as an array of numbers, and the implementation of the random key, or None."""
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(array), jax.random.key_impl(array)
    return array, None


def _as_used(value: Any, kind: Any) -> Any:
    return value if kind is None else jax.random.wrap_key_data(value, impl=kind)
