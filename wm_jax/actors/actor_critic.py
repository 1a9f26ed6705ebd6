"""A policy that keeps its critic: what Dreamer deploys, and goes on with in the next round."""

from dataclasses import dataclass
from typing import Literal

from wm_jax.actors.policy import Kind, NetworkPolicy, PolicyConfig
from wm_jax.actors.protocol import ACTORS, WithCritic
from wm_jax.dream import Dream
from wm_jax.types import Action, Key, Params, State
from wm_jax.worlds import World


@ACTORS.register
@dataclass(frozen=True)
class ActorCriticConfig(PolicyConfig):
    """A policy as `actor.kind` policy has it, whose critic's weights stay with it: a search of a later round that begins
    with C (`rounds.warm_start`) goes on with both."""

    kind: Literal["actor_critic"] = "actor_critic"  # type: ignore[assignment]
    """The name of this part."""
    features: tuple[str, ...] = ("deterministic", "stochastic")
    """The world model's features that it reads, in this order."""
    distribution: Kind = "bounded_normal"

    def build(self, dream: Dream) -> "KeptCritic":  # type: ignore[override]
        """The policy for a world model. Raises `UserError` where it has no such feature, or the task names no actions."""
        return KeptCritic(super().build(dream))


@dataclass(frozen=True)
class KeptCritic(WithCritic):
    """What `ActorCriticConfig` describes. It acts by the policy's mode."""

    policy: NetworkPolicy

    @property
    def guide(self) -> NetworkPolicy:
        """The policy."""
        return self.policy

    @property
    def words(self) -> str:
        """What it is and what it reads."""
        return f"{self.policy.words}, with its critic"

    @property
    def features(self) -> tuple[str, ...]:
        """What it reads."""
        return self.policy.features

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The policy's mode."""
        return self.policy.act(params["policy"], world, state, carry, key)
