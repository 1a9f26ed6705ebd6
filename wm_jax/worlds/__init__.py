"""World models: one file each, registered under the `kind` of its settings."""

from wm_jax.worlds.protocol import WORLDS, Actor, World, WorldConfig, WorldModel

__all__ = ["WORLDS", "Actor", "World", "WorldConfig", "WorldModel"]
