"""Evaluates sequences of actions in the world model's dream, for planners."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.types import Array, Key, State
from wm_jax.worlds import World

Value = Callable[[State], Array]
"""Expected return from a world model's state: []."""


@dataclass(frozen=True)
class Imagination:
    """Evaluates sequences of actions by their mean expected return over some dreams."""

    dream: Dream
    """Its rules apply, except `full_return`: the episode's return so far is not known."""
    hold: int = 1
    """Steps that each action of a sequence is held."""
    particles: int = 1
    """P: dreams per sequence. The p-th dreams of all sequences share the same noise."""
    discount: float = 1.0
    """gamma: discount per step."""

    def returns(self, world: World, state: State, actions: Array, key: Key, value: Value | None = None) -> Array:
        """[N]: expected returns of the `actions` [N, T, A] from a world model's `state`, plus `value` of the last state
        if given; -inf if a dream's numbers are no longer finite. Ends are weighted by their probability, not drawn
        (`Dream.prospect`)."""
        rules = self.dream.without_full_return
        params, config = rules.prepare(world.params), rules.config
        count, length, _ = actions.shape
        began = DreamState(state, jnp.int32(0), jnp.float32(0))
        lanes = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, self.particles, *jnp.shape(leaf))), began)
        # Over sequences, and over the dreams of each with their own noise.
        prospect = partial(rules.prospect, temperature=config.temperature)
        dreams = jax.vmap(jax.vmap(prospect, (None, 0, None, 0)), (None, 0, 0, None))

        def step(carry: tuple[DreamState, Array, Array], number: Array) -> tuple[tuple[DreamState, Array, Array], None]:
            states, earned, survival = carry
            keys = jax.random.split(jax.random.fold_in(key, number), self.particles)
            action = jax.lax.dynamic_index_in_dim(actions, number // self.hold, 1, keepdims=False)
            states, reward, ending = dreams(params, states, action, jax.vmap(self.dream.model.noise)(keys))
            weight = survival * jnp.float32(self.discount) ** number
            # Rewards after an end may be arbitrary.
            counted = jnp.where(jnp.isfinite(reward), weight * reward, reward)
            earned += jnp.where(survival > 0, counted, 0)
            return (states, earned, survival * (1 - ending)), None

        nothing = jnp.zeros((count, self.particles), jnp.float32)
        steps = jnp.arange(length * self.hold, dtype=jnp.int32)
        states, earned, survival = jax.lax.scan(step, (lanes, nothing, nothing + 1), steps)[0]
        if value is not None:
            rest = (
                jnp.float32(self.discount ** (length * self.hold)) * survival * jax.vmap(jax.vmap(value))(states.world)
            )
            earned += jnp.where(survival > 0, rest, 0)
        return earned.mean(axis=1)
