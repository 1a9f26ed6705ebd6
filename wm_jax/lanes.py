"""Operations on lanes: episodes or dreams that advance side by side in one batch."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from wm_jax.types import Array, Population

Lanes = TypeVar("Lanes")

SHARED_FROM = 8192
"""A single controller with at least this many weights is shared by all lanes; a copy for each lane would be too large.
A smaller one is gathered for each lane at no extra time, and then computes bitwise the same alone as among others."""
PLANNED_IN_CALL = 2**22
"""Most steps that planners dream in one compiled call: tens of seconds on a CPU, and a call cannot be interrupted."""

PLANNING = 4
"""Lanes that plan together on a CPU. Few, because one lane's plans already fill the cores, and a lane that needs no plan
costs as much as one that does."""


def in_call(most: int, planned: float) -> int:
    """How many of `most` steps or episodes one compiled call takes; planners dream `planned` steps in each of them."""
    return min(most, max(1, int(PLANNED_IN_CALL / planned))) if planned else most


def shares(table: Population) -> bool:
    """Whether lanes share the weights of the table `table` [M, ...]: it holds a single, large controller."""
    leaves = jax.tree.leaves(table)
    return all(len(leaf) == 1 for leaf in leaves) and sum(leaf.size for leaf in leaves) >= SHARED_FROM


def rows(table: Population) -> int:
    """M: number of controllers in a table [M, ...]; 1 if they have no weights."""
    return max((len(leaf) for leaf in jax.tree.leaves(table)), default=1)


def alone(weights: Any) -> Any:
    """The table [1, ...] with the weights of one controller."""
    return jax.tree.map(lambda array: array[None], weights)


def many(tree: Any, lanes: int) -> Any:
    """The pytree with each array repeated for every lane: [lanes, ...]."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *jnp.shape(leaf))), tree)


def add(bias: Array, to: Array) -> Array:
    """`to` [..., O] plus `bias` [O], in every lane."""
    return to + jnp.broadcast_to(bias, to.shape)


def choose(condition: Array, new: Lanes, old: Lanes) -> Lanes:
    """A pytree [B, ...]: the lanes of `new` [B, ...] where `condition` [B] is True, those of `old` elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(condition.reshape(-1, *[1] * (o.ndim - 1)), n, o), new, old)
