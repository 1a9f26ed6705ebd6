"""V, M and C as one agent, batched over lanes: frame → z → (z, h, c) → action → h', c'.

The order is the dream's: C acts on z_t and the memory before it, then M advances on (z_t, a_t).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.controller import Controller
from wm_jax.lanes import choose
from wm_jax.memory import Memory
from wm_jax.types import Action, Array, Features, Key, MemoryState, Params
from wm_jax.vision import Vision, sample


@dataclass(frozen=True)
class Agent:
    """The three models, without their weights."""

    vision: Vision
    memory: Memory
    controller: Controller


@struct.dataclass
class AgentParams:
    """The weights of V and M."""

    vision: Params
    memory: Params


@struct.dataclass
class AgentState:
    """What an agent carries through its episode, B lanes of it."""

    weights: Array
    """[B, D]: each lane has its own controller."""
    memory: MemoryState
    """[B, H]"""
    key: Key
    """[B]: the episode's key; step t samples z with fold_in(key, t)."""
    step: Array
    """[B] int32: steps since the episode's first frame."""


@struct.dataclass
class Exploration:
    """What is done to C's actions while it collects."""

    noise: Array
    """[B, A]: added to C's action."""
    replace: Array
    """[B] bool: where `action` is taken instead."""
    action: Array
    """[B, A]"""


def initial_state(agent: Agent, lanes: int) -> AgentState:
    """Lanes that wait for an episode."""
    return AgentState(
        weights=jnp.zeros((lanes, agent.controller.size)),
        memory=agent.memory.initial_state((lanes,)),
        key=jax.random.split(jax.random.key(0), lanes),
        step=jnp.zeros(lanes, jnp.int32),
    )


@jax.jit
def begin(state: AgentState, lanes: Array, weights: Array, seeds: Array) -> AgentState:
    """Begin new episodes in the lanes where `lanes` [B] is True, with these weights [B, D] and sampling seeds [B]."""
    memory, step = jax.tree.map(jnp.zeros_like, (state.memory, state.step))
    return choose(lanes, AgentState(weights, memory, jax.vmap(jax.random.key)(seeds), step), state)


@partial(jax.jit, static_argnames="agent")
def act(
    agent: Agent, params: AgentParams, state: AgentState, frames: Array, exploration: Exploration
) -> tuple[AgentState, Action, Features]:
    """One step of every lane: frames [B, 64, 64, 3] uint8 → actions [B, A], and the features C saw."""
    keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
    z = jax.vmap(sample)(agent.vision.encode(params.vision, frames), keys)
    features = Features(z=z, memory=state.memory)
    action = jax.vmap(agent.controller)(state.weights, features)
    action = jnp.clip(action + exploration.noise, -1.0, 1.0)
    action = jnp.where(exploration.replace[:, None], exploration.action, action)
    restart = (state.step == 0).astype(jnp.float32)
    memory = agent.memory.advance(params.memory, state.memory, z, action, restart)
    return AgentState(state.weights, memory, state.key, state.step + 1), action, features


class AgentDriver:
    """Drives lanes with V, M and C (`rollouts.acting`)."""

    def __init__(
        self,
        agent: Agent,
        params: AgentParams,
        weights: np.ndarray,
        action_noise: float = 0.0,
        random_stretches: float = 0.0,
        stretch_length: int = 1,
    ):
        """`weights` [M, D]: the controllers that episodes name by their row."""
        self.agent, self.params, self.table = agent, params, weights
        self.action_noise, self.random_stretches, self.stretch_length = action_noise, random_stretches, stretch_length

    def open(self, lanes: int) -> "AgentCrew":
        """A crew for a group of `lanes` lanes."""
        return AgentCrew(self, lanes)


class AgentCrew:
    """V, M and C at the wheel of one group of lanes."""

    def __init__(self, driver: AgentDriver, lanes: int):
        self.driver = driver
        self.state = initial_state(driver.agent, lanes)
        self.generators = [np.random.default_rng(0) for _ in range(lanes)]
        self.left = np.zeros(lanes, int)
        self.held = np.zeros((lanes, driver.agent.memory.action_size), np.float32)

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row of the controller)."""
        lanes = np.zeros(len(self.generators), bool)
        seeds = np.zeros(len(lanes), np.uint32)
        weights = np.zeros((len(lanes), self.driver.table.shape[1]), np.float32)
        for lane, (seed, row) in episodes.items():
            lanes[lane], seeds[lane], weights[lane] = True, seed, self.driver.table[row]
            # Of its own: with the seed alone it would draw the very numbers that the environment draws.
            self.generators[lane] = np.random.default_rng([seed, 2])
            self.left[lane] = 0
        self.state = begin(self.state, lanes, weights, seeds)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        driver = self.driver
        self.state, action, _ = act(driver.agent, driver.params, self.state, frames, self._explore())
        return np.asarray(action)

    def _explore(self) -> Exploration:
        driver, noise = self.driver, np.zeros_like(self.held)
        for lane, generator in enumerate(self.generators):
            if driver.action_noise > 0:
                noise[lane] = driver.action_noise * generator.standard_normal(noise.shape[1])
            if self.left[lane] > 0:
                self.left[lane] -= 1
            if self.left[lane] == 0 and driver.random_stretches > 0 and generator.random() < driver.random_stretches:
                self.left[lane] = generator.integers(1, driver.stretch_length + 1)
                self.held[lane] = generator.uniform(-1.0, 1.0, noise.shape[1])
        return Exploration(noise=jnp.array(noise), replace=jnp.array(self.left > 0), action=jnp.array(self.held))
