"""Converts Keras's optimizers to optax transformations.

Requirements:

* the update is the same as Keras's, to rounding: with its epsilons, its order of clipping, weight decay and step, and
  with steps counted from 0;
* optax's own transformations are used where they compute the same, and a comment says where they do not;
* the error for an optimizer without an equivalent lists the optimizers that have one.

The source of each rule is the file of its name in Keras's `keras/src/optimizers`. Clipping, weight decay and
accumulation are in `base_optimizer.py` there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import optax

from dlf.backend.keras_internals import decay_of_weights
from dlf.utils.errors import BackendError, InvalidArgumentError

__all__ = ["optax_for"]

_Rate = float | Callable[[Any], Any]


def optax_for(keras_optimizer: keras.optimizers.Optimizer, variables: Any = None) -> optax.GradientTransformation:
    """Returns the optax transformation that makes the same update as a Keras optimizer.

    With gradients g, parameters p of any shapes, learning rate η and weight decay λ, a step is
    ``p ← (p - η λ p) - η · rule(clip(g))``, as in Keras. optax's functions of the same names make other updates:
    `optax.adam`, for example, adds epsilon in another place. The state is that of a new optimizer, and steps count from
    0. A schedule is called with the number of steps so far. A learning rate that is a number is read now, and later
    changes to the Keras optimizer have no effect. The update does not apply a variable's `constraint`: apply it
    afterwards.

    Args:
        keras_optimizer: One of Keras's SGD, Adam, AdamW, Adamax, Nadam, RMSprop, Adagrad, Adadelta, Adafactor, Lion,
            Lamb and Ftrl; subclasses are refused. Clipping and accumulation of gradients are supported.
        variables: Keras's variables in the structure of the parameters, such as ``model.trainable_variables``; needed
            only if `exclude_from_weight_decay` was called, which selects variables by identity or name.

    Returns:
        The transformation. Its `update` needs the parameters if the rule or weight decay uses them.

    Raises:
        BackendError: Keras runs on another backend than JAX.
        InvalidArgumentError: The optimizer has no equivalent, or a setting that an optax transformation cannot have.

    Example:
        >>> import jax.numpy as jnp
        >>> transformation = optax_for(keras.optimizers.Adam(0.1))
        >>> parameters = {"weight": jnp.array([1.0, 2.0])}
        >>> state = transformation.init(parameters)
        >>> updates, state = transformation.update({"weight": jnp.array([0.5, -0.5])}, state, parameters)
        >>> optax.apply_updates(parameters, updates)["weight"].round(4).tolist()
        [0.8999999761581421, 2.0999999046325684]

    Source: Keras 3.15, `keras/src/optimizers`.
    """
    check_backend("optax_for")
    rule = _RULES.get(type(keras_optimizer))
    if rule is None:
        names = ", ".join(sorted(kind.__name__ for kind in _RULES))
        raise InvalidArgumentError(
            "keras_optimizer",
            expected=f"an optimizer of exactly one of Keras's classes {names}",
            received=keras_optimizer,
            advice="A derived class or a wrapper may do anything else: write its update with optax, or hand over the "
            "optimizer inside.",
        )
    _check_settings(keras_optimizer)
    steps = keras_optimizer.gradient_accumulation_steps or 1
    rate = _rate(keras_optimizer, steps)
    transformation = optax.chain(*_clipping(keras_optimizer), rule(keras_optimizer, rate))
    if keras_optimizer.weight_decay is not None:
        decayed = _decayed(keras_optimizer, variables)
        transformation = _after_weight_decay(transformation, keras_optimizer.weight_decay, rate, decayed)
    if steps > 1:
        dtype = keras.config.floatx()  # By default optax adds gradients up in float32.
        transformation = optax.MultiSteps(transformation, steps, accumulator_dtype=dtype).gradient_transformation()
    return transformation


def check_backend(function: str) -> None:
    """Raises an error unless Keras runs on JAX.

    Args:
        function: The name of the function that was called, for the message.

    Raises:
        BackendError: Keras runs on another backend.
    """
    if keras.config.backend() != "jax":
        raise BackendError(
            f"{function}: expected Keras on JAX, received Keras on {keras.config.backend()}. "
            "Set KERAS_BACKEND=jax before keras is imported."
        )


def _check_settings(optimizer: keras.optimizers.Optimizer) -> None:
    if optimizer.use_ema:
        raise InvalidArgumentError(
            "keras_optimizer",
            expected="use_ema=False",
            received="use_ema=True",
            advice="Keras puts the averages in the place of the parameters, which no transformation can: keep the "
            "averages beside them, with optax.ema or optax.incremental_update.",
        )
    if optimizer.loss_scale_factor is not None:
        raise InvalidArgumentError(
            "keras_optimizer",
            expected="loss_scale_factor=None",
            received=f"loss_scale_factor={optimizer.loss_scale_factor}",
            advice="Keras multiplies the loss by it, before there are gradients: scale both in your own step.",
        )


def _rate(optimizer: keras.optimizers.Optimizer, steps: int) -> _Rate:
    """Returns the learning rate, or for a schedule a function of the number of updates so far."""
    if isinstance(optimizer.learning_rate, keras.Variable):
        return float(optimizer.learning_rate)
    iterations = optimizer.variables[0]  # `optimizer.iterations` is no variable if gradients are accumulated.

    def rate(count: Any) -> Any:
        # Schedules count every step, also those that only accumulate gradients; the update is at the last of `steps`.
        with keras.StatelessScope(state_mapping=[(iterations, steps * count + steps - 1)]):
            return keras.ops.convert_to_tensor(optimizer.learning_rate)

    return rate


def _at(rate: _Rate, count: Any) -> Any:
    return rate(count) if callable(rate) else rate


def _clipping(optimizer: keras.optimizers.Optimizer) -> list[optax.GradientTransformation]:
    if (norm := optimizer.clipnorm or 0) > 0:
        # Keras clips each variable by its own norm; optax has this for the root mean square only.
        return [
            optax.stateless_with_tree_map(
                lambda gradient, _: gradient * norm / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(gradient))), norm)
            )
        ]
    if (norm := optimizer.global_clipnorm or 0) > 0:
        return [optax.clip_by_global_norm(norm)]
    return [optax.clip(optimizer.clipvalue)] if (optimizer.clipvalue or 0) > 0 else []


class _DecayState(NamedTuple):
    count: Any
    inner: Any


def _after_weight_decay(
    inner: optax.GradientTransformation, weight_decay: float, rate: _Rate, decayed: Any
) -> optax.GradientTransformation:
    """Applies weight decay first, as Keras does: rules that use the parameters, such as Lamb, get the decayed ones."""

    def init(params: Any) -> _DecayState:
        return _DecayState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates: Any, state: _DecayState, params: Any = None) -> tuple[Any, _DecayState]:
        _check_params(params)
        factor = weight_decay * _at(rate, state.count)
        mask = jax.tree.map(lambda _: True, params) if decayed is None else decayed
        shrunk = jax.tree.map(lambda p, decays: p - p * jnp.asarray(factor, p.dtype) if decays else p, params, mask)
        updates, inner_state = inner.update(updates, state.inner, shrunk)
        updates = jax.tree.map(lambda u, after, before: u + (after - before), updates, shrunk, params)
        return updates, _DecayState(state.count + 1, inner_state)

    return optax.GradientTransformation(init, update)


def _decayed(optimizer: keras.optimizers.Optimizer, variables: Any) -> Any:
    """Returns for each variable whether weight decay applies to it, or None if it applies to all."""
    decays = decay_of_weights(optimizer)
    if decays is None:
        return None
    if variables is None:
        raise InvalidArgumentError(
            "variables",
            expected="Keras's variables in the structure of the parameters, since exclude_from_weight_decay was called",
            received=variables,
            advice="Where the parameters are a list in the order of the model's, pass model.trainable_variables.",
        )
    return jax.tree.map(decays, variables)


def _check_params(params: Any) -> None:
    if params is None:
        raise InvalidArgumentError(
            "params",
            expected="the parameters",
            received=params,
            advice="This rule looks at them: call update(gradients, state, parameters).",
        )


def _sgd(optimizer: keras.optimizers.SGD, rate: _Rate) -> optax.GradientTransformation:
    # Keras multiplies by the learning rate before the momentum, and optax.sgd after it: with a schedule, the updates
    # differ. The same holds for RMSprop.
    trace = optax.trace(optimizer.momentum, optimizer.nesterov) if optimizer.momentum else optax.identity()
    return optax.chain(optax.scale_by_learning_rate(rate), trace)


def _adam(optimizer: keras.optimizers.Adam, rate: _Rate) -> optax.GradientTransformation:
    # Keras adds epsilon to √v, optax to √(v / c) with the bias correction c = 1 - β₂ᵗ. With epsilon / √c in optax, the
    # two are the same. For AMSGrad, optax can leave v uncorrected, and then the whole update is multiplied by √c.
    beta_1, beta_2, epsilon = optimizer.beta_1, optimizer.beta_2, optimizer.epsilon

    def root(count: Any) -> Any:
        return jnp.sqrt(1 - beta_2 ** (count + 1))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        corrected = optax.scale_by_adam(beta_1, beta_2, epsilon / root(state.count))
        updates, state = corrected.update(updates, state, params)
        return updates, state

    if optimizer.amsgrad:
        scale = optax.scale_by_amsgrad(beta_1, beta_2, epsilon, bias_correction_nu=False)
        return optax.chain(scale, optax.scale_by_schedule(root), optax.scale_by_learning_rate(rate))
    scale = optax.GradientTransformation(optax.scale_by_adam(beta_1, beta_2).init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def _adamax(optimizer: keras.optimizers.Adamax, rate: _Rate) -> optax.GradientTransformation:
    # Keras adds epsilon to the norm u, optax to |g| inside the maximum that makes u.
    beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:  # noqa: ARG001 - optax's signature.
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, beta_1, 1)
        nu = optax.tree.update_infinity_moment(updates, state.nu, beta_2, 0.0)
        mu_hat = optax.tree.bias_correction(mu, beta_1, count)
        updates = jax.tree.map(lambda m, u: m / (u + optimizer.epsilon), mu_hat, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    scale = optax.GradientTransformation(optax.scale_by_adamax(beta_1, beta_2).init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


class _NadamState(NamedTuple):
    adam: optax.ScaleByAdamState
    product: Any


def _nadam(optimizer: keras.optimizers.Nadam, rate: _Rate) -> optax.GradientTransformation:
    # Keras uses the growing momentum of Dozat's paper, uₜ = β₁ (1 - 0.96ᵗ / 2), but optax.nadam a constant one.
    beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2
    adam = optax.scale_by_adam(beta_1, beta_2)

    def init(params: Any) -> _NadamState:
        return _NadamState(adam.init(params), jnp.ones([], optax.tree.dtype(params, "highest")))

    def update(updates: Any, state: _NadamState, params: Any = None) -> tuple[Any, _NadamState]:
        count = state.adam.count + 1
        now, following = (beta_1 * (1 - 0.5 * 0.96**step) for step in (count, count + 1))
        product = state.product * now
        moments = adam.update(updates, state.adam, params)[1]
        nu_hat = optax.tree.bias_correction(moments.nu, beta_2, count)

        def direction(g: Any, m: Any, v: Any) -> Any:
            m_hat = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
            return m_hat / (jnp.sqrt(v) + optimizer.epsilon)

        return jax.tree.map(direction, updates, moments.mu, nu_hat), _NadamState(moments, product)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(rate))


def _rmsprop(optimizer: keras.optimizers.RMSprop, rate: _Rate) -> optax.GradientTransformation:
    scale = optax.scale_by_stddev if optimizer.centered else optax.scale_by_rms
    trace = optax.trace(optimizer.momentum) if optimizer.momentum > 0 else optax.identity()
    return optax.chain(scale(optimizer.rho, optimizer.epsilon), optax.scale_by_learning_rate(rate), trace)


def _adagrad(optimizer: keras.optimizers.Adagrad, rate: _Rate) -> optax.GradientTransformation:
    scale = optax.scale_by_rss(optimizer.initial_accumulator_value, optimizer.epsilon)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def _adadelta(optimizer: keras.optimizers.Adadelta, rate: _Rate) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adadelta(optimizer.rho, optimizer.epsilon), optax.scale_by_learning_rate(rate))


def _lion(optimizer: keras.optimizers.Lion, rate: _Rate) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_lion(optimizer.beta_1, optimizer.beta_2), optax.scale_by_learning_rate(rate))


def _lamb(optimizer: keras.optimizers.Lamb, rate: _Rate) -> optax.GradientTransformation:
    # Keras adds epsilon where optax does here. Its weight decay is not part of the trust ratio, unlike in optax.lamb.
    return optax.chain(
        optax.scale_by_adam(optimizer.beta_1, optimizer.beta_2, optimizer.epsilon),
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(rate),
    )


class _FtrlState(NamedTuple):
    count: Any
    accumulator: Any
    linear: Any


def _ftrl(optimizer: keras.optimizers.Ftrl, rate: _Rate) -> optax.GradientTransformation:
    # optax has no such rule. FTRL computes new parameters from its state; the update is the difference from the old.
    power, l1 = -optimizer.learning_rate_power, optimizer.l1_regularization_strength
    shrinkage = 2 * optimizer.l2_shrinkage_regularization_strength

    def init(params: Any) -> _FtrlState:
        accumulator = optax.tree.full_like(params, optimizer.initial_accumulator_value)
        return _FtrlState(jnp.zeros([], jnp.int32), accumulator, optax.tree.zeros_like(params))

    def update(updates: Any, state: _FtrlState, params: Any = None) -> tuple[Any, _FtrlState]:
        _check_params(params)
        accumulator = jax.tree.map(lambda g, a: a + jnp.square(g), updates, state.accumulator)

        def linear(g: Any, p: Any, z: Any, old: Any, new: Any) -> Any:
            return z + g + shrinkage * p - (new**power - old**power) / jnp.asarray(eta, p.dtype) * p

        def change(p: Any, z: Any, a: Any) -> Any:
            own = jnp.asarray(eta, p.dtype)
            l2 = optimizer.l2_regularization_strength + optimizer.beta / (2 * own)
            return (jnp.clip(z, -l1, l1) - z) / (a**power / own + 2 * l2) - p

        eta = _at(rate, state.count)
        z = jax.tree.map(linear, updates, params, state.linear, state.accumulator, accumulator)
        return jax.tree.map(change, params, z, accumulator), _FtrlState(state.count + 1, accumulator, z)

    return optax.GradientTransformation(init, update)


class _FactoredState(NamedTuple):
    count: Any
    averages: Any


def _adafactor(optimizer: keras.optimizers.Adafactor, rate: _Rate) -> optax.GradientTransformation:
    # Keras always factors the last two axes; optax factors the two longest, and only if they are long. Keras's
    # `relative_step` is ignored here, since it has no effect in Keras: the minimum of rate and 1/√t is always used.
    def init(params: Any) -> _FactoredState:
        def zeros(p: Any) -> tuple[Any, ...]:
            shapes = (p.shape,) if p.ndim < 2 else (p.shape[:-1], p.shape[:-2] + p.shape[-1:])  # noqa: PLR2004
            return tuple(jnp.zeros(shape, p.dtype) for shape in shapes)

        return _FactoredState(jnp.zeros([], jnp.int32), jax.tree.map(zeros, params))

    def update(updates: Any, state: _FactoredState, params: Any = None) -> tuple[Any, _FactoredState]:  # noqa: ARG001
        leaves, structure = jax.tree.flatten(updates)
        beta = 1 - (state.count + 1.0) ** optimizer.beta_2_decay
        scaled, averages = [], []
        for g, old in zip(leaves, structure.flatten_up_to(state.averages), strict=True):
            square, own = jnp.square(g) + optimizer.epsilon_1, jnp.asarray(beta, g.dtype)
            means = (square,) if g.ndim < 2 else (square.mean(-1), square.mean(-2))  # noqa: PLR2004
            new = tuple(own * a + (1 - own) * mean for a, mean in zip(old, means, strict=True))
            if len(new) == 1:
                velocity = new[0]
            else:
                rows, columns = new
                velocity = (rows / rows.mean(-1, keepdims=True))[..., None] * columns[..., None, :]
            scaled.append(g / jnp.sqrt(velocity))
            averages.append(new)
        return structure.unflatten(scaled), _FactoredState(state.count + 1, structure.unflatten(averages))

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.clip_by_block_rms(optimizer.clip_threshold),
        optax.scale_by_param_block_rms(optimizer.epsilon_2),
        optax.scale_by_learning_rate(lambda count: jnp.minimum(_at(rate, count), 1 / jnp.sqrt(count + 1.0))),
    )


_RULES: dict[type, Callable[[Any, _Rate], optax.GradientTransformation]] = {
    keras.optimizers.Adadelta: _adadelta,
    keras.optimizers.Adafactor: _adafactor,
    keras.optimizers.Adagrad: _adagrad,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.Ftrl: _ftrl,
    keras.optimizers.Lamb: _lamb,
    keras.optimizers.Lion: _lion,
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.SGD: _sgd,
}
