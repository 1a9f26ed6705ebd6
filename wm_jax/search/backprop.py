"""A search for C by backpropagation through the dream: the gradient of the dreamt return passes through the world model
to C's weights, as the paper's discussion proposes. With a critic for the return after the last dreamt step it is
Dreamer's behaviour learning (arXiv 1912.01603, section 3).

C learns from the lambda-returns (equation 6)

    V_t = r_t + gamma (1 - e_t) ((1 - lambda) v(s_{t+1}) + lambda V_{t+1}),

where e_t is the probability that the step ends the dream, so that the risk of an end has a gradient too. The critic v
learns to predict them. Samples are reparameterised: noise is drawn first, and z is a differentiable function of it. The
choice of a mixture component has no gradient of its own; `component` selects a substitute.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from wm_jax.dream import Dream, DreamState
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.lanes import choose
from wm_jax.search.actor_critic import (
    ActorCriticState,
    LongDreams,
    LongDreamsConfig,
    Unrolled,
    falling_adam,
    lambda_returns,
    shuffled,
)
from wm_jax.search.protocol import SEARCHES, Dreams, lane_size
from wm_jax.types import FLOAT, Array, Component, Curve, Key, Metrics, Params
from wm_jax.worlds import Actor, World

if TYPE_CHECKING:
    import optax

PASSES, BATCHES = 2, 4
"""Passes of the critic over a generation's dreams, and batches per pass."""


@SEARCHES.register
@dataclass(frozen=True)
class BackpropConfig(LongDreamsConfig):
    """The gradient of the dreamt return through the world model. With `dream.end` threshold an end has no gradient: a
    small change of C does not move a probability across the threshold."""

    kind: Literal["backprop"] = "backprop"
    dreams: int = 256
    horizon: int = 15
    """T: steps of each dream in a generation; the gradient passes through all of them."""
    truncation: int = 0
    """Steps after which the gradient is cut within a generation's dreams; 0: never."""
    component: Component = "implicit"
    """Gradient for the choice of a mixture component. implicit: unbiased, except where the components lie so far
    apart that it is cut off; straight_through: biased; expectation: exact, but in a different dream without a choice;
    held: none (`memory.mixture.draw`). An RSSM has no mixture, and ignores
    it."""
    clip: float = 1.0
    """Largest gradient norm of C's weights, and of the critic's; larger gradients are scaled down to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.horizon", self.horizon, 1, 2**20)
        require_range("search.truncation", self.truncation, 0, self.horizon)
        require_choice("search.component", self.component, get_args(Component))
        require_range("search.clip", self.clip, 1e-6, 1e6)
        if self.dreams * self.horizon < BATCHES:
            raise UserError(f"search.dreams is {self.dreams} and search.horizon is {self.horizon}: fewer steps than the "
                            f"critic's {BATCHES} batches; raise either")  # fmt: skip

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "Backprop":
        """The search with this many generations; every device does the same work. Raises `UserError` if the actor has
        no policy to learn, if its actions are discrete, or if the dream's return has no gradient."""
        guided = self.guided(actor, "mlp, or policy without discrete actions", None)
        if guided[1].discrete:
            raise UserError(f"search.kind backprop cannot learn discrete actions ({actor.words}): no gradient passes "
                            "through the choice; use another search, or another distribution")  # fmt: skip
        self.require_gradient(dream)
        model: Any = dream.model.differentiable(self.component)
        return Backprop(self, *guided, replace(dream, model=model), generations)


