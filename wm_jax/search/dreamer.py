"""Dreamer's actor-critic (V1, arXiv 1912.01603; V2, arXiv 2010.02193; V3, arXiv 2301.04104): C learns in short dreams,
each starting from a state of an actual episode.

A generation is one update. Its dreams run `horizon` steps. The critic, which estimates the return after them, gives the
lambda-returns R (`actor_critic.lambda_returns`). C maximises the mean of

    w (rho sg((R - v) / S) log pi(a | s) + (1 - rho) R / S + eta H[pi(a | s)])

with w the discounted probability that the dream has reached the step, v the critic, H the entropy, and S the spread of
the returns. V1 has rho 0, the gradient through the dream; V3 has rho 1 (REINFORCE); V2 mixes the two: its own settings
are 0 for continuous actions and 1 for discrete ones. Here the gradient through the dream also passes through C's
inputs; the papers stop it there.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from wm_jax.dream import Dream, DreamState
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.optimizers import OptimizerConfig, make
from wm_jax.search.actor_critic import ActorCriticSearchConfig, ActorCriticState, Unrolled, lambda_returns
from wm_jax.search.protocol import SEARCHES, Dreams, lane_size
from wm_jax.types import FLOAT, Array, Curve, Key, Metrics, Params, State
from wm_jax.worlds import Actor, World

if TYPE_CHECKING:
    import optax

CLIP = 0.3
"""Largest gradient norm of a weight array, as a share of the weights' own norm."""
PERCENTILES = 5.0, 95.0
"""Percentiles of the returns; their distance is the spread."""
KEPT = 0.99
"""Decay of the moving mean of the spread, per generation."""


@SEARCHES.register
@dataclass(frozen=True)
class DreamerConfig(ActorCriticSearchConfig):
    """Dreamer's actor-critic. The defaults are DreamerV3's."""

    kind: Literal["dreamer"] = "dreamer"
    horizon: int = 15
    """T: steps of a dream."""
    reinforce: float = 1.0
    """rho: weight of REINFORCE in C's objective; the rest is the gradient through the dream."""
    entropy: float = 3e-4
    """eta: weight of the entropy of C's actions."""
    scale_returns: bool = True
    """Whether to divide returns by their spread, the distance between their 5th and 95th percentiles (a moving mean
    over generations). A spread below 1, in units of the sum of rewards, counts as 1."""
    slow_critic: Literal["regularizer", "target"] = "regularizer"
    """Use of the slow copy of the critic, its target network. regularizer: the critic gives the value after a dream and
    is regularised towards the slow copy (V3); target: the slow copy gives that value (V2; for V1, which has no slow
    copy, set `slow_rate` to 1)."""
    slow_rate: float = 0.02
    """Share of the difference to the critic by which the slow critic moves, every `slow_every` generations."""
    slow_every: int = 1
    """Generations between two steps of the slow critic. V2: 100, with `slow_rate` 1."""
    discount: float = 1 - 1 / 333
    """gamma: discount per step."""
    learning_rate: float = 4e-5
    """Learning rate of Adam, for C and the critic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.horizon", self.horizon, 1, 2**20)
        require_range("search.reinforce", self.reinforce, 0.0, 1.0)
        require_range("search.entropy", self.entropy, 0.0, 1e3)
        require_choice("search.slow_critic", self.slow_critic, ("regularizer", "target"))
        require_range("search.slow_rate", self.slow_rate, 0.0, 1.0)
        require_range("search.slow_every", self.slow_every, 1, 2**30)

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "Dreamer":
        """The search; every device does the same work. Raises `UserError` if the actor has no policy to learn, or if
        the gradient through the dream is used but actions are discrete or the return has no gradient."""
        guided = self.guided(actor, "actor_critic or policy, or a planner with actor.hidden_sizes", False)
        model: Any = dream.model
        if self.reinforce < 1:
            if guided[1].discrete:
                raise UserError(f"search.reinforce is {self.reinforce}, but no gradient passes through discrete actions "
                                f"({actor.words}); set it to 1, or choose another "
                                "distribution")  # fmt: skip
            self.require_gradient(dream)
            model = model.differentiable("implicit")
        return Dreamer(self, *guided, replace(dream, model=model), generations)


@struct.dataclass
class DreamerState(ActorCriticState):
    """State of the search; no dream continues."""

    slow: Params
    """The slow critic."""
    spread: Array
    """[]: spread of the returns; 0 before the first generation."""


@struct.dataclass
class _Imagined:
    """T steps of L dreams."""

    inputs: Array
    """[T + 1, L, F]: C's inputs, including those after the last step."""
    drawn: Array
    """[T, L, X]"""
    reward: Array
    """[T, L]: multiplied by 1 - gamma."""
    ending: Array
    """[T, L]: the probability that the step ended the dream."""


