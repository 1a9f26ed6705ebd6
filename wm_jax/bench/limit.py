"""The limit: how fast this machine computes matrix products of a network's exact shapes, and nothing else."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.bench.timing import Work
from wm_jax.types import Array

Product = tuple[int, int, int]
"""[m, k] × [k, n]: 2 m k n operations."""
Turn = tuple[int, Sequence[Product]]
"""How many times in sequence to compute some products."""


def operations(turns: Sequence[Turn]) -> float:
    """Floating-point operations of all turns."""
    return float(sum(times * 2 * m * k * n for times, shapes in turns for m, k, n in shapes))


def products(turns: Sequence[Turn], precision: str) -> Work:
    """Computes the products of all turns in one compiled call, at one of the dream's precisions; returns the
    operations."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32

    # Random values, since accelerators are faster on constants. Two left operands alternate: no product can be reused.
    def draw(shape: tuple[int, ...]) -> Array:
        return jax.random.normal(jax.random.key(0), shape, dtype)

    operands = [[(draw((min(times, 2), m, k)), draw((k, n))) for m, k, n in shapes] for times, shapes in turns]
    with jax.default_matmul_precision(precision):
        run = jax.jit(partial(_run, tuple(times for times, _ in turns))).lower(operands).compile()

    def work() -> float:
        jax.block_until_ready(run(operands))
        return operations(turns)

    return work


def _run(times: tuple[int, ...], operands: list[list[tuple[Array, Array]]]) -> list[list[Array]]:
    return [_turn(count, pairs) for count, pairs in zip(times, operands, strict=True)]


def _turn(count: int, pairs: list[tuple[Array, Array]]) -> list[Array]:
    def once(number: Array, results: list[Array]) -> list[Array]:
        return [jnp.dot(left[number % len(left)], right, preferred_element_type=jnp.float32) for left, right in pairs]

    zeros = [jnp.zeros((left.shape[1], right.shape[1]), jnp.float32) for left, right in pairs]
    return jax.lax.fori_loop(0, count, once, zeros)
