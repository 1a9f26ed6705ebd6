"""The dream, the paper's virtual environment (section 4): any world model as an environment.

The rules of `DreamConfig` turn the model's predictions for a step into a reward and an end. In any case a dream ends
when its rewards add up to `full_return`, and when its numbers are no longer finite, with a return of -inf. All
functions are pure and handle one agent; `jax.vmap` adds axes for populations, rollouts and temperatures.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.dream.rules import ENDS, REWARDS
from wm_jax.errors import require_choice, require_range
from wm_jax.parallel import key_shape
from wm_jax.types import Action, Array, Features, Key, Outcome, Params, State
from wm_jax.worlds import WorldModel
from wm_jax.worlds.protocol import shapes


@dataclass(frozen=True)
class DreamConfig:
    """Settings of the world model's dream. The defaults are the paper's Take Cover."""

    temperature: float = 1.15
    """tau: scales the randomness of the dream; higher is more random, 1 is the model as trained."""
    horizon: int = 2100
    """Steps after which a dream is truncated."""
    start: Literal["first", "anywhere"] = "first"
    """Frames that dreams start on. first: the first frames of recorded episodes; anywhere: any recorded frame, after
    the model has followed the episode up to it, as in the actual environment. A search with its own `start` uses that
    for the dreams that C learns in; this one is for the dreams that score C."""
    episodes: int = 1024
    """With `start` anywhere: number of recorded episodes, drawn at random, that the model follows to collect start
    states."""
    full_return: float | None = None
    """Return at which a dream ends, as an actual episode ends when nothing is left to earn. M has no data beyond that
    point: without this limit the dream continues, and a controller that earns twice as fast scores twice as much. None:
    no limit."""
    end: str = "threshold"
    """The rule that ends a dream. threshold: when the probability of an end exceeds the model's threshold, as in the
    paper; less probable ends never happen; drawn: with the model's probability. Or the name of a rule that your own
    file registers."""
    reward: str = "survival"
    """The reward rule. survival: 1 per step, including the last; predicted: the model's predicted reward. Or the name
    of a rule that your own file registers."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "tensorfloat32"
    """Precision of the model's matrix products in the dreams of a population. tensorfloat32: 10 bits of mantissa if the
    device supports it; on CPUs the same as float32; bfloat16: 7 bits for weights and inputs, float32 for sums and
    states."""

    def __post_init__(self) -> None:
        require_range("dream.temperature", self.temperature, 1e-3, 100.0)
        require_range("dream.horizon", self.horizon, 1, 2_000_000_000)
        require_choice("dream.start", self.start, ("first", "anywhere"))
        require_range("dream.episodes", self.episodes, 1, 2**30)
        if self.full_return is not None:
            require_range("dream.full_return", self.full_return, 1e-3)
        require_choice("dream.end", self.end, ENDS.names())
        require_choice("dream.reward", self.reward, REWARDS.names())
        require_choice("dream.precision", self.precision, ("float32", "tensorfloat32", "bfloat16"))

    @property
    def words(self) -> str:
        """Description of the length of a dream, for reports."""
        full = f", fewer at a return of {self.full_return:g}" if self.full_return else ""
        drawn = ", with random ends" if self.end == "drawn" else ""
        return f"of at most {self.horizon:,} steps{full}{drawn}"


@struct.dataclass
class DreamState:
    """State of one dream."""

    world: State
    """State of the world model."""
    steps: Array
    """[] int32: steps dreamt so far."""
    earned: Array
    """[] float32: sum of the rewards so far."""


@struct.dataclass
class DreamNoise:
    """Random numbers of a step."""

    world: Any
    """Noise of the world model."""
    end: Array
    """[...] in [0, 1): the step ends the dream if the probability of an end is higher."""


