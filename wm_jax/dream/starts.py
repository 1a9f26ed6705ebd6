"""Start states of dreams: a table of the world model's states, made once by following recorded episodes; a reset picks
a row."""

from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.dream.environment import Dream, DreamConfig
from wm_jax.lanes import choose
from wm_jax.types import Array, Key, Observations, Params, State

FIRSTS = 4096
"""Minimum rows in a table of first frames: episodes repeat, with different samples of their latents."""
SPACING = 16
"""Steps between two rows of an episode if dreams start anywhere: neighbouring states are nearly the same."""


def expected_rows(config: DreamConfig, episodes: int, length: float) -> int:
    """Expected number of rows in the table of `start_states`, for this many recorded episodes of this mean length."""
    if config.start == "first":
        return max(FIRSTS, episodes)
    return round(min(config.episodes, episodes) * max(1, length / SPACING))


def start_states(dream: Dream, params: Params, recorded: Observations, key: Key) -> State:
    """States [S, ...] for `Dream.reset`.

    With start first: the first frames of recorded episodes. With anywhere: every `SPACING`-th frame, from a random one
    on, of `DreamConfig.episodes` random episodes (all if there are fewer), in the state of the model after the episode
    up to that frame.
    """
    longest = int(recorded.length.max())
    if dream.config.start == "first" or longest == 1:
        return _first(dream, params, recorded, key)
    episodes = min(dream.config.episodes, len(recorded.start))
    states, there = _follow(dream, params, recorded, key, episodes, -(-longest // SPACING) + 1)
    return jax.tree.map(lambda array: array[there], states)


@partial(jax.jit, static_argnames="dream")
def _first(dream: Dream, params: Params, recorded: Observations, key: Key) -> State:
    order_key, state_key = jax.random.split(key)
    order = jax.random.permutation(order_key, recorded.start)
    rows = max(FIRSTS, len(order))
    frames, keys = jnp.resize(order, (rows,)), jax.random.split(state_key, rows)
    obs = jax.tree.map(lambda array: array[frames], recorded.encoded)
    return jax.vmap(dream.model.begin, (None, 0, 0))(params, obs, keys)


@partial(jax.jit, static_argnames=("dream", "episodes", "rows"))
def _follow(
    dream: Dream, params: Params, recorded: Observations, key: Key, episodes: int, rows: int
) -> tuple[State, Array]:
    """States [rows, episodes, ...], and whether they belong to an episode [rows, episodes]: an episode may begin up to
    `SPACING` steps later, or be over."""
    episode_key, delay_key, state_key = jax.random.split(key, 3)
    chosen = jax.random.choice(episode_key, len(recorded.start), (episodes,), replace=False)
    first, length = recorded.start[chosen], recorded.length[chosen]
    # Every episode has at least one row, however short it is.
    delay = -jax.random.randint(delay_key, (episodes,), 0, jnp.minimum(SPACING, length), jnp.int32) % SPACING
    begin, observe = jax.vmap(dream.model.begin, (None, 0, 0)), jax.vmap(dream.model.observe, (None, 0, 0, 0, 0))

    def look(step: Array) -> tuple[Array, State, Key]:
        frame = first + jnp.clip(step - delay, 0, length - 1)
        keys = jax.random.split(jax.random.fold_in(state_key, step), episodes)
        return frame, jax.tree.map(lambda array: array[frame], recorded.encoded), keys

    def follow(step: Array, state: State) -> State:
        frame, obs, keys = look(step)
        seen = observe(params, state, recorded.action[jnp.maximum(frame - 1, 0)], obs, keys)
        # Both use the same key, but only one of them is kept.
        return choose(step <= delay, begin(params, obs, jax.random.clone(keys)), seen)

    def row(state: State, number: Array) -> tuple[State, tuple[State, Array]]:
        at = number * SPACING - delay
        with jax.default_matmul_precision(dream.config.precision):
            following = jax.lax.fori_loop(number * SPACING + 1, (number + 1) * SPACING + 1, follow, state)
        return following, (state, (at >= 0) & (at < length))

    _, obs, keys = look(jnp.int32(0))
    return jax.lax.scan(row, begin(params, obs, keys), jnp.arange(rows, dtype=jnp.int32))[1]
