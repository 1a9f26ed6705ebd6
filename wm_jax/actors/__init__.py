"""Controllers: one file per actor, registered by the `kind` of its settings."""

from wm_jax.actors.protocol import ACTORS, ActorConfig

__all__ = ["ACTORS", "ActorConfig"]
