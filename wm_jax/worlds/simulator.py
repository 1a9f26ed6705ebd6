"""The actual environment as its own world model, if it is written in JAX: nothing is learned.

Its results are a reference for searches and planners in a learned model, and a check of the environment. Its state is
the environment's. An episode starts from the same key as in the actual environment (`rollouts.device`) and then
proceeds in the same way; frames are not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.data.training import Learner
from wm_jax.envs import JaxEnvironment
from wm_jax.envs.protocol import CHANCE
from wm_jax.errors import UserError
from wm_jax.tasks import Task
from wm_jax.types import Action, Array, Features, Key, Outcome, Params
from wm_jax.worlds.protocol import WORLDS, WorldConfig, WorldModel


@WORLDS.register
@dataclass(frozen=True)
class SimulatorConfig(WorldConfig):
    """The task's JAX environment as the world model."""

    kind: Literal["simulator"] = "simulator"

    def build(self, task: Task) -> "Simulator":
        """Build the world model for a task. Raises `UserError` if the task has no environment in JAX."""
        name = next(iter(task.jax_backends), None)
        environment = None if name is None else task.environment(name)
        if environment is None:
            raise UserError(
                f"world.kind is 'simulator', but the task {task.name} has no environment in JAX (jax_backends); choose "
                "another world model, or a task such as swing_up"
            )
        return Simulator(environment)


@struct.dataclass
class SimulatorState:
    """The environment's state."""

    environment: Any
    observation: Array
    """[F]"""


@dataclass(frozen=True)
class Simulator(WorldModel):
    """A `JaxEnvironment` as a `WorldModel`. It has no weights."""

    environment: JaxEnvironment

    @property
    def action_size(self) -> int:
        """A"""
        return self.environment.action_size

    @property
    def learners(self) -> Mapping[str, Learner]:
        """None."""
        return {}

    def encode(self, params: Params, frames: Array) -> Array:
        """Nothing: zeros [..., 1]."""
        return jnp.zeros((*frames.shape[:-3], 1), jnp.float32)

    def begin(self, params: Params, obs: Array, key: Key) -> SimulatorState:
        """An episode's first state."""
        return SimulatorState(*self.environment.reset(jax.random.fold_in(key, CHANCE)))

    def observe(self, params: Params, state: SimulatorState, action: Action, obs: Array, key: Key) -> SimulatorState:
        """A step of the environment."""
        return SimulatorState(*self.environment.step(state.environment, action, jax.random.fold_in(key, CHANCE))[:2])

    def noise(self, key: Key) -> Array:
        """The data of the key that a step of the environment draws from: [2] uint32."""
        return jax.random.bits(key, (2,), jnp.uint32)

    def imagine(
        self, params: Params, state: SimulatorState, action: Action, noise: Array, temperature: Array | float
    ) -> tuple[SimulatorState, Outcome]:
        """A step of the environment; the temperature has no effect."""
        key = jax.random.wrap_key_data(noise, impl="threefry2x32")
        environment, observation, reward, terminated, _ = self.environment.step(state.environment, action, key)
        return SimulatorState(environment, observation), Outcome(reward, terminated.astype(jnp.float32))

    def features(self, state: SimulatorState) -> Features:
        """observation: the environment's [..., F]."""
        return {"observation": state.observation}

    def frame(self, params: Params, state: SimulatorState) -> Array:
        """The environment's picture."""
        return self.environment.frame(state.environment).astype(jnp.float32) / 255
