"""Distributions over actions, from which policies sample.

Each is a pytree for any number of lanes [...]. A sample x [..., X] is mapped to an action [..., A] in [-1, 1].
"""

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import betaln, digamma
from jax.scipy.stats import beta, norm

from wm_jax.types import Action, Array, Key

NARROWEST = 0.01
"""Lower bound of a network's standard deviation for a `SquashedNormal`."""
DEVIATIONS = 0.1, 1.0
"""Bounds of a network's standard deviation for a `BoundedNormal`."""
LEAST_EXCESS = 1e-3
"""Smallest amount by which a network's Beta parameters exceed 1. float32 would lose a smaller one, and the mode would not
be unique."""
EDGE = 1e-4
"""Samples of a `Beta` keep this distance from 0 and 1, where its density may be infinite."""


class Distribution(ABC):
    """A distribution over actions."""

    @abstractmethod
    def draw(self, key: Key) -> Array:
        """x [..., X]"""

    @abstractmethod
    def action(self, drawn: Array) -> Action:
        """The action [..., A] for x."""

    @abstractmethod
    def mode(self) -> Action:
        """The action [..., A] without exploration."""

    @abstractmethod
    def log_likelihood(self, drawn: Array) -> Array:
        """[...]: of x."""

    @abstractmethod
    def entropy(self, drawn: Array) -> Array:
        """[...]: of the action, or an estimate from x whose gradient is unbiased if x was drawn from this
        distribution."""


@struct.dataclass
class _Normal(Distribution):
    """x ~ N(center, deviation^2)"""

    center: Array
    """[..., A]"""
    deviation: Array
    """[..., A]"""

    def draw(self, key: Key) -> Array:
        """x [..., A]"""
        return self.center + self.deviation * jax.random.normal(key, self.center.shape, jnp.float32)

    def log_likelihood(self, drawn: Array) -> Array:
        """Of x, not of the action: ratios are the same."""
        return norm.logpdf(drawn, self.center, self.deviation).sum(axis=-1)


@struct.dataclass
class SquashedNormal(_Normal):
    """x ~ N(center, deviation^2), action = tanh(x)."""

    def action(self, drawn: Array) -> Action:
        """tanh(x)"""
        return jnp.tanh(drawn)

    def mode(self) -> Action:
        """tanh(center)"""
        return jnp.tanh(self.center)

    def entropy(self, drawn: Array) -> Array:
        """The entropy of x plus log(1 - tanh(x)^2), with x recomputed from its standard normal draw and the current
        parameters."""
        standard = jax.lax.stop_gradient((drawn - self.center) / self.deviation)
        of_x = jnp.log(self.deviation) + jnp.float32(0.5) * jnp.log(jnp.float32(2 * jnp.pi * jnp.e))
        return (of_x + _log_slope(self.center + self.deviation * standard)).sum(axis=-1)


@struct.dataclass
class BoundedNormal(_Normal):
    """x ~ N(center, deviation^2), action = x clipped to [-1, 1]; the center lies between the bounds (as in
    DreamerV3)."""

    def action(self, drawn: Array) -> Action:
        """x clipped to the bounds."""
        return jnp.clip(drawn, -1, 1)

    def mode(self) -> Action:
        """The center."""
        return self.center

    def entropy(self, drawn: Array) -> Array:
        """The entropy of x, exact."""
        constant = jnp.float32(0.5) * jnp.log(jnp.float32(2 * jnp.pi * jnp.e))
        return (jnp.log(self.deviation) + constant).sum(axis=-1)


@struct.dataclass
class Beta(Distribution):
    """x ~ Beta(alpha, beta) in [0, 1], action = 2 x - 1: bounded, without mass at the bounds (Chou et al., 2017)."""

    alpha: Array
    """[..., A] > 1"""
    beta: Array
    """[..., A] > 1"""

    def draw(self, key: Key) -> Array:
        """x [..., A]"""
        return jnp.clip(jax.random.beta(key, self.alpha, self.beta, dtype=jnp.float32), EDGE, 1 - EDGE)

    def action(self, drawn: Array) -> Action:
        """2 x - 1"""
        return 2 * drawn - 1

    def mode(self) -> Action:
        """The mode of the density; it is unique, as both parameters are above 1."""
        return 2 * (self.alpha - 1) / (self.alpha + self.beta - 2) - 1

    def log_likelihood(self, drawn: Array) -> Array:
        """Of x."""
        return beta.logpdf(drawn, self.alpha, self.beta).sum(axis=-1)

    def entropy(self, drawn: Array) -> Array:
        """Exact up to a constant."""
        both = self.alpha + self.beta
        return (
            betaln(self.alpha, self.beta)
            - (self.alpha - 1) * digamma(self.alpha)
            - (self.beta - 1) * digamma(self.beta)
            + (both - 2) * digamma(both)
        ).sum(axis=-1)


@struct.dataclass
class Categorical(Distribution):
    """x ~ softmax(logits), the index of one of the task's actions."""

    logits: Array
    """[..., N]"""
    actions: Array
    """[N, A]"""

    def draw(self, key: Key) -> Array:
        """x [..., 1]: an integer."""
        return jax.random.categorical(key, self.logits)[..., None].astype(jnp.float32)

    def action(self, drawn: Array) -> Action:
        """The action with that index."""
        return self._numbered(drawn[..., 0].astype(jnp.int32))

    def mode(self) -> Action:
        """The most probable action."""
        return self._numbered(self.logits.argmax(axis=-1))

    def _numbered(self, number: Array) -> Action:
        """The action with an index [...]; by a sum, as the browser export has no gather."""
        chosen = jax.nn.one_hot(number, len(self.actions), dtype=jnp.float32)
        return (chosen[..., None] * jnp.broadcast_to(self.actions, (*chosen.shape, self.actions.shape[-1]))).sum(
            axis=-2
        )

    def log_likelihood(self, drawn: Array) -> Array:
        """Of x."""
        number = drawn.astype(jnp.int32)
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), number, axis=-1)[..., 0]

    def entropy(self, drawn: Array) -> Array:
        """Exact."""
        log = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log) * log).sum(axis=-1)


def _log_slope(x: Array) -> Array:
    """log(1 - tanh(x)^2), accurate even where tanh(x) rounds to 1."""
    return 2 * (jnp.log(jnp.float32(2.0)) - x - jax.nn.softplus(-2 * x))
