"""The three models and their training, written by hand in JAX and optax.

Requirements:

* the code is what a good engineer would write in this framework, without Keras;
* the arithmetic is Keras's: the same Adam, the same dropout masks, and the loss averaged over all rows;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlf.bench.models import LEARNING_RATE, NORM_EPSILON, Task

__all__ = ["LOOPS", "Loop"]


def mlp(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    w1, b1, w2, b2 = weights
    hidden = jax.nn.relu(images.reshape(images.shape[0], -1) @ w1 + b1)
    return drop(0, hidden) @ w2 + b2


def cnn(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    k1, c1, k2, c2, w1, b1, w2, b2 = weights
    values = images[..., None]
    for kernel, bias in ((k1, c1), (k2, c2)):
        values = jax.lax.conv_general_dilated(
            values, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = jax.nn.relu(values + bias)
        values = jax.lax.reduce_window(values, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    hidden = jax.nn.relu(values.reshape(values.shape[0], -1) @ w1 + b1)
    return drop(0, hidden) @ w2 + b2


def transformer(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``, whose rows are the tokens."""
    w0, b0, table, wq, bq, wk, bk, wv, bv, wo, bo, s1, o1, w1, b1, w2, b2, s2, o2, w3, b3 = weights
    tokens = images @ w0 + b0 + table
    query, key, value = (
        jnp.einsum("btd,dhk->bthk", tokens, kernel) + bias for kernel, bias in ((wq, bq), (wk, bk), (wv, bv))
    )
    attended = jax.nn.dot_product_attention(query, key, value)
    attended = jnp.einsum("bthk,hkd->btd", attended, wo) + bo
    tokens = normalise(tokens + drop(0, attended), s1, o1)
    hidden = jax.nn.relu(tokens @ w1 + b1) @ w2 + b2
    tokens = normalise(tokens + drop(1, hidden), s2, o2)
    return tokens.mean(axis=1) @ w3 + b3


def normalise(values: Any, scale: Any, offset: Any) -> Any:
    """Returns the layer normalisation over the last axis."""
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) * jax.lax.rsqrt(variance + NORM_EPSILON) * scale + offset


def dropout(key: Any, values: Any, rate: float) -> Any:
    """Sets a share `rate` of the values to zero, and divides the others by ``1 - rate``."""
    if not rate:
        return values
    kept = jax.random.bernoulli(key, 1 - rate, values.shape)
    return jnp.where(kept, values / (1 - rate), 0)


def adam(count: Any) -> optax.GradientTransformation:
    """Returns Keras's Adam; it adds epsilon before the bias correction, so optax's depends on the step."""
    return optax.adam(LEARNING_RATE, eps=1e-7 / jnp.sqrt(1 - 0.999 ** (count + 1.0)))


FORWARD: dict[str, Callable[..., Any]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


class Loop:
    """The training of one model.

    Args:
        task: The model, its data and the settings of the training.
        whole_epoch: Whether a compiled call trains a whole epoch, or a single step.
    """

    def __init__(self, task: Task, *, whole_epoch: bool) -> None:
        self.task, self.whole_epoch = task, whole_epoch
        self.rng = np.random.default_rng(task.seed)
        weights = [jnp.array(weight) for weight in task.weights]
        self.state: Any = (weights, adam(0).init(weights), jnp.zeros((), jnp.int32))
        self.step = jax.jit(self._step, donate_argnums=0)
        self.whole = jax.jit(self._whole, donate_argnums=0)
        if whole_epoch:
            self.images, self.labels = jnp.array(task.scaled), jnp.array(task.labels)

    def epoch(self) -> float:
        """Trains for one epoch, waits for the device, and returns the mean loss."""
        rows, size = len(self.task.labels), self.task.batch_size
        order = self.rng.permutation(rows) if self.task.shuffle else np.arange(rows)
        if self.whole_epoch:
            self.state, (loss, _) = self.whole(self.state, self.images, self.labels, order.astype(np.int32))
            return float(jax.block_until_ready(loss)) / rows
        figures = []
        for start in range(0, rows, size):
            batch = order[start : start + size]
            self.state, figure = self.step(self.state, self.task.scaled[batch], self.task.labels[batch])
            figures.append(figure)
        jax.block_until_ready(self.state)
        return float(sum(loss for loss, _ in jax.device_get(figures))) / rows

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in Keras's order and layout."""
        return [np.asarray(weight) for weight in self.state[0]]

    def _loss(self, weights: Any, count: Any, images: Any, labels: Any) -> Any:
        def drop(place: int, values: Any) -> Any:
            key = jnp.stack([jnp.uint32(self.task.seeds[place]), count.astype(jnp.uint32)])
            return dropout(key, values, self.task.rates[place])

        logits = FORWARD[self.task.model](weights, images, drop)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (losses.sum(), (logits.argmax(-1) == labels).sum())

    def _step(self, state: Any, images: Any, labels: Any) -> Any:
        """Trains on one batch; returns the state, the sum of the losses, and the number of right answers."""
        weights, moments, count = state
        gradients, figures = jax.grad(self._loss, has_aux=True)(weights, count, images, labels)
        updates, moments = adam(count).update(gradients, moments)
        return (optax.apply_updates(weights, updates), moments, count + 1), figures

    def _whole(self, state: Any, images: Any, labels: Any, order: Any) -> Any:
        """Trains one epoch in the given order; the rows that do not fill a batch are a step of their own."""
        steps, rest = divmod(len(order), self.task.batch_size)

        def body(state: Any, batch: Any) -> Any:
            return self._step(state, images[batch], labels[batch])

        full = order[: len(order) - rest].reshape(steps, self.task.batch_size)
        state, figures = jax.lax.scan(body, state, full)
        loss, right = (figure.sum() for figure in figures)
        if rest:
            state, (last_loss, last_right) = body(state, order[len(order) - rest :])
            loss, right = loss + last_loss, right + last_right
        return state, (loss, right)


LOOPS: dict[str, Callable[[Task], Loop]] = {
    "hand-written, jit + optax a step": partial(Loop, whole_epoch=False),
    "hand-written, lax.scan an epoch": partial(Loop, whole_epoch=True),
}
