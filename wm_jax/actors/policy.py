"""A policy: a network whose outputs parameterise a distribution over actions, for actor-critic searches. The default is
the actor of Kuth et al. (2021): layers of 256, 256, 128 and 64 units; means and standard deviations as outputs."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from wm_jax.actors.distributions import (
    DEVIATIONS,
    LEAST_EXCESS,
    NARROWEST,
    Beta,
    BoundedNormal,
    Categorical,
    Distribution,
    SquashedNormal,
)
from wm_jax.actors.mlp import MLP, inputs_of, require_layers
from wm_jax.actors.protocol import ACTORS, ActorConfig, Network, Policy
from wm_jax.dream import Dream
from wm_jax.errors import UserError, require_choice
from wm_jax.types import Array, Key, Params, State
from wm_jax.worlds import World

Kind = Literal["gaussian", "bounded_normal", "beta", "categorical"]


@ACTORS.register
@dataclass(frozen=True)
class PolicyConfig(ActorConfig):
    """The policy's inputs, architecture and distribution."""

    kind: Literal["policy"] = "policy"
    features: tuple[str, ...] = ("z", "h")
    """The world model's features that it reads, in this order."""
    hidden_sizes: tuple[int, ...] = (256, 256, 128, 64)
    """Units of each hidden layer, with tanh; the critic has the same."""
    distribution: Kind = "gaussian"
    """gaussian: a normal distribution with mean and deviation from the network, squashed by tanh; bounded_normal: a
    normal distribution with its mean between the bounds and its deviation in [0.1, 1], clipped (as in DreamerV3); beta:
    between the bounds; categorical: over the discrete actions that the task names."""

    def __post_init__(self) -> None:
        require_layers(self.features, self.hidden_sizes)
        require_choice("actor.distribution", self.distribution, get_args(Kind))

    def build(self, dream: Dream) -> "NetworkPolicy":
        """The policy for a world model. Raises `UserError` if the world model lacks a feature, or if categorical
        actions are needed but the task names none."""
        inputs, head = inputs_of(dream.model, self.features), Head.of(self.distribution, dream)
        return NetworkPolicy(MLP(self.features, (inputs, *self.hidden_sizes, head.size)), head)


@dataclass(frozen=True)
class Head:
    """Maps a network's outputs to a distribution over actions."""

    distribution: Kind
    action_size: int
    """A: size of an action."""
    actions: tuple[tuple[float, ...], ...]
    """The task's discrete actions."""

    @classmethod
    def of(cls, distribution: Kind, dream: Dream) -> "Head":
        """The head for the actions of a dream. Raises `UserError` if the distribution is categorical and there are no
        discrete actions."""
        if distribution == "categorical" and not dream.actions:
            raise UserError("actor.distribution is 'categorical' but the task names no discrete actions; give its Task "
                            "`actions`, or choose another distribution")  # fmt: skip
        return cls(distribution, dream.model.action_size, dream.actions)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return len(self.actions) if self.distribution == "categorical" else 2 * self.action_size

    @property
    def drawn_size(self) -> int:
        """Numbers drawn per action."""
        return 1 if self.distribution == "categorical" else self.action_size

    def __call__(self, outputs: Array) -> Distribution:
        """The distribution with the parameters `outputs` [..., size]."""
        if self.distribution == "categorical":
            return Categorical(outputs, jnp.asarray(self.actions, jnp.float32))
        first, second = jnp.split(outputs, 2, axis=-1)
        if self.distribution == "beta":
            above = 1 + LEAST_EXCESS
            return Beta(above + jax.nn.softplus(first), above + jax.nn.softplus(second))
        if self.distribution == "bounded_normal":
            least, most = DEVIATIONS
            # A new network's deviation is near the largest.
            return BoundedNormal(jnp.tanh(first), least + (most - least) * jax.nn.sigmoid(second + 2))
        return SquashedNormal(first, NARROWEST + jax.nn.softplus(second))


@dataclass(frozen=True)
class HeadedPolicy(Policy):
    """A network whose outputs parameterise a distribution; its weights are those of the network."""

    network: Network
    head: Head

    @property
    def discrete(self) -> bool:
        """Whether it is categorical."""
        return self.head.distribution == "categorical"

    @property
    def drawn_size(self) -> int:
        """A, or 1 for categorical actions."""
        return self.head.drawn_size

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        return self.network.init(key)

    def distribution(self, params: Params, inputs: Array, noise: Array | float) -> Distribution:
        """The distribution for `inputs` [..., F]; its standard deviation comes from the network, not from `noise`."""
        return self.head(self.network.outputs(params, inputs))


@dataclass(frozen=True)
class NetworkPolicy(HeadedPolicy):
    """The actor described by `PolicyConfig`."""

    network: MLP

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it reads."""
        return self.network.features

    @property
    def words(self) -> str:
        """Description of the actor and its inputs."""
        return f"{self.network.words}, {self.head.distribution}"

    @property
    def critic(self) -> MLP:
        """The policy's network with a single output."""
        return MLP(self.network.reads, (*self.network.sizes[:-1], 1))

    def inputs(self, world: World, state: State) -> Array:
        """The features [..., F] of a state."""
        return self.network.inputs(world, state)
