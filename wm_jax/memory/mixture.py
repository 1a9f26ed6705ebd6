"""M's mixture over the next z, and draws from it."""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.types import Array, Key


@struct.dataclass
class Mixture:
    """A mixture of K Gaussians for every latent dimension, independent of each other."""

    logits: Array
    """[..., K, Z]: the logarithms of the weights, up to a constant of each dimension."""
    means: Array
    """[..., K, Z]"""
    log_stds: Array
    """[..., K, Z]"""

    @property
    def log_weights(self) -> Array:
        """[..., K, Z]: normalised, logsumexp over K is 0."""
        return jax.nn.log_softmax(self.logits, axis=-2)


@struct.dataclass
class MixtureNoise:
    """What a draw from a mixture takes of chance, before anything is known of the mixture."""

    uniform: Array
    """[..., Z] in [0, 1): decides which component each dimension is drawn from."""
    normal: Array
    """[..., Z] standard normal: where in its component."""


def draw_noise(key: Key, shape: tuple[int, ...]) -> MixtureNoise:
    """The noise of `shape` [..., Z] that belongs to `key`."""
    uniform_key, normal_key = jax.random.split(key)
    return MixtureNoise(
        jax.random.uniform(uniform_key, shape, jnp.float32), jax.random.normal(normal_key, shape, jnp.float32)
    )


def log_likelihood(mixture: Mixture, z: Array) -> Array:
    """log p(z) [..., Z] of each latent dimension under its mixture [..., K, Z]."""
    deviation = (z[..., None, :] - mixture.means) * jnp.exp(-mixture.log_stds)
    log_density = -0.5 * (deviation**2 + jnp.log(jnp.float32(2 * jnp.pi))) - mixture.log_stds
    # Normalised at the end: one pass over [..., K, Z] less than with normalised weights.
    return jax.nn.logsumexp(mixture.logits + log_density, axis=-2) - jax.nn.logsumexp(mixture.logits, axis=-2)


def sample_mixture(mixture: Mixture, temperature: Array | float, noise: MixtureNoise) -> Array:
    """A draw [..., Z] from `mixture` [..., K, Z] at `temperature` []: log-weights / tau, deviations * sqrt(tau).

    The component is found by the inverse of the cumulative distribution, which takes one uniform number per dimension.
    """
    # K is small and Z is long: walks over K keep all of the work elementwise along Z, which becomes a single kernel. A
    # gather would be slow on CPU; reductions over K would be kernels of their own on an accelerator.
    components = range(mixture.means.shape[-2])
    scaled = [mixture.logits[..., k, :] / temperature for k in components]
    largest = reduce(jnp.maximum, scaled)
    weights = [jnp.exp(logit - largest) for logit in scaled]
    threshold = noise.uniform * reduce(jnp.add, weights)
    mean, log_std = mixture.means[..., 0, :], mixture.log_stds[..., 0, :]
    cumulative = jnp.zeros_like(threshold)
    for k in components[1:]:
        cumulative += weights[k - 1]
        beyond = cumulative <= threshold
        mean = jnp.where(beyond, mixture.means[..., k, :], mean)
        log_std = jnp.where(beyond, mixture.log_stds[..., k, :], log_std)
    return mean + jnp.exp(log_std) * jnp.sqrt(jnp.asarray(temperature, jnp.float32)) * noise.normal
