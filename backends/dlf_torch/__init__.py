"""PyTorch: gradients by `torch.autograd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlf.backend_protocol import GradientPath

__all__ = ["backend"]


class TorchBackend:
    """Keras on PyTorch."""

    name = "torch"
    keras_backend = "torch"
    requires = ("torch",)
    # On Linux a plain `pip install torch` brings several gigabytes of GPU libraries; this build does without.
    install_command = "pip install torch --index-url https://download.pytorch.org/whl/cpu"

    def environment(self) -> Mapping[str, str]:
        return {}

    def devices(self) -> Sequence[str]:
        import torch

        found = [f"gpu:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            found.append("mps:0")
        return [*found, "cpu:0"]

    def numeric_settings(self) -> Mapping[str, str]:
        import torch

        return {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn.allow_tf32": str(torch.backends.cudnn.allow_tf32),
            "deterministic_algorithms": str(torch.are_deterministic_algorithms_enabled()),
        }

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        from dlf_torch.gradients import AutogradPath

        return {"autograd": AutogradPath()}


backend = TorchBackend()
