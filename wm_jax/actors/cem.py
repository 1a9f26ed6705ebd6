"""Planning by the cross-entropy method, as in PlaNet (arXiv 1811.04551, algorithm 2): at every decision, a normal
distribution over action sequences is fitted repeatedly to the best sequences drawn from it.

With other settings it is iCEM (`wm_jax.actors.icem`).
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.actors.planning import SequencePlanner, SequencePlannerConfig
from wm_jax.actors.protocol import ACTORS
from wm_jax.dream import Dream
from wm_jax.errors import require_choice, require_range
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import World


@ACTORS.register
@dataclass(frozen=True)
class CEMConfig(SequencePlannerConfig):
    """Planning by the cross-entropy method. The defaults are PlaNet's."""

    kind: Literal["cem"] = "cem"
    horizon: int = 12
    iterations: int = 10
    """Iterations: how often the distribution is fitted."""
    candidates: int = 1000
    """N: sequences drawn in the first iteration; at least twice `elites`."""
    shrink: float = 1.0
    """Factor by which the number of sequences falls per iteration; there are always at least twice as many as
    elites."""
    elites: int = 100
    """K: the best sequences, to which the distribution is fitted."""
    kept: float = 0.0
    """Share of the elites that compete again in the next iteration and, shifted by one action, in the next decision."""
    deviation: float = 1.0
    """Standard deviation of the actions in the first iteration."""
    colour: float = 0.0
    """beta: spectral exponent of the sampling noise, whose power falls with the frequency f as f^-beta. 0: independent
    actions; larger: actions correlated over longer times."""
    momentum: float = 0.0
    """Share of the previous mean and deviation in the fitted ones."""
    warm_start: bool = False
    """Whether a decision starts from the previous mean, shifted by one action, instead of 0."""
    execute: Literal["mean", "best"] = "mean"
    """The sequence whose first action is taken: the distribution's mean, or the best sequence drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "elites"):
            require_range(f"actor.{name}", getattr(self, name), 1, 2**20)
        require_range("actor.candidates", self.candidates, 2 * self.elites, 2**24)
        require_range("actor.shrink", self.shrink, 1.0, 1e3)
        require_range("actor.kept", self.kept, 0.0, 1.0)
        require_range("actor.deviation", self.deviation, 1e-3, 10.0)
        require_range("actor.colour", self.colour, 0.0, 10.0)
        require_range("actor.momentum", self.momentum, 0.0, 0.99)
        require_choice("actor.execute", self.execute, ("mean", "best"))

    def build(self, dream: Dream) -> "CEM":
        """The planner for a dream."""
        return CEM(self, dream)


@struct.dataclass
class CEMPlan:
    """State between two decisions."""

    mean: Array
    """[T, A]"""
    kept: Array
    """[k, T, A]: elites."""


@dataclass(frozen=True)
class CEM(SequencePlanner):
    """The planner described by `CEMConfig`."""

    @property
    def dream_steps(self) -> int:
        """Dream steps per decision."""
        config, lengths = self.config, self.config.horizon * self.config.hold * self.config.particles
        return lengths * (sum(self._drawn) + config.iterations * self._kept)

    @property
    def planned_dreams(self) -> int:
        """Dreams of the largest iteration."""
        return (max(self._drawn) + self._kept) * self.config.particles

    @property
    def _drawn(self) -> list[int]:
        """Sequences drawn in each iteration."""
        config = self.config
        return [
            max(round(config.candidates / config.shrink**number), 2 * config.elites)
            for number in range(config.iterations)
        ]

    @property
    def _kept(self) -> int:
        """k: elites that compete again."""
        return math.floor(self.config.kept * self.config.elites + 1e-6)

    def first_plan(self) -> CEMPlan:
        """A mean of 0 and elites of 0."""
        shape = self.config.horizon, self.action_size
        return CEMPlan(jnp.zeros(shape, jnp.float32), jnp.zeros((self._kept, *shape), jnp.float32))

    def decide(self, params: Params, world: World, state: State, plan: CEMPlan, key: Key) -> tuple[Action, CEMPlan]:
        """The first action of the fitted mean or of the best sequence, and the plan for the next decision."""
        config = self.config
        fit_key, last_key = jax.random.split(key)
        mean = plan.mean if config.warm_start else jnp.zeros_like(plan.mean)
        fitted = _Fitted(mean, jnp.full_like(mean, config.deviation), plan.kept, mean)
        first = 0
        for count, group in groupby(self._drawn):
            last = first + len(list(group))
            improve = partial(self._improve, params, world, state, fit_key, count)
            fitted = jax.lax.fori_loop(first, last, improve, fitted)
            first = last
        action = (fitted.mean if config.execute == "mean" else fitted.best)[0]
        # The horizon moves by one action: the mean's last action becomes 0, and those of the elites are drawn anew.
        shape = (self._kept, 1, self.action_size)
        ends = jnp.clip(config.deviation * jax.random.normal(last_key, shape, jnp.float32), -1, 1)
        kept = jnp.concatenate([fitted.kept[:, 1:], ends], axis=1)
        return action, CEMPlan(jnp.concatenate([fitted.mean[1:], jnp.zeros_like(mean[:1])]), kept)

    def _improve(
        self, params: Params, world: World, state: State, key: Key, count: int, number: Array, fitted: "_Fitted"
    ) -> "_Fitted":
        """The distribution after iteration `number` [], which draws `count` sequences."""
        config = self.config
        draw_key, dream_key = jax.random.split(jax.random.fold_in(key, number))
        draws = coloured(draw_key, (count, *fitted.mean.shape), config.colour)
        drawn = jnp.clip(fitted.mean[None] + fitted.deviation[None] * draws, -1, 1)
        if config.execute == "best":
            # In the last iteration the mean competes too.
            drawn = drawn.at[0].set(jnp.where(number == config.iterations - 1, fitted.mean, drawn[0]))
        sequences = jnp.concatenate([drawn, fitted.kept])
        returns = self.returns(params, world, state, sequences, dream_key)
        best, number_of = jax.lax.top_k(returns, config.elites)
        # If fewer than K returns are finite, the best sequence fills the other places.
        elites = sequences[jnp.where(jnp.isfinite(best), number_of, number_of[0])]
        share = jnp.float32(config.momentum)
        return _Fitted(
            mean=share * fitted.mean + (1 - share) * elites.mean(axis=0),
            deviation=share * fitted.deviation + (1 - share) * elites.std(axis=0),
            kept=elites[: self._kept],
            best=elites[0],
        )


@struct.dataclass
class _Fitted:
    """The distribution over sequences, after some iterations."""

    mean: Array
    """[T, A]"""
    deviation: Array
    """[T, A]"""
    kept: Array
    """[k, T, A]: the best of the last iteration."""
    best: Array
    """[T, A]: the best sequence."""


def coloured(key: Key, shape: tuple[int, ...], colour: float) -> Array:
    """Normal noise [..., T, A] of variance 1 whose power falls with the frequency f as f^-colour along T (iCEM, arXiv
    2008.06389, section 3.1): filtered white noise."""
    return jnp.einsum("st,...ta->...sa", _filter(shape[-2], colour), jax.random.normal(key, shape, jnp.float32))


def _filter(length: int, colour: float) -> Array:
    """[T, T]"""
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1] if length > 1 else 1
    spectrum = np.fft.rfft(np.eye(length), axis=0) * frequency[:, None] ** (-colour / 2)
    matrix = np.fft.irfft(spectrum, length, axis=0)
    return jnp.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), jnp.float32)
