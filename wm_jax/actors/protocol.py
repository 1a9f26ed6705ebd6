"""Controllers' settings, and their weights as one array. What a controller is says `worlds.protocol.Actor`.

A new actor is one file in this folder, or in a file of a user's own, whose settings are registered by `ACTORS.register`
(docs/extending.md).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.registry import PartConfig, Registry
from wm_jax.types import Array, Params
from wm_jax.worlds import Actor, WorldModel

ACTORS: "Registry[type[ActorConfig]]" = Registry("actor.kind", "wm_jax.actors")


@dataclass(frozen=True)
class ActorConfig(PartConfig):
    """Base of an actor's settings."""

    registry: ClassVar[Registry[Any]] = ACTORS

    def build(self, model: WorldModel) -> Actor:
        """The actor for a world model. Raises `UserError` where the two do not go together."""
        raise NotImplementedError


@cache
def shapes(actor: Actor) -> Params:
    """The shapes of an actor's weights."""
    return jax.eval_shape(lambda: actor.init(jax.random.key(0)))


def size(actor: Actor) -> int:
    """D: number of an actor's weights."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(actor)))


def flat(params: Params, axes: int = 0) -> Array:
    """Weights whose arrays have so many leading axes in common as one array [..., D]: leaf by leaf, row by row."""
    parts = [leaf.reshape(*leaf.shape[:axes], -1) for leaf in jax.tree.leaves(params)]
    return jnp.concatenate(parts, axis=-1)


def unflat(like: Params, weights: Any) -> Params:
    """The inverse of `flat` for weights [..., D] of an actor whose arrays are as those of `like`."""
    leaves, tree = jax.tree.flatten(like)
    if not leaves:
        return like
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    numbers = np if isinstance(weights, np.ndarray) else jnp
    parts = numbers.split(weights, ends[:-1], axis=-1)
    shaped = [part.reshape(*weights.shape[:-1], *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)
