"""Replay recorded episodes of a JAX environment: a record holds frames and actions; its states follow from its seed and
actions."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.data.records import Episode
from wm_jax.envs import JaxEnvironment
from wm_jax.errors import UserError
from wm_jax.rollouts.device import chance, key_seed
from wm_jax.types import Array

TOLERANCE = 1e-3
"""Allowed difference of replayed rewards: compilers may round differently."""


def replay(environment: JaxEnvironment, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """The environment's observations [T, F] on the frames of each of `episodes` [E].

    Raises `UserError` if the replayed rewards differ from the recorded ones: the episode is from another environment,
    or another version of it.
    """
    length = max(len(episode.actions) for episode in episodes)
    actions = np.stack([np.pad(episode.actions, ((0, length - len(episode.actions)), (0, 0))) for episode in episodes])
    seeds = np.array([key_seed(episode.seed) for episode in episodes], np.uint32)
    observations, rewards = (np.asarray(array) for array in _played(environment, seeds, actions))
    found = []
    for number, episode in enumerate(episodes):
        steps = len(episode.rewards)
        if np.abs(rewards[number, :steps] - episode.rewards).max() > TOLERANCE * max(1, np.abs(episode.rewards).max()):
            raise UserError(f"the episode of seed {episode.seed}, recorded in {episode.task}, has different rewards when "
                            "replayed; give episodes of this environment, recorded by this version")  # fmt: skip
        found.append(observations[number, :steps])
    return found


@partial(jax.jit, static_argnames="environment")
def _played(environment: JaxEnvironment, seeds: Array, actions: Array) -> tuple[Array, Array]:
    """Observations [E, T, F] before the actions [E, T, A], and their rewards [E, T]."""

    def one(seed: Array, actions: Array) -> tuple[Array, Array]:
        def step(carry: tuple, action: Array) -> tuple[tuple, tuple[Array, Array]]:
            state, observation, number = carry
            following, seen, reward, _, _ = environment.step(state, action, chance(seed, number))
            return (following, seen, number + 1), (observation, reward)

        begin = environment.reset(chance(seed, jnp.int32(0)))
        return jax.lax.scan(step, (*begin, jnp.int32(1)), actions)[1]

    return jax.vmap(one)(seeds, actions)
