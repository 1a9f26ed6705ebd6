"""The dream as any Gymnasium client knows environments, one or many at a time.

An observation is what C may know: [z, h] as one flat float32 array of Z + H numbers. An action is [A] in [-1, 1].
Frames are drawn by V's decoder.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.errors import UserError
from wm_jax.lanes import choose
from wm_jax.types import Action, Array, Key, Latents, Params
from wm_jax.vision import Vision

RenderMode = Literal["rgb_array"] | None
_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}
_VECTOR_METADATA = {**_METADATA, "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}


@partial(jax.jit, static_argnames="dream")
def _reset(dream: Dream, params: Params, latents: Latents, keys: Key) -> DreamState:
    """[B] dreams, begun."""
    return jax.vmap(dream.reset, (None, None, 0))(params, latents, keys)


@partial(jax.jit, static_argnames="dream")
def _step(
    dream: Dream, params: Params, latents: Latents, state: DreamState, over: Array, action: Action, keys: Key, tick: int
) -> tuple[DreamState, Array, Array, Array]:
    """One step of [B] dreams. Those that are `over` [B] begin anew instead: reward 0 and no end."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, tick)
    state, reward, terminated, truncated = jax.vmap(dream.step, (None, 0, 0, 0))(params, state, action, keys)

    def begin_anew(state: DreamState) -> DreamState:
        fresh = _reset(dream, params, latents, keys)
        return choose(over, fresh, state)

    state = jax.lax.cond(over.any(), begin_anew, lambda state: state, state)
    return state, jnp.where(over, 0, reward), terminated & ~over, truncated & ~over


@partial(jax.jit, static_argnames="vision")
def _draw(vision: Vision, params: Params, z: Array) -> Array:
    """[B, 64, 64, 3] uint8: z [B, Z] as V's decoder sees it."""
    return jnp.round(vision.decode(params, z) * 255).astype(jnp.uint8)


class _Dreams:
    """B dreams on the device, and the random numbers they meet; what both faces are made of."""

    def __init__(
        self,
        dream: Dream,
        params: Params,
        latents: Latents,
        vision: Vision | None,
        vision_params: Params | None,
        render_mode: RenderMode,
    ) -> None:
        if render_mode is not None and (vision is None or vision_params is None):
            raise UserError(f"render_mode {render_mode!r} needs V; give vision and vision_params")
        self.dream, self.params, self.latents = dream, params, latents
        self.vision, self.vision_params = vision, vision_params
        size = dream.memory.latent_size + dream.memory.initial_state().h.shape[-1]
        limit = np.finfo(np.float32).max
        self.observation_space = gymnasium.spaces.Box(-limit, limit, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (dream.memory.action_size,), np.float32)

    def reset(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Begin as many dreams as there are generators; the observations [B, Z + H]."""
        seeds = np.array([generator.integers(2**31) for generator in generators])
        self.keys = jax.vmap(jax.random.key)(seeds)
        self.tick = 0
        # The noise of step t comes of the key and t + 1, the start of the key and 0.
        self.state = _reset(
            self.dream, self.params, self.latents, jax.vmap(jax.random.fold_in, (0, None))(self.keys, 0)
        )
        self.over = np.zeros(len(seeds), bool)
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations [B, Z + H], rewards [B], terminated [B], truncated [B] after `action` [B, A]."""
        self.tick += 1
        action = np.asarray(action, np.float32)
        self.state, *outcome = _step(
            self.dream, self.params, self.latents, self.state, self.over, action, self.keys, self.tick
        )
        reward, terminated, truncated = map(np.array, outcome)
        self.over = terminated | truncated
        return self._observation(), reward.astype(np.float64), terminated, truncated

    def frames(self) -> np.ndarray:
        """[B, 64, 64, 3] uint8"""
        assert self.vision is not None and self.vision_params is not None
        return np.array(_draw(self.vision, self.vision_params, self.state.z))

    def _observation(self) -> np.ndarray:
        return np.concatenate([self.state.z, self.state.memory.h], axis=-1, dtype=np.float32)


class DreamEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One dream. Raises `UserError` where it cannot be dreamt or rendered with what is given."""

    metadata = _METADATA

    def __init__(
        self,
        dream: Dream,
        params: Params,
        latents: Latents,
        vision: Vision | None = None,
        vision_params: Params | None = None,
        render_mode: RenderMode = None,
    ) -> None:
        self._dreams = _Dreams(dream, params, latents, vision, vision_params, render_mode)
        self.observation_space = self._dreams.observation_space
        self.action_space = self._dreams.action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream: observation [Z + H]. No options."""
        super().reset(seed=seed)
        return self._dreams.reset([self.np_random])[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Observation [Z + H], reward, terminated and truncated after `action` [A]."""
        observation, reward, terminated, truncated = self._dreams.step(action[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """What the agent sees, [64, 64, 3] uint8; None without a render mode."""
        return self._dreams.frames()[0] if self.render_mode else None


class DreamVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` dreams in one compiled step. The step after a dream's end begins the next (next-step autoreset)."""

    metadata = _VECTOR_METADATA

    def __init__(
        self,
        num_envs: int,
        dream: Dream,
        params: Params,
        latents: Latents,
        vision: Vision | None = None,
        vision_params: Params | None = None,
        render_mode: RenderMode = None,
    ) -> None:
        self._dreams = _Dreams(dream, params, latents, vision, vision_params, render_mode)
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self.num_envs = num_envs
        self.single_observation_space = self._dreams.observation_space
        self.single_action_space = self._dreams.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all dreams: observations [num_envs, Z + H]. With the seed s, dream i is `DreamEnv`'s with s + i.

        No options.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i, own in enumerate(seeds or []):
            if own is not None:
                self._generators[i] = seeding.np_random(own)[0]
        return self._dreams.reset(self._generators), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations [num_envs, Z + H], rewards, terminated, truncated [num_envs] after `actions` [num_envs, A]."""
        return *self._dreams.step(actions), {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """What each agent sees, [64, 64, 3] uint8; None without a render mode."""
        return tuple(self._dreams.frames()) if self.render_mode else None
