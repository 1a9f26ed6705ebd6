"""Gymnasium environments, single or vectorised, whose episodes are computed on the device: those of a `JaxEnvironment`,
and dreams (`wm_jax.dream.gymnasium_face`).

An action is [A] in [-1, 1].
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, SupportsIndex

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import Error, InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from wm_jax.envs import pictures
from wm_jax.envs.protocol import CHANCE, JaxEnvironment
from wm_jax.errors import require_integer
from wm_jax.lanes import choose
from wm_jax.types import Action, Array, Key

RenderMode = Literal["rgb_array"] | None
_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"]}
"""`render_fps` comes from the task and is set for each environment."""
_VECTOR_METADATA = {**_METADATA, "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}


class SideBySide(ABC):
    """B episodes on the device and their random numbers; used by the single and the vectorised environment."""

    noun = "episode"
    """Word for an episode in messages."""
    state: Any = None
    """The episodes' states, once they have begun: a pytree of arrays [B, ...]."""

    def __init__(
        self, observation_space: gymnasium.spaces.Box, action_size: int, frames_per_second: int, render_mode: str | None
    ) -> None:
        if render_mode not in (None, *_METADATA["render_modes"]):
            raise UnsupportedMode(f"render_mode must be None or 'rgb_array', found {render_mode!r}; "
                                  "gymnasium.wrappers.HumanRendering shows 'rgb_array' in a window")  # fmt: skip
        self.observation_space, self.frames_per_second = observation_space, frames_per_second
        self.action_space = gymnasium.spaces.Box(-1, 1, (action_size,), np.float32)

    @abstractmethod
    def begin(self, keys: Key) -> Any:
        """Start episodes with these keys [B]; they differ from all keys given to `advance`."""

    @abstractmethod
    def advance(self, over: np.ndarray, action: np.ndarray, keys: Key, tick: int) -> tuple[Any, Array, Array, Array]:
        """(state, reward [B], terminated [B], truncated [B]) after `action` [B, A] in step `tick`, counted from 1.

        Episodes that are `over` [B] restart instead, with reward 0 and no end.
        """

    @abstractmethod
    def observe(self) -> np.ndarray:
        """Observations [B, ...]."""

    @abstractmethod
    def draw(self) -> Array:
        """[B, 64, 64, 3] uint8"""

    def reset(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Start one episode for each of the `generators`; returns observations [B, ...]."""
        self.keys = jax.vmap(jax.random.key)(np.array([seed_of(generator) for generator in generators], np.int32))
        self.tick = 0
        # The randomness of step t comes from the key and t; that of the start from the key and 0.
        self.state = self.begin(jax.vmap(jax.random.fold_in, (0, None))(self.keys, 0))
        self.over = np.zeros(len(generators), bool)
        return self.observe()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations [B, ...], rewards [B], terminated [B], truncated [B] after `action` [B, A]."""
        self.begun()
        self.tick += 1
        self.state, *outcome = self.advance(self.over, action, self.keys, self.tick)
        reward, terminated, truncated = map(np.array, outcome)
        self.over = terminated | truncated
        return self.observe(), reward.astype(np.float64), terminated, truncated

    def frames(self) -> np.ndarray:
        """[B, 64, 64, 3] uint8"""
        self.begun()
        return np.array(self.draw())

    def begun(self) -> None:
        """Raise `ResetNeeded` if no episode has begun."""
        if self.state is None:
            raise ResetNeeded(f"no {self.noun} has begun; call reset first")

    def no_options(self, options: dict[str, Any] | None) -> None:
        """Raise `gymnasium.error.Error` if options are given."""
        if options:
            raise Error(f"a {self.noun} has no options, found {options!r}; leave options out")


def seed_of(generator: np.random.Generator) -> int:
    """The seed in [0, 2³¹) for an episode's key."""
    return int(generator.integers(2**31))


class SingleEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One episode. Raises `gymnasium.error.UnsupportedMode` for an unknown render mode."""

    metadata = _METADATA

    def __init__(self, episodes: SideBySide, render_mode: RenderMode = None) -> None:
        self._episodes = episodes
        self.observation_space, self.action_space = episodes.observation_space, episodes.action_space
        self.render_mode = render_mode
        self.metadata = {**_METADATA, "render_fps": episodes.frames_per_second}

    def reset(
        self, *, seed: SupportsIndex | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; returns the observation. `seed` is an integer of any type. There are no options. Raises
        `gymnasium.error.Error` for other seeds, and if options are given."""
        self._episodes.no_options(options)
        super().reset(seed=_integer(seed))
        return self._episodes.reset([self.np_random])[0], {}

    def step(self, action: ArrayLike) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated and truncated after `action` [A].

        Raises `gymnasium.error.InvalidAction` for an invalid action, and `ResetNeeded` before the first reset and after
        an episode's end.
        """
        episodes = self._episodes
        episodes.begun()
        if episodes.over[0]:
            raise ResetNeeded(f"the {episodes.noun} is over; call reset to begin the next one")
        checked = _checked(action, episodes.action_space.shape)
        observation, reward, terminated, truncated = episodes.step(checked[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The agent's view, [64, 64, 3] uint8; None without a render mode."""
        return self._episodes.frames()[0] if self.render_mode else None


class ManyEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` episodes in one compiled step. The step after an end starts the next episode (next-step autoreset).
    Raises as `SingleEnv` does, and `UserError` if `num_envs` is less than 1."""

    metadata = _VECTOR_METADATA

    def __init__(self, num_envs: int, episodes: SideBySide, render_mode: RenderMode = None) -> None:
        self._episodes = episodes
        self.num_envs = num_envs = require_integer("num_envs", num_envs, 1)
        self._generators = [_generator(None) for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = episodes.observation_space, episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self.metadata = {**_VECTOR_METADATA, "render_fps": episodes.frames_per_second}

    def reset(
        self,
        *,
        seed: SupportsIndex | Sequence[SupportsIndex | None] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes; returns observations [num_envs, ...]. With the seed s, episode i is that of `SingleEnv`
        with seed s + i. A list has one seed for each; None continues that episode's random numbers. There are no
        options.

        Raises `gymnasium.error.Error` as `SingleEnv.reset` does, and `ValueError` for a wrong number of seeds.
        """
        self._episodes.no_options(options)
        pairs = zip(self._generators, _seeds(seed, self.num_envs, self._episodes.noun), strict=True)
        self._generators = [before if own is None else _generator(own) for before, own in pairs]
        return self._episodes.reset(self._generators), {}

    def step(self, actions: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations [num_envs, ...], rewards, terminated, truncated [num_envs] after `actions` [num_envs, A]. Raises
        `gymnasium.error.InvalidAction` for invalid actions, and `ResetNeeded` before the first reset."""
        self._episodes.begun()
        return *self._episodes.step(_checked(actions, (self.num_envs, *self._episodes.action_space.shape))), {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Each agent's view, [64, 64, 3] uint8; None without a render mode."""
        return tuple(self._episodes.frames()) if self.render_mode else None


class _Actual(SideBySide):
    """Episodes of a `JaxEnvironment`. An observation is the environment's own, or, with `pictures`, its frame."""

    def __init__(
        self, environment: JaxEnvironment, frames_per_second: int, render_mode: str | None, as_pictures: bool
    ) -> None:
        self.environment, self.as_pictures = environment, as_pictures
        limit = np.finfo(np.float32).max
        space = (
            gymnasium.spaces.Box(0, 255, (pictures.SIDE, pictures.SIDE, 3), np.uint8)
            if as_pictures
            else gymnasium.spaces.Box(-limit, limit, (environment.observation_size,), np.float32)
        )
        super().__init__(space, environment.action_size, frames_per_second, render_mode)

    def begin(self, keys: Key) -> Any:
        """Start episodes."""
        return _reset(self.environment, keys)

    def advance(self, over: np.ndarray, action: np.ndarray, keys: Key, tick: int) -> tuple[Any, Array, Array, Array]:
        """One step of each episode."""
        return _step(self.environment, self.state, over, action, keys, tick)

    def observe(self) -> np.ndarray:
        """[B, F] float32, or [B, 64, 64, 3] uint8"""
        return np.array(self.draw() if self.as_pictures else self.state[1])

    def draw(self) -> Array:
        """[B, 64, 64, 3] uint8"""
        return _draw(self.environment, self.state[0])


@partial(jax.jit, static_argnames="environment")
def _reset(environment: JaxEnvironment, keys: Key) -> tuple[Any, Array]:
    return jax.vmap(environment.reset)(jax.vmap(jax.random.fold_in, (0, None))(keys, CHANCE))


@partial(jax.jit, static_argnames="environment")
def _step(
    environment: JaxEnvironment, state: tuple[Any, Array], over: Array, action: Action, keys: Key, tick: int
) -> tuple[tuple[Any, Array], Array, Array, Array]:
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, tick)
    chance = jax.vmap(jax.random.fold_in, (0, None))(jax.random.clone(keys), CHANCE)
    following, observation, reward, terminated, truncated = jax.vmap(environment.step)(state[0], action, chance)
    state = choose(over, _reset(environment, keys), (following, observation))
    return state, jnp.where(over, 0, reward), terminated & ~over, truncated & ~over


@partial(jax.jit, static_argnames="environment")
def _draw(environment: JaxEnvironment, state: Any) -> Array:
    return jax.vmap(environment.frame)(state)


class JaxEnv(SingleEnv):
    """A `JaxEnvironment` as a Gymnasium environment."""

    def __init__(
        self,
        environment: JaxEnvironment,
        frames_per_second: int,
        render_mode: RenderMode = None,
        *,
        pictures: bool = False,
    ) -> None:
        """With `pictures`, an observation is the frame."""
        super().__init__(_Actual(environment, frames_per_second, render_mode, pictures), render_mode)


class JaxVectorEnv(ManyEnv):
    """Episodes of a `JaxEnvironment` in one compiled step, as a vectorised Gymnasium environment."""

    def __init__(
        self,
        num_envs: int,
        environment: JaxEnvironment,
        frames_per_second: int,
        render_mode: RenderMode = None,
        *,
        pictures: bool = False,
    ) -> None:
        """With `pictures`, an observation is the frame."""
        super().__init__(num_envs, _Actual(environment, frames_per_second, render_mode, pictures), render_mode)


def _generator(seed: Any) -> np.random.Generator:
    """A generator for an integer seed of any type, or None. Raises `gymnasium.error.Error` for other seeds, and below
    0."""
    return seeding.np_random(_integer(seed))[0]


def _integer(seed: Any) -> int | None:
    try:
        return None if seed is None else operator.index(seed)
    except TypeError:
        raise Error(f"a seed must be an integer, found {seed!r}") from None


def _seeds(seed: Any, count: int, noun: str) -> list[Any]:
    """Seeds of `count` episodes: seed, seed + 1, …, or the given ones. Raises `ValueError` for a wrong number of
    seeds."""
    if not np.ndim(seed):
        first = _integer(seed)
        return [None if first is None else first + i for i in range(count)]
    if len(seed) != count:
        raise ValueError(f"expected {count} seeds, one for each {noun}, found {len(seed)}")
    return list(seed)


def _checked(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`action` as float32. Raises `InvalidAction` unless it has this shape and lies in [-1, 1]."""
    try:
        found = np.asarray(action, np.float32)
    except (TypeError, ValueError):
        raise InvalidAction(f"an action must be numbers of shape {list(shape)}, found {action!r}") from None
    if found.shape != shape:
        raise InvalidAction(f"an action must be of shape {list(shape)}, found {list(found.shape)}")
    # NaN fails this comparison, so it counts as out of range.
    wrong = found[~(np.abs(found) <= 1)]
    if wrong.size:
        raise InvalidAction(f"an action must lie in [-1, 1], found {wrong[0]:g}; gymnasium.wrappers.ClipAction clips")
    return found
