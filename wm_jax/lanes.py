"""What lanes need that go forward side by side, each with an episode or a dream of its own."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from wm_jax.types import Array, Population

Lanes = TypeVar("Lanes")

SHARED_FROM = 8192
"""So many weights of a lone controller are shared by all lanes: gathered for each, they would be as many times as large.
Fewer take no longer gathered, and then act alone, to the last bit, as they do among others."""


def shares(table: Population) -> bool:
    """Whether lanes share the weights of the controllers `table` [M, ...]: where there is but one, and a large one."""
    leaves = jax.tree.leaves(table)
    return all(len(leaf) == 1 for leaf in leaves) and sum(leaf.size for leaf in leaves) >= SHARED_FROM


def rows(table: Population) -> int:
    """M: the controllers of a table [M, ...]; 1 where they have no weights."""
    return max((len(leaf) for leaf in jax.tree.leaves(table)), default=1)


def alone(weights: Any) -> Any:
    """The table [1, ...] of one controller's weights."""
    return jax.tree.map(lambda array: array[None], weights)


def many(tree: Any, lanes: int) -> Any:
    """A pytree with each array as that of so many lanes: [lanes, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *jnp.shape(leaf))), tree)


def add(bias: Array, to: Array) -> Array:
    """`to` [..., O] with `bias` [O] added in every lane."""
    return to + jnp.broadcast_to(bias, to.shape)


def choose(condition: Array, new: Lanes, old: Lanes) -> Lanes:
    """A pytree [B, ...] with the lanes of `new` [B, ...] where `condition` [B] is True, and those of `old` elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(condition.reshape(-1, *[1] * (o.ndim - 1)), n, o), new, old)
