"""The PyTorch backend: gradients by `torch.autograd`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dlf.backend.protocol import EpochRunner, GradientPath

__all__ = ["backend"]


class TorchBackend:
    """Keras on PyTorch."""

    name = "torch"
    keras_backend = "torch"
    requires = ("torch",)
    # On Linux a plain `pip install torch` brings several gigabytes of GPU libraries; this build does without.
    install_command = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
    gradient_path_names: tuple[str, ...] = ("autograd",)

    def environment(self) -> Mapping[str, str]:
        return {}

    def cpu_environment(self) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

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

    def tensor_float_32(self) -> str | None:
        import torch

        if not torch.cuda.is_available():
            return None
        # By default, PyTorch uses TF32 for convolutions but not for matrix products.
        settings = {
            "torch.backends.cudnn.allow_tf32 = False": torch.backends.cudnn.allow_tf32,
            'torch.set_float32_matmul_precision("highest")': torch.get_float32_matmul_precision() != "highest",
        }
        return " and ".join(setting for setting, used in settings.items() if used) or None

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        from dlf_torch import gradients

        return {"autograd": gradients}

    def hand_written_loops(self) -> Mapping[str, Callable[[Any], Any]]:
        from dlf_torch.loops import LOOPS

        return LOOPS

    def float64(self) -> AbstractContextManager[Any]:
        from dlf_torch.numbers import contiguous_kernels

        return contiguous_kernels()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def custom_gradients_undone(self, note: Callable[[], None]) -> AbstractContextManager[None]:
        from dlf_torch.custom_gradients import custom_gradients_undone

        return custom_gradients_undone(note)

    def epoch_runner(self, model: Any) -> EpochRunner:
        from dlf_torch.epochs import TorchEpochRunner

        return TorchEpochRunner(model)

    def free_memory(self) -> int | None:
        from dlf_torch.epochs import free_memory

        return free_memory()

    def threefry_2x32(self, key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
        from dlf_torch.random_stream import threefry_2x32

        return threefry_2x32(key, counter)

    def random_bits(self, key: Any, shape: Any) -> Any:
        from dlf_torch.random_stream import random_bits

        return random_bits(key, shape)

    def look_up(self, table: Any, indices: Any) -> Any:
        from dlf_torch.random_stream import look_up

        return look_up(table, indices)

    def common_draws(self) -> Collection[str]:
        return ()


backend = TorchBackend()
