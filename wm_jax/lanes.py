"""What lanes need that go forward side by side, each with an episode or a dream of its own."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from wm_jax.types import Array

Lanes = TypeVar("Lanes")


def choose(condition: Array, new: Lanes, old: Lanes) -> Lanes:
    """A pytree [B, ...] with the lanes of `new` [B, ...] where `condition` [B] is True, and those of `old` elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(condition.reshape(-1, *[1] * (o.ndim - 1)), n, o), new, old)
