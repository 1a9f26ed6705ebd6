"""Common parts of the searches for a policy with a critic: the two networks and, for some, dreams that continue from
generation to generation (`LongDreams`)."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from wm_jax.actors import protocol as actors
from wm_jax.actors.protocol import Guided, Policy
from wm_jax.dream import Dream, DreamState
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.optimizers import single_precision
from wm_jax.search.protocol import Search, SearchConfig, lane_size
from wm_jax.types import FLOAT, Array, Key, Params, State
from wm_jax.worlds import Actor

if TYPE_CHECKING:
    import optax

LAMBDA = 0.95
"""lambda of the advantages and lambda-returns: higher values rely more on the dreamt rewards and less on the critic."""


@dataclass(frozen=True)
class ActorCriticSearchConfig(SearchConfig):
    """Base of the settings of actor-critic searches."""

    dreams: int = 1024
    """Dreams side by side."""
    start: Literal["first", "anywhere"] = "anywhere"
    """Where the dreams that C learns in begin, with the meaning of `dream.start`; the dreams that score it use
    `dream.start` itself."""
    discount: float = 0.99
    """gamma: discount per step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, for C and the critic."""

    def __post_init__(self) -> None:
        require_range("search.dreams", self.dreams, 1, 2**24)
        require_choice("search.start", self.start, ("first", "anywhere"))
        require_range("search.discount", self.discount, 0.0, 0.9999)
        require_range("search.learning_rate", self.learning_rate, 1e-9, 10.0)

    def guided(self, actor: Actor, fitting: str, needs_noise: bool | None) -> tuple[Guided, Policy]:
        """The actor and the policy in it that learns. Raises `UserError`, which suggests `fitting` actors, if there is
        no policy, if its `needs_noise` differs from the given one (None: either), or if its value has another
        discount."""
        guide = actor.guide if isinstance(actor, Guided) else None
        if guide is None or needs_noise not in (None, guide.needs_noise):
            raise UserError(f"search.kind {self.kind} finds the weights of an actor of kind {fitting}, found "
                            f"{actor.words}; set actor.kind to that, or choose another search")  # fmt: skip
        assert isinstance(actor, Guided)
        if actor.discount not in (None, self.discount):
            raise UserError(f"search.discount is {self.discount} but actor.discount is {actor.discount}: the actor would "
                            "plan with a value learned for another discount; set both to the same")  # fmt: skip
        return actor, guide

    def require_gradient(self, dream: Dream) -> None:
        """Raise `UserError` if the dream's return has no gradient."""
        if (dream.config.reward, dream.config.end) == ("survival", "threshold"):
            raise UserError(f"search.kind {self.kind} needs a return with a gradient, but dream.reward is 'survival' and "
                            "dream.end is 'threshold': the number of steps until the threshold has none; set "
                            "dream.end to 'drawn', or dream.reward to 'predicted'")  # fmt: skip


@dataclass(frozen=True)
class LongDreamsConfig(ActorCriticSearchConfig):
    """Base of the settings of searches whose dreams continue from generation to generation. Their learning rate falls
    linearly to a tenth over the search."""

    length: int = 200
    """Steps after which a dream is replaced by a new one, at the latest after `dream.horizon`; the critic's value
    stands in for the rest of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("search.length", self.length, 1, 2**30)


@struct.dataclass
class ActorCriticState:
    """State of the search."""

    networks: Params
    """Weights of the policy, "controller", and of its "critic"."""
    optimizer: "optax.OptState"
    dreams: Any
    """A `DreamState` [L, ...]; None if no dream continues, or if C learns in the actual environment."""


@dataclass(frozen=True)
class ActorCritic(Search):
    """A `Search` whose metric `outcome` is the mean discounted return after a decision, times 1 - gamma."""

    watch: ClassVar[str] = "outcome"

    config: Any
    """An `ActorCriticSearchConfig`."""
    actor: Guided
    policy: Policy
    """The policy in the actor."""
    dream: Dream
    generations: int
    """Number of generations."""

    @abstractmethod
    def begin_optimizer(self, networks: Params) -> "optax.OptState":
        """The state of the optimiser before the first step."""

    @property
    def start(self) -> Literal["first", "anywhere"]:
        """Where the dreams begin."""
        return self.config.start

    def bytes_at_rest(self) -> int:
        """The weights of both networks and Adam's two moments of each; new and old."""
        return FLOAT * 2 * 3 * (actors.size(self.policy) + actors.size(self.policy.critic))

    def init(self, key: Key, begin: Params | None = None, starts: State | None = None) -> ActorCriticState:
        """The state before the first generation: fresh networks or C's weights `begin`, and dreams that begin in some
        of `starts` [S, ...], if given and if dreams continue."""
        keys = jax.random.split(key, 4)
        policy, critic = (None, None) if begin is None else self.actor.parts(begin)
        networks = {
            "controller": self.policy.init(keys[0]) if policy is None else policy,
            "critic": self.policy.critic.init(keys[1]) if critic is None else critic,
        }
        optimizer = self.begin_optimizer(networks)
        dreams = None if starts is None else self.first_dreams(starts, keys[2], keys[3])
        return ActorCriticState(networks, optimizer, dreams)

    def first_dreams(self, starts: State, begin_key: Key, step_key: Key) -> DreamState | None:
        """The dreams before the first generation [L, ...]; None if each generation begins new ones."""
        return None

    def candidate(self, state: ActorCriticState) -> Params:
        """C. Where it is evaluated and deployed it acts as its settings say, by its mode unless `actor.deployed` is
        sample."""
        return self.actor.assemble(state.networks["controller"], state.networks["critic"])

    def vital(self, state: ActorCriticState) -> Any:
        """The part of the state that must be finite for it to be saved."""
        return state.networks

    def begin(self, starts: State, key: Key) -> DreamState:
        """`config.dreams` new dreams."""
        return jax.vmap(self.dream.reset, (None, 0))(starts, jax.random.split(key, self.config.dreams))


