"""The TensorFlow backend: gradients by `tf.GradientTape`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dlf.backend.protocol import EpochRunner, GradientPath

__all__ = ["backend"]


class TensorFlowBackend:
    """Keras on TensorFlow."""

    name = "tensorflow"
    keras_backend = "tensorflow"
    requires = ("tensorflow",)
    install_command = "pip install tensorflow"
    gradient_path_names: tuple[str, ...] = ("tape",)

    def environment(self) -> Mapping[str, str]:
        # This affects only the log of the C++ runtime, which would print a screen of notices at every start.
        return {"TF_CPP_MIN_LOG_LEVEL": "2"}

    def cpu_environment(self) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

    def devices(self) -> Sequence[str]:
        import tensorflow as tf

        names = []
        for device in tf.config.list_physical_devices():
            place = f"{device.device_type.lower()}:{device.name.rsplit(':', 1)[-1]}"
            kind = tf.config.experimental.get_device_details(device).get("device_name", "")
            names.append(f"{place} {kind}".rstrip())
        # TensorFlow lists the CPU first and computes on the GPU where there is one.
        return sorted(names, key=lambda name: name.startswith("cpu"))

    def numeric_settings(self) -> Mapping[str, str]:
        import tensorflow as tf

        return {
            "tensor_float_32_execution": str(tf.config.experimental.tensor_float_32_execution_enabled()),
            # oneDNN sums in another order, which changes the last digits of results on CPUs.
            "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset"),
        }

    def tensor_float_32(self) -> str | None:
        import tensorflow as tf

        used = tf.config.experimental.tensor_float_32_execution_enabled() and self.devices()[0].startswith("gpu")
        return "tf.config.experimental.enable_tensor_float_32_execution(False)" if used else None

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        from dlf_tensorflow import gradients

        return {"tape": gradients}

    def hand_written_loops(self) -> Mapping[str, Callable[[Any], Any]]:
        from dlf_tensorflow.loops import LOOPS

        return LOOPS

    def float64(self) -> AbstractContextManager[Any]:
        from dlf_tensorflow.numbers import python_numbers_kept

        return python_numbers_kept()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def custom_gradients_undone(self, note: Callable[[], None]) -> AbstractContextManager[None]:
        from dlf_tensorflow.custom_gradients import custom_gradients_undone

        return custom_gradients_undone(note)

    def epoch_runner(self, model: Any) -> EpochRunner:
        from dlf_tensorflow.epochs import TensorFlowEpochRunner

        return TensorFlowEpochRunner(model)

    def free_memory(self) -> int | None:
        from dlf_tensorflow.epochs import free_memory

        return free_memory()

    def threefry_2x32(self, key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
        from dlf_tensorflow.random_stream import threefry_2x32

        return threefry_2x32(key, counter)

    def random_bits(self, key: Any, shape: Any) -> Any:
        from dlf_tensorflow.random_stream import random_bits

        return random_bits(key, shape)

    def look_up(self, table: Any, indices: Any) -> Any:
        from dlf_tensorflow.random_stream import look_up

        return look_up(table, indices)

    def common_draws(self) -> Collection[str]:
        return ()


backend = TensorFlowBackend()
