"""The dream as a Gymnasium environment, single or vectorised.

An observation consists of the world model's features, [z, h] in the paper, as one flat float32 array of F numbers. An
action is [A] in [-1, 1]. The world model renders frames.

A dream whose numbers are no longer finite is terminated with the reward -inf. In the observation of that step NaN
becomes 0 and infinities become the largest float32, so that it stays in its space.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.dream.starts import start_states
from wm_jax.envs.gymnasium_face import ManyEnv, RenderMode, SideBySide, SingleEnv
from wm_jax.errors import require_choice
from wm_jax.lanes import choose
from wm_jax.types import Action, Array, Key, Observations, Params, State
from wm_jax.worlds.protocol import feature_sizes


@dataclass(frozen=True)
class DreamSource:
    """A dream, its world model's weights, and recordings to start from; the environments are made from it."""

    dream: Dream
    params: Params
    recorded: Observations
    features: tuple[str, ...] | None = None
    """The features of an observation, in this order; empty or None: all features of the world model, in the order of
    their names."""
    frames_per_second: int = field(kw_only=True)
    """Steps per second of the task's own time (`Task.frames_per_second`)."""

    @cached_property
    def starts(self) -> State:
        """The states that dreams start in; computed on first use."""
        return start_states(self.dream, self.params, self.recorded, jax.random.key(0))

    @cached_property
    def prepared(self) -> Params:
        """The weights in the dream's precision, as for the dreams of a population."""
        return self.dream.prepare(self.params)

    @property
    def observed(self) -> tuple[str, ...]:
        """The features of an observation."""
        return self.features or tuple(feature_sizes(self.dream.model))


@partial(jax.jit, static_argnames="dream")
def _reset(dream: Dream, starts: State, keys: Key) -> DreamState:
    """[B] dreams at their starts."""
    return jax.vmap(dream.reset, (None, 0))(starts, keys)


@partial(jax.jit, static_argnames="dream")
def _step(
    dream: Dream, params: Params, starts: State, state: DreamState, over: Array, action: Action, keys: Key, tick: int
) -> tuple[DreamState, Array, Array, Array]:
    """One step of [B] dreams. Those that are `over` [B] restart instead, with reward 0 and no end."""
    keys = jax.vmap(jax.random.split)(jax.vmap(jax.random.fold_in, (0, None))(keys, tick))
    noise = jax.vmap(dream.noise)(keys[:, 0])
    state, reward, terminated, truncated = jax.vmap(dream.step, (None, 0, 0, 0))(params, state, action, noise)
    state = choose(over, _reset(dream, starts, keys[:, 1]), state)
    return state, jnp.where(over, 0, reward), terminated & ~over, truncated & ~over


@partial(jax.jit, static_argnames=("dream", "names"))
def _observe(dream: Dream, names: tuple[str, ...], state: DreamState) -> Array:
    """[B, F], finite"""
    features = dream.features(state)
    return jnp.nan_to_num(jnp.concatenate([features[name] for name in names], axis=-1, dtype=jnp.float32))


@partial(jax.jit, static_argnames="dream")
def _draw(dream: Dream, params: Params, state: DreamState) -> Array:
    """[B, 64, 64, 3] uint8"""
    frames = jax.vmap(dream.model.frame, (None, 0))(params, state.world)
    return jnp.round(frames * 255).astype(jnp.uint8)


class _Dreams(SideBySide):
    """Dreams for both environment classes."""

    noun = "dream"

    def __init__(self, source: DreamSource, render_mode: str | None) -> None:
        self.source, self.dream = source, source.dream
        sizes, limit = feature_sizes(self.dream.model), np.finfo(np.float32).max
        for name in source.observed:
            require_choice("a feature of the observation", name, list(sizes))
        size = sum(sizes[name] for name in source.observed)
        space = gymnasium.spaces.Box(-limit, limit, (size,), np.float32)
        super().__init__(space, self.dream.model.action_size, source.frames_per_second, render_mode)

    def begin(self, keys: Key) -> DreamState:
        """Dreams at starts chosen by the keys."""
        return _reset(self.dream, self.source.starts, keys)

    def advance(
        self, over: np.ndarray, action: np.ndarray, keys: Key, tick: int
    ) -> tuple[DreamState, Array, Array, Array]:
        """One step of each dream."""
        return _step(self.dream, self.source.prepared, self.source.starts, self.state, over, action, keys, tick)

    def observe(self) -> np.ndarray:
        """[B, F], finite"""
        return np.array(_observe(self.dream, self.source.observed, self.state))

    def draw(self) -> Array:
        """[B, 64, 64, 3] uint8"""
        return _draw(self.dream, self.source.params, self.state)


class DreamEnv(SingleEnv):
    """One dream. Raises `gymnasium.error.UnsupportedMode` for an unknown render mode."""

    def __init__(self, source: DreamSource, render_mode: RenderMode = None) -> None:
        super().__init__(_Dreams(source, render_mode), render_mode)


class DreamVectorEnv(ManyEnv):
    """`num_envs` dreams in one compiled step (`ManyEnv`)."""

    def __init__(self, num_envs: int, source: DreamSource, render_mode: RenderMode = None) -> None:
        super().__init__(num_envs, _Dreams(source, render_mode), render_mode)
