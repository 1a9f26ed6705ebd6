"""A policy that keeps its critic: what Dreamer deploys, and goes on with in the next round."""

from dataclasses import dataclass
from typing import Literal

import jax

from wm_jax.actors.policy import NetworkPolicy, PolicyConfig
from wm_jax.actors.protocol import ACTORS, Guided
from wm_jax.dream import Dream
from wm_jax.types import Action, Key, Params, State
from wm_jax.worlds import World


@ACTORS.register
@dataclass(frozen=True)
class ActorCriticConfig(PolicyConfig):
    """A policy as `actor.kind` policy has it, whose critic's weights stay with it: a search of a later round that begins
    with C (`rounds.warm_start`) goes on with both."""

    kind: Literal["actor_critic"] = "actor_critic"  # type: ignore[assignment]
    features: tuple[str, ...] = ("deterministic", "stochastic")
    """The world model's features that it reads, in this order."""

    def build(self, dream: Dream) -> "KeptCritic":  # type: ignore[override]
        """The policy for a world model. Raises `UserError` where it has no such feature, or the task names no actions."""
        return KeptCritic(super().build(dream))


@dataclass(frozen=True)
class KeptCritic(Guided):
    """What `ActorCriticConfig` describes. Its weights are {"policy", "critic"}; it acts by the policy's mode."""

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

    def assemble(self, policy: Params, critic: Params) -> Params:
        """Both."""
        return {"policy": policy, "critic": critic}

    def parts(self, params: Params) -> tuple[Params, Params]:
        """Both."""
        return params["policy"], params["critic"]

    def init(self, key: Key) -> Params:
        """Fresh weights."""
        policy_key, critic_key = jax.random.split(key)
        return self.assemble(self.policy.init(policy_key), self.policy.critic.init(critic_key))

    def act(self, params: Params, world: World, state: State, carry: None, key: Key) -> tuple[Action, None]:
        """The policy's mode."""
        return self.policy.act(params["policy"], world, state, carry, key)
