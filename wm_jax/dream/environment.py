"""The dream, the paper's virtual environment (section 4): M's prediction, sampled, becomes the next observation.

A step draws each latent dimension i on its own from M's mixture at temperature tau,

    k ~ softmax(log_weights_i / tau),   z'_i ~ N(means_ik, stds_ik^2 tau),

so that a higher tau makes a less certain dream (tau 0: M's most likely one). Whatever tau is, it ends where done_logit > 0,
or is drawn to end with the probability that M gives it (`DreamConfig.end`), or where the rewards add up to `full_return`.
Everything here is pure and for one agent; populations, rollouts and temperatures are axes that `jax.vmap` adds.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.memory import MixtureNoise, draw_noise, sample_mixture
from wm_jax.types import Action, Array, Features, Key, Latents, LatentStats, MemoryState, Params, Prediction
from wm_jax.vision import sample


class WorldModel(Protocol):
    """What the dream needs of M; `wm_jax.memory.Memory` is one. Must be hashable."""

    @property
    def latent_size(self) -> int:
        """Z"""
        ...

    @property
    def action_size(self) -> int:
        """A"""
        ...

    @property
    def done_weight(self) -> float:
        """How many times as often M was shown the end of an episode as it comes, above 0: so much too high are its odds."""
        ...

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> MemoryState:
        """The state before an episode's first step."""
        ...

    def advance(self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array) -> MemoryState:
        """The state after a step."""
        ...

    def step(
        self, params: Params, state: MemoryState, z: Array, action: Action, restart: Array
    ) -> tuple[MemoryState, Prediction]:
        """The state after a step, and what comes next."""
        ...


@dataclass(frozen=True)
class DreamConfig:
    """How M's dream is played. The defaults are the paper's Take Cover."""

    temperature: float = 1.15
    """tau: how uncertain the dream is; 1 is M as trained."""
    horizon: int = 2100
    """Steps after which a dream is cut off."""
    start: Literal["first", "anywhere"] = "first"
    """first: on the first frame of a recorded episode; anywhere: on any recorded frame, M having followed its episode up to
    there, as it has where C comes to such a frame in the actual environment."""
    full_return: float | None = None
    """A dream is over once its rewards add up to this, as an episode is in which there is nothing left to earn: M, which
    never saw so many steps of one, goes on for ever, and whoever earns twice as fast would be twice as good."""
    end: Literal["threshold", "drawn"] = "threshold"
    """threshold: a dream ends where M's done_logit > 0, the paper's rule, and there are no ends that M only holds possible;
    drawn: with the probability that M gives it, which `memory.done_weight` has been taken out of."""
    reward: Literal["survival", "predicted"] = "survival"
    """survival: 1 per step, the last included; predicted: what M predicts."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "tensorfloat32"
    """Of M's matrix products while a population dreams. tensorfloat32: 10 bits of mantissa where the device has that, on
    CPUs the same as float32; bfloat16: M's weights and what they multiply in 7 bits, sums and state in float32."""

    def __post_init__(self) -> None:
        require_range("dream.temperature", self.temperature, 1e-3, 100.0)
        require_range("dream.horizon", self.horizon, 1)
        require_choice("dream.start", self.start, ("first", "anywhere"))
        if self.full_return is not None:
            require_range("dream.full_return", self.full_return, 1e-3)
        require_choice("dream.end", self.end, ("threshold", "drawn"))
        require_choice("dream.reward", self.reward, ("survival", "predicted"))
        require_choice("dream.precision", self.precision, ("float32", "tensorfloat32", "bfloat16"))


@struct.dataclass
class DreamState:
    """Where one dream stands."""

    z: Array
    """[Z]: what the agent sees."""
    memory: MemoryState
    """[H]"""
    restart: Array
    """[] float32: 1 as long as M has not been fed anything."""
    steps: Array
    """[] int32: steps dreamt so far."""
    earned: Array
    """[] float32: the rewards so far."""

    @property
    def features(self) -> Features:
        """What C may know before it acts."""
        return Features(z=self.z, memory=self.memory)


@struct.dataclass
class DreamNoise:
    """What a step takes of chance."""

    next_z: MixtureNoise
    """[..., Z]"""
    end: Array
    """[...] in [0, 1): a step ends the dream where the probability of that is higher."""


def step_noise(key: Key, latent_size: int) -> DreamNoise:
    """The noise of one step [Z] that belongs to `key`."""
    # `draw_noise` splits the key in two, which is to fold in 0 and 1.
    return DreamNoise(draw_noise(key, (latent_size,)), jax.random.uniform(jax.random.fold_in(key, 2)))


