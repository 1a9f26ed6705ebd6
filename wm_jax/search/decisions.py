"""Decisions and their results, from which PPO learns in dreams and in the actual environment."""

import jax.numpy as jnp
from flax import struct

from wm_jax.search.actor_critic import advantages
from wm_jax.types import Array


@struct.dataclass
class Decisions:
    """Decisions and their results."""

    inputs: Array
    """[..., F]: C's inputs."""
    drawn: Array
    """[..., X]: the sample behind the action."""
    noise: Array
    """[...]: standard deviation from `PPOConfig.noise_in`."""
    log_likelihood: Array
    """[...]: of the sample."""
    advantage: Array
    """[...]"""
    outcome: Array
    """[...]: target of the critic."""
    counts: Array
    """[...]: 1; 0 after the end of an episode, where there is no decision."""


@struct.dataclass
class Results:
    """Results of decisions [T, L]."""

    earned: Array
    """Discounted reward until the next decision, times 1 - gamma; not finite if the dream's numbers were not."""
    survival: Array
    """The probability that the dream continued."""
    replaced: Array
    """Whether the dream was replaced after this decision: it ended or was long enough."""
    value: Array
    """The critic's value before the decision."""
    next_value: Array
    """The critic's value after it."""
    counts: Array | None = None
    """As in `Decisions.counts`; None: all are 1."""


def with_advantages(
    inputs: Array, drawn: Array, log_likelihood: Array, noise: Array, results: Results, discount: Array | float
) -> Decisions:
    """Decisions [T, L] with their advantages; `discount` is the one between consecutive decisions."""
    # After an end there is no value, and the critic's input may be arbitrary.
    next_value = jnp.where(results.survival > 0, results.next_value, 0)
    broken = ~jnp.isfinite(results.earned)
    # A decision that broke a dream earns 0, or the least that any other decision was worth if that is negative.
    lowest = jnp.min(results.earned + discount * results.survival * next_value, where=~broken, initial=0)
    earned = jnp.where(broken, lowest, results.earned)
    advantage = advantages(earned, results.value, next_value, results.survival, results.replaced, discount)
    counts = jnp.ones_like(advantage) if results.counts is None else results.counts
    return Decisions(
        inputs, drawn, jnp.full_like(advantage, noise), log_likelihood, advantage, advantage + results.value, counts
    )


def mean(values: Array, counts: Array) -> Array:
    """[]: weighted mean."""
    return (values * counts).sum() / jnp.maximum(counts.sum(), 1)


def spread(values: Array, counts: Array) -> Array:
    """[]: weighted variance."""
    return mean((values - mean(values, counts)) ** 2, counts)