@dataclass(frozen=True)
class Unrolled(ActorCritic):
    """An `ActorCritic` whose generation is `config.horizon` steps of each dream."""

    sizes: ClassVar[tuple[str, ...]] = ("search.dreams", "search.horizon")

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Sizes of a generation."""
        return {
            "C's weights": [actors.size(self.actor)],
            "steps of a generation": [self.config.horizon, self.config.dreams],
        }

    @property
    def dream_steps(self) -> int:
        """Steps of all dreams in a generation."""
        return self.config.dreams * self.config.horizon


@dataclass(frozen=True)
class LongDreams(ActorCritic):
    """An `ActorCritic` whose dreams continue from generation to generation."""

    @property
    def step(self) -> int:
        """Steps that a dream advances at once."""
        return 1

    def bytes_at_rest(self) -> int:
        """Includes the dreams."""
        return super().bytes_at_rest() + FLOAT * 2 * self.config.dreams * lane_size(self.dream.model)

    def first_dreams(self, starts: State, begin_key: Key, step_key: Key) -> DreamState:
        """Their step counts are random, so that they are not all replaced at the same time; each has room for another
        step."""
        dreams = self.begin(starts, begin_key)
        latest = min(self.config.length, self.dream.config.horizon - self.step + 1)
        return replace(dreams, steps=jax.random.randint(step_key, dreams.steps.shape, 0, latest, jnp.int32))

    def replaced(self, over: Array, dreams: DreamState) -> Array:
        """[L]: the dreams to replace: those that are `over` [L] and those that are long enough."""
        return over | (dreams.steps >= self.config.length) | (dreams.steps + self.step > self.dream.config.horizon)


def falling_adam(rate: float, steps: int, clip: float) -> "optax.GradientTransformation":
    """Adam with a learning rate that falls to a tenth over `steps` steps, on gradients clipped to the norm `clip`."""
    # Imported here: acting and dreaming need no search and start faster without it.
    import optax

    adam = optax.adam(optax.linear_schedule(rate, rate / 10, steps))
    return single_precision(optax.chain(optax.clip_by_global_norm(clip), adam))


def shuffled(key: Key, size: int, passes: int, batches: int) -> Array:
    """[passes * batches, n]: the numbers below `size`, shuffled in each pass and cut into batches of equal size; the
    remainder is left out."""
    orders = [jax.random.permutation(jax.random.fold_in(key, number), size) for number in range(passes)]
    return jnp.concatenate([order[: size - size % batches].reshape(batches, -1) for order in orders])


def advantages(
    reward: Array, value: Array, next_value: Array, survival: Array, replaced: Array, discount: Array | float
) -> Array:
    """Generalised advantage estimates [T, L] (arXiv 1506.02438, equation 16) from `reward` [T, L], the critic's values
    before and after each decision, the probability that the dream continued (`survival`), and whether it was replaced
    (`replaced`), because it ended or was long enough."""
    errors = reward + discount * survival * next_value - value

    def back(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        error, replaced = step
        advantage = error + jnp.where(replaced, 0, discount * LAMBDA * advantage)
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(value[0]), (errors, replaced), reverse=True)[1]


def lambda_returns(reward: Array, next_value: Array, ending: Array, replaced: Array, discount: Array | float) -> Array:
    """lambda-returns V_t [T, L] (Dreamer, arXiv 1912.01603, equation 6) from `reward` [T, L], the critic's value after
    each step, the probability that the step ended the dream, and whether the dream was replaced (`replaced`)."""
    going = 1 - ending
    # Values after an end may be arbitrary.
    next_value = jnp.where(going > 0, next_value, 0)

    def back(later: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, next_value, going, replaced = step
        mixed = jnp.where(replaced, next_value, (1 - LAMBDA) * next_value + LAMBDA * later)
        outcome = reward + discount * going * mixed
        return outcome, outcome

    return jax.lax.scan(back, next_value[-1], (reward, next_value, going, replaced), reverse=True)[1]
