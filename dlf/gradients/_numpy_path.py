"""The path `numpy`: gradients derived on paper, for the line and the lab's MLP.

The parameters are a dictionary of arrays that are never changed in place: each step makes new ones. In float64, this
path is the truth with which the other paths are compared.

    the line    p = w x + b                        (m,)          ∂L/∂w = 2/m Σ (pᵢ - yᵢ) xᵢ
                L = 1/m Σ (pᵢ - yᵢ)²               ()            ∂L/∂b = 2/m Σ (pᵢ - yᵢ)
    the MLP     a = x K₁ + b₁,  h = max(a, 0)      (m, width)    D₂ = (softmax(z) - onehot(y)) / m     (m, classes)
                z = h K₂ + b₂                      (m, classes)  D₁ = (D₂ K₂ᵀ) · [a > 0]               (m, width)
                L = -1/m Σ log softmax(zᵢ)[yᵢ]     ()            ∂L/∂K₂ = hᵀ D₂,  ∂L/∂b₂ = Σᵢ D₂
                                                                 ∂L/∂K₁ = xᵀ D₁,  ∂L/∂b₁ = Σᵢ D₁
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dlf.backend.protocol import Batch, Parameters

__all__ = ["apply", "line_loss", "loss_and_gradients", "mlp_loss", "read", "start", "step"]

Arrays: TypeAlias = dict[str, np.ndarray]
Loss: TypeAlias = Callable[[Parameters, Batch], tuple[Any, Arrays]]
"""Like the losses of the other paths, but it returns its gradients too: they are derived by hand, not traced."""


def start(parameters: Parameters, problem: str = "") -> Arrays:  # noqa: ARG001 - other paths make a module of it.
    """Returns the parameters as NumPy's arrays."""
    return {name: np.asarray(value) for name, value in parameters.items()}


def read(parameters: Arrays) -> Arrays:
    """Returns the parameters by name, as NumPy's arrays."""
    return parameters


def line_loss(parameters: Parameters, batch: Batch) -> tuple[Any, Arrays]:
    """Mean squared error of ``w x + b``, for x and y of shape ``(m,)``, and its gradients."""
    x, y = batch
    error = parameters["w"] * x + parameters["b"] - y
    return np.mean(error**2), {"w": 2 * np.mean(error * x), "b": 2 * np.mean(error)}


def mlp_loss(parameters: Parameters, batch: Batch) -> tuple[Any, Arrays]:
    """Mean cross-entropy of the lab's MLP, for x ``(m, features)`` and labels ``(m,)``, and its gradients."""
    x, labels = batch
    before = x @ parameters["hidden/kernel"] + parameters["hidden/bias"]
    hidden = np.maximum(before, 0)
    logits = hidden @ parameters["logits/kernel"] + parameters["logits/bias"]
    # The largest is taken off, so that no exponential overflows.
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    by_logits = np.exp(log_probabilities)
    by_logits[rows, labels] -= 1
    by_logits /= len(labels)
    by_hidden = (by_logits @ parameters["logits/kernel"].T) * (before > 0)
    return -np.mean(log_probabilities[rows, labels]), {
        "hidden/kernel": x.T @ by_hidden,
        "hidden/bias": by_hidden.sum(axis=0),
        "logits/kernel": hidden.T @ by_logits,
        "logits/bias": by_logits.sum(axis=0),
    }


def loss_and_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, Arrays]:
    """Returns the loss and its derivative by each parameter."""
    return loss(parameters, batch)


def apply(parameters: Parameters, gradients: Parameters, learning_rate: float) -> Arrays:
    """Returns the parameters after one step of gradient descent."""
    return {name: value - value.dtype.type(learning_rate) * gradients[name] for name, value in parameters.items()}


def step(loss: Loss, parameters: Arrays, batch: Batch, learning_rate: float) -> tuple[Any, Arrays]:
    """Returns the loss, and the parameters after one step."""
    value, gradients = loss_and_gradients(loss, parameters, batch)
    return value, apply(parameters, gradients, learning_rate)
