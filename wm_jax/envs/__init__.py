"""Environments written in JAX. They run on the device, compiled together with the models."""

from wm_jax.envs.protocol import JaxEnvironment, Script

__all__ = ["JaxEnvironment", "Script"]
