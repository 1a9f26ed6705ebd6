"""A search for C by policy gradient in the dream: proximal policy optimisation (PPO, arXiv 1707.06347), for controllers
with more weights than CMA-ES can have a covariance of.

Many short dreams go on side by side. C's action is drawn around what it would do, u being its outputs before their tanh,

    x ~ N(u, noise^2),   action = tanh(x), kept for `hold` steps,

so that what is tried lasts long enough to make a difference. A second network, the critic, learns what is still to come,
and C's weights follow the gradient of the clipped objective (equation 7) on advantages (equation 11). What an action risks
is told from the probability of an end, not from the ends that happened to be drawn, which are far between.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from wm_jax.controller.policy import Controller
from wm_jax.dream import Dream, DreamState, step_noise
from wm_jax.errors import UserError, require_range
from wm_jax.lanes import choose
from wm_jax.types import Array, Features, Key, Params, Weights

CRITIC_SIZE = 128
"""Units of the critic's hidden layer."""
LAMBDA = 0.95
"""lambda of the advantages: how far they trust what dreams bring, against the critic."""
CLIP = 0.2
"""epsilon of the clipped objective."""
PASSES, BATCHES = 2, 8
"""How often a generation's decisions are learnt from, and in how many parts."""
CRITIC_WEIGHT = 10.0
"""Of the critic's squared error beside C's objective; they share no weights, only the clipped norm."""


@dataclass(frozen=True)
class GradientConfig:
    """How C is searched with `evolve.search` policy_gradient."""

    dreams: int = 1024
    """Dreams side by side."""
    decisions: int = 12
    """Decisions of each dream that a generation learns from."""
    hold: int = 5
    """Steps that an action is kept while C learns; afterwards C acts at each step."""
    length: int = 200
    """Steps after which a dream is left and another one begins; the critic stands for what would have come."""
    episodes: int = 1024
    """Recorded episodes whose moments the dreams begin from."""
    noise: float = 1.0
    """Standard deviation of x in the first generation."""
    final_noise: float = 0.2
    """Standard deviation of x in the last generation; from the one to the other it falls by the same share each time. C is
    to be good at what it does without noise, and with much of it no action but the largest ones can be relied upon."""
    discount: float = 0.99
    """gamma per step."""
    entropy: float = 0.005
    """Weight of the actions' entropy, which keeps C from actions that are so certain that nothing else is tried."""
    learning_rate: float = 1e-3
    """Adam's, for C and the critic; it falls to a tenth in the course of the search."""

    def __post_init__(self) -> None:
        require_range("gradient.dreams", self.dreams, 1)
        require_range("gradient.decisions", self.decisions, 1)
        require_range("gradient.hold", self.hold, 1)
        require_range("gradient.length", self.length, 1)
        require_range("gradient.episodes", self.episodes, 1)
        require_range("gradient.noise", self.noise, 1e-6, 1e3)
        require_range("gradient.final_noise", self.final_noise, 1e-6, self.noise)
        require_range("gradient.discount", self.discount, 0.0, 1.0)
        require_range("gradient.entropy", self.entropy, 0.0, 1e3)
        require_range("gradient.learning_rate", self.learning_rate, 1e-9, 10.0)
        if self.dreams * self.decisions < BATCHES:
            raise UserError(f"gradient.dreams is {self.dreams} and gradient.decisions {self.decisions}: fewer decisions "
                            f"than the {BATCHES} batches that they are learnt from in; raise either")  # fmt: skip


@struct.dataclass
class GradientState:
    """All that the search needs to go on."""

    networks: Params
    """controller [D] and critic [D'], flat as C's weights always are."""
    optimizer: optax.OptState
    dreams: DreamState
    """[L, ...]"""
    generation_counter: Array
    """[] int32: generations done."""


@struct.dataclass
class Decisions:
    """What was decided in dreams and what came of it."""

    features: Features
    """[..., F]"""
    drawn: Array
    """[..., A]: x"""
    noise: Array
    """[...]: the standard deviation of x."""
    log_likelihood: Array
    """[...]: of x, up to a constant."""
    advantage: Array
    """[...]"""
    outcome: Array
    """[...]: what the critic should have said."""


def critic_of(controller: Controller) -> Controller:
    """The critic is wired as C with a hidden layer and one output, which is the discounted sum of the rewards to come,
    times 1 - gamma: the mean reward, as far as one can see."""
    wiring = replace(controller.config, hidden_size=CRITIC_SIZE, bias=True)
    return replace(controller, config=wiring, action_size=1)


