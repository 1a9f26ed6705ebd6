"""The dream as any Gymnasium client knows environments, one or many at a time.

An observation is what C may read: features of the world model, [z, h] of the paper's, as one flat float32 array of F
numbers. An action is [A] in [-1, 1]. Frames are drawn by the world model.

A dream whose numbers are no longer finite ends there: terminated, with the reward -inf. Of that step's observation, what is
not a number is 0, and what is infinite the largest float32: it stays in its space.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, SupportsIndex

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.error import Error, InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.dream.starts import start_states
from wm_jax.errors import require_choice, require_integer
from wm_jax.lanes import choose
from wm_jax.types import Action, Array, Key, Observations, Params, State
from wm_jax.worlds.protocol import feature_sizes

RenderMode = Literal["rgb_array"] | None
_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"]}
"""`render_fps` is the task's: every environment has its own."""
_VECTOR_METADATA = {**_METADATA, "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}


@dataclass(frozen=True)
class DreamSource:
    """What the environments are made of: a dream, its world model's weights, and recordings to start from."""

    dream: Dream
    params: Params
    recorded: Observations
    features: tuple[str, ...] | None = None
    """What an observation is made of, in this order; where empty or None, all features of the world model, by name."""
    frames_per_second: int = field(kw_only=True)
    """Steps in a second of the task's own time (`Task.frames_per_second`)."""

    @cached_property
    def starts(self) -> State:
        """The states that dreams start in, made when the first one does."""
        return start_states(self.dream, self.params, self.recorded, jax.random.key(0))

    @cached_property
    def prepared(self) -> Params:
        """The weights as the dream's precision has them, as a population dreams with them."""
        return self.dream.prepare(self.params)

    @property
    def observed(self) -> tuple[str, ...]:
        """The features of an observation."""
        return self.features or tuple(feature_sizes(self.dream.model))


@partial(jax.jit, static_argnames="dream")
def _reset(dream: Dream, starts: State, keys: Key) -> DreamState:
    """[B] dreams, begun."""
    return jax.vmap(dream.reset, (None, 0))(starts, keys)


@partial(jax.jit, static_argnames="dream")
def _step(
    dream: Dream, params: Params, starts: State, state: DreamState, over: Array, action: Action, keys: Key, tick: int
) -> tuple[DreamState, Array, Array, Array]:
    """One step of [B] dreams. Those that are `over` [B] begin anew instead: reward 0 and no end."""
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


def _generator(seed: Any) -> np.random.Generator:
    """Of an integer of any type, or of None. Raises `gymnasium.error.Error` for anything else, and below 0."""
    return seeding.np_random(_integer(seed))[0]


def _integer(seed: Any) -> int | None:
    try:
        return None if seed is None else operator.index(seed)
    except TypeError:
        raise Error(f"a seed must be an integer, found {seed!r}") from None


def _seeds(seed: Any, count: int) -> list[Any]:
    """Of so many dreams: seed, seed + 1, …, or those that are given. Raises `ValueError` where these are more or fewer."""
    if not np.ndim(seed):
        first = _integer(seed)
        return [None if first is None else first + i for i in range(count)]
    if len(seed) != count:
        raise ValueError(f"expected {count} seeds, one for each dream, found {len(seed)}")
    return list(seed)


def _no_options(options: dict[str, Any] | None) -> None:
    if options:
        raise Error(f"a dream has no options, found {options!r}; leave options out")


def _checked(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`action` as float32. Raises `InvalidAction` unless it is of this shape, and in [-1, 1]."""
    try:
        found = np.asarray(action, np.float32)
    except (TypeError, ValueError):
        raise InvalidAction(f"an action must be numbers of shape {list(shape)}, found {action!r}") from None
    if found.shape != shape:
        raise InvalidAction(f"an action must be of shape {list(shape)}, found {list(found.shape)}")
    # What is not a number is in no range.
    wrong = found[~(np.abs(found) <= 1)]
    if wrong.size:
        raise InvalidAction(f"an action must lie in [-1, 1], found {wrong[0]:g}; gymnasium.wrappers.ClipAction clips")
    return found


class _Dreams:
    """B dreams on the device, and the random numbers they meet; what both faces are made of."""

    state: DreamState | None = None
    """Where the dreams stand, once they have begun."""

    def __init__(self, source: DreamSource, render_mode: str | None) -> None:
        if render_mode not in (None, *_METADATA["render_modes"]):
            raise UnsupportedMode(f"render_mode must be None or 'rgb_array', found {render_mode!r}; "
                                  "gymnasium.wrappers.HumanRendering shows 'rgb_array' in a window")  # fmt: skip
        self.source, self.dream = source, source.dream
        sizes, limit = feature_sizes(self.dream.model), np.finfo(np.float32).max
        for name in source.observed:
            require_choice("a feature of the observation", name, list(sizes))
        size = sum(sizes[name] for name in source.observed)
        self.observation_space = gymnasium.spaces.Box(-limit, limit, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (self.dream.model.action_size,), np.float32)

    def reset(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Begin as many dreams as there are `generators`; the observations [B, F]."""
        seeds = np.array([generator.integers(2**31) for generator in generators], np.int32)
        self.keys = jax.vmap(jax.random.key)(seeds)
        self.tick = 0
        # The noise of step t comes of the key and t + 1, the start of the key and 0.
        self.state = _reset(self.dream, self.source.starts, jax.vmap(jax.random.fold_in, (0, None))(self.keys, 0))
        self.over = np.zeros(len(seeds), bool)
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations [B, F], rewards [B], terminated [B], truncated [B] after `action` [B, A]."""
        source, state = self.source, self.begun()
        self.tick += 1
        self.state, *outcome = _step(
            self.dream, source.prepared, source.starts, state, self.over, action, self.keys, self.tick
        )
        reward, terminated, truncated = map(np.array, outcome)
        self.over = terminated | truncated
        return self._observation(), reward.astype(np.float64), terminated, truncated

    def frames(self) -> np.ndarray:
        """[B, 64, 64, 3] uint8"""
        return np.array(_draw(self.dream, self.source.params, self.begun()))

    def begun(self) -> DreamState:
        """Where the dreams stand. Raises `ResetNeeded` where none has begun."""
        if self.state is None:
            raise ResetNeeded("no dream has begun; call reset first")
        return self.state

    def _observation(self) -> np.ndarray:
        return np.array(_observe(self.dream, self.source.observed, self.begun()))


class DreamEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One dream. Raises `gymnasium.error.UnsupportedMode` for a render mode that there is not."""

    metadata = _METADATA

    def __init__(self, source: DreamSource, render_mode: RenderMode = None) -> None:
        self._dreams = _Dreams(source, render_mode)
        self.observation_space = self._dreams.observation_space
        self.action_space = self._dreams.action_space
        self.render_mode = render_mode
        self.metadata = {**_METADATA, "render_fps": source.frames_per_second}

    def reset(
        self, *, seed: SupportsIndex | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dream: observation [F]. `seed` is an integer of any type. There are no options. Raises
        `gymnasium.error.Error` for other seeds, and where options are given."""
        _no_options(options)
        super().reset(seed=_integer(seed))
        return self._dreams.reset([self.np_random])[0], {}

    def step(self, action: ArrayLike) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Observation [F], reward, terminated and truncated after `action` [A].

        Raises `gymnasium.error.InvalidAction` where that is none, and `ResetNeeded` before the first reset and after a
        dream's end.
        """
        self._dreams.begun()
        if self._dreams.over[0]:
            raise ResetNeeded("the dream is over; call reset to begin the next one")
        checked = _checked(action, self._dreams.action_space.shape)
        observation, reward, terminated, truncated = self._dreams.step(checked[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """What the agent sees, [64, 64, 3] uint8; None without a render mode."""
        return self._dreams.frames()[0] if self.render_mode else None


class DreamVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` dreams in one compiled step. The step after a dream's end begins the next (next-step autoreset). Raises as
    `DreamEnv` does, and `UserError` where there would be no dream."""

    metadata = _VECTOR_METADATA

    def __init__(self, num_envs: int, source: DreamSource, render_mode: RenderMode = None) -> None:
        self._dreams = _Dreams(source, render_mode)
        self.num_envs = num_envs = require_integer("num_envs", num_envs, 1)
        self._generators = [_generator(None) for _ in range(num_envs)]
        self.single_observation_space = self._dreams.observation_space
        self.single_action_space = self._dreams.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self.metadata = {**_VECTOR_METADATA, "render_fps": source.frames_per_second}

    def reset(
        self,
        *,
        seed: SupportsIndex | Sequence[SupportsIndex | None] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all dreams: observations [num_envs, F]. With the seed s, dream i is `DreamEnv`'s with s + i; or one seed
        for each, None for those that go on with their random numbers. There are no options.

        Raises `gymnasium.error.Error` as `DreamEnv.reset` does, and `ValueError` for another number of seeds.
        """
        _no_options(options)
        pairs = zip(self._generators, _seeds(seed, self.num_envs), strict=True)
        self._generators = [before if own is None else _generator(own) for before, own in pairs]
        return self._dreams.reset(self._generators), {}

    def step(self, actions: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations [num_envs, F], rewards, terminated, truncated [num_envs] after `actions` [num_envs, A]. Raises
        `gymnasium.error.InvalidAction` where these are none, and `ResetNeeded` before the first reset."""
        self._dreams.begun()
        return *self._dreams.step(_checked(actions, (self.num_envs, *self._dreams.action_space.shape))), {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """What each agent sees, [64, 64, 3] uint8; None without a render mode."""
        return tuple(self._dreams.frames()) if self.render_mode else None
