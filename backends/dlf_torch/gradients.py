"""The path `autograd`: each tensor remembers how it was made, and `torch.autograd` walks back."""

from __future__ import annotations

from typing import Any

import keras
import torch

from dlf.backend_protocol import Batch, Loss, Parameters

__all__ = ["AutogradPath"]


class AutogradPath:
    """The parameters are leaf tensors that require a gradient."""

    def loss_and_gradients(self, loss: Loss, parameters: Parameters, batch: Batch) -> tuple[Any, dict[str, Any]]:
        """Returns the loss and its derivative by each parameter."""
        values = {name: tensor.requires_grad_() for name, tensor in _tensors(parameters).items()}
        value = loss(values, keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
        gradients = torch.autograd.grad(value, list(values.values()))
        return value.detach(), dict(zip(values, gradients, strict=True))

    def apply(self, parameters: Parameters, gradients: Parameters, learning_rate: float) -> dict[str, Any]:
        """Returns the parameters after one step of gradient descent."""
        values, steps = _tensors(parameters), _tensors(gradients)
        return {name: value - learning_rate * steps[name] for name, value in values.items()}


def _tensors(parameters: Parameters) -> dict[str, torch.Tensor]:
    # Keras places the batch on the GPU where there is one; its own conversion puts the parameters beside it.
    return {name: keras.ops.convert_to_tensor(value).detach() for name, value in parameters.items()}
