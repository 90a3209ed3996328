"""The JAX backend: gradients by `jax.value_and_grad` with updates by optax, and both by Flax NNX."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from dlf.backend.protocol import EpochRunner, GradientPath

__all__ = ["backend"]


class JaxBackend:
    """Keras on JAX."""

    name = "jax"
    keras_backend = "jax"
    requires = ("jax", "flax", "optax")
    install_command = "pip install jax flax optax"
    gradient_path_names: tuple[str, ...] = ("grad", "nnx")

    def environment(self) -> Mapping[str, str]:
        return {}

    def cpu_environment(self) -> Mapping[str, str]:
        return {"JAX_PLATFORMS": "cpu"}

    def devices(self) -> Sequence[str]:
        import jax

        # On a CPU, `device_kind` is "cpu", which would only repeat the platform.
        return [f"{each.platform}:{each.id} {each.device_kind}".removesuffix(" cpu") for each in jax.devices()]

    def numeric_settings(self) -> Mapping[str, str]:
        import jax

        # If unset, the device decides on the precision: TF32 on NVIDIA GPUs from Ampere on.
        precision = jax.config.jax_default_matmul_precision
        return {
            "jax_default_matmul_precision": "unset" if precision is None else str(precision),
            "jax_enable_x64": str(jax.config.jax_enable_x64),
        }

    def tensor_float_32(self) -> str | None:
        import jax

        precise = jax.config.jax_default_matmul_precision in ("highest", "float32")
        return None if precise or not self.devices()[0].startswith("gpu") else "JAX_DEFAULT_MATMUL_PRECISION=highest"

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        from dlf_jax import gradients, nnx_gradients

        return {"grad": gradients, "nnx": nnx_gradients}

    def hand_written_loops(self) -> Mapping[str, Callable[[Any], Any]]:
        from dlf_jax.loops import LOOPS

        return LOOPS

    def float64(self) -> AbstractContextManager[Any]:
        import jax

        return jax.enable_x64(True)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from dlf_jax.compiling import compiled

        return compiled(function)

    def custom_gradients_undone(self, note: Callable[[], None]) -> AbstractContextManager[None]:
        from dlf_jax.custom_gradients import custom_gradients_undone

        return custom_gradients_undone(note)

    def epoch_runner(self, model: Any) -> EpochRunner:
        from dlf_jax.epochs import JaxEpochRunner

        return JaxEpochRunner(model)

    def free_memory(self) -> int | None:
        from dlf_jax.epochs import free_memory

        return free_memory()

    def threefry_2x32(self, key: Any, counter: tuple[Any, Any]) -> tuple[Any, Any]:
        from dlf_jax.random_stream import threefry_2x32

        return threefry_2x32(key, counter)

    def random_bits(self, key: Any, shape: Any) -> Any:
        from dlf_jax.random_stream import random_bits

        return random_bits(key, shape)

    def look_up(self, table: Any, indices: Any) -> Any:
        from dlf_jax.random_stream import look_up

        return look_up(table, indices)

    def common_draws(self) -> Collection[str]:
        import jax

        # JAX draws other numbers with 64 bits enabled, with another generator, or in another layout.
        other = jax.config.jax_default_prng_impl != "threefry2x32" or not jax.config.jax_threefry_partitionable
        return () if other or jax.config.jax_enable_x64 else ("dropout", "uniform", "randint", "shuffle")


backend = JaxBackend()