@dataclass(frozen=True)
class Backprop(LongDreams, Unrolled):
    """An `ActorCritic`. Metrics of a generation: outcome, the mean lambda-return times 1 - gamma; gradient, the norm of
    the gradient of C's weights before it is scaled down; ended, the expected share of steps that end a dream; known, the
    share of the outcome's variance that the critic explains; non_finite, 1 if gradient or outcome was not finite: nothing
    was learned then, and both are reported as 0."""

    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "gradient",
            ("gradient",),
            "Backpropagation: norm of the gradient",
            "The norm of the gradient of C's weights, before it is scaled down to `search.clip`.",
            logarithmic=True,
        ),
    )

    @property
    def words(self) -> str:
        """Description of a generation."""
        config = self.config
        cut = f", cut every {config.truncation}" if config.truncation else ""
        return f"backpropagation through {config.horizon} steps{cut} of {config.dreams:,} dreams ({config.component})"

    def bytes_at_work(self, devices: int) -> int:
        """The states of all steps, and the intermediate results of one step, which are recomputed for the gradient."""
        return FLOAT * self.config.dreams * 3 * (self.config.horizon + 10) * lane_size(self.dream.model)

    def iterate(
        self, state: ActorCriticState, dreams: Dreams, first: Array | int, key: Key, count: int
    ) -> tuple[ActorCriticState, Metrics]:
        """Generations `first` [] to `first + count - 1`: the state after them and metrics stacked [count]."""
        prepared = replace(dreams, params=self.dream.prepare(dreams.params))

        def generation(state: ActorCriticState, number: Array) -> tuple[ActorCriticState, Metrics]:
            play_key, learn_key = jax.random.split(jax.random.fold_in(key, number))
            objective = partial(self.objective, critic=state.networks["critic"], going=state.dreams, dreams=prepared)
            slope = jax.value_and_grad(objective, has_aux=True)
            (_, (following, inputs, value, outcome, ended)), gradient = slope(
                state.networks["controller"], key=play_key
            )
            networks, optimizer, told = self._learn(state, gradient, inputs, value, outcome, learn_key)
            return ActorCriticState(networks, optimizer, following), {**told, "ended": ended.mean()}

        return jax.lax.scan(generation, state, first + jnp.arange(count, dtype=jnp.int32))

    def objective(
        self, controller: Params, critic: Params, going: DreamState, dreams: Dreams, key: Key
    ) -> tuple[Array, tuple[DreamState, Array, Array, Array, Array]]:
        """Minus the mean lambda-return [] of a generation's dreams; and their last states, C's inputs [T, L, F], the
        critic's values and their targets [T, L], and the probabilities of an end [T, L]."""
        config, policy, world = self.config, self.policy, World(self.dream.model, dreams.params)
        prospect = jax.vmap(partial(self.dream.prospect, dreams.params), (0, 0, 0, None))

        @jax.checkpoint
        def step(going: DreamState, number: Array) -> tuple[DreamState, tuple[Array, ...]]:
            draw_key, dream_key, begin_key = jax.random.split(jax.random.fold_in(key, number), 3)
            if config.truncation:
                cut = number % config.truncation == 0
                going = jax.tree.map(lambda leaf: jnp.where(cut, jax.lax.stop_gradient(leaf), leaf), going)
            inputs = policy.inputs(world, going.world)
            distribution = policy.distribution(controller, inputs, 0.0)
            action = distribution.mode() if policy.needs_noise else distribution.action(distribution.draw(draw_key))
            noise = jax.vmap(self.dream.noise)(jax.random.split(dream_key, config.dreams))
            after, reward, ending = prospect(going, action, noise.world, dreams.temperature)
            said = policy.value(critic, inputs), policy.value(critic, policy.inputs(world, after.world))
            replaced = self.replaced(noise.end < ending, after)
            # A new dream begins where this one ends: no gradient passes between them.
            following = choose(replaced, self.begin(dreams.starts, begin_key), after)
            return following, (inputs, reward * (1 - config.discount), ending, replaced, *said)

        going, found = jax.lax.scan(step, going, jnp.arange(config.horizon, dtype=jnp.int32))
        inputs, reward, ending, replaced, value, next_value = found
        outcome = lambda_returns(reward, next_value, ending, replaced, config.discount)
        return -outcome.mean(), jax.lax.stop_gradient((going, inputs, value, outcome, ending))

    def _learn(
        self, state: ActorCriticState, gradient: Params, inputs: Array, value: Array, outcome: Array, key: Key
    ) -> "tuple[Params, optax.OptState, Metrics]":
        """The networks after a generation: C after one step along the `gradient`, and the critic after its steps of
        Adam."""
        import optax

        norm = optax.tree.norm(gradient)
        sound = jnp.isfinite(norm) & jnp.isfinite(outcome).all()
        networks, optimizer = self._move(state.networks, state.optimizer, "controller", gradient)
        flat, target = inputs.reshape(-1, inputs.shape[-1]), outcome.reshape(-1)
        parts = shuffled(key, len(target), PASSES, BATCHES)

        def error(critic: Params, part: Array) -> Array:
            return jnp.mean((self.policy.value(critic, flat[part]) - target[part]) ** 2)

        def learn(carry: tuple[Params, Any], part: Array) -> tuple[tuple[Params, Any], None]:
            networks, optimizer = carry
            slope = jax.grad(error)(networks["critic"], part)
            return self._move(networks, optimizer, "critic", slope), None

        after = jax.lax.scan(learn, (networks, optimizer), parts)[0]
        # A dream with numbers that are not finite gives no direction: skip the update and report only `non_finite`.
        before = state.networks, state.optimizer
        networks, optimizer = jax.tree.map(partial(jnp.where, sound), after, before)
        told = {
            "outcome": outcome.mean(),
            "known": 1 - jnp.var(outcome - value) / jnp.maximum(jnp.var(outcome), 1e-12),
            "gradient": norm,
        }
        told = {name: jnp.where(sound, number, 0) for name, number in told.items()}
        return networks, optimizer, {**told, "non_finite": (~sound).astype(jnp.int32)}

    def _move(self, networks: Params, optimizer: Any, name: str, gradient: Params) -> tuple[Params, Any]:
        """One network after a step of its Adam."""
        updates, after = self._adam(name).update(gradient, optimizer[name], networks[name])
        moved = jax.tree.map(jnp.add, networks[name], updates)
        return {**networks, name: moved}, {**optimizer, name: after}

    def begin_optimizer(self, networks: Params) -> "optax.OptState":
        """An Adam for each network."""
        return {name: self._adam(name).init(weights) for name, weights in networks.items()}

    def _adam(self, name: str) -> "optax.GradientTransformation":
        steps = self.generations * (PASSES * BATCHES if name == "critic" else 1)
        return falling_adam(self.config.learning_rate, steps, self.config.clip)
