"""Fresh weights: described first, then drawn in one call, which compiles much faster than one draw for each array."""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from wm_jax.types import Key, Params


@dataclass(frozen=True)
class Uniform:
    """An array drawn uniformly from [-limit, limit]."""

    shape: tuple[int, ...]
    limit: float


@dataclass(frozen=True)
class Constant:
    """An array filled with one value."""

    shape: tuple[int, ...]
    value: float = 0.0


def kernel(*shape: int) -> Uniform:
    """Glorot-uniform weights of a layer. The last two axes are inputs and outputs; axes before them are spatial, as in
    a convolution."""
    return Uniform(shape, math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1]))))


def dense(inputs: int, outputs: int) -> dict[str, Uniform | Constant]:
    """A layer {"kernel": [I, O], "bias": [O]} with a bias of 0."""
    return {"kernel": kernel(inputs, outputs), "bias": Constant((outputs,))}


def zero(fresh: Any) -> Any:
    """The same arrays, all zeros."""
    return jax.tree.map(lambda leaf: Constant(leaf.shape), fresh)


def shapes(fresh: Any) -> Params:
    """Shapes of the arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), fresh)


def draw(key: Key, fresh: Any) -> Params:
    """Draw the weights described by a tree of `Uniform` and `Constant`."""
    leaves, tree = jax.tree.flatten(fresh)
    ends = list(accumulate(math.prod(leaf.shape) for leaf in leaves))
    parts = jnp.split(jax.random.uniform(key, (ends[-1],), jnp.float32, -1, 1), ends[:-1])
    return jax.tree.unflatten(
        tree,
        [
            leaf.limit * part.reshape(leaf.shape)
            if isinstance(leaf, Uniform)
            else jnp.full(leaf.shape, leaf.value, jnp.float32)
            for leaf, part in zip(leaves, parts, strict=True)
        ],
    )
