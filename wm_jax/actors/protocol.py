"""Controllers' settings, and their weights as one array. What a controller is says `worlds.protocol.Actor`.

A new actor is one file in this folder, or in a file of a user's own, whose settings are registered by `ACTORS.register`
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
        """The actor for the world model and the actions of a `dream`. Raises `UserError` where they do not go together."""
        raise NotImplementedError


class Network(Protocol):
    """Numbers in, numbers out; hashable."""

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        ...

    def outputs(self, params: Params, inputs: Array) -> Array:
        """What it puts out for the inputs [..., F]."""
        ...


class Guided(Actor):
    """An actor with a policy that actor-critic searches can find the weights of: it is one, or plans with the help of
    one."""

    @property
    @abstractmethod
    def guide(self) -> "Policy | None":
        """The policy; None where there is nothing to find."""

    @property
    def discount(self) -> float | None:
        """gamma of the sums that its critic is to tell; None: it does not count on them."""
        return None

    @abstractmethod
    def assemble(self, policy: Params, critic: Params) -> Params:
        """The actor's weights, of those of the policy and its critic."""

    @abstractmethod
    def parts(self, params: Params) -> tuple[Params, Params | None]:
        """The inverse: the weights of policy and critic; None where the actor has no critic."""


class Policy(Guided):
    """An actor that puts out a distribution. It acts by the mode."""

    needs_noise: ClassVar[bool] = False
    """Whether how much its draws differ is a matter of the search, and not of its own."""

    @property
    def discrete(self) -> bool:
        """Whether it chooses among discrete actions, so that no gradient passes a draw."""
        return False

    @property
    def guide(self) -> "Policy":
        """Itself."""
        return self

    def assemble(self, policy: Params, critic: Params) -> Params:
        """The critic is left behind."""
        return policy

    def parts(self, params: Params) -> tuple[Params, None]:
        """The policy's weights are the actor's."""
        return params, None

    @property
    @abstractmethod
    def critic(self) -> Network:
        """A network that reads the same, with one output: the discounted sum of the rewards to come times 1 - gamma, the
        mean reward as far as one can see."""

    @property
    @abstractmethod
    def drawn_size(self) -> int:
        """X: numbers that are drawn for an action."""

    @abstractmethod
    def inputs(self, world: World, state: State) -> Array:
        """What the policy and its critic read of a state: [..., F]."""

    @abstractmethod
    def distribution(self, params: Params, inputs: Array, noise: Array | float) -> Distribution:
        """What actions are drawn from on seeing `inputs` [..., F]. `noise` [...] is the standard deviation of a policy that
        `needs_noise`."""

    def value(self, critic: Params, inputs: Array) -> Array:
        """[...]: what the critic says of `inputs` [..., F]."""
        return self.critic.outputs(critic, inputs)[..., 0]

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The mode; the key is not used."""
        return self.distribution(params, self.inputs(world, state), 0.0).mode(), None


class WithCritic(Guided):
    """An actor whose weights are {"policy", "critic"} of its guide; none, where it has no guide."""

    def init(self, key: Key) -> Params:
        """Fresh weights of the guide, if there is one."""
        if self.guide is None:
            return {}
        policy_key, critic_key = jax.random.split(key)
        return self.assemble(self.guide.init(policy_key), self.guide.critic.init(critic_key))

    def assemble(self, policy: Params, critic: Params) -> Params:
        """Both."""
        return {"policy": policy, "critic": critic}

    def parts(self, params: Params) -> tuple[Params, Params]:
        """Both."""
        return params["policy"], params["critic"]


@struct.dataclass
class Try:
    """What a `Trying` actor is at."""

    drawn: Array
    """[X]: what it has drawn."""
    left: Array
    """[] int32: steps for which that is still done."""


@dataclass(frozen=True)
class Trying(Actor):
    """A policy that draws its actions, and keeps each for `hold` steps, to learn from what comes of them. Its weights are
    {"policy", "noise"}, the second as in `Policy.distribution`."""

    policy: Policy
    hold: int

    def init(self, key: Key) -> Params:
        """Fresh weights, and no noise."""
        return {"policy": self.policy.init(key), "noise": jnp.float32(0)}

    def begin(self) -> Try:
        """Nothing drawn."""
        return Try(jnp.zeros(self.policy.drawn_size, jnp.float32), jnp.int32(0))

    def act(self, params: Params, world: World, state: State, carry: Try, key: Key) -> tuple[Action, Try]:
        """A new action, where the last one's time is over."""
        distribution = self.policy.distribution(params["policy"], self.policy.inputs(world, state), params["noise"])
        due = carry.left == 0
        drawn = jnp.where(due, distribution.draw(key), carry.drawn)
        return distribution.action(drawn), Try(drawn, jnp.where(due, self.hold, carry.left) - 1)


@cache
def shapes(actor: Actor | Network) -> Params:
    """The shapes of an actor's weights."""
    return jax.eval_shape(lambda: actor.init(jax.random.key(0)))


def size(actor: Actor | Network) -> int:
    """D: number of an actor's weights."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(actor)))


def flat(params: Params, axes: int = 0) -> Array:
    """Weights whose arrays have so many leading axes in common as one array [..., D]: leaf by leaf, row by row."""
    parts = [leaf.reshape(*leaf.shape[:axes], -1) for leaf in jax.tree.leaves(params)]
    return jnp.concatenate(parts, axis=-1)


def unflat(like: Params, weights: Any) -> Params:
    """The inverse of `flat` for weights [..., D] of an actor whose arrays are as those of `like`."""
    leaves, tree = jax.tree.flatten(like)
    if not leaves:
        return like
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    numbers = np if isinstance(weights, np.ndarray) else jnp
    parts = numbers.split(weights, ends[:-1], axis=-1)
    shaped = [part.reshape(*weights.shape[:-1], *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)
