"""Draws from M's mixture over the next z."""

import jax
import jax.numpy as jnp

from wm_jax.types import Array, Key, Mixture


def sample_mixture(mixture: Mixture, temperature: Array | float, key: Key) -> Array:
    """A draw [..., Z] from `mixture` [..., Z, K] at `temperature` []: log-weights / tau, deviations * sqrt(tau).

    The component is found by the inverse of the cumulative distribution, which takes one uniform number per dimension.
    """
    uniform_key, normal_key = jax.random.split(key)
    shape = mixture.means.shape[:-1]
    scaled = mixture.log_weights / temperature
    weights = jnp.exp(scaled - scaled.max(axis=-1, keepdims=True))
    threshold = jax.random.uniform(uniform_key, shape) * weights.sum(axis=-1)
    # K is small and Z is long: a walk over K keeps the work elementwise along Z, where a gather would be slow on CPU.
    mean, log_std = mixture.means[..., 0], mixture.log_stds[..., 0]
    cumulative = jnp.zeros(shape)
    for k in range(1, mixture.means.shape[-1]):
        cumulative += weights[..., k - 1]
        beyond = cumulative <= threshold
        mean = jnp.where(beyond, mixture.means[..., k], mean)
        log_std = jnp.where(beyond, mixture.log_stds[..., k], log_std)
    return mean + jnp.exp(log_std) * jnp.sqrt(temperature) * jax.random.normal(normal_key, shape)
