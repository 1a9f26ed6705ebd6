"""Noise on the actor's actions, and stretches of a random action."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.errors import require_range
from wm_jax.explore.protocol import EXPLORERS, Explorer, ExplorerConfig
from wm_jax.types import Action, Array, Features, Key


@EXPLORERS.register
@dataclass(frozen=True)
class NoiseConfig(ExplorerConfig):
    """Gaussian noise on every action, and occasional random actions held for some steps. Both are off by default."""

    kind: Literal["noise"] = "noise"
    action_noise: float = 0.0
    """Standard deviation of the Gaussian noise on the actor's actions."""
    random_stretches: float = 0.0
    """Probability per step that a random action takes over, held for 1 to `stretch_length` steps, a uniform draw."""
    stretch_length: int = 20
    """Longest stretch of a random action, in steps."""

    def __post_init__(self) -> None:
        require_range("explorer.action_noise", self.action_noise, 0.0)
        require_range("explorer.random_stretches", self.random_stretches, 0.0, 1.0)
        require_range("explorer.stretch_length", self.stretch_length, 1)

    def build(self, action_size: int) -> "Noise":
        """The explorer for actions with this many numbers."""
        return Noise(self, action_size)


@struct.dataclass
class Stretch:
    """A random action held for some steps."""

    action: Array
    """[A]"""
    left: Array
    """[] int32: remaining steps of the stretch; 0: the actor acts."""


@dataclass(frozen=True)
class Noise(Explorer):
    """The explorer described by `NoiseConfig`."""

    config: NoiseConfig
    action_size: int
    """A"""

    def begin(self) -> Stretch:
        """No stretch."""
        return Stretch(jnp.zeros(self.action_size, jnp.float32), jnp.int32(0))

    def act(self, action: Action, features: Features, carry: Stretch, key: Key) -> tuple[Action, Stretch]:
        """The action with noise, or that of the stretch."""
        noise_key, begin_key, length_key, action_key = jax.random.split(key, 4)
        shape, longest = (self.action_size,), self.config.stretch_length
        left = jnp.maximum(carry.left - 1, 0)
        begins = (left == 0) & (jax.random.uniform(begin_key, (), jnp.float32) < self.config.random_stretches)
        left = jnp.where(begins, jax.random.randint(length_key, (), 1, longest + 1, jnp.int32), left)
        held = jnp.where(begins, jax.random.uniform(action_key, shape, jnp.float32, -1.0, 1.0), carry.action)
        noise = self.config.action_noise * jax.random.normal(noise_key, shape, jnp.float32)
        noisy = jnp.clip(action + noise, -1.0, 1.0)
        return jnp.where(left > 0, held, noisy), Stretch(held, left)
