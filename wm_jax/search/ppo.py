"""A search for C by policy gradient in the dream: proximal policy optimisation (PPO, arXiv 1707.06347), for controllers
with too many weights for CMA-ES's covariance.

Many short dreams run side by side. C's action is drawn from its distribution and held for `hold` steps, so that
exploration has a visible effect. A second network, the critic, learns the future return, and C's weights follow the
gradient of the clipped objective (equation 7) on advantages (equation 11). The risk of an action is by default computed
from the probability of an end instead of the ends that were drawn, which are rare.

Its dreams are those of `DreamConfig`, with the same temperature, rules and horizon, except for their starts.
`full_return` counts from a dream's own start, so it ends only dreams that reach it within `length` steps.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from wm_jax.actors import protocol as actors
from wm_jax.actors.protocol import ExploringActor
from wm_jax.dream import Dream, DreamState
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.lanes import choose
from wm_jax.search.actor_critic import ActorCriticState, LongDreams, LongDreamsConfig, falling_adam, shuffled
from wm_jax.search.decisions import Decisions, Results, mean, spread, with_advantages
from wm_jax.search.protocol import SEARCHES, Dreams, EpisodeSearch, Experience, lane_size
from wm_jax.types import FLOAT, Array, Curve, Key, Metrics, Params
from wm_jax.worlds import Actor, World

if TYPE_CHECKING:
    import optax

CLIP = 0.2
"""epsilon of the clipped objective."""
CLIPPED_NORM = 0.5
"""Largest norm of the gradient."""
CRITIC_WEIGHT = 10.0
"""Weight of the critic's squared error relative to C's objective; the networks share no weights, only the clipping
norm."""


@SEARCHES.register
@dataclass(frozen=True)
class PPOConfig(LongDreamsConfig):
    """PPO in many short dreams side by side, for policies with their own distribution (`actor.kind` policy)."""

    kind: Literal["ppo"] = "ppo"
    decisions: int = 12
    """Decisions per dream in a generation."""
    hold: int = 5
    """Steps that C holds an action while it learns; when deployed it acts at every step."""
    passes: int = 2
    """Passes over a generation's decisions."""
    batches: int = 8
    """Batches per pass; each is one step of Adam."""
    entropy: float = 0.005
    """Weight of the entropy of C's actions; it keeps C exploring."""
    learn_from: Literal["probability", "ends"] = "probability"
    """How C learns the risk of an end in a dream. probability: from the probability of an end in each step; ends: from
    the sampled ends, with the same expected gradient and a higher variance. With `dream.end` threshold both are the
    same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.decisions", self.decisions, 1, 2**20)
        require_range("search.hold", self.hold, 1, 2**20)
        require_range("search.passes", self.passes, 1, 2**10)
        require_range("search.batches", self.batches, 1, 2**20)
        require_range("search.entropy", self.entropy, 0.0, 1e3)
        require_choice("search.learn_from", self.learn_from, ("probability", "ends"))
        if self.dreams * self.decisions < self.batches:
            raise UserError(f"search.dreams is {self.dreams} and search.decisions is {self.decisions}: fewer decisions "
                            f"than search.batches, {self.batches}; raise one of them or lower search.batches")  # fmt: skip

    def build(self, actor: Actor, dream: Dream, generations: int, mesh: Mesh | None = None) -> "PPO":
        """The search with this many generations; every device does the same work. Raises `UserError` if the actor has
        no policy to learn, if the policy's noise does not fit, or if dreams are shorter than a held action."""
        fitting = "mlp" if self.sets_noise else "policy, or a planner with actor.hidden_sizes"
        guided = self.guided(actor, fitting, self.sets_noise)
        require_range("search.hold", self.hold, 1, dream.config.horizon)
        return PPO(self, *guided, dream, generations)

    @property
    def sets_noise(self) -> bool:
        """Whether the search sets the standard deviation of C's noise."""
        return False

    def noise_in(self, generation: Array | int, generations: int) -> Array:
        """[]: the standard deviation of the noise in a generation, if `sets_noise`."""
        return jnp.float32(0)


