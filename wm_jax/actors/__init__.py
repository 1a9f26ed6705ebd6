"""Controllers: one file each, registered by their settings' `kind`."""

from wm_jax.actors.protocol import ACTORS, ActorConfig

__all__ = ["ACTORS", "ActorConfig"]
