"""Sequences of actions, judged in the dream of a world model: what planners choose by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from wm_jax.dream.environment import Dream, DreamState
from wm_jax.types import Array, Key, State
from wm_jax.worlds import World

Value = Callable[[State], Array]
"""What is still to come from a world model's state on: []."""


@dataclass(frozen=True)
class Imagination:
    """How sequences of actions are judged: the mean over some dreams of what each is expected to bring."""

    dream: Dream
    """Its rules; what an episode has earned before is not known, so that none ends for a full return."""
    hold: int = 1
    """Steps that each action of a sequence is kept."""
    particles: int = 1
    """P: dreams for each sequence. All sequences meet the same noise in the p-th."""
    discount: float = 1.0
    """gamma of a step."""

    def returns(self, world: World, state: State, actions: Array, key: Key, value: Value | None = None) -> Array:
        """[N]: the expected returns of the `actions` [N, T, A] from a world model's `state` on, with what `value` says of
        the last state where it is given; -inf where a dream's numbers are no longer finite. An end that is possible counts
        by its probability (`Dream.prospect`)."""
        rules = self.dream.without_full_return
        params, config = rules.prepare(world.params), rules.config
        count, length, _ = actions.shape
        began = DreamState(state, jnp.int32(0), jnp.float32(0))
        lanes = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, self.particles, *jnp.shape(leaf))), began)
        # Over sequences, and over the dreams of each, which have noise of their own.
        prospect = partial(rules.prospect, temperature=config.temperature)
        dreams = jax.vmap(jax.vmap(prospect, (None, 0, None, 0)), (None, 0, 0, None))

        def step(carry: tuple[DreamState, Array, Array], number: Array) -> tuple[tuple[DreamState, Array, Array], None]:
            states, earned, survival = carry
            keys = jax.random.split(jax.random.fold_in(key, number), self.particles)
            action = jax.lax.dynamic_index_in_dim(actions, number // self.hold, 1, keepdims=False)
            states, reward, ending = dreams(params, states, action, jax.vmap(self.dream.model.noise)(keys))
            weight = survival * jnp.float32(self.discount) ** number
            # What is read after an end may be anything.
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
