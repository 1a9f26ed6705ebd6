"""Generations of a search that learns from whole episodes of the actual environment, played by its stochastic
policy."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax import parallel
from wm_jax.actors.protocol import ExploringActor
from wm_jax.lanes import alone
from wm_jax.models import Models
from wm_jax.pipeline import side_by_side
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.playing import EpisodeRunner
from wm_jax.pipeline.progress import Barrier, Stopped
from wm_jax.rollouts.acting import Count, Lanes, Played
from wm_jax.rollouts.agent import Agent, AgentDriver, act, begin, initial_state
from wm_jax.rollouts.config import evolution_seeds
from wm_jax.rollouts.device import key_seed
from wm_jax.rollouts.limits import Limits
from wm_jax.search import EpisodeSearch
from wm_jax.search.config import EvolveConfig
from wm_jax.search.protocol import Experience
from wm_jax.tasks import FRAME_SHAPE
from wm_jax.types import FLOAT, Array, Key, Params
from wm_jax.worlds import World


class LearnedGenerations:
    """Generations of E searches; one generation in each call. Every process of a run plays all episodes itself: all
    searches must learn from the same data, and sending it would take longer than playing."""

    in_call = 1
    begin = None
    """There are no dreams, so no start states."""

    def __init__(
        self, context: Context, config: EvolveConfig, search: EpisodeSearch, variants: list[side_by_side.Variant],
        key: Key, seed: int, runner: EpisodeRunner, stack: ExitStack,
    ):  # fmt: skip
        """`key` seeds the searches' random draws, `seed` their episodes."""
        self.search, self.mesh, self.runner, self.variants, self.seed = search, context.mesh, runner, variants, seed
        self.context = context
        self.keys = side_by_side.keys(key, variants)
        self.agent = Agent(context.models.world, search.player)
        self.limits = Limits(config.max_steps, config.patience)
        lanes = Lanes(context.experiment.task, config.environments, context.screen.warn, self.limits, config.backend)
        self.lanes = stack.enter_context(lanes)
        self.steps = self.limits.max_steps or context.models.task.max_steps
        self.note = ""

    @property
    def episodes(self) -> int:
        """Number of episodes in a generation."""
        return len(self.variants) * self.search.episodes

    def __call__(self, states: Any, first: int) -> tuple[Any, dict[str, Array]]:
        """Run generation `first`: returns the searches' states [E, ...] and metrics [E, 1]."""
        search, count = self.search, self.search.episodes
        # Every process plays and learns on its own, without waiting for the others.
        states = parallel.local(states)
        tables = jax.vmap(search.player_weights, (0, None))(states, jnp.int32(first))
        seeds = [evolution_seeds(self.seed, variant.seed, first, count) for variant in self.variants]
        wanted = [(seed, row) for row, mine in enumerate(seeds) for seed in mine]
        played = self._play(AgentDriver(self.agent, self.runner.params, tables), wanted, first)
        # The keys are the same in every generation.
        learned, keys = [], jax.random.clone(self.keys)
        for number in range(len(self.variants)):
            one = partial(jax.tree.map, lambda array, number=number: array[number])
            experience = self._experience(played[number * count : (number + 1) * count], one(tables))
            learned.append(_learn(search, one(states), experience, jnp.int32(first), keys[number]))
        states, metrics = jax.tree.map(lambda *parts: jnp.stack(parts), *learned)
        self.note = f", last mean {float(metrics['mean'].mean()):.4g}"
        return parallel.replicate(self.mesh, states), {name: values[:, None] for name, values in metrics.items()}

    def _play(self, driver: AgentDriver, episodes: Sequence[tuple[int, int]], first: int) -> list[Played]:
        """Play the episodes of a generation. If stopped, the generation starts again."""

        def tell(counts: list[float], stop: bool) -> None:
            finished = int(counts[0]) // jax.process_count()
            if self.runner.bar is not None:
                self.runner.bar.update(first * len(episodes) + finished, f"generation {first + 1}{self.note}")
            if stop and finished < len(episodes):
                raise Stopped(f"stopped in {self.runner.stage.name}, generation {first + 1}, after {finished} of "
                              f"{len(episodes)} episodes; the same command plays that generation again")  # fmt: skip

        barrier = Barrier(self.context.interrupt, tell)
        played = self.lanes.play(driver, episodes, record=True, tick=barrier.count)
        barrier.finish_count(Count(len(played), sum(len(episode.rewards) for episode in played)))
        return played

    def _experience(self, played: Sequence[Played], weights: Params) -> Experience:
        """The experience that a search learns from: its episodes, passed through the world model again."""
        hold = self.search.player.hold
        decisions = -(-self.steps // hold)
        room = decisions * hold

        def padded(steps: Sequence[Any]) -> np.ndarray:
            found = np.asarray(steps)
            return np.pad(found, ((0, room - len(found)), *((0, 0),) * (found.ndim - 1)))

        inputs, drawn = [], []
        lanes = self.lanes.count
        for block in (played[i : i + lanes] for i in range(0, len(played), lanes)):
            # Every block has the same number of lanes, so that nothing compiles again.
            filled = [*block, *[block[-1]] * (lanes - len(block))]
            device = self.lanes.environment is not None
            seeds = np.array([key_seed(one.seed) if device else one.seed for one in filled], np.uint32)
            frames = np.stack([padded(one.frames) for one in filled], axis=1)
            frames = frames.reshape(decisions, hold, *frames.shape[1:])
            found = _retrace(self.agent, self.runner.params, alone(weights), seeds, frames)
            for kept, array in zip((inputs, drawn), found, strict=True):
                kept.append(jnp.moveaxis(array, 0, 1)[: len(block)])
        rewards = np.stack([padded(one.rewards).astype(np.float32) for one in played])
        return Experience(
            jnp.concatenate(inputs), jnp.concatenate(drawn), jnp.asarray(rewards.reshape(len(played), decisions, hold)),
            jnp.asarray([len(one.rewards) for one in played], jnp.int32), jnp.asarray([one.terminated for one in played]),
        )  # fmt: skip


def bytes_at_work(models: Models, search: EpisodeSearch, config: EvolveConfig) -> int:
    """Memory of one search's generation: the frames of the episodes processed at a time, and what the policy read and
    drew at every decision, once as played and once in batches."""
    params, _, state = models.state_shapes
    policy, hold = search.player.policy, search.player.hold
    read = jax.eval_shape(lambda params, state: policy.inputs(World(models.world, params), state), params, state)
    decisions = -(-(config.max_steps or models.task.max_steps) // hold)
    lanes = min(config.environments, search.episodes * config.evolutions)
    numbers = 2 * search.episodes * decisions * (math.prod(read.shape) + policy.drawn_size)
    return FLOAT * numbers + lanes * decisions * hold * math.prod(FRAME_SHAPE)


@partial(jax.jit, static_argnames="agent")
def _retrace(agent: Agent, params: Params, table: Params, seeds: Array, frames: Array) -> tuple[Array, Array]:
    """The features [D, B, F] that the player of an `agent` read, and the samples [D, B, X] that it drew, at every
    decision of the episodes with these seeds [B] and frames [D, hold, B, 64, 64, 3]."""
    player = agent.actor
    assert isinstance(player, ExploringActor)
    lanes, world = len(seeds), World(agent.model, params)
    everywhere = jnp.ones(lanes, bool)
    state = begin(
        agent, table, initial_state(agent, table, lanes), everywhere, jnp.zeros(lanes, jnp.int32), jnp.asarray(seeds)
    )

    def step(state: Any, frames: Array) -> tuple[Any, None]:
        return act(agent, params, table, state, frames)[0], None

    def decide(state: Any, frames: Array) -> tuple[Any, tuple[Array, Array]]:
        state, _ = step(state, frames[0])
        found = jax.vmap(player.policy.inputs, (None, 0))(world, state.world), state.carry.drawn
        return jax.lax.scan(step, state, frames[1:])[0], found

    return jax.lax.scan(decide, state, frames)[1]


@partial(jax.jit, static_argnames="search")
def _learn(
    search: EpisodeSearch, state: Any, experience: Experience, generation: Array, key: Key
) -> tuple[Any, dict[str, Array]]:
    """The state of one search after a generation, and its metrics."""
    return search.learn(state, experience, generation, key)
