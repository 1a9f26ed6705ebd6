"""The dream, the paper's virtual environment (section 4): a world model as an environment, whatever the model is.

What the model expects of a step becomes a reward and an end by the rules of `DreamConfig`; whatever they are, a dream ends
where its rewards add up to `full_return`, and where its numbers are no longer finite, with the lowest return there is.
Everything here is pure and for one agent; populations, rollouts and temperatures are axes that `jax.vmap` adds.
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
    """How a world model's dream is played. The defaults are the paper's Take Cover."""

    temperature: float = 1.15
    """tau: how uncertain the dream is; 1 is the model as trained."""
    horizon: int = 2100
    """Steps after which a dream is cut off."""
    start: Literal["first", "anywhere"] = "first"
    """first: on the first frame of a recorded episode; anywhere: on any recorded frame, after the model has followed the
    episode up to that frame, as it does in the actual environment. A search with a `start` of its own learns in dreams that
    begin there; C is scored in those that begin here."""
    episodes: int = 1024
    """With `start` anywhere: recorded episodes, drawn at random, that the model follows to have states to start from."""
    full_return: float | None = None
    """A dream is over once its rewards add up to this, as an episode is in which there is nothing left to earn: M, which
    never saw so many steps of one, goes on for ever, and whoever earns twice as fast would be twice as good."""
    end: str = "threshold"
    """threshold: a dream ends where its end is more probable than the model's threshold, the paper's rule, and there are no
    ends that are only possible; drawn: with the probability that the model gives it. Or a rule of one's own."""
    reward: str = "survival"
    """survival: 1 per step, the last included; predicted: what the model predicts. Or a rule of one's own."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "tensorfloat32"
    """Of the model's matrix products while a population dreams. tensorfloat32: 10 bits of mantissa where the device has
    that, on CPUs the same as float32; bfloat16: weights and what they multiply in 7 bits, sums and state in float32."""

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
        """How long a dream is at most, for reports."""
        full = f", less once it has brought {self.full_return:g}" if self.full_return else ""
        drawn = ", its end drawn" if self.end == "drawn" else ""
        return f"of at most {self.horizon:,} steps{full}{drawn}"


@struct.dataclass
class DreamState:
    """Where one dream stands."""

    world: State
    """The world model's."""
    steps: Array
    """[] int32: steps dreamt so far."""
    earned: Array
    """[] float32: the rewards so far."""


@struct.dataclass
class DreamNoise:
    """What a step takes of chance."""

    world: Any
    """The world model's."""
    end: Array
    """[...] in [0, 1): a step ends the dream where the probability of that is higher."""


@dataclass(frozen=True)
class Dream:
    """A world model as an environment: a hashable recipe; its weights and the states to start from come in as arguments."""

    model: WorldModel
    config: DreamConfig
    actions: tuple[tuple[float, ...], ...] = ()
    """The task's discrete actions (`Task.actions`)."""

    @property
    def without_full_return(self) -> "Dream":
        """The same dream for those who do not know what was earned before, so that no full return ends it."""
        return replace(self, config=replace(self.config, full_return=None))

    def prepare(self, params: Params) -> Params:
        """Weights as the dream's precision has them; once for many steps, as the narrow copy is what is fast."""
        if self.config.precision != "bfloat16":
            return params

        def narrow(array: Array) -> Array:
            matrix = array.ndim > 1 and jnp.issubdtype(array.dtype, jnp.floating)
            return array.astype(jnp.bfloat16) if matrix else array

        return jax.tree.map(narrow, params)

    def features(self, state: DreamState) -> Features:
        """What an actor may read before it acts."""
        return self.model.features(state.world)

    def reset(self, starts: State, key: Key) -> DreamState:
        """A dream before its first step, in one of the states `starts` [S, ...] (`wm_jax.dream.starts`)."""
        row = jax.random.randint(key, (), 0, len(jax.tree.leaves(starts)[0]), jnp.int32)
        return DreamState(jax.tree.map(lambda array: array[row], starts), jnp.int32(0), jnp.float32(0))

    def noise(self, key: Key) -> DreamNoise:
        """The noise of one step that belongs to `key`."""
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
        """What follows on `action` [A], chosen in `state`: (state, reward [], terminated [], truncated []).

        `noise` may be drawn before: one draw then serves every candidate that meets it. `temperature` [] may be traced and
        stands in for the setting. A step after which a number is not finite terminates, with the reward -inf. Raises
        `UserError` while tracing where a rule needs what the model does not predict.
        """
        state, reward, ending = self.prospect(params, state, action, noise.world, temperature)
        terminated = noise.end < ending
        return state, reward, terminated, ~terminated & (state.steps >= self.config.horizon)

    def prospect(
        self, params: Params, state: DreamState, action: Action, noise: Any, temperature: Array | float | None = None
    ) -> tuple[DreamState, Array, Array]:
        """What follows on `action` [A], before it is decided whether that is the end: (state, reward [], the probability
        that it is []), with the world model's part of the noise. The probability is always finite, and the reward is -inf
        where anything else is not."""
        tau = self.config.temperature if temperature is None else temperature
        with jax.default_matmul_precision(self.config.precision):
            world, outcome = self.model.imagine(params, state.world, action, noise, tau)
        reward, ending = self._judge(outcome)
        steps, earned = state.steps + 1, state.earned + reward
        if self.config.full_return is not None:
            ending = jnp.where(earned >= self.config.full_return, 1, ending)
        # The rules are not asked: NaN is above no threshold, and such a dream would never end.
        broken = ~_finite((outcome.reward, outcome.end, reward, ending, self.model.vital(world)))
        reward, ending = jnp.where(broken, -jnp.inf, reward), jnp.where(broken, 1, ending)
        return DreamState(world, steps, state.earned + reward), reward, ending

    def check(self) -> None:
        """Raise `UserError` where a rule needs what the model does not predict."""
        params, _, state = shapes(self.model)
        action = jax.ShapeDtypeStruct((self.model.action_size,), jnp.float32)
        noise = jax.eval_shape(self.model.noise, key_shape())
        outcome = jax.eval_shape(self.model.imagine, params, state, action, noise, 1.0)[1]
        jax.eval_shape(self._judge, outcome)

    def _judge(self, outcome: Outcome) -> tuple[Array, Array]:
        """The step's reward, and the probability that it ends the dream."""
        rules = REWARDS[self.config.reward], ENDS[self.config.end]
        reward, ending = (rule(outcome, self.model) for rule in rules)
        return reward, ending


def _finite(tree: Any) -> Array:
    """[]: whether all numbers of a pytree are finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
