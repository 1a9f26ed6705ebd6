"""Settings of controllers, and their weights as one array; the controllers' interface is `worlds.protocol.Actor`.

A new actor is one file in this folder, or in a user's own file; `ACTORS.register` registers its settings
(docs/extending/).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from wm_jax.actors.distributions import Distribution
from wm_jax.dream import Dream
from wm_jax.registry import PartConfig, Registry
from wm_jax.types import Action, Array, Key, Params, State
from wm_jax.worlds import Actor, World

ACTORS: "Registry[type[ActorConfig]]" = Registry("actor.kind", "wm_jax.actors")


@dataclass(frozen=True)
class ActorConfig(PartConfig):
    """Base of an actor's settings."""

    registry: ClassVar[Registry[Any]] = ACTORS

    def build(self, dream: Dream) -> Actor:
        """The actor for the world model and the actions of a `dream`. Raises `UserError` if they do not fit."""
        raise NotImplementedError


class Network(Protocol):
    """A function from numbers to numbers with weights. Hashable."""

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        ...

    def outputs(self, params: Params, inputs: Array) -> Array:
        """Outputs for the inputs [..., F]."""
        ...


class Guided(Actor):
    """An actor with a policy whose weights actor-critic searches can find: the actor is that policy, or plans with its
    help."""

    @property
    @abstractmethod
    def guide(self) -> "Policy | None":
        """The policy; None if there is nothing to learn."""

    @property
    def discount(self) -> float | None:
        """Discount of the returns that its critic must predict; None: any."""
        return None

    @abstractmethod
    def assemble(self, policy: Params, critic: Params) -> Params:
        """The actor's weights from those of the policy and its critic."""

    @abstractmethod
    def parts(self, params: Params) -> tuple[Params, Params | None]:
        """The inverse: the weights of policy and critic; None for a critic that the actor does not keep."""


class Policy(Guided):
    """An actor that outputs a distribution. It acts by the mode."""

    needs_noise: ClassVar[bool] = False
    """Whether the search sets its standard deviation; otherwise the policy has its own."""

    @property
    def discrete(self) -> bool:
        """Whether it chooses among discrete actions, so that no gradient passes through a sample."""
        return False

    @property
    def guide(self) -> "Policy":
        """Itself."""
        return self

    def assemble(self, policy: Params, critic: Params) -> Params:
        """The critic's weights are dropped."""
        return policy

    def parts(self, params: Params) -> tuple[Params, None]:
        """The policy's weights are the actor's."""
        return params, None

    @property
    @abstractmethod
    def critic(self) -> Network:
        """A network with the same inputs and one output: (1 - gamma) times the discounted sum of future rewards, that
        is, the mean reward over the effective horizon."""

    @property
    @abstractmethod
    def drawn_size(self) -> int:
        """X: numbers drawn per action."""

    @abstractmethod
    def inputs(self, world: World, state: State) -> Array:
        """Inputs [..., F] of the policy and its critic from a state."""

    @abstractmethod
    def distribution(self, params: Params, inputs: Array, noise: Array | float) -> Distribution:
        """The distribution over actions for `inputs` [..., F]. `noise` [...]: standard deviation of a policy that
        `needs_noise`."""

    def value(self, critic: Params, inputs: Array) -> Array:
        """[...]: the critic's value of `inputs` [..., F]."""
        return self.critic.outputs(critic, inputs)[..., 0]

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The mode; the key is not used."""
        return self.distribution(params, self.inputs(world, state), 0.0).mode(), None

    def sample(self, params: Params, world: World, state: State, key: Key) -> Action:
        """A sampled action, for a policy with its own standard deviation."""
        distribution = self.distribution(params, self.inputs(world, state), 0.0)
        return distribution.action(distribution.draw(key))


class WithCritic(Guided):
    """An actor whose weights are {"policy", "critic"} of its guide; no weights without a guide."""

    def init(self, key: Key) -> Params:
        """Fresh weights of the guide, if there is one."""
        if self.guide is None:
            return {}
        policy_key, critic_key = jax.random.split(key)
        return self.assemble(self.guide.init(policy_key), self.guide.critic.init(critic_key))

    def assemble(self, policy: Params, critic: Params) -> Params:
        """Both networks' weights."""
        return {"policy": policy, "critic": critic}

    def parts(self, params: Params) -> tuple[Params, Params]:
        """Both networks' weights."""
        return params["policy"], params["critic"]


@struct.dataclass
class ExploringState:
    """State of a `ExploringActor` actor."""

    drawn: Array
    """[X]: the current sample."""
    left: Array
    """[] int32: steps left for which its action is held."""


@dataclass(frozen=True)
class ExploringActor(Actor):
    """A policy that samples its actions and holds each for `hold` steps, to learn from the results. Its weights are
    {"policy", "noise"}, with the noise of `Policy.distribution`."""

    policy: Policy
    hold: int

    def init(self, key: Key) -> Params:
        """Fresh weights and a noise of 0."""
        return {"policy": self.policy.init(key), "noise": jnp.float32(0)}

    def begin(self) -> ExploringState:
        """The state before the first sample."""
        return ExploringState(jnp.zeros(self.policy.drawn_size, jnp.float32), jnp.int32(0))

    def act(
        self, params: Params, world: World, state: State, carry: ExploringState, key: Key
    ) -> tuple[Action, ExploringState]:
        """The current action, or a new sample when its time is over."""
        distribution = self.policy.distribution(params["policy"], self.policy.inputs(world, state), params["noise"])
        due = carry.left == 0
        drawn = jnp.where(due, distribution.draw(key), carry.drawn)
        return distribution.action(drawn), ExploringState(drawn, jnp.where(due, self.hold, carry.left) - 1)


@cache
def shapes(actor: Actor | Network) -> Params:
    """The shapes of an actor's weights."""
    return jax.eval_shape(lambda: actor.init(jax.random.key(0)))


def size(actor: Actor | Network) -> int:
    """D: number of an actor's weights."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(actor)))


def flat(params: Params, axes: int = 0) -> Array:
    """Weights whose arrays share their first `axes` axes, as one array [..., D]: leaf by leaf, row by row."""
    parts = [leaf.reshape(*leaf.shape[:axes], -1) for leaf in jax.tree.leaves(params)]
    return jnp.concatenate(parts, axis=-1)


def unflat(like: Params, weights: Any) -> Params:
    """The inverse of `flat` for weights [..., D] of an actor with arrays shaped as in `like`."""
    leaves, tree = jax.tree.flatten(like)
    if not leaves:
        return like
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    numbers = np if isinstance(weights, np.ndarray) else jnp
    parts = numbers.split(weights, ends[:-1], axis=-1)
    shaped = [part.reshape(*weights.shape[:-1], *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)