@dataclass(frozen=True)
class PolicyGradient:
    """The search: a hashable recipe. The random numbers of a generation follow from the key and its number."""

    WATCH: ClassVar[str] = "outcome"
    """The metric that says how well it goes."""

    config: GradientConfig
    controller: Controller
    dream: Dream
    steps: int
    """Generations in all, over which the learning rate and the noise fall."""

    @property
    def size(self) -> int:
        """D"""
        return self.controller.size

    @property
    def critic(self) -> Controller:
        """What the critic is."""
        return critic_of(self.controller)

    def init(self, key: Key, starts: DreamState) -> GradientState:
        """The state before the first generation; `starts` [S, ...] are moments to dream from."""
        keys = jax.random.split(key, 4)
        networks: Params = {"controller": _random(self.controller, keys[0]), "critic": _random(self.critic, keys[1])}
        dreams = _pick(starts, keys[2], self.config.dreams)
        # Not all of them are to be left at the same time.
        steps = jax.random.randint(keys[3], dreams.steps.shape, 0, self.config.length)
        optimizer = self._optimizer.init(networks)
        return GradientState(networks, optimizer, replace(dreams, steps=steps), jnp.int32(0))

    def generations(
        self, state: GradientState, first: Array | int, params: Params, starts: DreamState, temperature: Array | float,
        key: Key, count: int,
    ) -> tuple[GradientState, dict[str, Array]]:  # fmt: skip
        """Generations `first` [] to `first + count - 1`: the state after them and metrics stacked [count]: the mean outcome
        of the decisions, as the critic counts, the share of dreams expected to end in a step, and the share of the
        outcome's variance that the critic knew of."""
        params = self.dream.prepare(params)

        def generation(state: GradientState, number: Array) -> tuple[GradientState, dict[str, Array]]:
            play_key, learn_key = jax.random.split(jax.random.fold_in(key, number))
            dreams, decisions, ended = self._play(state, params, starts, temperature, self.noise(number), play_key)
            networks, optimizer = self._learn(state, decisions, learn_key)
            outcome = decisions.outcome
            metrics = {
                "outcome": outcome.mean(),
                "ended": ended,
                "known": 1 - jnp.var(decisions.advantage) / jnp.maximum(jnp.var(outcome), 1e-12),
            }
            return GradientState(networks, optimizer, dreams, state.generation_counter + 1), metrics

        return jax.lax.scan(generation, state, first + jnp.arange(count))

    def noise(self, generation: Array | int) -> Array:
        """[]: the standard deviation of x in a generation."""
        fall = jnp.float32(self.config.final_noise / self.config.noise)
        return self.config.noise * fall ** (generation / max(self.steps - 1, 1))

    def mean(self, state: GradientState) -> Weights:
        """[D]: C without the noise, which is evaluated and deployed."""
        return state.networks["controller"]

    def vital(self, state: GradientState) -> Any:
        """What must be finite for the state to be worth saving."""
        return state.networks

    def _play(
        self,
        state: GradientState,
        params: Params,
        starts: DreamState,
        temperature: Array | float,
        noise: Array,
        key: Key,
    ) -> tuple[DreamState, Decisions, Array]:
        """Dreams after a generation's decisions with `noise` [], those decisions [T, L], and the share of dreams expected
        to end in a step."""
        config, networks = self.config, state.networks

        def decide(dreams: DreamState, number: Array) -> tuple[DreamState, tuple[Any, ...]]:
            draw_key, dream_key, pick_key = jax.random.split(jax.random.fold_in(key, number), 3)
            features = dreams.features
            center = jax.vmap(self.controller.outputs, (None, 0))(networks["controller"], features)
            drawn = center + noise * jax.random.normal(draw_key, center.shape)
            after, earned, survival, over = self._keep(params, dreams, jnp.tanh(drawn), temperature, dream_key)
            values = self._value(networks["critic"], features), self._value(networks["critic"], after.features)
            left = over | (after.steps >= config.length)
            begun = _pick(starts, pick_key, config.dreams)
            following = choose(left, begun, after)
            return following, (features, drawn, _log_likelihood(center, drawn, noise), earned, survival, left, *values)

        dreams, played = jax.lax.scan(decide, state.dreams, jnp.arange(config.decisions))
        features, drawn, log_likelihood, earned, survival, left, value, next_value = played
        advantage = advantages(earned, value, next_value, survival, left, config.discount**config.hold)
        return (
            dreams,
            Decisions(features, drawn, jnp.full_like(advantage, noise), log_likelihood, advantage, advantage + value),
            (1 - survival).mean() / config.hold,
        )

    def _keep(
        self, params: Params, dreams: DreamState, action: Array, temperature: Array | float, key: Key
    ) -> tuple[DreamState, Array, Array, Array]:
        """The dreams [L, ...] after `hold` steps of `action` [L, A], what they are expected to earn up to their end, in the
        critic's units [L], the probability that they do not end [L], and whether they did [L]."""
        prospect = jax.vmap(partial(self.dream.prospect, params), (0, 0, 0, None))
        draw_noise = jax.vmap(partial(step_noise, latent_size=self.dream.memory.latent_size))

        def one(carry: tuple[DreamState, Array, Array, Array], number: Array) -> tuple[tuple[Any, ...], None]:
            dreams, earned, survival, over = carry
            noise = draw_noise(jax.random.split(jax.random.fold_in(key, number), len(action)))
            dreams, reward, ending = prospect(dreams, action, noise.next_z, temperature)
            # The step that ends a dream earns its reward, as in any rollout.
            earned += survival * self.config.discount**number * (1 - self.config.discount) * reward
            return (dreams, earned, survival * (1 - ending), over | (noise.end < ending)), None

        nothing = jnp.zeros(len(action))
        return jax.lax.scan(one, (dreams, nothing, nothing + 1, nothing > 0), jnp.arange(self.config.hold))[0]

    def _learn(self, state: GradientState, decisions: Decisions, key: Key) -> tuple[Params, optax.OptState]:
        """The networks after a generation's steps of Adam."""
        flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), decisions)
        size = len(flat.advantage)
        spread = jnp.std(flat.advantage) + 1e-8
        flat = flat.replace(advantage=(flat.advantage - jnp.mean(flat.advantage)) / spread)
        batches = [jax.random.permutation(jax.random.fold_in(key, number), size) for number in range(PASSES)]
        parts = jnp.concatenate([order[: size - size % BATCHES].reshape(BATCHES, -1) for order in batches])

        def learn(carry: tuple[Params, optax.OptState], part: Array) -> tuple[tuple[Params, optax.OptState], None]:
            networks, optimizer = carry
            gradient = jax.grad(self.loss)(networks, jax.tree.map(lambda array: array[part], flat))
            updates, optimizer = self._optimizer.update(gradient, optimizer, networks)
            return (jax.tree.map(jnp.add, networks, updates), optimizer), None

        return jax.lax.scan(learn, (state.networks, state.optimizer), parts)[0]

    def loss(self, networks: Params, decisions: Decisions) -> Array:
        """[]: minus the clipped objective, the critic's squared error, and minus the actions' entropy, of decisions [N]."""
        center = jax.vmap(self.controller.outputs, (None, 0))(networks["controller"], decisions.features)
        ratio = jnp.exp(_log_likelihood(center, decisions.drawn, decisions.noise) - decisions.log_likelihood)
        advantage = decisions.advantage
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
        error = jnp.mean((self._value(networks["critic"], decisions.features) - decisions.outcome) ** 2)
        # The same noise around where C is now. Of tanh(x)'s entropy only E[log(1 - tanh(x)^2)] depends on it.
        offset = jax.lax.stop_gradient(decisions.drawn - center)
        entropy = _log_slope(center + offset).sum(axis=-1).mean()
        return CRITIC_WEIGHT * error - gain - self.config.entropy * entropy

    def _value(self, critic: Weights, features: Features) -> Array:
        """[L]: what the critic says."""
        return jax.vmap(self.critic.outputs, (None, 0))(critic, features)[:, 0]

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        rate, steps = self.config.learning_rate, PASSES * BATCHES * self.steps
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.linear_schedule(rate, rate / 10, steps)))


