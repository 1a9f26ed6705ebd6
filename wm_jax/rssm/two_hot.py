"""Numbers of any size as distributions over fixed values (DreamerV3, "robust predictions"): a network outputs logits,
the number is the mean, and the loss is the cross-entropy with the two values around the target."""

import jax
import jax.numpy as jnp

from wm_jax.types import Array

BINS = 255
LARGEST = 20.0
"""The values are symexp of evenly spaced numbers from minus this to this."""


def symexp(x: Array) -> Array:
    """sign(x) (exp(abs(x)) - 1)"""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def values() -> Array:
    """[BINS]: the values, in order; the middle one is 0."""
    half = symexp(jnp.linspace(0, LARGEST, BINS // 2 + 1, dtype=jnp.float32))
    return jnp.concatenate([-half[:0:-1], half])


def mean(logits: Array) -> Array:
    """[...]: the mean of the distribution with `logits` [..., BINS]. Exactly 0 for symmetric logits: each value is
    added to its negative first, since the largest would drown all others in rounding."""
    probabilities, middle = jax.nn.softmax(logits), BINS // 2
    difference = probabilities[..., middle:] - probabilities[..., middle::-1]
    return (difference * jnp.broadcast_to(values()[middle:], difference.shape)).sum(axis=-1)


def target(x: Array) -> Array:
    """[..., BINS]: the distribution over the two values nearest to x [...] whose mean is x; beyond the largest value,
    only that one."""
    table = values()
    x = jnp.clip(x, table[0], table[-1])
    above = jnp.clip(jnp.searchsorted(table, x, side="right"), 1, BINS - 1).astype(jnp.int32)
    low, high = table[above - 1], table[above]
    share = ((x - low) / (high - low))[..., None]
    below, upon = (jax.nn.one_hot(number, BINS, dtype=jnp.float32) for number in (above - 1, above))
    return (1 - share) * below + share * upon


def cross_entropy(logits: Array, x: Array) -> Array:
    """[...]: cross-entropy of the distribution with `logits` [..., BINS] for the target x [...]."""
    return -(target(x) * jax.nn.log_softmax(logits)).sum(axis=-1)