def see(latents: Latents, frame: Array, key: Key) -> Array:
    """z [..., Z] of recorded frames, `frame` [...] being their places, sampled from V's posterior."""
    return sample(LatentStats(latents.stats.mean[frame], latents.stats.log_var[frame]), key)


@dataclass(frozen=True)
class Dream:
    """M as an environment: a hashable recipe; M's weights and the recordings to start from come in as arguments."""

    memory: WorldModel
    config: DreamConfig

    def prepare(self, params: Params) -> Params:
        """M's weights as the dream's precision has them; once for many steps, as the narrow copy is what is fast."""
        if self.config.precision != "bfloat16":
            return params
        return jax.tree.map(lambda array: array.astype(jnp.bfloat16) if array.ndim > 1 else array, params)

    def reset(self, params: Params, latents: Latents, key: Key) -> DreamState:
        """A dream before its first step: z sampled from the posterior of a random recorded frame, and in M's state what the
        frames and actions of its episode before that one leave there."""
        place_key, z_key = jax.random.split(key)
        first, before = self._place(latents, place_key)

        def feed(number: Array, state: MemoryState) -> MemoryState:
            z = see(latents, first + number, jax.random.fold_in(z_key, number))
            restart = (number == 0).astype(jnp.float32)
            return self.memory.advance(params, state, z, latents.action[first + number], restart)

        with jax.default_matmul_precision(self.config.precision):
            memory = jax.lax.fori_loop(0, before, feed, self.memory.initial_state())
        restart = (before == 0).astype(jnp.float32)
        return DreamState(
            see(latents, first + before, z_key), memory, restart, steps=jnp.int32(0), earned=jnp.float32(0)
        )

    def _place(self, latents: Latents, key: Key) -> tuple[Array, Array]:
        """[], [] int32: where a recorded episode begins, and how many of its frames come before the one to start on; all
        that the settings allow are equally likely."""
        if self.config.start == "first":
            return jax.random.choice(key, latents.start), jnp.int32(0)
        frame = jax.random.randint(key, (), 0, len(latents.action))
        first = latents.start[jnp.searchsorted(latents.start, frame, side="right") - 1]
        return first, frame - first

    def step(
        self, params: Params, state: DreamState, action: Action, key: Key, temperature: Array | float | None = None
    ) -> tuple[DreamState, Array, Array, Array]:
        """What follows on `action` [A], chosen from `state.features`: (state, reward [], terminated [], truncated []).

        `temperature` [] may be traced and stands in for the setting. Raises `UserError` while tracing where the reward
        is to be predicted by an M that predicts none.
        """
        return self.step_with(params, state, action, step_noise(key, self.memory.latent_size), temperature)

    def step_with(
        self,
        params: Params,
        state: DreamState,
        action: Action,
        noise: DreamNoise,
        temperature: Array | float | None = None,
    ) -> tuple[DreamState, Array, Array, Array]:
        """`step` with noise that was drawn before: one draw then serves every candidate that meets it."""
        state, reward, ending = self.prospect(params, state, action, noise.next_z, temperature)
        terminated = noise.end < ending
        return state, reward, terminated, ~terminated & (state.steps >= self.config.horizon)

    def prospect(
        self,
        params: Params,
        state: DreamState,
        action: Action,
        noise: MixtureNoise,
        temperature: Array | float | None = None,
    ) -> tuple[DreamState, Array, Array]:
        """What follows on `action` [A], before it is decided whether that is the end: (state, reward [], the probability
        that it is [], which is 0 or 1 where `config.end` is threshold)."""
        with jax.default_matmul_precision(self.config.precision):
            memory, prediction = self.memory.step(params, state.memory, state.z, action, state.restart)
        z = sample_mixture(prediction.next_z, self.config.temperature if temperature is None else temperature, noise)
        reward = self._reward(prediction)
        steps, earned = state.steps + 1, state.earned + reward
        ending = self._ending(prediction)
        if self.config.full_return is not None:
            ending = jnp.where(earned >= self.config.full_return, 1, ending)
        return DreamState(z, memory, jnp.zeros_like(state.restart), steps, earned), reward, ending

    def _ending(self, prediction: Prediction) -> Array:
        logit = prediction.done_logit
        if logit is None:
            return jnp.zeros(())
        if self.config.end == "threshold":
            return (logit > 0).astype(jnp.float32)
        return jax.nn.sigmoid(logit - math.log(self.memory.done_weight))

    def _reward(self, prediction: Prediction) -> Array:
        if self.config.reward == "survival":
            return jnp.ones(())
        if prediction.reward is None:
            raise UserError(
                "dream.reward is 'predicted' but M predicts none; set memory.predict_reward and train M, "
                "or set dream.reward to 'survival'"
            )
        return prediction.reward