def advantages(
    reward: Array, value: Array, next_value: Array, survival: Array, left: Array, discount: Array | float
) -> Array:
    """Generalised advantage estimates [T, L] (arXiv 1506.02438, equation 16) of `reward` [T, L], what the critic said
    before and after each decision, how probable it was that the dream went on, and whether it was `left` for another one:
    it had ended, or was long enough."""
    errors = reward + discount * survival * next_value - value

    def back(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        error, left = step
        advantage = error + jnp.where(left, 0, discount * LAMBDA * advantage)
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(value[0]), (errors, left), reverse=True)[1]


def _log_likelihood(center: Array, drawn: Array, noise: Array) -> Array:
    """[...]: of x [..., A] around u [..., A] with the deviation `noise` [...], up to a constant."""
    return -0.5 * jnp.sum((drawn - center) ** 2, axis=-1) / noise**2


def _log_slope(x: Array) -> Array:
    """log(1 - tanh(x)^2), exact where tanh(x) rounds to 1."""
    return 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))


def _random(network: Controller, key: Key) -> Weights:
    """[D]: matrices N(0, 1 / inputs), the last one a hundredth of its deviation, to begin near 0; biases 0."""
    parts = []
    for number, (inputs, outputs) in enumerate(network.layers):
        scale = (0.01 if number == len(network.layers) - 1 else 1.0) / inputs**0.5
        parts.append(scale * jax.random.normal(jax.random.fold_in(key, number), (inputs * outputs,)))
        if network.config.bias:
            parts.append(jnp.zeros(outputs))
    return jnp.concatenate(parts)


def _pick(starts: DreamState, key: Key, count: int) -> DreamState:
    """`count` of the states [S, ...], drawn with replacement."""
    chosen = jax.random.randint(key, (count,), 0, len(starts.steps))
    return jax.tree.map(lambda array: array[chosen], starts)