@dataclass(frozen=True)
class PPO(LongDreams, EpisodeSearch):
    """An `ActorCritic`. Metrics of a generation: outcome, the mean discounted return after a decision, times
    1 - gamma; ended, the expected share of steps that end a dream; known, the share of the outcome's variance that the
    critic explains; non_finite, the number of decisions whose reward was not finite."""

    sizes: ClassVar[tuple[str, ...]] = ("search.dreams", "search.decisions")
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(
            "ended",
            ("ended",),
            "PPO: share of steps that end a dream",
            "Expected share of steps that end a dream in training, where C's actions are noisy.",
            logarithmic=True,
        ),
    )

    @property
    def step(self) -> int:
        """Steps of a decision."""
        return self.config.hold

    @property
    def words(self) -> str:
        """Description of a generation."""
        config = self.config
        return f"{self._kind}: {config.decisions} decisions × {config.hold} steps in {config.dreams:,} dreams"

    @property
    def words_in_actual(self) -> str:
        """Description of a generation in the actual environment."""
        return f"{self._kind}: {self.config.dreams:,} episodes, decisions of {self.config.hold} steps"

    @property
    def _kind(self) -> str:
        return self.config.kind.replace("_", " ") if self.config.sets_noise else "PPO"

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Sizes of a generation."""
        return {
            "C's weights": [actors.size(self.actor)],
            "decisions of a generation": [self.config.decisions, self.config.dreams],
        }

    @property
    def dream_steps(self) -> int:
        """Steps of all dreams in a generation."""
        return self.config.dreams * self.config.decisions * self.config.hold

    @property
    def steps_in_loop(self) -> int:
        """Steps of a decision."""
        return self.config.hold

    def bytes_at_work(self, devices: int) -> int:
        """Each decision's inputs, once in order and once in batches, and the dreams."""
        lanes = self.config.dreams * (2 * self.config.decisions + 2)
        return FLOAT * lanes * lane_size(self.dream.model)

    def iterate(
        self, state: ActorCriticState, dreams: Dreams, first: Array | int, key: Key, count: int
    ) -> tuple[ActorCriticState, Metrics]:
        """Generations `first` [] to `first + count - 1`: the state after them and metrics stacked [count]."""
        prepared = replace(dreams, params=self.dream.prepare(dreams.params))

        def generation(state: ActorCriticState, number: Array) -> tuple[ActorCriticState, Metrics]:
            play_key, learn_key = jax.random.split(jax.random.fold_in(key, number))
            following, decisions, ends = self._play(
                state, prepared, self.config.noise_in(number, self.generations), play_key
            )
            networks, optimizer, about = self._learn(state, decisions, learn_key)
            return ActorCriticState(networks, optimizer, following), {**about, **ends}

        return jax.lax.scan(generation, state, first + jnp.arange(count, dtype=jnp.int32))

    def _play(
        self, state: ActorCriticState, dreams: Dreams, noise: Array, key: Key
    ) -> tuple[DreamState, Decisions, Metrics]:
        """The dreams after a generation's decisions with `noise` [], those decisions [T, L], and the metrics of the
        dreams' ends."""
        config, networks, world = self.config, state.networks, World(self.dream.model, dreams.params)
        policy = self.policy

        def decide(going: DreamState, number: Array) -> tuple[DreamState, tuple[Any, ...]]:
            draw_key, dream_key, begin_key = jax.random.split(jax.random.fold_in(key, number), 3)
            inputs = policy.inputs(world, going.world)
            distribution = policy.distribution(networks["controller"], inputs, noise)
            drawn = distribution.draw(draw_key)
            after, earned, survival, over = self._keep(dreams, going, distribution.action(drawn), dream_key)
            next_inputs = policy.inputs(world, after.world)
            values = policy.value(networks["critic"], inputs), policy.value(networks["critic"], next_inputs)
            replaced = self.replaced(over, after)
            following = choose(replaced, self.begin(dreams.starts, begin_key), after)
            return following, (inputs, drawn, distribution.log_likelihood(drawn), earned, survival, replaced, *values)

        going, played = jax.lax.scan(decide, state.dreams, jnp.arange(config.decisions, dtype=jnp.int32))
        inputs, drawn, log_likelihood, earned, survival, replaced, value, next_value = played
        results = Results(earned, survival, replaced, value, next_value)
        return (
            going,
            with_advantages(inputs, drawn, log_likelihood, noise, results, self.config.discount**self.config.hold),
            {
                "ended": (1 - survival).mean() / config.hold,
                "non_finite": (~jnp.isfinite(earned)).sum(dtype=jnp.int32),
            },
        )

    def _keep(
        self, dreams: Dreams, going: DreamState, action: Array, key: Key
    ) -> tuple[DreamState, Array, Array, Array]:
        """The dreams [L, ...] after `hold` steps of `action` [L, A], their expected reward until they end, times
        1 - gamma [L] (not finite if a dream's numbers were not), the probability that they do not end [L] (0 or 1 if C
        learns from the ends that were drawn), and whether they ended [L]."""
        prospect = jax.vmap(partial(self.dream.prospect, dreams.params), (0, 0, 0, None))
        discount = jnp.float32(self.config.discount)

        def one(carry: tuple[DreamState, Array, Array, Array], number: Array) -> tuple[tuple[Any, ...], None]:
            going, earned, survival, over = carry
            noise = jax.vmap(self.dream.noise)(jax.random.split(jax.random.fold_in(key, number), len(action)))
            going, reward, ending = prospect(going, action, noise.world, dreams.temperature)
            ended = noise.end < ending
            if self.config.learn_from == "ends":
                ending = ended.astype(jnp.float32)
            # The step that ends a dream earns its reward, as in any rollout; later steps earn nothing.
            weight = survival * discount**number * (1 - self.config.discount)
            earned += jnp.where(survival > 0, weight * reward, 0)
            return (going, earned, survival * (1 - ending), over | ended), None

        nothing, steps = jnp.zeros(len(action), jnp.float32), jnp.arange(self.config.hold, dtype=jnp.int32)
        return jax.lax.scan(one, (going, nothing, nothing + 1, nothing > 0), steps)[0]

    @property
    def episodes(self) -> int:
        """As many as dreams."""
        return self.config.dreams

    @property
    def least_decisions(self) -> int:
        """The batches of a pass; each needs a decision."""
        return self.config.batches

    @property
    def player(self) -> ExploringActor:
        """The policy, which samples its actions."""
        return ExploringActor(self.policy, self.config.hold)

    def player_weights(self, state: ActorCriticState, generation: Array | int) -> Params:
        """The policy's weights and its noise."""
        noise = self.config.noise_in(generation, self.generations)
        return {"policy": state.networks["controller"], "noise": noise}

    def learn(
        self, state: ActorCriticState, experience: Experience, generation: Array | int, key: Key
    ) -> tuple[ActorCriticState, Metrics]:
        """The state after a generation of actual episodes. The critic's value at the last decision stands in for the
        rest of a truncated episode."""
        config, policy, networks = self.config, self.policy, state.networks
        noise = config.noise_in(generation, self.generations)
        inputs, drawn = (jnp.moveaxis(array, 1, 0) for array in (experience.inputs, experience.drawn))
        weights = jnp.float32(config.discount) ** jnp.arange(config.hold, dtype=jnp.int32) * (1 - config.discount)
        earned = jnp.einsum("bds,s->db", experience.reward, weights)
        number = jnp.arange(len(inputs), dtype=jnp.int32)[:, None]
        count = -(-experience.length // config.hold)[None]
        last = number == count - 1
        value = policy.value(networks["critic"], inputs)
        next_value = jnp.where(last, value, jnp.concatenate([value[1:], value[-1:]]))
        survival = jnp.where(last & experience.terminated[None], 0.0, jnp.ones_like(value))
        counts = (number < count).astype(jnp.float32)
        results = Results(earned, survival, number >= count - 1, value, next_value, counts)
        log_likelihood = policy.distribution(networks["controller"], inputs, noise).log_likelihood(drawn)
        decisions = with_advantages(
            inputs, drawn, log_likelihood, noise, results, self.config.discount**self.config.hold
        )
        networks, optimizer, about = self._learn(state, decisions, jax.random.fold_in(key, generation))
        returned = experience.reward.sum(axis=(1, 2)).mean()
        steps = experience.length.sum(dtype=jnp.int32)
        return ActorCriticState(networks, optimizer, state.dreams), {"mean": returned, "steps": steps, **about}

    def _learn(
        self, state: ActorCriticState, decisions: Decisions, key: Key
    ) -> "tuple[Params, optax.OptState, Metrics]":
        """The networks after a generation's steps of Adam, and metrics of the critic before them."""
        config = self.config
        flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), decisions)
        about = {
            "outcome": mean(flat.outcome, flat.counts),
            "known": 1 - spread(flat.advantage, flat.counts) / jnp.maximum(spread(flat.outcome, flat.counts), 1e-12),
        }
        center = mean(flat.advantage, flat.counts)
        scale = jnp.sqrt(spread(flat.advantage, flat.counts)) + 1e-8
        flat = flat.replace(advantage=(flat.advantage - center) / scale)
        parts = shuffled(key, len(flat.advantage), config.passes, config.batches)

        def learn(carry: tuple[Params, Any], part: Array) -> tuple[tuple[Params, Any], None]:
            networks, optimizer = carry
            gradient = jax.grad(self.loss)(networks, jax.tree.map(lambda array: array[part], flat))
            updates, optimizer = self._optimizer.update(gradient, optimizer, networks)
            return (jax.tree.map(jnp.add, networks, updates), optimizer), None

        networks, optimizer = jax.lax.scan(learn, (state.networks, state.optimizer), parts)[0]
        return networks, optimizer, about

    def loss(self, networks: Params, decisions: Decisions) -> Array:
        """[]: loss of decisions [N]: the critic's squared error minus the clipped objective and the actions'
        entropy."""
        distribution = self.policy.distribution(networks["controller"], decisions.inputs, decisions.noise)
        ratio = jnp.exp(distribution.log_likelihood(decisions.drawn) - decisions.log_likelihood)
        advantage = decisions.advantage
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
        error = (self.policy.value(networks["critic"], decisions.inputs) - decisions.outcome) ** 2
        entropy = distribution.entropy(decisions.drawn)
        return mean(CRITIC_WEIGHT * error - gain - self.config.entropy * entropy, decisions.counts)

    def begin_optimizer(self, networks: Params) -> "optax.OptState":
        """One Adam for both networks."""
        return self._optimizer.init(networks)

    @property
    def _optimizer(self) -> "optax.GradientTransformation":
        steps = self.config.passes * self.config.batches * self.generations
        return falling_adam(self.config.learning_rate, steps, CLIPPED_NORM)
