"""Which functions Keras calls with tensors, by the class that they belong to."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ENTRIES", "FUNCTION_ARGUMENTS", "NO_TENSOR_ARGUMENTS", "PREPARING", "TENSOR_ARGUMENTS", "kind_of_class"]

ENTRIES = {
    "model": (
        "call",
        "compute_loss",
        "compute_metrics",
        "compute_mask",
        "train_step",
        "test_step",
        "predict_step",
    ),
    "loss": ("call", "__call__"),
    "metric": ("update_state", "result"),
    "optimizer": ("update_step", "apply", "apply_gradients"),
    "function": ("__call__",),
}
"""The methods that Keras calls with tensors."""

PREPARING = ("__init__", "build")
"""The methods that make what those use."""

TENSOR_ARGUMENTS = frozenset({"x", "y", "y_true", "y_pred", "inputs"})
"""Arguments that are tensors although they have a default."""

NO_TENSOR_ARGUMENTS = frozenset({"dtype", "input_shape", "shape", "training"})
"""Arguments that are none although they have no default."""

FUNCTION_ARGUMENTS = frozenset(
    {
        "activation",
        "recurrent_activation",
        "activity_regularizer",
        "bias_regularizer",
        "kernel_regularizer",
        "kernel_constraint",
        "fn",
        "function",
    }
)
"""Arguments of Keras's classes that may be functions of tensors."""

_OF_MODULES = {
    "losses": "loss",
    "metrics": "metric",
    "optimizers": "optimizer",
    "constraints": "function",
    "initializers": "function",
    "regularizers": "function",
}


def kind_of_class(bases: Iterable[str]) -> str | None:
    """Returns which kind of Keras's classes a class is, by the dotted names of those that it derives from.

    Args:
        bases: The names.

    Example:
        >>> kind_of_class(["keras.layers.Layer"]), kind_of_class(["torch.nn.Module"])
        ('model', None)
    """
    for each in bases:
        parts = each.split(".")
        if parts[0] != "keras":
            continue
        if "schedules" in parts:
            return "function"
        found = next((_OF_MODULES[part] for part in parts[1:-1] if part in _OF_MODULES), None)
        if found:
            return found
        if parts[-1] in {"Model", "Layer", "Sequential", "Functional"} or "layers" in parts or "models" in parts:
            return "model"
        if parts[-1] in {"Loss", "Metric", "Optimizer", "Initializer", "Regularizer", "Constraint"}:
            return {"Loss": "loss", "Metric": "metric", "Optimizer": "optimizer"}.get(parts[-1], "function")
    return None
