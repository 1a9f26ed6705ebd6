"""Measures how well any world model predicts an actual episode. The model follows some recorded steps, then dreams with
the recorded actions; its frames and rewards are compared with the recorded ones."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.types import Array, Key, Observations, Params, State
from wm_jax.worlds.protocol import WorldModel

BURN_IN = 20
"""Recorded steps that the model follows before it dreams."""
DREAMS = 8
"""Dreams from each place; the forecast is their mean."""


def places(start: np.ndarray, length: np.ndarray, horizon: int, count: int) -> np.ndarray:
    """At most `count` frame positions, int32, evenly spread over the episodes (`start` [E], `length` [E]), each
    followed by `BURN_IN` + `horizon` recorded steps."""
    room = BURN_IN + horizon
    found = [np.zeros(0, int)]
    for first, frames in zip(start, length, strict=True):
        found.append(first + np.arange(0, max(frames - room, 0), room))
    every = np.concatenate(found)
    chosen = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int))
    return every[chosen].astype(np.int32)


def forecasts(
    model: WorldModel, params: Params, recorded: Observations, begins: np.ndarray, horizons: Sequence[int], key: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts after each of `horizons` H dreamt steps from each of the places `begins` [W]: frames, float32
    [H, W, 64, 64, 3], and the sum of expected rewards [H, W]; means over `DREAMS` dreams."""
    follow_key, key = jax.random.split(key)
    begin = jnp.asarray(begins)
    state, done = _follow(model, params, recorded, begin, follow_key), 0
    earned, drawn, sums = jnp.zeros((len(begins), DREAMS), jnp.float32), [], []
    for horizon in horizons:
        state, earned = _dream(
            model, params, recorded, begin + BURN_IN + done, state, earned, key, horizon - done, done
        )
        drawn.append(np.asarray(_draw(model, params, state)))
        sums.append(np.asarray(earned.mean(axis=1)))
        done = horizon
    return np.stack(drawn), np.stack(sums)


@partial(jax.jit, static_argnames="model")
def _follow(model: WorldModel, params: Params, recorded: Observations, begins: Array, key: Key) -> State:
    """The states [W, DREAMS, ...] after the last followed frame."""

    def see(number: Array) -> tuple[Any, Array, Key]:
        frames = jnp.repeat(begins, DREAMS) + number
        keys = jax.random.split(jax.random.fold_in(key, number), len(frames))
        action = recorded.action[jnp.maximum(frames - 1, 0)]
        return jax.tree.map(lambda array: array[frames], recorded.encoded), action, keys

    def step(number: Array, state: State) -> State:
        obs, action, keys = see(number)
        return jax.vmap(model.observe, (None, 0, 0, 0, 0))(params, state, action, obs, keys)

    obs, _, keys = see(jnp.int32(0))
    state = jax.vmap(model.begin, (None, 0, 0))(params, obs, keys)
    state = jax.lax.fori_loop(jnp.int32(1), jnp.int32(BURN_IN + 1), step, state)
    return jax.tree.map(lambda leaf: leaf.reshape(len(begins), DREAMS, *leaf.shape[1:]), state)


@partial(jax.jit, static_argnames=("model", "count"))
def _dream(
    model: WorldModel, params: Params, recorded: Observations, frames: Array, state: State, earned: Array, key: Key,
    count: int, done: int,
) -> tuple[State, Array]:  # fmt: skip
    """The states after `count` more steps with the recorded actions from the frames [W] on, and the rewards earned."""
    imagine = partial(model.imagine, temperature=1.0)
    lanes = jax.vmap(jax.vmap(imagine, (None, 0, None, 0)), (None, 0, 0, None))

    def step(carry: tuple[State, Array], number: Array) -> tuple[tuple[State, Array], None]:
        state, earned = carry
        noise = jax.vmap(model.noise)(jax.random.split(jax.random.fold_in(key, done + number), DREAMS))
        state, outcome = lanes(params, state, recorded.action[frames + number], noise)
        return (state, earned if outcome.reward is None else earned + outcome.reward), None

    return jax.lax.scan(step, (state, earned), jnp.arange(count, dtype=jnp.int32))[0]


@partial(jax.jit, static_argnames="model")
def _draw(model: WorldModel, params: Params, state: State) -> Array:
    """The mean frame [W, 64, 64, 3] of the dreams."""
    return jax.vmap(jax.vmap(model.frame, (None, 0)), (None, 0))(params, state).mean(axis=1)
