"""The gradient path `autograd`: each tensor stores how it was computed, and `torch.autograd` differentiates backwards.

The parameters are a dictionary of leaf tensors that require a gradient, and a step changes them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import torch

from dlf.backend.protocol import Batch, Loss, Parameters
from dlf.utils.trees import mapped
from dlf_torch import training_loop

__all__ = [
    "apply",
    "compiled",
    "hessian_vector_product",
    "line_loss",
    "loss_and_gradients",
    "mlp_loss",
    "per_example_gradients",
    "read",
    "start",
    "step",
    "training_loop",
]

Tensors: TypeAlias = dict[str, torch.Tensor]


def start(parameters: Parameters, problem: str = "") -> Tensors:  # noqa: ARG001 - other paths make a module of it.
    """Returns the parameters as leaf tensors that require a gradient; values that are such already are not copied."""
    return {
        name: value if _is_leaf(value) else _tensor(value).clone().detach().requires_grad_()
        for name, value in parameters.items()
    }


def read(parameters: Tensors) -> dict[str, np.ndarray]:
    """Returns the parameters by name, as NumPy arrays."""
    return {name: leaf.detach().cpu().numpy().copy() for name, leaf in parameters.items()}


def line_loss(parameters: Parameters, batch: Batch) -> torch.Tensor:
    """Returns the mean squared error of ``w x + b``, for x and y of shape ``(m,)``."""
    x, y = batch
    prediction = parameters["w"] * x + parameters["b"]
    return torch.mean((prediction - y) ** 2)


def mlp_loss(parameters: Parameters, batch: Batch) -> torch.Tensor:
    """Returns the mean cross-entropy of the lab's MLP, for x of shape ``(m, features)`` and labels ``(m,)``."""
    x, labels = batch
    hidden = torch.relu(x @ parameters["hidden/kernel"] + parameters["hidden/bias"])
    logits = hidden @ parameters["logits/kernel"] + parameters["logits/bias"]
    return torch.nn.functional.cross_entropy(logits, labels.long())


def loss_and_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> tuple[torch.Tensor, Tensors]:
    """Returns the loss and its gradient with respect to each parameter."""
    leaves = start(parameters)
    value = loss(leaves, _tensors(batch))
    if not value.requires_grad:  # The loss depends on no parameter.
        return value, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    # Without `materialize_grads`, a tensor that the loss does not depend on is an error.
    gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def apply(parameters: Parameters, gradients: Parameters, learning_rate: float) -> Tensors:
    """Changes the parameters by one step of gradient descent, and returns them."""
    leaves = start(parameters)
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.sub_(learning_rate * _tensor(gradients[name]))
    return leaves


def step(loss: Loss, parameters: Tensors, batch: Batch, learning_rate: float) -> tuple[torch.Tensor, Tensors]:
    """Returns the loss, and the parameters after one step."""
    value, gradients = loss_and_gradients(loss, parameters, batch)
    return value, apply(parameters, gradients, learning_rate)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of ``(loss, parameters, batch, ...)``, compiled by `torch.compile`."""
    return torch.compile(function)


def hessian_vector_product(loss: Loss, parameters: Parameters, batch: Batch, vector: Parameters) -> Tensors:
    """Returns the Hessian times a vector, by reverse-mode differentiation of the gradient."""
    leaves = start(parameters)
    value = loss(leaves, _tensors(batch))
    gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=True, materialize_grads=True)
    # The gradient of the dot product (gradient · vector) is the result. For a linear loss, the product is a constant.
    along = sum(torch.sum(each * _tensor(vector[name])) for name, each in zip(leaves, gradients, strict=True))
    if not along.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    product = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, product, strict=True))


def per_example_gradients(loss: Loss, parameters: Parameters, batch: Batch) -> Tensors:
    """Returns the gradients of the loss of each example, stacked along a new first axis."""
    leaves = {name: leaf.detach() for name, leaf in start(parameters).items()}
    alone = keras.tree.map_structure(lambda part: part[:, None], _tensors(batch))
    gradients: Tensors = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(leaves, alone)
    return gradients


def _is_leaf(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad


def _tensor(value: Any) -> torch.Tensor:
    # Keras puts the batch on the GPU if there is one; its own conversion puts the parameters on the same device.
    return keras.ops.convert_to_tensor(value)


def _tensors(batch: Batch) -> Any:
    return mapped(_tensor, batch)
