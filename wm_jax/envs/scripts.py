"""Policies that do not need observations: for the first collection, and as baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.envs.protocol import JaxEnvironment, Script
from wm_jax.types import Action, Array, Key


@dataclass(frozen=True)
class Constant(Script):
    """Always takes the same action."""

    action: tuple[float, ...]

    def begin(self, key: Key) -> None:
        """No carry."""

    def act(self, carry: None, observation: Array, key: Key) -> tuple[Action, None]:
        """The action [A]."""
        return jnp.array(self.action, jnp.float32), None


@dataclass(frozen=True)
class Uniform(Script):
    """Draws from U(-1, 1) at each step."""

    action_size: int

    def begin(self, key: Key) -> None:
        """No carry."""

    def act(self, carry: None, observation: Array, key: Key) -> tuple[Action, None]:
        """The action [A]."""
        return jax.random.uniform(key, (self.action_size,), jnp.float32, -1.0, 1.0), None


@struct.dataclass
class Hold:
    """An action that is held for several steps."""

    action: Array
    """[A]"""
    left: Array
    """[] int32: number of steps left."""
    longest: Array
    """[] int32: maximum number of steps that an action of this episode is held."""


@dataclass(frozen=True)
class Held(Script):
    """U(-1, 1); each drawn action is held for U{1..n} steps. n is drawn from `max_holds` once for each episode."""

    action_size: int
    max_holds: tuple[int, ...]

    def begin(self, key: Key) -> Hold:
        """No action yet."""
        longest = jax.random.choice(key, jnp.array(self.max_holds, jnp.int32))
        return Hold(jnp.zeros(self.action_size, jnp.float32), jnp.int32(0), longest)

    def act(self, carry: Hold, observation: Array, key: Key) -> tuple[Action, Hold]:
        """The held action [A], or a new one."""
        action_key, length_key = jax.random.split(key)
        new = carry.left == 0
        drawn = jax.random.uniform(action_key, (self.action_size,), jnp.float32, -1.0, 1.0)
        length = jax.random.randint(length_key, (), 1, carry.longest + 1, jnp.int32)
        action, left = jnp.where(new, drawn, carry.action), jnp.where(new, length, carry.left) - 1
        return action, Hold(action, left, carry.longest)


def on_host(
    environment: JaxEnvironment, name: str
) -> Callable[[np.random.Generator, Any], Callable[[int, np.ndarray], np.ndarray]]:
    """An environment's script as a task's policy on the host (`Task.policies`). It receives no observations there."""

    def drawn(generator: np.random.Generator, settings: Any) -> Callable[[int, np.ndarray], np.ndarray]:
        script = environment.scripts[name](settings)
        key = jax.random.key(int(generator.integers(2**31)))
        carry = script.begin(jax.random.fold_in(key, 0))
        nothing = jnp.zeros(environment.observation_size, jnp.float32)

        def act(step: int, frame: np.ndarray) -> np.ndarray:
            nonlocal carry
            action, carry = script.act(carry, nothing, jax.random.fold_in(key, step + 1))
            return np.array(action)

        return act

    return drawn
