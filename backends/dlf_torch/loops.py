"""The three models and their training, written by hand in PyTorch.

Requirements:

* the code is what a good engineer would write in this framework, without Keras;
* the arithmetic is Keras's: the same Adam, the same dropout masks, and the loss averaged over all rows;
* the functions are the same, in the same order, as in the loops of the other frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from dlf.bench.models import HEADS, LEARNING_RATE, NORM_EPSILON, Task

__all__ = ["LOOPS", "Loop"]


def mlp(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    w1, b1, w2, b2 = weights
    hidden = torch.relu(torch.addmm(b1, images.flatten(1), w1))
    return torch.addmm(b2, drop(0, hidden), w2)


def cnn(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``."""
    k1, c1, k2, c2, w1, b1, w2, b2 = weights
    values = images[:, None]
    for kernel, bias in ((k1, c1), (k2, c2)):
        values = torch.relu(functional.conv2d(values, kernel, bias, padding=1))
        values = functional.max_pool2d(values, 2)
    hidden = torch.relu(torch.addmm(b1, values.flatten(1), w1))
    return torch.addmm(b2, drop(0, hidden), w2)


def transformer(weights: Any, images: Any, drop: Any) -> Any:
    """Returns the logits ``(batch, 10)`` for images ``(batch, 28, 28)``, whose rows are the tokens."""
    w0, b0, table, wq, bq, wk, bk, wv, bv, wo, bo, s1, o1, w1, b1, w2, b2, s2, o2, w3, b3 = weights
    tokens = images @ w0 + b0 + table
    query, key, value = (
        (tokens @ kernel.flatten(1) + bias.flatten()).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for kernel, bias in ((wq, bq), (wk, bk), (wv, bv))
    )
    attended = functional.scaled_dot_product_attention(query, key, value)
    attended = attended.transpose(1, 2).flatten(2) @ wo.flatten(0, 1) + bo
    tokens = normalise(tokens + drop(0, attended), s1, o1)
    hidden = torch.relu(tokens @ w1 + b1) @ w2 + b2
    tokens = normalise(tokens + drop(1, hidden), s2, o2)
    return torch.addmm(b3, tokens.mean(1), w3)


def normalise(values: Any, scale: Any, offset: Any) -> Any:
    """Returns the layer normalisation over the last axis."""
    return functional.layer_norm(values, values.shape[-1:], scale, offset, NORM_EPSILON)


def dropout(values: Any, rate: float) -> Any:
    """Sets a share `rate` of the values to zero, and divides the others by ``1 - rate``."""
    return functional.dropout(values, rate) if rate else values


def adam(optimizer: torch.optim.Adam, count: int) -> None:
    """Makes a step of Keras's Adam; it adds epsilon before the bias correction, so torch's depends on the step."""
    for group in optimizer.param_groups:
        group["eps"] = 1e-7 / (1 - 0.999 ** (count + 1)) ** 0.5
    optimizer.step()


FORWARD: dict[str, Callable[..., Any]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


class Loop:
    """The training of one model.

    Args:
        task: The model, its data and the settings of the training.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.images, self.labels = (torch.tensor(each, device=self.device) for each in (task.scaled, task.labels))
        self.labels = self.labels.long()
        self.tensors = [self._parameter(weight) for weight in task.weights]
        self.optimizer = torch.optim.Adam(self.tensors, LEARNING_RATE, fused=True)
        self.count = 0

    def epoch(self) -> float:
        """Trains for one epoch, waits for the device, and returns the mean loss."""
        rows, size = len(self.labels), self.task.batch_size
        if not self.task.shuffle:
            # PyTorch's masks come from one global generator. Runs without shuffling are compared, so seed it here.
            torch.manual_seed(self.task.seed)
        order = (torch.randperm if self.task.shuffle else torch.arange)(rows, device=self.device)
        total, right = torch.zeros((), device=self.device), torch.zeros((), device=self.device, dtype=torch.long)
        for batch in order.split(size):
            more_loss, more_right = self._step(self.images[batch], self.labels[batch])
            total += more_loss
            right += more_right
        return float(total) / rows

    def weights(self) -> list[np.ndarray]:
        """Returns the weights in Keras's order and layout."""
        return [self._as_keras_lays_it_out(tensor) for tensor in self.tensors]

    def _loss(self, images: Any, labels: Any) -> Any:
        def drop(place: int, values: Any) -> Any:
            return dropout(values, self.task.rates[place])

        logits = FORWARD[self.task.model](self.tensors, images, drop)
        loss = functional.cross_entropy(logits, labels)
        with torch.no_grad():
            return loss, (loss * len(labels), (logits.argmax(-1) == labels).sum())

    def _step(self, images: Any, labels: Any) -> Any:
        """Trains on one batch; returns the sum of the losses, and the number of right answers."""
        self.optimizer.zero_grad()
        loss, figures = self._loss(images, labels)
        loss.backward()
        adam(self.optimizer, self.count)
        self.count += 1
        return figures

    def _parameter(self, weight: np.ndarray) -> Any:
        """Returns a weight as a tensor in PyTorch's layout.

        There, channels come before positions, in kernels and in the rows of the matrix after the last convolution.
        """
        if weight.ndim == _KERNEL:
            weight = weight.transpose(3, 2, 0, 1)
        elif self.task.model == "cnn" and len(weight) == np.prod(_LAST_MAPS):
            weight = weight.reshape(*_LAST_MAPS, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
        return torch.tensor(np.ascontiguousarray(weight), device=self.device, requires_grad=True)

    def _as_keras_lays_it_out(self, tensor: Any) -> np.ndarray:
        weight: np.ndarray = tensor.detach().cpu().numpy()
        if weight.ndim == _KERNEL:
            return weight.transpose(2, 3, 1, 0)
        if self.task.model == "cnn" and len(weight) == np.prod(_LAST_MAPS):
            height, width, channels = _LAST_MAPS
            return weight.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(weight.shape)
        return weight


_KERNEL = 4
"""The number of axes of a convolution's kernel."""
_LAST_MAPS = (7, 7, 32)
"""Height, width and channels of the output of the last convolution, after pooling."""


LOOPS: dict[str, Callable[[Task], Loop]] = {"hand-written, eager + fused Adam": Loop}
