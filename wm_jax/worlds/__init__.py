"""World models: one file each, registered by their settings' `kind`."""

from wm_jax.worlds.protocol import WORLDS, Actor, World, WorldConfig, WorldModel

__all__ = ["WORLDS", "Actor", "World", "WorldConfig", "WorldModel"]
