"""Distributions of the stochastic state: independent normals, or categorical variables."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.types import Array, Key


class Latent(ABC):
    """A family of distributions over the stochastic state [..., S]. Hashable."""

    @property
    @abstractmethod
    def size(self) -> int:
        """S: numbers of the stochastic state."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Network outputs per distribution."""

    @abstractmethod
    def distribution(self, outputs: Array) -> Any:
        """The distribution for a network's outputs [..., outputs]: a pytree."""

    @abstractmethod
    def noise(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Random numbers for samples of this shape."""

    @abstractmethod
    def draw(self, distribution: Any, noise: Array, temperature: Array | float = 1.0) -> Array:
        """A sample [..., S]; a higher `temperature` [] makes improbable values more likely. Reparameterised: a gradient
        passes through it."""

    @abstractmethod
    def divergence(self, p: Any, q: Any) -> Array:
        """KL(p || q) [...] in nats."""


@struct.dataclass
class Normals:
    """Independent normals."""

    mean: Array
    """[..., S]"""
    deviation: Array
    """[..., S]"""


@dataclass(frozen=True)
class GaussianLatent(Latent):
    """S independent normals."""

    variables: int
    narrowest: float

    @property
    def size(self) -> int:
        """One number per variable."""
        return self.variables

    @property
    def outputs(self) -> int:
        """Means, and the inputs of the deviations."""
        return 2 * self.variables

    def distribution(self, outputs: Array) -> Normals:
        """The deviations are positive and at least `narrowest`."""
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return Normals(mean, jax.nn.softplus(raw) + self.narrowest)

    def noise(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Standard normal [shape, S]."""
        return jax.random.normal(key, (*shape, self.variables), jnp.float32)

    def draw(self, distribution: Normals, noise: Array, temperature: Array | float = 1.0) -> Array:
        """N(mean, deviation^2 temperature)"""
        spread = distribution.deviation * jnp.sqrt(jnp.asarray(temperature, jnp.float32))
        return distribution.mean + spread * noise

    def divergence(self, p: Normals, q: Normals) -> Array:
        """Summed over the variables."""
        ratio = (p.deviation / q.deviation) ** 2
        distance = ((p.mean - q.mean) / q.deviation) ** 2
        return 0.5 * (ratio + distance - 1 - jnp.log(ratio)).sum(axis=-1)


@dataclass(frozen=True)
class CategoricalLatent(Latent):
    """Categorical variables, each as a one-hot vector."""

    variables: int
    classes: int
    unimix: float

    @property
    def size(self) -> int:
        """One number per value of each variable."""
        return self.variables * self.classes

    @property
    def outputs(self) -> int:
        """A logit per value of each variable."""
        return self.size

    def distribution(self, outputs: Array) -> Array:
        """Log-probabilities [..., variables, classes], with the uniform share mixed in."""
        logits = outputs.reshape(*outputs.shape[:-1], self.variables, self.classes)
        if not self.unimix:
            return jax.nn.log_softmax(logits)
        return jnp.log((1 - self.unimix) * jax.nn.softmax(logits) + self.unimix / self.classes)

    def noise(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Uniform in [0, 1): [shape, variables]."""
        return jax.random.uniform(key, (*shape, self.variables), jnp.float32)

    def draw(self, distribution: Array, noise: Array, temperature: Array | float = 1.0) -> Array:
        """Divides [0, 1) into shares of the size of the probabilities and takes the value in whose share the noise
        lies. That needs one random number per variable; Gumbel-max needs one per value. The gradient is that of the
        probabilities (straight-through), which is biased."""
        probabilities = jax.nn.softmax(distribution / jnp.asarray(temperature, jnp.float32))
        # Cumulative sums by a product, as the browser export has no cumsum.
        sums = np.triu(np.ones((self.classes - 1, self.classes - 1), np.float32))
        fixed = jax.lax.stop_gradient(probabilities)[..., :-1]
        ends = jnp.dot(fixed, sums, precision=jax.lax.Precision.HIGHEST)
        value = (noise[..., None] >= ends).sum(axis=-1, dtype=jnp.int32)
        chosen = jax.nn.one_hot(value, self.classes, dtype=jnp.float32)
        passed = chosen + (probabilities - jax.lax.stop_gradient(probabilities))
        return passed.reshape(*passed.shape[:-2], self.size)

    def divergence(self, p: Array, q: Array) -> Array:
        """Summed over the variables."""
        return (jnp.exp(p) * (p - q)).sum(axis=(-2, -1))
