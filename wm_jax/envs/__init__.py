"""Actual environments written in JAX: they run where the models run, compiled together with them."""

from wm_jax.envs.protocol import JaxEnvironment, Script

__all__ = ["JaxEnvironment", "Script"]
