"""M's mixture over the next z, and draws from it."""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.stats import norm

from wm_jax.types import Array, Component, Key

LEAST_DENSITY = 1e-4
"""What a density counts at least where it divides a gradient: far from all components a step would have no bound."""


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


def draw(mixture: Mixture, temperature: Array | float, noise: MixtureNoise, component: Component = "held") -> Array:
    """`sample_mixture`, with a gradient that passes the choice of a component as `component` says. All but expectation
    draw the same z.

    held: through the chosen component's mean and deviation alone, as if it would be chosen whatever happens. Biased: what
    makes another component likelier is not seen.
    expectation: z is the mean over components, weighed by how likely they are. Exact, but of another dream, in which
    nothing is chosen: two possible futures become one between them.
    straight_through: as held, and through the weights as if z moved with them to that mean. Biased: it does not.
    implicit: dz = -dF(z) / p(z), F being the distribution function of the mixture (arXiv 1805.08498, equation 6).
    Unbiased, as each dimension is drawn on its own, where components overlap; where they lie many deviations apart, what
    crosses the gap between them is cut off (`LEAST_DENSITY`).
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
        # The last component is what is left, however the sum is rounded.
        beyond = jnp.cumsum(weights, axis=-2)[..., :-1, :] <= noise.uniform[..., None, :]
        chosen = jax.nn.one_hot(beyond.sum(axis=-2), weights.shape[-2], axis=-2, dtype=jnp.float32)
        weights = chosen + weights - jax.lax.stop_gradient(weights)
    return (weights * values).sum(axis=-2)
