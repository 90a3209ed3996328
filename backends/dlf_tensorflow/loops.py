"""The three models and their training, written by hand in TensorFlow.

Requirements:

* the code is what a good engineer would write in this framework, without Keras;
* the arithmetic is Keras's: the same Adam, the same dropout masks, and the loss averaged over all rows;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from dlf.bench.models import LEARNING_RATE, NORM_EPSILON, SIDE, Task

__all__ = ["LOOPS", "Loop"]


def mlp(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    w1, b1, w2, b2 = weights
    hidden = tf.nn.relu(tf.reshape(images, (-1, SIDE * SIDE)) @ w1 + b1)
    return drop(0, hidden) @ w2 + b2


def cnn(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    k1, c1, k2, c2, w1, b1, w2, b2 = weights
    values = images[..., None]
    for kernel, bias in ((k1, c1), (k2, c2)):
        values = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(values, kernel, 1, "SAME"), bias))
        values = tf.nn.max_pool2d(values, 2, 2, "VALID")
    hidden = tf.nn.relu(tf.reshape(values, (-1, w1.shape[0])) @ w1 + b1)
    return drop(0, hidden) @ w2 + b2


def transformer(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``, whose rows are the tokens."""
    w0, b0, table, wq, bq, wk, bk, wv, bv, wo, bo, s1, o1, w1, b1, w2, b2, s2, o2, w3, b3 = weights
    tokens = tf.tensordot(images, w0, 1) + b0 + table
    query, key, value = (
        tf.einsum("btd,dhk->bhtk", tokens, kernel) + bias[:, None] for kernel, bias in ((wq, bq), (wk, bk), (wv, bv))
    )
    scores = tf.matmul(query, key, transpose_b=True) * (query.shape[-1] ** -0.5)
    attended = tf.einsum("bhtk,hkd->btd", tf.nn.softmax(scores) @ value, wo) + bo
    tokens = normalise(tokens + drop(0, attended), s1, o1)
    hidden = tf.tensordot(tf.nn.relu(tf.tensordot(tokens, w1, 1) + b1), w2, 1) + b2
    tokens = normalise(tokens + drop(1, hidden), s2, o2)
    return tf.reduce_mean(tokens, 1) @ w3 + b3


def normalise(values: Any, scale: Any, offset: Any) -> Any:
    """Returns the layer normalisation over the last axis."""
    mean, variance = tf.nn.moments(values, [-1], keepdims=True)
    return tf.nn.batch_normalization(values, mean, variance, offset, scale, NORM_EPSILON)


def dropout(key: Any, values: Any, rate: float) -> Any:
    """Sets a share `rate` of the values to zero, and divides the others by ``1 - rate``."""
    return tf.nn.experimental.stateless_dropout(values, rate, seed=key) if rate else values


def adam(count: Any, weight: Any, first: Any, second: Any, gradient: Any) -> None:
    """Makes a step of Keras's Adam; TensorFlow's own kernel, too, adds epsilon before the bias correction."""
    step = tf.cast(count + 1, tf.float32)
    powers = {"beta1_power": 0.9**step, "beta2_power": 0.999**step}
    settings = {"lr": LEARNING_RATE, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
    tf.raw_ops.ResourceApplyAdam(
        var=weight.handle, m=first.handle, v=second.handle, grad=gradient, **powers, **settings
    )


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
        self.variables = [tf.Variable(weight) for weight in task.weights]
        self.moments = [[tf.Variable(tf.zeros_like(weight)) for weight in task.weights] for _ in range(2)]
        self.count = tf.Variable(0)
        image, label = tf.TensorSpec((None, SIDE, SIDE)), tf.TensorSpec((None,), tf.int32)
        # Without autograph the Python code is traced as it is written, and loops are explicit calls of tf.while_loop.
        self.step = tf.function(self._step, input_signature=[image, label], autograph=False)
        self.whole = tf.function(self._whole, autograph=False)
        if whole_epoch:
            self.images, self.labels = tf.constant(task.scaled), tf.constant(task.labels)

    def epoch(self) -> float:
        """Trains for one epoch, waits for the device, and returns the mean loss."""
        rows, size = len(self.task.labels), self.task.batch_size
        order = self.rng.permutation(rows) if self.task.shuffle else np.arange(rows)
        if self.whole_epoch:
            loss, _ = self.whole(self.images, self.labels, tf.constant(order.astype(np.int32)))
            return float(loss) / rows
        figures = []
        for start in range(0, rows, size):
            batch = order[start : start + size]
            figures.append(self.step(self.task.scaled[batch], self.task.labels[batch]))
        return float(sum(loss.numpy() for loss, _ in figures)) / rows

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in Keras's order and layout."""
        return [variable.numpy() for variable in self.variables]

    def _loss(self, images: Any, labels: Any) -> Any:
        def drop(place: int, values: Any) -> Any:
            key = tf.stack([self.task.seeds[place], self.count])
            return dropout(key, values, self.task.rates[place])

        logits = FORWARD[self.task.model](self.variables, images, drop)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32))
        return tf.reduce_mean(losses), (tf.reduce_sum(losses), right)

    def _step(self, images: Any, labels: Any) -> Any:
        """Trains on one batch; returns the sum of the losses, and the number of right answers."""
        with tf.GradientTape() as tape:
            loss, figures = self._loss(images, labels)
        gradients = tape.gradient(loss, self.variables)
        for weight, first, second, gradient in zip(self.variables, *self.moments, gradients, strict=True):
            adam(self.count, weight, first, second, gradient)
        self.count.assign_add(1)
        return figures

    def _whole(self, images: Any, labels: Any, order: Any) -> Any:
        """Trains one epoch in the given order; the rows that do not fill a batch are the loop's last step."""
        rows, size = order.shape[0], self.task.batch_size

        def body(start: Any, loss: Any, right: Any) -> Any:
            batch = order[start : start + size]
            more_loss, more_right = self._step(tf.gather(images, batch), tf.gather(labels, batch))
            return start + size, loss + more_loss, right + more_right

        begin = (tf.constant(0), tf.constant(0.0), tf.constant(0))
        # The steps cannot run in parallel: each reads the weights that the one before wrote.
        _, loss, right = tf.while_loop(lambda start, *_: start < rows, body, begin, parallel_iterations=1)
        return loss, right


LOOPS: dict[str, Callable[[Task], Loop]] = {
    "hand-written, tf.function a step": partial(Loop, whole_epoch=False),
    "hand-written, tf.function an epoch": partial(Loop, whole_epoch=True),
}
