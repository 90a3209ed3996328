"""JAX: gradients by `jax.value_and_grad`, updates by optax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlf.backend_protocol import GradientPath

__all__ = ["backend"]


class JaxBackend:
    """Keras on JAX."""

    name = "jax"
    keras_backend = "jax"
    requires = ("jax", "flax", "optax")
    install_command = "pip install jax flax optax"

    def environment(self) -> Mapping[str, str]:
        return {}

    def devices(self) -> Sequence[str]:
        import jax

        # On a CPU the kind is just "cpu" again.
        return [f"{each.platform}:{each.id} {each.device_kind}".removesuffix(" cpu") for each in jax.devices()]

    def numeric_settings(self) -> Mapping[str, str]:
        import jax

        # Unset, JAX leaves the precision to the device: TF32 on NVIDIA GPUs from Ampere on.
        precision = jax.config.jax_default_matmul_precision
        return {
            "jax_default_matmul_precision": "unset" if precision is None else str(precision),
            "jax_enable_x64": str(jax.config.jax_enable_x64),
        }

    def gradient_paths(self) -> Mapping[str, GradientPath]:
        from dlf_jax.gradients import GradPath

        return {"grad": GradPath()}


backend = JaxBackend()
