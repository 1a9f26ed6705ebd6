"""Many dreams at once: every candidate of a population plays the same R dreams, in one compiled call.

The same dreams means common random numbers: the rollout r starts on the same frame and meets the same noise for each
candidate, so that their returns differ by what they did. It also makes the noise P times cheaper.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.types import Action, Array, Key, Latents, Params, Policy, Population, Returns, Weights

STEPS_BETWEEN_LOOKS = 50
"""Steps dreamt before looking whether any dream is still alive; a look makes an accelerator wait for the host."""


@struct.dataclass
class DreamScores:
    """How each candidate's dreams went."""

    returns: Array
    """[P, R] float32: sum of rewards up to the end of the dream."""
    lengths: Array
    """[P, R] int32: steps until the dream ended or was cut off, the last included."""


@struct.dataclass
class Trajectory:
    """One dream from its first frame on, played for T steps whether M says that it ended or not."""

    z: Array
    """[T, Z]: what the agent saw before each step."""
    action: Action
    """[T, A]"""
    reward: Array
    """[T]"""
    terminated: Array
    """[T] bool: where M predicts the end with this step."""


@struct.dataclass
class _Progress:
    """The carry of the loop: P x R dreams and their scores so far."""

    state: DreamState
    scores: DreamScores
    alive: Array
    steps: Array


def _begin(dream: Dream, params: Params, latents: Latents, key: Key) -> tuple[DreamState, Key]:
    """The state that a rollout with this key starts from, and the key that its steps' numbers are folded into."""
    reset_key, noise_key = jax.random.split(key)
    return dream.reset(params, latents, reset_key), noise_key


@partial(jax.jit, static_argnames=("dream", "policy", "rollouts"))
def population_returns(
    dream: Dream,
    policy: Policy,
    params: Params,
    latents: Latents,
    population: Population,
    key: Key,
    *,
    rollouts: int,
    temperature: Array | None = None,
) -> DreamScores:
    """Play `rollouts` dreams with each candidate of `population` [P, D]: scores [P, R].

    Ends when all dreams are over, at the horizon at the latest. Rollout r has the key `fold_in(key, r)`. `temperature`
    [] stands in for the dream's setting without compiling anew.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rollouts))
    starts, noise_keys = jax.vmap(partial(_begin, dream, params, latents))(keys)
    shape = (population.shape[0], rollouts)
    step = jax.vmap(partial(dream.step, temperature=temperature), (None, 0, 0, 0))
    step = jax.vmap(step, (None, 0, 0, None))
    act = jax.vmap(jax.vmap(policy, (None, 0)))

    def advance(progress: _Progress, _: None) -> tuple[_Progress, None]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(noise_keys, progress.steps)
        actions = act(population, progress.state.features)
        state, reward, terminated, truncated = step(params, progress.state, actions, keys)
        scores = DreamScores(
            returns=progress.scores.returns + jnp.where(progress.alive, reward, 0),
            lengths=progress.scores.lengths + progress.alive,
        )
        alive = progress.alive & ~terminated & ~truncated
        return _Progress(state, scores, alive, progress.steps + 1), None

    progress = _Progress(
        state=jax.tree.map(lambda array: jnp.broadcast_to(array, (shape[0], *array.shape)), starts),
        scores=DreamScores(jnp.zeros(shape), jnp.zeros(shape, jnp.int32)),
        alive=jnp.ones(shape, bool),
        steps=jnp.int32(0),
    )
    chunk = min(STEPS_BETWEEN_LOOKS, dream.config.horizon)
    return jax.lax.while_loop(
        lambda progress: progress.alive.any(),
        lambda progress: jax.lax.scan(advance, progress, length=chunk)[0],
        progress,
    ).scores


@partial(jax.jit, static_argnames=("dream", "policy", "steps"))
def trajectory(
    dream: Dream,
    policy: Policy,
    params: Params,
    latents: Latents,
    weights: Weights,
    key: Key,
    *,
    steps: int,
    temperature: Array | None = None,
) -> Trajectory:
    """One candidate's dream, `steps` long; rollout r of `population_returns` is the one with key `fold_in(key, r)`."""
    start, noise_key = _begin(dream, params, latents, key)

    def advance(state: DreamState, number: Array) -> tuple[DreamState, Trajectory]:
        action = policy(weights, state.features)
        noise = jax.random.fold_in(noise_key, number)
        following, reward, terminated, _ = dream.step(params, state, action, noise, temperature)
        return following, Trajectory(state.z, action, reward, terminated)

    return jax.lax.scan(advance, start, jnp.arange(steps))[1]


@dataclass(frozen=True)
class DreamFitness:
    """The mean return in the dream. `jax.tree_util.Partial(DreamFitness(...), params, latents)` is a `Fitness` that
    compiled code takes as an argument, so that its arrays do not become constants."""

    dream: Dream
    policy: Policy
    rollouts: int
    """R: dreams a candidate."""

    def __call__(self, params: Params, latents: Latents, population: Population, key: Key) -> Returns:
        """[P]: mean over the rollouts."""
        scores = population_returns(self.dream, self.policy, params, latents, population, key, rollouts=self.rollouts)
        return scores.returns.mean(axis=1)
