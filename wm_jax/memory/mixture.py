"""M's mixture over the next z, and sampling from it."""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.stats import norm

from wm_jax.types import Array, Component, Key

LEAST_DENSITY = 1e-4
"""Lower bound of a density that divides a gradient: far from all components a step would be unbounded."""


@struct.dataclass
class Mixture:
    """A mixture of K Gaussians for every latent dimension, independent of each other."""

    logits: Array
    """[..., K, Z]: log-weights, up to a constant per dimension."""
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
    """Random numbers of a sample; they are independent of the mixture."""

    uniform: Array
    """[..., Z] in [0, 1): selects the component of each dimension."""
    normal: Array
    """[..., Z] standard normal: position within the component."""


def draw_noise(key: Key, shape: tuple[int, ...]) -> MixtureNoise:
    """Noise of `shape` [..., Z] from `key`."""
    uniform_key, normal_key = jax.random.split(key)
    return MixtureNoise(
        jax.random.uniform(uniform_key, shape, jnp.float32), jax.random.normal(normal_key, shape, jnp.float32)
    )


def log_likelihood(mixture: Mixture, z: Array) -> Array:
    """log p(z) [..., Z] of each latent dimension under its mixture [..., K, Z]."""
    deviation = (z[..., None, :] - mixture.means) * jnp.exp(-mixture.log_stds)
    log_density = -0.5 * (deviation**2 + jnp.log(jnp.float32(2 * jnp.pi))) - mixture.log_stds
    # Normalised at the end: one pass over [..., K, Z] fewer than with normalised weights.
    return jax.nn.logsumexp(mixture.logits + log_density, axis=-2) - jax.nn.logsumexp(mixture.logits, axis=-2)


def sample_mixture(mixture: Mixture, temperature: Array | float, noise: MixtureNoise) -> Array:
    """A sample [..., Z] of `mixture` [..., K, Z] at `temperature` []: log-weights / tau, deviations * sqrt(tau).

    The component is found by inverting the cumulative distribution, which takes one uniform number per dimension.
    """
    # K is small and Z is long: loops over K keep all work elementwise along Z, which becomes a single kernel. A gather
    # would be slow on a CPU; reductions over K would be separate kernels on an accelerator.
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


def draw(mixture: Mixture, temperature: Array | float, noise: MixtureNoise, component: Component = "held") -> Array:
    """`sample_mixture` with a gradient for the choice of a component, by the method `component`. All methods but
    expectation give the same z.

    held: the gradient passes only through the chosen component's mean and deviation, as if the choice were fixed.
    Biased: it ignores changes of the components' probabilities.
    expectation: z is the mean over components, weighted by their probabilities. The gradient is exact, but for a
    different dream without a choice: two possible futures become one between them.
    straight_through: as held, plus a gradient through the weights as if z were that mean. Biased: z is not the mean.
    implicit: dz = -dF(z) / p(z), with F the mixture's distribution function (arXiv 1805.08498, equation 6). Unbiased
    where components overlap, as each dimension is drawn independently. Where components are many deviations apart, the
    gradient across the gap between them is cut off (`LEAST_DENSITY`).
    """
    if component == "held":
        return sample_mixture(mixture, temperature, noise)
    weights = jax.nn.softmax(mixture.logits / temperature, axis=-2)
    stds = jnp.exp(mixture.log_stds) * jnp.sqrt(jnp.asarray(temperature, jnp.float32))
    if component == "implicit":
        z = jax.lax.stop_gradient(sample_mixture(mixture, temperature, noise))
        standard = (z[..., None, :] - mixture.means) / stds
        below = (weights * norm.cdf(standard)).sum(axis=-2)
        density = jax.lax.stop_gradient((weights * norm.pdf(standard) / stds).sum(axis=-2))
        return z - (below - jax.lax.stop_gradient(below)) / jnp.maximum(density, LEAST_DENSITY)
    values = mixture.means + stds * noise.normal[..., None, :]
    if component == "straight_through":
        # The last component gets the remainder, however the sum is rounded.
        beyond = jnp.cumsum(weights, axis=-2)[..., :-1, :] <= noise.uniform[..., None, :]
        chosen = jax.nn.one_hot(beyond.sum(axis=-2), weights.shape[-2], axis=-2, dtype=jnp.float32)
        weights = chosen + weights - jax.lax.stop_gradient(weights)
    return (weights * values).sum(axis=-2)
