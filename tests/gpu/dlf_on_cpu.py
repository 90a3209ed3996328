"""Two more backends, JAX and PyTorch on the CPU, with which `dlf parity` compares a framework's own GPU."""

from __future__ import annotations

from collections.abc import Mapping

from dlf.backend.protocol import GradientPath
from dlf_jax import JaxBackend
from dlf_torch import TorchBackend

__all__ = ["jax_cpu", "torch_cpu"]


class JaxOnCpu(JaxBackend):
    """Keras on JAX, on the CPU."""

    name = "jax_cpu"
    gradient_path_names = ("grad_cpu",)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self.cpu_environment()}

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        return {"grad_cpu": super().gradient_paths()["grad"]}


class TorchOnCpu(TorchBackend):
    """Keras on PyTorch, on the CPU."""

    name = "torch_cpu"
    gradient_path_names = ("autograd_cpu",)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self.cpu_environment()}

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        return {"autograd_cpu": super().gradient_paths()["autograd"]}


jax_cpu = JaxOnCpu()
torch_cpu = TorchOnCpu()