@dataclass(frozen=True)
class Dreamer(Unrolled):
    """An `ActorCritic`. Metrics of a generation: outcome, the mean lambda-return times 1 - gamma; entropy, of C's
    actions; spread, of the returns; ended, the expected share of steps that end a dream; known, the share of the
    outcome's variance that the critic explains; non_finite, 1 if a number was not finite: nothing was learned then."""

    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("entropy", ("entropy",), "Dreamer: entropy", "The entropy of C's actions, in nats."),
        Curve(
            "spread",
            ("spread",),
            "Dreamer: spread of returns",
            "Distance between the 5th and 95th percentiles of the returns, times 1 - gamma.",
        ),
    )

    @property
    def words(self) -> str:
        """Description of a generation."""
        config = self.config
        return f"Dreamer's actor-critic: {config.horizon} steps of {config.dreams:,} dreams, rho {config.reinforce:g}"

    def bytes_at_work(self, devices: int) -> int:
        """C's inputs; with a gradient through the dreams also their states and the intermediate results of a step."""
        kept = 3 * (self.config.horizon + 10) if self.config.reinforce < 1 else self.config.horizon + 2
        return FLOAT * self.config.dreams * kept * lane_size(self.dream.model)

    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> DreamerState:
        """The state before the first generation: fresh networks or C's weights `begin`; the slow critic equals the
        critic."""
        state = super().init(key, begin, starts)
        slow = jax.tree.map(jnp.copy, state.networks["critic"])
        return DreamerState(state.networks, state.optimizer, None, slow, jnp.float32(0))

    def iterate(
        self, state: DreamerState, dreams: Dreams, first: Array | int, key: Key, count: int
    ) -> tuple[DreamerState, Metrics]:
        """Generations `first` [] to `first + count - 1`: the state after them and metrics stacked [count]."""
        prepared = replace(dreams, params=self.dream.prepare(dreams.params))

        def generation(state: DreamerState, number: Array) -> tuple[DreamerState, Metrics]:
            slope = jax.grad(partial(self.objective, state=state, dreams=prepared), has_aux=True)
            gradient, told = slope(state.networks, key=jax.random.fold_in(key, number))
            sound = jnp.isfinite(told["outcome"])
            for leaf in jax.tree.leaves(gradient):
                sound &= jnp.isfinite(leaf).all()
            updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.networks)
            networks = jax.tree.map(jnp.add, state.networks, updates)
            due = (number + 1) % self.config.slow_every == 0
            rate = jnp.where(due, jnp.float32(self.config.slow_rate), 0)
            slow = jax.tree.map(lambda old, new: old + rate * (new - old), state.slow, networks["critic"])
            after = DreamerState(networks, optimizer, None, slow, told["spread"])
            # A dream with numbers that are not finite gives no direction: skip the update and report only `non_finite`.
            after = jax.tree.map(partial(jnp.where, sound), after, state)
            told = {name: jnp.where(sound, value, 0) for name, value in told.items()}
            return after, {**told, "non_finite": (~sound).astype(jnp.int32)}

        return jax.lax.scan(generation, state, first + jnp.arange(count, dtype=jnp.int32))

    def objective(self, networks: Params, state: DreamerState, dreams: Dreams, key: Key) -> tuple[Array, Metrics]:
        """The loss of C and the critic [], and the metrics."""
        config, policy = self.config, self.policy
        imagined = self._imagine(networks["controller"], dreams, key)
        inputs = jax.lax.stop_gradient(imagined.inputs)
        regularized = config.slow_critic == "regularizer"
        # The gradient through the dream passes through the critic's inputs, never to its weights.
        told_by = jax.lax.stop_gradient(networks["critic"]) if regularized else state.slow
        later = policy.value(told_by, imagined.inputs[1:])
        replaced = jnp.zeros(imagined.ending.shape, bool)
        outcome = lambda_returns(imagined.reward, later, imagined.ending, replaced, config.discount)
        target = jax.lax.stop_gradient(outcome)
        going = jax.lax.stop_gradient(config.discount * (1 - imagined.ending))
        weight = jnp.concatenate([jnp.ones_like(going[:1]), jnp.cumprod(going, axis=0)[:-1]])
        value = policy.value(networks["critic"], inputs[:-1])
        spread = self._spread(state.spread, target)
        # Rewards are multiplied by 1 - gamma here but not in the papers, which add the entropy to unscaled rewards.
        least = jnp.float32(1 - config.discount)
        scale = jnp.maximum(spread, least) if config.scale_returns else least
        distribution = policy.distribution(networks["controller"], inputs[:-1], 0.0)
        drawn = jax.lax.stop_gradient(imagined.drawn)
        advantage = jax.lax.stop_gradient((outcome - value) / scale)
        entropy = distribution.entropy(drawn)
        gain = config.entropy * entropy
        if config.reinforce > 0:
            gain += config.reinforce * advantage * distribution.log_likelihood(drawn)
        if config.reinforce < 1:
            gain += (1 - config.reinforce) * outcome / scale
        # The critic's error is divided by the scale, so that neither network's loss depends on the size of the rewards.
        error = 0.5 * ((value - target) / scale) ** 2
        if regularized:
            error += 0.5 * ((value - policy.value(state.slow, inputs[:-1])) / scale) ** 2
        told = {
            "outcome": target.mean(),
            "entropy": entropy.mean(),
            "spread": spread,
            "ended": imagined.ending.mean(),
            "known": 1 - jnp.var(target - value) / jnp.maximum(jnp.var(target), 1e-12),
        }
        return (weight * (error - gain)).mean(), jax.lax.stop_gradient(told)

    def _imagine(self, controller: Params, dreams: Dreams, key: Key) -> _Imagined:
        """Play new dreams."""
        config, policy, world = self.config, self.policy, World(self.dream.model, dreams.params)
        prospect = jax.vmap(partial(self.dream.prospect, dreams.params), (0, 0, 0, None))
        begin_key, key = jax.random.split(key)
        going = self.begin(dreams.starts, begin_key)

        @jax.checkpoint
        def step(going: DreamState, number: Array) -> tuple[DreamState, tuple[Array, ...]]:
            draw_key, dream_key = jax.random.split(jax.random.fold_in(key, number))
            inputs = policy.inputs(world, going.world)
            distribution = policy.distribution(controller, inputs, 0.0)
            drawn = distribution.draw(draw_key)
            noise = jax.vmap(self.dream.noise)(jax.random.split(dream_key, config.dreams))
            after, reward, ending = prospect(going, distribution.action(drawn), noise.world, dreams.temperature)
            return after, (inputs, drawn, reward * (1 - config.discount), ending)

        going, (inputs, drawn, reward, ending) = jax.lax.scan(step, going, jnp.arange(config.horizon, dtype=jnp.int32))
        last = policy.inputs(world, going.world)
        imagined = _Imagined(jnp.concatenate([inputs, last[None]]), drawn, reward, ending)
        return imagined if config.reinforce < 1 else jax.lax.stop_gradient(imagined)

    def _spread(self, before: Array, returns: Array) -> Array:
        """The moving mean of the returns' spread."""
        low, high = jnp.percentile(returns, jnp.asarray(PERCENTILES, jnp.float32))
        return jnp.where(before > 0, KEPT * before + (1 - KEPT) * (high - low), high - low)

    def begin_optimizer(self, networks: Params) -> "optax.OptState":
        """One Adam for both networks."""
        return self._optimizer.init(networks)

    @property
    def _optimizer(self) -> "optax.GradientTransformation":
        return make(OptimizerConfig(self.config.learning_rate, clip=CLIP, clip_by="array"), self.generations)