@dataclass(frozen=True)
class Dream:
    """A world model as an environment. Hashable; its weights and start states are arguments."""

    model: WorldModel
    config: DreamConfig
    actions: tuple[tuple[float, ...], ...] = ()
    """The task's discrete actions (`Task.actions`)."""

    @property
    def without_full_return(self) -> "Dream":
        """The same dream without an end at a full return, for callers that do not know the return so far."""
        return replace(self, config=replace(self.config, full_return=None))

    def prepare(self, params: Params) -> Params:
        """The weights in the dream's precision. Call it once for many steps: the smaller copy is what saves time."""
        if self.config.precision != "bfloat16":
            return params

        def narrow(array: Array) -> Array:
            matrix = array.ndim > 1 and jnp.issubdtype(array.dtype, jnp.floating)
            return array.astype(jnp.bfloat16) if matrix else array

        return jax.tree.map(narrow, params)

    def features(self, state: DreamState) -> Features:
        """The features that an actor may read before it acts."""
        return self.model.features(state.world)

    def reset(self, starts: State, key: Key) -> DreamState:
        """A dream before its first step, in a random one of `starts` [S, ...] (`wm_jax.dream.starts`)."""
        row = jax.random.randint(key, (), 0, len(jax.tree.leaves(starts)[0]), jnp.int32)
        return DreamState(jax.tree.map(lambda array: array[row], starts), jnp.int32(0), jnp.float32(0))

    def noise(self, key: Key) -> DreamNoise:
        """The noise of one step, from `key`."""
        world_key, end_key = jax.random.split(key)
        return DreamNoise(self.model.noise(world_key), jax.random.uniform(end_key, (), jnp.float32))

    def step(
        self,
        params: Params,
        state: DreamState,
        action: Action,
        noise: DreamNoise,
        temperature: Array | float | None = None,
    ) -> tuple[DreamState, Array, Array, Array]:
        """The step after `action` [A] in `state`: (state, reward [], terminated [], truncated []).

        `noise` may be drawn in advance, so that several candidates share it. `temperature` [] may be traced and
        overrides the setting. A step with a number that is not finite terminates with the reward -inf. Raises
        `UserError` while tracing if a rule needs a prediction that the model does not make.
        """
        state, reward, ending = self.prospect(params, state, action, noise.world, temperature)
        terminated = noise.end < ending
        return state, reward, terminated, ~terminated & (state.steps >= self.config.horizon)

    def prospect(
        self, params: Params, state: DreamState, action: Action, noise: Any, temperature: Array | float | None = None
    ) -> tuple[DreamState, Array, Array]:
        """The step after `action` [A], before its end is drawn: (state, reward [], probability of an end []), with the
        world model's part of the noise. The probability is always finite; the reward is -inf if anything else is not
        finite."""
        tau = self.config.temperature if temperature is None else temperature
        with jax.default_matmul_precision(self.config.precision):
            world, outcome = self.model.imagine(params, state.world, action, noise, tau)
        reward, ending = self._judge(outcome)
        steps, earned = state.steps + 1, state.earned + reward
        if self.config.full_return is not None:
            ending = jnp.where(earned >= self.config.full_return, 1, ending)
        # Overrides the rules: NaN exceeds no threshold, so the dream would never end.
        broken = ~_finite((outcome.reward, outcome.end, reward, ending, self.model.vital(world)))
        reward, ending = jnp.where(broken, -jnp.inf, reward), jnp.where(broken, 1, ending)
        return DreamState(world, steps, state.earned + reward), reward, ending

    def check(self) -> None:
        """Raise `UserError` if a rule needs a prediction that the model does not make."""
        params, _, state = shapes(self.model)
        action = jax.ShapeDtypeStruct((self.model.action_size,), jnp.float32)
        noise = jax.eval_shape(self.model.noise, key_shape())
        outcome = jax.eval_shape(self.model.imagine, params, state, action, noise, 1.0)[1]
        jax.eval_shape(self._judge, outcome)

    def _judge(self, outcome: Outcome) -> tuple[Array, Array]:
        """The step's reward and the probability that it ends the dream."""
        rules = REWARDS[self.config.reward], ENDS[self.config.end]
        reward, ending = (rule(outcome, self.model) for rule in rules)
        return reward, ending


def _finite(tree: Any) -> Array:
    """[]: whether all numbers of a pytree are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
