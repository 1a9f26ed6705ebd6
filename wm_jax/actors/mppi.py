"""Planning by model predictive path integral control (MPPI, arXiv 1707.02342): the plan moves to the mean of sequences
drawn around it, weighted by the exponential of their returns. Unlike the paper's, a return has no cost of control, and
sequences are clipped to [-1, 1] before they are averaged."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from wm_jax.actors.cem import coloured
from wm_jax.actors.planning import SequencePlanner, SequencePlannerConfig
from wm_jax.actors.protocol import ACTORS
from wm_jax.dream import Dream
from wm_jax.errors import require_range
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import World


@ACTORS.register
@dataclass(frozen=True)
class MPPIConfig(SequencePlannerConfig):
    """Planning by return-weighted means of sequences."""

    kind: Literal["mppi"] = "mppi"
    iterations: int = 1
    """Iterations per decision."""
    candidates: int = 120
    """N: sequences drawn per iteration."""
    deviation: float = 0.5
    """Standard deviation of the noise around the plan's actions."""
    colour: float = 0.0
    """Spectral exponent of the noise, as in iCEM. 0: independent actions; larger: actions correlated over longer
    times."""
    temperature: float = 1.0
    """lambda: a sequence whose return is lower than the best by this much gets the weight 1 / e; in the task's reward
    units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "candidates"):
            require_range(f"actor.{name}", getattr(self, name), 1, 2**24)
        require_range("actor.deviation", self.deviation, 1e-3, 10.0)
        require_range("actor.colour", self.colour, 0.0, 10.0)
        require_range("actor.temperature", self.temperature, 1e-6, 1e6)

    def build(self, dream: Dream) -> "MPPI":
        """The planner for a dream."""
        return MPPI(self, dream)


@dataclass(frozen=True)
class MPPI(SequencePlanner):
    """The planner described by `MPPIConfig`; a plan is the actions [T, A]."""

    @property
    def dream_steps(self) -> int:
        """Dream steps per decision."""
        config = self.config
        return config.iterations * config.candidates * config.horizon * config.hold * config.particles

    @property
    def planned_dreams(self) -> int:
        """Dreams per iteration."""
        return self.config.candidates * self.config.particles

    def first_plan(self) -> Array:
        """Actions of 0."""
        return jnp.zeros((self.config.horizon, self.action_size), jnp.float32)

    def decide(self, params: Params, world: World, state: State, plan: Array, key: Key) -> tuple[Action, Array]:
        """The first action of the moved plan, and the rest of the plan."""
        config = self.config

        def move(number: Array, plan: Array) -> Array:
            draw_key, dream_key = jax.random.split(jax.random.fold_in(key, number))
            draws = coloured(draw_key, (config.candidates, *plan.shape), config.colour)
            drawn = jnp.clip(plan[None] + config.deviation * draws, -1, 1)
            returns = self.returns(params, world, state, drawn, dream_key)
            return moved(plan, drawn, returns, config.temperature)

        plan = jax.lax.fori_loop(0, config.iterations, move, plan)
        return plan[0], jnp.concatenate([plan[1:], jnp.zeros_like(plan[:1])])


def moved(plan: Array, drawn: Array, returns: Array, temperature: float) -> Array:
    """The mean of the sequences `drawn` [N, T, A] weighted by exp((returns - their maximum) / temperature); the `plan`
    [T, A] if no sequence has a finite return."""
    best = returns.max()
    weights = jnp.exp((returns - jnp.where(jnp.isfinite(best), best, 0)) / temperature)
    mean = jnp.einsum("n,nta->ta", weights, drawn) / jnp.maximum(weights.sum(), 1e-30)
    return jnp.where(jnp.isfinite(best), mean, plan)
