"""What was decided, and what came of it: what PPO learns from, in dreams and in the actual environment."""

import jax.numpy as jnp
from flax import struct

from wm_jax.search.actor_critic import advantages
from wm_jax.types import Array


@struct.dataclass
class Decisions:
    """What was decided in dreams and what came of it."""

    inputs: Array
    """[..., F]: what C read."""
    drawn: Array
    """[..., X]: what was drawn for the action."""
    noise: Array
    """[...]: as `PPOConfig.noise_in` has it."""
    log_likelihood: Array
    """[...]: of what was drawn."""
    advantage: Array
    """[...]"""
    outcome: Array
    """[...]: what the critic should have said."""
    counts: Array
    """[...]: 1, or 0 where nothing was decided, as the episode was over."""


@struct.dataclass
class Came:
    """What came of decisions [T, L]."""

    earned: Array
    """Up to the next one, in the critic's units; not finite where a dream's numbers were not."""
    survival: Array
    """The probability that the dream went on."""
    left: Array
    """Whether it was left after this one, or had ended."""
    value: Array
    """What the critic said before."""
    next_value: Array
    """And after."""
    counts: Array | None = None
    """As `Decisions.counts`; None: all do."""


def judged(
    inputs: Array, drawn: Array, log_likelihood: Array, noise: Array, came: Came, discount: Array | float
) -> Decisions:
    """Decisions [T, L] with their advantages; `discount` is that from one to the next."""
    # Nothing follows on an end, and what is read after it may be anything.
    next_value = jnp.where(came.survival > 0, came.next_value, 0)
    broken = ~jnp.isfinite(came.earned)
    # What broke a dream is worth nothing, or as little as the worst that was decided elsewhere.
    lowest = jnp.min(came.earned + discount * came.survival * next_value, where=~broken, initial=0)
    earned = jnp.where(broken, lowest, came.earned)
    advantage = advantages(earned, came.value, next_value, came.survival, came.left, discount)
    counts = jnp.ones_like(advantage) if came.counts is None else came.counts
    return Decisions(
        inputs, drawn, jnp.full_like(advantage, noise), log_likelihood, advantage, advantage + came.value, counts
    )


def mean(values: Array, counts: Array) -> Array:
    """[]: of those that count."""
    return (values * counts).sum() / jnp.maximum(counts.sum(), 1)


def spread(values: Array, counts: Array) -> Array:
    """[]: their variance."""
    return mean((values - mean(values, counts)) ** 2, counts)
