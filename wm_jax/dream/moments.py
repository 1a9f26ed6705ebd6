"""Where dreams can start: moments of recorded episodes, many at once, with what M remembers there."""

from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.dream.environment import Dream, DreamState, see
from wm_jax.types import Array, Key, Latents, MemoryState, Params

SPACING = 16
"""Steps between two moments of an episode: neighbours are nearly the same."""


def moments(dream: Dream, params: Params, latents: Latents, key: Key, episodes: int) -> DreamState:
    """States [S, ...] as `Dream.reset` draws them for start "anywhere": every `SPACING`-th moment, from a random one on, of
    `episodes` random recorded episodes, or of all where there are fewer.

    A reset follows an episode up to one moment; here M follows it once for all of its moments.
    """
    rows = -(-int(latents.length.max()) // SPACING) + 1
    states, recorded = _follow(dream, params, latents, key, min(episodes, len(latents.start)), rows)
    return jax.tree.map(lambda array: array[recorded], states)


@partial(jax.jit, static_argnames=("dream", "episodes", "rows"))
def _follow(
    dream: Dream, params: Params, latents: Latents, key: Key, episodes: int, rows: int
) -> tuple[DreamState, Array]:
    """Moments [rows, episodes, ...], and where they are moments of an episode [rows, episodes]: it may begin later, by less
    than `SPACING` steps, and be over."""
    episode_key, delay_key, z_key = jax.random.split(key, 3)
    chosen = jax.random.choice(episode_key, len(latents.start), (episodes,), replace=False)
    first, length = latents.start[chosen], latents.length[chosen]
    delay = jax.random.randint(delay_key, (episodes,), 0, SPACING)

    def look(step: Array) -> tuple[Array, Array]:
        frame = first + jnp.clip(step - delay, 0, length - 1)
        return frame, see(latents, frame, jax.random.fold_in(z_key, step))

    def feed(step: Array, state: MemoryState) -> MemoryState:
        frame, z = look(step)
        # `restart` forgets whatever M was fed before the episode began.
        return dream.memory.advance(params, state, z, latents.action[frame], (step <= delay).astype(jnp.float32))

    def row(state: MemoryState, number: Array) -> tuple[MemoryState, tuple[DreamState, Array]]:
        step = number * SPACING
        at = step - delay
        zeros = jnp.zeros(episodes)
        here = DreamState(look(step)[1], state, (at == 0).astype(jnp.float32), zeros.astype(jnp.int32), zeros)
        with jax.default_matmul_precision(dream.config.precision):
            state = jax.lax.fori_loop(step, step + SPACING, feed, state)
        return state, (here, (at >= 0) & (at < length))

    return jax.lax.scan(row, dream.memory.initial_state((episodes,)), jnp.arange(rows))[1]
