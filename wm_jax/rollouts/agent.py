"""A world model and its actor as one agent, batched over lanes: frame → state → action.

The order is that of the dream: the actor acts in a state, then the world model observes the next frame.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.errors import UserError
from wm_jax.explore import Explorer
from wm_jax.lanes import alone, choose, many, shares
from wm_jax.rollouts.device import CompiledPolicy, DeviceDriver
from wm_jax.types import Action, Array, Params, State
from wm_jax.worlds import Actor, World, WorldModel
from wm_jax.worlds.protocol import shapes


@dataclass(frozen=True)
class Agent:
    """The parts that act, without weights."""

    model: WorldModel
    actor: Actor
    explorer: Explorer | None = None
    """Changes the actor's actions while it collects; None: no change."""

    @property
    def acting(self) -> Actor:
        """The actor, or the one that the explorer replaces it with."""
        return self.explorer.collector(self.actor) if self.explorer else self.actor

    @property
    def name(self) -> str:
        """Name of the source of the actions, for error messages."""
        parts = (self.actor, self.explorer) if self.explorer else (self.actor,)
        return " and ".join(f"act of {type(part).__qualname__}" for part in parts)


@struct.dataclass
class AgentState:
    """State of an agent in B lanes during their episodes."""

    weights: Params
    """[B, ...]: a controller for each lane; None if all share one."""
    world: State
    """[B, ...]: state of the world model after the last frame."""
    action: Action
    """[B, A]: the action taken then."""
    carry: Any
    """[B, ...]: carry of the actor."""
    exploration: Any
    """[B, ...]: carry of the explorer."""
    seed: Array
    """[B] uint32: seed of the episode; the random numbers of frame t follow from fold_in(key(seed), t)."""
    step: Array
    """[B] int32: steps since the episode's first frame."""


def initial_state(agent: Agent, table: Params, lanes: int) -> AgentState:
    """Lanes that wait for an episode; `table` [M, ...]: all controllers."""
    world = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes(agent.model)[2])
    return AgentState(
        weights=None if shares(table) else many(jax.tree.map(lambda array: array[0], table), lanes),
        world=many(world, lanes),
        action=jnp.zeros((lanes, agent.model.action_size), jnp.float32),
        carry=many(agent.acting.begin(), lanes),
        exploration=many(agent.explorer.begin(), lanes) if agent.explorer else None,
        seed=jnp.zeros(lanes, jnp.uint32),
        step=jnp.zeros(lanes, jnp.int32),
    )


@partial(jax.jit, static_argnames="agent")
def begin(agent: Agent, table: Params, state: AgentState, lanes: Array, rows: Array, seeds: Array) -> AgentState:
    """Begin new episodes in the lanes where `lanes` [B] is True, with the controllers at `rows` [B] of the `table` [M,
    ...] and the `seeds` [B]."""
    fresh = initial_state(agent, table, len(lanes))
    weights = None if fresh.weights is None else jax.tree.map(lambda array: array[rows], table)
    return choose(lanes, replace(fresh, weights=weights, seed=seeds), state)


@partial(jax.jit, static_argnames="agent")
def act(agent: Agent, params: Params, table: Params, state: AgentState, frames: Array) -> tuple[AgentState, Action]:
    """One step of every lane: frames [B, 64, 64, 3] uint8 → actions [B, A]. `params`: the world model's weights."""
    world = World(agent.model, params)
    obs = world.encode(frames)
    keys = jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(state.seed, state.step)
    seen = jax.vmap(world.observe)(state.world, state.action, obs, jax.random.clone(keys))
    # Both use the same key, but only one of them is kept.
    now = choose(state.step == 0, jax.vmap(world.begin)(obs, keys), seen)
    # The world model's samples use the key itself; the actor's and the explorer's keys are folded from it.
    act_keys, explore_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, number) for number in range(2))
    shared = state.weights is None
    weights = jax.tree.map(lambda array: array[0], table) if shared else state.weights
    choose_action = jax.vmap(agent.acting.act, (None if shared else 0, None, 0, 0, 0))
    action, carry = choose_action(weights, world, now, state.carry, act_keys)
    exploration = state.exploration
    if agent.explorer is not None:
        action, exploration = jax.vmap(agent.explorer.act)(action, world.features(now), exploration, explore_keys)
    if action.shape != state.action.shape:
        raise UserError(f"{agent.name} must return actions of shape [{agent.model.action_size}], found "
                        f"{list(action.shape[1:])}")  # fmt: skip
    return AgentState(state.weights, now, action, carry, exploration, state.seed, state.step + 1), action


@dataclass(frozen=True)
class AgentPolicy(CompiledPolicy):
    """An agent in a compiled scan; its weights are (those of the world model, the table of controllers)."""

    agent: Agent
    sees = True

    @property
    def planned_steps(self) -> float:
        """Those of the actor."""
        return self.agent.actor.planned_steps

    def begin(self, weights: tuple[Params, Params], rows: Array, seeds: Array) -> AgentState:
        """The state before the first frame."""
        lanes = len(rows)
        return begin(
            self.agent, weights[1], initial_state(self.agent, weights[1], lanes), jnp.ones(lanes, bool), rows, seeds
        )

    def act(
        self, weights: tuple[Params, Params], state: AgentState, frames: Array | None, observations: Array
    ) -> tuple[AgentState, Action]:
        """The agent's actions on the frames."""
        return act(self.agent, *weights, state, jnp.asarray(frames))


class AgentDriver(DeviceDriver):
    """Drives lanes with an agent (`rollouts.acting`, `rollouts.device`)."""

    def __init__(self, agent: Agent, params: Params, table: Params):
        """`params`: weights of the world model; `table` [M, ...]: the controllers, which episodes refer to by row."""
        self.agent, self.params = agent, params
        self.table = jax.tree.map(jnp.asarray, table)
        self.name = agent.name

    def compiled(self) -> tuple[CompiledPolicy, tuple[Params, Params]]:
        """The agent and all weights."""
        return AgentPolicy(self.agent), (self.params, self.table)

    def open(self, lanes: int) -> "AgentBatch":
        """A policy for a group of `lanes` lanes."""
        return AgentBatch(self, lanes)


def driver_of(agent: Agent, params: Params, weights: Params) -> AgentDriver:
    """A driver with one controller."""
    return AgentDriver(agent, params, alone(weights))


class AgentBatch:
    """An agent that drives one group of lanes."""

    def __init__(self, driver: AgentDriver, lanes: int):
        self.driver, self.lanes, self.name = driver, lanes, driver.agent.name
        self.state = initial_state(driver.agent, driver.table, lanes)

    def begin(self, episodes: dict[int, tuple[int, int]]) -> None:
        """Begin lane → (environment seed, row of the controller)."""
        lanes, rows = np.zeros(self.lanes, bool), np.zeros(self.lanes, np.int32)
        seeds = np.zeros(self.lanes, np.uint32)
        for lane, (seed, row) in episodes.items():
            lanes[lane], rows[lane], seeds[lane] = True, row, seed
        self.state = begin(self.driver.agent, self.driver.table, self.state, lanes, rows, seeds)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Actions [B, A] for frames [B, 64, 64, 3]."""
        driver = self.driver
        self.state, action = act(driver.agent, driver.params, driver.table, self.state, frames)
        return np.asarray(action)
